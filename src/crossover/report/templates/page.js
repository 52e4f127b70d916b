// Sort a table by a column: numbers by value (1,024 and 57.6 G are numbers), words by the alphabet, what is empty last.
const PREFIX = {k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18};
const number = text => {
  const found = text.replaceAll(",", "").match(/^[×+]?\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*([kMGTPE]?)/);
  return found ? found[1] * (PREFIX[found[2]] ?? 1) : NaN;
};
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) || a.localeCompare(b, "en", {numeric: true}) : x - y;
};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.querySelectorAll("th")];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map(row => [row.cells[column].textContent, row]);
    const empty = ([text]) => text === "" || text === "–";
    rows.sort((a, b) => empty(a) - empty(b) || (up ? compare(a[0], b[0]) : compare(b[0], a[0])));
    body.append(...rows.map(([, row]) => row));
  }));
}
// Filter the runs: every word must occur.
const words = document.getElementById("filter");
if (words) {
  const rows = [...document.querySelector("#runs table").tBodies[0].rows], shown = document.getElementById("shown");
  words.addEventListener("input", () => {
    const wanted = words.value.toLowerCase().split(/\s+/);
    rows.forEach(row => row.hidden = !wanted.every(word => row.textContent.toLowerCase().includes(word)));
    shown.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} runs`;
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => part.open = true));
