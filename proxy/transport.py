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

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any

import httpx
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    ConnectError,
    ConnectTimeoutError,
    DetailedPyreqwestError,
    PoolTimeoutError,
    PyreqwestError,
    ReadTimeoutError,
    RequestTimeoutError,
    WriteTimeoutError,
)
from pyreqwest.http import Url

from proxy.headers import Headers

_IDLE_SECONDS = 55  # below the 60 s after which common servers and load balancers hang up
_IDLE_PER_HOST = 1024
_READ_AHEAD_BYTES = 65_536
_MAX_REMEMBERED = 1000


class PyreqwestTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests through reqwest. Timeouts are the client's, set here, never a request's."""

    def __init__(self, *, connect_timeout_s: float, read_timeout_s: float) -> None:
        self._urls: dict[str, Url] = {}
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
        """Send and return once the response's head is there. Raises: httpx.TransportError.

        extensions: `body`, the body as bytes, so that it need not be read from a stream;
        `url_text` and `header_texts`, the URL as text and the headers as pairs of text;
        `read_ahead`, for an answer not streamed: its body may come with its head.
        """
        extensions = request.extensions
        body = extensions.get("body")
        if body is None:
            body = await request.aread()
        builder = (
            self._client.request(request.method, self._url(extensions.get("url_text") or str(request.url)))
            .headers(extensions.get("header_texts") or request.headers.multi_items())
            .body_bytes(body)
            .streamed_read_buffer_limit(_READ_AHEAD_BYTES if extensions.get("read_ahead") else 0)
        )
        streamed = builder.build_streamed()
        try:
            response = await streamed.__aenter__()
        except PyreqwestError as error:
            raise _as_httpx(error, request) from error
        if _is_cancelled():
            await streamed.__aexit__(None, None, None)
            raise asyncio.CancelledError
        return RawResponse(
            response.status, _raw(response.headers), _Stream(streamed, response, request), request
        )

    def _url(self, url: str) -> Url:
        """Return reqwest's URL. Optimization: there are a few, and parsing one takes 2 µs."""
        known = self._urls.get(url)
        if known is None:
            if len(self._urls) > _MAX_REMEMBERED:
                self._urls.clear()
            known = self._urls[url] = Url(url)
        return known

    async def aclose(self) -> None:
        await self._client.close()


@lru_cache(maxsize=_MAX_REMEMBERED)
def _bytes(name: str) -> bytes:
    return name.encode("latin-1")


def _raw(headers: Any) -> Headers:
    try:
        return [(_bytes(name), value.encode("latin-1", "replace")) for name, value in headers.items()]
    except ValueError:
        # A value beyond ASCII, which reqwest does not hand out: leave out that header alone.
        kept: Headers = []
        for name in dict.fromkeys(headers.keys()):
            with suppress(ValueError):
                kept += [(_bytes(name), value.encode("latin-1")) for value in headers.getall(name)]
        return kept


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
        if _is_cancelled():
            raise asyncio.CancelledError
        return None if chunk is None else bytes(chunk)

    async def read_some(self, amount: int) -> bytes | None:
        """Return up to `amount` bytes, or None at the end. Raises: httpx.TransportError."""
        try:
            data = await self._reader.read(amount)
        except PyreqwestError as error:
            raise _as_httpx(error, self._request) from error
        if _is_cancelled():
            raise asyncio.CancelledError
        return None if data is None else bytes(data)

    async def aclose(self) -> None:
        streamed, self._streamed = self._streamed, None
        if streamed is not None:  # closing twice is as good as once
            await streamed.__aexit__(None, None, None)


def _is_cancelled() -> bool:
    """Tell whether this task was cancelled meanwhile.

    pyreqwest loses a cancellation that comes when its result is ready (a third of them
    in a busy stream): the call would go on, past every limit.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_httpx(error: PyreqwestError, request: httpx.Request) -> httpx.TransportError:
    """Return httpx's exception. A read timeout is no connect timeout: only the latter is unbilled."""
    kind: type[httpx.TransportError]
    if isinstance(error, ConnectError | ConnectTimeoutError) and not _was_connecting(error):
        # pyreqwest blames the connection for all that goes wrong before the answer's head.
        kind = httpx.ReadTimeout if isinstance(error, ConnectTimeoutError) else httpx.ReadError
    elif isinstance(error, ConnectTimeoutError):
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


def _was_connecting(error: DetailedPyreqwestError) -> bool:
    """Tell whether there was no connection yet: hyper's name for that is in the chain of causes."""
    causes = error.details["causes"] or ()
    return any(cause["message"] == "client error (Connect)" for cause in causes)
