// The tray: interventions that stay on while one looks, and what they change.
// Pieces of `continuation`: {of: "now" (with the edits) or "before" (without), text}, a token each.
const GOES_ON = 12; // tokens
const trayPanel = (function () {
  const place = document.getElementById("x-tray");
  const HOWS = { zero: "ablate: zero", mean: "ablate: mean", patch: "patch from the contrast", freeze: "freeze the pattern", scale: "scale by", steer: "steer toward" };
  const list = el("ul", { class: "x-edits" }), sides = el("div", { class: "x-two" }), story = el("div", { "aria-live": "polite" }), trouble = el("div", {});
  const part = el("input", { id: "x-edit-part", type: "text", spellcheck: "false", autocomplete: "off", maxlength: 200, placeholder: "a5.h3, m7, resid_pre.6@4" });
  const how = el("select", { "aria-label": "what to do", onchange: fields }, ...Object.entries(HOWS).map(([value, text]) => el("option", { value }, text)));
  const amount = el("input", { type: "number", step: "any", value: "1", "aria-label": "amount" });
  const token = el("input", { type: "text", "aria-label": "token to steer toward", placeholder: "·token", maxlength: 200 });
  const button = (text, onclick) => el("button", { type: "button", onclick }, text);
  const undo = button("undo", () => before.length && setView({ tray: before.pop() }));
  const clear = button("clear", () => setView({ tray: [] }, { isStep: true }));
  const all = button("", () => { const on = !state.view.tray.some((edit) => edit.on); setView({ tray: state.view.tray.map((edit) => ({ ...edit, on })) }, { isStep: true }); });
  const put = button("add", () => {
    if (!part.value.trim()) return part.focus();
    add({ part: part.value.trim(), how: how.value, amount: Number(amount.value), token: how.value === "steer" ? token.value.replaceAll("·", " ") : null, on: true });
  });
  fill(place, el("h2", {}, "Hands on"), el("p", { class: "dim" }, "What is in the ", term("tray"), " stays on while you look elsewhere: every number of this page is then of the edited model."),
    el("div", { class: "bar x-add" }, el("label", { for: "x-edit-part" }, "part"), part, how, amount, token, put), trouble, list, el("div", { class: "bar" }, all, undo, clear),
    el("h3", {}, "Predictions without and with it"), sides, el("h3", {}, term("continuation", "How it goes on")), story);

  function fields() {
    amount.hidden = how.value !== "scale" && how.value !== "steer";
    token.hidden = how.value !== "steer";
  }
  function add(edit) {
    setView({ tray: [...state.view.tray, edit] }, { isStep: true });
    state.tab = "tray";
    keepState();
    showTab();
  }
  const change = (i, more) => setView({ tray: state.view.tray.map((edit, j) => (j === i ? { ...edit, ...more } : edit)) }, { isStep: true });
  const words = ({ part, how, amount, token }) => `${part}: ${HOWS[how] ?? how}${how === "scale" ? ` ${number(amount)}` : how === "steer" ? ` ${visible(String(token))}, ${number(amount)}` : ""}`;
  function draw() {
    const { tray } = state.view;
    fill(list, ...tray.map((edit, i) => el("li", { class: edit.on ? "" : "off" },
      el("label", {}, el("input", { type: "checkbox", checked: edit.on, onchange: () => change(i, { on: !edit.on }) }), " ", words(edit)),
      el("button", { type: "button", "aria-label": `take out ${words(edit)}`, onclick: () => setView({ tray: tray.filter((_, j) => j !== i) }, { isStep: true }) }, "×"))),
      tray.length ? null : el("li", { class: "dim" }, "Empty. Add a part above, or use the buttons of a head, an MLP or a cell of the stream."));
    all.textContent = tray.some((edit) => edit.on) ? "all off" : "all on";
    all.disabled = clear.disabled = !tray.length;
    undo.disabled = !before.length;
    if (!part.value && state.part) part.value = state.part;
    tabs.get("tray")?.replaceChildren(tray.some((edit) => edit.on) ? `Hands on (${tray.filter((edit) => edit.on).length})` : "Hands on");
    drawSides();
  }
  function drawSides() {
    const read = promptPanel.read();
    if (!read?.now) return fill(sides);
    const bars = (title, top) => el("div", {}, el("h4", {}, title), tokenBars(top.map((t) => t.text), (i) => top[i].probability, (i) => percent(top[i].probability), (i) => promptPanel.followedAs(top[i].id)));
    fill(sides, bars("without", read.before_top ?? read.now), read.before_top ? bars("with", read.now) : el("p", { class: "dim" }, "Nothing is on: both are the same."));
  }
  // The texts that follow, a token a piece, with and without.
  function load() {
    const going = { now: [], before: [] };
    draw();
    return ask("continue", "continuation", { n: GOES_ON }, {
      begin() { going.now = []; going.before = []; },
      piece(piece) {
        if (piece.kind === "note") return fill(story, el("p", { class: "dim" }, piece.text));
        if (piece.text === undefined) return;
        (going[piece.of] ??= []).push(piece.text);
        drawStory(going);
      },
      fail(sentence) { fill(story, problem(sentence)); },
    });
  }
  function drawStory(going) {
    const row = (title, texts) => el("div", {}, el("h4", {}, title), el("p", { class: "token x-story", dir: "auto" }, plainly(texts.join(""), 400)));
    fill(story, going.before.length ? row("without", going.before) : null, row(going.before.length ? "with" : "greedy", going.now));
  }
  fields();
  repaint.push(() => drawSides());
  return { add, draw, load };
})();
