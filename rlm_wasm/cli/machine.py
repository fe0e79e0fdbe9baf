"""The commands that ask no model: about this machine, the settings, the shell, the benchmark."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rlm_wasm import doctor, packages
from rlm_wasm.cli.answers import print_json, print_text
from rlm_wasm.cli.config import user_file
from rlm_wasm.cli.settings import ALL, shown
from rlm_wasm.sandbox import process
from rlm_wasm.trace.html import report
from rlm_wasm.trace.lines import say
from rlm_wasm.trajectory import Trajectory

_OF_A_PROJECT = " (a project's: it may choose what is harmless, and lower limits)"


def deno_of(options: argparse.Namespace) -> str | None:
    """The Deno that was chosen; None leaves RLM_WASM_DENO to the sandbox, whose errors name it."""
    value = options.values["deno"]
    return None if value.origin == ALL["deno"].variable else value.value


def doctored(options: argparse.Namespace) -> int:
    """`doctor`: 0 if a sandbox works here, else 1."""
    if not options.json:
        return doctor.report(deno_of(options), say)
    found = list(doctor.findings(deno_of(options)))
    sound = all(finding.state != "fail" for finding in found)
    print_json({"sound": sound, "findings": found})
    return 0 if sound else 1


def set_up(options: argparse.Namespace) -> int:
    """`setup`: 0, or what stops it is raised."""
    if not options.json:
        return doctor.setup(deno_of(options), say)
    print_json({"done": list(doctor.steps(deno_of(options)))})
    return 0


def make_report(options: argparse.Namespace) -> int:
    """`report`: a trace's run as one HTML file, whose path goes to stdout."""
    trace = Path(options.trace_file)
    events = Trajectory.load(trace, options.run_id).events
    written = report(events, options.output or trace.with_suffix(".html"))
    if options.json:
        print_json({"report": str(written), "events": len(events)})
    else:
        print_text(str(written))
    return 0


def show_config(options: argparse.Namespace) -> int:
    """`config`: the values that hold, with their origins; never a key."""
    values = {key: (shown(key, value.value), value.origin) for key, value in options.values.items()}
    for name in ("OPENAI_BASE_URL", "LLM_BASE_URL"):
        # where the client looks if nobody chose
        if values["base_url"][0] is None and os.environ.get(name):
            values["base_url"] = (shown("base_url", os.environ[name]), name)
    if options.json:
        settings = {key: {"value": value, "origin": origin} for key, (value, origin) in values.items()}
        files = [source.path for source in options.sources]
        print_json({"settings": settings, "files": files, "user_file": str(user_file())})
        return 0
    shown_values = {key: _written(value) for key, (value, _) in values.items()}
    names, width = max(map(len, values)), max(map(len, shown_values.values()))
    for key, (_, origin) in values.items():
        print_text(f"{key:<{names}}  {shown_values[key]:<{width}}  {origin}")
    for source in options.sources:
        say(f"read: {source.path}{'' if source.own else _OF_A_PROJECT}")
    if not any(source.own for source in options.sources):
        say(f"your own config file would be {user_file()}")
    return 0


def _written(value: object) -> str:
    """As in TOML, but for texts, which stand without quotes; "-" where there is no value."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def keep_packages(options: argparse.Namespace) -> int:
    """`packages`: the sets in the cache; those that were added, removed or found go to stdout."""
    if bool(options.names) is (options.act_on_packages == "list"):
        options.parser.error("list takes no names" if options.names else f"{options.act_on_packages}: which packages?")
    if options.act_on_packages == "add":
        sets = [packages.add(options.names, process.runtime_folder() / "pyodide" / "pyodide-lock.json")]
    elif options.act_on_packages == "remove":
        sets = packages.remove(options.names)
        if not sets:
            raise ValueError(f"no set of packages in the cache has {' or '.join(options.names)} in it")
    else:
        sets = packages.kept()
    if options.json:
        print_json({options.act_on_packages: sets})
        return 0
    for each in sets:
        print_text(f"{','.join(each.wanted)}: {', '.join(each.names)}")
    return 0


def complete(parser: Callable[[object], argparse.ArgumentParser], shell: str) -> int:
    """`completion`: a script for a shell. Raises ImportError, with what to install."""
    try:
        import shtab
    except ImportError:
        raise ImportError("completion is made by shtab: pip install 'rlm-wasm[completion]'") from None
    print_text(shtab.complete(parser(shtab.FILE), shell=shell))
    return 0


def bench(options: argparse.Namespace) -> int:
    """`bench`: the benchmark of the checkout that this is, with its own arguments and exit code."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "tests" / "bench" / "__main__.py").is_file():
        say("rlm-wasm: the benchmark is in a checkout alone: git clone the repository, and run rlm-wasm bench there")
        return 1
    # -P: what lies in the working directory is not imported
    command = [sys.executable, "-P", "-m", "tests.bench", *options.rest]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(checkout)}, check=False).returncode
