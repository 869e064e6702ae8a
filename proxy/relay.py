"""
An answer in passing: read as it arrives, metered event by event, forwarded.

Bytes go on untouched. Only where we asked for a usage event that the client did not
ask for, or where cost is to be put into it, are whole events awaited and edited.
"""

import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import msgspec

from billing.usage import Usage
from proxy.dialects.base import Meter
from proxy.dialects.sse import EventSplitter, data_of
from proxy.headers import value_of
from proxy.transport import raw_headers_of

Sink = Callable[[bytes], bool]


class BodyReader:
    """Reads a response's body as it is received, also one compressed against our wish (C3)."""

    def __init__(self, response: httpx.Response) -> None:
        # Our transport hands over chunks directly; any other httpx transport iterates.
        stream: Any = response.stream
        self._stream = stream if hasattr(stream, "pour") else _Iterated(stream)
        encoding = value_of(b"content-encoding", raw_headers_of(response)).lower()
        self._decoder = None
        if encoding in (b"gzip", b"x-gzip", b"deflate"):
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out which of the two
        elif encoding not in (b"", b"identity"):
            raise httpx.ReadError(f"the answer is encoded as {encoding!r}, which was not asked for")

    async def read_chunk(self) -> bytes | None:
        """Return the next bytes, or None at the end. Raises: httpx.TransportError."""
        while (chunk := await self._stream.read_chunk()) is not None:
            if decoded := self._decoded(chunk):
                return decoded
        return None

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """Return (the body, up to a little more than `limit`; whether that is all)."""
        chunks: list[bytes] = []
        size = 0
        while size <= limit:
            chunk = await self.read_chunk()
            if chunk is None:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks), True
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks), False

    async def pour(self, sink: Sink) -> bool:
        """Hand each chunk to `sink` at once. Returns True at the end, False when `sink` said that it is full.

        Raises: httpx.TransportError.
        """
        if self._decoder is None:
            return await self._stream.pour(sink)
        return await self._stream.pour(lambda chunk: sink(self._decoded(chunk)))

    def _decoded(self, chunk: bytes) -> bytes:
        if self._decoder is None:
            return chunk
        try:
            return self._decoder.decompress(chunk)
        except zlib.error as error:
            raise httpx.ReadError(f"the compressed answer is damaged: {error}") from error


class _Iterated:
    """The body of a response that another httpx transport made."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._chunks = stream.__aiter__()

    async def read_chunk(self) -> bytes | None:
        return await anext(self._chunks, None)

    async def pour(self, sink: Sink) -> bool:
        while (chunk := await self.read_chunk()) is not None:
            if not sink(chunk):
                return False
        return True


class StreamRelay:
    """Feed it what the provider sends; it returns what the client gets, and keeps the meter."""

    def __init__(
        self, meter: Meter, *, hides_usage: bool, cost_of: Callable[[Usage], Decimal | None] | None = None
    ) -> None:
        """cost_of: given, the usage event gets a `cost` (setting include_cost_in_streaming_usage)."""
        self.meter = meter
        self._hides_usage = hides_usage
        self._cost_of = cost_of
        self._edits = hides_usage or cost_of is not None
        self._splitter = EventSplitter()
        self._ended_inside_event = False

    def feed(self, chunk: bytes) -> bytes:
        # Optimization: nearly every chunk is one event with one token of text.
        if self._splitter.is_empty and self.meter.takes(chunk):
            return chunk
        events = self._splitter.feed(chunk)
        meter = self.meter
        if not self._edits:
            for event in events:
                meter.feed(data_of(event))
            return chunk
        kept = []
        for event in events:
            data = data_of(event)
            had_usage = meter.usage is not None
            is_usage_alone = meter.feed(data)
            if is_usage_alone and self._hides_usage:
                continue
            if self._cost_of is not None and meter.usage is not None and not had_usage:
                event = self._with_cost(event, data, meter.usage)
            kept.append(event)
        return b"".join(kept)

    def finish(self) -> bytes:
        """Return what was held back of an event that never ended; read it too, it may be the last."""
        rest = self._splitter.rest()
        if not rest:
            return b""
        self._ended_inside_event = True
        is_usage_alone = self.meter.feed(data_of(rest))
        return rest if self._edits and not (is_usage_alone and self._hides_usage) else b""

    def end_half_event(self) -> bytes:
        """Return what ends an event that went out by half, so that one of ours can follow."""
        is_half = self._ended_inside_event or bool(self._splitter.rest())
        return b"\n\n" if is_half and not self._edits else b""

    def _with_cost(self, event: bytes, data: bytes, usage: Usage) -> bytes:
        cost = self._cost_of(usage) if self._cost_of is not None else None
        body: Any = msgspec.json.decode(data)
        holder = body if "usage" in body else body.get("response", {})
        if cost is None or not isinstance(holder.get("usage"), dict):
            return event
        holder["usage"]["cost"] = msgspec.Raw(f"{cost:f}".encode())
        return event.replace(data, msgspec.json.encode(body))
