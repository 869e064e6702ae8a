"""
One HTTP/1.1 connection to a provider, and the one exchange it carries at a time.

httptools (llhttp) parses; this module only moves what it finds. Received bytes wait
in the exchange until somebody reads them, or are poured into a function in the very
callback that brought them: no task wakes up per token of a stream. Reading stops
while nobody takes anything, and the silence timer with it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httptools
import httpx

from proxy.headers import Headers

_BUFFER_BYTES = 256 * 1024  # received and not yet read; beyond it the provider has to wait
_MAX_HEAD_BYTES = 256 * 1024
_ONE_WRITE_BYTES = 16 * 1024

Sink = Callable[[bytes], bool]
Origin = tuple[str, str, int]  # scheme, host, port


class Exchange(httpx.AsyncByteStream):
    """One request and its response. As httpx's stream, it is the response's body."""

    def __init__(self, request: httpx.Request, connection: "Connection", head: asyncio.Future[None]) -> None:
        self.request = request
        self.head = head
        self.status = 0
        self.headers: Headers = []
        self.is_complete = False
        self.sink: Sink | None = None
        self._connection: Connection | None = connection  # while it is ours
        self._chunks: list[bytes] = []
        self._size = 0
        self._error: httpx.TransportError | None = None
        self._waiter: asyncio.Future[bool] | None = None

    # -- for the reader ------------------------------------------------------------

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self.read_chunk()) is not None:
            yield chunk

    async def read_chunk(self) -> bytes | None:
        """Return all that has come, as soon as there is something; None at the end.

        Raises: httpx.ReadError, httpx.ReadTimeout.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.is_complete:
                return None
            self._resume()
            await self._wait()
        return self._take()

    async def pour(self, sink: Sink) -> bool:
        """Hand every piece to `sink` as it comes. Returns True at the end of the body.

        `sink` returns whether it can take more; if not, `pour` returns False, and what
        comes meanwhile waits for the next one. Raises as `read_chunk` does, and what
        `sink` raises.
        """
        if self._chunks and not sink(self._take()):
            return False
        if self._error is not None:
            raise self._error
        if self.is_complete:
            return True
        self.sink = sink
        try:
            self._resume()
            return await self._wait()
        finally:
            self.sink = None

    async def aclose(self) -> None:
        """Let go of the response. One that is not whole takes its connection with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def _wait(self) -> bool:
        assert self._connection is not None
        self._waiter = self._connection.loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _take(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._size = 0
        return data

    def _resume(self) -> None:
        if self._connection is not None:
            self._connection.resume_reading()

    # -- for the connection --------------------------------------------------------

    def received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    @property
    def is_full(self) -> bool:
        return self._size > _BUFFER_BYTES

    def deliver(self) -> None:
        """Hand on what has come since, and wake whoever waits. Called once per piece off the socket."""
        if self.status and not self.head.done():
            self.head.set_result(None)
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self.sink is None:
            waiter.set_result(True)
            return
        if self._chunks:
            try:
                has_room = self.sink(self._take())
            except Exception as error:
                waiter.set_exception(error)
                return
            if not has_room and not self.is_complete:
                waiter.set_result(False)
                return
        if self.is_complete:
            waiter.set_result(True)

    def complete(self) -> None:
        self.is_complete = True
        self._connection = None

    def fail(self, error: httpx.TransportError) -> None:
        self._error = error
        self._connection = None
        if not self.head.done():
            self.head.set_exception(error)
        elif self._waiter is not None and not self._waiter.done():
            if self.sink is None:
                self._waiter.set_result(True)  # what was received is read first
            else:
                self._waiter.set_exception(error)


class Connection(asyncio.Protocol):
    """A connection that is kept alive from one exchange to the next."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        read_timeout_s: float,
        on_idle: Callable[["Connection"], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        """on_idle: the exchange is over and another may begin; on_lost: none may ever again."""
        self.loop = loop
        self.origin = origin
        self.idle_since = 0.0
        self.is_lost = False
        self._read_timeout_s = read_timeout_s
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        self._ends_with_connection = True
        self._keeps_alive = False
        self._is_paused = False
        self._heard_at = 0.0
        self._silence_timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        return not self.is_lost and not self._transport.is_closing()

    def begin(self, request: httpx.Request, head: bytes, body: bytes) -> Exchange:
        """Send a request. The exchange's `head` future tells when the response's head is there."""
        exchange = self._exchange = Exchange(request, self, self.loop.create_future())
        self._heard_at = self.loop.time()
        if self._silence_timer is None:
            self._watch_silence(self._read_timeout_s)
        if len(body) < _ONE_WRITE_BYTES:
            self._transport.write(head + body)  # one packet, and one TLS record
        else:
            self._transport.writelines((head, body))
        return exchange

    def abort(self) -> None:
        """Hang up at once, whatever is under way."""
        self._exchange = None
        self._lose()
        self._transport.abort()

    def close(self) -> None:
        """Hang up a connection that is idle."""
        self._lose()
        self._transport.close()

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._heard_at = self.loop.time()
            self._transport.resume_reading()

    # -- asyncio's side --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break("the provider sent what is no HTTP answer", error)
            return
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.is_complete:
            self._end(exchange)
        exchange.deliver()
        if exchange.is_full and not exchange.is_complete and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Let asyncio close the connection: no answer is expected from one who has hung up."""

    def connection_lost(self, error: Exception | None) -> None:
        exchange = self._exchange
        self._lose()
        if exchange is None:
            return
        self._exchange = None
        if exchange.status and self._ends_with_connection and error is None:
            exchange.complete()
            exchange.deliver()
        else:
            exchange.fail(_read_error(exchange, "the provider hung up", error))

    def _end(self, exchange: Exchange) -> None:
        """Make room for the next exchange, if both sides can have one on this connection."""
        self._exchange = None
        is_whole = self._transport.get_write_buffer_size() == 0
        if self.is_lost or not is_whole or not self._keeps_alive:
            self.abort()
        else:
            self._on_idle(self)

    def _break(self, what: str, error: Exception) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is None:
            return
        exchange.deliver()  # what came before it is good
        if not exchange.is_complete:
            exchange.fail(_read_error(exchange, what, error))

    def _lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            if self._silence_timer is not None:
                self._silence_timer.cancel()
            self._on_lost(self)

    # -- the parser's side -------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._exchange is None or self._exchange.is_complete:
            raise ValueError("an answer that nobody asked for")
        self._headers = []
        self._head_bytes = 0
        self._ends_with_connection = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise ValueError("the answer's head is too large")
        if name in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._exchange is not None:  # below: a note in advance, the answer follows
            self._exchange.headers = self._headers
            self._exchange.status = status

    def on_body(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.received(data)

    def on_message_complete(self) -> None:
        if self._exchange is not None and self._exchange.status:
            self._keeps_alive = self._parser.should_keep_alive()  # it forgets as soon as this returns
            self._exchange.complete()

    # -- silence -----------------------------------------------------------------------

    def _watch_silence(self, seconds: float) -> None:
        # Optimization: one timer goes on from exchange to exchange; each data only notes the time.
        self._silence_timer = self.loop.call_later(seconds, self._check_silence)

    def _check_silence(self) -> None:
        self._silence_timer = None
        exchange = self._exchange
        if exchange is None:
            return
        silent_s = 0.0 if self._is_paused else self.loop.time() - self._heard_at
        if silent_s < self._read_timeout_s:
            self._watch_silence(self._read_timeout_s - silent_s)
            return
        self.abort()
        exchange.fail(httpx.ReadTimeout("the provider sent nothing in time", request=exchange.request))


def _read_error(exchange: Exchange, what: str, error: Exception | None) -> httpx.ReadError:
    return httpx.ReadError(f"{what}: {error}" if error else what, request=exchange.request)
