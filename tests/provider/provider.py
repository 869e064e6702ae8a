"""
The provider: its routes, its control routes, and the state a test can ask for.

    GET  /__bill[?tag=T][&entries=0]   what was charged, see bill.py
    POST /__reset                      forget bill, requests, defaults and failure counts
    POST /__behave                     replace the default behaviour, see behaviour.py
    GET  /__requests                   the last 1000 requests
    GET  /__live                       open streams and connections
"""

import hashlib
import json
from collections import Counter, deque
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs

from tests.provider import sse
from tests.provider.answers import JSON, answer
from tests.provider.behaviour import Behaviour, read_behaviour
from tests.provider.bill import PRICES_USD_PER_MTOK, Bill, Entry
from tests.provider.calls import Call
from tests.provider.connection import Connection, Request
from tests.provider.dialects import (
    anthropic_count_tokens,
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
)

DIALECTS = {
    "/chat/completions": openai_chat,
    "/completions": openai_completions,
    "/embeddings": openai_embeddings,
    "/responses": openai_responses,
    "/messages": anthropic_messages,
    "/messages/count_tokens": anthropic_count_tokens,
}
KEPT_BODY_BYTES = 64 * 1024


class Provider:
    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.reset()

    def reset(self) -> None:
        self.bill = Bill()
        self.behave({})
        self.failures: Counter[str] = Counter()
        self.requests: deque[Request | dict[str, Any]] = deque(maxlen=1000)

    def behave(self, defaults: dict[str, Any]) -> None:
        """Replace the default behaviour; raises ValueError."""
        self.default_behaviour = read_behaviour({}, defaults)
        self.defaults = defaults

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer one request, or start the task that will."""
        if request.path.startswith("/__"):
            self.serve_control(connection, request)
            return
        self.remember(request)
        path = request.path.removeprefix("/v1").rstrip("/")
        if request.method == "POST" and path in DIALECTS:
            self.serve_call(connection, request, DIALECTS[path])
        elif request.method == "GET" and (path == "/models" or path.startswith("/models/")):
            self.serve_models(connection, request, path.removeprefix("/models").removeprefix("/"))
        else:
            refuse(connection, openai_chat, 404, f"Invalid URL ({request.method} {request.path})")

    def serve_call(self, connection: Connection, request: Request, dialect: ModuleType) -> None:
        try:
            body = json.loads(request.body)
            if not isinstance(body, dict) or not isinstance(body.get("model"), str):
                raise ValueError("you must provide a model parameter")
            call = Call(dialect, body, self.behaviour_of(body))
        except (TypeError, ValueError) as error:
            refuse(connection, dialect, 400, str(error))
            return
        entry = Entry(call) if dialect is anthropic_count_tokens else self.bill.open(call)
        answer(connection, call, entry)

    def behaviour_of(self, body: dict[str, Any]) -> Behaviour:
        """Read the call's behaviour and count it among its key's failures; raises ValueError."""
        own = body.get("fake")
        fake = self.default_behaviour if own is None else read_behaviour(self.defaults, own)
        if not fake.fail_times:
            return fake
        self.failures[fake.key] += 1
        return fake.failing() if self.failures[fake.key] <= fake.fail_times else fake.succeeding()

    def serve_models(self, connection: Connection, request: Request, name: str) -> None:
        dialect = anthropic_messages if "anthropic-version" in request.headers else openai_chat
        if not name:
            connection.respond(200, JSON, sse.to_json(dialect.models_body(list(PRICES_USD_PER_MTOK))))
        elif name in PRICES_USD_PER_MTOK:
            connection.respond(200, JSON, sse.to_json(dialect.model_body(name)))
        else:
            refuse(connection, dialect, 404, f"The model '{name}' does not exist")

    # Control routes

    def serve_control(self, connection: Connection, request: Request) -> None:
        query = parse_qs(request.query)
        match request.method, request.path:
            case "GET", "/__bill":
                with_entries = query.get("entries") != ["0"]
                shown = self.bill.as_dict(tag=query.get("tag", [None])[0], with_entries=with_entries)
            case "POST", "/__reset":
                self.reset()
                shown = {}
            case "POST", "/__behave":
                try:
                    self.behave(json.loads(request.body or b"{}"))
                except (TypeError, ValueError) as error:
                    refuse(connection, openai_chat, 400, str(error))
                    return
                shown = self.defaults
            case "GET", "/__requests":
                shown = {"requests": [shown_request(kept) for kept in self.requests]}
            case "GET", "/__live":
                shown = self.live()
            case _:
                refuse(connection, openai_chat, 404, "No such control route")
                return
        connection.respond(200, JSON, sse.to_json(shown))

    def live(self) -> dict[str, int]:
        entries = [connection.entry for connection in self.connections if connection.entry is not None]
        streams = sum(entry.call.is_stream and entry.ended_at is None for entry in entries)
        return {"streams": streams, "connections": len(self.connections)}

    def remember(self, request: Request) -> None:
        """Keep the request for /__requests, a large one without the bytes of its body."""
        is_large = len(request.body) >= KEPT_BODY_BYTES
        self.requests.append(shown_request(request) if is_large else request)


def shown_request(request: Request | dict[str, Any]) -> dict[str, Any]:
    """Show a request, unless it is shown already; of a large body only the small top-level values."""
    if isinstance(request, dict):
        return request
    body = read_json(request.body)
    keys = list(body) if isinstance(body, dict) else None
    if len(request.body) >= KEPT_BODY_BYTES:
        body = {name: body[name] for name in keys if is_small(body[name])} if keys else None
    return {
        "method": request.method,
        "path": request.path + (f"?{request.query}" if request.query else ""),
        "headers": request.headers,
        "body_length": len(request.body),
        "body_sha256": hashlib.sha256(request.body).hexdigest(),
        "body_keys": keys,
        "body": body,
    }


def read_json(body: bytes) -> Any:
    """Read a JSON body; one that is not JSON is shown as its text, none at all as None."""
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode("utf-8", "replace")


def is_small(value: Any) -> bool:
    return len(value) < 1000 if isinstance(value, str) else not isinstance(value, list | dict)


def refuse(connection: Connection, dialect: ModuleType, status: int, message: str) -> None:
    """Answer an error of the request's own; such a call was never accepted and has no entry."""
    connection.respond(status, JSON, sse.to_json(dialect.error_body(status, message, "req_refused")))
