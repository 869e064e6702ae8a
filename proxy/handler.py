"""
The lean ASGI handler: Django's request, resolver and views for proxied routes, and nothing else.

Django's stock handler costs 0.5 to 2 ms of CPU per call (a thread executor, signals,
middleware); this one a twentieth. Its contract: nothing that it calls touches the
ORM or another thread in the event loop. Bodies are read into memory, up to a limit,
after the key was checked; whatever goes wrong is answered in the caller's dialect
(C4). Everything else of the site is served by Django's own handler, see
`spendproject/asgi.py`.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest
from django.http.request import validate_host
from django.http.response import HttpResponseBase
from django.urls import get_resolver
from django.utils.functional import cached_property

from proxy import gateway
from proxy.dialects import anthropic_messages, openai_chat
from proxy.errors import BadCall, BodyTimeout, BodyTooLarge, GatewayError, NotFound, Unavailable
from proxy.headers import Headers
from proxy.responses import StreamedAnswer, WholeAnswer

logger = logging.getLogger(__name__)

URLCONF = "proxy.urls"
_DISCARD_SECONDS = 10
_DISCARD_BYTES = 512 * 1024 * 1024


class ProxyRequest(HttpRequest):
    """A request whose headers stay as ASGI has them, and whose body is read when asked for."""

    def __init__(self, scope: dict[str, Any], receive: Any) -> None:
        # Optimization: HttpRequest's own set-up makes eight objects that no proxied view uses.
        self.scope = scope
        self.method = scope["method"]
        self.path = self.path_info = scope["path"]
        self.raw_headers: Headers = scope["headers"]
        self.urlconf = URLCONF
        self.resolver_match = None
        self._receive = receive
        self.reserved_bytes = 0

    @cached_property
    def headers(self) -> dict[str, str]:  # type: ignore[override]
        """The headers by lower-case name; those of one name are joined, as HTTP says."""
        raw = self.raw_headers
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
        if len(headers) != len(raw):
            headers.clear()
            for name, value in raw:
                key, text = name.decode("latin-1"), value.decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return headers

    @cached_property
    def META(self) -> dict[str, Any]:  # type: ignore[override]
        names = {name: f"HTTP_{name.upper().replace('-', '_')}" for name in self.headers}
        return {names[name]: value for name, value in self.headers.items()}

    @cached_property
    def GET(self) -> Any:  # type: ignore[override]
        from django.http import QueryDict

        return QueryDict(self.scope.get("query_string", b""))

    async def read_body(self) -> bytes:
        """Read the whole body into memory. Raises: BodyTooLarge, BodyTimeout, BadCall, Unavailable."""
        running = gateway.running()
        limit = running.limits.body_bytes
        announced = self.headers.get("content-length", "")
        length = int(announced) if announced.isdigit() else 0
        if length > limit:
            await self._discard()
            raise _too_large(limit)
        self._reserve(length)
        try:
            with running.body_waits:
                message = await self._receive()
            body = message.get("body", b"")
            if message.get("more_body"):
                return await self._read_on([body], len(body), limit)
            return self._whole(message, body)
        except asyncio.CancelledError:
            if not running.body_waits.gave_up():
                raise
            raise BodyTimeout(
                f"The body did not arrive: nothing came for {running.limits.body_idle_s:g} seconds."
            ) from None

    async def _read_on(self, chunks: list[bytes], size: int, limit: int) -> bytes:
        running = gateway.running()
        while True:
            with running.body_waits:
                message = await self._receive()
            chunk = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                await self._discard()
                raise _too_large(limit)
            if size > self.reserved_bytes:
                self._reserve(len(chunk))
            if not message.get("more_body"):
                return self._whole(message, b"".join(chunks))

    def _whole(self, message: dict[str, Any], body: bytes) -> bytes:
        if message["type"] == "http.disconnect":
            raise BadCall("The client hung up before its body had arrived.")
        self._body = body
        return body

    def _reserve(self, count: int) -> None:
        """Count bytes against what all bodies of this process may take together."""
        running = gateway.running()
        if running.bodies_bytes + count > running.limits.bodies_bytes:
            raise Unavailable("The gateway is holding too many large bodies right now; try again shortly.")
        running.bodies_bytes += count
        self.reserved_bytes += count

    def release(self) -> None:
        gateway.running().bodies_bytes -= self.reserved_bytes
        self.reserved_bytes = 0

    async def _discard(self) -> None:
        """Let a body pass by, so that a client which is still sending gets to read our answer.

        One that waits for `100 Continue` has not begun: it reads the answer at once.
        """
        if "100-continue" in self.headers.get("expect", ""):
            return
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                size = 0
                while size < _DISCARD_BYTES:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return
        except TimeoutError:
            return


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {limit // (1024 * 1024)} MB (setting MAX_BODY_MB).",
        headers={"connection": "close"},
    )


class ProxyHandler:
    """The ASGI application of the proxied routes."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        request = ProxyRequest(scope, receive)
        try:
            response = await self._respond(request)
            if isinstance(response, StreamedAnswer):
                await self._send_stream(response, receive, send)
            else:
                await self._send_whole(response, send)
        finally:
            if request.reserved_bytes:
                request.release()

    async def _respond(self, request: ProxyRequest) -> HttpResponseBase:
        try:
            _check_host(request.headers.get("host", ""))
            view, arguments = _resolve(request.path_info)
            return await view(request, **arguments)
        except GatewayError as error:
            return _error_answer(request, error)
        except Exception:
            logger.exception("a proxied view failed")
            return _error_answer(request, GatewayError("The gateway failed on this call."))

    async def _send_whole(self, response: Any, send: Any) -> None:
        body = response.body if isinstance(response, WholeAnswer) else response.content
        headers = (
            response.raw_headers
            if isinstance(response, WholeAnswer)
            else [(name.lower().encode(), value.encode()) for name, value in response.items()]
        )
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, response: StreamedAnswer, receive: Any, send: Any) -> None:
        """Pass the channel on until it ends, the client leaves, or it stalls."""
        channel = response.channel
        listener = asyncio.ensure_future(receive())
        listener.add_done_callback(lambda _: channel.client_left())
        this_task = asyncio.current_task()
        assert this_task is not None
        is_abandoned = False

        def abandon() -> None:
            nonlocal is_abandoned
            is_abandoned = True
            this_task.cancel()

        channel.on_abandon(abandon)
        try:
            start = {"type": "http.response.start", "status": response.status_code}
            await send({**start, "headers": response.raw_headers})
            if (write := _writer(send)) is not None:
                channel.write_through(write)
            while (chunk := await channel.get()) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if channel.is_broken:
                await _drop_connection(send)
            elif not channel.is_gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not is_abandoned:
                raise
            this_task.uncancel()
            await _drop_connection(send)
        finally:
            channel.client_left()
            listener.cancel()


def _writer(send: Any) -> Callable[[bytes], bool] | None:
    """Return a function that hands a chunk to uvicorn without waiting; None on another server.

    uvicorn's `send` waits only while its buffer is full (`write_paused`); else it runs
    through, and can be run without a task. The function returns False where it would wait.
    """
    flow = getattr(getattr(send, "__self__", None), "flow", None)
    if flow is None or not hasattr(flow, "write_paused"):
        return None

    def write(chunk: bytes) -> bool:
        if flow.write_paused:
            return False
        try:
            send({"type": "http.response.body", "body": chunk, "more_body": True}).send(None)
        except StopIteration:
            return True
        raise RuntimeError("the server waits although its buffer has room")

    return write


async def _drop_connection(send: Any) -> None:
    """Cut off a client that does not read, or whose answer is not whole.

    Closing would wait for the one with all that it has not read, and would tell the
    other that this was all. ASGI has no word for this, so uvicorn's own transport is
    asked; another server closes.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
        await asyncio.sleep(0)  # the server learns of it in the loop's next turn


@lru_cache(maxsize=4096)
def _resolve(path: str) -> tuple[Any, dict[str, Any]]:
    """Return (view, its arguments). Raises: NotFound."""
    try:
        match = get_resolver(URLCONF).resolve(path)
    except Http404:
        raise NotFound(f"There is no route {path[:200]!r} here.") from None
    return match.func, match.kwargs


@lru_cache(maxsize=1024)
def _is_allowed(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return validate_host(name.lower(), settings.ALLOWED_HOSTS)


def _check_host(host: str) -> None:
    if not _is_allowed(host):
        raise BadCall("This host name is not served here (setting ALLOWED_HOSTS).")


def _error_answer(request: ProxyRequest, error: GatewayError) -> WholeAnswer:
    """Answer in the dialect of the path, before a view has said which it is."""
    dialect = anthropic_messages if "/messages" in request.path_info else openai_chat
    return WholeAnswer.of_error(dialect, error, gateway.running().new_call_id()[1])
