"""Plays Elasticsearch on loopback: as much of its search as is asked for, over the documents that it is given."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.retrievers.sea import DOCUMENTS, embed

Source = dict[str, Any]


class Asked(NamedTuple):
    method: str
    target: str
    headers: Mapping[str, str]
    body: dict[str, Any]


Step = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        # strictly, as the real one
        raw = self.rfile.read(int(self.headers["Content-Length"])).decode("utf-8")
        body = json.loads(raw, parse_constant=refuse)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Asked(self.command, self.path, headers, body))
        if self.server.step is not None:
            self.server.step(self)
        elif urlsplit(self.path).path != "/papers/_search":
            self.say(404, {"error": {"type": "index_not_found_exception", "root_cause": [{}]}, "status": 404})
        else:
            self.say(200, {"hits": {"hits": searched(body)}})

    def say(self, status: int, answer: object, **headers: str) -> None:
        self.send(status, json.dumps(answer).encode(), **{"X-Elastic-Product": "Elasticsearch", **headers})

    def send(self, status: int, raw: bytes, **headers: str) -> None:
        self.send_response(status)
        fixed = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
        for name, value in {**fixed, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


def refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class Server(ThreadingHTTPServer):
    """Searches, unless it has a `step` to do instead; keeps what it was asked in `requests`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Asked] = []
        self.step: Step | None = None
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are part of these tests


@contextmanager
def served() -> Generator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


SOURCES: dict[str, Source] = {
    each["id"]: {**each["metadata"], "content": each["text"], "embedding": vector}
    for each, vector in zip(DOCUMENTS, embed([each["text"] for each in DOCUMENTS]), strict=True)
}


def searched(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The hits of a search's body."""
    scores: dict[str, float | None] = {}
    for id, source in SOURCES.items():
        if "knn" in body:
            passes = all(score(clause, id, source) is not None for clause in body["knn"]["filter"])
            scores[id] = cosine(body["knn"]["query_vector"], source[body["knn"]["field"]]) if passes else None
        else:
            scores[id] = score(body["query"], id, source)
    found = sorted(((value, id) for id, value in scores.items() if value is not None), key=lambda each: -each[0])
    return [hit(id, value, body) for value, id in found[: body["knn"]["k"] if "knn" in body else body["size"]]]


def hit(id: str, value: float, body: dict[str, Any]) -> dict[str, Any]:
    excluded = body["_source"]["excludes"]
    made: dict[str, Any] = {"_index": "papers", "_id": id, "_score": value}
    made["_source"] = {name: value for name, value in SOURCES[id].items() if name not in excluded}
    if "highlight" in body:
        text, words = SOURCES[id]["content"], set(words_of(json.dumps(body.get("query", ""))))
        start = next((match.start() for match in re.finditer(r"\w+", text) if match.group().lower() in words), 0)
        made["highlight"] = {"content": [text[max(0, start - 30) : start + 500]]}
    return made


def score(clause: dict[str, Any], id: str, source: Source) -> float | None:
    """What a document gets for a query; None if it is not found by it."""
    [(kind, query)] = clause.items()
    if kind == "bool":
        return boolean(query, id, source)
    if kind == "ids":
        return 1.0 if id in query["values"] else None
    if kind == "match_none":
        return None
    if kind == "exists":
        return 1.0 if source.get(query["field"]) is not None else None
    [(field, wanted)] = query.items()
    if kind in ("term", "terms"):
        held = source.get(field)
        values = wanted if kind == "terms" else [wanted]
        return 1.0 if any(each in values for each in (held if isinstance(held, list) else [held])) else None
    words = words_of(source[field])
    if kind == "match":
        return sum(1 + words.count(word) / 10 for word in set(words_of(wanted["query"])) if word in words) or None
    assert kind == "match_phrase", kind
    return 2.0 if f" {' '.join(words_of(wanted))} " in f" {' '.join(words)} " else None


def boolean(query: dict[str, Any], id: str, source: Source) -> float | None:
    musts = [score(each, id, source) for each in query.get("must", [])]
    filters = [score(each, id, source) for each in query.get("filter", [])]
    shoulds = [found for each in query.get("should", []) if (found := score(each, id, source)) is not None]
    nots = [score(each, id, source) for each in query.get("must_not", [])]
    passes = None not in musts and None not in filters and all(each is None for each in nots)
    enough = len(shoulds) >= query.get("minimum_should_match", 0)
    return sum(each for each in [*musts, *shoulds] if each is not None) if passes and enough else None


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def cosine(one: list[float], other: list[float]) -> float:
    return (1 + sum(map(float.__mul__, map(float, one), map(float, other))) / math.hypot(*one) / math.hypot(*other)) / 2
