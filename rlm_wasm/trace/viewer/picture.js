// The picture of a timeline, on a canvas: each run has a row for its model and its cells; under it stand the calls, in as
// few rows as they fit, and under a call its child's run.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const AXIS = 22, STRIP = 34, SIDE = 10; // pixels
const TALLEST = 420;

class TimelinePicture {
  constructor(root) {
    this.root = root;
    this.layout = layOut(root);
    this.layout.bars.sort((one, other) => one.span.start - other.span.start || one.row - other.row);
    this.begin = root.start;
    this.end = Math.max(root.end, root.start + 1e-6);
    this.view = [this.begin, this.end];
    this.chosen = null;
    this.hovered = null;
    this.spent = this.spending();
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.spacer = make("div", { class: "spacer" });
  }

  // What had been spent by when: in dollars where any price is known, else in tokens.
  spending() {
    const all = [...charges(this.root)].filter(({ span }) => !span.open);
    this.priced = all.some(({ span }) => span.usd);
    all.sort((one, other) => one.span.end - other.span.end);
    let sum = 0;
    return all.map(({ span }) => [span.end, sum += this.priced ? span.usd ?? 0 : span.input + span.output]);
  }

  // The colours of the style sheet, as a canvas wants them.
  colours() {
    const probe = make("i", {});
    document.body.append(probe);
    this.colour = {};
    for (const name of ["ink", "soft", "line", "paper", "raised", "error", ...Object.keys(KINDS)]) {
      probe.style.color = `var(--${name})`;
      this.colour[name] = getComputedStyle(probe).color;
    }
    probe.remove();
  }

  get width() {
    return Math.max(1, this.frame.clientWidth - 2 * SIDE);
  }

  x(time) {
    return SIDE + ((time - this.view[0]) / (this.view[1] - this.view[0])) * this.width;
  }

  timeAt(x) {
    return this.view[0] + ((x - SIDE) / this.width) * (this.view[1] - this.view[0]);
  }

  // The spans that a span stands in: its cell, the call that its run answers, and so on.
  above(span) {
    const spans = new Set();
    for (let at = span; at && !spans.has(at);) {
      spans.add(at);
      at = at.kind === "call" || at.kind === "function" ? at.cell : at.run.parentCall;
    }
    return spans;
  }

  draw() {
    const ratio = globalThis.devicePixelRatio || 1, rows = this.layout.rows, room = TALLEST - AXIS - STRIP;
    this.lane = Math.min(20, Math.max(5, Math.floor(room / rows)));
    const tall = Math.min(TALLEST, AXIS + rows * this.lane + STRIP);
    const width = this.frame.clientWidth;
    this.frame.style.height = `${tall + 2}px`;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${tall}px`;
    this.spacer.style.height = `${rows * this.lane + AXIS + STRIP - tall}px`;
    this.canvas.width = width * ratio;
    this.canvas.height = tall * ratio;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = `11px ${getComputedStyle(this.frame).fontFamily}`;
    pen.textBaseline = "middle";
    pen.save();
    pen.beginPath();
    pen.rect(0, AXIS, width, tall - AXIS - STRIP);
    pen.clip();
    pen.translate(0, AXIS - this.frame.scrollTop);
    this.drawBlocks(pen);
    this.drawBars(pen);
    pen.restore();
    this.drawAxis(pen, width, tall);
    this.drawSpending(pen, width, tall);
  }

  drawBlocks(pen) {
    pen.fillStyle = this.colour.child;
    for (const { run, row, rows } of this.layout.blocks) {
      const from = this.x(run.start), to = this.x(run.end);
      pen.globalAlpha = 0.1;
      pen.fillRect(from, row * this.lane, Math.max(1, to - from), rows * this.lane);
    }
    pen.globalAlpha = 1;
  }

  drawBars(pen) {
    const focus = this.hovered ?? this.chosen;
    const lit = focus ? this.above(focus.span).union(below(focus.span)) : null;
    const top = this.frame.scrollTop - this.lane, bottom = this.frame.scrollTop + this.frame.clientHeight;
    const gap = this.lane > 8 ? 2 : 1;
    for (const bar of this.layout.bars) {
      const y = bar.row * this.lane;
      if (y < top || y > bottom || bar.span.end < this.view[0] || bar.span.start > this.view[1]) continue;
      this.drawBar(pen, bar.span, y + gap / 2, this.lane - gap, lit);
    }
    if (lit) this.drawWaiting(pen, focus, lit);
    for (const bar of [this.chosen, this.hovered]) {
      if (!bar) continue;
      const from = this.x(bar.span.start), to = Math.max(from + 2, this.x(bar.span.end));
      pen.lineWidth = bar === this.chosen ? 2 : 1;
      pen.strokeStyle = this.colour.ink;
      pen.strokeRect(from - 1, bar.row * this.lane - 0.5, to - from + 2, this.lane + 1);
    }
  }

  drawBar(pen, span, y, height, lit) {
    const from = Math.max(-5, this.x(span.start)), to = Math.min(this.width + 2 * SIDE + 5, this.x(span.end));
    const wide = Math.max(1.5, to - from - (to - from > 4 ? 1 : 0));
    const bright = !lit || lit.has(span) ? 1 : 0.4;
    pen.fillStyle = failed(span) ? this.colour.error : this.colour[kindOf(span)];
    const waited = span.waited ? Math.min(wide, Math.max(0, this.x(span.start + span.waited) - from)) : 0;
    pen.globalAlpha = bright * 0.3;
    if (waited) pen.fillRect(from, y, waited, height);
    pen.globalAlpha = bright * (span.cached ? 0.5 : 1);
    pen.fillRect(from + waited, y, Math.max(1, wide - waited), height);
    const begin = Math.max(from + waited, SIDE), room = from + wide - begin - 8;
    const name = height > 11 && room > 8
      ? [titleOf(span), String(span.number ?? "")].find((one) => pen.measureText(one).width < room)
      : "";
    if (name) {
      pen.fillStyle = this.colour.paper;
      pen.fillText(name, begin + 4, y + height / 2 + 0.5);
    }
    pen.globalAlpha = 1;
  }

  // Lines from a span up to those that wait for it, at its start and at its end.
  drawWaiting(pen, focus, lit) {
    pen.strokeStyle = this.colour.ink;
    pen.lineWidth = 1;
    pen.setLineDash([2, 2]);
    pen.beginPath();
    const rows = this.layout.bars.filter((bar) => lit.has(bar.span)).map((bar) => bar.row);
    const highest = (Math.min(...rows) + 1) * this.lane;
    for (const time of [focus.span.start, focus.span.end]) {
      const x = Math.round(this.x(time)) + 0.5;
      pen.moveTo(x, highest);
      pen.lineTo(x, focus.row * this.lane);
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  drawAxis(pen, width, tall) {
    const [from, to] = this.view, most = Math.max(2, Math.floor(width / 90));
    const rough = (to - from) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough);
    pen.fillStyle = this.colour.soft;
    pen.strokeStyle = this.colour.line;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let tick = Math.ceil((from - this.begin) / step); tick * step <= to - this.begin; tick++) {
      const x = Math.round(this.x(this.begin + tick * step)) + 0.5;
      pen.moveTo(x, AXIS - 5);
      pen.lineTo(x, tall - STRIP);
      const label = tick === 0 ? "0" : seconds(Number((tick * step).toPrecision(6)));
      if (x + 30 < width) pen.fillText(label, x + 4, AXIS / 2);
    }
    pen.globalCompositeOperation = "destination-over";
    pen.stroke();
    pen.globalCompositeOperation = "source-over";
  }

  drawSpending(pen, width, tall) {
    const top = tall - STRIP + 6, bottom = tall - 3, all = this.spent.at(-1)?.[1] ?? 0;
    pen.strokeStyle = this.colour.line;
    pen.beginPath();
    pen.moveTo(0, tall - STRIP + 0.5);
    pen.lineTo(width, tall - STRIP + 0.5);
    pen.stroke();
    if (!all) return;
    const y = (sum) => bottom - (sum / all) * (bottom - top);
    pen.beginPath();
    pen.moveTo(this.x(this.begin), bottom);
    let last = 0;
    for (const [time, sum] of this.spent) {
      const x = this.x(time);
      pen.lineTo(x, y(last));
      pen.lineTo(x, y(sum));
      last = sum;
    }
    pen.lineTo(this.x(this.end), y(last));
    pen.strokeStyle = this.colour.soft;
    pen.stroke();
    pen.lineTo(this.x(this.end), bottom);
    pen.fillStyle = this.colour.soft;
    pen.globalAlpha = 0.14;
    pen.fill();
    pen.globalAlpha = 1;
    pen.fillText(
      `spent so far: ${this.priced ? dollars(all) : `${short(all)} tokens`} at the end`,
      SIDE + 2,
      top + 5,
    );
  }
}
