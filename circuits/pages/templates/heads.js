// Heads as a grid of layers and heads, colored by what they are called or by one score; a card for one.
(function () {
  const { heads, layers, indices, names, kinds } = DATA.view;
  const show = document.getElementById("heads-show");
  const about = document.getElementById("heads-about");
  const called = [...new Set(names)].filter((name) => name !== "none");
  called.sort((a, b) => count(b) - count(a) || (a < b ? -1 : 1));
  function count(name) {
    return names.filter((one) => one === name).length;
  }
  fill(show, el("option", { value: "name" }, "what each head is called"),
    ...kinds.map(({ kind }, k) => el("option", { value: `value ${k}` }, `score: ${kind}`)),
    ...kinds.flatMap(({ kind, about: { behavior }, numbers }, k) => numbers.cost && kinds.findIndex((other) => other.about.behavior === behavior) === k
      ? [el("option", { value: `cost ${k}` }, `cost of ablating it: ${behavior || kind}`)] : []));
  let chosen = 0;

  const buttons = heads.map((name, i) => el("button", { type: "button", tabindex: i ? -1 : 0, onclick: () => choose(i) }));
  const across = [...new Set(indices)].sort((a, b) => a - b), down = [...new Set(layers)].sort((a, b) => a - b);
  const place = new Map(heads.map((_, i) => [`${layers[i]} ${indices[i]}`, buttons[i]]));
  fill(document.getElementById("heads-grid"), el("table", {},
    el("thead", {}, el("tr", {}, el("th", {}, "layer"), ...across.map((h) => el("th", { scope: "col" }, `head ${h}`)))),
    el("tbody", {}, ...down.map((l) => el("tr", {}, el("th", { scope: "row" }, String(l)),
      ...across.map((h) => el("td", {}, place.get(`${l} ${h}`) ?? null)))))));
  roving(buttons, () => across.length, choose);

  function hue(name) {
    const colors = palette().categories, at = called.indexOf(name);
    if (at < 0 || at >= colors.length - 1) return NOTHING;
    return [1, 3, 5].map((k) => parseInt(colors[at].slice(k, k + 2), 16));
  }
  function paint() {
    const [what, k] = show.value.split(" ");
    const scale = document.getElementById("heads-scale");
    if (what === "name") {
      fill(scale);
      about.textContent = `The name of a head is the kind whose score clearly exceeds its control; ${count("none")} of ${heads.length} heads have none.`;
      buttons.forEach((button, i) => dress(button, names[i], hue(names[i]), names[i] === "none", false));
      return;
    }
    const { kind, about: facts, numbers, clear, note } = kinds[k];
    const values = numbers[what], unit = what === "cost" ? facts.cost_unit : facts.unit;
    const most = Math.max(...values.map((x) => Math.abs(x ?? 0)), 1e-9);
    buttons.forEach((button, i) => {
      const color = values[i] === null ? NOTHING : diverging(values[i] / most);
      dress(button, number(values[i]), color, values[i] === null, what === "value" && clear[i]);
    });
    fill(scale, scaleBar((t) => diverging(2 * t - 1), number(-most), number(most), unit).box);
    about.textContent = note || (what === "cost"
      ? `By how much ablating the head makes ${facts.metric ? `the metric ${facts.metric}` : "it"} worse on the prompts ${facts.behavior}.`
      : `The score of ${kind}, in ${unit}; bold where it clearly exceeds its control.`);
  }
  function dress(button, text, color, empty, clear) {
    const i = buttons.indexOf(button);
    button.textContent = text;
    button.title = heads[i];
    button.setAttribute("aria-label", `${heads[i]}: ${text}`);
    button.classList.toggle("none", empty);
    button.classList.toggle("clear", clear);
    button.style.background = css(color);
    button.style.color = inkOn(color);
  }

  const range = ({ value, ci_low, ci_high, control }, i) => [value, ci_low, ci_high, control].map((column) => (column ? column[i] : null));
  const interval = (x, low, high) => (x === null ? "–" : number(x) + (low === null || low === undefined ? "" : ` [${number(low)}, ${number(high)}]`));
  // A bar from 0 with its interval, and a mark at the control; one scale for all heads.
  function track({ numbers }, i) {
    const [value, low, high, control] = range(numbers, i);
    if (value === null) return "–";
    const all = [...numbers.value, ...(numbers.ci_low ?? []), ...(numbers.ci_high ?? []), ...numbers.control, 0].filter((x) => x !== null);
    const [from, to] = [Math.min(...all), Math.max(...all)];
    const at = (x) => `${(100 * (x - from)) / (to - from || 1)}%`;
    const part = (kind, a, b) => {
      const node = el("div", { class: kind });
      node.style.left = at(Math.min(a, b));
      if (kind !== "control") node.style.width = `${(100 * Math.abs(b - a)) / (to - from || 1)}%`;
      return node;
    };
    return el("div", { class: "heads-track", "aria-hidden": "true" }, part(value < 0 ? "score low" : "score", 0, value),
      low === null ? null : part("interval", low, high), control === null ? null : part("control", control, control));
  }
  function choose(i) {
    chosen = i;
    buttons.forEach((button, j) => {
      button.setAttribute("aria-current", i === j);
      button.tabIndex = i === j ? 0 : -1;
    });
    const hasCosts = kinds.some((one) => one.numbers.cost);
    const rows = kinds.map((one) => {
      const [value, low, high, control] = range(one.numbers, i);
      const { cost, cost_low, cost_high } = one.numbers;
      const { unit, behavior, cost_unit } = one.about;
      return el("tr", { class: one.clear[i] ? "clear" : false, title: one.note || false },
        el("td", {}, one.kind + (one.clear[i] ? " ✓" : "")), el("td", {}, track(one, i)),
        el("td", {}, interval(value, low, high), " ", el("small", {}, unit)), el("td", { class: "number" }, number(control)),
        hasCosts ? el("td", {}, cost ? interval(cost[i], cost_low?.[i], cost_high?.[i]) : "–", " ", el("small", {}, !cost || cost[i] === null ? "" : `${cost_unit}, ${behavior}`)) : null);
    });
    const titles = ["kind", "", "score", "control", ...(hasCosts ? ["cost of ablating the head"] : [])];
    fill(document.getElementById("heads-card"),
      el("h2", {}, `${heads[i]}: ${names[i] === "none" ? "no clear kind" : names[i]}`),
      el("p", { class: "dim" }, "Scores with their 95 % intervals; the upright mark is the control. ✓: it exceeds the control clearly."),
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...titles.map((title) => el("th", {}, title)))), el("tbody", {}, ...rows))));
  }
  show.addEventListener("change", paint);
  repaint.push(paint);
  paint();
  const first = names.findIndex((name) => name !== "none");
  choose(first < 0 ? 0 : first);
})();
