// Circuits: published ones or from a file, shown on the map and run alone.
// Pieces of `circuit`: {title, n_edges, parts: [{part, text}]}; {meaning, whole, alone, nothing}.
const circuitPanel = (function () {
  const place = document.getElementById("x-circuit");
  const select = el("select", { "aria-label": "published circuit", onchange: () => choose(select.value || null, null) });
  const file = el("input", { type: "file", id: "x-file", accept: ".json,application/json", onchange: read });
  const about = el("div", { "aria-live": "polite" }), trouble = el("div", {}), known = new Map();
  let text = null, pieces = [];
  fill(place, el("h2", {}, term("circuit", "Circuits")), el("p", { class: "dim" }, "A few parts that do a task together, as ", el("code", {}, "circuits discover"), " finds them. The map frames the parts of the one chosen and pales the others."),
    el("div", { class: "bar" }, select, el("label", { for: "x-file" }, "or a file"), file, el("button", { type: "button", onclick: () => choose(null, null) }, "none")), trouble, about);

  function build() {
    fill(select, el("option", { value: "" }, model.circuits.length ? "a published one" : "none is published for this model"), ...model.circuits.map(({ name, text }) => el("option", { value: name }, `${name} (${text})`)));
    select.disabled = !model.circuits.length;
  }
  async function read() {
    const [given] = file.files;
    if (!given) return;
    if (given.size > 4e6) return fill(trouble, problem(`${given.name} has ${given.size} bytes; a circuit's file has at most 4 MB`));
    choose(null, await given.text());
  }
  function choose(name, content) {
    state.circuit = name;
    text = content;
    select.value = name ?? "";
    keepState();
    load();
  }
  function load() {
    pieces = [];
    known.clear();
    fill(trouble);
    if (state.circuit === null && text === null) {
      forget("circuit");
      fill(about);
      return mapPanel.paint();
    }
    select.value = state.circuit ?? "";
    return ask("circuit", "circuit", text === null ? { name: state.circuit } : { text }, {
      begin() { pieces = []; known.clear(); },
      piece(piece) { pieces.push(piece); mark(piece); draw(); mapPanel.paint(); },
      fail(sentence) { known.clear(); fill(about); fill(trouble, problem(sentence)); mapPanel.paint(); },
    });
  }
  function mark(piece) {
    for (const { part, text } of piece.parts ?? []) known.set(part.split("<")[0].split("@")[0], text ? `in the circuit: ${text}` : "in the circuit");
  }
  function draw() {
    fill(about, ...pieces.flatMap((piece) => {
      if (piece.kind === "note") return [el("p", { class: "dim" }, piece.text)];
      if (piece.parts) return [el("p", {}, `${piece.title ?? "This circuit"}: ${known.size} heads and MLPs${piece.n_edges ? `, ${piece.n_edges} edges` : ""}.`)];
      if (piece.whole === undefined) return [];
      const rows = [["the whole model", piece.whole], ["the circuit alone", piece.alone], ["nothing", piece.nothing]];
      const most = Math.max(...rows.map(([, x]) => Math.abs(x ?? 0)), 1e-9);
      return [el("h3", {}, "Run alone on this prompt"), el("p", { class: "dim" }, piece.meaning ?? ""),
        el("table", {}, el("tbody", {}, ...rows.map(([name, x]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, signed(x)), el("td", { class: "x-bar" }, bar(x / most))))))];
    }));
  }
  function bar(share) {
    const node = el("div", { class: share < 0 ? "share low" : "share", "aria-hidden": "true" });
    node.style.width = `${Math.abs(100 * share)}%`;
    return node;
  }
  return { build, load, marks: () => known };
})();
