// The panel of a part: of a head, where it looks, why, what it writes, what it listens to, its card.
const attentionOf = (function () {
  const layers = new Map(); // layer -> weights of its heads [head, query, key] in 1/65535
  let n = 0;
  function load() {
    return ask("attention", "attention", {}, {
      begin() { layers.clear(); },
      piece(piece) {
        if (piece.kind !== "attention") return;
        n = piece.n;
        layers.set(piece.layer, unpack(piece.weights, Uint16Array));
        if (state.part?.startsWith(`a${piece.layer}.`)) partPanel.draw();
      },
      fail() { layers.clear(); },
    }, () => model.n_layers);
  }
  function of(name) {
    const [layer, head] = name.slice(1).split(".h").map(Number), all = layers.get(layer);
    if (!all || n !== promptPanel.n()) return null;
    return Float32Array.from(all.subarray(head * n * n, (head + 1) * n * n), (w) => w / 65535);
  }
  return { load, of };
})();

// Pieces of `head`: writes {raises, lowers: {texts, values}}; why {query, key, query_parts, key_parts,
// values}; listens {q, k, v: [{part, value}]}; card {name, rows: [{kind, value, unit, clear}]}.
const partPanel = (function () {
  const place = document.getElementById("x-part");
  const heading = el("h2", {}), quick = el("div", { class: "bar" }), looks = el("div", {}), more = el("div", { class: "x-more" }), trouble = el("div", {});
  const sink = el("input", { type: "checkbox", id: "x-sink", onchange: () => draw() });
  let known = {};
  fill(place, heading, quick, trouble, looks, more);
  const isHead = () => /^a\d+\.h\d+$/.test(state.part ?? "");
  const word = (i) => `${visible(promptPanel.textOf(i), 16)} (${i})`;

  // What is known at once: the attention is in the page already.
  function draw() {
    if (!state.part) {
      fill(heading, "A part of the model");
      fill(quick);
      fill(looks, el("p", { class: "dim" }, "Choose a ", term("head"), " or an ", term("MLP"), " on the map: by a click, or with the arrow keys and Enter."));
      return fill(more);
    }
    fill(heading, isHead() ? el("span", {}, term("head", "Head"), ` ${state.part}`) : el("span", {}, term("MLP"), ` ${state.part}`));
    drawQuick();
    if (!isHead()) return fill(looks);
    const all = attentionOf.of(state.part), read = promptPanel.read();
    if (!all || !read) return fill(looks, el("p", { class: "dim" }, "Its attention is on its way."));
    const tokens = read.tokens.map((t) => t.text), from = sink.checked ? 1 : 0;
    const now = { all: from ? withoutFirst(all, tokens.length) : all, from };
    const text = attentionText({ tokens, ...now, held: promptPanel.at() });
    const map = attentionSquare({ tokens, ...now, name: state.part, within: 240, largest: 16, named: 30, onmove: text.light, onpick: text.hold });
    fill(looks,
      el("p", { class: "dim" }, el("span", { class: "blue" }, "Blue"), " is where the chosen token looks, ", el("span", { class: "orange" }, "orange"), " is who looks at it (", term("attention"), "). Point at another, or hold it by a click."),
      el("label", { class: "x-check" }, sink, " without the first token, where idle heads rest"),
      text.box, el("div", { class: "attn-split" }, map.box, el("div", { class: "words" }, text.lists)));
    turnTo(text.box, text.box.children[promptPanel.at()]);
  }
  function drawQuick() {
    const edit = (how, label, more = {}) => el("button", { type: "button", onclick: () => trayPanel.add({ part: state.part, how, amount: 1, token: null, on: true, ...more }) }, label);
    fill(quick, edit("zero", "ablate: zero"), edit("mean", "ablate: mean"),
      state.view.contrast === null ? null : edit("patch", "patch from the contrast"), isHead() ? edit("freeze", "freeze its pattern") : null, edit("scale", "double it", { amount: 2 }));
  }
  function open() {
    known = {};
    fill(trouble);
    draw();
    if (!state.part) return forget("part");
    return isHead() ? load() : mlpPanel.load(more, trouble);
  }
  function load() {
    const options = { head: state.part, ...(state.key === null ? {} : { key: state.key }) };
    return ask("part", "head", options, {
      begin() { known = {}; },
      piece(piece) { known[piece.kind] = piece; drawMore(); },
      fail(sentence) { known = {}; fill(more); fill(trouble, problem(sentence)); },
    });
  }
  function drawMore() {
    const { writes, why, listens, card } = known;
    fill(more, writes && drawWrites(writes), why && drawWhy(why), listens && drawListens(listens), card && drawCard(card),
      ...notes(known));
  }
  const notes = (all) => Object.values(all).filter((piece) => piece.kind === "note").map((piece) => el("p", { class: "dim" }, piece.text));

  function drawWrites({ raises, lowers, share, unit }) {
    const list = (title, kind, rows) => el("div", {}, el("h4", { class: kind }, title), pairs(rows.texts, rows.values));
    return el("section", {}, el("h3", {}, "What it writes here"), el("div", { class: "x-two" }, list("raises", "blue", raises), list("lowers", "orange", lowers)));
  }
  const pairs = (texts, values) => el("table", {}, el("tbody", {}, ...texts.map((text, i) => el("tr", {}, el("td", { class: "token" }, visible(text, 24)), el("td", { class: "number" }, signed(values[i]))))));

  function drawWhy(why) {
    const keys = Array.from({ length: promptPanel.at() + 1 }, (_, i) => i);
    const select = el("select", { "aria-label": "which key", onchange: () => { state.key = select.value === "" ? null : Number(select.value); keepState(); load(); } },
      el("option", { value: "" }, "the token it looks at most"), ...keys.map((i) => el("option", { value: i, selected: state.key === i }, word(i))));
    return el("section", {}, el("h3", {}, "Why it looks there"),
      el("p", {}, "From ", el("span", { class: "token" }, word(why.query)), " to ", el("span", { class: "token" }, word(why.key)), ". ", select),
      el("p", { class: "dim" }, "Down: what in the ", term("query"), "'s ", term("stream"), " asks; across: what in the ", term("key"), "'s answers. Their products add up to the attention score."),
      whyTable(why));
  }
  function whyTable({ query_parts: rows, key_parts: columns, values }) {
    const most = Math.max(...values.flat().map(Math.abs), 1e-9);
    return el("div", { class: "scroll" }, el("table", { class: "x-why" },
      el("thead", {}, el("tr", {}, el("th", {}, "query \\ key"), ...columns.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows.map((name, i) => el("tr", {}, el("th", { scope: "row" }, name), ...columns.map((_, j) => colored(el("td", { class: "number" }, signed(values[i][j], 2)), diverging(values[i][j] / most))))))));
  }
  function colored(node, color) {
    node.style.background = css(color);
    node.style.color = inkOn(color);
    return node;
  }
  function drawListens(listens) {
    const column = (name, slot) => {
      const rows = listens[slot] ?? [];
      return el("div", {}, el("h4", {}, `its ${name}`), rows.length ? el("table", {}, el("tbody", {}, ...rows.map(({ part, value }) =>
        el("tr", {}, el("td", {}, el("button", { type: "button", class: "x-link", onclick: () => openPart(part) }, part)), el("td", { class: "number" }, number(value)))))) : el("p", { class: "dim" }, "no head before it"));
    };
    return el("section", {}, el("h3", {}, term("composition", "Which earlier heads it listens to")), el("div", { class: "x-three" }, column("query", "q"), column("key", "k"), column("value", "v")));
  }
  function drawCard({ name, rows }) {
    return el("section", {}, el("h3", {}, term("kind", "Its card"), name ? `: ${name}` : ""), el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, ...rows.map((row) =>
      el("tr", {}, el("td", {}, row.kind + (row.clear ? " ✓" : "")), el("td", { class: "number" }, number(row.value)), el("td", { class: "dim" }, row.unit ?? "")))))));
  }
  repaint.push(() => { draw(); if (isHead()) drawMore(); });
  return { draw, open };
})();

// Open a head or an MLP, from wherever it is named.
function openPart(name) {
  if (name !== state.part) state.key = null;
  state.part = name;
  state.tab = "part";
  keepState();
  showTab();
  mapPanel.select();
  partPanel.open();
  // On a phone the panel is below the map: where nothing of it can be seen, go there.
  const side = document.getElementById("x-side");
  if (side.getBoundingClientRect().top > 0.8 * innerHeight) side.scrollIntoView({ behavior: "smooth" });
}
