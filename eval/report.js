"use strict";
// Columns sort on click, Enter or Space: the heading is a button. Empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") === "descending" ||
        (!head.hasAttribute("aria-sort") && column === 0);
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falls ? "ascending" : "descending");
      const sign = falls ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      const key = (row) => row.cells[column].dataset.key;
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const numbers = Number(x) - Number(y);
        return sign * (Number.isNaN(numbers) ? x.localeCompare(y) : numbers);
      });
      table.tBodies[0].append(...rows);
      document.getElementById("said").textContent =
        "sorted by " + head.textContent.trim() + (falls ? ", ascending" : ", descending");
    });
  });
}
