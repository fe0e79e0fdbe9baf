// Spans, which are replies, cells, calls and host functions: in which rows they stand, and what they are in words.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

// Rows of all that a run did: [{span, row, under}], and how many rows.
function layOut(run) {
  const bars = [], blocks = [], ends = [];
  for (const iteration of run.iterations) {
    for (const ask of iteration.asks) bars.push({ span: ask, row: 0, under: run.parentCall });
    for (const cell of iteration.cells) bars.push({ span: cell, row: 0, under: run.parentCall });
  }
  const spans = run.iterations.flatMap((iteration) => [...iteration.calls, ...iteration.functions]);
  spans.sort((one, other) => one.start - other.start);
  const orphans = run.children.filter((child) => !child.parentCall).map((child) => ({
    child,
    start: child.start,
    end: child.end,
  }));
  for (const span of [...spans, ...orphans]) {
    const inner = span.child ? layOut(span.child) : null;
    const height = (span.kind ? 1 : 0) + (inner?.rows ?? 0);
    const end = Math.max(span.end, span.child?.end ?? 0);
    const row = freeRow(ends, span.start, height);
    ends.fill(end, row, row + height);
    if (span.kind) bars.push({ span, row: row + 1, under: span.cell ?? run.parentCall });
    if (!inner) continue;
    const top = row + 1 + (span.kind ? 1 : 0);
    blocks.push({ run: span.child, row: top, rows: inner.rows });
    for (const bar of inner.bars) bars.push({ ...bar, row: bar.row + top });
    for (const block of inner.blocks) blocks.push({ ...block, row: block.row + top });
  }
  return { bars, blocks, rows: 1 + ends.length };
}

// The first of so many rows on end that are free at a time; adds them where there are none.
function freeRow(ends, start, height) {
  let row = 0;
  for (let at = 0; at < ends.length && at - row < height; at++) if (ends[at] > start) row = at + 1;
  while (ends.length < row + height) ends.push(-Infinity);
  return row;
}

const KINDS = {
  reply: "Root model",
  cell: "Cell",
  call: "Sub call",
  child: "Child run",
  function: "Host function",
};

function kindOf(span) {
  return span.child || span.function?.startsWith("rlm_query") ? "child" : span.kind;
}

function failed(span) {
  return Boolean(span.error ?? span.finished?.error) || Boolean(span.open);
}

// The spans that a span waited for itself.
function below(span) {
  const asked = [...(span.calls ?? []), ...(span.functions ?? [])];
  return new Set([
    ...asked,
    ...(span.child?.iterations.flatMap((iteration) => [...iteration.asks, ...iteration.cells]) ?? []),
  ]);
}

function titleOf(span) {
  if (span.kind === "reply") return `reply ${span.iteration.number}`;
  if (span.kind === "cell") return `cell ${span.number}`;
  if (span.kind === "call") return `${line(span.function, 24)} ${span.number}`;
  return line(span.function, 40);
}

// How long it took and what, in short words.
function factsOf(span) {
  const facts = [seconds(span.end - span.start)];
  if (span.open) facts.push("never ended");
  if (span.waited > 0.0005) facts.push(`waited ${seconds(span.waited)} for a free place`);
  if (span.kind === "cell" && span.finished) facts.push(`computed ${seconds(span.finished.seconds ?? 0)}`);
  if (span.calls?.length) facts.push(plural(span.calls.length, "call"));
  if (span.input || span.output) facts.push(`${short(span.input)} tokens in, ${short(span.output)} out`);
  if (span.usd) facts.push(dollars(span.usd));
  if (span.cached) facts.push("kept from before");
  if (span.interrupted) facts.push("interrupted");
  return facts;
}

function saidOf(span) {
  if (span.kind === "reply") return span.text ?? "(no reply)";
  if (span.kind === "cell") return span.code;
  if (span.kind === "call") {
    return `${span.prompt.slice(0, 400)} \u2192 ${span.error ?? span.reply.slice(0, 400)}`;
  }
  return `${span.arguments} \u2192 ${span.error ?? span.value}`;
}
