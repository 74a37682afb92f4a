// plotly.js lies in the page compressed. The plots are drawn when everything has its place, so that each fills its own.
addEventListener("load", async () => {
  const plots = [...document.querySelectorAll("script.figure")];
  if (!("DecompressionStream" in window)) {
    for (const plot of plots) plot.previousElementSibling.textContent = "Plots need a browser of 2023 or later.";
    return;
  }
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
  for (const plot of plots) {
    const { data, layout } = JSON.parse(plot.textContent);
    await Plotly.newPlot(plot.previousElementSibling, data, layout, { displayModeBar: false, responsive: true });
  }
  dispatchEvent(new Event("drawn"));
});
