// The tree of runs: each with its iterations, under these the calls that made children, under these the children.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const TREE_PAGE = 100;

class RunTree {
  constructor(parent, root, show) {
    this.show = show;
    this.chosen = null;
    this.items = new Map();
    this.list = make("ul", { class: "tree", role: "tree", "aria-label": "Runs and their iterations" });
    this.list.append(this.runItem(root));
    this.list.addEventListener("keydown", (event) => this.key(event));
    parent.replaceChildren(this.list);
    this.open(this.items.get(root));
    this.items.get(root).tabIndex = 0;
  }

  item(key, kind, text, facts, children, act) {
    const head = make(
      "div",
      { class: "head", click: () => (act(), this.focus(item)) },
      make("span", {
        class: "twist",
        "aria-hidden": "true",
        click: (event) => (event.stopPropagation(), this.toggle(item)),
      }),
      make("span", { class: "name" }, text),
      make("span", { class: "soft" }, facts),
    );
    const item = make("li", {
      role: "treeitem",
      class: kind,
      tabindex: -1,
      "aria-label": `${text}, ${facts}`,
    }, head);
    item.act = act;
    item.children_ = children;
    if (children) item.setAttribute("aria-expanded", "false");
    this.items.set(key, item);
    return item;
  }

  runItem(run) {
    const facts = `${seconds(run.end - run.start)}${
      endOf(run) === "final" ? "" : ` \u00b7 ${endOf(run) ?? "cut off"}`
    }`;
    const orphans = run.children.filter((child) => !child.parentCall);
    const children = run.iterations.length + orphans.length
      ? () => [
        ...run.iterations.map((iteration) => () => this.iterationItem(iteration)),
        ...orphans.map((child) => () => this.runItem(child)),
      ]
      : null;
    const name = run.parent
      ? `${run.place} ${line(run.question, 60) || "child"}`
      : `1 ${line(run.question, 60) || "run"}`;
    return this.item(run, "run", name, facts, children, () => this.show(run, null));
  }

  iterationItem(iteration) {
    const parents = iteration.calls.filter((call) => call.child);
    const calls = iteration.calls.length ? `, ${plural(iteration.calls.length, "call")}` : "";
    return this.item(
      iteration,
      "iteration",
      iteration.number ? `iteration ${iteration.number}` : "first look",
      `${seconds(iteration.seconds ?? iteration.end - iteration.start)}${calls}`,
      parents.length ? () => parents.map((call) => () => this.callItem(call)) : null,
      () => this.show(iteration.run, iteration),
    );
  }

  callItem(call) {
    return this.item(
      call,
      "call",
      `${line(call.function, 24)} ${call.number}`,
      seconds(call.end - call.start),
      () => [() => this.runItem(call.child)],
      () => this.show(call.run, call.iteration, call),
    );
  }

  open(item) {
    if (!item?.children_ || item.getAttribute("aria-expanded") === "true") return;
    item.setAttribute("aria-expanded", "true");
    let group = item.querySelector(":scope > ul");
    if (!group) {
      group = make("ul", { role: "group" });
      item.append(group);
      item.more = paged(group, item.children_(), (build) => build(), TREE_PAGE);
    }
    group.hidden = false;
  }

  shut(item) {
    if (item.getAttribute("aria-expanded") !== "true") return;
    item.setAttribute("aria-expanded", "false");
    item.querySelector(":scope > ul").hidden = true;
  }

  toggle(item) {
    if (item.getAttribute("aria-expanded") === "true") this.shut(item);
    else this.open(item);
  }

  // Marks what is looked at, and opens the way to it.
  mark(run, iteration) {
    this.way(run);
    if (iteration && !this.items.has(iteration)) {
      this.open(this.items.get(run));
      this.items.get(run)?.more?.(run.iterations.indexOf(iteration));
    }
    this.chosen?.removeAttribute("aria-current");
    this.chosen = this.items.get(iteration) ?? this.items.get(run) ?? null;
    this.chosen?.setAttribute("aria-current", "true");
  }

  way(run) {
    if (!run.parent) return;
    this.way(run.parent);
    const parent = this.items.get(run.parent), call = run.parentCall;
    this.open(parent);
    if (!call) {
      parent?.more?.(run.parent.iterations.length + run.parent.children.length - 1);
      return;
    }
    parent?.more?.(run.parent.iterations.indexOf(call.iteration));
    const iteration = this.items.get(call.iteration);
    this.open(iteration);
    iteration?.more?.(call.iteration.calls.filter((one) => one.child).indexOf(call));
    this.open(this.items.get(call));
  }

  focus(item) {
    for (const other of this.list.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    item.tabIndex = 0;
    item.focus({ preventScroll: true });
    item.firstChild.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const item = event.target.closest("li[role=treeitem]");
    if (item !== event.target || event.ctrlKey || event.metaKey || event.altKey) return;
    const seen = [...this.list.querySelectorAll("li[role=treeitem]")].filter((one) =>
      !one.closest("ul[hidden]")
    );
    const at = seen.indexOf(item), opened = item.getAttribute("aria-expanded") === "true";
    const keys = {
      ArrowDown: () => this.focus(seen[Math.min(at + 1, seen.length - 1)]),
      ArrowUp: () => this.focus(seen[Math.max(at - 1, 0)]),
      Home: () => this.focus(seen[0]),
      End: () => this.focus(seen.at(-1)),
      ArrowRight: () => (opened ? this.focus(seen[at + 1] ?? item) : this.open(item)),
      ArrowLeft:
        () => (opened
          ? this.shut(item)
          : this.focus(item.parentElement.closest("li[role=treeitem]") ?? item)),
      Enter: () => item.act(),
      " ": () => item.act(),
    };
    if (!Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
    event.stopPropagation();
  }
}
