// The logit lens as a grid of top tokens, with a card for the chosen cell.
(function () {
  const { stages, positions, after, answers, tokens, shares, numbers, takes_over } = DATA.view;
  const width = positions.length;
  const kinds = Object.keys(numbers);
  const most = {};
  for (const kind of kinds) most[kind] = Math.max(...numbers[kind].values.map((x) => x ?? 0), 1e-9);
  // From 0 (plain) to 1 (dark): small ranks and divergences are the striking ones.
  const strength = {
    probability: (x) => x, answer_probability: (x) => x,
    answer_rank: (x) => 1 - Math.log(x) / Math.log(Math.max(most.answer_rank, 2)),
    kl: (x) => 1 - x / most.kl, entropy: (x) => 1 - x / most.entropy,
  };
  const ends = {
    answer_rank: () => [number(most.answer_rank), "1"],
    kl: () => [number(most.kl, 1), "0"], entropy: () => [number(most.entropy, 1), "0"],
  };
  const choose = document.getElementById("lens-color");
  fill(choose, ...kinds.map((kind) => el("option", { value: kind }, numbers[kind].name)));
  const cells = [];
  let chosen = null;

  const rows = stages.map((stage, i) => {
    const line = positions.map((_, j) => {
      const k = i * width + j;
      const cell = el("td", {
        tabindex: -1, class: takes_over[k] ? "takes-over" : false,
        "aria-label": `stage ${stage}, after ${label(j)}: ${visible(tokens[0][k])}`,
        onpointerenter: () => show(i, j), onfocus: () => show(i, j),
        onclick: () => cell.focus(),
        onkeydown: (event) => go(event, i, j),
      }, visible(tokens[0][k], 12));
      cells.push(cell);
      return cell;
    });
    return el("tr", {}, el("th", { scope: "row" }, stage), ...line);
  });
  function label(j) {
    return after.length ? `${visible(after[j])} (${positions[j]})` : String(positions[j]);
  }
  const foot = el("tr", {}, el("th", {}, "after"), ...positions.map((p, j) =>
    el("th", { scope: "col", title: `position ${p}` }, after.length ? visible(after[j], 12) : String(p))));
  fill(document.getElementById("lens-grid"), el("table", {}, el("tbody", {}, ...rows.reverse()), el("tfoot", {}, foot)));

  function go(event, i, j) {
    const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [a, b] = [i + step[0], j + step[1]];
    if (a >= 0 && a < stages.length && b >= 0 && b < width) cells[a * width + b].focus();
  }
  function show(i, j) {
    const k = i * width + j;
    if (chosen) { chosen.classList.remove("chosen"); chosen.tabIndex = -1; }
    chosen = cells[k];
    chosen.classList.add("chosen");
    chosen.tabIndex = 0;
    const top = el("div", { class: "lens-top" }, ...tokens.flatMap((column, t) => {
      const bar = el("div", { class: "share" });
      bar.style.width = `${100 * (shares[t][k] ?? 0)}%`;
      return [el("span", { class: "token" }, visible(column[k])), bar, el("span", {}, percent(shares[t][k]))];
    }));
    const facts = kinds.slice(1).flatMap((kind) => {
      const x = numbers[kind].values[k];
      return [el("dt", {}, numbers[kind].name), el("dd", {}, kind.endsWith("probability") ? percent(x) : number(x))];
    });
    fill(document.getElementById("lens-card"),
      el("h3", {}, `after ${label(j)}, stage ${stages[i]}`), top,
      el("dl", {}, ...(answers.length ? [el("dt", {}, "final answer"), el("dd", { class: "token" }, visible(answers[j]))] : []), ...facts));
  }
  function paint() {
    const kind = choose.value;
    numbers[kind].values.forEach((x, k) => {
      const color = sequential(x === null ? null : (strength[kind] ?? ((share) => share))(x));
      cells[k].style.background = css(color);
      cells[k].style.color = inkOn(color);
    });
    const [low, high] = (ends[kind] ?? (() => ["0", "1"]))();
    fill(document.getElementById("lens-scale"), scaleBar(sequential, low, high).box);
  }
  choose.addEventListener("change", paint);
  repaint.push(paint);
  paint();
  show(stages.length - 1, width - 1);
})();
