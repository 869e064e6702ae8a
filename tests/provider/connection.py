"""
HTTP/1.1 on one socket: requests in, bytes out. What is answered is not decided here.

One request at a time; a pipelined one waits in the buffer. Reading never pauses, so
that the client's hang-up is seen at once, also while a stream sleeps between events.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.provider.bill import Entry
    from tests.provider.provider import Provider

REASONS = {
    200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
    429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
    529: "Overloaded",
}  # fmt: skip


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""


def read_head(head: bytes) -> Request:
    """Parse request line and headers; raises ValueError. Names become lower case."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(method, path, query, headers)


def unchunk(buffer: bytearray) -> tuple[bytes, int] | None:
    """Return a chunked body and the bytes it took, or None while it is incomplete."""
    body, position = bytearray(), 0
    while (end := buffer.find(b"\r\n", position)) >= 0:
        size = int(bytes(buffer[position:end]).split(b";")[0], 16)
        position = end + 2 + size + 2
        if len(buffer) < position:
            return None
        if size == 0:
            return bytes(body), position
        body += buffer[end + 2 : end + 2 + size]
    return None


class Connection(asyncio.Protocol):
    """One client connection and the call it is being served, if that takes time."""

    def __init__(self, provider: "Provider") -> None:
        self.provider = provider
        self.buffer = bytearray()
        self.request: Request | None = None  # its head is read, its body perhaps not yet
        self.task: asyncio.Task[None] | None = None
        self.entry: Entry | None = None
        self.writable: asyncio.Future[None] | None = None  # set while the client does not read
        self.keeps_alive = True

    # The client's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.provider.connections.add(self)

    def data_received(self, received: bytes) -> None:
        self.buffer += received
        self.serve_buffered()

    def eof_received(self) -> None:
        """Take a closed sending side for a hang-up: HTTP clients close both or none."""
        self.hang_up()

    def connection_lost(self, error: Exception | None) -> None:
        self.provider.connections.discard(self)
        self.hang_up()

    def hang_up(self) -> None:
        # The entry is closed here and not in the task: a task cancelled before its first step never runs.
        if self.entry is not None:
            self.entry.end(aborted=True)
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    # Requests

    def serve_buffered(self) -> None:
        while self.task is None and self.buffer and not self.transport.is_closing():
            try:
                request = self.take_request()
            except ValueError:
                self.keeps_alive = False
                self.respond(400, b"content-type: text/plain\r\n", b"not HTTP/1.1\n")
                self.end_request()
                return
            if request is None:
                return
            self.keeps_alive = request.headers.get("connection", "").lower() != "close"
            self.provider.serve(self, request)
            if self.task is None:
                self.end_request()

    def take_request(self) -> Request | None:
        """Take one whole request off the buffer, or None while there is not one."""
        if self.request is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self.request = read_head(bytes(self.buffer[:end]))
            del self.buffer[: end + 4]
            if self.request.headers.get("expect", "").lower() == "100-continue":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in self.request.headers.get("transfer-encoding", "").lower():
            if (found := unchunk(self.buffer)) is None:
                return None
            body, length = found
        else:
            length = int(self.request.headers.get("content-length", 0))
            if len(self.buffer) < length:
                return None
            body = bytes(self.buffer[:length])
        del self.buffer[:length]
        request, self.request = self.request, None
        request.body = body
        return request

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Serve the current request in a task of its own; the next one waits for its end."""
        self.task = asyncio.get_running_loop().create_task(work)
        self.task.add_done_callback(self.task_done)

    def task_done(self, task: asyncio.Task[None]) -> None:
        self.task = None
        if task.cancelled():
            self.transport.abort()
        elif error := task.exception():
            self.transport.abort()
            raise error  # to the loop's handler, which prints it
        else:
            self.end_request()
            self.serve_buffered()

    def end_request(self) -> None:
        self.entry = None
        if not self.keeps_alive:
            self.transport.close()

    # The answer

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.write_head(status, headers + b"content-length: %d\r\n" % len(body), body)

    def write_head(self, status: int, headers: bytes, body: bytes = b"") -> None:
        first = f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n".encode()
        closing = b"" if self.keeps_alive else b"connection: close\r\n"
        self.transport.write(first + headers + closing + b"\r\n" + body)

    async def drain(self) -> None:
        """Wait while the client does not read; always lets the other connections have a turn."""
        if self.writable is not None:
            await self.writable
        else:
            await asyncio.sleep(0)

    def cut(self) -> None:
        """Close after what was written, without ending the answer."""
        self.transport.close()
