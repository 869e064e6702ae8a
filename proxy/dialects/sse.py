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
    """Feed it chunks; it returns whole events with their terminators, and keeps the rest.

    What waits is searched once and joined once: an event of megabytes, or one that
    comes byte by byte, costs as much as its length.
    """

    __slots__ = ("_size", "_tail", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[bytes] = []  # the chunks of an event that has not ended
        self._tail = b""  # their last bytes: half of an event's end may be there
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        # Optimization: nearly always a chunk is exactly one event.
        if not self._waiting and 0 <= chunk.find(b"\n\n") == len(chunk) - 2 and b"\r" not in chunk:
            return [chunk]
        seam = self._tail + chunk
        self._waiting.append(chunk)
        if b"\n\n" not in seam and (b"\r" not in seam or _EVENT_END.search(seam) is None):
            self._tail = seam[-3:]
            self._size += len(chunk)
            if self._size > MAX_EVENT_BYTES:
                return [self.rest()]  # not an event stream in any useful sense: let it pass unread
            return []
        events, rest = _cut(self.rest())
        if rest:
            self._waiting, self._tail, self._size = [rest], rest[-3:], len(rest)
        return events

    @property
    def is_empty(self) -> bool:
        """Tell whether no event waits for its end."""
        return not self._waiting

    def rest(self) -> bytes:
        """Return the bytes of an event that was never finished."""
        rest = b"".join(self._waiting)
        self._waiting, self._tail, self._size = [], b"", 0
        return rest


def _cut(data: bytes) -> tuple[list[bytes], bytes]:
    """Return (the whole events in `data`, what is left of it)."""
    events = []
    start = 0
    if b"\r" not in data:
        # Optimization: the pattern is ten times slower, and hardly any provider needs it.
        while (end := data.find(b"\n\n", start)) >= 0:
            events.append(data[start : end + 2])
            start = end + 2
        return events, data[start:]
    for match in _EVENT_END.finditer(data):
        if match.end() == len(data) and match.group() == b"\r\r":
            break  # a LF may follow
        events.append(data[start : match.end()])
        start = match.end()
    return events, data[start:]


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
