// Attention: a square for every head, and one head's text, where a token shows both directions.
(function () {
  const { tokens, heads, averages } = DATA.view;
  const n = tokens.length;
  const starts = unpack(DATA.view.starts, Uint32Array);
  const keys = unpack(DATA.view.keys, Uint16Array);
  const weights = unpack(DATA.view.weights, Uint16Array);
  const sink = document.getElementById("attn-sink");
  const stretch = document.getElementById("attn-stretch");
  let head = 0, pinned = null;

  // One head as a full square. Without the first token, what is left of a query is shared out,
  // unless next to nothing is.
  function square(h) {
    const all = new Float32Array(n * n);
    for (let q = 0; q < n; q++)
      for (let k = starts[h * n + q]; k < starts[h * n + q + 1]; k++) all[q * n + keys[k]] = weights[k] / 65535;
    if (sink.checked)
      for (let q = 0; q < n; q++) {
        const left = 1 - all[q * n];
        all[q * n] = 0;
        for (let k = 1; k <= q; k++) all[q * n + k] = left > 1e-3 ? all[q * n + k] / left : 0;
      }
    return all;
  }
  function largest(all) {
    if (!stretch.checked) return 1;
    let most = 1e-9;
    for (let q = 0; q < n; q++) for (let k = sink.checked ? 1 : 0; k <= q; k++) most = Math.max(most, all[q * n + k]);
    return most;
  }
  const tint = (all, most) => (q, k) => (k > q || (sink.checked && k === 0) ? NOTHING : sequential(all[q * n + k] / most));

  // A small square: of a long prompt each of its pixels shows the largest weight that falls on it.
  const side = Math.min(n, 112);
  function draw(canvas, h) {
    const all = square(h), most = largest(all), small = new Float32Array(side * side).fill(-1);
    for (let q = 0; q < n; q++)
      for (let k = sink.checked ? 1 : 0; k <= q; k++) {
        const at = Math.floor((q * side) / n) * side + Math.floor((k * side) / n);
        small[at] = Math.max(small[at], all[q * n + k]);
      }
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    small.forEach((weight, i) => {
      const [r, g, b, a = 1] = sequential(weight < 0 ? null : weight / most);
      image.data.set([r, g, b, 255 * a], 4 * i);
    });
    context.putImageData(image, 0, 0);
  }

  const canvases = heads.map(() => el("canvas", { width: side, height: side, "aria-hidden": "true" }));
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
    const all = square(head), most = largest(all);
    const size = Math.max(2, Math.min(22, Math.floor(460 / n)));
    const tell = (q, k) => (k > q ? `${at(q)} cannot look at ${at(k)}: it comes later`
      : `${at(q)} looks at ${at(k)}: ${percent(all[q * n + k])}`);
    const map = heat({
      shape: [n, n], color: tint(all, most), tell, cell: [size, size], label: `attention of head ${heads[head]}`,
      onmove: (q) => q === null ? light(pinned) : light(q), onpick: (q) => pin(q),
    });
    const short = tokens.map((token) => visible(token, 10));
    const words = tokens.map((token, i) => el("button", {
      type: "button", tabindex: i === 0 ? 0 : -1, "aria-label": `token ${i}: ${visible(token)}`,
      onpointerenter: () => light(i), onfocus: () => light(i), onclick: () => pin(i),
    }, visible(token)));
    roving(words, () => 1, (i) => words.forEach((word, j) => { word.tabIndex = i === j ? 0 : -1; }));
    const lists = el("div", { class: "attn-lists", "aria-live": "polite" });
    const text = el("div", { class: "attn-text card", onpointerleave: () => light(pinned) }, ...words);

    function pin(i) {
      pinned = pinned === i ? null : i;
      light(i);
    }
    function light(i) {
      words.forEach((word, j) => {
        let color = NOTHING;
        if (i !== null && !(sink.checked && Math.min(i, j) === 0 && i !== j)) {
          if (j <= i) color = diverging(Math.min(1, all[i * n + j] / most));
          else color = diverging(-Math.min(1, all[j * n + i] / most));
        }
        word.style.background = i === null ? "" : css(color);
        word.style.color = i === null ? "" : inkOn(color);
        word.classList.toggle("here", j === i);
        word.classList.toggle("pinned", j === pinned);
      });
      fill(lists, ...(i === null ? [summary(all)] : both(all, i)));
    }
    fill(document.getElementById("attn-one"),
      el("h2", {}, `Head ${heads[head]}`),
      el("p", { class: "dim" }, "Point at a token, or go to it with Tab and the arrow keys: ",
        el("span", { class: "blue" }, "blue"), " is where it looks, ",
        el("span", { class: "orange" }, "orange"), " is who looks at it. A click holds it."),
      el("div", { class: "attn-split" },
        el("div", { class: "scroll" }, n <= 40 ? labeled(map.box, [size, size], short, short) : map.box),
        el("div", { class: "words" }, text, lists)));
    light(pinned);
  }
  const at = (i) => `${visible(tokens[i])} (${i})`;

  function both(all, i) {
    const looks = Array.from({ length: i + 1 }, (_, k) => [k, all[i * n + k]]);
    const looked = Array.from({ length: n - i - 1 }, (_, d) => [i + 1 + d, all[(i + 1 + d) * n + i]]);
    const list = (title, pairs, kind) => el("div", {}, el("h3", { class: kind }, title),
      el("ol", {}, ...pairs.filter(([, w]) => w > 0).sort((a, b) => b[1] - a[1]).slice(0, 5).map(([j, w]) =>
        el("li", {}, el("span", { class: "token" }, visible(tokens[j])), ` (${j}) ${percent(w)}`))));
    return [list(`${at(i)} looks at`, looks, "blue"), list(`who looks at ${at(i)}`, looked, "orange")];
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
    canvases.forEach(draw);
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
