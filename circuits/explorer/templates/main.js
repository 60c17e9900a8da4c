// What happens when: a change of the view asks again, the cheap questions first.
const TABS = { part: ["Part", partPanel.draw], stream: ["Stream", () => streamPanel.load()], tray: ["Hands on", () => trayPanel.load()], circuit: ["Circuits", () => {}], take: ["Take along", takePanel.draw] };
const tabs = new Map(Object.entries(TABS).map(([name, [title]]) => [name, el("button", {
  type: "button", role: "tab", id: `x-tab-${name}`, "aria-controls": `x-${name}`, onclick: () => chooseTab(name),
}, title)]));
fill(document.querySelector(".x-tabs"), ...tabs.values());
roving([...tabs.values()], () => 0, (i) => chooseTab([...tabs.keys()][i]));
function chooseTab(name) {
  state.tab = name;
  keepState();
  showTab();
  TABS[name][1]();
}
function showTab() {
  if (!tabs.has(state.tab)) state.tab = "part";
  for (const [name, button] of tabs) {
    const isHere = name === state.tab, panel = document.getElementById(`x-${name}`);
    button.setAttribute("aria-selected", isHere);
    button.tabIndex = isHere ? 0 : -1;
    panel.hidden = !isHere;
    panel.setAttribute("aria-labelledby", button.id);
  }
}

let quiet = null;
const QUIET = 90; // milliseconds without a key, before what is dear is asked
function everything(change = {}) {
  clearTimeout(quiet);
  if ("tray" in change) trayPanel.draw();
  for (const slot of ["attention", "map", "part", "stream", "cell", "continue", "circuit"]) slots.get(slot)?.abort();
  const asked = promptPanel.load();
  const isTyped = "prompt" in change || "contrast" in change;
  quiet = setTimeout(() => asked.then((isThere) => isThere && dear()), isTyped ? QUIET : 0);
}
function dear() {
  attentionOf.load();
  mapPanel.load();
  if (state.part) partPanel.open();
  else partPanel.draw();
  if (state.tab === "stream") streamPanel.load();
  else if (state.tab === "tray") trayPanel.load();
  if (state.circuit !== null) circuitPanel.load();
}
document.addEventListener("read", () => trayPanel.draw());

function showExamples(examples) {
  const place = document.getElementById("x-examples");
  place.hidden = !examples.length || Boolean(transport.isFixed);
  fill(place.querySelector(".x-cards"), ...examples.map(({ title, text, view, map }) => el("button", { type: "button", class: "card", onclick: () => {
    Object.assign(state, { what: map?.what ?? "ablate", method: map?.method ?? "zero", part: null, key: null, cell: null, tab: "part" });
    before.length = 0;
    state.view = { ...EMPTY_VIEW };
    setView({ ...EMPTY_VIEW, ...view });
    showTab();
    mapPanel.select();
  } }, el("strong", {}, title), el("span", {}, text))));
}
async function begin() {
  let examples = [];
  const isRestored = restore(location.hash.slice(1)) || restore(encodeURIComponent(JSON.stringify(DATA.start)));
  const isThere = await ask("about", "about", {}, {
    piece(piece) {
      if (piece.kind === "about") {
        Object.assign(model, { circuits: [] }, piece);
        model.name = piece.model;
        document.getElementById("x-model").textContent = plainly(piece.model, 60);
        document.title = `${plainly(piece.model, 60)} – circuits explore`;
        mapPanel.build();
      } else if (piece.kind === "terms") Object.assign(WORDS, piece.terms);
      else if (piece.kind === "examples") examples = piece.examples;
      else if (piece.kind === "circuits") model.circuits = piece.circuits;
    },
    fail(sentence) { fill(document.getElementById("x-map"), problem(sentence)); },
  });
  if (!isThere) return;
  listWords();
  circuitPanel.build();
  showExamples(examples);
  document.getElementById("x-examples").open = !isRestored;
  if (!isRestored && examples.length) state.view = { ...EMPTY_VIEW, ...examples[0].view };
  showTab();
  mapPanel.select();
  partPanel.draw();
  everything();
}
addEventListener("hashchange", () => {
  if (location.hash.slice(1) === stateText() || !restore(location.hash.slice(1))) return;
  showTab();
  mapPanel.select();
  everything({ tray: true });
});
begin();
