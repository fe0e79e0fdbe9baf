"""The command line's grammar: commands, flags, and the help that is shown of them.

Knows what may be said, and not what is done about it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from rlm_wasm import __version__
from rlm_wasm.cli.settings import ALL, NUMBER, SWITCH, Setting

Command = Callable[[argparse.Namespace], int]

SHELLS = ("bash", "zsh", "fish")

_EXIT_CODES = """\
exit codes:
  0    an answer; all is well
  1    a failure, said in one line on stderr (--debug shows the traceback)
  2    wrong arguments or settings
  3    stopped by a limit; the best answer that there was, if any, is on stdout
  130  stopped by Ctrl-C or SIGTERM
"""

_SETTINGS = """\
settings:
  Each option but --context has an environment variable (--sub-model: RLM_WASM_SUB_MODEL; --cache:
  RLM_WASM_CACHE_FILE) and a key in config files (sub_model). A flag counts before the variable, the variable before a
  project's file (rlm-wasm.toml, or [tool.rlm-wasm] in pyproject.toml, in the working directory or the nearest above
  it), and that before your own config.toml. A project's file may not set base_url, cache, deno, host, packages,
  price or trace, and may only lower limits; what it set is said. `rlm-wasm config` shows what holds, and where it
  comes from.
"""

_EXAMPLES = """\
examples:
  rlm-wasm demo --live
  rlm-wasm ask "Who signed the contract?" --context contract.txt --model gpt-5-mini --usd 0.10
  cat *.log | rlm-wasm ask "What failed first?" --context - --model local --base-url http://127.0.0.1:8080/v1
"""

_ASK_EXAMPLES = """\
examples:
  rlm-wasm ask "Who signed the contract?" --context contract.txt --model gpt-5-mini --usd 0.10
  rlm-wasm ask "Which notes contradict each other?" --context notes/ --model gpt-5 --sub-model gpt-5-nano --live
  rlm-wasm ask "Which of them expire this year?" contracts/*.pdf annexes.zip --model gpt-5-mini
  cat *.log | rlm-wasm ask "What failed first?" --context - --model local --base-url http://127.0.0.1:8080/v1
  rlm-wasm ask "How many are late?" --context orders.json --model gpt-5-mini --json | jq .response
"""

_BATCH_EXAMPLES = """\
examples:
  rlm-wasm batch questions.txt -o answers.jsonl --context corpus.txt --model gpt-5-mini --usd 5
  rlm-wasm batch questions.jsonl -o answers.jsonl --model gpt-5-mini --concurrency 8 --each-seconds 300

A file of questions whose name ends in .jsonl or .ndjson has a JSON text or object in each line, with `question` and
perhaps `id`, `context`, `output` (a JSON Schema) and `metadata`; any other has a question in each line. Each answer is
appended to the other file as it comes. The same command goes on after any end: what has its answer there is not asked
again. --usd and --seconds hold over all questions of one command.
"""

_REPORT_EXAMPLES = """\
examples:
  rlm-wasm ask "Who signed?" --context contract.txt --model gpt-5-mini --trace run.jsonl
  rlm-wasm report run.jsonl -o run.html
"""

_REPLAY_EXAMPLES = """\
examples:
  rlm-wasm demo --seed 1 --trace run.jsonl
  rlm-wasm replay run.jsonl
  rlm-wasm replay run.jsonl --context contract.txt

Nobody is asked and nothing is paid. The exit code is 0 if the run went as it was recorded, and 1 if it did not; of a
run without --seed that may be for a random number, or for the time of day.
"""

_RUNS_EXAMPLES = """\
examples:
  rlm-wasm ask "Who signed the contract?" --context contract.txt --model gpt-5-mini --store runs/
  rlm-wasm runs --store runs/
  rlm-wasm runs --store runs/ --prune --days 7 --mb 500

A run that was stopped or killed, or that failed, is "unfinished", and can be resumed. Where a new run begins, those of
more than 30 days are removed without being asked, and the oldest of those that have more than 2,000 MB together.
"""

_RESUME_EXAMPLES = """\
examples:
  rlm-wasm resume 3f9c01d2ab47 --store runs/

It goes on after the last iteration that it finished, with the question, the context, the limits and the models that it
began with; --model and --sub-model name others. Nothing is asked or paid again. A run that is over gives its answer.
"""

_SERVE_EXAMPLES = """\
examples:
  rlm-wasm serve --model gpt-5-mini --sub-model gpt-5-nano --usd 0.50
  RLM_WASM_TOKEN=... rlm-wasm serve --model gpt-5-mini --host 0.0.0.0

Programs that speak to OpenAI get an RLM by the base URL that is printed. Limits hold for each request. With
RLM_WASM_TOKEN in the environment clients must send it as their key; without, only this machine may ask.
"""

_MCP_EXAMPLES = """\
examples:
  rlm-wasm mcp contracts/ notes.txt --model gpt-5-mini --sub-model gpt-5-nano --usd 0.50

A program that starts MCP servers has this as the server's command. It offers list_files, load, ask and cancel; nothing
but the files that are named here can be loaded. Limits hold for each question.
"""

_PACKAGES_EXAMPLES = """\
examples:
  rlm-wasm packages add pandas openpyxl
  rlm-wasm packages add "numpy>=2" ./wheels
  rlm-wasm packages list
  rlm-wasm packages remove pandas

What is added together is one set, resolved now and kept in the cache; --packages with the same names then uses it with
no network. A name is one that pip takes, a wheel's path or address, or a folder of wheels.
"""

_COMPLETION_EXAMPLES = """\
examples:
  rlm-wasm completion bash > ~/.local/share/bash-completion/completions/rlm-wasm
  rlm-wasm completion zsh > "${fpath[1]}/_rlm-wasm"
  rlm-wasm completion fish > ~/.config/fish/completions/rlm-wasm.fish
"""

_RUN = (
    "model",
    "sub_model",
    "dialect",
    "act",
    "base_url",
    "usd",
    "price",
    "seconds",
    "iterations",
    "cache",
    "packages",
)
_REPORTED = ("json", "debug")
# the settings that each command has, in the order of its help
KEYS: Mapping[str, Sequence[str]] = {
    "ask": (*_RUN, "errors", "encoding", "lazy", "live", "trace", "store", "seed", *_REPORTED, "deno"),
    "batch": (*_RUN, "concurrency", "errors", "encoding", "lazy", "trace", "seed", *_REPORTED, "deno"),
    "demo": (*_RUN, "live", "trace", "seed", *_REPORTED, "deno"),
    "doctor": (*_REPORTED, "deno"),
    "setup": (*_REPORTED, "deno"),
    "report": _REPORTED,
    "replay": ("errors", "encoding", "packages", *_REPORTED, "deno"),
    "runs": ("store", *_REPORTED),
    "resume": ("store", "model", "sub_model", "base_url", "price", "cache", "live", "trace", *_REPORTED, "deno"),
    "serve": (*_RUN, "trace", "host", "port", "threshold_chars", "max_request_mb", *_REPORTED, "deno"),
    "mcp": (*_RUN, "errors", "trace", "debug", "deno"),
    "config": tuple(ALL),
    "packages": _REPORTED,
    "completion": ("debug",),
    "bench": (),
}
# what is not an option
_POSITIONAL = {
    "ask": " QUESTION [FILE|DIR|GLOB...]",
    "batch": " QUESTIONS-FILE -o FILE",
    "report": " TRACE-FILE",
    "replay": " TRACE-FILE",
    "resume": " RUN",
    "mcp": " FILE|DIR...",
    "packages": " {add,list,remove} [NAME...]",
    "completion": f" {{{','.join(SHELLS)}}}",
}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples as they are written, and the names of commands and flags in one column with what they mean."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)
        # argparse takes the names of commands to be two columns shorter than it then writes them
        self._action_max_length = 14


def parser(commands: Mapping[str, Command], files: object = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; what it parses has the command in `run`, and its own parser in `parser`.

    `files` is how shtab completes the name of a file; None where nothing is completed.
    """
    whole = argparse.ArgumentParser(
        prog="rlm-wasm",
        description="Answer questions over contexts of any length, with code run in a sandbox.",
        epilog=f"{_EXAMPLES}\n{_SETTINGS}\n{_EXIT_CODES}",
        formatter_class=_Help,
    )
    whole.add_argument("--version", action="version", version=f"rlm-wasm {__version__}")
    group = whole.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(name: str, short: str, *epilog: str) -> argparse.ArgumentParser:
        made = group.add_parser(
            name,
            help=short,
            usage=f"rlm-wasm {name} [OPTIONS]{_POSITIONAL.get(name, '')}",
            description=f"{short[0].upper()}{short[1:]}.",
            epilog="\n".join(epilog),
            formatter_class=_Help,
        )
        made.set_defaults(run=commands[name], parser=made)
        return made

    ask = add("ask", "answer a question about files, folders or standard input", _ASK_EXAMPLES, _SETTINGS, _EXIT_CODES)
    ask.add_argument("question", metavar="QUESTION", help="in the words of a person")
    named = ask.add_argument("files", metavar="FILE|DIR|GLOB", nargs="*", help="what the question is about")
    _completes(named, files)
    _add_context(ask, "the same; - is standard input", files)
    _add_batch(
        add("batch", "answer the questions of a file, many at once", _BATCH_EXAMPLES, _SETTINGS, _EXIT_CODES), files
    )
    add(
        "demo",
        "answer a checkable question over Python's language reference",
        "Without --model scripted replies stand in for a model, and nobody is asked anything; here the model is taken\n"
        "from the flag alone.\n",
        _EXIT_CODES,
    )
    add("doctor", "say what was found, what is missing and how to get it", _EXIT_CODES)
    add("setup", "check the runtime files, make the memory image ahead of time")
    report = add("report", "make one HTML file of a run that was written by --trace", _REPORT_EXAMPLES)
    _add_report(report, files)
    replay = add("replay", "run a trace again with its recorded answers, and say what differs", _REPLAY_EXAMPLES)
    _add_replay(replay, files)
    _add_runs(add("runs", "list the runs that --store has kept, and remove old ones", _RUNS_EXAMPLES))
    resume = add("resume", "go on with a run that was stopped, or whose program was ended", _RESUME_EXAMPLES, _SETTINGS)
    resume.add_argument("run_id", metavar="RUN", help="its id, as rlm-wasm runs lists it")
    add("serve", "answer as OpenAI's chat completions do, long conversations by the RLM", _SERVE_EXAMPLES, _SETTINGS)
    mcp = add("mcp", "answer questions about files as an MCP server on stdio", _MCP_EXAMPLES, _SETTINGS)
    _completes(mcp.add_argument("files", metavar="FILE|DIR", nargs="+", help="what questions may be about"), files)
    add("config", "show the settings that hold, and where each comes from", _SETTINGS)
    shelf = add("packages", "get packages for the sandbox, list them, remove them", _PACKAGES_EXAMPLES, _EXIT_CODES)
    shelf.add_argument(
        "act_on_packages", choices=("add", "list", "remove"), metavar="{add,list,remove}", help="what to do"
    )
    shelf.add_argument("names", nargs="*", metavar="NAME", help="of a package (to add also a wheel or a folder)")
    completion = add("completion", "print a script that completes rlm-wasm in a shell", _COMPLETION_EXAMPLES)
    completion.add_argument("shell", choices=SHELLS, help="the shell that the script is for")
    add(
        "bench",
        "measure what a start, a cell and a call cost, in a checkout",
        "Its arguments are those of python -m tests.bench: --only NAME, --quick, --dspy PYTHON, --json FILE, --save.",
    )
    for name, made in group.choices.items():
        _add_settings(made, KEYS[name], files)
    return whole


def parse(whole: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments as they were given; what `bench` hands on is in `rest`. Ends the process where they are wrong."""
    options, rest = whole.parse_known_args(arguments)
    if options.command == "ask" and not any(word.startswith("-") for word in rest):
        # argparse takes what follows an option, as a shell writes out a glob, for none of a command's own
        options.context = [*options.context, *rest]
        rest = []
    if rest and options.command != "bench":
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options


def _add_batch(made: argparse.ArgumentParser, files: object) -> None:
    about = "the questions: JSON lines in a .jsonl or .ndjson file, else a question a line"
    _completes(made.add_argument("questions", metavar="QUESTIONS-FILE", help=about), files)
    out = made.add_argument("-o", "--output", metavar="FILE", required=True, help="where the answers are written")
    _completes(out, files)
    _add_context(made, "what the questions are about that have no context of their own", files)
    made.add_argument("--each-usd", type=NUMBER.parse, metavar="N", help="spend at most this on each question")
    made.add_argument("--each-seconds", type=NUMBER.parse, metavar="N", help="give each question at most these")
    made.add_argument(
        "--ask-again",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether what failed in an earlier batch is asked again (default: it is)",
    )


def _add_replay(made: argparse.ArgumentParser, files: object) -> None:
    _add_trace(made, files)
    _add_context(made, "the context, where it was too large to be recorded", files)


def _add_context(made: argparse.ArgumentParser, meaning: str, files: object) -> None:
    context = made.add_argument(
        "--context",
        metavar="FILE|DIR|GLOB|-",
        action="append",
        default=[],
        help=f"{meaning}; may be given several times",
    )
    _completes(context, files)


def _add_runs(made: argparse.ArgumentParser) -> None:
    made.add_argument("--remove", metavar="RUN", action="append", help="remove this run")
    made.add_argument("--prune", action="store_true", help="remove runs that are too old, or too much together")
    made.add_argument("--days", metavar="N", type=NUMBER.parse, help="with --prune: those of more than so many days")
    made.add_argument("--mb", metavar="N", type=NUMBER.parse, help="with --prune: the oldest of more than so many MB")


def _add_report(made: argparse.ArgumentParser, files: object) -> None:
    _add_trace(made, files)
    out = made.add_argument("-o", "--output", metavar="FILE", help="where to (default: the trace's name with .html)")
    _completes(out, files)


def _add_trace(made: argparse.ArgumentParser, files: object) -> None:
    _completes(made.add_argument("trace_file", metavar="TRACE-FILE", help="what --trace wrote"), files)
    made.add_argument("--run", metavar="ID", dest="run_id", help="which run of several (default: the last)")


def reads_config(keys: Sequence[str]) -> bool:
    """Whether a command with these settings takes them from config files too."""
    return "json" in keys or "model" in keys


def _add_settings(made: argparse.ArgumentParser, keys: Sequence[str], files: object) -> None:
    for key in keys:
        _completes(_add_setting(made, ALL[key]), files)
    if reads_config(keys):
        _completes(made.add_argument("--config", metavar="FILE", help="read this config file, and no other"), files)
        made.add_argument("--no-config", action="store_true", default=None, help="read no config file")


def _add_setting(made: argparse.ArgumentParser, setting: Setting) -> argparse.Action:
    if setting.form is SWITCH:
        return made.add_argument(setting.flag, action=argparse.BooleanOptionalAction, help=setting.help)
    return made.add_argument(
        setting.flag, type=setting.form.parse, choices=setting.choices, metavar=setting.metavar, help=setting.help
    )


def _completes(action: argparse.Action, files: object) -> None:
    """Have shtab complete names of files, where they are asked for."""
    if files is not None and "FILE" in str(action.metavar):
        action.complete = files  # pyright: ignore[reportAttributeAccessIssue]  # it is looked for there
