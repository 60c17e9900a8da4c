// The stream: the logit lens of every position and layer, and what a cell does when it is patched.
// `lens` has stages, positions and what else `lensGrid` reads; `cell` says predictions {of, texts, p}: now of
// the cell, patched of the model with this cell from the contrast.
const streamPanel = (function () {
  const place = document.getElementById("x-stream");
  const color = el("select", { onchange: () => paint() }), scale = el("span", {}), box = el("div", { class: "scroll x-lens" }), card = el("div", { class: "lens-card card", "aria-live": "polite" });
  const cell = el("div", {}), trouble = el("div", {});
  const lensName = el("span", {});
  let lens = null, grid = null;
  fill(place, el("h2", {}, term("stream", "The stream")), el("p", { class: "dim" }, "What each layer would say next after each token, if the model stopped there (the ", lensName, "), the last layer on top. Point at a cell, or go with the arrow keys; a click or Enter opens it."),
    el("div", { class: "bar" }, el("label", {}, "color by ", color), scale), trouble, box, card, cell);

  function load() {
    fill(lensName, term(model.has_tuned_lens ? "tuned lens" : "logit lens"));
    return ask("stream", "lens", {}, {
      begin() { fill(trouble); },
      piece(piece) {
        if (piece.kind === "note") return fill(trouble, el("p", { class: "dim" }, piece.text));
        const data = piece.lens ?? piece;
        if (!data.stages) return;
        lens = data;
        const was = color.value;
        fill(color, ...Object.keys(lens.numbers).map((kind) => el("option", { value: kind }, lens.numbers[kind].name)));
        if (lens.numbers[was]) color.value = was;
        grid = lensGrid(lens, { onshow: (i, j) => fill(card, ...lensCard(lens, i, j)), onpick: open });
        fill(box, grid.box);
        paint();
        const j = lens.positions.indexOf(promptPanel.at());
        grid.show(lens.stages.length - 1, j < 0 ? lens.positions.length - 1 : j);
        if (state.cell) open(lens.stages.indexOf(state.cell.stage), lens.positions.indexOf(state.cell.position));
      },
      fail(sentence) { lens = null; fill(box); fill(card); fill(cell); fill(trouble, problem(sentence)); },
    });
  }
  function paint() {
    if (!grid) return;
    const [low, high] = grid.paint(color.value);
    fill(scale, scaleBar(sequential, low, high).box);
  }
  repaint.push(paint);
  // A stage of the lens, as a part of the grammar: what a block's attention or MLP left in the stream.
  function partOf(stage, position) {
    const [kind, layer] = [stage[0], stage.slice(1)];
    const name = stage === "embed" ? "resid_pre.0" : kind === "a" ? `resid_mid.${layer}` : kind === "m" ? `resid_post.${layer}` : stage;
    return `${name}@${position}`;
  }
  function open(i, j) {
    if (!lens || i < 0 || j < 0) return;
    const stage = lens.stages[i], position = lens.positions[j], known = {};
    state.cell = { stage, position };
    keepState();
    grid.show(i, j);
    ask("cell", "cell", { stage, position }, {
      begin() { for (const name of Object.keys(known)) delete known[name]; },
      piece(piece) {
        if (piece.kind === "predictions") known[piece.of] = piece;
        else known[piece.kind] = piece;
        draw(stage, position, known);
      },
      fail(sentence) { fill(cell, problem(sentence)); },
    });
  }
  function draw(stage, position, { now, cell: here, patched, note }) {
    const top = here ?? now;
    const bars = (all) => tokenBars(all.texts, (k) => all.p[k], (k) => percent(all.p[k]));
    fill(cell, el("h3", {}, `after ${visible(promptPanel.textOf(position))} (${position}), stage ${stage}`),
      el("div", { class: "x-two" }, top?.texts ? el("div", {}, el("h4", {}, "what this cell would say"), bars(top)) : null,
        patched ? el("div", {}, el("h4", {}, "what the model says if this cell comes from the ", term("contrast")), bars(patched)) : null),
      note ? el("p", { class: "dim" }, note.text) : null,
      state.view.contrast === null ? el("p", { class: "dim" }, "With a contrasting prompt, this cell can be ", term("patching", "patched"), " from it.")
        : el("button", { type: "button", onclick: () => trayPanel.add({ part: partOf(stage, position), how: "patch", amount: 1, token: null, on: true }) }, "keep this patch on (to the tray)"));
  }
  return { load };
})();
