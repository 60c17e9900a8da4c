// Ways to ask: each has ask(slot, question, view, options, onpiece, signal) -> promise of seconds.
// A promise fails with an Error whose message is a sentence; it never settles twice.

class Lost extends Error {} // nobody answers: worth another try
const CLIENT = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

// The server that the page came from: an answer is a stream of lines of JSON.
function httpTransport() {
  const token = new URL(location.href).searchParams.get("token") ?? "";
  async function ask(slot, question, view, options, onpiece, signal) {
    let answer;
    try {
      answer = await fetch(new URL("ask", location.href), {
        method: "POST", signal, cache: "no-store",
        headers: { "Content-Type": "application/json", "X-Circuits-Token": token },
        body: JSON.stringify({ client: CLIENT, slot, question, view, options }),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Lost("the server does not answer");
    }
    const reader = answer.body.getReader(), decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Lost("the server stopped in the middle of an answer");
      }
      const lines = (rest + decoder.decode(part.value ?? new Uint8Array(), { stream: !part.done })).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line) continue;
        const said = parsed(line, answer);
        if (said.piece) onpiece(said.piece);
        else if (said.error) throw new Error(said.error);
        else if (said.dropped) throw new DOMException("a newer question took its place", "AbortError");
        else if (said.done) return said.seconds;
      }
      if (part.done) break;
    }
    if (!answer.ok) throw new Error(plainly(rest) || `the server refused (${answer.status})`);
    throw new Lost("the server stopped in the middle of an answer");
  }
  const parsed = (line, answer) => {
    try {
      return JSON.parse(line);
    } catch {
      throw new Error(answer.ok ? "the server's answer could not be read" : plainly(line));
    }
  };
  return { ask };
}

// The window that shows this page in a frame, a notebook's, relays questions and answers.
function notebookTransport() {
  const waiting = new Map();
  let last = 0;
  addEventListener("message", (event) => {
    const said = event.data, asked = event.source === parent && waiting.get(said?.id);
    if (!asked) return;
    if (said.circuits === "piece") return asked.onpiece(said.piece);
    waiting.delete(said.id);
    if (said.circuits === "done") asked.resolve(said.seconds);
    else asked.reject(said.circuits === "dropped" ? new DOMException("dropped", "AbortError") : new Error(String(said.error)));
  });
  function ask(slot, question, view, options, onpiece, signal) {
    return new Promise((resolve, reject) => {
      const id = `${CLIENT}:${++last}`;
      waiting.set(id, { resolve, reject, onpiece });
      signal?.addEventListener("abort", () => {
        if (!waiting.delete(id)) return;
        parent.postMessage({ circuits: "drop", id }, "*");
        reject(new DOMException("dropped", "AbortError"));
      });
      parent.postMessage({ circuits: "ask", id, client: CLIENT, slot, question, view, options }, "*");
    });
  }
  return { ask };
}

// A saved page: only what was recorded can be had.
const ordered = (x) => (Array.isArray(x) ? x.map(ordered) : x && typeof x === "object"
  ? Object.fromEntries(Object.keys(x).sort().map((key) => [key, ordered(x[key])])) : x);
const keyOf = (...parts) => JSON.stringify(ordered(parts));
function recordedTransport() {
  const known = new Map(DATA.recorded.map(({ question, options, pieces }) => [keyOf(question, options ?? {}), pieces]));
  const start = () => keyOf({ ...EMPTY_VIEW, ...DATA.start.view });
  async function ask(slot, question, view, options, onpiece) {
    await null;
    const pieces = known.get(keyOf(question, options));
    const isHere = question === "about" || keyOf(view) === start();
    if (!pieces || !isHere) throw new Error("This is a saved page: it holds what was looked at when it was saved, and not this. `circuits explore` answers it.");
    pieces.forEach(onpiece);
    return 0;
  }
  return { ask, isFixed: true };
}

const transport = { http: httpTransport, notebook: notebookTransport, recorded: recordedTransport }[DATA.transport]();
