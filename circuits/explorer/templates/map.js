// The map: layers from bottom to top, heads and the MLP of each, colored by one question about all.
// Pieces of `map`: {unit, meaning}; {kind: "layer", layer, heads, mlp (null: none), texts (a text a head, or null)}.
const mapPanel = (function () {
  const place = document.getElementById("x-map");
  const WHATS = {
    ablate: "what breaks without it", direct: "what it pushes directly", patch: "what patching it restores",
    looks: "where it looks", kind: "its kind",
  };
  const METHODS = { zero: "by zeros", mean: "by its mean", resample: "by the contrast's" };
  const choose = el("select", { id: "x-what", "aria-label": "what colors the map", onchange: () => { state.what = choose.value; keepState(); load(); } },
    ...Object.entries(WHATS).map(([value, text]) => el("option", { value }, text)));
  const how = el("select", { id: "x-method", "aria-label": "ablation method", onchange: () => { state.method = how.value; keepState(); load(); } },
    ...Object.entries(METHODS).map(([value, text]) => el("option", { value }, text)));
  const TERMS = { ablate: "ablation", direct: "direct effect", patch: "patching", looks: "attention", kind: "kind" };
  const about = el("span", { class: "dim" });
  const scale = el("span", {}), meaning = el("p", { class: "dim", id: "x-meaning", "aria-live": "polite" }), trouble = el("div", {});
  const grid = el("div", { class: "scroll", id: "x-grid" });
  let buttons = [], names = [], values = new Map(), texts = new Map(), unit = "logits", shown = null, across = 1;
  fill(place, el("h2", {}, "Map of the model"), el("div", { class: "bar" }, el("label", {}, "color by ", choose), how, about, scale), meaning, trouble, grid);

  // The grid is built once: the model stays.
  function build() {
    const heads = Array.from({ length: model.n_heads }, (_, h) => h);
    const rows = Array.from({ length: model.n_layers }, (_, l) => l).reverse();
    const row = (l) => [...heads.map((h) => `a${l}.h${h}`), ...(model.has_mlps ? [`m${l}`] : [])];
    across = row(0).length;
    names = rows.flatMap(row);
    buttons = names.map((name, i) => el("button", { type: "button", class: name[0] === "m" ? "cell waiting mlp" : "cell waiting", tabindex: i ? -1 : 0, "data-part": name,
      onclick: () => { stop(i); openPart(name); },
      onpointerenter: (event) => showTip(tell(name), event.clientX, event.clientY), onpointerleave: hideTip,
      onfocus: () => { stop(i); const box = buttons[i].getBoundingClientRect(); buttons[i].matches(":focus-visible") && showTip(tell(name), box.right - 8, box.bottom - 8); }, onblur: hideTip }));
    fill(grid, el("table", { class: across > 10 ? "x-grid many" : "x-grid" }, el("tbody", {}, ...rows.map((l, r) =>
      el("tr", {}, el("th", { scope: "row" }, el("span", { class: "unseen" }, "layer "), String(l)), ...buttons.slice(r * across, (r + 1) * across).map((button) => el("td", {}, button))))),
    el("tfoot", {}, el("tr", {}, el("th", {}, "layer"), ...heads.map((h) => el("th", { scope: "col" }, `h${h}`)), ...(model.has_mlps ? [el("th", { scope: "col" }, "MLP")] : [])))));
    roving(buttons, () => across, stop);
    select();
  }
  function stop(i) {
    buttons.forEach((button, j) => { button.tabIndex = i === j ? 0 : -1; });
  }
  const isSigned = () => state.what !== "looks" && state.what !== "kind";
  const exact = (x) => (x === null || x === undefined ? "not known" : Number(x.toPrecision(7)).toString().replaceAll("-", "−"));
  function tell(name) {
    const value = values.get(name), text = texts.get(name);
    const mark = circuitPanel.marks().get(name);
    const known = values.has(name) ? (state.what === "kind" ? text || "no clear kind" : isSigned() ? `${value > 0 ? "+" : ""}${exact(value)} ${unit}` : `${percent(value)}${text ? ` on ${text}` : ""} (${exact(value)})`) : "not there yet";
    return `${name}: ${known}\n${sense(value)}${mark ? `\n${mark}` : ""}`.trim();
  }
  // The sign in words, for whoever cannot tell the colors.
  function sense(value) {
    if (!value || !isSigned()) return "";
    if (state.what === "ablate") return value < 0 ? "without it the answer loses: it helps" : "without it the answer gains: it hinders";
    if (state.what === "direct") return value > 0 ? "it pushes toward the answer" : "it pushes toward the distractor";
    return value < 0 ? "the contrast's version takes away from the answer" : "the contrast's version adds to the answer";
  }
  function dress(name, i, most, mark) {
    const button = buttons[i], value = values.get(name), text = texts.get(name);
    let color = NOTHING, shown = "";
    if (values.has(name)) {
      color = state.what === "kind" ? kindColor(text) : isSigned() ? diverging(value === null ? null : value / most) : sequential(value);
      shown = state.what === "kind" ? text ?? "" : isSigned() ? brief(value) : value === null ? "" : String(Math.round(100 * value));
    }
    button.style.background = css(color);
    button.style.color = inkOn(color);
    fill(button, el("span", { class: "full" }, shown), el("span", { class: "brief", "aria-hidden": "true" }, state.what === "kind" ? shown.slice(0, 1) : isSigned() && value ? (value > 0 ? "+" : "−") : ""));
    button.setAttribute("aria-label", tell(name).replaceAll("\n", "; "));
    button.classList.toggle("waiting", !values.has(name));
    button.classList.toggle("in-circuit", mark.has(name));
    button.classList.toggle("not-in-circuit", mark.size > 0 && !mark.has(name));
    button.classList.toggle("edited", state.view.tray.some((edit) => edit.on && edit.part.split("@")[0] === name));
  }
  function brief(x) { // what fits into a cell; the tip has all of it
    if (x === null) return "";
    const digits = across > 10 || Math.abs(x) >= 10 ? 1 : 2;
    return Math.abs(x) < 0.5 * 10 ** -digits ? "0" : (x > 0 ? "+" : "−") + Math.abs(x).toFixed(digits);
  }
  const most = () => Math.max(...[...values.values()].map((x) => Math.abs(x ?? 0)), 1e-9);
  function kindColor(text) {
    const kinds = [...new Set([...texts.values()].filter(Boolean))].sort();
    const colors = palette().categories, at = kinds.indexOf(text);
    return at < 0 || at >= colors.length - 1 ? NOTHING : [1, 3, 5].map((k) => parseInt(colors[at].slice(k, k + 2), 16));
  }
  function paint() {
    if (!buttons.length) return;
    const top = most(), mark = circuitPanel.marks();
    names.forEach((name, i) => dress(name, i, top, mark));
    fill(scale, ...(values.size === 0 || state.what === "kind" ? [] : isSigned()
      ? [scaleBar((t) => diverging(2 * t - 1), number(-top, 2), `+${number(top, 2)}`, unit).box] : [scaleBar(sequential, "0", "100 %").box]));
  }
  repaint.push(paint);
  function select() {
    buttons.forEach((button, i) => button.setAttribute("aria-current", names[i] === state.part));
  }
  let frame = 0;
  function soon() { // at most one painting a frame, however fast pieces come
    frame ||= requestAnimationFrame(() => { frame = 0; paint(); });
  }
  function load() {
    choose.value = state.what;
    how.value = state.method;
    how.hidden = state.what !== "ablate";
    fill(about, "(", term(TERMS[state.what] ?? "ablation"), state.what === "ablate" ? ", " : null, state.what === "ablate" ? term(state.method) : null, ")");
    const same = keyOf(state.what, state.method);
    if (shown !== same) { values = new Map(); texts = new Map(); }
    shown = same;
    buttons.forEach((button) => button.classList.add("waiting"));
    const options = { what: state.what, ...(state.what === "ablate" ? { method: state.method } : {}) };
    return ask("map", "map", options, {
      begin() { values = new Map(); texts = new Map(); fill(trouble); },
      piece(piece) {
        if (piece.kind === "layer") {
          piece.heads.forEach((value, h) => put(`a${piece.layer}.h${h}`, value, piece.texts?.[h]));
          if (piece.mlp !== undefined) put(`m${piece.layer}`, piece.mlp, null);
        } else if (piece.meaning !== undefined) {
          unit = piece.unit ?? "";
          meaning.textContent = piece.meaning;
        } else if (piece.kind === "note") meaning.textContent = piece.text;
        soon();
      },
      fail(sentence) { values = new Map(); texts = new Map(); meaning.textContent = ""; fill(trouble, problem(sentence)); paint(); },
    }, () => model.n_layers);
  }
  function put(name, value, text) {
    if (!names.includes(name)) return;
    values.set(name, value);
    if (text) texts.set(name, text);
  }
  return { build, load, paint, select, names: () => names, focus: () => buttons[names.indexOf(state.part)]?.focus() };
})();
