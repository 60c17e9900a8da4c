// Take along: the command and the Python lines of what is shown, a link, a page, a figure.
const takePanel = (function () {
  const DRAWN = ["read", "map", "attention", "head", "lens"]; // questions with a figure
  const place = document.getElementById("x-take");
  const NAMES = { read: "tokens and predictions", map: "the map", attention: "attention", part: "the head or MLP", stream: "the stream", cell: "the cell of the stream", continue: "how it goes on", circuit: "the circuit" };
  let chosen = null; // by the user; what comes late would not be shown otherwise
  const choose = el("select", { id: "x-take-of", "aria-label": "which numbers", onchange: () => { chosen = choose.value; draw(); } }), lines = el("div", {}), trouble = el("div", { "aria-live": "polite" });
  fill(place, el("h2", {}, "Take it along"),
    el("div", { class: "bar" }, DATA.transport === "notebook" ? null : copy("copy the link to this state", () => location.href.split("#")[0] + "#" + stateText()),
      transport.isFixed ? null : el("button", { type: "button", onclick: save }, "save as page")), trouble,
    el("div", { class: "bar" }, el("label", {}, "the same numbers without this page: ", choose)), lines);

  function copy(label, text) {
    const button = el("button", { type: "button", onclick: async () => {
      const what = text();
      try {
        await navigator.clipboard.writeText(what);
      } catch { // no permission: the old way
        const area = el("textarea", {}, what);
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
        button.focus();
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    } }, label);
    return button;
  }
  function draw() {
    const names = Object.keys(NAMES).filter((slot) => takes.has(slot));
    fill(choose, ...names.map((slot) => el("option", { value: slot }, NAMES[slot])));
    choose.value = names.includes(chosen) ? chosen : names.includes("map") ? "map" : names[0] ?? "";
    const take = takes.get(choose.value);
    if (!take) return fill(lines, el("p", { class: "dim" }, "Nothing is shown yet."));
    const part = (title, text) => el("section", {}, el("div", { class: "bar" }, el("h3", {}, title), copy("copy", () => text)), el("pre", {}, el("code", {}, text)));
    fill(lines, take.command ? part("Command line", take.command) : el("p", { class: "dim" }, "No command gives these numbers; the Python lines do."), part("Python", take.python),
      transport.isFixed || !DRAWN.includes(take.question) ? null : el("div", { class: "bar" }, "Figure of it: ", ...["svg", "png"].map((format) => el("button", { type: "button", onclick: () => figure(take, format) }, format.toUpperCase()))));
  }
  function offer(content, type, name) {
    const link = el("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
  function save() {
    const shown = [...answered.values()].filter(({ question, view }) => question !== "page" && question !== "figure" && keyOf(view) === keyOf(state.view))
      .map(({ question, options }) => [question, options]);
    const more = [["read", {}], ["attention", {}], ["lens", {}], ["continuation", { n: GOES_ON }], ["map", { what: "direct" }], ["map", { what: "looks" }]];
    const every = new Map([["about", {}], ...more, ...shown].map(([question, options]) => [keyOf(question, options), { question, options }]));
    fill(trouble, el("p", { class: "dim" }, "Making the page…"));
    ask("page", "page", { answers: [...every.values()].slice(0, 100), start: JSON.stringify(state) }, {
      piece(piece) { if (piece.whole) fill(trouble, el("p", { class: "dim" }, `Making the page: ${piece.done} of ${piece.whole} answers.`)); if (piece.html !== undefined) { offer(piece.html, "text/html", "circuits-explore.html"); fill(trouble, el("p", { class: "dim" }, "Saved: the file opens without the server.")); } },
      fail(sentence) { fill(trouble, problem(sentence)); },
    });
  }
  function figure({ question, options }, format) {
    fill(trouble);
    ask("figure", "figure", { of: question, options, format }, {
      piece(piece) {
        if (piece.svg !== undefined) offer(piece.svg, "image/svg+xml", `${question}.svg`);
        if (piece.png !== undefined) offer(unpack(piece.png, Uint8Array), "image/png", `${question}.png`);
      },
      fail(sentence) { fill(trouble, problem(sentence)); },
    });
  }
  document.addEventListener("take", () => state.tab === "take" && draw());
  return { draw };
})();
