// Search over all that was said: every text is looked through a little at a time, and a hit opens where it stands.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const SLICE = 12; // milliseconds of looking before the page has its turn
const MOST_HITS = 5000; // places that are kept to jump to; more are counted
const MOST_LISTED = 100;

// Every text of a run and its children, once, with its place: [{label, kind, text, key, way, step | call}].
function* textsOf(model, root) {
  yield { label: "question", kind: "question", text: root.question, key: "question" };
  if (root.stopped?.response !== undefined) {
    yield { label: "answer", kind: "answer", text: root.stopped.response, key: "response" };
  } else if (root.stopped?.partial !== undefined) {
    yield { label: "partial answer", kind: "answer", text: root.stopped.partial, key: "partial" };
  }
  for (const [index, citation] of (root.stopped?.citations ?? []).entries()) {
    yield { label: "citation", kind: "citation", text: citation.text ?? "", key: `citation/${index}` };
  }
  for (const run of tree(root)) yield* textsOfRun(run);
  for (const call of model.calls.filter((one) => one.run.root === root)) {
    const label = `${nameOf(call.run)}, ${titleOf(call)}`, key = `${call.run.id}/call/${call.number}`;
    yield { label, kind: "prompt", text: call.prompt, key: `${key}/prompt`, call };
    // a child's answer stands with the child
    if (!call.child) yield { label, kind: "sub reply", text: call.reply, key: `${key}/answer`, call };
    if (call.error !== null) yield { label, kind: "error", text: call.error, key: `${key}/error`, call };
  }
}

function* textsOfRun(run) {
  const place = { label: nameOf(run), run };
  if (run.contextValue !== null) {
    yield {
      ...place,
      kind: "context",
      text: run.contextValue,
      key: `${run.id}/context`,
      way: `${run.id}/about`,
    };
  }
  if (run.parent && run.stopped?.response !== undefined) {
    yield { ...place, kind: "answer", text: run.stopped.response, key: `${run.id}/answer` };
  }
  if (run.stopped?.failure) {
    yield { ...place, kind: "error", text: run.stopped.failure, key: `${run.id}/failure` };
  }
  const known = new Set();
  for (const iteration of run.iterations) {
    for (const ask of iteration.asks) known.add(ask.text);
    known.add(iteration.observation);
  }
  for (const iteration of run.iterations) yield* textsOfIteration(iteration, known);
}

function* textsOfIteration(iteration, known) {
  const key = keyOf(iteration),
    place = { label: `${nameOf(iteration.run)}, iteration ${iteration.number}`, step: iteration };
  for (const [index, message] of iteration.asks.flatMap((ask) => ask.messages).entries()) {
    if (!known.has(message.content)) {
      yield {
        ...place,
        kind: "sent",
        text: message.content ?? "",
        key: `${key}/message/${index}`,
        way: `${key}/sent`,
      };
    }
  }
  for (const [index, ask] of iteration.asks.slice(0, -1).entries()) {
    yield {
      ...place,
      kind: "reply",
      text: ask.text ?? "",
      key: `${key}/between/${index}`,
      way: `${key}/asked/${index}`,
    };
  }
  for (const piece of piecesOf(iteration)) {
    if (!piece.cell) {
      yield { ...place, kind: "reply", text: piece.text, key: piece.key };
      continue;
    }
    const cell = piece.cell, done = cell.finished, at = `${key}/cell/${cell.number}`;
    yield { ...place, kind: "code", text: cell.code, key: `${at}/code` };
    if (done?.output) yield { ...place, kind: "output", text: done.output, key: `${at}/output` };
    if (done?.error) yield { ...place, kind: "error", text: done.error, key: `${at}/error` };
  }
  if (iteration.observation !== null) {
    yield {
      ...place,
      kind: "observation",
      text: iteration.observation,
      key: `${key}/observation`,
      way: `${key}/seen`,
    };
  }
  for (const called of iteration.functions) {
    const text = [called.arguments, called.named, called.error ?? called.value].filter(Boolean).join("\n");
    yield {
      ...place,
      label: `${place.label}, ${line(called.function, 40)}`,
      kind: "function",
      text,
      key: null,
    };
  }
}

class Search {
  // `open(place)` brings the place of a text into the page.
  constructor(model, root, open) {
    Object.assign(this, { model, root, open, at: -1, hits: [], total: 0, turn: 0 });
    this.query = document.getElementById("query");
    this.panel = document.getElementById("hits");
    this.query.oninput = () => {
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => this.look(), 150);
    };
    this.query.onkeydown = (event) => {
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") this.clear();
      else if (event.key === "ArrowDown" && !this.panel.hidden) this.panel.querySelector("button")?.focus();
      else return;
      event.preventDefault();
    };
    document.getElementById("next").onclick = () => this.step(1);
    document.getElementById("previous").onclick = () => this.step(-1);
    this.query.onfocus = () => (this.panel.hidden = !this.found?.length);
    this.panel.onkeydown = (event) => {
      const buttons = [...this.panel.querySelectorAll("button")],
        at = buttons.indexOf(document.activeElement);
      const to =
        { ArrowDown: buttons[at + 1], ArrowUp: buttons[at - 1] ?? this.query, Escape: this.query }[event.key];
      if (!to) return;
      if (event.key === "Escape") this.panel.hidden = true;
      to.focus();
      event.preventDefault();
      event.stopPropagation();
    };
    this.say("");
  }

  say(text) {
    document.getElementById("count").textContent = text;
    for (const id of ["next", "previous"]) document.getElementById(id).disabled = !this.hits.length;
  }

  clear() {
    this.query.value = "";
    this.panel.hidden = true;
    this.look();
    globalThis.CSS?.highlights?.clear();
    this.query.blur();
  }

  look() {
    const turn = ++this.turn, words = this.query.value;
    Object.assign(this, { hits: [], found: [], total: 0, at: -1, kinds: new Map() });
    if (!words.trim()) {
      this.panel.hidden = true;
      this.panel.replaceChildren();
      this.say("");
      return;
    }
    this.say("\u2026");
    const pattern = new RegExp(escaped(words), "giu"), texts = textsOf(this.model, this.root);
    const some = () => {
      if (turn !== this.turn) return;
      const until = performance.now() + SLICE;
      for (let next = texts.next(); !next.done; next = texts.next()) {
        this.lookIn(next.value, pattern);
        if (performance.now() > until) {
          this.say(`${count(this.total)}\u2026`);
          setTimeout(some);
          return;
        }
      }
      this.list();
    };
    some();
  }

  lookIn(place, pattern) {
    const text = String(place.text ?? "");
    let here = 0;
    for (const match of text.matchAll(pattern)) {
      if (this.hits.length < MOST_HITS) {
        this.hits.push({ place, offset: match.index, length: match[0].length });
      }
      if (here++ === 0 && this.found.length < MOST_LISTED) {
        this.found.push({ place, first: this.hits.length - 1, offset: match.index, length: match[0].length });
      }
    }
    if (!here) return;
    this.total += here;
    if (this.found.at(-1)?.place === place) this.found.at(-1).count = here;
    const kind = this.kinds.get(place.kind) ?? [0, 0];
    this.kinds.set(place.kind, [kind[0] + here, kind[1] + 1]);
  }

  list() {
    const places = [...this.kinds.values()].reduce((sum, [, texts]) => sum + texts, 0);
    const kinds = [...this.kinds].map(([kind, [hits]]) =>
      make("li", {}, `${kind} `, make("b", {}, count(hits)))
    );
    const items = this.found.map(({ place, first, offset, length, count: here }) => {
      const text = String(place.text), from = wholeEnd(text, Math.max(0, offset - 40));
      return make(
        "li",
        {},
        make(
          "button",
          { type: "button", click: () => ((this.at = first), this.jump()) },
          make(
            "span",
            { class: "soft" },
            `${place.label} \u00b7 ${place.kind}${here > 1 ? ` \u00b7 ${count(here)} hits` : ""}`,
          ),
          make(
            "bdi",
            { class: "snippet" },
            line(text.slice(from, offset), 60),
            from < offset && /\s/.test(text[offset - 1]) ? " " : "",
            make("mark", {}, line(text.slice(offset, offset + length), 80)),
            /\s/.test(text[offset + length] ?? "") ? " " : "",
            line(text.slice(offset + length, offset + length + 90), 80),
          ),
        ),
      );
    });
    const left = places - this.found.length;
    this.panel.replaceChildren(
      make(
        "p",
        { class: "soft" },
        this.total ? `${plural(this.total, "hit")} in ${plural(places, "text")}` : "No hits.",
      ),
      make("ul", { class: "kinds" }, kinds),
      make("ol", {}, items),
      ...(left > 0 ? [make("p", { class: "soft" }, `and in ${plural(left, "more text")}`)] : []),
    );
    this.panel.hidden = false;
    this.say(plural(this.total, "hit"));
  }

  step(by) {
    if (!this.hits.length) return;
    this.at = this.at < 0 && by < 0
      ? this.hits.length - 1
      : (this.at + by + this.hits.length) % this.hits.length;
    this.jump();
  }

  jump() {
    const { place, offset, length } = this.hits[this.at];
    this.panel.hidden = true;
    this.open(place);
    const box = place.key === null ? null : boxes.get(place.key);
    const target = box?.isConnected ? box.reveal(offset, length) : null;
    if (target) this.light(target, String(place.text), offset, length);
    this.say(`${count(this.at + 1)} of ${count(this.total)}`);
  }

  // Marks the hits in a box, without changing what is in it, and brings the one that is meant into view.
  light(target, text, offset, length) {
    const words = line(text.slice(offset, offset + length), 400), whole = target.textContent;
    const box = target.parentElement;
    if (globalThis.Highlight && words) {
      const pattern = new RegExp(escaped(words), "giu"), ranges = [];
      for (const match of whole.matchAll(pattern)) {
        const range = rangeOf(target, match.index, match.index + match[0].length);
        if (range) ranges.push(range);
        if (ranges.length >= 200) break;
      }
      CSS.highlights.set("hit", new Highlight(...ranges));
      const place = ranges.length && ranges[0].getBoundingClientRect();
      if (place && (place.top < 80 || place.bottom > innerHeight - 40)) {
        scrollBy(0, place.top - innerHeight / 3);
      } else if (!place) box.scrollIntoView({ block: "center" });
    } else box.scrollIntoView({ block: "center" });
    // who goes from hit to hit by Enter stays in the field
    if (document.activeElement !== this.query) box.focus({ preventScroll: true });
  }
}

function rangeOf(parent, from, to) {
  const walker = document.createTreeWalker(parent, NodeFilter.SHOW_TEXT), range = document.createRange();
  let begun = false;
  for (let at = 0, node = walker.nextNode(); node; at += node.length, node = walker.nextNode()) {
    if (!begun && from < at + node.length) {
      range.setStart(node, from - at);
      begun = true;
    }
    if (begun && to <= at + node.length) {
      range.setEnd(node, to - at);
      return range;
    }
  }
  return null;
}
