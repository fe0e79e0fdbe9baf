// The timeline: every reply, cell and call of a run and its children, over time. Owns the walk through it by keys, pointer
// and zoom, and what is said of the span that is looked at; the picture is `picture.js`.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

class Timeline extends TimelinePicture {
  constructor(section, root, open) {
    super(root);
    this.open = open;
    this.build(section);
  }

  build(section) {
    this.frame = make(
      "div",
      {
        class: "frame",
        tabindex: 0,
        role: "application",
        "aria-describedby": "timeline-details",
        "aria-label":
          "Timeline: arrow keys go from span to span, Enter opens one, plus and minus zoom, 0 shows all",
      },
      this.canvas,
      this.spacer,
    );
    this.details = make("div", { id: "timeline-details", class: "details", "aria-live": "polite" });
    const button = (text, label, click) =>
      make("button", { type: "button", "aria-label": label, title: label, click }, text);
    section.replaceChildren(
      make(
        "div",
        { class: "title" },
        make("h2", { id: "timeline-title" }, "Timeline"),
        make(
          "ul",
          { class: "legend", "aria-label": "Colours" },
          this.kinds().map((kind) => make("li", { class: `kind-${kind}` }, KINDS[kind])),
        ),
        make(
          "span",
          { class: "buttons" },
          button("\u2212", "Zoom out (-)", () => this.zoom(1.6)),
          button("+", "Zoom in (+)", () => this.zoom(1 / 1.6)),
          button("Fit", "Show all (0)", () => this.fit()),
        ),
      ),
      this.frame,
      this.details,
    );
    this.colours();
    this.listen();
    this.tell(null);
  }

  kinds() {
    const seen = new Set(this.layout.bars.map((bar) => kindOf(bar.span)));
    return Object.keys(KINDS).filter((kind) => seen.has(kind));
  }

  listen() {
    const frame = this.frame;
    frame.addEventListener("keydown", (event) => this.key(event));
    frame.addEventListener(
      "focus",
      () => this.chosen === null && frame.matches(":focus-visible") && this.choose(this.layout.bars[0]),
    );
    frame.addEventListener("scroll", () => this.draw());
    frame.addEventListener("wheel", (event) => {
      if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(event.deltaY / 300), this.timeAt(event.offsetX));
      else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        this.pan((event.deltaX || event.deltaY) / this.width);
      } else return;
      event.preventDefault();
    }, { passive: false });
    let drag = null;
    frame.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, moved: false };
    });
    frame.addEventListener("pointermove", (event) => {
      if (drag && event.buttons) {
        const moved = event.clientX - drag.x;
        if (!drag.moved && Math.abs(moved) < 4) return;
        if (!drag.moved) frame.setPointerCapture(event.pointerId);
        drag = { x: event.clientX, moved: true };
        this.pan(-moved / this.width);
      } else this.hover(this.barAt(event));
    });
    frame.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved) this.choose(this.barAt(event));
      drag = null;
    });
    frame.addEventListener("pointercancel", () => (drag = null));
    frame.addEventListener("pointerleave", () => this.hover(null));
    frame.addEventListener("dblclick", (event) => this.enter(this.barAt(event)));
    new ResizeObserver(() => this.draw()).observe(frame);
  }

  zoom(by, around = (this.view[0] + this.view[1]) / 2) {
    const all = this.end - this.begin;
    const span = Math.min(all, Math.max(all * 1e-5, (this.view[1] - this.view[0]) * by));
    const from = around - (span * (around - this.view[0])) / (this.view[1] - this.view[0]);
    this.look(from, span);
  }

  pan(part) {
    const span = this.view[1] - this.view[0];
    this.look(this.view[0] + part * span, span);
  }

  look(from, span) {
    const start = Math.min(Math.max(from, this.begin), this.end - span);
    this.view = [start, start + span];
    this.draw();
  }

  fit() {
    this.look(this.begin, this.end - this.begin);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const bars = this.layout.bars, at = bars.indexOf(this.chosen);
    const keys = {
      ArrowRight: () => this.choose(bars[Math.min(at + 1, bars.length - 1)], true),
      ArrowLeft: () => this.choose(bars[Math.max(at - 1, 0)], true),
      ArrowDown: () => this.choose(this.beside(1), true),
      ArrowUp: () => this.choose(this.beside(-1), true),
      Home: () => this.choose(bars[0], true),
      End: () => this.choose(bars.at(-1), true),
      Enter: () => this.enter(this.chosen),
      Escape: () => this.choose(null),
      "+": () => this.zoom(1 / 1.6, this.middle()),
      "=": () => this.zoom(1 / 1.6, this.middle()),
      "-": () => this.zoom(1.6, this.middle()),
      0: () => this.fit(),
    };
    if (!Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
    event.stopPropagation();
  }

  middle() {
    const span = this.chosen?.span;
    const time = span ? (span.start + span.end) / 2 : NaN;
    return time >= this.view[0] && time <= this.view[1] ? time : undefined;
  }

  // The bar nearest in time in the next row, up or down, that has any.
  beside(step) {
    if (!this.chosen) return this.layout.bars[0];
    const { row, span } = this.chosen;
    const away = (bar) =>
      Math.max(bar.span.start - span.end, span.start - bar.span.end, 0) +
      Math.abs(bar.span.start - span.start) * 1e-6;
    let best = null;
    for (const bar of this.layout.bars) {
      const rows = (bar.row - row) * step;
      if (rows <= 0) continue;
      const bestRows = best ? (best.row - row) * step : Infinity;
      if (rows < bestRows || (rows === bestRows && away(bar) < away(best))) best = bar;
    }
    return best ?? this.chosen;
  }

  barAt(event) {
    const box = this.frame.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top - AXIS + this.frame.scrollTop;
    const row = Math.floor(y / this.lane);
    let best = null, nearest = 4;
    for (const bar of this.layout.bars) {
      if (bar.row !== row) continue;
      const away = Math.max(this.x(bar.span.start) - x, x - this.x(bar.span.end), 0);
      if (away < nearest || (away === 0 && nearest === 0)) [best, nearest] = [bar, away];
    }
    return best;
  }

  hover(bar) {
    if (bar === this.hovered) return;
    this.hovered = bar;
    this.tell(bar ?? this.chosen);
    this.draw();
  }

  choose(bar, show = false) {
    this.chosen = bar ?? null;
    if (bar && show) this.bring(bar);
    this.tell(bar);
    this.draw();
  }

  bring(bar) {
    const { start, end } = bar.span, [from, to] = this.view, span = to - from;
    if (end < from || start > to || (start < from && end < to)) this.look(start - span / 4, span);
    const top = bar.row * this.lane, seen = this.frame.clientHeight - AXIS - STRIP;
    if (top < this.frame.scrollTop) this.frame.scrollTop = top;
    else if (top + this.lane > this.frame.scrollTop + seen) this.frame.scrollTop = top + this.lane - seen;
  }

  enter(bar) {
    if (bar) this.open(bar.span);
  }

  tell(bar) {
    if (!bar) {
      const all = plural(this.layout.bars.length, "span");
      this.details.replaceChildren(
        make(
          "p",
          { class: "soft" },
          `${all} in ${
            seconds(this.end - this.begin)
          }. Point at one, or focus the timeline and use the arrow keys.`,
        ),
      );
      return;
    }
    const { span } = bar;
    this.details.replaceChildren(
      make(
        "p",
        { class: `kind-${kindOf(span)}` },
        make("strong", {}, titleOf(span)),
        ` ${nameOf(span.run)}, iteration ${span.iteration.number}`,
        make(
          "span",
          { class: "soft" },
          ` \u00b7 from ${seconds(span.start - this.begin)} on, for ${factsOf(span).join(" \u00b7 ")}`,
        ),
      ),
      make("p", { class: "said" }, isolated(saidOf(span), 240)),
      make("button", { type: "button", click: () => this.enter(bar) }, "Open"),
    );
  }
}
