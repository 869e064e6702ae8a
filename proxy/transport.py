"""
httpx's transport interface over pyreqwest: how a request reaches a provider.

httpx stays our vocabulary (requests, responses, exceptions, `MockTransport` in
tests); the bytes are moved by reqwest, because httpx's own pool collapses under
concurrency (docs/decisions/0003-transport.md has the figures). pyreqwest's
ready-made httpx transport is not used: it reads ahead before handing over a
stream, decompresses, and adds timeouts up. Here chunks arrive one by one as they
are received, untouched; no redirect is followed, no proxy is taken from the
environment, and closing the response closes the connection.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    ConnectError,
    ConnectTimeoutError,
    PoolTimeoutError,
    PyreqwestError,
    ReadTimeoutError,
    RequestTimeoutError,
    WriteTimeoutError,
)

_IDLE_SECONDS = 55  # below the 60 s after which common servers and load balancers hang up
_IDLE_PER_HOST = 1024


class PyreqwestTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests through reqwest. Timeouts are the client's, set here, never a request's."""

    def __init__(self, *, connect_timeout_s: float, read_timeout_s: float) -> None:
        self._client: Client = (
            ClientBuilder()
            .no_proxy()
            .follow_redirects(False)
            .error_for_status(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .default_cookie_store(False)
            .connect_timeout(timedelta(seconds=connect_timeout_s))
            .read_timeout(timedelta(seconds=read_timeout_s))
            .pool_idle_timeout(timedelta(seconds=_IDLE_SECONDS))
            .pool_max_idle_per_host(_IDLE_PER_HOST)
            .tcp_nodelay(True)
            .build()
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send and return once the response's head is there. Raises: httpx.TransportError."""
        builder = self._client.request(request.method, str(request.url)).headers(
            request.headers.multi_items()
        )
        body = request.extensions.get("body")
        if body is None:
            body = await request.aread()
        streamed = builder.body_bytes(body).streamed_read_buffer_limit(0).build_streamed()
        try:
            response = await streamed.__aenter__()
        except PyreqwestError as error:
            raise _as_httpx(error, request) from error
        return httpx.Response(
            response.status,
            headers=[
                (name.encode("latin-1"), value.encode("latin-1", "replace"))
                for name, value in response.headers.items()
            ],
            stream=_Stream(streamed, response, request),
            request=request,
        )

    async def aclose(self) -> None:
        await self._client.close()


class _Stream(httpx.AsyncByteStream):
    """The response's body, chunk by chunk as received."""

    def __init__(self, streamed: Any, response: Any, request: httpx.Request) -> None:
        self._streamed = streamed
        self._reader = response.body_reader
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self.read_chunk()) is not None:
            yield chunk

    async def read_chunk(self) -> bytes | None:
        """Return the next chunk, or None at the end. Raises: httpx.TransportError."""
        try:
            chunk = await self._reader.read_chunk()
        except PyreqwestError as error:
            raise _as_httpx(error, self._request) from error
        return None if chunk is None else bytes(chunk)

    async def aclose(self) -> None:
        await self._streamed.__aexit__(None, None, None)


def _as_httpx(error: PyreqwestError, request: httpx.Request) -> httpx.TransportError:
    """Return httpx's exception. A read timeout is no connect timeout: only the latter is unbilled."""
    kind: type[httpx.TransportError]
    if isinstance(error, ConnectTimeoutError):
        kind = httpx.ConnectTimeout
    elif isinstance(error, PoolTimeoutError):
        kind = httpx.PoolTimeout
    elif isinstance(error, WriteTimeoutError):
        kind = httpx.WriteTimeout
    elif isinstance(error, ReadTimeoutError | RequestTimeoutError):
        kind = httpx.ReadTimeout
    elif isinstance(error, ConnectError):
        kind = httpx.ConnectError
    else:
        kind = httpx.ReadError
    return kind(error.message, request=request)
