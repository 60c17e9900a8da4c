// Words that have an explanation: a button, underlined with dots, that tells it to pointer, key and finger.
const WORDS = {}; // from `about`, by the name of the term
const explain = document.getElementById("x-explain");
let explained = null;
const used = new Set(); // the terms that this page has shown
function term(name, text = name) {
  used.add(name);
  const button = el("button", { type: "button", class: "term", "aria-expanded": "false", onclick: () => {
    const isOpen = explained === button;
    closeTerm();
    if (!isOpen) openTerm(button, name);
  } }, text);
  return button;
}
function openTerm(button, name) {
  explained = button;
  button.setAttribute("aria-expanded", "true");
  fill(explain, el("strong", {}, name), " ", WORDS[name] ?? "has no explanation in this page.");
  explain.hidden = false;
  const at = button.getBoundingClientRect(), box = explain.getBoundingClientRect();
  const below = at.bottom + 6 + box.height < innerHeight;
  explain.style.left = `${Math.max(6, Math.min(at.left, innerWidth - box.width - 6))}px`;
  explain.style.top = `${below ? at.bottom + 6 : Math.max(6, at.top - box.height - 6)}px`;
  spoken.textContent = explain.textContent;
}
function closeTerm() {
  explained?.setAttribute("aria-expanded", "false");
  explained = null;
  explain.hidden = true;
}
addEventListener("keydown", (event) => event.key === "Escape" && closeTerm());
addEventListener("scroll", closeTerm, { passive: true, capture: true });
addEventListener("pointerdown", (event) => !event.target.closest(".term, #x-explain") && closeTerm());

function listWords() {
  fill(document.querySelector("#x-words dl"), ...Object.entries(WORDS).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}
