// Elements, and text in them. Text is text nodes and nothing else; what would be invisible or reorder what follows is
// shown as a mark; what is long is cut, and all of it poured in a piece at a time.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const CUT = 3000; // characters, or
const CUT_LINES = 48;
const PIECE = 8000; // characters of one block of a text that is shown whole
const MOST_PYTHON = 100_000; // characters that are highlighted
const MOST_MARKS = 200; // as elements of their own; past that they are plain text

const HOSTILE =
  // deno-lint-ignore no-control-regex -- they are what is looked for
  /(?:[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb]|\r(?!\n)|[\u{e0000}-\u{e007f}\u{e0100}-\u{e01ef}]|\p{Surrogate})+/gu;
const CONTROLS =
  ("NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC " +
    "FS GS RS US").split(" ");
const MARKS = new Map([
  ...CONTROLS.entries(),
  [0x7f, "DEL"],
  [0xad, "SHY"],
  [0x61c, "ALM"],
  [0x200b, "ZWSP"],
  [0x200e, "LRM"],
  [0x200f, "RLM"],
  [0x2028, "LS"],
  [0x2029, "PS"],
  [0x202a, "LRE"],
  [0x202b, "RLE"],
  [0x202c, "PDF"],
  [0x202d, "LRO"],
  [0x202e, "RLO"],
  [0x2060, "WJ"],
  [0x2066, "LRI"],
  [0x2067, "RLI"],
  [0x2068, "FSI"],
  [0x2069, "PDI"],
  [0xfeff, "BOM"],
]);

// An element with its children; what is hostile in their text is marked, whoever gave it.
function make(name, properties, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") element.className = value;
    else if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value === true ? "" : key === "value" ? value : visible(value));
  }
  const shown = children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...shown.map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

function markOf(character) {
  const code = character.codePointAt(0);
  return `[${MARKS.get(code) ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`}]`;
}

function marksOf(run) {
  return Array.from(run, markOf).join("");
}

// A text with its marks, as a plain string.
function visible(text) {
  return String(text).replace(HOSTILE, marksOf);
}

// The same as nodes. Returns its parent.
function put(parent, text) {
  let from = 0, marked = 0;
  for (const found of text.matchAll(HOSTILE)) {
    if (marked++ === MOST_MARKS) break;
    parent.append(text.slice(from, found.index));
    parent.append(
      make("span", { class: "mark", title: "a character that would not show" }, marksOf(found[0])),
    );
    from = found.index + found[0].length;
  }
  const rest = text.slice(from);
  parent.append(marked > MOST_MARKS ? visible(rest) : rest);
  return parent;
}

// One line of a text, at most so many characters, as a plain string.
function line(text, most = 160) {
  const head = String(text).slice(0, 4 * most).replace(/\s+/g, " ").trim();
  return visible(head.length > most ? `${head.slice(0, wholeEnd(head, most))}\u2026` : head);
}

function isolated(text, most) {
  return make("bdi", {}, line(text, most));
}

// The nearest place that splits no pair of surrogates.
function wholeEnd(text, at) {
  const code = text.charCodeAt(at - 1);
  return at < text.length && code >= 0xd800 && code < 0xdc00 ? at - 1 : at;
}

function cutOf(text, most = CUT, lines = CUT_LINES) {
  const end = Math.min(text.length, most);
  let at = -1;
  for (let count = 0; count < lines; count++) {
    at = text.indexOf("\n", at + 1);
    if (at < 0 || at >= end) return wholeEnd(text, end);
  }
  return at;
}

function endOfPiece(text, from) {
  if (text.length - from <= PIECE) return text.length;
  const newline = text.lastIndexOf("\n", from + PIECE);
  return newline > from + PIECE / 2 ? newline + 1 : wholeEnd(text, from + PIECE);
}

const boxes = new Map(); // the boxes that are in the page, by the key of their text

// A box of text: cut if it is long, with a way to see all; `python` has it highlighted.
function textBox(text, { key = null, python = false, kind = "", label = "Text" } = {}) {
  text = String(text);
  const pre = make("pre", {});
  const more = make("p", { class: "more" });
  const box = make(
    "div",
    { class: `text ${kind}`, tabindex: -1, role: "group", "aria-label": label },
    pre,
    more,
  );
  const fill = (parent, part) => (python && text.length < MOST_PYTHON ? putPython : put)(parent, part);
  const showWindow = (from, to) => {
    pre.replaceChildren();
    pre.className = "";
    if (from > 0) pre.append(make("span", { class: "gap" }, `\u2026 ${count(from)} characters before\n`));
    fill(pre, text.slice(from, to));
    if (to < text.length) pre.append(make("span", { class: "gap" }, " \u2026"));
    const all = make(
      "button",
      { type: "button", click: showAll },
      `Show all ${count(text.length)} characters`,
    );
    more.replaceChildren(...(from > 0 || to < text.length ? [all] : []));
  };
  const showAll = () => {
    const less = make("button", { type: "button", click: () => showWindow(0, cutOf(text)) }, "Show less");
    pre.replaceChildren();
    pre.className = "whole";
    pre.tabIndex = 0; // it scrolls
    more.replaceChildren(less);
    less.focus({ preventScroll: true });
    pour(pre, text, fill);
  };
  box.reveal = (offset, length) => {
    if (pre.className === "whole") showWindow(0, cutOf(text));
    const end = cutOf(text);
    if (offset + length > end) {
      const from = wholeEnd(text, Math.max(0, offset - 400));
      showWindow(from, wholeEnd(text, Math.min(text.length, from + CUT)));
    } else showWindow(0, end);
    return pre;
  };
  showWindow(0, cutOf(text));
  if (key !== null) boxes.set(key, box);
  return box;
}

// Appends a text a few blocks at a time, so that the page stays quick; blocks out of sight are not laid out.
function pour(pre, text, fill) {
  let from = 0;
  const some = () => {
    for (let blocks = 0; blocks < 12 && from < text.length; blocks++) {
      const to = endOfPiece(text, from);
      const block = make("div", { class: "piece" });
      fill(block, text.slice(from, to));
      pre.append(block);
      from = to;
    }
    if (from < text.length && pre.isConnected && pre.className === "whole") setTimeout(some);
  };
  some();
}

const folds = new Map(); // those in the page that have a key

// A line that opens: what is in it is made when it is opened first.
function fold(summary, build, { open = false, kind = "", key = null } = {}) {
  const head = make("summary", {}, summary);
  const details = make("details", { class: `fold ${kind}` }, head);
  details.build = () => {
    if (details.childElementCount === 1) details.append(...[build()].flat());
    details.open = true;
  };
  details.addEventListener("toggle", () => details.open && details.build());
  if (key !== null) folds.set(key, details);
  if (open) details.build();
  return details;
}

// Items of a long list, so many at a time.
function paged(parent, items, show, most = 50) {
  let shown = 0;
  const button = make("button", { type: "button", class: "page", click: () => more(most) });
  const more = (many) => {
    const next = items.slice(shown, shown + many).map(show);
    shown += next.length;
    button.remove();
    parent.append(...next);
    button.textContent = `Show ${count(Math.min(most, items.length - shown))} more of ${count(items.length)}`;
    if (shown < items.length) parent.append(button);
  };
  more(most);
  return (index) => index >= shown && more(index + 1 - shown);
}

const COUNT = new Intl.NumberFormat("en-US");

function count(value) {
  return COUNT.format(value);
}

function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

function seconds(value) {
  if (value === null || value === undefined) return "\u2013";
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  if (value < 99.5) return `${value.toFixed(value < 9.95 ? 2 : 1)} s`;
  const whole = Math.round(value), minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function dollars(value) {
  if (value === null || value === undefined) return "\u2013";
  if (value === 0) return "$0";
  return value < 0.0095 ? `$${Number(value.toPrecision(2))}` : `$${value.toFixed(value < 0.995 ? 3 : 2)}`;
}

function short(value) {
  if (value < 9999.5) return count(Math.round(value));
  return value < 999500 ? `${(value / 1e3).toFixed(value < 99950 ? 1 : 0)}k` : `${(value / 1e6).toFixed(2)}M`;
}
