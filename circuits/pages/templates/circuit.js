// A circuit: its layers from bottom to top. A slider adds and takes edges; each edge and node tells what is known of it.
(function () {
  const { nodes, parts, ends, slots, curves, scores, intervals, kept, orders, classes, metric, unit, level, n_all, patterns, faithful, faithful_on } = DATA.view;
  const X = 44, Y = 46, LEFT = 100, TOP = 30, BOTTOM = 44, RIGHT = 52;
  const get = (id) => document.getElementById(`circ-${id}`);
  const n = parts.length, n_kept = kept.filter(Boolean).length, what = level === "parts" ? "parts" : level;
  const count = (k) => k.toLocaleString("en");
  const largest = Math.max(...scores.map((s) => Math.abs(s ?? 0))) || 1;
  const isScored = scores.some((s) => s !== null);
  const sign = (i) => (scores[i] === null ? "unknown" : scores[i] >= 0 ? "up" : "down");
  const isPale = (i) => intervals[0][i] !== null && intervals[0][i] <= 0 && intervals[1][i] >= 0;
  const places = {}; // of each part in each order
  for (const [name, order] of Object.entries(orders)) {
    places[name] = new Array(n);
    order.forEach((i, k) => { places[name][i] = k; });
  }

  const namespace = get("drawing").firstElementChild.namespaceURI;
  function svg(tag, attributes = {}, ...children) {
    const node = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  const x = (a) => Math.round(10 * (LEFT + a * X)) / 10;
  const y = (b) => Math.round(10 * (TOP + (DATA.view.height - b) * Y)) / 10;
  const cubic = (c) => `M${x(c[0])} ${y(c[1])}C${x(c[2])} ${y(c[3])} ${x(c[4])} ${y(c[5])} ${x(c[6])} ${y(c[7])}`;
  const share = (i) => Math.abs(scores[i] ?? 0) / largest; // of the largest score
  const ring = (i) => (scores[i] === null ? 1.1 : 0.8 + 5 * share(i));

  // What is known of a part, and of where it goes.
  const range = (i) => (intervals[0][i] === null ? "" : `, 95 % interval [${number(intervals[0][i])}, ${number(intervals[1][i])}]`);
  const score = (i) => (scores[i] === null ? "no score" : `${number(scores[i])}${unit ? ` ${unit}` : ""}${range(i)}`);
  const rank = (i) => (scores[i] === null ? "" : `, number ${count(places.absolute[i] + 1)} by size`);
  const tell = (i) => `${parts[i]}\n${score(i)}\n${kept[i] ? "in the circuit" : "not in the circuit"}${rank(i)}`;
  const about = (k) => {
    const { name, column, of } = nodes[k];
    return name + (column ? ` at ${column}` : "") + (of ? `: ${of}` : "");
  };
  // A head is one, wherever it stands: it reads at one position and writes at another.
  const twins = (k) => nodes.map((_, j) => j).filter((j) => j === k || (nodes[k].kind === "head" && nodes[j].name === nodes[k].name));

  // The drawing. Small edges lie below large ones.
  const edges = parts.map((name, i) => curves[i] === null ? null
    : svg("g", { class: `circ-edge ${sign(i)} ${slots[i] ?? ""}${isPale(i) ? " pale" : ""}`, role: "button", tabindex: -1, "aria-label": tell(i).replaceAll("\n", ", "), "data-part": i },
      svg("path", { class: "hit", d: cubic(curves[i]) }),
      svg("path", { class: "ink", d: cubic(curves[i]), style: `--share:${share(i).toFixed(3)}` })));
  const own = nodes.map(() => null); // the part that a node is, where parts are no edges
  ends.forEach((at, i) => { if (curves[i] === null) own[at[0]] = i; });
  const dots = nodes.map(({ short, kind, at: [a, b] }, k) => {
    const isEnd = kind === "embed" || kind === "logits", i = own[k];
    const body = isEnd ? svg("rect", { class: "body", x: x(a) - 24, y: y(b) - 10, width: 48, height: 20, rx: 6 })
      : kind === "head" ? svg("circle", { class: "body", cx: x(a), cy: y(b), r: 14 })
        : svg("rect", { class: "body", x: x(a) - 13, y: y(b) - 13, width: 26, height: 26, rx: 2 });
    return svg("g", { class: `circ-node${isEnd ? " end" : ""}${i !== null && scores[i] !== null ? ` scored ${sign(i)}${isPale(i) ? " pale" : ""}` : ""}`, role: "button", tabindex: k ? -1 : 0,
      style: i === null ? null : `--width:${ring(i).toFixed(2)}px`, "aria-label": about(k) + (i === null ? "" : `, ${score(i)}`), "data-node": k },
      body, svg("text", { class: short.length > 4 && !isEnd ? "long" : null, x: x(a), y: y(b) + 0.5, "aria-hidden": "true" }, short));
  });
  const moves = DATA.view.moves.map(([, , ...c]) => svg("path", { class: "move", d: cubic(c) }));
  const wide = x(DATA.view.width) + RIGHT, high = y(0) + BOTTOM;
  const columns = DATA.view.columns, hasColumns = columns.length > 1 || columns[0][0] !== "";
  const drawing = svg("svg", { width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, role: "group", "aria-label": "the circuit: arrow keys go from edge to edge and from node to node" },
    ...DATA.view.bands.flatMap(([a, b], l) => l % 2 ? [] : [svg("rect", { class: "band", x: 0, y: y(b), width: wide, height: y(a) - y(b) })]),
    ...DATA.view.rows.map(([name, a, b]) => svg("text", { class: "name", x: 4, y: y((a + b) / 2) }, name)),
    ...columns.slice(1).map(([, low], c) => svg("line", { class: "wall", x1: x((low + columns[c][2]) / 2), x2: x((low + columns[c][2]) / 2), y1: 0, y2: high })),
    ...(hasColumns ? columns.map(([name, low, up]) => svg("text", { x: x((low + up) / 2), y: high - 10 }, name || "all positions")) : []),
    ...moves, ...[...orders.absolute].reverse().map((i) => edges[i]), ...dots);
  fill(get("drawing"), drawing);
  document.querySelector(".circ-halves").classList.toggle("wide", wide > 760);
  get("fit").hidden = wide <= get("drawing").clientWidth;
  get("fit").addEventListener("click", () => get("fit").setAttribute("aria-pressed", get("drawing").classList.toggle("fit")));

  // Which are shown: the first of an order, less what the filters leave out.
  const slider = get("size"), order = get("order"), only = get("kept");
  const filters = { sign: get("sign"), slot: get("slot"), from: get("from"), to: get("to") };
  const wanted = new Set(); // classes
  let sizes = [], shown = [], isShown = [], chosen = null, current = null;
  const curve = () => faithful[order.value] ?? [];
  const candidates = () => orders[order.value].filter((i) => !only.checked || kept[i]);
  const isFirst = (name) => { // is the circuit just the first of this order?
    return orders[name].slice(0, n_kept).every((i) => kept[i]);
  };
  function measure(size) { // the sizes that the slider has: each small one, fewer large ones
    const most = candidates().length, all = new Set([most]);
    for (let k = 1; k < most; k = Math.max(k + 1, Math.round(k * 1.03))) all.add(k);
    if (!only.checked) for (const [edges] of curve()) if (edges <= most && edges > 0) all.add(edges);
    if (n_kept && n_kept <= most) all.add(n_kept);
    sizes = [...all].sort((a, b) => a - b);
    slider.max = sizes.length - 1;
    slider.value = sizes.findLastIndex((k) => k <= size);
  }
  const size = () => sizes[slider.value];
  function passes(i) {
    const at = ends[i].map((k) => nodes[k]);
    if (filters.sign.value && sign(i) !== filters.sign.value) return false;
    if (filters.slot.value && (slots[i] ?? "none") !== filters.slot.value) return false;
    if (wanted.size && !at.some(({ of }) => wanted.has(of))) return false;
    const [from, to] = [Number(filters.from.value), Number(filters.to.value)];
    const isAll = from === 0 && to === DATA.view.rows.length - 1;
    return isAll || at.some(({ layer }) => layer !== null && layer >= from && layer <= to);
  }
  function update() {
    const first = candidates().slice(0, size());
    shown = first.filter(passes);
    isShown = new Array(n).fill(false);
    for (const i of shown) isShown[i] = true;
    const used = new Set(shown.flatMap((i) => ends[i]));
    edges.forEach((edge, i) => edge && edge.toggleAttribute("hidden", !isShown[i]));
    dots.forEach((dot, k) => dot.classList.toggle("unused", !used.has(k)));
    moves.forEach((move, m) => {
      const [a, b] = DATA.view.moves[m]; // shown between neighbors only
      move.toggleAttribute("hidden", !used.has(a) || !used.has(b) || twins(a).some((k) => k > a && k < b && used.has(k)));
    });
    // Of many, small ones are fainter, and all are thinner where most are large.
    drawing.style.setProperty("--many", Math.min(1, Math.sqrt(150 / Math.max(shown.length, 1))).toFixed(2));
    drawing.style.setProperty("--scale", Math.min(1, 60 / Math.max(shown.reduce((sum, i) => sum + share(i), 0), 1)).toFixed(2));
    const hidden = first.length - shown.length;
    const text = `${count(first.length)} of ${count(n_all)} ${what}${hidden ? `, ${hidden} filtered out` : ""}`;
    get("shown").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    if (current === null || !isShown[current]) stop(shown.find((i) => edges[i]) ?? null);
    paintCurve();
    highlight(chosen);
  }

  // How faithful circuits of these sizes are; only where they were chosen as the slider chooses.
  const faith = el("p", { id: "circ-faith", role: "status" });
  const chart = svg("svg", { viewBox: "0 0 380 130", "aria-hidden": "true" });
  if (Object.keys(faithful).length) fill(get("curve"), chart, faith, el("p", { class: "note" }, faithful_on));
  const value = ([, F, low, up]) => `F = ${number(F, 2)}${low === null ? "" : ` [${number(low, 2)}, ${number(up, 2)}]`}`;
  function paintCurve() {
    if (!curve().length) {
      fill(chart);
      faith.textContent = "Faithfulness F was not measured for this order.";
      return;
    }
    const points = curve().filter(([edges, F]) => edges > 0 && F !== null);
    const all = points.flatMap(([, ...values]) => values.filter((v) => v !== null));
    const [bottom, top] = [Math.min(0, ...all), Math.max(1, ...all)];
    const last = Math.log(Math.max(...points.map(([edges]) => edges), 2));
    const across = (k) => 34 + 336 * Math.log(k) / last, up = (v) => 108 - 98 * (v - bottom) / (top - bottom);
    const holds = !only.checked || isFirst(order.value);
    const at = points.findIndex(([edges]) => edges === size());
    const band = points.filter(([, , low]) => low !== null);
    const path = (list, pick) => list.map((p) => `${across(p[0]).toFixed(1)} ${up(pick(p)).toFixed(1)}`).join("L");
    fill(chart,
      ...[0, 1].map((v) => svg("line", { class: "grid", x1: 34, x2: 370, y1: up(v), y2: up(v) })),
      ...[0, 1].map((v) => svg("text", { x: 22, y: up(v) + 3 }, String(v))), svg("text", { x: 4, y: up(0.5) + 3 }, "F"),
      svg("text", { x: 34, y: 125 }, "1"), svg("text", { x: 370, y: 125, "text-anchor": "end" }, `${count(Math.max(...points.map(([edges]) => edges)))} ${what}`),
      band.length > 1 ? svg("path", { class: "range", d: `M${path(band, (p) => p[2])}L${path([...band].reverse(), (p) => p[3])}Z` }) : null,
      svg("path", { class: "line", d: `M${path(points, (p) => p[1])}` }),
      ...points.map((p, k) => svg("circle", { class: `dot${holds && k === at ? " now-at" : ""}`, cx: across(p[0]), cy: up(p[1]), r: holds && k === at ? 4.5 : 2.5 })),
      holds ? svg("line", { class: "now", x1: across(size()), x2: across(size()), y1: 6, y2: 108 }) : null);
    const below = points.findLast(([edges]) => edges < size()), above = points.find(([edges]) => edges > size());
    faith.textContent = !holds ? `Faithfulness F was measured for the largest ${what} by ${names[order.value]}, not for these.`
      : at >= 0 ? `Faithfulness ${value(points[at])} with ${count(points[at][0])} ${what}.`
        : `Faithfulness here was not measured: ${[below, above].filter(Boolean).map((p) => `${value(p)} with ${count(p[0])}`).join(", ")}.`;
  }

  // Pointing, and going from edge to edge and from node to node by keys.
  function stop(i) { // the edge that Tab comes to
    if (current !== null) edges[current]?.setAttribute("tabindex", -1);
    current = i;
    if (i !== null) edges[i]?.setAttribute("tabindex", 0);
  }
  const of = (event, kind) => {
    const node = event.target.closest?.(`[data-${kind}]`);
    return node ? Number(node.getAttribute(`data-${kind}`)) : null;
  };
  const middle = (node) => {
    const box = node.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  function point(event, where) {
    const i = of(event, "part"), k = of(event, "node");
    edges.forEach((edge, j) => edge?.classList.toggle("lit", j === i || (k !== null && isShown[j] && ends[j].includes(k))));
    dots.forEach((dot, j) => dot.classList.toggle("lit", i !== null && ends[i].includes(j)));
    if (i !== null) showTip(tell(i), ...(where ?? middle(edges[i])));
    else if (k !== null) showTip(about(k) + (own[k] === null ? "" : `\n${score(own[k])}`), ...(where ?? middle(dots[k])));
    else hideTip();
  }
  drawing.addEventListener("pointermove", (event) => point(event, [event.clientX, event.clientY]));
  drawing.addEventListener("pointerleave", (event) => point({ target: document.body }));
  drawing.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && point(event));
  drawing.addEventListener("focusout", () => point({ target: document.body }));
  drawing.addEventListener("click", (event) => choose(of(event, "part") !== null ? { part: of(event, "part") } : of(event, "node") !== null ? { node: of(event, "node") } : null));
  drawing.addEventListener("keydown", (event) => {
    const i = of(event, "part"), k = of(event, "node");
    if (event.key === "Escape") return choose(null);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return choose(i !== null ? { part: i } : { node: k });
    }
    const list = i !== null ? shown.filter((j) => edges[j]) : dots.map((_, j) => j).filter((j) => !dots[j].classList.contains("unused"));
    const here = list.indexOf(i ?? k), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? list.length - 1 : step === undefined ? null : here + (i === null && event.key.match(/Up|Down/) ? -step : step);
    if (to === null) return;
    event.preventDefault();
    event.stopPropagation();
    if (to < 0 || to >= list.length) return;
    if (i !== null) stop(list[to]);
    else dots.forEach((dot, j) => dot.setAttribute("tabindex", j === list[to] ? 0 : -1));
    (i !== null ? edges : dots)[list[to]].focus();
  });

  // The card of what was chosen.
  function highlight(pick) {
    const those = pick?.node === undefined ? [] : twins(pick.node);
    edges.forEach((edge, i) => {
      edge?.classList.toggle("chosen", pick?.part === i);
      edge?.classList.toggle("dim", pick !== null && pick.part !== i && !ends[i].some((k) => those.includes(k)));
    });
    dots.forEach((dot, k) => dot.classList.toggle("chosen", those.includes(k)));
  }
  const link = (k) => el("button", { type: "button", onclick: () => choose({ node: k }) }, about(k));
  function choose(pick) {
    chosen = pick;
    highlight(pick);
    if (pick === null) {
      fill(get("card"), el("p", { class: "dim" }, `Point at an edge for its score. Click one, or a node, or go there with Tab and the arrow keys and press Enter, to see more of it here${patterns.length ? ": of a head, where it looks" : ""}. Escape lets go.`));
    } else if (pick.part !== undefined) {
      const i = pick.part, [from, to] = ends[i];
      fill(get("card"), el("h2", {}, parts[i]), el("dl", {}, el("dt", {}, "from"), el("dd", {}, link(from)),
        ...(to === undefined ? [] : [el("dt", {}, "to"), el("dd", {}, link(to), slots[i] ? ` its ${{ q: "query", k: "key", v: "value" }[slots[i]]}` : "")]),
        el("dt", {}, "corrupting it"), el("dd", {}, scores[i] === null ? "no score" : `changes ${metric} by ${score(i)}`),
        el("dt", {}, "place"), el("dd", {}, Object.keys(orders).map((name) => `${count(places[name][i] + 1)} by ${names[name]}`).join(", ")),
        el("dt", {}, "in the circuit"), el("dd", {}, kept[i] ? "yes" : "no")));
    } else {
      const k = pick.node, those = twins(k);
      fill(get("card"), el("h2", {}, about(k)), ...those.map((j) => own[j] === null ? null : el("p", {}, `${those.length > 1 ? `at ${nodes[j].column}: ` : ""}${score(own[j])}`)),
        list("reads", shown.filter((j) => those.includes(ends[j][1])), (j) => ends[j][0]), list("is read by", shown.filter((j) => curves[j] && those.includes(ends[j][0])), (j) => ends[j][1]),
        nodes[k].kind === "head" ? looks(nodes[k].name) : null);
    }
  }
  function list(title, those, other) {
    if (!those.length) return null;
    const [first, more] = [those.slice(0, 8), those.length - 8];
    return el("div", {}, el("h3", {}, `${title} (${those.length} shown)`), el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, ...first.map((j) =>
      el("tr", {}, el("td", {}, link(other(j)), slots[j] ? ` → ${slots[j]}` : ""), el("td", { class: "number" }, scores[j] === null ? "" : number(scores[j])),
        el("td", { class: "number dim" }, intervals[0][j] === null ? "" : `[${number(intervals[0][j])}, ${number(intervals[1][j])}]`)))))),
      more > 0 ? el("p", { class: "dim" }, `and ${count(more)} more`) : null);
  }
  let prompt = 0;
  function looks(name) {
    if (!patterns.length) return null;
    const words = (tokens) => plainly(tokens.join(""), 60);
    const box = el("div", {});
    const select = el("select", { "aria-label": "prompt", onchange: () => { prompt = select.selectedIndex; draw(); } },
      ...patterns.map(({ tokens }, p) => el("option", { value: p, selected: p === prompt }, `${p + 1}: ${words(tokens)}`)));
    select.style.maxWidth = "100%";
    function draw() {
      const { tokens, heads } = patterns[prompt], h = heads.indexOf(name);
      if (h < 0) return fill(box, el("p", { class: "dim" }, `Where ${name} looks on this prompt is not in this page.`));
      const all = attentionSquares(patterns[prompt])(h);
      fill(box, attentionSquare({ tokens, all, name, within: 280, largest: 16, least: 3, named: 32 }).box);
    }
    draw();
    return el("div", {}, el("h3", {}, "where it looks"), el("p", { class: "dim" }, "From a token (down) to itself and those before it (across); dark is all of its attention."), select, box);
  }

  // Controls and legend.
  const names = { absolute: "size of the score", signed: `support of ${metric}` };
  const options = (select, pairs) => fill(select, ...pairs.map(([value, text]) => el("option", { value }, text)));
  options(order, Object.keys(orders).map((name) => [name, names[name]]));
  options(filters.sign, [["", "both"], ["up", `raises ${metric}`], ["down", `lowers ${metric}`]]);
  options(filters.slot, [["", "anything"], ["q", "queries"], ["k", "keys"], ["v", "values"], ["none", "MLPs and logits"]]);
  const layers = DATA.view.rows.map((_, l) => [l, String(l)]);
  options(filters.from, layers);
  options(filters.to, layers);
  filters.to.value = layers.length - 1;
  Object.values(filters).forEach((filter) => filter.addEventListener("change", update));
  const swatches = classes.map((name) => el("button", { type: "button", "aria-pressed": "false", onclick: () => {
    if (!wanted.delete(name)) wanted.add(name);
    swatches.forEach((button, c) => button.setAttribute("aria-pressed", wanted.has(classes[c])));
    update();
  } }, el("i", { "aria-hidden": "true" }), name));
  fill(get("classes"), ...swatches);
  get("classes").hidden = !classes.length;
  get("all").addEventListener("click", () => {
    wanted.clear();
    swatches.forEach((button) => button.setAttribute("aria-pressed", "false"));
    filters.sign.value = filters.slot.value = "";
    filters.from.value = 0;
    filters.to.value = layers.length - 1;
    update();
  });
  const key = (attributes, text) => el("span", {}, svg("svg", { width: 34, height: 10, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 34, y1: 5, y2: 5, ...attributes })), text);
  const has = (kind) => parts.some((_, i) => sign(i) === kind);
  fill(get("legend"),
    has("up") ? key({ class: "up", "stroke-width": 4 }, `corrupting it raises ${metric}`) : null,
    has("down") ? key({ class: "down", "stroke-width": 4 }, `corrupting it lowers ${metric}`) : null,
    parts.some((_, i) => isPale(i)) ? key({ "stroke-width": 4, "stroke-opacity": 0.35 }, "the interval contains 0") : null,
    ...[["q", "into a query", "6 2"], ["k", "into a key", "1.5 1.5"], ["v", "into a value", null]].filter(([slot]) => slots.includes(slot))
      .map(([, text, dashes]) => key({ "stroke-width": 1.5, "stroke-dasharray": dashes }, text)),
    moves.length ? key({ "stroke-width": 1, "stroke-dasharray": "6 2 1.5 2" }, "one head at two positions") : null,
    n < DATA.table.n_rows ? el("span", {}, `This page holds ${count(n)} of ${count(n_all)} ${what}: those in the circuit, then the largest.`) : null,
    curves.every((c) => c === null) ? el("span", {}, "The circuit has every edge between these.") : null);
  function paint() {
    const colors = palette().categories;
    const dress = (node, name) => {
      const color = colors[classes.indexOf(name)] ?? "var(--dim)";
      node.style.fill = node.style.background = `color-mix(in srgb, ${color} 35%, var(--paper))`;
      node.style.stroke = node.style.borderColor = color;
    };
    swatches.forEach((button, c) => dress(button.firstChild, classes[c]));
    dots.forEach((dot, k) => nodes[k].of && dress(dot.firstChild, nodes[k].of));
    if (chosen?.node !== undefined) choose(chosen);
  }
  repaint.push(paint);

  const start = Object.keys(orders).find(isFirst);
  if (start) order.value = start;
  only.checked = n_kept > 0 && !start;
  get("size-bar").classList.toggle("fixed", !isScored);
  slider.parentElement.hidden = !isScored || n < 2;
  get("order-label").hidden = !isScored || Object.keys(orders).length < 2;
  filters.sign.parentElement.hidden = !isScored;
  filters.slot.parentElement.hidden = !edges.some((edge) => edge);
  get("filters").open = innerWidth > 640;
  get("kept-label").hidden = n_kept === 0 || n_kept === n;
  measure(n_kept || n);
  slider.addEventListener("input", update);
  order.addEventListener("change", () => { measure(size()); update(); });
  only.addEventListener("change", () => { const before = size(); measure(only.checked ? Math.min(before, n_kept) : before); update(); });
  paint();
  choose(null);
  update();
})();
