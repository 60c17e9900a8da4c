// One head's attention: all is its square of weights, row by row a query; from is 1 where the first
// token is left out, else 0.

// The squares of a page that holds only some weights, sorted by head, query and key: of head h.
function attentionSquares({ tokens, starts, keys, weights }) {
  const n = tokens.length;
  const [begin, key, weight] = [unpack(starts, Uint32Array), unpack(keys, Uint16Array), unpack(weights, Uint16Array)];
  return (h) => {
    const all = new Float32Array(n * n);
    for (let q = 0; q < n; q++)
      for (let k = begin[h * n + q]; k < begin[h * n + q + 1]; k++) all[q * n + key[k]] = weight[k] / 65535;
    return all;
  };
}

// Without the first token, what is left of a query is shared out, unless next to nothing is.
function withoutFirst(all, n) {
  const rest = Float32Array.from(all);
  for (let q = 0; q < n; q++) {
    const left = 1 - all[q * n];
    rest[q * n] = 0;
    for (let k = 1; k <= q; k++) rest[q * n + k] = left > 1e-3 ? all[q * n + k] / left : 0;
  }
  return rest;
}

function largestWeight(all, n, from = 0) {
  let most = 1e-9;
  for (let q = 0; q < n; q++) for (let k = from; k <= q; k++) most = Math.max(most, all[q * n + k]);
  return most;
}

// A small square: of a long prompt each of its pixels shows the largest weight that falls on it.
const SMALL_SIDE = 112;
const smallSide = (n) => Math.min(n, SMALL_SIDE);
function attentionSmall(canvas, { all, n, most = 1, from = 0 }) {
  const side = smallSide(n), small = new Float32Array(side * side).fill(-1);
  for (let q = 0; q < n; q++)
    for (let k = from; k <= q; k++) {
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

// The square to point at: who looks (down) at whom (across), within so many pixels.
function attentionSquare({ tokens, all, name, most = 1, from = 0, within = 460, largest = 22, least = 2, named = 40, onmove, onpick }) {
  const n = tokens.length, size = Math.max(least, Math.min(largest, Math.floor(within / n)));
  const at = (i) => `${visible(tokens[i])} (${i})`;
  const map = heat({
    shape: [n, n], cell: [size, size], label: `attention of head ${name}`, onmove, onpick,
    color: (q, k) => (k > q || k < from ? NOTHING : sequential(all[q * n + k] / most)),
    tell: (q, k) => (k > q ? `${at(q)} cannot look at ${at(k)}: it comes later` : `${at(q)} looks at ${at(k)}: ${percent(all[q * n + k])}`),
  });
  const short = tokens.map((token) => visible(token, 10));
  return { box: el("div", { class: "scroll" }, n <= named ? labeled(map.box, [size, size], short, short) : map.box), paint: map.paint };
}

// The text: a token that is pointed at shows where it looks and who looks at it; a click holds it.
// onhold is told what is held; rest is what stands there while nothing is pointed at.
function attentionText({ tokens, all, most = 1, from = 0, held = null, rest = () => null, onhold }) {
  const n = tokens.length, at = (i) => `${visible(tokens[i])} (${i})`;
  const lists = el("div", { class: "attn-lists", "aria-live": "polite" });
  const { box, nodes } = tokenRow({
    tokens, label: (i) => `token ${i}: ${visible(tokens[i])}`, at: held ?? 0, onpoint: light, onpick: hold,
  });
  box.classList.add("card");
  box.addEventListener("pointerleave", () => light(held));

  function hold(i) {
    held = held === i ? null : i;
    onhold?.(held);
    light(i);
  }
  function light(i = held) {
    i ??= held;
    nodes.forEach((node, j) => {
      let color = NOTHING;
      if (i !== null && !(Math.min(i, j) < from && i !== j))
        color = diverging(j <= i ? Math.min(1, all[i * n + j] / most) : -Math.min(1, all[j * n + i] / most));
      node.style.background = i === null ? "" : css(color);
      node.style.color = i === null ? "" : inkOn(color);
      node.classList.toggle("here", j === i);
      node.classList.toggle("pinned", j === held);
    });
    fill(lists, ...(i === null ? [rest()] : both(i)));
  }
  function both(i) {
    const looks = Array.from({ length: i + 1 }, (_, k) => [k, all[i * n + k]]);
    const looked = Array.from({ length: n - i - 1 }, (_, d) => [i + 1 + d, all[(i + 1 + d) * n + i]]);
    const list = (title, pairs, kind) => {
      const seen = pairs.filter(([, w]) => w > 0).sort((a, b) => b[1] - a[1]).slice(0, 5);
      return el("div", {}, el("h3", { class: kind }, title), seen.length ? el("ol", {}, ...seen.map(([j, w]) =>
        el("li", {}, el("span", { class: "token" }, visible(tokens[j])), ` (${j}) ${percent(w)}`))) : el("p", { class: "dim" }, pairs.length ? "none" : "none comes after it"));
    };
    return [list(`${at(i)} looks at`, looks, "blue"), list(`who looks at ${at(i)}`, looked, "orange")];
  }
  light(held);
  return { box, lists, light, hold };
}
