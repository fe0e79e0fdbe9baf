"""An HTTP server that answers as a model does, and runs an RLM where a conversation is too long for one.

An ASGI application of three paths, which uvicorn serves: its one need beyond that is to notice at once that a client
has hung up, and this is nearer to it than any framework. What is asked and answered is in `chats.py`.
"""

from __future__ import annotations

import hmac
import inspect
import ipaddress
import json
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

from rlm_wasm.clients.protocol import Reply
from rlm_wasm.errors import ClientError, LimitExceeded, RLMError
from rlm_wasm.integrations.chats import Answer, Chat, Refused, as_task, ending, model, models, new_id, piece, read
from rlm_wasm.integrations.chats import response as whole
from rlm_wasm.rlm import RLM
from rlm_wasm.sandbox.values import to_plain
from rlm_wasm.secrets import Secrets

# a conversation of 8 million tokens, or so
MAX_REQUEST_MB = 32
# each has a sandbox of some hundred megabytes
MAX_RUNS = 4
# seconds between signs of life in a stream: proxies give up after 30 or 60 without one
_BEAT_EVERY = 10.0
# seconds for requests that are under way when the server ends
_ENDS_WITHIN = 3

Result = TypeVar("Result")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Tell = Callable[[str | None], None]

_log = logging.getLogger(__name__)


class Gone(Exception):
    """The client hung up: nobody waits for an answer."""


class ChatServer:
    """The ASGI application: POST /v1/chat/completions, GET /v1/models and GET /v1/models/NAME.

    `rlms`: by the names that clients call them. A conversation of at most `threshold_chars` characters is one call of
    the root model, a longer one a run (as `Router`'s, but for the messages, which stay what they are in a plain call);
    one that asks for JSON is a run too, whose answer is held to it. The limits of an RLM hold for each request. `token`
    is what clients send as their key; without one only requests to this machine's own names are answered, so that no
    page in a browser can pose as one. `max_runs` are at work at once, others wait.
    """

    def __init__(
        self,
        rlms: Mapping[str, RLM],
        *,
        token: str | None = None,
        threshold_chars: int = 8000,
        max_request_mb: int = MAX_REQUEST_MB,
        max_runs: int = MAX_RUNS,
    ) -> None:
        if not rlms:
            raise ValueError("there is no model to serve")
        if threshold_chars < 0:
            raise ValueError(f"threshold_chars must be 0 or more, not {threshold_chars!r}")
        if token is not None and not token.strip():
            raise ValueError("the token is empty")
        self._rlms = dict(rlms)
        self._token = token
        self._threshold = threshold_chars
        self._max_bytes = max_request_mb * 1024 * 1024
        self._places = anyio.Semaphore(max_runs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        try:
            await self._respond(scope, receive, send)
        except Refused as refused:
            await _send_json(send, refused.body(), refused.status)
        except Gone:
            _log.info("a client hung up before its answer")

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._admit(headers)
        way, path = scope["method"], scope["path"].rstrip("/")
        if (way, path) == ("GET", "/v1/models"):
            await _send_json(send, models(list(self._rlms)))
        elif way == "GET" and path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            self._rlm(name)
            await _send_json(send, model(name))
        elif (way, path) == ("POST", "/v1/chat/completions"):
            # a page in a browser can send no such thing without asking first, which nobody answers
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise Refused(415, "the request must be application/json", "invalid_request")
            chat = read(await self._body(headers, receive))
            rlm = self._rlm(chat.model)
            await (self._stream if chat.stream else self._complete)(rlm, chat, receive, send)
        else:
            raise Refused(404, f"there is no {way} {path[:200]}", "not_found")

    def _admit(self, headers: Mapping[str, str]) -> None:
        if self._token is None:
            if not is_loopback(_host_in(headers.get("host", ""))):
                raise Refused(403, "without a token only requests to 127.0.0.1 or localhost are answered", "forbidden")
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise Refused(401, "the API key is missing or wrong", "invalid_api_key", kind="authentication_error")

    def _rlm(self, name: str) -> RLM:
        if name not in self._rlms:
            names = ", ".join(self._rlms)
            raise Refused(404, f"the model {name[:200]!r} does not exist; there are: {names}", "model_not_found")
        return self._rlms[name]

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size <= self._max_bytes:
                parts.append(part)
            elif size > 2 * self._max_bytes:
                # until there it is read and dropped: a client that still sends may never see what was answered
                break
        if size > self._max_bytes:
            raise Refused(413, f"the request has more than {self._max_bytes:,} bytes", "request_too_large")
        return b"".join(parts)

    # --- answers ---------------------------------------------------------------------------------------------------

    async def _complete(self, rlm: RLM, chat: Chat, receive: Receive, send: Send) -> None:
        async def work() -> Answer:
            return await self._answer(rlm, chat, None)

        await _send_json(send, whole(chat, await _while_listening(receive, work)))

    async def _stream(self, rlm: RLM, chat: Chat, receive: Receive, send: Send) -> None:
        """Send the answer as server-sent events: a plain call's as it comes, a run's when it is there."""
        await _send_head(send, 200, "text/event-stream", ((b"cache-control", b"no-cache"),))

        async def emit(line: str) -> None:
            await send({"type": "http.response.body", "body": f"{line}\n\n".encode(), "more_body": True})

        async def work() -> None:
            id, sent = new_id(), 0
            pieces, answered = anyio.create_memory_object_stream[str | None](math.inf), list[Answer]()

            async def ask() -> None:
                with pieces[0]:
                    answered.append(await self._answer(rlm, chat, pieces[0].send_nowait))

            async def pass_on() -> None:
                nonlocal sent
                with pieces[1]:
                    while True:
                        text = ""
                        with anyio.move_on_after(_BEAT_EVERY) as patience:
                            try:
                                text = await pieces[1].receive()
                            except anyio.EndOfStream:
                                return
                        if patience.cancelled_caught:
                            await emit(": at work")
                        elif text is None and sent:
                            raise Refused(502, "the model's reply broke off", "upstream_error", kind="server_error")
                        elif text:
                            await emit(f"data: {json.dumps(piece(chat, id, text, first=not sent))}")
                            sent += len(text)

            await _together(ask, pass_on)
            [answer] = answered
            if not sent:
                await emit(f"data: {json.dumps(piece(chat, id, answer.text, first=True))}")
            for chunk in ending(chat, id, answer):
                await emit(f"data: {json.dumps(chunk)}")

        try:
            await _while_listening(receive, work)
        except Refused as refused:
            # the status has been sent: the clients of this protocol look for an error in the events
            await emit(f"data: {json.dumps(refused.body())}")
        await emit("data: [DONE]")
        await send({"type": "http.response.body", "body": b""})

    async def _answer(self, rlm: RLM, chat: Chat, tell: Tell | None) -> Answer:
        """The answer to a conversation. Raises Refused, which says what may be said of a failure."""
        try:
            if chat.chars <= self._threshold and chat.schema is None:
                return await _plain(rlm, chat, tell)
            async with self._places:
                return await _run(rlm, chat)
        except LimitExceeded as limit:
            raise _stopped(str(limit)) from limit
        except ClientError as error:
            said = rlm.secrets().hide(str(error))
            raise Refused(
                502, f"the model could not be asked: {said}", "upstream_error", kind="server_error"
            ) from error
        except (ValueError, TypeError) as error:
            # a schema that is none, say
            raise Refused(400, Secrets().hide(str(error)), "invalid_request") from error
        except RLMError as error:
            _log.exception("a request failed")
            raise Refused(500, f"it failed: {type(error).__name__}", "internal_error", kind="server_error") from error


async def _plain(rlm: RLM, chat: Chat, tell: Tell | None) -> Answer:
    client, budget = rlm.models.root, rlm.open_budget()
    more: dict[str, Any] = {}
    if chat.max_output_tokens is not None:
        more["max_output_tokens"] = chat.max_output_tokens
    if tell is not None and "on_text" in inspect.signature(client.complete).parameters:
        more["on_text"] = tell
    seconds = rlm.limits.seconds
    reply: Reply | None = None
    with budget.reserve(client.model, prompt_chars=chat.chars, inside=False) as reservation:
        with anyio.move_on_after(seconds):
            reply = await client.complete(chat.messages, **more)
            reservation.settle(
                reply.input_tokens,
                reply.output_tokens,
                estimated=reply.estimated,
                cache_reads=reply.cache_reads,
                cache_writes=reply.cache_writes,
            )
    if reply is None:
        raise LimitExceeded("seconds", seconds or 0.0, seconds or 0.0)
    return Answer(text=reply.text, route="plain", stopped_by="final", usage=budget.usage)


async def _run(rlm: RLM, chat: Chat) -> Answer:
    task = as_task(chat.messages)
    done = await rlm.acompletion(task.question, context=task.context, output=chat.schema)
    if done.response is None and done.stopped_by != "final":
        raise _stopped(f"the run was stopped by its limit ({done.stopped_by}) before it had an answer")
    return Answer(
        text=done.response if isinstance(done.response, str) else _as_json(done.response),
        route="rlm",
        stopped_by=done.stopped_by,
        usage=done.usage,
        iterations=len(done.trajectory),
    )


def _as_json(value: object) -> str:
    return json.dumps(to_plain(value), ensure_ascii=False)


def _stopped(message: str) -> Refused:
    # a status that clients do not try again
    return Refused(422, message, "limit_reached", kind="limit_error")


async def _while_listening(receive: Receive, work: Callable[[], Awaitable[Result]]) -> Result:
    """Do the work unless the client hangs up: then it is cancelled, and Gone raised."""
    found: list[Result] = []

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise Gone

    async def do() -> None:
        found.append(await work())

    await _together(do, listen, first_ends=True)
    return found[0]


async def _together(*works: Callable[[], Awaitable[None]], first_ends: bool = False) -> None:
    """Do all at once until all are done, or the first where that `first_ends` it. Raises the first failure, bare."""
    failures: list[Exception] = []
    async with anyio.create_task_group() as tasks:

        async def guarded(work: Callable[[], Awaitable[None]], ends: bool) -> None:
            try:
                await work()
            except Exception as error:
                failures.append(error)
                tasks.cancel_scope.cancel()
            if ends:
                tasks.cancel_scope.cancel()

        for number, work in enumerate(works):
            tasks.start_soon(guarded, work, first_ends and not number)
    if failures:
        raise failures[0]


async def _send_json(send: Send, body: Mapping[str, Any], status: int = 200) -> None:
    # a failed run was paid for: no client is to begin it again by itself (OpenAI's look at this)
    extra = ((b"x-should-retry", b"false"),) if status >= 400 else ()
    await _send_head(send, status, "application/json", extra)
    await send({"type": "http.response.body", "body": json.dumps(body, ensure_ascii=False).encode()})


async def _send_head(send: Send, status: int, kind: str, extra: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    headers = ((b"content-type", kind.encode()), (b"x-content-type-options", b"nosniff"), *extra)
    await send({"type": "http.response.start", "status": status, "headers": headers})


def _host_in(header: str) -> str:
    """The name or address in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, which nobody else can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def serve(
    server: ChatServer, *, host: str, port: int, stop: anyio.Event, began: Callable[[str], None] = lambda _: None
) -> None:
    """Serve until `stop` is set; `began` is told the base URL. Port 0 takes a free one. For asyncio alone.

    Raises ImportError without uvicorn, OSError if the port is taken.
    """
    try:
        import uvicorn
    except ImportError:
        raise ImportError("rlm-wasm serve needs uvicorn: pip install 'rlm-wasm[serve]'") from None

    class Quiet(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None]:
            """They are the caller's: raised again at uvicorn's end, SIGTERM would leave sandboxes behind."""
            yield

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        config = uvicorn.Config(
            server,
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_ENDS_WITHIN,
        )
        quiet = Quiet(config)
        began(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/v1")
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                await stop.wait()
                quiet.should_exit = True

            tasks.start_soon(end)
            await quiet.serve(sockets=[listening])
            tasks.cancel_scope.cancel()
