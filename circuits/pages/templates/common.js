"use strict";
// What all pages share. Text becomes text nodes, never markup: tokens and prompts are anybody's.

const DATA = JSON.parse(document.getElementById("data").textContent);
const night = matchMedia("(prefers-color-scheme: dark)");
const repaint = []; // what draws with colors, and draws again when light and dark change
night.addEventListener("change", () => repaint.forEach((paint) => paint()));

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

// A token with its spaces and breaks visible, and what acts on text (directions, controls) shown as a code.
function visible(token, longest = 40) {
  const names = { " ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r" };
  const shown = Array.from(token, (c) =>
    names[c] ?? (/[\p{C}\p{Zl}\p{Zp}]/u.test(c) && c !== "\u200d"
      ? "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") : c));
  const cut = shown.length > longest ? shown.slice(0, longest - 1).concat("…") : shown;
  return cut.join("") || "∅";
}

// Other text: only spaces at its ends and what acts on text are shown as such.
function plainly(text, longest = 200) {
  return visible(text, longest).replace(/(?<=[^·])·+(?=[^·])/gu, (dots) => " ".repeat(dots.length));
}

// A number for people; null is what is missing.
function number(x, digits = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (x === Infinity || x === -Infinity) return x > 0 ? "∞" : "−∞";
  if (Number.isInteger(x) && Math.abs(x) < 1e6) return String(x).replace("-", "−");
  const size = Math.abs(x);
  const text = size >= 1e6 || size < 0.5 * 10 ** -(digits + 1) ? x.toExponential(1)
    : x.toFixed(size < 0.5 * 10 ** -digits * 10 ? digits + 1 : digits);
  return text.replaceAll("-", "−");
}

function percent(p) {
  if (p === null || p === undefined) return "–";
  if (p > 0 && p < 0.0005) return "<0.1 %";
  return p >= 0.9995 && p < 1 ? ">99.9 %" : `${(100 * p).toFixed(1)} %`;
}

// Colors: stops of a scale and a place from 0 to 1 give red, green, blue.
function between(stops, t) {
  const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  return [1, 3, 5].map((k) => {
    const [a, b] = [stops[i], stops[i + 1]].map((hex) => parseInt(hex.slice(k, k + 2), 16));
    return Math.round(a + (b - a) * (at - i));
  });
}
const palette = () => DATA.palette[night.matches ? "dark" : "light"];
const NOTHING = [0, 0, 0, 0];
const sequential = (t) => (t === null || !(t >= 0) ? NOTHING : between(palette().sequential, t));
const diverging = (t) => (t === null || !Number.isFinite(t) ? NOTHING : between(palette().diverging, (t + 1) / 2));
const css = ([r, g, b, a = 1]) => `rgb(${r} ${g} ${b} / ${a})`;
const inkOn = ([r, g, b, a = 1]) => (a === 0 ? "" : 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111" : "#fff");

// The text beside the pointer, and the same for screen readers.
const tip = document.getElementById("tip");
const spoken = document.getElementById("spoken");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - box.width - 10 : x + 14;
  const top = y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
  spoken.textContent = text;
}
function hideTip() {
  tip.hidden = true;
}
addEventListener("scroll", hideTip, { passive: true, capture: true });
addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

// A heatmap: shape [rows, columns], color(i, j) as red, green, blue, and what a cell tells.
// Pointer and arrow keys go from cell to cell; onpick is told where a cell is chosen.
function heat({ shape: [rows, columns], color, tell, label, cell = [12, 12], onmove, onpick }) {
  const canvas = el("canvas", { width: columns, height: rows, role: "img", "aria-label": label });
  canvas.style.width = `${columns * cell[0]}px`;
  canvas.style.height = `${rows * cell[1]}px`;
  const mark = el("div", { class: "mark", hidden: true });
  const box = el("div", { class: "heat" }, canvas, mark);
  let at = null;
  function paint() {
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let i = 0, k = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        const [r, g, b, a = 1] = color(i, j);
        image.data[k++] = r; image.data[k++] = g; image.data[k++] = b; image.data[k++] = 255 * a;
      }
    context.putImageData(image, 0, 0);
  }
  function move(i, j, where) {
    at = [Math.min(Math.max(i, 0), rows - 1), Math.min(Math.max(j, 0), columns - 1)];
    const [w, h] = [canvas.clientWidth / columns, canvas.clientHeight / rows];
    Object.assign(mark.style, { left: `${1 + at[1] * w}px`, top: `${1 + at[0] * h}px`, width: `${w}px`, height: `${h}px` });
    mark.hidden = false;
    if (tell) {
      const frame = canvas.getBoundingClientRect();
      const [x, y] = where ?? [frame.left + (at[1] + 0.5) * w, frame.top + (at[0] + 0.5) * h];
      showTip(tell(...at), x, y);
    }
    onmove?.(...at);
  }
  function leave() {
    mark.hidden = true;
    hideTip();
    onmove?.(null, null);
  }
  if (tell || onmove) {
    canvas.tabIndex = 0;
    const point = (event) => {
      const i = Math.floor((event.offsetY / canvas.clientHeight) * rows);
      const j = Math.floor((event.offsetX / canvas.clientWidth) * columns);
      move(i, j, [event.clientX, event.clientY]);
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    // A lifted finger leaves, too, but what it pointed at is to be read then.
    canvas.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && leave());
    canvas.addEventListener("blur", leave);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (step) {
        event.preventDefault();
        event.stopPropagation(); // the page's own arrows wait until the heatmap is left
        const [i, j] = at ?? [-step[0], -step[1]];
        move(i + step[0], j + step[1]);
      } else if (onpick && at && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        onpick(...at);
      }
    });
  }
  if (onpick) canvas.addEventListener("click", () => at && onpick(...at));
  paint();
  return { box, paint, canvas };
}

// A heatmap with names at its rows and columns (either may be null).
function labeled(box, cell, rows, columns) {
  const side = (names, kind, size) =>
    el("div", { class: kind, "aria-hidden": "true" }, ...names.map((name) => {
      const one = el("div", {}, name);
      one.style[kind === "rows" ? "height" : "width"] = `${size}px`;
      return one;
    }));
  const across = columns?.every((name) => name.length <= 2) ? "columns short" : "columns";
  return el("div", { class: "labeled" },
    columns ? side(columns, across, cell[0]) : null,
    rows ? side(rows, "rows", cell[1]) : el("div"), box);
}

// The legend of a color scale.
function scaleBar(scale, low, high, text) {
  const canvas = el("canvas", { width: 64, height: 1, "aria-hidden": "true" });
  const paint = () => {
    const context = canvas.getContext("2d");
    for (let i = 0; i < 64; i++) {
      context.fillStyle = css(scale(i / 63));
      context.fillRect(i, 0, 1, 1);
    }
  };
  paint();
  return { box: el("span", { class: "scale" }, low, canvas, high, text ? ` ${text}` : null), paint };
}

// Bytes of a base64 text as an array of this type.
function unpack(text, Type) {
  return new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

// Arrow keys, Home and End go through a group of buttons; only the current one is a tab stop.
function roving(buttons, across, choose) {
  buttons.forEach((button, i) => {
    button.addEventListener("keydown", (event) => {
      const n = buttons.length, step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(), ArrowDown: across() }[event.key];
      const to = event.key === "Home" ? 0 : event.key === "End" ? n - 1 : step === undefined ? null : i + step;
      if (to === null || to < 0 || to >= n) return;
      event.preventDefault();
      event.stopPropagation();
      choose(to);
      buttons[to].focus();
    });
  });
}

// A figure that had to be made much smaller than it was drawn can be seen at its full size.
(function () {
  const figure = document.querySelector(".figure"), svg = figure?.querySelector("svg");
  const drawn = parseFloat(svg?.getAttribute("width")) * 4 / 3; // points to pixels
  if (!svg || svg.getBoundingClientRect().width > 0.75 * drawn) return;
  const button = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
    button.setAttribute("aria-pressed", figure.classList.toggle("full"));
  } }, "figure at full size");
  figure.before(el("div", { class: "bar" }, button));
})();
