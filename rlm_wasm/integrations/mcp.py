"""An MCP server over files: a program that knows the protocol asks questions about more than its model's window holds.

Offers the files that it was given and no others, whatever the client asks for. The protocol itself is the `mcp`
package's, written against its 2.3.
"""

# Without the future's annotations: the package reads those of the tools below, where its names are known.

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from rlm_wasm import contexts
from rlm_wasm.errors import ClientError, RLMError
from rlm_wasm.events import Event
from rlm_wasm.rlm import RLM
from rlm_wasm.sandbox.values import to_plain
from rlm_wasm.stream import Stream
from rlm_wasm.trace.lines import described
from rlm_wasm.trajectory import Completion

INSTRUCTIONS = """\
Answers questions about files that may be far larger than a model's window: for each question a model writes code that \
reads them in a sandbox. list_files says which there are, load chooses those that questions are about (all of them at \
first), ask answers one, which may take minutes, and cancel ends what is under way.\
"""

# of a list of names in a reply
_SHOWN_FILES = 1000


class Shelf:
    """The files that questions may be about: `paths` are files, and folders whose files are meant.

    A file's name is its own, or its path within its folder; with several `paths` that of the folder stands before it.
    `errors`: what to do with bytes that are not UTF-8. Raises FileNotFoundError, and ValueError for no files or two of
    one name.
    """

    def __init__(self, paths: Sequence[str | Path], *, errors: str = "strict") -> None:
        self._errors = errors
        self._paths: dict[str, Path] = {}
        roots = [Path(path) for path in paths]
        for root in roots:
            if not root.exists():
                raise FileNotFoundError(f"there is no file or folder {str(root)!r}")
            for name, path in _files(root, within=root.resolve().name if len(roots) > 1 else ""):
                if name in self._paths:
                    raise ValueError(f"two files have the name {name}: {self._paths[name]} and {path}")
                self._paths[name] = path
        if not self._paths:
            raise ValueError(f"there are no files in {', '.join(map(str, paths))}")

    def listed(self) -> list[dict[str, Any]]:
        """The files, each with `name` and `bytes`."""
        return [{"name": name, "bytes": path.stat().st_size} for name, path in self._paths.items()]

    def read(self, names: Sequence[str] | None = None) -> contexts.Context:
        """The files of these names as a context, all if None: the text of one, of several a dict from name to text.

        Raises ValueError for a name that there is not, and for a file that is not text.
        """
        chosen = list(self._paths) if names is None else list(dict.fromkeys(names))
        unknown = [name for name in chosen if name not in self._paths]
        if unknown or not chosen:
            raise ValueError(f"there is no file {unknown[0][:200]!r}" if unknown else "no file was named")
        texts = {name: contexts.read_text(self._paths[name], errors=self._errors) for name in chosen}
        return contexts.prepare(texts[chosen[0]] if len(chosen) == 1 else texts)


def _files(root: Path, within: str) -> list[tuple[str, Path]]:
    if root.is_file():
        return [(root.name, root)]
    real, found = root.resolve(), list[tuple[str, Path]]()
    for path in sorted(real.rglob("*")):
        # a link may lead out of the folder that was named
        if path.is_file() and path.resolve().is_relative_to(real):
            found.append(((Path(within) / path.relative_to(real)).as_posix(), path))
    return found


class Desk:
    """One client's questions about a shelf: which files are loaded, and which questions are under way."""

    def __init__(self, rlm: RLM, shelf: Shelf) -> None:
        self._rlm, self._shelf = rlm, shelf
        self._context: contexts.Context | None = None
        self._streams: set[Stream] = set()

    async def load(self, names: Sequence[str] | None) -> str:
        """Choose the files that questions are about from now on; gives the line that describes them."""
        self._context = await anyio.to_thread.run_sync(self._shelf.read, names)
        return self._context.description

    async def ask(self, question: str, hear: Callable[[Event], Any]) -> Completion:
        """Answer a question; `hear` is awaited with the events of the run and its children. Raises as `RLM.stream`."""
        if self._context is None:
            await self.load(None)
        assert self._context is not None
        async with self._rlm.stream(question, context=self._context.value) as stream:
            self._streams.add(stream)
            try:
                async for event in stream:
                    await hear(event)
            finally:
                self._streams.discard(stream)
        return stream.completion

    async def cancel(self) -> int:
        """End the questions that are under way, which then give what they have; how many there were."""
        streams = list(self._streams)
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.aclose)
        return len(streams)


def server(rlm: RLM, shelf: Shelf) -> Any:
    """An `mcp.server.mcpserver.MCPServer` over a shelf. Raises ImportError without the package."""
    try:
        from mcp.server.mcpserver import Context, MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError:
        raise ImportError("rlm-wasm mcp needs the mcp package: pip install 'rlm-wasm[mcp]'") from None
    made = MCPServer("rlm_wasm", instructions=INSTRUCTIONS, log_level="WARNING")
    desk = Desk(rlm, shelf)

    @made.tool()
    async def list_files() -> dict[str, Any]:
        """The files that questions can be about: their names and sizes in bytes."""
        files = await anyio.to_thread.run_sync(shelf.listed)
        return {"files": files[:_SHOWN_FILES], "count": len(files)}

    @made.tool()
    async def load(names: list[str] | None = None) -> str:
        """Choose the files that questions are about from now on, by the names that list_files gives; all if none."""
        try:
            return await desk.load(names)
        except (ValueError, OSError) as error:
            raise ToolError(str(error)) from error

    @made.tool()
    async def ask(question: str, ctx: Context) -> dict[str, Any]:
        """Answer a question about the loaded files. It may take minutes; progress is told while it goes."""
        told, hide = 0, rlm.secrets().hide

        async def hear(event: Event) -> None:
            nonlocal told
            line = described(event)
            if line:
                told += 1
                await ctx.report_progress(told, message=hide(line))

        try:
            return _answer(await desk.ask(question, hear))
        except ClientError as error:
            raise ToolError(f"the model could not be asked: {hide(str(error))}") from error
        except (RLMError, ValueError, TypeError, OSError) as error:
            raise ToolError(f"{type(error).__name__}: {hide(str(error))}") from error

    @made.tool()
    async def cancel() -> dict[str, int]:
        """End the questions that are under way; each gives the best answer that it has."""
        return {"cancelled": await desk.cancel()}

    # the decorator has them all
    del list_files, load, ask, cancel
    return made


def _answer(done: Completion) -> dict[str, Any]:
    """What `ask` gives: the answer as it was given, where it has a form in JSON, and how it was got."""
    answer = done.response if done.response is not None else done.partial
    return {
        "answer": json.loads(json.dumps(to_plain(answer))),
        "stopped_by": done.stopped_by,
        "iterations": len(done.trajectory),
        "calls": done.usage.calls,
        "usd": done.usage.usd,
    }


async def serve_stdio(rlm: RLM, shelf: Shelf, stop: anyio.Event) -> None:
    """Serve on stdin and stdout until stdin ends, or `stop` is set. Raises ImportError without the package."""
    made = server(rlm, shelf)
    with _stdin_that_ends() as end:
        async with anyio.create_task_group() as tasks:

            async def end_when_told() -> None:
                await stop.wait()
                end()
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_when_told)
            await made.run_stdio_async()
            tasks.cancel_scope.cancel()


@contextmanager
def _stdin_that_ends() -> Generator[Callable[[], None]]:
    """While the block runs, what is read from stdin ends with stdin itself, or when what this gives is called.

    The package reads in a thread that nothing but the end of the file stops, and that would outlive every signal.
    """
    if sys.platform == "win32":
        # nothing sets `stop` there
        yield lambda: None
        return
    own, (reading, writing) = os.dup(0), socket.socketpair()
    os.dup2(reading.fileno(), 0)
    reading.close()

    def end() -> None:
        # of a socket it wakes a thread that waits to write, which closing a pipe does not
        with suppress(OSError):
            writing.shutdown(socket.SHUT_WR)

    def pass_on() -> None:
        with suppress(OSError):
            while piece := os.read(own, 65_536):
                writing.sendall(piece)
        end()

    threading.Thread(target=pass_on, name="rlm_wasm stdin", daemon=True).start()
    try:
        yield end
    finally:
        end()
        os.dup2(own, 0)
