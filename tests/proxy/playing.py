"""
A gateway in the test's own event loop: no process, no database, a played provider.

    async with playing(self, one=Provider(chunks=[...])) as play:
        call = play.start()
        head = await call.head
    closed = play.the_closed()

`Provider` is an httpx transport that answers by its script and can be held at any
chunk. `steps` lets the event loop go round n times, to interrupt at any point.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from decimal import Decimal
from typing import Any

import httpx
import msgspec
from django.conf import settings
from django.test import override_settings

from billing.booking.records import Closed, Opened, Record, Sent
from billing.booking.write_turn import WriteTurn
from billing.budgets.hold_desk import HoldDesk
from billing.models import Price
from proxy import gateway as gateway_module
from proxy.calls import Call, Head
from proxy.catalog import build_catalog
from proxy.dialects import openai_chat
from proxy.gateway import Gateway
from proxy.handler import ProxyHandler
from proxy.models import Deployment, Upstream
from proxy.tiers import UNLIMITED, CallLimits
from tests.billing.making import killed, make_folder, make_journal, records_in

INPUT_USD, OUTPUT_USD = Decimal(2), Decimal(8)  # per million tokens
PROMPT, COMPLETION = 1_000, 200
CREDENTIAL = "sk-upstream-credential"

ANSWER = msgspec.json.encode(
    {
        "id": "chatcmpl-1",
        "choices": [{"message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": PROMPT, "completion_tokens": COMPLETION},
    }
)


def event(body: Any) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


WORDS = [
    event({"id": "chatcmpl-1", "choices": [{"delta": {"content": word}}]}) for word in ("one", "two", "six")
]
USAGE = event(
    {"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": PROMPT, "completion_tokens": COMPLETION}}
)
DONE = b"data: [DONE]\n\n"
STREAM = [*WORDS, USAGE, DONE]


class Provider(httpx.AsyncBaseTransport):
    """Answers every request alike, or fails; counts what it was asked and what was closed."""

    def __init__(
        self,
        chunks: Iterable[bytes] = (ANSWER,),
        *,
        status: int = 200,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
        error: Exception | None = None,
        breaks: Exception | None = None,
        holds_head: bool = False,
        holds_at: int | None = None,
    ) -> None:
        """
        error: raised instead of an answer; breaks: raised behind the last chunk.
        holds_head, holds_at: it waits for `go` before the head, or before that chunk.
        """
        self._chunks = list(chunks)
        self._status = status
        self._headers = {"content-type": kind, **(headers or {})}
        self._error = error
        self._breaks = breaks
        self._holds_head = holds_head
        self._holds_at = holds_at
        self.go = asyncio.Event()
        self.is_held = asyncio.Event()
        self.requests: list[httpx.Request] = []
        self.sent_chunks = 0
        self.closed = 0
        self.on_request = lambda: None

    @classmethod
    def streaming(cls, chunks: Iterable[bytes] = STREAM, **options: Any) -> "Provider":
        return cls(chunks, kind="text/event-stream", **options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if not isinstance(self._error, httpx.ConnectError | httpx.ConnectTimeout):
            request.extensions["before_send"]()
        self.requests.append(request)
        self.on_request()
        if self._error is not None:
            raise self._error
        if self._holds_head:
            await self._hold()
        return httpx.Response(self._status, headers=self._headers, stream=_Body(self), request=request)

    async def _hold(self) -> None:
        self.is_held.set()
        await self.go.wait()

    async def aclose(self) -> None:
        pass


class _Body(httpx.AsyncByteStream):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def __aiter__(self) -> AsyncIterator[bytes]:
        provider = self._provider
        for i, chunk in enumerate(provider._chunks):
            if provider._holds_at == i:
                await provider._hold()
            await asyncio.sleep(0)
            provider.sent_chunks += 1
            yield chunk
        if provider._breaks is not None:
            raise provider._breaks

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self._provider.closed += 1


class Play:
    """A running gateway and what it wrote."""

    def __init__(self, gateway: Gateway, providers: dict[str, Provider]) -> None:
        self.gateway = gateway
        self.providers = providers

    def start(
        self,
        *,
        stream: bool = False,
        model: str = "gpt-4o",
        dialect: Any = openai_chat,
        limits: CallLimits = UNLIMITED,
        **body: Any,
    ) -> Call:
        """Start a call as the view does, for a body of this model."""
        said = {"model": model, "messages": [{"role": "user", "content": "hello"}], **body}
        if stream:
            said["stream"] = True
        ask = dialect.read_call(msgspec.json.encode(said))
        call_id, text, now_us = self.gateway.new_call_id()
        opened = Opened(call_id, now_us, dialect.NAME, model, stream)
        targets = self.gateway.catalog.targets(model)
        return self.gateway.start_call(dialect, ask, opened, text, targets, limits, [])

    async def settled(self) -> None:
        """Wait until every call has come to its end."""
        tasks = [call.task for call in self.gateway.calls]
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)

    async def whole(self, call: Call) -> tuple[Head, bytes]:
        """Return a call's head and its whole body, as a patient client gets it."""
        async with asyncio.timeout(10):
            head = await call.head
            body = [head.body]
            while head.channel is not None and (chunk := await head.channel.get()) is not None:
                body.append(chunk)
        return head, b"".join(body)

    # -- what is in the journal ------------------------------------------------------

    def records(self, kind: type | None = None) -> list[Any]:
        records: list[Record] = records_in(self.gateway.journal.path)
        return [record for record in records if kind is None or isinstance(record, kind)]

    def the_closed(self) -> Closed:
        """Return the one last record that there must be."""
        [closed] = self.records(Closed)
        return closed

    def is_settled_once(self) -> bool:
        """Tell whether each call that was opened was closed exactly once, in the right order."""
        kinds: dict[bytes, str] = {}
        for record in self.records():
            letter = {Opened: "o", Sent: "s", Closed: "c"}[type(record)]
            kinds[record.call_id] = kinds.get(record.call_id, "") + letter
        return all(text[0] == "o" and text[-1] == "c" and text.count("c") == 1 for text in kinds.values())


@contextlib.asynccontextmanager
async def playing(case: Any, *, price: bool = True, **providers: Provider | Any) -> AsyncIterator[Play]:
    """Run a gateway whose upstreams are `providers`, in that order of priority.

    Keyword arguments in capitals are settings.
    """
    options = {name: providers.pop(name) for name in list(providers) if name.isupper()}
    with override_settings(**options):
        gateway = Gateway(settings)
    gateway.journal = make_journal(case, make_folder(case))
    gateway.hold_desk = HoldDesk(gateway.journal.id, gateway.loop, WriteTurn())  # asked by nobody
    gateway.refresher.catalog = _catalog(list(providers), price=price)
    by_host = {f"{name}.test": provider for name, provider in providers.items()}
    gateway.transport = lambda target: by_host[httpx.URL(target.openai_base_url).host]
    gateway_module.set_running(gateway)
    try:
        yield Play(gateway, providers)
    finally:
        for call in list(gateway.calls):
            call.task.cancel()
        await asyncio.sleep(0)
        gateway_module.set_running(None)
        gateway._executor.shutdown()
        killed(gateway.journal)


def _catalog(names: list[str], *, price: bool) -> Any:
    deployments = []
    for i, name in enumerate(names):
        upstream = Upstream(
            pk=i + 1,
            name=name,
            provider="openai",
            credential=CREDENTIAL,
            openai_base_url=f"https://{name}.test/v1",
        )
        deployments += [
            Deployment(pk=10 * (i + 1) + n, model_name=model, upstream=upstream, priority=i)
            for n, model in enumerate(("gpt-4o", "gpt-*"))
        ]
    rates = {"input_per_mtok_usd": INPUT_USD, "output_per_mtok_usd": OUTPUT_USD}
    prices = [Price(pk=5, provider="openai", model="gpt-4o", **rates)] if price else []
    return build_catalog(deployments, prices)


async def steps(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


class Client:
    """An ASGI server's side of one request to the proxy's handler: `play_request` as a task."""

    def __init__(self, *, leaves_after: int | None = None, **body: Any) -> None:
        """leaves_after: chunks that it takes before it hangs up."""
        said = {"model": "gpt-4o", "messages": [], **body}
        self._body = msgspec.json.encode(said)
        self._leaves_after = leaves_after
        self._left = asyncio.Event()
        self._has_asked = False
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.chunks: list[bytes] = []
        self.is_complete = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    async def run(self) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": [
                (b"host", b"testserver"),
                (b"authorization", b"Bearer " + settings.MASTER_KEY.encode()),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(self._body)),
            ],
        }
        await ProxyHandler()(scope, self._receive, self._send)

    def leave(self) -> None:
        self._left.set()

    async def _receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if not self._has_asked:
            self._has_asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        if message.get("body"):
            self.chunks.append(message["body"])
        self.is_complete = not message.get("more_body", False)
        if self._leaves_after is not None and len(self.chunks) >= self._leaves_after:
            self._left.set()
