// What is looked at, kept in the address; and asking about it, so that only the newest answer of a
// slot is shown, and a server that is away is waited for. Nothing is kept here: a notebook's model may
// have been edited meanwhile, and the desk keeps what it knows.
const EMPTY_VIEW = { prompt: "", contrast: null, at: -1, answer: null, distractor: null, tray: [] };
const state = { view: { ...EMPTY_VIEW }, what: "ablate", method: "zero", part: null, key: null, tab: "part", cell: null, circuit: null };
const KEPT = Object.keys(state);
const model = {}; // what `about` says

function restore(text) {
  let given = {};
  try {
    given = JSON.parse(decodeURIComponent(text)) ?? {};
  } catch {
    return false;
  }
  if (typeof given !== "object" || typeof given.view?.prompt !== "string") return false;
  for (const name of KEPT) if (name in given) state[name] = given[name];
  state.view = { ...EMPTY_VIEW, ...given.view };
  return true;
}
const stateText = () => encodeURIComponent(JSON.stringify(state).replace(/[\ud800-\udfff]/gu, "\ufffd")).replaceAll("%3A", ":").replaceAll("%2C", ",");
let keeping = null;
function keepState() { // browsers allow some 100 of these in 30 seconds
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    try {
      history.replaceState(null, "", `#${stateText()}`);
    } catch { /* a frame without an address of its own */ }
  }, 250);
}

// Steps back: what the tray was.
const before = [];
function setView(change, { isStep = false } = {}) {
  if (isStep) before.push(state.view.tray);
  state.view = { ...state.view, ...change };
  keepState();
  everything(change);
}

const slots = new Map(); // slot -> AbortController of its newest question
const answered = new Map(); // what was answered, the latest last: a saved page is to hold it
const MOST_ANSWERS = 160;
const takes = new Map(); // slot -> how the numbers shown there are had without the page
const line = document.getElementById("x-line");
const waits = new Map(); // slot -> words for what takes long
let isAway = false;

function sayLine() {
  const long = [...waits.values()];
  line.textContent = isAway ? "The server does not answer. Trying again; what you see stays." : long.length ? `working: ${long.join(", ")}` : "";
  line.classList.toggle("away", isAway);
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("stale", "AbortError")); });
});

// Ask for a slot. show.begin() is called before the first piece (again after a lost connection),
// show.piece(piece, known) for each; returns true when all is there, false when it went stale or
// failed (show.fail(sentence) is told then).
async function ask(slot, question, options, show, whole = null) {
  slots.get(slot)?.abort();
  waits.delete(slot);
  const control = new AbortController(), view = state.view;
  slots.set(slot, control);
  const isNewest = () => slots.get(slot) === control;
  const key = keyOf(question, options, question === "about" ? null : view);
  const take = (piece) => {
    if (piece.kind === "take") takes.set(slot, { question, options, ...piece });
    else show.piece?.(piece);
    if (piece.kind === "take") document.dispatchEvent(new Event("take"));
  };
  let n = 0;
  const slow = setTimeout(function tell() {
    if (!isNewest()) return;
    waits.set(slot, whole ? `${question}, ${n} of ${whole()}` : question);
    sayLine();
    control.timer = setTimeout(tell, 250);
  }, 500);
  const over = () => {
    clearTimeout(slow);
    clearTimeout(control.timer);
    if (isNewest()) waits.delete(slot);
    sayLine();
  };
  for (let tries = 0; ; tries++) {
    try {
      let isBegun = false;
      n = 0;
      await transport.ask(slot, question, view, options, (piece) => {
        if (!isNewest()) return;
        if (isAway) { isAway = false; sayLine(); }
        if (!isBegun) show.begin?.();
        isBegun = true;
        n += piece.kind === "layer";
        take(piece);
      }, control.signal);
      over();
      if (!isNewest()) return false;
      answered.delete(key);
      answered.set(key, { question, options, view });
      if (answered.size > MOST_ANSWERS) answered.delete(answered.keys().next().value);
      return true;
    } catch (error) {
      if (error.name === "AbortError" || !isNewest()) { over(); return false; }
      if (!(error instanceof Lost)) {
        isAway = false;
        over();
        takes.delete(slot);
        show.fail?.(error.message);
        return false;
      }
      isAway = true;
      sayLine();
      try {
        await pause(Math.min(0.5 * 2 ** tries, 4), control.signal);
      } catch { over(); return false; }
    }
  }
}
function forget(slot) { // nobody waits for this any more
  slots.get(slot)?.abort();
  slots.delete(slot);
  takes.delete(slot);
  waits.delete(slot);
}
const problem = (sentence) => el("p", { class: "problem", role: "alert" }, plainly(sentence, 600));
const countOf = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const signed = (x, digits = 3) => (x === null || x === undefined ? "–" : (x > 0 ? "+" : "") + number(x, digits));
