// Where tokens and dollars went: by iteration of the root run, by model, by depth. Plots are SVG made here.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MOST_COLUMNS = 120; // past that, a column stands for several iterations
const MOST_ROWS = 24; // of a plot by name; what is left is one more

function draw(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

class Costs {
  constructor(section, root) {
    this.root = root;
    this.charges = [...charges(root)];
    this.priced = this.charges.some(({ span }) => span.usd);
    this.what = "tokens";
    const choice = (what, label) => {
      const input = make("input", {
        type: "radio",
        name: "what",
        value: what,
        change: () => ((this.what = what), this.show()),
      });
      input.checked = what === this.what;
      return make("label", {}, input, label);
    };
    this.plots = make("div", { class: "plots" });
    section.replaceChildren(
      make(
        "div",
        { class: "title" },
        make("h2", { id: "costs-title" }, "Costs"),
        this.priced
          ? make(
            "fieldset",
            { class: "choice" },
            make("legend", { class: "hidden" }, "What the plots show"),
            choice("tokens", "Tokens"),
            choice("usd", "Dollars"),
          )
          : make("p", { class: "soft" }, "Tokens; no price was known."),
      ),
      this.plots,
    );
    this.width = 0;
    new ResizeObserver(() => {
      if (this.plots.clientWidth !== this.width) this.show();
    }).observe(this.plots);
  }

  amounts(span) {
    return this.what === "usd" ? [span.usd ?? 0, 0] : [span.input, span.output];
  }

  format(value) {
    return this.what === "usd" ? dollars(value) : short(value);
  }

  grouped(nameOf) {
    const groups = new Map();
    for (const charge of this.charges) {
      const name = nameOf(charge), sums = groups.get(name) ?? [0, 0], more = this.amounts(charge.span);
      groups.set(name, [sums[0] + more[0], sums[1] + more[1]]);
    }
    return groups;
  }

  show() {
    this.width = this.plots.clientWidth;
    const plot = (title, build) => {
      const figure = make("figure", {}, make("figcaption", {}, title));
      this.plots.append(figure);
      build(figure, Math.max(220, figure.clientWidth), title);
    };
    this.plots.replaceChildren();
    plot(
      "by iteration of the root run",
      (figure, width, title) => figure.append(this.columns(this.iterations(), width, title)),
    );
    plot(
      "by model",
      (figure, width, title) =>
        figure.append(
          this.rows(this.byName(this.grouped(({ span }) => span.model || "unknown")), width, title),
        ),
    );
    plot(
      "by depth",
      (figure, width, title) =>
        figure.append(this.rows(
          [...this.grouped(({ run }) => run.depth)].sort((a, b) => a[0] - b[0]).map((
            [depth, sums],
          ) => [depth ? `depth ${depth}` : "root run", sums]),
          width,
          title,
        )),
    );
    if (this.what === "tokens") {
      this.plots.append(
        make(
          "p",
          { class: "legend" },
          make("span", { class: "plot-in" }, "in"),
          make("span", { class: "plot-out" }, "out"),
        ),
      );
    }
  }

  iterations() {
    const sums = this.grouped(({ inRoot }) => inRoot);
    const last = Math.max(1, ...this.root.iterations.map((iteration) => iteration.number), ...sums.keys());
    const names = Array.from({ length: last }, (_, index) => index + 1);
    const all = (sums.has(0) ? [0, ...names] : names).map((name) => [name, sums.get(name) ?? [0, 0]]);
    const many = Math.ceil(all.length / MOST_COLUMNS);
    if (many === 1) return all;
    return Array.from({ length: Math.ceil(all.length / many) }, (_, index) => {
      const group = all.slice(index * many, (index + 1) * many);
      return [
        `${group[0][0]}\u2013${group.at(-1)[0]}`,
        [0, 1].map((part) => group.reduce((total, [, each]) => total + each[part], 0)),
      ];
    });
  }

  byName(groups) {
    const rows = [...groups].sort((a, b) => b[1][0] + b[1][1] - a[1][0] - a[1][1]);
    const rest = rows.splice(MOST_ROWS);
    if (rest.length) {
      rows.push([
        `${count(rest.length)} others`,
        rest.reduce((sums, [, more]) => [sums[0] + more[0], sums[1] + more[1]], [0, 0]),
      ]);
    }
    return rows;
  }

  columns(values, width, title) {
    const height = 168, left = 46, bottom = 18, top = 12, step = (width - left - 2) / values.length;
    const most = Math.max(...values.map(([, sums]) => sums[0] + sums[1]), this.what === "usd" ? 1e-9 : 1);
    const y = (value) => top + (1 - value / most) * (height - bottom - top);
    const said = values.slice(0, 60).map(([name, sums]) => `${name}: ${this.format(sums[0] + sums[1])}`).join(
      ", ",
    );
    const picture = draw("svg", {
      role: "img",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      "aria-label": `${this.what === "usd" ? "Dollars" : "Tokens"} ${title}. ${said}`,
    });
    for (const part of [0, 0.5, 1]) {
      picture.append(
        draw("line", { x1: left, x2: width, y1: y(most * part), y2: y(most * part), class: "rule" }),
        draw("text", { x: left - 6, y: y(most * part) + 4, "text-anchor": "end" }, this.format(most * part)),
      );
    }
    const thinned = Math.ceil(
      values.length / Math.max(1, Math.floor((width - left) / (6 * String(values.at(-1)[0]).length + 14))),
    );
    values.forEach(([name, sums], index) => {
      const wide = Math.min(34, Math.max(0.6, step * 0.72)), x = left + index * step + (step - wide) / 2;
      const tip = draw("title", {}, `iteration ${name}: ${this.describe(sums)}`);
      picture.append(
        draw(
          "g",
          {},
          tip,
          draw("rect", {
            x: left + index * step,
            y: top,
            width: step,
            height: height - bottom - top,
            class: "catch",
          }),
          draw("rect", {
            x,
            y: y(sums[0]),
            width: wide,
            height: Math.max(0, y(0) - y(sums[0])),
            class: "plot-in",
          }),
          draw("rect", {
            x,
            y: y(sums[0] + sums[1]),
            width: wide,
            height: Math.max(0, y(sums[0]) - y(sums[0] + sums[1])),
            class: "plot-out",
          }),
        ),
      );
      if (index % thinned === 0) {
        picture.append(
          draw("text", { x: x + wide / 2, y: height - 4, "text-anchor": "middle" }, String(name)),
        );
      }
    });
    return picture;
  }

  rows(values, width, title) {
    const tall = 36,
      most = Math.max(...values.map(([, sums]) => sums[0] + sums[1]), this.what === "usd" ? 1e-9 : 1);
    const said = values.map(([name, sums]) => `${line(name, 60)}: ${this.format(sums[0] + sums[1])}`).join(
      ", ",
    );
    const height = Math.max(1, values.length) * tall;
    const picture = draw("svg", {
      role: "img",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      "aria-label": `${this.what === "usd" ? "Dollars" : "Tokens"} ${title}. ${said}`,
    });
    values.forEach(([name, sums], index) => {
      const y = index * tall, scale = (value) => (value / most) * (width - 2);
      picture.append(
        draw(
          "g",
          {},
          draw("title", {}, `${line(name, 120)}: ${this.describe(sums)}`),
          draw("text", { x: 0, y: y + 13, class: "name" }, line(name, Math.floor(width / 10))),
          draw("text", { x: width, y: y + 13, "text-anchor": "end" }, this.format(sums[0] + sums[1])),
          draw("rect", {
            x: 0,
            y: y + 19,
            width: Math.max(0.5, scale(sums[0])),
            height: 9,
            class: "plot-in",
          }),
          draw("rect", { x: scale(sums[0]), y: y + 19, width: scale(sums[1]), height: 9, class: "plot-out" }),
        ),
      );
    });
    return picture;
  }

  describe([one, other]) {
    return this.what === "usd" ? dollars(one) : `${count(one)} tokens in, ${count(other)} out`;
  }
}
