// Attention: a square for every head, and one head's text, where a token shows both directions.
(function () {
  const { tokens, heads, averages } = DATA.view;
  const n = tokens.length, squares = attentionSquares(DATA.view);
  const sink = document.getElementById("attn-sink");
  const stretch = document.getElementById("attn-stretch");
  let head = 0, held = null;

  function shown(h) {
    const whole = squares(h), from = sink.checked ? 1 : 0, all = from ? withoutFirst(whole, n) : whole;
    return { all, from, most: stretch.checked ? largestWeight(all, n, from) : 1 };
  }
  const canvases = heads.map(() => el("canvas", { width: smallSide(n), height: smallSide(n), "aria-hidden": "true" }));
  const buttons = heads.map((name, h) =>
    el("button", { type: "button", "aria-label": `head ${name}`, onclick: () => select(h) }, canvases[h], name));
  const lines = [];
  heads.forEach((name, h) => {
    const layer = name.split(".")[0];
    if (!lines.length || lines.at(-1).dataset.layer !== layer) lines.push(el("div", { class: "attn-layer", "data-layer": layer }));
    lines.at(-1).append(buttons[h]);
  });
  const grid = document.getElementById("attn-heads");
  fill(grid, ...lines);
  grid.classList.toggle("few", heads.length <= 24);
  roving(buttons, () => lines[0].children.length, select);

  function select(h) {
    head = h;
    buttons.forEach((button, i) => {
      button.setAttribute("aria-current", i === h);
      button.tabIndex = i === h ? 0 : -1;
    });
    showHead();
  }

  function showHead() {
    const now = shown(head);
    const text = attentionText({ tokens, ...now, held, rest: () => summary(now.all), onhold: (i) => { held = i; } });
    const map = attentionSquare({ tokens, ...now, name: heads[head], onmove: text.light, onpick: text.hold });
    fill(document.getElementById("attn-one"),
      el("h2", {}, `Head ${heads[head]}`),
      el("p", { class: "dim" }, "Point at a token, or go to it with Tab and the arrow keys: ",
        el("span", { class: "blue" }, "blue"), " is where it looks, ",
        el("span", { class: "orange" }, "orange"), " is who looks at it. A click holds it."),
      el("div", { class: "attn-split" }, map.box, el("div", { class: "words" }, text.box, text.lists)));
  }

  // What the head does on average over the queries that have a choice.
  function summary(all) {
    if (n < 2) return null;
    let first = 0, previous = 0, self = 0;
    for (let q = 1; q < n; q++) {
      first += all[q * n];
      previous += all[q * n + q - 1];
      self += all[q * n + q];
    }
    const mean = (x) => percent(x / (n - 1));
    return el("dl", {}, el("dt", {}, "on average to the first token"), el("dd", {}, mean(first)),
      el("dt", {}, "to the token before"), el("dd", {}, mean(previous)), el("dt", {}, "to itself"), el("dd", {}, mean(self)),
      ...Object.entries(averages).flatMap(([text, shares]) => [el("dt", {}, text), el("dd", {}, percent(shares[head]))]));
  }
  function paintAll() {
    canvases.forEach((canvas, h) => attentionSmall(canvas, { n, ...shown(h) }));
    fill(document.getElementById("attn-scale"),
      scaleBar(sequential, "0", stretch.checked ? "largest" : "100 %").box);
    showHead();
  }
  sink.addEventListener("change", paintAll);
  stretch.addEventListener("change", paintAll);
  repaint.push(paintAll);
  select(0);
  paintAll();
})();
