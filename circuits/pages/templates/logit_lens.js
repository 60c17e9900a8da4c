// The logit lens: the grid, what colors it, and a card for the chosen cell.
(function () {
  const lens = DATA.view, { numbers, stages, positions } = lens;
  const choose = document.getElementById("lens-color");
  const grid = lensGrid(lens, { onshow: (i, j) => fill(document.getElementById("lens-card"), ...lensCard(lens, i, j)) });
  fill(choose, ...Object.keys(numbers).map((kind) => el("option", { value: kind }, numbers[kind].name)));
  fill(document.getElementById("lens-grid"), grid.box);
  function paint() {
    const [low, high] = grid.paint(choose.value);
    fill(document.getElementById("lens-scale"), scaleBar(sequential, low, high).box);
  }
  choose.addEventListener("change", paint);
  repaint.push(paint);
  paint();
  grid.show(stages.length - 1, positions.length - 1);
})();
