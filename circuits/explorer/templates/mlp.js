// The panel of an MLP: the neurons that matter here, what each writes, and what wakes it.
// Its piece has neurons: [{neuron, effect, activation, values, triggers}], the last two lists of tokens.
const mlpPanel = (function () {
  function load(place, trouble) {
    const pieces = new Map(); // by kind: the later neurons also know what wakes them
    return ask("part", "mlp", { layer: Number(state.part.slice(1)) }, {
      begin() { pieces.clear(); },
      piece(piece) { pieces.set(piece.kind + (piece.about ?? ""), piece); fill(place, ...[...pieces.values()].flatMap(draw)); },
      fail(sentence) { fill(place); fill(trouble, problem(sentence)); },
    });
  }
  const words = (texts) => el("span", {}, ...(texts ?? []).flatMap((text) => [el("span", { class: "token x-chip" }, visible(text, 16)), " "]));
  function draw(piece) {
    if (piece.kind === "note") return [el("p", { class: "dim" }, piece.text)];
    if (!piece.neurons) return [];
    return [
      el("h3", {}, "The ", term("neuron", "neurons"), " that matter here"),
      el("p", { class: "dim" }, "By how much each pushes toward the answer rather than the distractor: its activation times the effect of what it writes."),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "neurons" }, el("table", { class: "x-neurons" },
        el("thead", {}, el("tr", {}, ...["neuron", "effect", "activation", "it writes (value)", "it wakes to (trigger)"].map((name) => el("th", {}, name)))),
        el("tbody", {}, ...piece.neurons.map((one) => el("tr", {}, el("td", {}, String(one.neuron)),
          el("td", { class: `number ${one.effect >= 0 ? "blue" : "orange"}` }, signed(one.effect)), el("td", { class: "number" }, number(one.activation)),
          el("td", { class: "x-wrap" }, words(one.values)), el("td", { class: "x-wrap" }, words(one.triggers))))))),
    ];
  }
  return { load };
})();
