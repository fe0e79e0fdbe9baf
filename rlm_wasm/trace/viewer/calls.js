// The calls of all runs as a table: sorted by any column, filtered, a page at a time, each opening to its whole text.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const ROWS = 50;

const COLUMNS = [
  {
    name: "call",
    of: (call) => call.order,
    text: (call) => `${call.run.place}\u2009/\u2009${call.number}`,
    kind: "number",
  },
  {
    name: "iteration",
    short: "it.",
    of: (call) => call.iteration.number,
    text: (call) => call.iteration.number,
    kind: "number wide",
  },
  { name: "function", of: (call) => call.function, text: (call) => line(call.function, 30), kind: "wide" },
  { name: "model", of: (call) => call.model, text: (call) => line(call.model, 30), kind: "wide" },
  {
    name: "prompt",
    of: (call) => call.prompt.slice(0, 200),
    text: (call) => line(call.prompt),
    kind: "long",
  },
  {
    name: "reply",
    of: (call) => (call.error ?? call.reply).slice(0, 200),
    text: (call) => line(call.error ?? call.reply),
    kind: "long",
  },
  {
    name: "tokens in",
    short: "in",
    of: (call) => call.input,
    text: (call) => count(call.input),
    kind: "number wide",
  },
  {
    name: "tokens out",
    short: "out",
    of: (call) => call.output,
    text: (call) => count(call.output),
    kind: "number wide",
  },
  {
    name: "dollars",
    short: "$",
    of: (call) => call.usd ?? -1,
    text: (call) => dollars(call.usd),
    kind: "number",
  },
  {
    name: "waited",
    of: (call) => call.waited,
    text: (call) => (call.waited > 0.0005 ? seconds(call.waited) : ""),
    kind: "number wide",
  },
  {
    name: "seconds",
    short: "time",
    of: (call) => call.end - call.start,
    text: (call) => seconds(call.end - call.start),
    kind: "number",
  },
];

class Calls {
  // `go.step(call)` shows where a call was made.
  constructor(section, model, root, go) {
    this.go = go;
    this.all = model.calls.filter((call) => call.run.root === root);
    this.all.forEach((call, index) => (call.order = index));
    this.sorted = { column: COLUMNS[0], down: false };
    this.page = 0;
    this.cell = null;
    this.opened = new Set();
    this.build(section);
    this.refresh();
  }

  build(section) {
    const values = (name) => [...new Set(this.all.map((call) => call[name]))].sort();
    const select = (label, options) => {
      const element = make(
        "select",
        { "aria-label": label, change: () => this.filter() },
        make("option", { value: "" }, label),
        options.map(([value, text]) => make("option", { value }, text)),
      );
      return element;
    };
    this.words = make("input", {
      type: "search",
      placeholder: "Filter by prompt, reply, error",
      "aria-label": "Filter calls by text",
      spellcheck: "false",
    });
    let waiting = 0;
    this.words.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.filter(), 120);
    });
    this.byFunction = select("any function", values("function").map((name) => [name, line(name, 40)]));
    this.byModel = select("any model", values("model").map((name) => [name, line(name, 40)]));
    this.byState = select("any state", [["failed", "failed"], ["answered", "answered"], [
      "cached",
      "kept from before",
    ], ["child", "child runs"]]);
    this.state = make("p", { class: "soft", role: "status" });
    this.place = make("button", { type: "button", class: "chip", click: () => this.only(null) });
    this.head = make("tr", {}, COLUMNS.map((column) => this.header(column)));
    this.body = make("tbody", {});
    this.pages = make("nav", { class: "pages", "aria-label": "Pages of calls" });
    const table = make("table", {}, make("thead", {}, this.head), this.body);
    section.replaceChildren(
      make("div", { class: "title" }, make("h2", { id: "calls-title" }, "Calls"), this.state),
      make("div", { class: "filters" }, this.words, this.byFunction, this.byModel, this.byState, this.place),
      make("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Table of calls" }, table),
      this.pages,
    );
    if (!this.all.length) {
      section.replaceChildren(section.firstChild, make("p", { class: "empty" }, "No cell called a model."));
    }
  }

  header(column) {
    const button = make("button", {
      type: "button",
      title: `Sort by ${column.name}`,
      click: () => this.sort(column),
    }, make("span", {}, column.short ?? column.name));
    column.head = make("th", { scope: "col", class: column.kind }, button);
    return column.head;
  }

  sort(column) {
    this.sorted = {
      column,
      down: this.sorted.column === column
        ? !this.sorted.down
        : column.kind.includes("number") && column !== COLUMNS[0],
    };
    this.page = 0;
    this.refresh();
  }

  // Only the calls of one cell; null takes all.
  only(cell) {
    this.cell = cell;
    this.filter();
  }

  filter() {
    this.page = 0;
    this.refresh();
  }

  matches(call, words) {
    if (this.cell && call.cell !== this.cell) return false;
    if (this.byFunction.value && call.function !== this.byFunction.value) return false;
    if (this.byModel.value && call.model !== this.byModel.value) return false;
    const states = {
      failed: call.error !== null || call.open,
      answered: call.error === null && !call.open,
      cached: call.cached,
      child: call.child,
    };
    if (this.byState.value && !states[this.byState.value]) return false;
    return !words || words.test(call.prompt) || words.test(call.reply) ||
      (call.error !== null && words.test(call.error));
  }

  refresh() {
    const words = this.words.value ? new RegExp(escaped(this.words.value), "iu") : null;
    const { column, down } = this.sorted;
    this.shown = this.all.filter((call) => this.matches(call, words));
    this.shown.sort((one, other) => {
      const [a, b] = [column.of(one), column.of(other)];
      return (a < b ? -1 : a > b ? 1 : one.order - other.order) * (down ? -1 : 1);
    });
    for (const each of COLUMNS) {
      each.head.setAttribute("aria-sort", each === column ? (down ? "descending" : "ascending") : "none");
    }
    this.place.hidden = !this.cell;
    if (this.cell) this.place.textContent = `${nameOf(this.cell.run)}, cell ${this.cell.number} \u00d7`;
    this.place.setAttribute("aria-label", `${this.place.textContent.slice(0, -2)}: show all calls`);
    const failures = this.shown.filter((call) => call.error !== null || call.open).length;
    this.state.textContent = [
      this.shown.length === this.all.length
        ? plural(this.all.length, "call")
        : `${count(this.shown.length)} of ${plural(this.all.length, "call")}`,
      `${seconds(this.shown.reduce((total, call) => total + call.end - call.start, 0))} together`,
      failures ? `${count(failures)} failed` : "",
    ].filter(Boolean).join(" \u00b7 ");
    this.show();
  }

  show() {
    const from = this.page * ROWS, last = Math.max(0, Math.ceil(this.shown.length / ROWS) - 1);
    this.body.replaceChildren(...this.shown.slice(from, from + ROWS).flatMap((call) => this.rows(call)));
    const turn = (text, label, page) =>
      make("button", {
        type: "button",
        "aria-label": label,
        disabled: page < 0 || page > last || page === this.page,
        click: () => ((this.page = page), this.show(), this.pages.querySelector("button:enabled")?.focus()),
      }, text);
    this.pages.replaceChildren(
      ...(last
        ? [
          turn("\u21e4", "First page", 0),
          turn("\u2190", "Page before", this.page - 1),
          make(
            "span",
            {},
            `${count(from + 1)}\u2013${count(Math.min(from + ROWS, this.shown.length))} of ${
              count(this.shown.length)
            }`,
          ),
          turn("\u2192", "Next page", this.page + 1),
          turn("\u21e5", "Last page", last),
        ]
        : []),
    );
  }

  rows(call) {
    const opened = this.opened.has(call);
    const open = make("button", {
      type: "button",
      class: "open",
      "aria-expanded": String(opened),
      click: () => this.toggle(call),
    }, String(COLUMNS[0].text(call)));
    const cells = COLUMNS.slice(1).map((column) =>
      make("td", { class: column.kind }, make("bdi", {}, String(column.text(call))))
    );
    const row = make(
      "tr",
      { class: `kind-${kindOf(call)}${call.error !== null ? " failed" : ""}` },
      make("td", { class: COLUMNS[0].kind }, open),
      cells,
    );
    row.addEventListener(
      "click",
      (event) => event.target.closest("button") || globalThis.getSelection()?.toString() || this.toggle(call),
    );
    return opened
      ? [row, make("tr", { class: "whole" }, make("td", { colspan: COLUMNS.length }, this.whole(call)))]
      : [row];
  }

  whole(call) {
    const key = `${call.run.id}/call/${call.number}`;
    return make(
      "div",
      { class: "call" },
      make(
        "p",
        { class: "cell-facts" },
        [
          line(call.function, 40),
          line(call.model, 40),
          `iteration ${call.iteration.number}`,
          ...factsOf(call),
          call.of > 1 ? `one of ${count(call.of)}` : "",
        ].filter(Boolean).join(" \u00b7 "),
        " ",
        make(
          "button",
          { type: "button", class: "link", click: () => this.go.step(call) },
          "where it was made",
        ),
        call.child &&
          make(
            "button",
            { type: "button", class: "link", click: () => this.go.run(call.child) },
            `its ${nameOf(call.child)}`,
          ),
      ),
      make("p", { class: "role" }, "prompt"),
      textBox(call.prompt, { key: `${key}/prompt`, label: "Prompt" }),
      call.reply &&
        [
          make("p", { class: "role" }, "reply"),
          textBox(call.reply, { key: `${key}/answer`, kind: "output", label: "Reply" }),
        ],
      call.error !== null && textBox(call.error, { key: `${key}/error`, kind: "error", label: "Error" }),
    );
  }

  toggle(call) {
    if (!this.opened.delete(call)) this.opened.add(call);
    const index = this.shown.indexOf(call);
    this.show();
    this.body.querySelectorAll("button.open")[index - this.page * ROWS]?.focus({ preventScroll: true });
  }

  // Opens a call in the table, whatever is filtered.
  reveal(call) {
    if (!this.shown.includes(call)) {
      this.words.value =
        this.byFunction.value =
        this.byModel.value =
        this.byState.value =
          "";
      this.cell = null;
      this.refresh();
    }
    const index = this.shown.indexOf(call);
    this.opened.clear();
    this.opened.add(call);
    this.page = Math.floor(index / ROWS);
    this.show();
    return this.body.querySelector('button.open[aria-expanded="true"]');
  }
}

function escaped(words) {
  return words.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}
