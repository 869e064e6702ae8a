"""
Answer one call: in full, as a stream, or in one of the ways a provider fails.

The first failure set of these wins: no_answer, redirect, html, status, empty; the
stream's own failures (hang_after, cut_after, half_json) apply to what is left.
"""

import asyncio
import zlib

from tests.provider import sse
from tests.provider.bill import Entry
from tests.provider.calls import Call
from tests.provider.connection import Connection

JSON = b"content-type: application/json\r\n"
EVENT_STREAM = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
GZIP = b"content-encoding: gzip\r\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Bad gateway</title></head><body>Bad gateway</body></html>\n"
BATCH_BYTES = 32_768  # a stream without delay is written in lumps of about this size

MESSAGES = {
    400: "Invalid request.",
    401: "Incorrect API key provided.",
    404: "The model does not exist or you do not have access to it.",
    429: "Rate limit reached. Please try again later.",
    500: "The server had an error while processing your request.",
    503: "The service is temporarily unavailable.",
    529: "Overloaded",
}


def answer(connection: Connection, call: Call, entry: Entry) -> None:
    """Answer at once if nothing in the call takes time, else in a task of the connection's."""
    connection.entry = entry
    if call.is_stream or call.fake.delay_ms or call.fake.hang:
        connection.run(answer_slowly(connection, call, entry))
    else:
        answer_plainly(connection, call, entry)


async def answer_slowly(connection: Connection, call: Call, entry: Entry) -> None:
    fake = call.fake
    if fake.delay_ms:
        await asyncio.sleep(fake.delay_ms / 1000)
    if fake.hang:
        await for_ever()
    if call.is_stream and fake.is_billed and not fake.empty:
        await answer_streaming(connection, call, entry)
    else:
        answer_plainly(connection, call, entry)


def answer_plainly(connection: Connection, call: Call, entry: Entry) -> None:
    """Write a whole response, with or without a fault, and close the entry."""
    fake = call.fake
    if fake.no_answer:
        connection.cut()
        entry.end(aborted=True)
        return
    headers, body = JSON, b""
    if fake.redirect:
        entry.status = 302
        where = fake.redirect if isinstance(fake.redirect, str) else "/elsewhere"
        headers = f"location: {where}\r\n".encode()
    elif fake.html:
        entry.status = (fake.status or 200) if fake.html is True else fake.html
        headers, body = b"content-type: text/html; charset=utf-8\r\n", PAGE
    elif fake.status:
        entry.status = fake.status
        headers, body = error_of(call)
    else:
        entry.status = 200
        if fake.empty:
            headers = EVENT_STREAM if call.is_stream else JSON
        else:
            body = sse.to_json(call.dialect.body(call))
        if fake.half_json:
            body = body[: len(body) // 2]
        if fake.gzip:
            headers += GZIP
            body = zlib.compress(body, level=1, wbits=31)
    connection.respond(entry.status, call.dialect.headers(call) + headers, body)
    entry.end()


def error_of(call: Call) -> tuple[bytes, bytes]:
    status = call.fake.status
    headers = JSON + (b"retry-after: %d\r\n" % call.fake.retry_after if status == 429 else b"")
    body = call.dialect.error_body(status, MESSAGES.get(status, "Error."), call.request_id)
    return headers, sse.to_json(body)


async def answer_streaming(connection: Connection, call: Call, entry: Entry) -> None:
    """Write the dialect's events, counting the content deltas the client was sent."""
    fake = call.fake
    delay_s = fake.chunk_delay_ms / 1000
    entry.status = 200
    headers = call.dialect.headers(call) + EVENT_STREAM + b"transfer-encoding: chunked\r\n"
    connection.write_head(200, headers + GZIP if fake.gzip else headers)
    body = StreamBody(connection, call)
    sent = 0
    for frame, is_delta in call.dialect.events(call):
        if sent in (fake.hang_after, fake.cut_after):
            break
        if sent and delay_s:
            await body.flush()
            await asyncio.sleep(delay_s)
        elif len(body.waiting) > BATCH_BYTES:
            await body.flush()
        sent += 1
        entry.deltas += is_delta
        if fake.half_json and is_delta:
            body.add(frame[: len(frame) // 2])
            break
        body.add(frame)
    if sent == fake.hang_after:
        await body.flush()
        await for_ever()
    if sent == fake.cut_after:
        await body.flush()
        entry.end(aborted=True)
        connection.cut()
        return
    await body.flush(is_last=True)
    entry.end()


async def for_ever() -> None:
    """Wait until the client hangs up, which cancels the task."""
    await asyncio.get_running_loop().create_future()


class StreamBody:
    """A chunked body, compressed and cut into pieces as the call asks."""

    def __init__(self, connection: Connection, call: Call) -> None:
        self.connection = connection
        self.line_end = b"\r\n" if call.fake.crlf else b"\n"
        self.split = call.fake.split
        self.compressor = zlib.compressobj(level=1, wbits=31) if call.fake.gzip else None
        self.waiting = bytearray()

    def add(self, frame: bytes) -> None:
        self.waiting += frame if self.line_end == b"\n" else frame.replace(b"\n", self.line_end)

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what waits.

        The terminating chunk goes out with the last bytes: a client that hangs up on
        reading `[DONE]` has had the whole answer and must not count as an abort.
        """
        content = bytes(self.waiting)
        self.waiting.clear()
        if self.compressor is not None:
            mode = zlib.Z_FINISH if is_last else zlib.Z_SYNC_FLUSH
            content = self.compressor.compress(content) + self.compressor.flush(mode)
        size = self.split or len(content)
        while size and len(content) > size:
            self.connection.transport.write(chunk(content[:size]))
            content = content[size:]
            await self.connection.drain()
        self.connection.transport.write(chunk(content) + (b"0\r\n\r\n" if is_last else b""))
        if not is_last:
            await self.connection.drain()


def chunk(content: bytes) -> bytes:
    """Frame bytes as an HTTP chunk; nothing stays nothing, for an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(content), content) if content else b""
