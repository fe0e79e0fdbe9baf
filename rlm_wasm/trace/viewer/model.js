// Events become a tree: runs, their iterations, the cells in them, the calls of the cells, the children of the calls.
// Times are in seconds on the clock of the host. Knows nothing of the page.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

function readEvents(events) {
  const model = { runs: new Map(), roots: [], calls: [] };
  for (const event of events) {
    const run = runOf(model, event);
    run.end = Math.max(run.end, event.monotonic ?? 0);
    (READERS[event.event] ?? (() => {}))(model, run, event);
  }
  for (const run of model.runs.values()) settle(model, run);
  model.roots = [...model.runs.values()].filter((run) => run.parent === null);
  for (const root of model.roots) number(root, root, 0);
  model.calls.sort((one, other) => one.start - other.start);
  return model;
}

function runOf(model, event) {
  const id = String(event.run ?? "");
  let run = model.runs.get(id);
  if (!run) {
    const start = event.monotonic ?? 0;
    run = {
      id,
      parentId: event.parent ?? null,
      parent: null,
      parentCall: null,
      call: null,
      depth: event.depth ?? 0,
      question: "",
      context: "",
      contextValue: null,
      settings: null,
      model: "",
      subModel: "",
      start,
      end: start,
      stopped: null,
      iterations: [],
      children: [],
      calls: new Map(),
      replaced: [],
      cell: null,
      place: "",
      root: null,
    };
    model.runs.set(id, run);
  }
  return run;
}

function iterationOf(run, event) {
  const count = event.iteration ?? 0;
  let iteration = run.iterations.at(-1);
  if (!iteration || iteration.number !== count) {
    iteration = {
      run,
      number: count,
      start: event.monotonic ?? 0,
      end: event.monotonic ?? 0,
      seconds: null,
      observation: null,
      asks: [],
      cells: [],
      calls: [],
      functions: [],
      replaced: [],
      shortened: [],
    };
    run.iterations.push(iteration);
  }
  iteration.end = Math.max(iteration.end, event.monotonic ?? 0);
  return iteration;
}

const READERS = {
  RunStarted(_model, run, event) {
    Object.assign(run, {
      question: event.question ?? "",
      context: event.context ?? "",
      contextValue: event.context_value ?? null,
      settings: event.settings ?? null,
      model: event.model ?? "",
      subModel: event.sub_model ?? "",
      call: event.call ?? null,
      start: event.monotonic ?? 0,
    });
  },
  IterationStarted(_model, run, event) {
    iterationOf(run, event);
  },
  IterationFinished(_model, run, event) {
    const iteration = iterationOf(run, event);
    iteration.seconds = event.seconds ?? null;
    iteration.observation = event.observation ?? null;
  },
  RootAsked(_model, run, event) {
    const iteration = iterationOf(run, event);
    iteration.asks.push({
      kind: "reply",
      run,
      iteration,
      start: event.monotonic ?? 0,
      end: null,
      same: event.same ?? 0,
      messages: event.messages ?? [],
      text: null,
      input: 0,
      output: 0,
      usd: null,
      cached: false,
      model: run.model,
      tools: [],
    });
  },
  RootReplied(_model, run, event) {
    const iteration = iterationOf(run, event);
    let ask = iteration.asks.findLast((one) => one.end === null);
    if (!ask) {
      ask = {
        kind: "reply",
        run,
        iteration,
        start: (event.monotonic ?? 0) - (event.seconds ?? 0),
        same: 0,
        messages: [],
      };
      iteration.asks.push(ask);
    }
    Object.assign(ask, {
      end: event.monotonic ?? 0,
      text: event.text ?? "",
      input: event.input_tokens ?? 0,
      output: event.output_tokens ?? 0,
      usd: event.usd ?? null,
      cached: event.cached ?? false,
      model: event.model || run.model,
      tools: event.calls ?? [],
    });
  },
  CellStarted(_model, run, event) {
    const iteration = iterationOf(run, event);
    run.cell = {
      kind: "cell",
      run,
      iteration,
      number: event.cell || iteration.cells.length + 1,
      code: event.code ?? "",
      start: event.monotonic ?? 0,
      end: null,
      finished: null,
      interrupted: false,
      calls: [],
      functions: [],
    };
    iteration.cells.push(run.cell);
  },
  CellInterrupted(_model, run) {
    if (run.cell) run.cell.interrupted = true;
  },
  CellFinished(_model, run, event) {
    const cell = iterationOf(run, event).cells.findLast((one) => one.end === null) ?? run.cell;
    if (cell) Object.assign(cell, { end: event.monotonic ?? 0, finished: event });
    run.cell = null;
  },
  CallStarted(model, run, event) {
    const iteration = iterationOf(run, event);
    const call = {
      kind: "call",
      run,
      iteration,
      cell: run.cell,
      number: event.call ?? 0,
      function: event.function ?? "",
      model: event.model ?? "",
      prompt: event.prompt ?? "",
      of: event.of ?? 1,
      start: event.monotonic ?? 0,
      end: null,
      seconds: null,
      waited: 0,
      reply: "",
      error: null,
      input: 0,
      output: 0,
      usd: null,
      cached: false,
      child: null,
    };
    run.calls.set(call.number, call);
    iteration.calls.push(call);
    run.cell?.calls.push(call);
    model.calls.push(call);
  },
  CallFinished(_model, run, event) {
    const call = run.calls.get(event.call ?? 0);
    if (!call) return;
    Object.assign(call, {
      end: event.monotonic ?? 0,
      seconds: event.seconds ?? 0,
      waited: event.waited ?? 0,
      reply: event.reply ?? "",
      error: event.error ?? null,
      input: event.input_tokens ?? 0,
      output: event.output_tokens ?? 0,
      usd: event.usd ?? null,
      cached: event.cached ?? false,
    });
    call.iteration.end = Math.max(call.iteration.end, call.end);
  },
  FunctionCalled(_model, run, event) {
    const iteration = iterationOf(run, event), end = event.monotonic ?? 0;
    const called = {
      kind: "function",
      run,
      iteration,
      cell: run.cell,
      function: event.function ?? "",
      end,
      start: end - (event.seconds ?? 0),
      arguments: event.arguments ?? "",
      named: event.named ?? "",
      value: event.value ?? "",
      error: event.error ?? null,
    };
    iteration.functions.push(called);
    run.cell?.functions.push(called);
  },
  SandboxReplaced(_model, run, event) {
    iterationOf(run, event).replaced.push(event);
    run.replaced.push(event);
  },
  HistoryShortened(_model, run, event) {
    iterationOf(run, event).shortened.push(event);
  },
  RunStopped(_model, run, event) {
    run.stopped = event;
  },
};

// What had no end ends with its run; a child finds its parent and the call that it answers.
function settle(model, run) {
  for (const iteration of run.iterations) {
    for (const span of [...iteration.asks, ...iteration.cells, ...iteration.calls]) {
      span.open = span.end === null;
      span.end ??= Math.max(run.end, span.start);
    }
  }
  run.parent = model.runs.get(run.parentId) ?? null;
  if (!run.parent || run.parent === run) {
    run.parent = null;
    return;
  }
  run.parent.children.push(run);
  const call = run.parent.calls.get(run.call);
  if (call && !call.child) {
    call.child = run;
    run.parentCall = call;
  }
}

// Names runs by their place: 1 the root, 1.2 its second child.
function number(run, root, among) {
  run.root = root;
  run.place = run.parent ? `${run.parent.place}.${among + 1}` : "1";
  run.children.forEach((child, index) => number(child, root, index));
}

function* tree(run) {
  yield run;
  for (const child of run.children) yield* tree(child);
}

// Every model call that was paid for, once: a child's are its own and not again its parent's call.
function* charges(root) {
  for (const run of tree(root)) {
    for (const iteration of run.iterations) {
      const inRoot = rootIteration(iteration);
      for (const ask of iteration.asks) if (ask.text !== null) yield { span: ask, run, inRoot };
      for (const call of iteration.calls) if (!call.child) yield { span: call, run, inRoot };
    }
  }
}

function rootIteration(iteration) {
  let at = iteration;
  while (at.run.parentCall) at = at.run.parentCall.iteration;
  return at.number;
}

function nameOf(run) {
  return run.parent ? `child ${run.place}` : "root run";
}

// How a run ended, in a word; null while it is not known.
function endOf(run) {
  return run.stopped?.stopped_by ?? null;
}
