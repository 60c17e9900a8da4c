// The result's table: sorted by a click on a column's name, searched, a page of rows at a time.
(function () {
  const place = document.getElementById("table");
  if (!place) return;
  const { columns, rows: values, n_rows } = DATA.table;
  const PAGE = 50;
  const n = values.length ? values[0].length : 0;
  let order = Array.from({ length: n }, (_, i) => i), shown = order, first = 0;
  let by = null, down = false;

  const text = (column, i) => {
    const value = values[column][i];
    if (value === null) return "–";
    if (columns[column].kind === "number") return number(value);
    return columns[column].kind === "text" ? plainly(String(value)) : String(value);
  };
  const heads = columns.map(({ name, meaning, kind }, k) => el("th", { class: kind, scope: "col" },
    el("button", { type: "button", title: meaning || false, class: meaning ? "explained" : false, onclick: () => sort(k) }, name)));
  const body = el("tbody");
  const note = el("span", { class: "dim", role: "status" });
  const back = el("button", { type: "button", onclick: () => turn(-PAGE) }, "← previous rows");
  const on = el("button", { type: "button", onclick: () => turn(PAGE) }, "next rows →");
  const search = el("input", { type: "search", placeholder: "find in the rows", "aria-label": "find in the rows", oninput: find });

  function sort(k) {
    down = by === k ? !down : columns[k].kind === "number";
    by = k;
    const column = values[k], sign = down ? -1 : 1;
    order.sort((i, j) => {
      const [a, b] = [column[i], column[j]];
      if (a === null || b === null) return (a === null) - (b === null) || i - j; // missing ones last
      const numbers = typeof a === "number" && typeof b === "number";
      return sign * (numbers ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0) || i - j;
    });
    heads.forEach((head, i) => {
      if (i === k) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.firstChild.textContent = columns[i].name + (i === k ? (down ? " ▾" : " ▴") : "");
    });
    find();
  }
  function find() {
    const wanted = search.value.toLowerCase();
    shown = wanted ? order.filter((i) => columns.some((_, k) => text(k, i).toLowerCase().includes(wanted))) : order;
    first = 0;
    paint();
  }
  function turn(step) {
    first += step;
    paint();
  }
  function paint() {
    const page = shown.slice(first, first + PAGE);
    fill(body, ...page.map((i) => el("tr", {}, ...columns.map(({ kind }, k) => {
      const content = text(k, i);
      return el("td", { class: kind === "text" && content.length > 40 ? "long" : kind, title: content.length > 40 ? content : false }, content);
    }))));
    back.disabled = first === 0;
    on.disabled = first + PAGE >= shown.length;
    back.hidden = on.hidden = shown.length <= PAGE;
    const range = shown.length ? `${first + 1}–${first + page.length} of ${shown.length} rows` : "no rows";
    note.textContent = range + (n < n_rows ? `; the page holds the first ${n} of ${n_rows}, --csv gives all` : "");
  }
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body);
  fill(place, el("div", { class: "bar" }, search, back, on, note), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" }, table));
  paint();
})();
