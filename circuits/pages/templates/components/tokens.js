// Tokens in a row, their spaces visible. They are buttons where one can be pointed at or picked;
// arrow keys go through them. text, label, kind and title are asked for each index.
function tokenRow({ tokens, text = (i) => visible(tokens[i]), label, kind, title, onpoint, onpick, at = 0, box = null }) {
  const isActive = Boolean(onpoint || onpick);
  const nodes = tokens.map((_, i) => el(isActive ? "button" : "span", {
    type: isActive ? "button" : false, tabindex: isActive ? (i === at ? 0 : -1) : false,
    class: kind?.(i) || false, title: title?.(i), "aria-label": label?.(i),
    ...(onpoint ? { onpointerenter: () => onpoint(i), onfocus: () => onpoint(i) } : {}),
    ...(onpick ? { onclick: () => onpick(i) } : {}),
  }, text(i)));
  if (isActive) roving(nodes, () => 1, (i) => nodes.forEach((node, j) => { node.tabIndex = i === j ? 0 : -1; }));
  const row = box ?? el("div", { class: "token-row" });
  fill(row, ...nodes);
  return { box: row, nodes };
}

// A long row turns to one of its tokens; the page stays where it is.
function turnTo(box, node) {
  const [row, token] = [box.getBoundingClientRect(), node.getBoundingClientRect()];
  if (token.top < row.top || token.bottom > row.bottom) box.scrollTop += token.top - row.top - row.height / 2;
}

// Tokens with bars beside them, as long as size (0 to 1) says, and what each is worth in words; kind
// gives a class to those that are marked.
function tokenBars(labels, size, tell, kind = () => "") {
  return el("div", { class: "token-bars" }, ...labels.flatMap((label, i) => {
    const mark = kind(i) ? ` ${kind(i)}` : "";
    const bar = el("div", { class: "share" + mark });
    bar.style.width = `${100 * (size(i) ?? 0)}%`;
    return [el("span", { class: "token" + mark }, visible(label)), bar, el("span", {}, tell(i))];
  }));
}
