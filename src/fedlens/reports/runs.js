// Tables of runs are sorted by a click on a column; the field shows some runs only, in tables and plots.
{
  const tables = [...document.querySelectorAll("table.runs")];
  const bodies = (table) => [...table.rows].slice(1);
  const seconds = { h: 3600, min: 60, s: 1 };
  const value = (cell) => {
    const text = cell.textContent.replaceAll(",", "");
    const spans = [...text.matchAll(/(\d+(?:\.\d+)?) (h|min|s)\b/g)];
    if (spans.length) return spans.reduce((sum, [, number, unit]) => sum + number * seconds[unit], 0);
    return text === "–" ? -Infinity : parseFloat(text);
  };
  for (const table of tables) {
    [...table.rows[0].cells].forEach((head, column) => {
      let down = false;
      head.tabIndex = 0;
      head.title = "sort";
      const sort = () => {
        down = !down;
        const cell = (row) => row.cells[column];
        const order = bodies(table).sort((one, other) => {
          const [a, b] = [value(cell(one)), value(cell(other))];
          const words = cell(one).textContent.localeCompare(cell(other).textContent, undefined, { numeric: true });
          return (Number.isNaN(a) || Number.isNaN(b) ? -words : b - a) * (down ? 1 : -1);
        });
        for (const other of table.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        for (const row of order) table.tBodies[0].append(row);
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", ({ key }) => key === "Enter" && sort());
    });
  }

  const field = document.getElementById("filter");
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set();
    const hidden = new Set();
    for (const row of tables.flatMap(bodies)) {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      (row.hidden ? hidden : shown).add(row.cells[0].textContent);
    }
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      const named = plot.data.map((trace) => new DOMParser().parseFromString(trace.name ?? "", "text/html").body.textContent);
      const about = (names, name) => [...names].some((row) => name.endsWith(row.replace(/^…/, "")));
      Plotly.restyle(plot, { visible: named.map((name) => about(shown, name) || !about(hidden, name)) });
    }
  };
  field.addEventListener("input", show);
  addEventListener("drawn", () => field.value && show());
}
