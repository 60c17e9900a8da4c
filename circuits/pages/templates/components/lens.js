// The logit lens: a grid of top tokens, stage by stage from the bottom, a column for each position.
// A lens has stages, positions, after, answers, tokens, shares, numbers and takes_over.

const LENS_ENDS = { answer_rank: true, kl: true, entropy: true }; // where little is the striking end
function lensStrength({ numbers }, kind) {
  const most = Math.max(...numbers[kind].values.map((x) => x ?? 0), 1e-9);
  if (kind === "answer_rank") return { most, of: (x) => 1 - Math.log(x) / Math.log(Math.max(most, 2)) };
  return { most, of: LENS_ENDS[kind] ? (x) => 1 - x / most : (x) => x };
}
const lensColumn = ({ after, positions }, j) =>
  after.length ? `${visible(after[j])} (${positions[j]})` : String(positions[j]);

// onshow(i, j) is told which stage and column are pointed at, onpick which are chosen.
function lensGrid(lens, { onshow, onpick }) {
  const { stages, positions, after, tokens, takes_over } = lens, width = positions.length;
  const cells = [];
  let chosen = null;
  const rows = stages.map((stage, i) => el("tr", {}, el("th", { scope: "row" }, stage), ...positions.map((_, j) => {
    const k = i * width + j;
    const cell = el("td", {
      tabindex: -1, class: takes_over[k] ? "takes-over" : false,
      "aria-label": `stage ${stage}, after ${lensColumn(lens, j)}: ${visible(tokens[0][k])}`,
      onpointerenter: () => show(i, j), onfocus: () => show(i, j),
      onclick: () => { cell.focus({ preventScroll: true }); onpick?.(i, j); },
      onkeydown: (event) => go(event, i, j),
    }, visible(tokens[0][k], 12));
    cells.push(cell);
    return cell;
  })));
  const foot = el("tr", {}, el("th", {}, "after"), ...positions.map((p, j) =>
    el("th", { scope: "col", title: `position ${p}` }, after.length ? visible(after[j], 12) : String(p))));

  function go(event, i, j) {
    if (onpick && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      return onpick(i, j);
    }
    const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [a, b] = [i + step[0], j + step[1]];
    if (a >= 0 && a < stages.length && b >= 0 && b < width) cells[a * width + b].focus();
  }
  function show(i, j) {
    if (chosen) { chosen.classList.remove("chosen"); chosen.tabIndex = -1; }
    chosen = cells[i * width + j];
    chosen.classList.add("chosen");
    chosen.tabIndex = 0;
    onshow?.(i, j);
  }
  // Color the cells by one of the lens' numbers; returns the two ends of the scale in words.
  function paint(kind) {
    const { most, of } = lensStrength(lens, kind);
    lens.numbers[kind].values.forEach((x, k) => {
      const color = sequential(x === null ? null : of(x));
      cells[k].style.background = css(color);
      cells[k].style.color = inkOn(color);
    });
    if (kind === "answer_rank") return [number(most), "1"];
    return LENS_ENDS[kind] ? [number(most, 1), "0"] : ["0", "1"];
  }
  const table = el("table", { class: "lens-grid" }, el("tbody", {}, ...rows.reverse()), el("tfoot", {}, foot));
  return { box: table, show, paint };
}

// What is known of one cell.
function lensCard({ stages, positions, answers, tokens, shares, numbers, after }, i, j) {
  const k = i * positions.length + j;
  const facts = Object.keys(numbers).slice(1).flatMap((kind) => {
    const x = numbers[kind].values[k];
    return [el("dt", {}, numbers[kind].name), el("dd", {}, kind.endsWith("probability") ? percent(x) : number(x))];
  });
  return [
    el("h3", {}, `after ${lensColumn({ after, positions }, j)}, stage ${stages[i]}`),
    tokenBars(tokens.map((column) => column[k]), (t) => shares[t][k], (t) => percent(shares[t][k])),
    el("dl", {}, ...(answers.length ? [el("dt", {}, "final answer"), el("dd", { class: "token" }, visible(answers[j]))] : []), ...facts),
  ];
}
