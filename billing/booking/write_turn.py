"""
Whose turn it is to write, among the threads of one web process (invariant S).

SQLite has one writer, and a busy handler that is unfair: of two threads that write all
the time one starves. So they ask here first: admissions, which callers wait for, go
before bookings, which nobody waits for. On PostgreSQL both write at once, and this does
nothing.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

from django.db import connection

_LONGEST_COURTESY = 0.1  # seconds that a booking lets admissions pass: it must get its turn, too


class WriteTurn:
    """One per web process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0  # admissions; changed under the lock of the counter
        self._counter = threading.Lock()

    @contextlib.contextmanager
    def of_admission(self) -> Iterator[None]:
        if connection.vendor != "sqlite":
            yield
            return
        with self._counter:
            self._waiting += 1
        try:
            with self._lock:
                yield
        finally:
            with self._counter:
                self._waiting -= 1

    @contextlib.contextmanager
    def of_booking(self) -> Iterator[None]:
        if connection.vendor != "sqlite":
            yield
            return
        deadline = time.monotonic() + _LONGEST_COURTESY
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.0005)
        with self._lock:
            yield
