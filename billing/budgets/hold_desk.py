"""
The hold desk: where the calls of a web process get their holds.

    await desk.admit(ask) ─► line (hold_line.py): one statement for all that wait, if they fit
                          └► queue ─► thread: one transaction for all that wait, whatever they ask

A call that comes alone is asked for at once. Where several come together, each next
batch waits for more, while more keep coming: twenty calls cost little more than one. The line
is PostgreSQL's, and takes the usual case. The thread does all the rest: it renews the
leases of its process, gives back what was granted to a call that no longer waits, and
opens the line. While the database is away the desk says so at once; when it is back,
leases are renewed and the journal is drained before anybody is admitted (H1).
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.db import DatabaseError, InterfaceError, OperationalError, connection

from billing.booking.write_turn import WriteTurn
from billing.budgets import holds
from billing.budgets.hold_line import HoldLine, LineBroken
from billing.budgets.hold_statement import Answer, Together
from billing.budgets.holds import Ask, Granted, Refused
from billing.budgets.periods import KnownPeriods

logger = logging.getLogger(__name__)

LEASE_SECONDS = 75.0
RENEW_SECONDS = 20.0
_BATCH = 64
_AWAY_SECONDS = 1.0  # after a failure nobody is asked for so long
_IDLE_SECONDS = 0.5
_HANGS_SECONDS = 4.0  # longer than its own timeouts let a living database take (holds.py)
_GATHER_SECONDS = 0.002  # for more asks, where the last batch had at least so many:
_GATHER_FROM = 6
_QUIET_TURNS = 3  # of the event loop, without any more: a batch goes before its time
_LINE_SECONDS = 5.0  # between attempts to open a line
_LOCK_TIMEOUT = "55P03"

Decision = Granted | Refused


class HoldsAway(Exception):
    """The database cannot be asked for holds right now."""


class _Waiting(NamedTuple):
    ask: Ask
    future: asyncio.Future[Decision]


class HoldDesk(threading.Thread):
    """Admits the calls of one process until stopped."""

    def __init__(
        self,
        journal_id: uuid.UUID,
        loop: asyncio.AbstractEventLoop,
        turn: WriteTurn,
        *,
        is_drained: Callable[[], bool] = lambda: True,
        lease_s: float = LEASE_SECONDS,
    ) -> None:
        """is_drained: whether what was journaled while the database was away is booked."""
        super().__init__(name="hold-desk", daemon=True)
        self._journal_id = journal_id
        self._loop = loop
        self._turn = turn
        self._is_drained = is_drained
        self._lease_s = lease_s
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._known = KnownPeriods()
        self._to_release: set[bytes] = set()  # granted perhaps, and not wanted
        self._renew_at = time.monotonic() + RENEW_SECONDS
        self._away_until = 0.0
        self._last_size = 0
        self._has_granted = False
        self._is_recovering = False
        self._has_stopped = False
        self._busy_since: float | None = None
        self.last_error: str | None = None
        # The event loop's:
        self._asking: set[asyncio.Future[Decision]] = set()
        self._line: HoldLine | None = None
        self._gathered: list[_Waiting] = []
        self._is_gathering = False
        self._gather_until = 0.0
        self._last_on_line = 0
        self._on_line: list[_Waiting] = []  # being decided
        self._on_line_since = 0.0
        # The thread's:
        self._has_line = (
            connection.vendor != "postgresql"
        )  # or needs none; the event loop says when it is lost
        self._open_line_at = 0.0

    async def admit(self, ask: Ask) -> Decision:
        """Return what becomes of a call. Raises: HoldsAway. Cancelled, it holds nothing."""
        if self._hangs():
            raise HoldsAway("The database does not answer.")
        future: asyncio.Future[Decision] = self._loop.create_future()
        self._asking.add(future)
        self._put(_Waiting(ask, future))
        try:
            return await future
        finally:
            self._asking.discard(future)

    def sweep(self) -> None:
        """Let nobody wait for a database that hangs: no timeout of ours ends that. From the event loop."""
        if self._hangs():
            self._is_recovering = True
            self.last_error = TimeoutError.__name__
            if self._on_line:
                self._lose_line(HoldsAway("The database does not answer."))
            for future in [future for future in self._asking if not future.done()]:
                future.set_exception(HoldsAway("The database does not answer."))

    def _hangs(self) -> bool:
        now = time.monotonic()
        if self._on_line and now - self._on_line_since > _HANGS_SECONDS:
            return True
        busy_since = self._busy_since
        return busy_since is not None and now - busy_since > _HANGS_SECONDS

    # -- the line: in the event loop -----------------------------------------------------

    def _put(self, waiting: _Waiting) -> None:
        if self._line is None or self._is_recovering:
            self._queue.put(waiting)
            return
        self._gathered.append(waiting)
        if not self._on_line and not self._is_gathering:
            self._gather()

    def _gather(self) -> None:
        self._is_gathering = True
        if self._last_on_line >= _GATHER_FROM:
            self._gather_until = self._loop.time() + _GATHER_SECONDS
            self._loop.call_soon(self._gather_more, len(self._gathered), 0)
        else:
            self._loop.call_soon(self._ask_line)

    def _gather_more(self, before: int, quiet_turns: int) -> None:
        """Look, once in each turn of the loop, whether more have come; ask when they stop coming."""
        count = len(self._gathered)
        quiet_turns = 0 if count > before else quiet_turns + 1
        if quiet_turns < _QUIET_TURNS and count < _BATCH and self._loop.time() < self._gather_until:
            self._loop.call_soon(self._gather_more, count, quiet_turns)
        else:
            self._ask_line()

    def _ask_line(self) -> None:
        """Have the line decide all that wait, or leave them to the thread."""
        self._is_gathering = False
        batch, self._gathered = self._gathered[:_BATCH], self._gathered[_BATCH:]
        self._last_on_line = len(batch)
        batch = [waiting for waiting in batch if not waiting.future.done()]
        try:
            together = self._together([waiting.ask for waiting in batch])
        except Exception:  # one of them cannot be written: the thread finds out which
            logger.exception("a batch of holds cannot be asked for as a whole")
            together = None
        if together is None:
            self._leave_to_thread(batch)
            return
        assert self._line is not None
        self._on_line, self._on_line_since = batch, time.monotonic()
        self._line.ask(together.parameters, lambda answer: self._line_answered(batch, together, answer))

    def _together(self, asks: list[Ask]) -> Together | None:
        if not asks or self._line is None or not self._line.is_open or self._is_recovering:
            return None
        rows = holds.known_rows(asks, self._known)
        return None if rows is None else Together.of(asks, rows, self._lease_s)

    def _line_answered(self, batch: list[_Waiting], together: Together, answer: Answer | Exception) -> None:
        self._on_line = []
        if isinstance(answer, LineBroken):
            # The answer to the commit may be what was lost.
            self._to_release.update(waiting.ask.call_id for waiting in batch)
            self._is_recovering = True
            self.last_error = type(answer).__name__
            logger.error("holds cannot be made: %s", answer)
            self._lose_line(HoldsAway(str(answer)), batch)
            return
        decisions = [] if isinstance(answer, Exception) else together.decisions(answer)
        if not decisions:
            self._leave_to_thread(batch)
            return
        self._resolve(list(zip(batch, decisions, strict=True)))
        if self._gathered:
            self._gather()

    def _leave_to_thread(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            self._queue.put(waiting)
        if self._line is not None and not self._line.is_open:
            self._lose_line()
        if self._gathered:
            self._gather()

    def _lose_line(self, error: HoldsAway | None = None, batch: Sequence[_Waiting] | None = None) -> None:
        """Go on without a line until there is a new one. error: what those are told that it decides."""
        batch = self._on_line if batch is None else batch
        self._to_release.update(waiting.ask.call_id for waiting in batch)
        self._on_line = []
        line, self._line = self._line, None
        if line is not None:
            line.close()
        self._has_line = False
        if error is not None:
            self._resolve([(waiting, error) for waiting in batch])
        gathered, self._gathered = self._gathered, []
        for waiting in gathered:
            self._queue.put(waiting)

    def _use_line(self, line: HoldLine) -> None:
        if self._line is not None or self._has_stopped:
            line.close()
            return
        line.watch(self._loop)
        self._line = line

    def stop(self) -> None:
        self._has_stopped = True
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._hang_up)
        self._queue.put(None)
        self.join(timeout=10)

    def _hang_up(self) -> None:
        self._lose_line(HoldsAway("The gateway is shutting down."))

    # -- the thread ------------------------------------------------------------------

    def run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                break
            self._busy_since = time.monotonic()
            if batch:
                self._serve(batch)
            self._keep_house()
            self._busy_since = None
        with contextlib.suppress(DatabaseError, InterfaceError):
            self._release()
        connection.close()

    def _next_batch(self) -> list[_Waiting] | None:
        """Wait for somebody, then take all that wait. Returns: None to end."""
        batch: list[_Waiting] = []
        with contextlib.suppress(queue.Empty):
            while len(batch) < _BATCH:
                waiting = self._queue.get_nowait() if batch else self._queue.get(timeout=_IDLE_SECONDS)
                if waiting is not None and not batch and self._last_size >= _GATHER_FROM:
                    time.sleep(_GATHER_SECONDS)
                if waiting is None:
                    self._answer([(each, HoldsAway("The gateway is shutting down.")) for each in batch])
                    return None
                batch.append(waiting)
        self._last_size = len(batch)
        return [waiting for waiting in batch if not waiting.future.done()]

    def _serve(self, batch: list[_Waiting]) -> None:
        if self._is_away():
            self._answer([(waiting, HoldsAway("The database cannot be reached.")) for waiting in batch])
            return
        try:
            decisions = self._admit([waiting.ask for waiting in batch])
        except Exception as error:
            if len(batch) > 1 and not _is_away(error):
                # One of them is at fault: it must not take the others with it.
                for waiting in batch:
                    self._serve([waiting])
            elif not _is_away(error):
                # The call's own fault: the others need not wait for the database.
                logger.exception("a hold cannot be made")
                self._answer([(waiting, HoldsAway(str(error))) for waiting in batch])
            else:
                self._failed(batch, error)
            return
        self._has_granted = True
        self._answer(list(zip(batch, decisions, strict=True)))

    def _admit(self, asks: list[Ask]) -> list[Decision]:
        with self._turn.of_admission():
            try:
                return holds.admit(asks, lease_s=self._lease_s, known=self._known)
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", None) != _LOCK_TIMEOUT:
                    raise
            # The database answers, somebody just keeps a row for long: it is not away yet.
            return holds.admit(asks, lease_s=self._lease_s, known=self._known)

    def _failed(self, batch: list[_Waiting], error: Exception) -> None:
        # The answer to the commit may be what was lost.
        self._to_release.update(waiting.ask.call_id for waiting in batch)
        self._note_away(error)
        self._answer([(waiting, HoldsAway(str(error))) for waiting in batch])

    def _note_away(self, error: Exception) -> None:
        connection.close()
        if self.last_error is None:
            logger.error("holds cannot be made: %s", error, exc_info=not _is_away(error))
        self.last_error = type(error).__name__
        self._away_until = time.monotonic() + _AWAY_SECONDS
        self._is_recovering = True

    def _is_away(self) -> bool:
        """Tell whether to refuse at once; after an outage, renew and wait for the journal first."""
        if time.monotonic() < self._away_until:
            return True
        if not self._is_recovering:
            return False
        try:
            self._renew()
            self._release()
        except Exception as error:
            self._note_away(error)
            return True
        if not self._is_drained():
            return True
        self._is_recovering = False
        self.last_error = None
        logger.warning("holds can be made again")
        return False

    def _answer(self, answers: list[tuple[_Waiting, Decision | HoldsAway]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._resolve, answers)

    def _resolve(self, answers: list[tuple[_Waiting, Decision | HoldsAway]]) -> None:
        """In the event loop: hand out what was decided."""
        for waiting, decision in answers:
            if waiting.future.done():
                if isinstance(decision, Granted):
                    self.give_back(waiting.ask.call_id)
            elif isinstance(decision, HoldsAway):
                waiting.future.set_exception(decision)
            else:
                waiting.future.set_result(decision)

    def give_back(self, call_id: bytes) -> None:
        """Have the holds of a call released that will never be journaled. From the event loop."""
        self._to_release.add(call_id)

    # -- between batches -----------------------------------------------------------------

    def _keep_house(self) -> None:
        try:
            if self._to_release and time.monotonic() >= self._away_until:
                self._release()
            if time.monotonic() >= self._renew_at and self._has_granted:
                self._renew()
        except Exception as error:
            self._note_away(error)
        self._open_line()

    def _open_line(self) -> None:
        """Open a line where there is none, once it is known that calls of this process hold."""
        if self._has_line or not self._has_granted or self._is_recovering or self._has_stopped:
            return
        if time.monotonic() < self._open_line_at:
            return
        self._open_line_at = time.monotonic() + _LINE_SECONDS
        try:
            line = HoldLine()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("holds are asked for by a thread alone, no second connection: %s", error)
            return
        self._has_line = True
        try:
            self._loop.call_soon_threadsafe(self._use_line, line)
        except RuntimeError:  # the loop has ended
            line.close()

    def _renew(self) -> None:
        with self._turn.of_admission():
            holds.renew(self._journal_id, lease_s=self._lease_s)
        self._renew_at = time.monotonic() + RENEW_SECONDS

    def _release(self) -> None:
        if not self._to_release:
            return
        given_back = list(self._to_release)
        with self._turn.of_admission():
            holds.release(given_back)
        self._to_release.difference_update(given_back)


def _is_away(error: Exception) -> bool:
    return isinstance(error, OperationalError | InterfaceError)
