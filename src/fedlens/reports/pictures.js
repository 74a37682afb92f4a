{
  const kept = JSON.parse(document.getElementById("pictures").textContent);
  const place = (name) => document.getElementById(name);
  const plain = (html) => new DOMParser().parseFromString(html, "text/html").documentElement.textContent;

  const tile = (number) => {
    const { image, true: truth, predicted, confidence } = kept.pictures[number];
    const words = truth === predicted ? truth : `${truth}, taken for ${predicted}`;
    const box = document.createElement("div");
    const caption = document.createElement("span");
    caption.textContent = `${words} · ${(100 * confidence).toFixed(0)}\u00a0%`;
    box.append(Object.assign(new Image(), { src: image, alt: words }), caption);
    return box;
  };
  const fill = (name, numbers) => place(name).replaceChildren(...numbers.map(tile));
  const open = () => fill("cell", kept.cells[place("cells").value].numbers);

  for (const name of ["mistakes", "hits"]) {
    fill(name, kept[name]);
    if (!kept[name].length) place(name).textContent = "There are none.";
  }
  place("cells").addEventListener("change", open);
  open();

  // the matrix has the same names, as HTML
  addEventListener("drawn", () => place("confusion-matrix")?.on("plotly_click", ({ points: [cell] }) => {
    const [truth, predicted] = [plain(cell.y), plain(cell.x)];
    const found = kept.cells.findIndex((one) => one.true === truth && one.predicted === predicted);
    if (found < 0) {
      place("cell").textContent = `${truth} → ${predicted}: no picture of this cell is kept.`;
    } else {
      place("cells").value = found;
      open();
    }
    place("cell").closest("figure").scrollIntoView({ behavior: "smooth", block: "nearest" });
  }));
}
