"""
The way from a call task to its client: a queue bounded in bytes.

The call task (the writer) must never hang on a client. It waits for room for a
limited time, then counts the client as gone and reads on without it. The view (the
reader) may be cancelled anywhere. Both live in one event loop, so no lock is needed.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Channel:
    """Chunks of one streamed answer on their way to the client."""

    __slots__ = (
        "_chunks",
        "_ended",
        "_limit",
        "_on_abandon",
        "_on_gone",
        "_reader",
        "_size",
        "_write_through",
        "_writer",
        "is_broken",
        "is_gone",
    )

    def __init__(self, limit: int, *, on_gone: Callable[[], object] | None = None) -> None:
        """on_gone: called once, when the client has left or counts as gone."""
        self._limit = limit
        self._on_gone = on_gone or _nothing
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._reader: asyncio.Future | None = None
        self._writer: asyncio.Future | None = None
        self._on_abandon: Callable[[], object] | None = None
        self._write_through: Callable[[bytes], bool] | None = None
        self.is_gone = False
        self.is_broken = False

    # -- the call task's side ------------------------------------------------------

    def put(self, chunk: bytes) -> None:
        if self.is_gone or not chunk:
            return
        # Only while the reader waits here: one that is sending would be overtaken.
        is_idle = self._reader is not None and not self._chunks
        if is_idle and self._write_through is not None and self._write_through(chunk):
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._reader is not None:
            _wake(self._reader)

    @property
    def is_full(self) -> bool:
        return self._size > self._limit and not self.is_gone

    async def wait_for_room(self, seconds: float) -> None:
        """Wait until the client has taken enough, or has not for `seconds`: then it counts as gone."""
        self._writer = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._writer, seconds)
        except TimeoutError:
            abandon = self._on_abandon
            self.client_left()
            if abandon is not None:
                abandon()
        finally:
            self._writer = None

    def break_off(self) -> None:
        """End an answer that is not whole and cannot say so: its connection must be cut."""
        self.is_broken = True
        self.end()

    def end(self) -> None:
        self._ended = True
        if self._reader is not None:
            _wake(self._reader)

    # -- the view's side -----------------------------------------------------------

    def on_abandon(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the client stalls: the view hangs in sending and must be cancelled."""
        self._on_abandon = callback

    def write_through(self, write: Callable[[bytes], bool]) -> None:
        """Have chunks go to `write` at once while nothing is in their way; it returns whether it took one.

        Optimization: without it each token of a stream wakes a second task.
        """
        self._write_through = write

    async def get(self) -> bytes | None:
        """Return everything that is there, as soon as there is something; None at the end."""
        while not self._chunks:
            if self._ended or self.is_gone:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if len(self._chunks) == 1:
            data = self._chunks.popleft()
        else:
            data = b"".join(self._chunks)
            self._chunks.clear()
        self._size = 0
        if self._writer is not None:
            _wake(self._writer)
        return data

    def client_left(self) -> None:
        """Note that nobody reads any more, and drop what waits."""
        if self.is_gone:
            return
        self.is_gone = True
        on_gone, self._on_gone = self._on_gone, _nothing
        self._on_abandon = self._write_through = None  # as on_gone, they refer back to us
        on_gone()
        self._chunks.clear()
        self._size = 0
        for future in (self._writer, self._reader):
            if future is not None:
                _wake(future)


def _nothing() -> None:
    """Who there is to tell, once all is told."""


def _wake(future: asyncio.Future) -> None:
    if not future.done():
        future.set_result(None)
