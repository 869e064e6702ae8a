"""
Server-sent events: cutting a stream of chunks into events, however it was cut up.

Source: WHATWG HTML, section 9.2. Lines may end in LF, CRLF or CR; an event ends
at an empty line; several `data:` lines are joined by LF.
"""

import re

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")
MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventSplitter:
    """Feed it chunks; it returns whole events with their terminators, and keeps the rest."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        data = self._rest + chunk if self._rest else chunk
        # Optimization: nearly always a chunk is exactly one event.
        if data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
            self._rest = b""
            return [data]
        events = []
        start = 0
        for match in _EVENT_END.finditer(data):
            if match.end() == len(data) and match.group() == b"\r\r":
                break  # a LF may follow
            events.append(data[start : match.end()])
            start = match.end()
        self._rest = data[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            # Not an event stream in any useful sense: let it pass unread.
            events.append(self._rest)
            self._rest = b""
        return events

    def rest(self) -> bytes:
        """Return the bytes of an event that was never finished."""
        rest, self._rest = self._rest, b""
        return rest


def data_of(event: bytes) -> bytes:
    """Return an event's data; empty where it has none (a comment, a ping without data)."""
    # Optimization: one data line, in front or behind one `event:` line, LF ends.
    start = 0 if event.startswith(b"data:") else event.find(b"\ndata:") + 1
    if start or event.startswith(b"data:"):
        if b"\r" not in event and event.find(b"\ndata:", start + 5) < 0:
            end = event.find(b"\n", start)
            return event[start + 5 : end if end >= 0 else len(event)].strip(b" ")
    elif b"\r" not in event:
        return b""
    lines = [line[5:] for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines)
