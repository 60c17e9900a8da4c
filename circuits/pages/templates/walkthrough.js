// The forward pass, step by step: a step is one stage of one pass; each pass writes one token.
(function () {
  const { tokens, n_prompt, stages, tensors, titles, square: SQUARE, facts } = DATA.view;
  const numbers = unpack(DATA.view.numbers, Float32Array);
  const n_passes = tokens.length - n_prompt;
  const byName = new Map(tensors.map((tensor) => [`${tensor.step} ${tensor.stage}`, tensor]));
  let pass = 0, stage = 0, painted = [];

  // One tensor as it stands in this pass: rows of all positions so far, [position][column] for a head.
  function rows(name, pass, head = 0) {
    const all = [];
    const kind = name.split(".")[0];
    for (let step = 0; step <= pass; step++) {
      const { shape, at } = byName.get(`${step} ${name}`);
      const [heads, n] = SQUARE.includes(kind) ? [shape[0], shape[1]] : [shape.length === 3 ? shape[1] : 1, shape[0]];
      const width = shape[shape.length - 1];
      for (let i = 0; i < n; i++) {
        const start = SQUARE.includes(kind) ? at + (head * n + i) * width : at + (i * heads + head) * width;
        all.push(numbers.subarray(start, start + width));
      }
    }
    return all;
  }
  const shapeOf = (name) => byName.get(`0 ${name}`);
  const isCut = (name) => { const { shape, whole } = shapeOf(name); return shape.at(-1) < whole.at(-1); };
  const size = (x) => (x === undefined || Number.isNaN(x) ? "–" : Math.abs(x) < 1e-4 && x !== 0 ? x.toExponential(1) : String(Number(x.toPrecision(4)))).replaceAll("-", "−");
  const at = (p) => `${visible(tokens[p], 12)} (${p})`;

  // How did this number come about? One line with the numbers themselves, where all of them are here.
  function how(name, head, i, j) {
    const [kind, layer] = name.split(".");
    const before = layer === undefined ? null : layer === "0" ? "resid_pre.0" : `resid_post.${layer - 1}`;
    const value = (other, h = 0) => rows(other, pass, h)[i][j];
    const plus = (a, b) => `= ${size(value(a))} + ${size(value(b))}`;
    const known = (...names) => names.every((one) => byName.has(`0 ${one}`) && !isCut(one));
    if (kind === "resid_pre" && known("pos_embed")) return plus("embed", "pos_embed");
    if (kind === "resid_mid") return plus(before, `attn_out.${layer}`);
    if (kind === "resid_post") return plus(`resid_mid.${layer}`, `mlp_out.${layer}`);
    if (kind === "ln1_normalized" || kind === "ln2_normalized") {
      const source = kind === "ln1_normalized" ? before : `resid_mid.${layer}`;
      if (!known(source)) return null;
      const row = rows(source, pass)[i], mean = row.reduce((a, b) => a + b, 0) / row.length;
      const deviation = Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / row.length);
      return `= (${size(row[j])} − ${size(mean)}) / ${size(deviation)}`;
    }
    if (kind === "scores" && known(`q.${layer}`)) {
      const q = rows(`q.${layer}`, pass, head)[i], k = rows(`k.${layer}`, pass, head)[j];
      return `= q·k / √${q.length} = ${size(q.reduce((a, x, d) => a + x * k[d], 0))} / ${size(Math.sqrt(q.length))}`;
    }
    if (kind === "pattern") {
      const row = rows(`scores.${layer}`, pass, head)[i].subarray(0, i + 1), most = Math.max(...row);
      const sum = row.reduce((a, x) => a + Math.exp(x - most), 0);
      return `= e^${size(row[j])} / Σ = ${size(Math.exp(row[j] - most))} / ${size(sum)} (after subtracting the largest score, ${size(most)})`;
    }
    if (kind === "z") {
      const weights = rows(`pattern.${layer}`, pass, head)[i], values = rows(`v.${layer}`, pass, head);
      const parts = Array.from(weights.subarray(0, i + 1), (a, k) => [a, values[k][j], k]).sort((a, b) => b[0] - a[0]);
      const shown = parts.slice(0, 3).map(([a, v]) => `${size(a)} · ${size(v)}`).join(" + ");
      return `= ${shown}${parts.length > 3 ? " + …" : ""}`;
    }
    if (kind === "post") return `= GELU(${size(value(`pre.${layer}`))})`;
    return null;
  }

  // The largest number of a tensor, all its heads together: one scale for what is to be compared.
  function largest(name) {
    let most = 1e-9;
    for (let step = 0; step <= pass; step++) {
      const { shape, at } = byName.get(`${step} ${name}`);
      const end = at + shape.reduce((a, b) => a * b, 1);
      for (let k = at; k < end; k++) if (Math.abs(numbers[k]) > most) most = Math.abs(numbers[k]); // never for NaN
    }
    return most;
  }

  function tensor(name, head, role, most) {
    const kind = name.split(".")[0];
    const all = rows(name, pass, head), n = all.length;
    const square = SQUARE.includes(kind);
    const { shape, whole } = shapeOf(name);
    const width = square ? n : shape.at(-1);
    const masked = (i, j) => square && j > i;
    const color = (i, j) => (masked(i, j) ? NOTHING : kind === "pattern" ? sequential(all[i][j]) : diverging(all[i][j] / most));
    const cell = square ? Array(2).fill(Math.max(7, Math.min(26, Math.floor(300 / n)))) : [Math.max(2, Math.min(12, Math.floor(620 / width))), Math.max(8, Math.min(22, Math.floor(420 / n)))];
    const tell = (i, j) => {
      if (masked(i, j)) return `${at(i)} cannot look at ${at(j)}: it comes later`;
      const place = square ? `${at(i)} → ${at(j)}` : `${at(i)}, ${kind === "pre" || kind === "post" ? "neuron" : "dimension"} ${j}`;
      const source = how(name, head, i, j);
      return `${place}: ${size(all[i][j])}${source ? "\n" + source : ""}`;
    };
    const title = (titles[kind] ?? kind) + (head === null ? "" : `, head ${head}`) + role;
    const map = heat({ shape: [n, width], color, tell, cell, label: `${title}: ${n} rows, ${width} columns` });
    const names = Array.from({ length: n }, (_, i) => visible(tokens[i], 10));
    const box = labeled(map.box, cell, cell[1] >= 8 ? names : null, square && cell[0] >= 10 ? names : null);
    if (pass > 0) box.querySelector(".rows")?.lastChild.classList.add("new");
    const bar = kind === "pattern" ? scaleBar(sequential, "0", "1") : scaleBar((t) => diverging(2 * t - 1), size(-most), size(most));
    painted.push(map.paint, bar.paint);
    const cut = width < (square ? n : whole.at(-1)) ? `; the first ${width} of ${whole.at(-1)} columns` : "";
    const sizes = square ? `${n} × ${n}` : `${n} × ${whole.at(-1)}`;
    return el("figure", {}, el("figcaption", {}, title, " ", el("span", { class: "dim" }, `${sizes}${cut} `), bar.box), el("div", { class: "scroll" }, box));
  }

  const isStream = (name) => name.startsWith("resid");
  function tensorsOf({ tensors: names }) {
    const isSum = names.length > 1 && isStream(names.at(-1));
    const together = Math.max(...names.map(largest)); // the terms of a sum have one scale
    return names.flatMap((name, k) => {
      const most = isSum ? together : largest(name);
      const role = !isStream(name) || names.length < 2 ? "" : k ? ", after" : ", before";
      const { shape } = shapeOf(name);
      const heads = SQUARE.includes(name.split(".")[0]) ? shape[0] : shape.length === 3 ? shape[1] : 0;
      return heads ? Array.from({ length: heads }, (_, h) => tensor(name, h, "", most)) : [tensor(name, null, role, most)];
    });
  }

  function tokenTable() {
    const ids = rowsOfTokens();
    return el("div", { class: "scroll" }, el("table", {},
      ...[["position", ids.map((_, p) => p)], ["token", ids.map((_, p) => visible(tokens[p]))], ["number", ids]].map(([name, cells]) =>
        el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", { class: "token" }, String(cell)))))));
  }
  function rowsOfTokens() {
    return Array.from({ length: pass + 1 }, (_, step) => byName.get(`${step} tokens`)).flatMap(({ at, shape }) => [...numbers.subarray(at, at + shape[0])]);
  }

  // The likeliest tokens with bars; in the end with the chosen one marked.
  function choice(kind) {
    const name = kind === "logits" ? "logits" : "probabilities";
    const { at, shape, labels: likeliest } = byName.get(`${pass} ${name}`);
    const next = byName.get(`${pass} next`), chosen = kind === "next" ? next.labels[0] : null;
    const labels = [...likeliest], values = [...numbers.subarray(at, at + shape[0])];
    if (chosen !== null && !labels.includes(chosen)) { // drawn by chance, and none of the likeliest
      labels.push(chosen);
      values.push(numbers[next.at]);
    }
    const [low, high] = kind === "logits" ? [Math.min(0, ...values), Math.max(0, ...values)] : [0, 1];
    return el("div", { class: "walk-choice" }, tokenBars(labels, (i) => (values[i] - low) / (high - low),
      (i) => (kind === "logits" ? size(values[i]) : percent(values[i])), (i) => (labels[i] === chosen ? "chosen" : "")));
  }

  function verdict() {
    const label = visible(tokens[n_prompt + pass]);
    const text = (from, to) => tokens.slice(from, to).map((token) => visible(token)).join("");
    if (pass < n_passes - 1) return el("p", {}, "Written: ", el("span", { class: "token" }, label), ". The next step reads it, too.");
    return el("p", { id: "walk-done" }, "Done: after ", el("span", { class: "token" }, text(0, n_prompt)), " the model wrote ",
      el("strong", { class: "token", id: "walk-written" }, text(n_prompt)), ".");
  }

  const nav = document.getElementById("walk-stages");
  const buttons = stages.map(({ name }, i) => {
    return el("button", { type: "button", tabindex: -1, onclick: () => go(pass, i) }, name);
  });
  const boxes = [];
  stages.forEach(({ block }, i) => {
    if (block === null) return nav.append(buttons[i]);
    if (boxes.length === block) {
      const head = el("button", { type: "button", tabindex: -1, onclick: () => go(pass, i) }, `block ${block}`);
      boxes.push(el("div", { class: "block" }, head, el("div", {})));
      nav.append(boxes[block]);
    }
    boxes[block].lastChild.append(buttons[i]);
  });

  function go(newPass, newStage) {
    if (newPass < 0 || newPass >= n_passes || newStage < 0 || newStage >= stages.length) return;
    [pass, stage] = [newPass, newStage];
    paint();
    const article = document.getElementById("walk-stage");
    if (article.getBoundingClientRect().top < 0) article.scrollIntoView();
  }
  function step(by) {
    const k = pass * stages.length + stage + by;
    if (k >= 0 && k < n_passes * stages.length) go(Math.floor(k / stages.length), k % stages.length);
  }
  // The same stage of another block, or the first stage of the next part.
  function leap(by) {
    const { kind, block } = stages[stage];
    const to = stages.findIndex((other) => other.kind === kind && block !== null && other.block === block + by);
    if (to >= 0) return go(pass, to);
    const blocks = stages.map((one, i) => [one.block, i]);
    const found = block === null
      ? (by > 0 ? blocks.find(([b, i]) => b !== null && i > stage) : blocks.findLast(([b, i]) => b !== null && i < stage))
      : (by > 0 ? blocks.find(([b, i]) => b === null && i > stage) : blocks.findLast(([b, i]) => b === null && i < stage));
    if (found) go(pass, found[1]);
  }

  function paint() {
    hideTip();
    const now = stages[stage];
    painted = [];
    const prose = document.getElementById(`walk-${now.kind}`).content.cloneNode(true);
    if (now.block !== null) prose.querySelector("h2").prepend(`Block ${now.block} · `);
    const again = pass > 0 && !["tokens", "logits", "softmax", "next"].includes(now.kind)
      ? el("p", { class: "dim" }, "Only the last row is new; the rows above stay as they were.") : null;
    const content = now.kind === "tokens" ? [tokenTable()] : ["logits", "softmax", "next"].includes(now.kind) ? [choice(now.kind)] : tensorsOf(now);
    fill(document.getElementById("walk-stage"), prose, again, el("div", { class: "walk-tensors" }, ...content), now.kind === "next" ? verdict() : null);
    buttons.forEach((button, i) => button.setAttribute("aria-current", i === stage));
    boxes.forEach((box, b) => { box.lastChild.hidden = b !== now.block; });
    const list = nav.getBoundingClientRect(), here = buttons[stage].getBoundingClientRect();
    if (here.top < list.top || here.bottom > list.bottom) nav.scrollTop += here.top - list.top - list.height / 3;
    const shown = tokens.slice(0, n_prompt + pass + (now.kind === "next" ? 1 : 0));
    const isComing = (p) => p >= shown.length;
    tokenRow({
      tokens, box: document.getElementById("walk-text"), title: (p) => `position ${p}`, text: (p) => (isComing(p) ? "?" : visible(tokens[p])),
      kind: (p) => (p < n_prompt ? "" : isComing(p) ? "coming" : p === shown.length - 1 ? "written newest" : "written"),
    });
    document.getElementById("walk-where").textContent =
      `token ${pass + 1} of ${n_passes}, step ${stage + 1} of ${stages.length}${now.block === null ? "" : `, block ${now.block} of 0–${boxes.length - 1}`}`;
    document.getElementById("walk-back").disabled = pass + stage === 0;
    document.getElementById("walk-on").disabled = pass === n_passes - 1 && stage === stages.length - 1;
    document.getElementById("walk-token-back").disabled = pass === 0;
    document.getElementById("walk-token-on").disabled = pass === n_passes - 1;
  }
  document.getElementById("walk-back").addEventListener("click", () => step(-1));
  document.getElementById("walk-on").addEventListener("click", () => step(1));
  document.getElementById("walk-token-back").addEventListener("click", () => go(pass - 1, stage));
  document.getElementById("walk-token-on").addEventListener("click", () => go(pass + 1, stage));
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, #table")) return;
    const act = {
      ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => leap(1), ArrowUp: () => leap(-1),
      PageDown: () => go(pass + 1, stage), PageUp: () => go(pass - 1, stage),
      Home: () => go(0, 0), End: () => go(n_passes - 1, stages.length - 1),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  repaint.push(() => painted.forEach((one) => one()));
  paint();
})();
