"""What every test stands on: the event loop it runs on, a cache of memory images that is nobody's, twins by path."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from rlm_wasm.sandbox import image, process
from tests.terminal import Pty

# on a shared machine the time of one example says nothing
settings.register_profile("rlm_wasm", deadline=None)
settings.load_profile("rlm_wasm")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_backends: run the async tests on trio too, not on asyncio alone")


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """asyncio; where a test, class or module is marked `both_backends`, trio too."""
    return getattr(request, "param", "asyncio")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_backends"):
        metafunc.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True, scope="module")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Memory images are kept in a folder of this session's own: made once, and the user's are never touched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLM_WASM_CACHE", str(folder))
        # what this machine's user has written into a config file counts in no test
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield folder


@pytest.fixture
def pty() -> Iterator[Pty]:
    """A terminal for a program."""
    made = Pty()
    yield made
    os.close(made.ours)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, which is not there yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RLM_WASM_CACHE", str(folder))
    monkeypatch.setattr(image, "_checked", {})
    return folder


@pytest.fixture(scope="session")
def prisoner_module() -> Callable[[str], ModuleType]:
    """Loads a module of deno/ under this Python, as it is known inside: `prisoner_module("output")`."""

    def load(name: str) -> ModuleType:
        known = f"rlm_{name}"
        if known not in sys.modules:
            spec = importlib.util.spec_from_file_location(known, process.runtime_folder() / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[known] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[known]

    # what the others import
    load("values")
    return load


@pytest.fixture
def fake_deno(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a program that stands in for Deno: `--version` is answered, else `body` (Python) runs.

    In `body` there are `send(message)`, `receive()` (a message, None at the end) and the raw `stdin` and `stdout`.
    """

    # the kernel's layer would let nothing but the real Deno be read and executed
    monkeypatch.setattr(process, "find_launcher", lambda *arguments: None)

    def write(body: str, version: str = "deno 2.9.8") -> Path:
        program = tmp_path / "deno"
        program.write_text(f"#!{sys.executable} -I\n{_FAKE.format(version=version)}\n{body}\n")
        program.chmod(0o755)
        return program

    return write


_FAKE = """
import json, os, sys, time
if sys.argv[1:] == ["--version"]:
    print({version!r})
    sys.exit()
stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
def write(raw):
    stdout.write(raw)
    stdout.flush()
def send(message, **header):
    body = json.dumps({{"jsonrpc": "2.0", **message}}).encode()
    write(b"Content-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
def receive():
    while True:
        header = {{}}
        while (line := stdin.readline()) not in (b"\\r\\n", b""):
            name, _, value = line.decode().partition(":")
            header[name.lower()] = value.strip()
        if not header:
            return None
        body = stdin.read(int(header["content-length"]))
        if "content-id" not in header:
            return json.loads(body)
def greet():
    asked = receive()
    send({{"id": asked["id"], "result": {{"protocol": 1, "deno": "2.9.8", "v8": "15", "stages": []}}}})
"""


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """The processes that this one has started and that have not ended."""

    def running() -> set[int]:
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                # it ended meanwhile
                continue
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(entry.name))
        return found

    return running
