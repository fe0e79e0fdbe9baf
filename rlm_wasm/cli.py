"""The command line: arguments -> one call -> exit code. The answer alone goes to stdout, all else to stderr.

Exit codes: 0 an answer; 1 a failure, said in one line; 2 wrong arguments; 3 stopped by a limit; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

from rlm_wasm import __version__, contexts, demo, doctor
from rlm_wasm.clients import CachedClient, Client, OpenAIClient
from rlm_wasm.dialects import DIALECTS, HOUSE
from rlm_wasm.errors import RLMError
from rlm_wasm.limits import Limits
from rlm_wasm.rlm import RLM
from rlm_wasm.sandbox import SandboxOptions
from rlm_wasm.trace.lines import escaped, say, write_progress
from rlm_wasm.trajectory import Completion


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (RLMError, ValueError, TypeError, OSError) as error:
        say(f"rlm-wasm: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlm-wasm", description="Answer questions over contexts of any length, with code run in a sandbox."
    )
    parser.add_argument("--version", action="version", version=f"rlm-wasm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    ask = commands.add_parser("ask", help="answer a question about a file, a folder or standard input")
    ask.add_argument("question")
    ask.add_argument("--context", metavar="FILE|DIR|-", help="what the question is about; - reads standard input")
    ask.add_argument("--model", required=True, help="the model that writes the code")
    handlers = ("strict", "replace", "ignore", "backslashreplace")
    ask.add_argument("--errors", default="strict", choices=handlers, help="what to do with bytes that are not UTF-8")
    _add_model_options(ask)
    ask.set_defaults(run=_ask)

    shown = commands.add_parser("demo", help="answer a checkable question over Python's language reference")
    shown.add_argument("--model", help="use a real model; without it, scripted replies stand in for one")
    _add_model_options(shown)
    shown.set_defaults(run=_demo)

    checked = commands.add_parser("doctor", help="say what was found, what is missing and how to get it")
    checked.add_argument("--deno", help="path of a Deno binary")
    checked.set_defaults(run=_doctor)

    made = commands.add_parser("setup", help="check the runtime files and make the memory image ahead of time")
    made.add_argument("--deno", help="path of a Deno binary")
    made.set_defaults(run=_setup)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    return doctor.report(options.deno, say)


def _setup(options: argparse.Namespace) -> int:
    return doctor.setup(options.deno, say)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sub-model", help="the model behind llm_query (default: the same)")
    dialects = ", ".join(DIALECTS)
    parser.add_argument("--dialect", default=HOUSE.name, choices=DIALECTS, help=f"the model's convention: {dialects}")
    parser.add_argument("--act", choices=("fences", "tool"), help="how code is carried, if not as the dialect has it")
    parser.add_argument("--cache", metavar="FILE", help="keep the sub model's replies in this file, and use them again")
    parser.add_argument("--base-url", help="an OpenAI-compatible server, such as http://127.0.0.1:8080/v1")
    parser.add_argument("--usd", type=_positive, help="spend at most this many US dollars")
    parser.add_argument("--seconds", type=_positive, help="stop after this many seconds")
    iterations = Limits().iterations
    parser.add_argument("--iterations", type=_count, default=iterations, help="replies of the root model at most")
    parser.add_argument("--json", action="store_true", help="print the whole completion as JSON")
    parser.add_argument("--deno", help="path of a Deno binary")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return number


def _count(text: str) -> int:
    return int(_positive(str(int(text))))


def _limits(options: argparse.Namespace) -> Limits:
    return Limits(usd=options.usd, seconds=options.seconds, iterations=options.iterations)


def _client(model: str, options: argparse.Namespace) -> Client:
    return OpenAIClient(model, base_url=options.base_url)


def _rlm(root: Client, sub: Client | None, options: argparse.Namespace) -> RLM:
    sandbox = SandboxOptions(deno=options.deno)
    if options.cache:
        sub = CachedClient(sub or root, Path(options.cache))
    return RLM(
        root,
        sub_model=sub,
        dialect=options.dialect,
        act=options.act,
        limits=_limits(options),
        sandbox=sandbox,
        listeners=[write_progress],
    )


def _ask(options: argparse.Namespace) -> int:
    root = _client(options.model, options)
    sub = _client(options.sub_model, options) if options.sub_model else None
    return _answer(_rlm(root, sub, options), options.question, _context(options), options)[0]


def _context(options: argparse.Namespace) -> object:
    if options.context is None:
        return None
    if options.context == "-":
        return contexts.decode(sys.stdin.buffer.read(), "standard input", errors=options.errors)
    path = Path(options.context)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {options.context!r} to read the context from")
    return path


def _demo(options: argparse.Namespace) -> int:
    if options.model:
        root = _client(options.model, options)
        sub = _client(options.sub_model, options) if options.sub_model else None
    else:
        root, sub = demo.scripted_client(), None
    say(f"question: {demo.QUESTION}")
    code, done = _answer(_rlm(root, sub, options), demo.QUESTION, demo.corpus(), options)
    if done is None or code:
        return code
    wrong = demo.verdict(done.response)
    say("checked: the counts are those found without a model" if wrong is None else f"checked: {wrong}")
    # a real model may be wrong; the scripted one may not
    return 1 if wrong and not options.model else 0


def _answer(rlm: RLM, question: str, context: object, options: argparse.Namespace) -> tuple[int, Completion | None]:
    errors = getattr(options, "errors", "strict")
    try:
        done = anyio.run(_until_interrupted, rlm, question, context, errors)
    except RLMError as error:
        if options.json and isinstance(error.partial, Completion):
            print(_whole(error.partial))
        raise
    if options.json:
        print(_whole(done))
    elif done.response is not None:
        print(_shown(done.response))
    if done.stopped_by == "final":
        return 0, done
    say(f"stopped by: {done.stopped_by}")
    if done.response is None and done.partial is not None:
        say(f"no answer; nearest to one came: {_shown(done.partial)}")
    return (130 if done.stopped_by == "cancelled" else 3), done


async def _until_interrupted(rlm: RLM, question: str, context: object, errors: str) -> Completion:
    """The completion; Ctrl-C ends it cleanly, and it then says what there is."""
    stop = anyio.Event()

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()

    failure: Exception | None = None
    done: Completion | None = None
    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            tasks.start_soon(listen)
        try:
            done = await rlm.acompletion(question, context=context, errors=errors, stop=stop)
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    assert done is not None
    return done


def _whole(done: Completion) -> str:
    return _escaped_json(msgspec.json.format(msgspec.json.encode(done, enc_hook=repr), indent=2).decode())


def _shown(response: object) -> str:
    """The answer for a terminal or a pipe: text as it is, anything else as JSON where it has that form."""
    if isinstance(response, str):
        return response if not sys.stdout.isatty() else escaped(response)
    try:
        return _escaped_json(json.dumps(response, indent=2, ensure_ascii=False))
    except (TypeError, ValueError):
        return repr(response)


def _escaped_json(text: str) -> str:
    """The same for a JSON text, which has escapes of its own; as it is where stdout is no terminal."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
