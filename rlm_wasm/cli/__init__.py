"""The command line: arguments -> one call -> exit code. The answer alone goes to stdout, all else to stderr.

Exit codes: 0 an answer; 1 a failure, said in one line; 2 wrong arguments or settings; 3 stopped by a limit; 130
stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio

from rlm_wasm import contexts, demo
from rlm_wasm.cli import arguments as grammar
from rlm_wasm.cli import batch as batches
from rlm_wasm.cli import machine, stored
from rlm_wasm.cli.answers import print_answer, print_json, print_text, shown
from rlm_wasm.cli.config import find
from rlm_wasm.cli.settings import ALL, SettingError, Source, in_force, switch
from rlm_wasm.clients import CachedClient, Client, OpenAIClient
from rlm_wasm.errors import RLMError
from rlm_wasm.events import Listener, RunStarted
from rlm_wasm.files import Files
from rlm_wasm.integrations.mcp import Shelf, serve_stdio
from rlm_wasm.integrations.serve import ChatServer, is_loopback, serve
from rlm_wasm.limits import Limits
from rlm_wasm.prices import DEFAULT_PRICES, find_price
from rlm_wasm.rlm import RLM
from rlm_wasm.sandbox import SandboxOptions
from rlm_wasm.trace.lines import say, write_progress
from rlm_wasm.trace.live import LiveView
from rlm_wasm.trace.replay import replay
from rlm_wasm.trajectory import Completion, Trajectory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = grammar.parse(_parser(), arguments)
    try:
        _settle(options)
        return options.run(options)
    except SettingError as error:
        say(f"rlm-wasm: {error}")
        return 2
    except BrokenPipeError:
        # whoever read the answer has enough; what is left in the buffer must not fail at the exit too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if _debugging(options):
            traceback.print_exc()
        else:
            say(f"rlm-wasm: {_line_of(error)}")
        return 1


def _parser(files: object = None) -> argparse.ArgumentParser:
    commands: dict[str, grammar.Command] = {
        "ask": _ask,
        "batch": _batch,
        "demo": _demo,
        "report": machine.make_report,
        "replay": _replay,
        "runs": stored.list_runs,
        "resume": _resume,
        "doctor": machine.doctored,
        "setup": machine.set_up,
        "serve": _serve,
        "mcp": _mcp,
        "config": machine.show_config,
        "packages": machine.keep_packages,
        "completion": lambda options: machine.complete(_parser, options.shell),
        "bench": machine.bench,
    }
    return grammar.parser(commands, files)


def _line_of(error: Exception) -> str:
    """A failure in one line. What is none of ours, nor of the system's, is a fault in here, and says so."""
    first, _, more = str(error).strip().partition("\n")
    if not isinstance(error, (RLMError, ValueError, TypeError, OSError, ImportError)):
        return f"a fault of rlm-wasm itself, {type(error).__name__}: {first} (--debug shows the traceback)"
    return f"{first or type(error).__name__}{' (--debug shows the rest)' if more else ''}"


def _debugging(options: argparse.Namespace) -> bool:
    """Whether --debug holds; what is wrong with the settings may be what there is to debug."""
    try:
        return bool(getattr(options, "debug", None) or switch(os.environ.get("RLM_WASM_DEBUG") or "0"))
    except argparse.ArgumentTypeError:
        return False


def _settle(options: argparse.Namespace) -> None:
    """Put the values that hold in the place of those that were given. What a project's file chose is said."""
    keys = grammar.KEYS[options.command]
    sources: list[Source] = []
    if grammar.reads_config(keys):
        sources = find(options.config, options.no_config)
    by_flag_alone = ("model", "sub_model") if options.command == "demo" and not options.model else ()
    options.values = in_force(vars(options), keys, sources, by_flag_alone)
    for key, value in options.values.items():
        setattr(options, key, value.value)
    options.sources = sources
    if options.command in ("ask", "batch", "resume", "demo", "serve", "mcp"):
        for source in sources:
            chosen_there = [key for key, value in options.values.items() if value.origin == source.path]
            if chosen_there and not source.own:
                say(f"settings from {source.path}: {', '.join(chosen_there)}")


def _listeners(options: argparse.Namespace) -> list[Listener]:
    if options.command == "batch":
        return []
    return [LiveView() if getattr(options, "live", False) else write_progress]


def _client(model: str, options: argparse.Namespace) -> Client:
    if options.usd is not None and find_price(model, {**DEFAULT_PRICES, **(options.price or {})}) is None:
        raise ValueError(
            f"the price of model {model!r} is not known, and --usd needs it: give --price '{model}=INPUT/OUTPUT', in "
            "US dollars per million tokens"
        )
    return OpenAIClient(model, base_url=options.base_url)


def _rlm(root: Client, sub: Client | None, options: argparse.Namespace, limits: Limits | None = None) -> RLM:
    sandbox = SandboxOptions(
        deno=machine.deno_of(options), seed=getattr(options, "seed", None), packages=options.packages or ()
    )
    if options.cache:
        sub = CachedClient(sub or root, Path(options.cache))
    return RLM(
        root,
        sub_model=sub,
        dialect=options.dialect,
        act=options.act,
        limits=limits or Limits(usd=options.usd, seconds=options.seconds, iterations=options.iterations),
        prices=options.price,
        trace=options.trace,
        store=getattr(options, "store", None),
        sandbox=sandbox,
        listeners=_listeners(options),
    )


def _chosen_rlm(options: argparse.Namespace, limits: Limits | None = None) -> RLM:
    if not options.model:
        options.parser.error(
            f'which model? give --model, set {ALL["model"].variable}, or write model = "..." in a config file'
        )
    root = _client(options.model, options)
    sub = _client(options.sub_model, options) if options.sub_model else None
    return _rlm(root, sub, options, limits)


def _ask(options: argparse.Namespace) -> int:
    return _answer(_chosen_rlm(options), options.question, _context(options), options)[0]


def _batch(options: argparse.Namespace) -> int:
    # --usd and --seconds are not each question's
    each = Limits(usd=options.each_usd, seconds=options.each_seconds, iterations=options.iterations)
    return batches.answer_all(_chosen_rlm(options, each), _context(options), options, _set_by_signals)


def _serve(options: argparse.Namespace) -> int:
    """`serve`: until Ctrl-C or SIGTERM. The base URL goes to stdout."""
    token = os.environ.get("RLM_WASM_TOKEN")
    if not token and not is_loopback(options.host):
        options.parser.error(f"--host {options.host}: set RLM_WASM_TOKEN, which clients must then send as their key")
    rlm = _chosen_rlm(options)
    server = ChatServer(
        {options.model: rlm},
        token=token or None,
        threshold_chars=options.threshold_chars,
        max_request_mb=options.max_request_mb,
    )

    def began(url: str) -> None:
        if options.json:
            print_json({"base_url": url, "models": [options.model]})
        else:
            print_text(url)

    async def work() -> None:
        stop = anyio.Event()
        async with _set_by_signals(stop), rlm:
            await serve(server, host=options.host, port=options.port, stop=stop, began=began)

    anyio.run(work)
    return 130


def _context(options: argparse.Namespace) -> object:
    named: list[str] = [*getattr(options, "files", []), *options.context]
    if not named:
        return None
    if named == ["-"]:
        content = sys.stdin.buffer.read()
        return contexts.decode(content, "standard input", encoding=options.encoding, errors=options.errors)
    if "-" in named:
        raise ValueError("standard input is a context by itself: give - or files, not both")
    return Files(named if len(named) > 1 else named[0], encoding=options.encoding)


def _replay(options: argparse.Namespace) -> int:
    """`replay`: 0 if a recorded run went as it was recorded, else 1, and the first difference is told."""
    events = Trajectory.load(options.trace_file, options.run_id).events
    context = _context(options)
    if isinstance(context, Files):
        lazy = any(isinstance(event, RunStarted) and "lazy" in event.settings for event in events)
        context = contexts.prepare(context, errors=options.errors, lazy=lazy)
    if context is None and any(isinstance(event, RunStarted) and event.question == demo.QUESTION for event in events):
        # it is no file, and on any machine with the same Python it is the same
        context = demo.corpus()
    sandbox = SandboxOptions(deno=machine.deno_of(options), packages=options.packages or ())
    done = anyio.run(partial(replay, events, context=context, sandbox=sandbox))
    same = done.difference is None
    if options.json:
        print_json({"same": same, "difference": done.difference, "cells": done.cells, "calls": done.calls})
    elif same:
        print_text(f"the same as it was recorded, in {done.cells} cells with {done.calls} calls")
    else:
        print_text(str(done.difference))
    return 0 if same else 1


def _demo(options: argparse.Namespace) -> int:
    if options.model:
        root = _client(options.model, options)
        sub = _client(options.sub_model, options) if options.sub_model else None
    else:
        root, sub = demo.scripted_client(), None
    if not options.live:
        say(f"question: {demo.QUESTION}")
    code, done = _answer(_rlm(root, sub, options), demo.QUESTION, demo.corpus(), options)
    if done is None or code:
        return code
    wrong = demo.verdict(done.response)
    say("checked: the counts are those found without a model" if wrong is None else f"checked: {wrong}")
    # a real model may be wrong; the scripted one may not
    return 1 if wrong and not options.model else 0


def _resume(options: argparse.Namespace) -> int:
    """`resume`: as `ask`, with what the run began with."""
    begun = stored.recorded(stored.store_of(options), options.run_id)
    options.model = options.model or begun.model
    options.sub_model = options.sub_model or begun.sub_model
    options.dialect, options.act, options.seed = begun.dialect, begun.act, begun.seed
    options.usd, options.packages = begun.limits.usd, begun.packages
    rlm = _chosen_rlm(options, begun.limits)
    return _tell(options, lambda stop: rlm.resume(options.run_id, stop=stop))[0]


def _answer(rlm: RLM, question: str, context: object, options: argparse.Namespace) -> tuple[int, Completion | None]:
    errors = getattr(options, "errors", "strict")
    lazy = getattr(options, "lazy", None)
    ask = partial(rlm.acompletion, question, context=context, errors=errors, lazy=lazy)
    return _tell(options, lambda stop: ask(stop=stop))


def _tell(
    options: argparse.Namespace, work: Callable[[anyio.Event], Awaitable[Completion]]
) -> tuple[int, Completion | None]:
    """Do the work until it ends or Ctrl-C comes, print its answer, say the rest; gives the exit code."""
    try:
        done = anyio.run(_until_interrupted, work)
    except RLMError as error:
        if isinstance(error.partial, Completion):
            if options.json:
                print_json(error.partial)
            _say_how_to_go_on(options, error.partial.run)
        raise
    if options.json:
        print_json(done)
    else:
        print_answer(done)
    if done.stopped_by == "final":
        return 0, done
    say(f"stopped by: {done.stopped_by}")
    if done.response is None and done.partial is not None:
        say(f"no answer; nearest to one came: {shown(done.partial)}")
    if done.stopped_by == "cancelled":
        _say_how_to_go_on(options, done.run)
    return (130 if done.stopped_by == "cancelled" else 3), done


def _mcp(options: argparse.Namespace) -> int:
    """`mcp`: until stdin ends, or Ctrl-C or SIGTERM. Stdout belongs to the protocol."""
    shelf = Shelf(options.files, errors=options.errors)
    rlm = _chosen_rlm(options)

    async def work() -> bool:
        stop = anyio.Event()
        async with _set_by_signals(stop), rlm:
            await serve_stdio(rlm, shelf, stop)
        return stop.is_set()

    return 130 if anyio.run(work) else 0


def _say_how_to_go_on(options: argparse.Namespace, run: str) -> None:
    if getattr(options, "store", None):
        say(f"to go on: rlm-wasm resume {run} --store {options.store}")


async def _until_interrupted(work: Callable[[anyio.Event], Awaitable[Completion]]) -> Completion:
    """The completion; Ctrl-C ends it cleanly, and it then says what there is."""
    stop = anyio.Event()
    async with _set_by_signals(stop):
        return await work(stop)


@asynccontextmanager
async def _set_by_signals(stop: anyio.Event) -> AsyncGenerator[None]:
    """While the block runs, Ctrl-C and SIGTERM set the event. What the block raises comes out as it is."""

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            tasks.start_soon(listen)
        try:
            yield
        except Exception as error:
            # out of the group it would come in a group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
