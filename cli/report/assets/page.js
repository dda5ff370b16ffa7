"use strict";
/* The table of the page: sorting, filtering. Functions above take plain values, so that they can be tested without a
   browser; what touches the document is in `start`. */

/* Order of two cells: numbers by value, texts by language rules with numbers in them by value. Missing values last,
   whatever the direction. */
function compareCells(a, b, numeric, descending) {
  const missing = (value) => value === null || value === "";
  if (missing(a) || missing(b)) {
    return missing(a) - missing(b);
  }
  const order = numeric ? Number(a) - Number(b) : String(a).localeCompare(String(b), "en", { numeric: true });
  return descending ? -order : order;
}

/* Indices of the rows in their new order. Equal rows keep theirs. */
function sortedOrder(cells, numeric, descending) {
  return cells.map((_, index) => index).sort((a, b) => compareCells(cells[a], cells[b], numeric, descending) || a - b);
}

/* Whether a row is shown. row: {text, grid, loss, cost, front}; want: the same with words in place of text. */
function isShown(row, want) {
  const text = row.text.toLowerCase();
  const words = want.words.toLowerCase().split(/\s+/).filter((word) => word);
  const atMost = (value, limit) => limit === null || (value !== null && value <= limit);
  return words.every((word) => text.includes(word)) && (want.grid === "" || row.grid === want.grid) &&
    atMost(row.loss, want.loss) && atMost(row.cost, want.cost) && (!want.front || row.front);
}

function start(document) {
  const table = document.getElementById("groups"), body = table.tBodies[0];
  const headings = Array.from(table.tHead.rows[0].cells);
  const column = (name) => headings.findIndex((heading) => heading.textContent.startsWith(name));
  const cellValue = (row, index) => {
    const cell = row.cells[index];
    return headings[index].dataset.type === "number" ? cell.dataset.value ?? null : cell.textContent;
  };
  const cellNumber = (row, index) => {
    const value = cellValue(row, index);
    return value === null ? null : Number(value);
  };

  function sortBy(index) {
    const heading = headings[index];
    const descending = heading.getAttribute("aria-sort") === "ascending";
    const rows = Array.from(body.rows);
    const cells = rows.map((row) => cellValue(row, index));
    for (const other of headings) {
      other.removeAttribute("aria-sort");
    }
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...sortedOrder(cells, heading.dataset.type === "number", descending).map((i) => rows[i]));
  }
  headings.forEach((heading, index) => {
    const button = heading.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => sortBy(index));
  });

  const field = (name) => document.getElementById(name);
  const limit = (name) => (field(name).value === "" ? null : Number(field(name).value));
  const lossColumn = column("loss"), costColumn = column("predicted cost");
  function filter() {
    const want = { words: field("words").value, grid: field("grid").value, loss: limit("loss"), cost: limit("cost"),
      front: field("front").checked };
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !isShown({ text: row.textContent, grid: row.cells[0].textContent, loss: cellNumber(row, lossColumn),
        cost: cellNumber(row, costColumn), front: row.dataset.front === "yes" }, want);
      shown += !row.hidden;
    }
    field("shown").textContent = shown + " of " + body.rows.length + " groups";
  }
  const form = field("filters");
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter, 0));
  filter();

  const theme = field("theme"), root = document.documentElement;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
}

if (typeof document !== "undefined") {
  start(document);
} else if (typeof module !== "undefined") {
  module.exports = { compareCells, sortedOrder, isShown };
}
