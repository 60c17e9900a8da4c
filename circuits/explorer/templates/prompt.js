// The prompt: what is typed, its tokens, where to look, what to follow, and the contrast.
const promptPanel = (function () {
  const place = document.getElementById("x-prompt");
  const known = { read: null };
  let turned = null; // the token that the row was turned to
  const text = area("x-text", "prompt", () => state.view.prompt, (value) => type({ prompt: value }));
  const other = area("x-contrast", "contrasting prompt", () => state.view.contrast ?? "", (value) => type({ contrast: value }));
  const tokens = el("div", { class: "x-tokens token-row" });
  const otherTokens = el("div", { class: "x-tokens token-row" });
  const where = el("p", { class: "dim x-where" });
  const answer = field("x-answer", "answer"), distractor = field("x-distractor", "distractor");
  const predictions = el("div", { id: "x-predictions", "aria-label": "predictions", role: "group" });
  const trouble = el("div", {}), contrastNote = el("div", {});
  const toggle = el("button", { type: "button", "aria-expanded": "false", onclick: () => {
    const isOn = state.view.contrast !== null;
    type({ contrast: isOn ? null : state.view.prompt });
    contrastRow.hidden = isOn;
    toggle.setAttribute("aria-expanded", !isOn);
    if (!isOn) other.focus();
  } }, "contrast with another prompt");
  const contrastRow = el("div", { class: "x-contrast", hidden: true }, el("label", { for: "x-contrast" }, term("contrast", "contrasting prompt")), other, otherTokens, contrastNote);

  function area(id, label, read, write) {
    const node = el("textarea", { id, rows: 1, spellcheck: "false", autocomplete: "off", dir: "auto", "aria-label": label, oninput: () => { grow(node); write(node.value); } });
    node.sync = () => { if (node.value !== read()) node.value = read(); grow(node); };
    return node;
  }
  function grow(node) {
    node.style.height = "auto";
    node.style.height = `${Math.min(node.scrollHeight + 2, 150)}px`;
  }
  function field(id, name) {
    const node = el("input", { id, type: "text", spellcheck: "false", autocomplete: "off", maxlength: 200, oninput: () => {
      clearTimeout(node.timer);
      node.timer = setTimeout(() => setView({ [name]: node.value === "" ? null : node.value.replaceAll("·", " ") }), 150);
    } });
    node.sync = () => {
      if (document.activeElement === node) return;
      const given = state.view[name];
      node.value = given === null ? "" : String(given).replaceAll(" ", "·");
      const chosen = known.read?.[name];
      node.placeholder = chosen ? `${visible(chosen.text)} (likeliest)` : "likeliest";
    };
    return node;
  }
  // A change of the text takes back what belonged to the text before: where to look.
  function type(change) {
    setView({ ...change, ..."prompt" in change && state.view.at !== -1 ? { at: -1 } : {} });
  }
  fill(place,
    el("div", { class: "x-ask" }, el("label", { for: "x-text" }, "prompt"), text, trouble, tokens, where,
      el("div", { class: "bar" },
        el("label", { for: "x-answer" }, term("answer", "follow"), answer), el("label", { for: "x-distractor" }, term("distractor", "rather than"), distractor), toggle),
      contrastRow),
    el("div", { class: "x-next" }, el("h2", {}, "What comes next"), predictions));

  const n = () => known.read?.tokens.length ?? 0;
  const at = () => known.read?.at ?? 0;
  const textOf = (i) => known.read?.tokens[i]?.text ?? "";

  function drawTokens() {
    const list = known.read.tokens, here = at(), focused = tokens.contains(document.activeElement) ? document.activeElement.dataset.i : null;
    const row = tokenRow({
      tokens: list.map((t) => t.text), box: tokens, at: Math.max(0, Math.min(here, list.length - 1)), onpick: look,
      label: (i) => `${visible(list[i].text)}, position ${i}, ${list[i].probability === null ? "the first" : `had probability ${percent(list[i].probability)}`}${i === here ? ", looked at" : ""}`,
      kind: (i) => [i === here ? "here pinned" : "", known.read.twin?.differs?.[i] ? "differs" : ""].join(" ").trim(),
    });
    row.nodes.forEach((node, i) => {
      const color = list[i].probability === null ? NOTHING : sequential(0.75 * list[i].probability);
      Object.assign(node.style, { background: css(color), color: inkOn(color) });
      node.dataset.i = i;
      node.setAttribute("aria-pressed", i === here);
      const tell = () => `${visible(list[i].text)} at position ${i}, token ${list[i].id}\n` + (list[i].probability === null ? "the first token: nothing before it says how likely it was" : `the model gave it ${percent(list[i].probability)} before it came`);
      node.addEventListener("pointerenter", (event) => showTip(tell(), event.clientX, event.clientY));
      node.addEventListener("pointerleave", hideTip);
      node.addEventListener("focus", () => node.matches(":focus-visible") && showTip(tell(), node.getBoundingClientRect().left, node.getBoundingClientRect().bottom));
      node.addEventListener("blur", hideTip);
      if (String(i) === focused) node.focus();
    });
    if (row.nodes[here] && turned !== here) turnTo(tokens, row.nodes[here]);
    turned = here;
    fill(where, "Looking after ", el("span", { class: "token" }, visible(textOf(here))), " (", term("position"), ` ${here} of 0–${list.length - 1}). Choose another `, term("token"), " to look there. Color: the ", term("probability"), " the model gave it before it came.");
  }
  function look(i) {
    setView({ at: i === n() - 1 ? -1 : i });
  }
  function drawContrast() {
    const contrast = known.read?.twin;
    const isOn = state.view.contrast !== null;
    contrastRow.hidden = !isOn;
    toggle.setAttribute("aria-expanded", isOn);
    toggle.textContent = isOn ? "without the contrast" : "contrast with another prompt";
    if (!isOn || !contrast) return fill(otherTokens), fill(contrastNote);
    const list = contrast.tokens ?? [];
    tokenRow({ tokens: list.map((t) => t.text), box: otherTokens, kind: (i) => (contrast.differs?.[i] ? "differs" : ""), title: (i) => `position ${i}${contrast.differs?.[i] ? ", differs" : ""}` });
    const n = (contrast.differs ?? []).filter(Boolean).length;
    fill(contrastNote, contrast.why ? problem(contrast.why)
      : el("p", { class: "dim" }, n ? `${countOf(n, "token")} differ${n === 1 ? "s" : ""}, underlined in orange. There the model says: ` : "Both prompts are the same tokens: change one to compare.", n ? list3(known.read.contrast_top) : null));
  }
  const list3 = (top) => el("span", {}, ...(top ?? []).slice(0, 3).map((t) => el("span", {}, el("span", { class: "token" }, visible(t.text)), ` ${percent(t.probability)} `)));
  function drawPredictions() {
    const { now: top, before_top: was } = known.read;
    fill(predictions, was ? el("p", { class: "dim" }, `with ${countOf(state.view.tray.filter((edit) => edit.on).length, "edit")} of the tray`) : null,
      tokenBars(top.map((t) => t.text), (i) => top[i].probability, (i) => percent(top[i].probability), (i) => followedAs(top[i].id)));
    const { answer: a, distractor: b } = known.read;
    if (a && b) predictions.append(el("p", { class: "dim" }, term("logit difference"), " of ", el("span", { class: "token blue" }, visible(a.text)), " and ", el("span", { class: "token orange" }, visible(b.text)), ": ",
      el("strong", { id: "x-difference" }, signed(known.read.difference)),
      known.read.before === null ? null : ` (without the edits ${signed(known.read.before)})`, known.read.contrast === null ? null : `, in the contrast ${signed(known.read.contrast)}`));
  }
  const followedAs = (id) => (id === known.read.answer?.id ? "answer" : id === known.read.distractor?.id ? "distractor" : "");
  function paint() {
    if (!known.read) return;
    drawTokens();
    drawContrast();
    drawPredictions();
  }
  repaint.push(paint);
  function sync() {
    text.sync();
    other.sync();
    answer.sync();
    distractor.sync();
    drawContrast();
    if (known.read) drawTokens();
  }
  // Resolves true once tokens and predictions are shown.
  function load() {
    sync();
    return ask("read", "read", {}, {
      begin() { known.coming = null; },
      piece(piece) {
        readInto(known, piece);
        const { tokens, now, answer } = known.coming;
        if (piece.kind !== "followed" || !tokens || !now || !answer) return;
        known.read = known.coming; // what matters most is there
        fill(trouble);
        paint();
      },
      fail(sentence) { fill(trouble, problem(sentence)); },
    }).then((isThere) => {
      if (!isThere) return false;
      known.read = known.coming;
      fill(trouble);
      paint();
      sync();
      document.dispatchEvent(new Event("read"));
      return true;
    });
  }
  return { load, sync, at, n, textOf, followedAs, read: () => known.read };
})();

// The pieces of `read` become one: rows of tokens, and predictions by whose they are.
function tokenList({ ids, texts, p }) {
  return texts.map((text, i) => ({ text, id: ids[i], probability: p?.[i] ?? null }));
}
function readInto(known, piece) {
  known.coming ??= {};
  const read = known.coming;
  if (piece.kind === "tokens") Object.assign(read, { tokens: tokenList(piece), at: piece.at, hasStart: piece.has_start });
  if (piece.kind === "predictions") read[piece.of === "contrast" ? "contrast_top" : piece.of === "before" ? "before_top" : "now"] = tokenList(piece);
  if (piece.kind === "followed") Object.assign(read, piece);
  if (piece.kind === "contrast") read.twin = { tokens: tokenList(piece), differs: piece.differs, why: piece.unaligned };
}
