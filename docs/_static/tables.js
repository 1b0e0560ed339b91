// Tables: sorted by a click on a heading; filtered inside of .filtered; cards on a phone (site.css) if they are wide.
const number = (text) => {
  const found = text.replaceAll(",", "").match(/-?\d+(\.\d+)?/);
  return found ? Number(found[0]) : NaN;
};

function sortable(table, heads) {
  heads.forEach((head, column) => {
    head.classList.add("sortable");
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [row, row.cells[column]?.textContent.trim() ?? ""]);
      rows.sort(([, a], [, b]) => {
        const [x, y] = [number(a), number(b)];
        const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
        return down ? -order : order;
      });
      body.append(...rows.map(([row]) => row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort();
    });
  });
}

function filters(table, heads) {
  const rows = [...table.tBodies[0].rows];
  const box = document.createElement("div");
  box.className = "filters";
  const chosen = new Map();
  const show = () => {
    for (const row of rows) {
      row.hidden = [...chosen].some(([column, value]) => value && !cell(row, column).includes(value));
    }
  };
  const cell = (row, column) => row.cells[column].textContent.split(",").map((part) => part.trim());
  heads.forEach((head, column) => {
    const values = [...new Set(rows.flatMap((row) => cell(row, column)))].filter(Boolean).sort();
    if (values.length < 2 || values.length > 8) return;
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.append(new Option("any", ""), ...values.map((value) => new Option(value, value)));
    select.addEventListener("change", () => {
      chosen.set(column, select.value);
      show();
    });
    label.append(`${head.textContent} `, select);
    box.append(label);
  });
  table.closest(".table-wrapper, .table-container")?.before(box) ?? table.before(box);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table")) {
    const heads = [...(table.tHead?.rows[0]?.cells ?? [])];
    if (!heads.length || !table.tBodies.length) continue;
    if (heads.length > 2 && heads.length < 10 && table.tBodies[0].rows.length <= 80) {
      table.classList.add("cards");
      for (const row of table.tBodies[0].rows) {
        [...row.cells].forEach((cell, column) => (cell.dataset.label = heads[column]?.textContent.trim() ?? ""));
      }
    }
    if (table.closest(".filtered")) filters(table, heads);
    if (table.tBodies[0].rows.length > 4) sortable(table, heads);
  }
});
