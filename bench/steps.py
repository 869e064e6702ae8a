"""
What each step of a call costs, inside one process: a line per step, so that a slip shows.

No socket and no provider: the transport answers at once. Microseconds of CPU per
call, the median of several rounds. Run as `python -m bench.steps`, which prints JSON, in an
environment that names a database; it is not used.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROUNDS = 7
CALLS = 2000

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hi there"},"finish_reason":"stop"}],"usage":{'
    b'"prompt_tokens":210,"completion_tokens":5,"total_tokens":215,"prompt_tokens_details":{"cached_tokens":100}}}'
)
BODY = (
    b'{"model":"gpt-4o-mini","user":"customer-77","messages":[{"role":"user","content":"'
    + b"hello world " * 60
    + b'"}],"metadata":{"tags":["project:7","team:3","env:prod"]}}'
)


def run() -> list[tuple[str, float]]:
    """Return (step, microseconds of CPU per call)."""
    with tempfile.TemporaryDirectory(prefix="bench-steps-") as folder:
        return asyncio.run(_run(folder))


async def _run(folder: str) -> list[tuple[str, float]]:
    from django.conf import settings

    from billing.booking.journal import Journal
    from billing.booking.records import Opened, encode
    from billing.models import Price
    from billing.usage import Usage
    from customers.keys import hash_secret
    from proxy.callers import Caller
    from proxy.catalog import build_catalog
    from proxy.dialects import openai_chat
    from proxy.dialects.base import edited
    from proxy.gateway import Gateway, set_running
    from proxy.handler import ProxyHandler
    from proxy.models import Deployment, Upstream

    gateway = Gateway(settings)
    gateway.journal = Journal(Path(folder), uuid.uuid4())
    upstream = Upstream(
        id=1, name="bench", provider="openai", openai_base_url="http://127.0.0.1:1/v1", credential="sk-x"
    )
    deployment = Deployment(id=1, model_name="gpt-4o-mini", upstream=upstream, weight=1)
    price = Price(
        id=1, provider="openai", model="gpt-4o-mini", source="genai_prices",
        input_per_mtok_usd="0.15", output_per_mtok_usd="0.6",
    )  # fmt: skip
    price.clean_fields()
    gateway.refresher.catalog = build_catalog([deployment], [price])
    secret = "sk-bench-key-of-this-run"
    gateway.callers._keys[hash_secret(secret)] = Caller(key_id=uuid.uuid4().bytes, team_id="team-1")
    gateway.transport = lambda target: _Instant()  # type: ignore[method-assign]
    set_running(gateway)

    headers = [
        (b"host", b"127.0.0.1:4000"),
        (b"authorization", b"Bearer " + secret.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(BODY)),
        (b"user-agent", b"OpenAI/Python 1.60.0"),
        (b"accept", b"application/json"),
        (b"x-stainless-lang", b"python"),
    ]
    names = {name.decode(): value.decode() for name, value in headers}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": headers,
        "query_string": b"",
    }
    handler = ProxyHandler()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        return

    async def whole_call() -> None:
        await handler(scope, receive, send)

    ask = openai_chat.read_call(BODY)
    caller = await gateway.authenticator.authenticate(names)
    usage = Usage(110, 100, 0, 0, 5)
    target = gateway.catalog.targets("gpt-4o-mini")[0]
    opened = Opened(
        b"\0" * 16, 1, "openai_chat", "gpt-4o-mini", False,
        b"\0" * 16, "team-1", None, "customer-77", ["a", "b"],
    )  # fmt: skip
    resolved = gateway.catalog.price_of(target, "gpt-4o-mini", at_s=time.time())
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("read the body's fields", lambda: openai_chat.read_call(BODY)),
        ("identify the customer", lambda: gateway.identifier.attribute(names, ask.said, caller)),
        (
            "edit the body (tags taken out)",
            lambda: edited(BODY, model=None, include_usage=False, said=ask.said),
        ),
        ("find the price", lambda: gateway.catalog.price_of(target, "gpt-4o-mini", at_s=1e9)),
        ("price the usage", lambda: resolved.cost_nano(usage)),
        ("read the answer", lambda: openai_chat.read_answer(ANSWER)),
        ("encode a record", lambda: encode(opened)),
        ("append to the journal", lambda: gateway.journal.append(opened)),
    ]
    results = [("authenticate", await _timed_async(lambda: gateway.authenticator.authenticate(names)))]
    results += [(name, _timed(step)) for name, step in steps]
    results.append(("the whole call, without server and client", await _timed_async(whole_call)))
    set_running(None)
    return results


class _Instant(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
        headers += [(b"x-request-id", b"req_1"), (b"openai-processing-ms", b"12")]
        return httpx.Response(200, headers=headers, stream=_Once(), request=request)


class _Once(httpx.AsyncByteStream):
    async def read_some(self, amount: int) -> bytes:
        return ANSWER

    async def read_chunk(self) -> bytes | None:
        return None

    async def aclose(self) -> None:
        return


def _timed(step: Callable[[], Any]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(CALLS):
            step()
        rounds.append((time.process_time() - begun) / CALLS * 1e6)
    return statistics.median(rounds)


async def _timed_async(step: Callable[[], Any]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(CALLS):
            await step()
        rounds.append((time.process_time() - begun) / CALLS * 1e6)
    return statistics.median(rounds)


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
    django.setup()
    print(json.dumps(run()))
