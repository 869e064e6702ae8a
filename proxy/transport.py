"""
httpx's transport interface over connections of our own: how a request reaches a provider.

httpx stays our vocabulary (requests, responses, exceptions, `MockTransport` in
tests); asyncio and httptools move the bytes, in the event loop and in no other
thread, because httpx's own pool collapses under concurrency and a client with
threads of its own wakes the loop for every token (docs/decisions/0003-transport.md
has the figures). Chunks arrive one by one as they are received, untouched; no
redirect is followed, no proxy is taken from the environment, nothing is retried,
and closing a response that is not whole closes its connection.
"""

import asyncio
import ssl
from functools import lru_cache
from typing import NamedTuple

import httpx

from proxy.connection import Connection, Origin
from proxy.headers import Headers, block

_IDLE_SECONDS = 55  # below the 60 s after which common servers and load balancers hang up
_SWEEP_SECONDS = 5
_MAX_REMEMBERED = 1000
_SENT_BY_US = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding"))


class _Place(NamedTuple):
    """Where a URL leads: whom to connect to, and how the request begins."""

    origin: Origin
    request_line_end: bytes  # after the method


class GatewayTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests. Timeouts are its own, set here, never a request's. Belongs to one event loop."""

    def __init__(self, *, connect_timeout_s: float, read_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._idle: dict[Origin, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send and return once the response's head is there. Raises: httpx.TransportError.

        extensions: `body`, the body as bytes, so that it need not be read from a stream;
        `url_text`, the URL as text; `header_block`, the headers as they go over the wire;
        `before_send`, called when there is a connection, immediately before the first
        byte: what it raises keeps the request from being sent.
        """
        extensions = request.extensions
        body = extensions.get("body")
        if body is None:
            body = await request.aread()
        place = _place(extensions.get("url_text") or str(request.url))
        headers = extensions.get("header_block")
        if headers is None:
            headers = block(pair for pair in request.headers.raw if pair[0].lower() not in _SENT_BY_US)
        connection = await self._connection(place.origin, request)
        head = b"%b%bcontent-length: %d\r\n%b\r\n" % (
            request.method.encode("ascii"), place.request_line_end, len(body), headers,
        )  # fmt: skip
        before_send = extensions.get("before_send")
        if before_send is not None:
            try:
                before_send()
            except BaseException:
                self._keep(connection)
                raise
        exchange = connection.begin(request, head, body)
        try:
            await exchange.head
        except asyncio.CancelledError:
            await exchange.aclose()
            raise
        return RawResponse(exchange.status, exchange.headers, exchange, request)

    async def aclose(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self._all):
            connection.abort()

    # -- connections ---------------------------------------------------------------------

    async def _connection(self, origin: Origin, request: httpx.Request) -> Connection:
        """Return a connection for one exchange: the one used last, or a new one."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
        loop = asyncio.get_running_loop()
        scheme, host, port = origin

        def new() -> Connection:
            return Connection(
                loop, origin, read_timeout_s=self._read_timeout_s, on_idle=self._keep, on_lost=self._forget
            )

        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, made = await loop.create_connection(
                    new, host, port, ssl=_tls() if scheme == "https" else None
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection to {host} in time", request=request) from error
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"no connection to {host}: {error}", request=request) from error
        if made.is_lost:
            raise httpx.ConnectError(f"{host} hung up at once", request=request)
        self._all.add(made)
        return made

    def _keep(self, connection: Connection) -> None:
        loop = connection.loop
        connection.idle_since = loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(_SWEEP_SECONDS, self._sweep, loop)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hang up what has been idle for long."""
        self._sweep_timer = None
        oldest = loop.time() - _IDLE_SECONDS
        for idle in list(self._idle.values()):
            for connection in [connection for connection in idle if connection.idle_since < oldest]:
                connection.close()
        if any(self._idle.values()):
            self._sweep_timer = loop.call_later(_SWEEP_SECONDS, self._sweep, loop)


@lru_cache(maxsize=_MAX_REMEMBERED)
def _place(url_text: str) -> _Place:
    """Optimization: there are a few URLs, and parsing one takes 20 µs."""
    url = httpx.URL(url_text)
    port = url.port or (443 if url.scheme == "https" else 80)
    host = url.netloc
    return _Place((url.scheme, url.host, port), b" %b HTTP/1.1\r\nhost: %b\r\n" % (url.raw_path, host))


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the TLS settings that httpx uses: certifi's authorities, or those of SSL_CERT_FILE."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class RawResponse(httpx.Response):
    """A response that parses its headers when somebody asks. Optimization: a relayed one is passed on raw."""

    def __init__(
        self, status: int, raw_headers: Headers, stream: httpx.AsyncByteStream, request: httpx.Request
    ) -> None:
        super().__init__(status, stream=stream, request=request)
        self.raw_headers = raw_headers

    @property
    def headers(self) -> httpx.Headers:
        return httpx.Headers(self.raw_headers)

    @headers.setter
    def headers(self, none_given: httpx.Headers) -> None:
        """httpx's constructor sets what it was given: nothing."""


def raw_headers_of(response: httpx.Response) -> Headers:
    """Return a response's headers as byte pairs, names in lower case where our transport made it."""
    return response.raw_headers if isinstance(response, RawResponse) else response.headers.raw
