"""
Responses whose headers are ASGI's byte pairs already.

Optimization: Django's response encodes, checks and copies each of the two dozen
headers of an answer; a relayed answer has them as bytes from the start. To whoever
reads them (tests, `AsyncRequestFactory`) these are ordinary Django responses.
"""

from collections.abc import AsyncIterator
from functools import cached_property
from http.cookies import SimpleCookie
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import ResponseHeaders

from proxy.channel import Channel
from proxy.errors import GatewayError
from proxy.headers import VERSION_HEADER, Headers


class _RawHeaders:
    """The parts of a Django response that its constructor would set up, made when asked for."""

    raw_headers: Headers

    def _set_up(self, status: int, raw_headers: Headers) -> None:
        self.status_code = status
        self.raw_headers = raw_headers
        self.closed = False
        self._resource_closers: list[Any] = []
        self._handler_class = None
        self._reason_phrase = None
        self._charset = "utf-8"

    @cached_property
    def headers(self) -> ResponseHeaders:
        return ResponseHeaders(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}
        )

    @cached_property
    def cookies(self) -> SimpleCookie:
        return SimpleCookie()


class WholeAnswer(_RawHeaders, HttpResponse):  # type: ignore[override]
    """An answer with its body."""

    def __init__(self, status: int, raw_headers: Headers, body: bytes) -> None:
        self._set_up(status, raw_headers)
        self._container = [body]
        self.body = body

    @classmethod
    def of_error(cls, dialect: Any, error: GatewayError, call_id: str) -> "WholeAnswer":
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"x-litellm-call-id", call_id.encode()),
            VERSION_HEADER,
            *((name.encode(), value.encode()) for name, value in error.headers.items()),
        ]
        return cls(int(error.status), headers, dialect.error_body(error, call_id))


class StreamedAnswer(_RawHeaders, StreamingHttpResponse):  # type: ignore[override]
    """An answer whose body comes through a channel."""

    def __init__(self, status: int, raw_headers: Headers, channel: Channel) -> None:
        self._set_up(status, raw_headers)
        self.channel = channel
        self.is_async = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self.channel.get()) is not None:
            yield chunk
