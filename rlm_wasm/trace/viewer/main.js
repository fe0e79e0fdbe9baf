// Puts the parts together: the answer on top, what leads from one part to another, the keys, the colours.
"use strict";

const KEYS = [
  ["/", "search everything"],
  ["n  N", "next hit, previous hit"],
  ["j  k", "next iteration, previous iteration"],
  ["[  ]", "previous run, next run"],
  ["e", "open or shut all iterations"],
  ["1 \u2026 5", "go to answer, timeline, steps, calls, costs"],
  ["t", "colours: as the system, light, dark"],
  ["?", "this list"],
  ["Esc", "leave the search, shut this list"],
  ["\u2190 \u2192 \u2191 \u2193", "in the timeline: from span to span; in the tree: from run to run"],
  ["+  -  0", "in the timeline: zoom in, zoom out, show all"],
  ["Enter", "open what is chosen"],
];
const SECTIONS = ["answer", "timeline", "steps", "calls", "costs"];

// The facts of a whole run, as pairs of a name and a value.
function figures(root) {
  const stopped = root.stopped, all = [...tree(root)];
  const models = new Set([root.model, ...[...charges(root)].map(({ span }) => span.model)].filter(Boolean));
  const paid = [...charges(root)];
  const input = stopped ? stopped.input_tokens ?? 0 : paid.reduce((total, { span }) => total + span.input, 0);
  const output = stopped
    ? stopped.output_tokens ?? 0
    : paid.reduce((total, { span }) => total + span.output, 0);
  return [
    ["stopped by", stopped ? stopped.stopped_by : "cut off"],
    ["time", seconds(stopped?.seconds ?? root.end - root.start)],
    ["dollars", stopped ? (stopped.usd === undefined ? "unknown" : dollars(stopped.usd)) : "\u2013"],
    ["tokens in", `${stopped?.estimated ? "~" : ""}${count(input)}`],
    ["tokens out", `${stopped?.estimated ? "~" : ""}${count(output)}`],
    ["model calls", count(stopped?.calls ?? paid.length)],
    ["iterations", count(root.iterations.filter((iteration) => iteration.number).length)],
    ...(all.length > 1 ? [["child runs", count(all.length - 1)]] : []),
    [
      models.size > 1 ? "models" : "model",
      [...models].slice(0, 6).map((name) => line(name, 60)).join(", ") || "\u2013",
    ],
  ];
}

function answerOf(run, key) {
  const stopped = run.stopped;
  if (stopped?.response !== undefined) {
    const kind = stopped.response_type === "str" ? "prose" : "value";
    return textBox(stopped.response, {
      kind: `answer ${kind}`,
      key,
      python: kind === "value",
      label: "Answer",
    });
  }
  if (stopped?.partial !== undefined) {
    return make(
      "div",
      {},
      make("p", { class: "note" }, "There is no answer. This came nearest:"),
      textBox(stopped.partial, {
        kind: "answer value",
        key: key === "response" ? "partial" : key,
        label: "What came nearest",
      }),
    );
  }
  return make(
    "p",
    { class: "empty" },
    stopped ? "The run ended without an answer." : "The run was cut off, or is not over.",
  );
}

function citationsOf(stopped) {
  const citations = stopped?.citations ?? [];
  if (!citations.length) return null;
  const found = citations.filter((citation) => citation.found).length;
  const list = make("ol", { class: "citations" });
  paged(list, [...citations.entries()], ([index, citation]) => {
    const where = citation.found
      ? [
        (citation.document ?? null) !== null ? `in ${line(citation.document, 80)}` : "in the context",
        (citation.start ?? null) !== null
          ? `characters ${count(citation.start)} to ${count(citation.end)}`
          : "",
        citation.exact === false ? "with other spaces between the words" : "",
      ].filter(Boolean).join(", ")
      : "not in the context";
    return make(
      "li",
      { class: citation.found ? "found" : "missing" },
      make(
        "p",
        {},
        make("b", {}, citation.found ? "found" : "not found"),
        make("span", { class: "soft" }, ` ${where}`),
      ),
      textBox(citation.text ?? "", { key: `citation/${index}`, kind: "prose", label: "Citation" }),
    );
  }, 20);
  return fold(`Citations: ${count(found)} of ${count(citations.length)} found in the context`, () => list, {
    open: citations.length <= 5,
  });
}

class Report {
  constructor(model) {
    this.model = model;
    this.show(model.roots.at(-1));
  }

  show(root) {
    this.root = root;
    boxes.clear();
    folds.clear();
    document.title = `${line(root.question, 60) || "A run"} \u2013 run report`;
    this.answer(root);
    const steps = document.getElementById("steps");
    const side = make("div", { class: "side" }), inside = make("div", { class: "inside" });
    steps.replaceChildren(
      make("div", { class: "title" }, make("h2", { id: "steps-title" }, "Steps")),
      make("div", { class: "columns" }, side, inside),
    );
    const go = {
      run: (run) => this.goRun(run, true),
      call: (call) => this.goCall(call),
      step: (call) => this.goStep(call.iteration),
      calls: (cell) => this.goCalls(cell),
    };
    this.steps = new Steps(inside, go);
    this.calls = new Calls(document.getElementById("calls"), this.model, root, go);
    this.tree = new RunTree(
      side,
      root,
      (run, iteration, call) =>
        call ? this.goCall(call) : iteration ? this.goStep(iteration) : this.goRun(run, false),
    );
    this.timeline = new Timeline(
      document.getElementById("timeline"),
      root,
      (span) => span.kind === "call" ? this.goCall(span) : this.goStep(span.iteration),
    );
    this.costs = new Costs(document.getElementById("costs"), root);
    this.search = new Search(this.model, root, (place) => this.goText(place));
    this.goRun(root, false);
  }

  answer(root) {
    const section = document.getElementById("answer");
    const pairs = figures(root).map(([name, value]) =>
      make(
        "div",
        {},
        make("dt", {}, name),
        make(
          "dd",
          { class: name === "stopped by" && value !== "final" ? "wrong" : "" },
          make("bdi", {}, String(value)),
        ),
      )
    );
    section.replaceChildren();
    if (this.model.roots.length > 1) section.append(this.choice());
    section.append(
      make(
        "h1",
        {},
        root.question.length > 400 ? "A long question" : put(make("bdi", {}), root.question || "A run"),
      ),
      ...(root.question.length > 400
        ? [textBox(root.question, { key: "question", kind: "prose", label: "Question" })]
        : []),
      make("p", { class: "context soft" }, isolated(root.context, 300)),
      answerOf(root, "response"),
      make("dl", { class: "figures" }, pairs),
    );
    if (root.stopped?.limit) {
      const [limit, used, allowed] = root.stopped.limit;
      section.append(
        make("p", { class: "note" }, `The limit of ${line(limit, 40)} ended it: ${used} used of ${allowed}.`),
      );
    }
    if (root.stopped?.failure) {
      section.append(textBox(root.stopped.failure, { kind: "error", label: "Failure" }));
    }
    const citations = citationsOf(root.stopped);
    if (citations) section.append(citations);
  }

  choice() {
    const select = make(
      "select",
      { "aria-label": "Run", change: () => this.show(this.model.roots[Number(select.value)]) },
      this.model.roots.map((root, index) =>
        make("option", { value: index }, `${index + 1}. ${line(root.question, 80)}`)
      ),
    );
    select.value = String(this.model.roots.indexOf(this.root));
    return select;
  }

  goRun(run, look) {
    this.steps.show(run);
    this.tree.mark(run, null);
    if (look) this.look(document.querySelector("#steps h3"));
  }

  goStep(iteration) {
    const details = this.steps.reveal(iteration);
    this.tree.mark(iteration.run, iteration);
    this.look(details?.querySelector("summary"));
  }

  goCall(call) {
    this.look(this.calls.reveal(call));
  }

  goCalls(cell) {
    this.calls.only(cell);
    this.look(document.getElementById("calls-title"));
  }

  // Opens what a text of the search stands in.
  goText(place) {
    if (place.call) this.calls.reveal(place.call);
    else if (place.step) {
      this.steps.reveal(place.step);
      this.tree.mark(place.step.run, place.step);
      if (place.key === null) this.look(this.steps.folds.get(place.step).querySelector("summary"));
    } else if (place.run) this.goRun(place.run, false);
    else document.getElementById("answer").scrollIntoView();
    if (place.way) folds.get(place.way)?.build();
  }

  look(element) {
    if (!element) return;
    if (!element.matches("button, summary, a")) element.tabIndex = -1;
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block: "start", behavior: "instant" });
  }

  stepBy(by) {
    const iterations = this.steps.run.iterations;
    const shown = document.activeElement?.closest?.("details.iteration");
    const at = iterations.findIndex((iteration) => this.steps.folds.get(iteration) === shown);
    const to = iterations[at < 0 ? (by > 0 ? 0 : iterations.length - 1) : at + by];
    if (to) this.goStep(to);
  }

  runBy(by) {
    const runs = [...tree(this.root)], to = runs[runs.indexOf(this.steps.run) + by];
    if (to) this.goRun(to, true);
  }
}

class Theme {
  constructor(changed) {
    this.names = ["auto", "light", "dark"];
    this.at = 0;
    this.changed = changed;
    this.button = document.getElementById("theme");
    this.button.addEventListener("click", () => this.next());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  }

  next() {
    this.at = (this.at + 1) % this.names.length;
    const name = this.names[this.at];
    document.documentElement.dataset.theme = name;
    this.button.textContent = `Theme: ${name}`;
    this.changed();
  }
}

function shortcuts() {
  const dialog = document.getElementById("shortcuts");
  dialog.append(
    make("h2", { id: "shortcuts-title" }, "Keys"),
    make(
      "dl",
      {},
      KEYS.map(([key, does]) =>
        make(
          "div",
          {},
          make("dt", {}, key.split("  ").map((one) => make("kbd", {}, one))),
          make("dd", {}, does),
        )
      ),
    ),
    make("button", { type: "button", click: () => dialog.close() }, "Close"),
  );
  document.getElementById("help").addEventListener("click", () => dialog.showModal());
  return dialog;
}

function listenToKeys(report, theme, dialog) {
  let open = false;
  const keys = {
    "/": () => document.getElementById("query").select(),
    n: () => report.search.step(1),
    N: () => report.search.step(-1),
    j: () => report.stepBy(1),
    k: () => report.stepBy(-1),
    "]": () => report.runBy(1),
    "[": () => report.runBy(-1),
    e: () => report.steps.openAll(open = !open),
    t: () => theme.next(),
    "?": () => dialog.showModal(),
    Escape: () => report.search.clear(),
  };
  SECTIONS.forEach((id, index) => (keys[index + 1] = () => {
    const section = document.getElementById(id);
    report.look(section.querySelector("h1, h2"));
    section.scrollIntoView();
  }));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    if (event.target.closest("input, select, textarea") || !Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
  });
}

const model = readEvents(JSON.parse(document.getElementById("events").textContent));
if (model.roots.length) {
  const report = new Report(model);
  listenToKeys(report, new Theme(() => (report.timeline.colours(), report.timeline.draw())), shortcuts());
} else {
  document.getElementById("report").replaceChildren(
    make("p", { class: "empty" }, "There are no events in this report."),
  );
}
