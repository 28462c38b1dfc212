"use strict";
(() => {
  const table = document.getElementById("slides");
  const body = table.tBodies[0];
  const form = document.getElementById("filters");
  const search = document.getElementById("search");
  const sort = document.getElementById("sort");
  const descending = document.getElementById("descending");
  const eyes = document.getElementById("eyes");
  const count = document.getElementById("count");
  const collator = new Intl.Collator("en", { numeric: true });
  const heads = [...table.tHead.rows[0].cells];
  const tests = [...form.querySelectorAll("[data-column]")];
  const rows = [...body.rows].map((row, order) => ({
    row,
    order,
    text: row.textContent.toLowerCase(),
    urgent: row.cells[3].hasAttribute("data-v"),
    texts: [...row.cells].map((cell) => cell.textContent.trim()),
    values: [...row.cells].map((cell) => (cell.hasAttribute("data-v") ? Number(cell.dataset.v) : null)),
  }));
  const numeric = heads.map((_, column) => rows.some((one) => one.values[column] !== null));

  // What nobody knows comes last, whichever way the rest is sorted.
  const compare = (column, sign) => (a, b) => {
    if (column < 0) return sign * (a.order - b.order);
    const [x, y] = numeric[column] ? [a.values[column], b.values[column]] : [a.texts[column], b.texts[column]];
    const lacks = (value) => value === null || value === "";
    if (lacks(x) || lacks(y)) return lacks(x) - lacks(y) || a.order - b.order;
    return sign * (numeric[column] ? x - y : collator.compare(x, y)) || a.order - b.order;
  };

  const passes = (one, test) => {
    const column = Number(test.dataset.column);
    const wanted = test.value.trim();
    if (wanted === "") return true;
    const value = one.values[column];
    const text = one.texts[column];
    if (test.dataset.test === "least") return value !== null && value >= Number(wanted);
    if (test.dataset.test === "most") return value !== null && value <= Number(wanted);
    if (test.dataset.test === "is") return text === wanted || (wanted === "none" && value === null && column === 1);
    return text.toLowerCase().includes(wanted.toLowerCase());
  };

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const one of rows) {
      const fits =
        (!eyes.checked || one.urgent) &&
        words.every((word) => one.text.includes(word)) &&
        tests.every((test) => passes(one, test));
      one.row.hidden = !fits;
      shown += fits;
    }
    const all = rows.length.toLocaleString("en");
    count.textContent = `${shown.toLocaleString("en")} of ${all} slides`;
  };

  const order = () => {
    const column = Number(sort.value);
    const sign = descending.checked ? -1 : 1;
    body.append(...[...rows].sort(compare(column, sign)).map((one) => one.row));
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      descending.checked = Number(sort.value) === column ? !descending.checked : false;
      sort.value = String(column);
      order();
    });
    head.replaceChildren(button);
  });

  let waiting = 0;
  form.addEventListener("input", (event) => {
    if (event.target === sort || event.target === descending) {
      order();
      return;
    }
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { filter(); order(); }));

  // A link to a slide that a filter hides shows it again.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#slide-']");
    const row = link && document.getElementById(link.getAttribute("href").slice(1));
    if (row && row.hidden) row.hidden = false;
  });

  form.hidden = false;
})();
