// One run, step by step: what the model was sent, what it replied, its cells with what they printed, and what it was
// then shown.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const FEW = 12; // iterations that are open from the start
const FEW_CALLS = 6; // calls that are shown under a cell; the table has all

class Steps {
  // `go` has the ways to other parts of the page: `run(run)` and `calls(cell)`.
  constructor(parent, go) {
    this.parent = parent;
    this.go = go;
    this.run = null;
  }

  show(run) {
    if (run === this.run) return;
    this.run = run;
    this.folds = new Map();
    const list = make("div", { class: "iterations" });
    this.parent.replaceChildren(this.head(run), list);
    const open = run.iterations.length <= FEW;
    this.more = paged(list, run.iterations, (iteration) => this.iteration(iteration, open));
    if (!run.iterations.length) {
      list.append(make("p", { class: "empty" }, "Nothing is known of this run's iterations."));
    }
    const stopped = run.stopped;
    if (stopped && run.parent) list.append(answerOf(run, `${run.id}/answer`));
    if (stopped?.failure) {
      list.append(textBox(stopped.failure, { kind: "error", key: `${run.id}/failure`, label: "Failure" }));
    }
  }

  head(run) {
    const call = run.parentCall;
    const back = call &&
      make(
        "button",
        { type: "button", class: "link", click: () => this.go.call(call) },
        `answers ${titleOf(call)} of the ${nameOf(run.parent)}`,
      );
    return make(
      "header",
      { class: "run-head" },
      make(
        "h3",
        {},
        nameOf(run),
        make(
          "span",
          { class: "soft" },
          ` ${seconds(run.end - run.start)} \u00b7 ${plural(run.iterations.length, "iteration")} \u00b7 `,
          isolated(run.model, 60),
        ),
      ),
      back,
      run.parent
        ? textBox(run.question, { key: `${run.id}/question`, kind: "prose", label: "Question" })
        : null,
      fold("Context and settings", () => aboutRun(run), { key: `${run.id}/about` }),
    );
  }

  iteration(iteration, open) {
    const asks = iteration.asks;
    const facts = [seconds(iteration.seconds ?? iteration.end - iteration.start)];
    const tokens = sum(asks, "output");
    if (tokens) facts.push(`${short(sum(asks, "input"))} tokens in, ${short(tokens)} out`);
    if (asks.some((ask) => ask.usd)) facts.push(dollars(sum(asks, "usd")));
    if (iteration.calls.length) facts.push(plural(iteration.calls.length, "call"));
    const wrong = iteration.cells.some((cell) => cell.finished?.error);
    const code = iteration.cells[0]?.code ?? "";
    const head = make(
      "span",
      { class: "iteration-head" },
      make("span", { class: "number" }, iteration.number ? String(iteration.number) : "\u2022"),
      make(
        "code",
        {},
        isolated(code.split("\n").find((one) => one.trim() && !one.trim().startsWith("#")) ?? "no code", 100),
      ),
      wrong && make("span", { class: "wrong" }, "error"),
      make("span", { class: "soft" }, facts.join(" \u00b7 ")),
    );
    const details = fold(head, () => this.inside(iteration), { open, kind: "iteration" });
    this.folds.set(iteration, details);
    return details;
  }

  inside(iteration) {
    const key = keyOf(iteration), parts = [], asides = [];
    const aside = (text, build, id) => asides.push(fold(text, build, { key: id && `${key}/${id}` }));
    iteration.asks.slice(0, -1).forEach((ask, index) => {
      parts.push(
        fold(
          "Reply to a request in between",
          () => textBox(ask.text ?? "(no reply)", { key: `${key}/between/${index}` }),
          {
            key: `${key}/asked/${index}`,
          },
        ),
      );
    });
    const text = iteration.asks.at(-1)?.text ?? null;
    parts.push(
      ...piecesOf(iteration).map((piece) =>
        piece.cell
          ? this.cell(piece.cell)
          : textBox(piece.text, { kind: "prose", key: piece.key, label: "Reply" })
      ),
    );
    if (text === null && iteration.asks.length) {
      parts.push(make("p", { class: "note" }, "The model gave no reply."));
    }
    for (const replaced of iteration.replaced) {
      const lost = (replaced.lost ?? []).join(", ");
      parts.push(
        make(
          "p",
          { class: "note" },
          "The sandbox was lost: ",
          isolated(replaced.reason ?? "", 300),
          lost && [" Gone with it: ", isolated(lost, 300)],
        ),
      );
    }
    for (const { way, tokens_before: before, tokens_after: after } of iteration.shortened) {
      const words = `The messages were shortened (${way}), from ${count(before ?? 0)} tokens to ${
        count(after ?? 0)
      }.`;
      parts.push(make("p", { class: "note" }, words));
    }
    const sent = iteration.asks.flatMap((ask) => ask.messages);
    if (sent.length) {
      aside(
        `sent to the model: ${plural(sent.length, "new message")}`,
        () => sent.map(messageOf(key)),
        "sent",
      );
    }
    if (text !== null && iteration.cells.length) {
      aside("the reply as it came", () => textBox(text, { label: "Reply as it came" }), null);
    }
    if (iteration.observation !== null) {
      aside(
        "shown to the model",
        () => textBox(iteration.observation, { key: `${key}/observation`, label: "Observation" }),
        "seen",
      );
    }
    return [...parts, make("div", { class: "asides" }, asides)];
  }

  cell(cell) {
    const key = `${keyOf(cell.iteration)}/cell/${cell.number}`, done = cell.finished;
    const facts = [`cell ${cell.number}`, ...factsOf(cell)];
    if (done?.truncated) facts.push(`${count(done.truncated)} characters left out`);
    const parts = [
      make("p", { class: "cell-facts" }, facts.join(" \u00b7 ")),
      textBox(cell.code, { key: `${key}/code`, python: true, kind: "code", label: "Code" }),
      ...this.calls(cell),
    ];
    for (const called of cell.functions.slice(0, FEW_CALLS)) parts.push(functionOf(called));
    if (cell.functions.length > FEW_CALLS) {
      parts.push(fold(`${plural(cell.functions.length - FEW_CALLS, "more call")} of host functions`, () => {
        const rest = make("div", {});
        paged(rest, cell.functions.slice(FEW_CALLS), functionOf);
        return rest;
      }));
    }
    if (done?.output) {
      parts.push(textBox(done.output, { key: `${key}/output`, kind: "output", label: "Output" }));
    } else if (done && !done.error) parts.push(make("p", { class: "nothing" }, "printed nothing"));
    if (done?.error) parts.push(textBox(done.error, { key: `${key}/error`, kind: "error", label: "Error" }));
    if (done?.has_final) parts.push(make("p", { class: "note final" }, "Gave an answer to FINAL."));
    if (done?.lost?.length) {
      parts.push(
        make("p", { class: "note" }, "Lost with an earlier sandbox: ", isolated(done.lost.join(", "), 400)),
      );
    }
    if (done?.restored?.length) {
      parts.push(
        make("p", { class: "note" }, "Overwritten and put back: ", isolated(done.restored.join(", "), 400)),
      );
    }
    return make("div", { class: "cell" }, parts);
  }

  calls(cell) {
    if (!cell.calls.length) return [];
    const list = make(
      "ul",
      { class: "cell-calls" },
      cell.calls.slice(0, FEW_CALLS).map((call) =>
        make(
          "li",
          { class: `kind-${kindOf(call)}` },
          make("button", {
            type: "button",
            class: "link",
            click: () => (call.child ? this.go.run(call.child) : this.go.call(call)),
          }, call.child ? `${titleOf(call)}: ${nameOf(call.child)}` : titleOf(call)),
          make("span", { class: "soft" }, ` ${seconds(call.end - call.start)} `),
          isolated(call.prompt, 90),
          make("span", { class: "soft" }, " \u2192 "),
          call.error === null
            ? isolated(call.reply, 90)
            : make("span", { class: "wrong" }, isolated(call.error, 90)),
        )
      ),
    );
    if (cell.calls.length > FEW_CALLS) {
      list.append(
        make(
          "li",
          {},
          make(
            "button",
            { type: "button", class: "link", click: () => this.go.calls(cell) },
            `all ${count(cell.calls.length)} in the table of calls`,
          ),
        ),
      );
    }
    return [list];
  }

  // Opens an iteration, and gives its element.
  reveal(iteration) {
    this.show(iteration.run);
    this.more(iteration.run.iterations.indexOf(iteration));
    const details = this.folds.get(iteration);
    details?.build();
    return details;
  }

  openAll(open) {
    for (const details of this.folds.values()) {
      if (open) details.build();
      else details.open = false;
    }
  }
}

function keyOf(iteration) {
  return `${iteration.run.id}/${iteration.number}`;
}

// A reply as its prose and the cells in their places; a cell whose code does not stand in it comes after it.
function piecesOf(iteration) {
  const pieces = [], text = iteration.asks.at(-1)?.text ?? null;
  let from = 0;
  const prose = (to) => {
    let part = text.slice(from, to);
    if (iteration.cells.length) {
      part = part.replace(/^\s*(?:```|~~~)[^\S\n]*(?:\n|$)/, "").replace(/(?:```|~~~)[^\n]*\n?$/, "");
    }
    part = part.trim();
    if (part) pieces.push({ text: part, key: `${keyOf(iteration)}/prose/${pieces.length}` });
    from = to;
  };
  for (const cell of iteration.cells) {
    const code = cell.code.trim(), at = text === null || !code ? -1 : text.indexOf(code, from);
    if (at >= 0) prose(at);
    else if (text !== null && from === 0) prose(text.length);
    if (at >= 0) from = at + code.length;
    pieces.push({ cell });
  }
  if (text !== null && from < text.length) prose(text.length);
  return pieces;
}

function sum(items, name) {
  return items.reduce((total, item) => total + (item[name] ?? 0), 0);
}

function messageOf(key) {
  return (message, index) => {
    const codes = (message.calls ?? []).map((call) => call.code ?? "");
    const images = (message.images ?? []).map((image) => make("p", { class: "note" }, isolated(image, 200)));
    return make(
      "div",
      { class: "message" },
      make("p", { class: "role" }, visible(message.role ?? "")),
      textBox(message.content ?? "", { key: `${key}/message/${index}`, label: "Message" }),
      codes.map((code) => textBox(code, { python: true, kind: "code", label: "Code of a tool call" })),
      images,
    );
  };
}

function functionOf(called) {
  const head = make(
    "span",
    {},
    make("code", {}, isolated(called.function, 60)),
    make("span", { class: "soft" }, ` ${seconds(called.end - called.start)} `),
    called.error === null
      ? isolated(called.value, 80)
      : make("span", { class: "wrong" }, isolated(called.error, 80)),
  );
  return fold(head, () => [
    textBox([called.arguments, called.named].filter(Boolean).join("\n"), { label: "Arguments" }),
    textBox(called.error ?? called.value, {
      kind: called.error === null ? "output" : "error",
      label: "Value",
    }),
  ], { kind: "function" });
}

function aboutRun(run) {
  const parts = [make("p", {}, isolated(run.context, 600))];
  if (run.contextValue !== null) {
    parts.push(
      make("p", { class: "role" }, "context"),
      textBox(run.contextValue, { key: `${run.id}/context`, label: "Context" }),
    );
  }
  if (run.settings !== null) {
    parts.push(make("p", { class: "role" }, "settings"), textBox(run.settings, { label: "Settings" }));
  }
  return parts;
}
