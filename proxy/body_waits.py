"""
Who waits for a request body, and since when.

Optimization: one sweep a second over those who wait, in place of a timer per call;
nearly every body is there with its head.
"""

import asyncio
import time
from types import TracebackType


class BodyWaits:
    """A context manager, entered by each task around waiting for its client's next bytes."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._deadlines: dict[asyncio.Task, float] = {}
        self._given_up: set[asyncio.Task] = set()

    def __enter__(self) -> None:
        self._deadlines[_this_task()] = time.monotonic() + self._idle_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.pop(_this_task(), None)

    def sweep(self) -> None:
        """Cancel the tasks whose clients have sent nothing for too long."""
        now = time.monotonic()
        for task in [task for task, deadline in self._deadlines.items() if now > deadline]:
            self._given_up.add(task)
            task.cancel()

    def gave_up(self) -> bool:
        """Tell, after a CancelledError, whether it came from here; then the task may go on."""
        task = _this_task()
        if task not in self._given_up:
            return False
        self._given_up.discard(task)
        task.uncancel()
        return True


def _this_task() -> asyncio.Task:
    task = asyncio.current_task()
    assert task is not None
    return task
