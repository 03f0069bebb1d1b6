"use strict";
// Tables that can be sorted by any column, with the keyboard too, and taken away.
(() => {
  const text = (cell) => (cell.querySelector("b") ?? cell).textContent.trim();
  // "1,234", "12%", "−0.5" and "3.4 s" are numbers; what is not a number comes last.
  const value = (cell) => {
    const found = text(cell).replaceAll(",", "").replace("−", "-").match(/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i);
    return found ? +found[0] : NaN;
  };
  const words = new Intl.Collator("en", { numeric: true });

  function sort(table, column, down) {
    const body = table.tBodies[0], rows = [...body.rows], numbers = rows.map((row) => value(row.cells[column]));
    const numeric = numbers.some((n) => !isNaN(n)) && rows.every((row, i) => !isNaN(numbers[i]) || /^[–∞]?$/.test(text(row.cells[column])));
    const order = rows.map((row, i) => [row, numbers[i], text(row.cells[column])]);
    order.sort((a, b) => {
      if (!numeric) return (down ? -1 : 1) * words.compare(a[2], b[2]);
      return isNaN(a[1]) - isNaN(b[1]) || (down ? b[1] - a[1] : a[1] - b[1]) || 0;
    });
    body.append(...order.map((entry) => entry[0]));
  }

  function save(table, name) {
    const line = (row) => [...row.cells].map((cell) => text(cell).replace(/\s+/g, " ")).join("\t");
    const blob = new Blob([[...table.rows].map(line).join("\n") + "\n"], { type: "text/tab-separated-values" }), link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name.replace(/[^\w.-]+/g, "-").slice(0, 60).replace(/^-+|-+$/g, "").toLowerCase() + ".tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  for (const table of document.querySelectorAll("main table")) {
    const heads = [...table.tHead.rows[0].cells], name = table.parentNode.dataset.name || "table";
    if (table.tBodies[0].rows.length > 1) heads.forEach((head, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.ariaSort ? head.ariaSort === "ascending" : head.classList.contains("n");
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(table, i, down);
      });
    });
    const take = document.createElement("button");
    take.type = "button";
    take.className = "take";
    take.textContent = "Download";
    take.setAttribute("aria-label", "Download the table: " + name);
    take.addEventListener("click", () => save(table, name));
    table.parentNode.after(take);
  }
})();
