"""
The recorder: takes finished calls from journals and has the ledger book them.

One thread per web process. It books the process's own journal every 50 ms, adopts
the journals of processes that died, and removes what was booked long ago. When the
database is away it waits: the journal grows, callers notice nothing. A second
thread, the syncer, brings the journal to the disk every 50 ms.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
)

from billing.booking import ledger
from billing.booking.journal import (
    Damage,
    ForeignJournal,
    Journal,
    Orphan,
    Position,
    adopt,
    read,
    segment_path,
    segments_of,
)
from billing.booking.ledger import Booking, LostFence
from billing.booking.partitions import ensure_partitions
from billing.booking.records import CallRecords, Closed, Opened, Record, Sent, interrupted
from billing.booking.write_turn import WriteTurn
from billing.budgets.leases import SWEEP_SECONDS, HoldSweep, book_late, release_unopened
from billing.models import JournalCheckpoint
from customers.ids import uuid7_at

logger = logging.getLogger(__name__)

SYNC_SECONDS = 0.05
ADOPT_SECONDS = 2.0
HOUSEKEEPING_SECONDS = 600.0
_START = Position(0, 0)


class JournalReader:
    """Reads one journal forwards and pairs each `closed` with its `opened`."""

    def __init__(self, path: Path, installation_id: uuid.UUID) -> None:
        self.path = path
        self.position = _START
        self._installation_id = installation_id
        self._opened: dict[bytes, tuple[Opened, int]] = {}  # call id → (record, its segment)
        self._sent: dict[bytes, Sent] = {}
        self._taken: list[CallRecords] = []  # while `take` runs: a read that fails half-way loses nothing
        self._records: Iterator[tuple[Record | Damage, Position]] | None = None

    def take(self, limit: int, *, until: Position | None = None) -> list[CallRecords]:
        """Read on until `limit` calls have finished, and return those.

        A stretch that was begun is read to its own end before `until` counts.
        """
        calls = self._taken
        if self._records is None:
            self._records = read(self.path, self.position, installation_id=self._installation_id, until=until)
        for record, position in self._records:
            self.position = position
            if isinstance(record, Opened):
                self._opened[record.call_id] = (record, position.segment)
            elif isinstance(record, Sent):
                self._sent[record.call_id] = record
            elif isinstance(record, Closed):
                opened = self._opened.pop(record.call_id, None)
                self._sent.pop(record.call_id, None)
                calls.append(CallRecords(opened[0], record) if opened else _without_opened(record))
            else:
                calls.append(self._damaged(record))
            if len(calls) >= limit:
                break
        else:
            self._records = None
        self._taken = []
        return calls

    def open_calls(self) -> list[tuple[Opened, Sent | None]]:
        return [(opened, self._sent.get(call_id)) for call_id, (opened, _) in self._opened.items()]

    def oldest_open_segment(self) -> int | None:
        return min((segment for _, segment in self._opened.values()), default=None)

    def _damaged(self, damage: Damage) -> CallRecords:
        """Return a visible row for bytes that cannot be read: nobody must think that nothing was there."""
        logger.error(
            "journal %s, segment %d: %d bytes at %d are damaged",
            self.path.name, damage.segment, damage.length, damage.offset,
        )  # fmt: skip
        now_us = time.time_ns() // 1000
        opened = Opened(
            call_id=uuid7_at(now_us // 1000).bytes,
            started_us=now_us,
            dialect="unknown",
            model="",
            streamed=False,
        )
        closed = Closed(opened.call_id, now_us, "quarantined", cost_nano=None, charge_nano=None)
        where = f"segment {damage.segment}, offset {damage.offset}, {damage.length} bytes"
        closed.error_type = "quarantined"
        closed.error_message = f"Damaged bytes in journal {self.path.name}: {where}."
        return CallRecords(opened, closed)


def _without_opened(closed: Closed) -> CallRecords:
    """Return a row for a `closed` whose `opened` lay in damaged bytes: the cost must not vanish."""
    # When it started its id says, too: it must count in the period that its row is found in.
    started_us = int.from_bytes(closed.call_id[:6], "big") * 1000
    opened = Opened(
        call_id=closed.call_id, started_us=started_us, dialect="unknown", model="", streamed=False
    )
    return CallRecords(opened, closed)


class JournalBooker:
    """Books one journal from its checkpoint on, batch by batch, each exactly once."""

    def __init__(self, journal_id: uuid.UUID, reader: JournalReader, *, booked: Position = _START) -> None:
        self._journal_id = journal_id
        self._reader = reader
        self._pending: list[CallRecords] = []  # taken, but not in the database yet
        self.booked = booked

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def book_next(self, limit: int, *, until: Position | None = None) -> int:
        """Book up to `limit` calls and return how many.

        Raises: any database error. What was taken then stays taken, and is booked
        by the next attempt: the reader never goes back.
        """
        calls = self._pending or self._reader.take(limit, until=until)
        behind = self._reader.position
        if not calls:
            return 0
        self._pending = calls
        self._book(calls, behind)
        self._pending = []
        return len(calls)

    def _book(self, calls: list[CallRecords], behind: Position) -> None:
        try:
            ledger.book(Booking(self._journal_id, calls, self.booked, behind))
            self.booked = behind
        except LostFence:
            if self._committed(behind):
                # The commit went through although its answer was lost.
                self.booked = behind
                return
            raise
        except (DataError, IntegrityError, ValueError, OverflowError, TypeError) as error:
            self._book_apart(calls, behind, error)

    def _book_apart(self, calls: list[CallRecords], behind: Position, error: Exception) -> None:
        """Book a batch that the database refuses call by call, so that only the culprit stands out (J4).

        The checkpoint cannot point between two calls of a batch, so the first
        transaction takes all good calls and the culprits' minimal rows together.
        """
        logger.error("a batch of %d calls was refused (%s): looking for the culprit", len(calls), error)
        present = ledger.booked_ids(call.opened.call_id for call in calls)
        storable = []
        for call in calls:
            if call.opened.call_id in present:
                self._book_present(call)
                continue
            present.add(call.opened.call_id)  # a batch may hold a call twice, too
            problem = self._problem_with(call)
            storable.append(call if problem is None else ledger.quarantined(call, problem))
        ledger.book(Booking(self._journal_id, storable, self.booked, behind))
        self.booked = behind

    def _book_present(self, call: CallRecords) -> None:
        """Correct the row that a call has already, where it was booked because its lease ran out (H2)."""
        call_id = call.opened.call_id.hex()
        try:
            if book_late(call, at=datetime.now(UTC)):
                logger.warning("call %s was booked by its estimate before: booked the difference", call_id)
                return
        except (DataError, OverflowError) as error:
            logger.error("call %s: its difference cannot be booked: %s", call_id, error)
        logger.critical("call %s is in the log already; not booked again", call_id)

    def _problem_with(self, call: CallRecords) -> str | None:
        """Try to write one call, undo it, and return what the database said against it."""
        try:
            ledger.rehearse(call)
        except (OperationalError, InterfaceError):
            raise
        except (DatabaseError, ValueError, OverflowError, TypeError) as error:
            logger.error(
                "call %s cannot be booked as it is: %s", call.opened.call_id.hex(), type(error).__name__
            )
            return f"The database refused this row: {type(error).__name__}: {error}"
        return None

    def _committed(self, behind: Position) -> bool:
        checkpoint = JournalCheckpoint.objects.filter(pk=self._journal_id).first()
        return checkpoint is not None and Position(checkpoint.segment, checkpoint.position) == behind


def adopt_orphan(orphan: Orphan, installation_id: uuid.UUID, *, batch: int) -> int:
    """Finish and book the journal of a process that died; return how many calls that booked.

    First the missing `closed` records are appended and synced, then the ordinary
    path books them: an adopter that dies half-way leaves a journal that the next
    one reads the same way (J2).
    """
    checkpoint = JournalCheckpoint.objects.filter(pk=orphan.id).first()
    if checkpoint is not None and checkpoint.finished:
        return 0
    booked = Position(checkpoint.segment, checkpoint.position) if checkpoint else _START
    reader = JournalReader(orphan.path, installation_id)
    while reader.take(10_000):
        pass
    unfinished = reader.open_calls()
    if unfinished and reader.position.segment:
        now_us = time.time_ns() // 1000
        endings = [interrupted(opened, sent, at_us=now_us) for opened, sent in unfinished]
        orphan.finish(list(endings), behind=reader.position)

    # From the first byte again, so that `opened` records before the checkpoint are known (J1).
    reader = JournalReader(orphan.path, installation_id)
    _skip_to(reader, booked)
    booker = JournalBooker(orphan.id, reader, booked=booked)
    count = 0
    while booked_now := booker.book_next(batch):
        count += booked_now
    release_unopened(orphan.id)
    # Also where it holds no call: an admission of that process may still commit.
    JournalCheckpoint.objects.update_or_create(pk=orphan.id, defaults={"finished": True})
    logger.info(
        "adopted journal %s: booked %d calls, %d of them were open", orphan.id, count, len(unfinished)
    )
    return count


def _skip_to(reader: JournalReader, booked: Position) -> None:
    """Read what is booked already, for its `opened` records alone."""
    if booked != _START:
        reader.take(1 << 62, until=booked)
        reader.position = max(reader.position, booked)


class Syncer(threading.Thread):
    """Brings the journal to the disk every 50 ms, or as soon as somebody waits for it."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(name="journal-syncer", daemon=True)
        self._journal = journal
        self._wake = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future]] = []
        self._stopping = False

    async def synced(self) -> None:
        """Wait until what was appended before is on the disk (setting JOURNAL_SYNC=always)."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((loop, future))
        self._wake.set()
        await future

    def run(self) -> None:
        while not self._stopping:
            self._wake.wait(SYNC_SECONDS)
            self._wake.clear()
            self._sync_once()
        self._sync_once()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self.join(timeout=10)

    def _sync_once(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._journal.sync()
        except OSError:
            logger.exception("the journal cannot be synced")
            time.sleep(0.2)
            self._waiting[:0] = waiting  # in place: the event loop may append meanwhile
            return
        for loop, future in waiting:
            loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future) -> None:
    if not future.done():
        future.set_result(None)


class Recorder(threading.Thread):
    """Books this process's journal and the orphans beside it, until stopped and drained."""

    def __init__(
        self,
        journal: Journal,
        installation_id: uuid.UUID,
        *,
        interval: float,
        batch: int,
        keep_days: float,
        keep_bytes: int,
        turn: WriteTurn | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(name="recorder", daemon=True)
        self._journal = journal
        self._installation_id = installation_id
        self._interval = interval
        self._batch = batch
        self._keep_days = keep_days
        self._keep_bytes = keep_bytes
        self._turn = turn or WriteTurn()
        self._clock = clock
        self._reader = JournalReader(journal.path, installation_id)
        self._booker = JournalBooker(journal.id, self._reader)
        self._finished_orphans: set[str] = set()
        self._foreign: set[str] = set()
        self._troubled: set[str] = set()  # journals that could not be adopted, and were reported
        self._stop_event = threading.Event()
        self._next_adoption = 0.0
        self._next_housekeeping = 0.0
        self._hold_sweep = HoldSweep()
        self._next_sweep = 0.0
        self.booked_calls = 0
        self.last_error: str | None = None
        self.failing_since: float | None = None

    @property
    def backlog_bytes(self) -> int:
        """How much of the own journal waits to be booked."""
        end, booked = self._journal.end, self._booker.booked
        if end == self._journal.begin:
            return 0
        if end.segment == booked.segment:
            return end.offset - booked.offset
        return end.offset + sum(
            path.stat().st_size for number in range(booked.segment, end.segment)
            if (path := segment_path(self._journal.path, number)).exists()
        )  # fmt: skip

    def has_caught_up(self) -> bool:
        """Tell whether all that was journaled while the database was away is booked."""
        return self.failing_since is None

    def run(self) -> None:
        while not self._stop_event.wait(self._interval):
            if not self._attempt(self._work):
                # The database is away or refuses: once a second is enough.
                self._stop_event.wait(1.0)
        connection.close()

    def stop(self, *, deadline: float) -> bool:
        """Stop the thread, then book what is left until `deadline` (monotonic). Returns: all booked."""
        self._stop_event.set()
        self.join(timeout=max(0.1, deadline - time.monotonic()))
        done = False
        while not done and not self.is_alive():
            done = self._attempt(self._book_own)
            if time.monotonic() >= deadline:
                break
            if not done:
                time.sleep(0.2)
        connection.close()
        return done

    def _attempt(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except (OperationalError, InterfaceError) as error:
            self._failed("the database is away: %s", error)
            connection.close()
            return False
        except Exception as error:
            self._failed("booking failed: %s", error, exc_info=True)
            connection.close()
            return False
        self.last_error, self.failing_since = None, None
        return True

    def _failed(self, message: str, error: Exception, *, exc_info: bool = False) -> None:
        self._hold_sweep.lost_database()
        if self.failing_since is None:
            self.failing_since = time.monotonic()
            logger.error(message, error, exc_info=exc_info)
        self.last_error = type(error).__name__

    def _work(self) -> None:
        now = time.monotonic()
        if now >= self._next_housekeeping:
            ensure_partitions(at=self._clock())
            self._remove_old()
            self._next_housekeeping = now + HOUSEKEEPING_SECONDS
        self._book_own()
        if now >= self._next_adoption:
            self._adopt_orphans()
            self._next_adoption = time.monotonic() + ADOPT_SECONDS
        if now >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            self._hold_sweep.run()

    def _book_own(self) -> None:
        until = self._journal.synced
        while True:
            with self._turn.of_booking():
                booked = self._booker.book_next(self._batch, until=until)
            if not booked:
                break
            self.booked_calls += booked

    def _adopt_orphans(self) -> None:
        for path in sorted(self._journal.path.parent.iterdir()):
            if path == self._journal.path or path.name in self._finished_orphans | self._foreign:
                continue
            orphan = adopt(path)
            if orphan is None:
                continue
            try:
                self.booked_calls += adopt_orphan(orphan, self._installation_id, batch=self._batch)
                self._finished_orphans.add(path.name)
            except ForeignJournal as error:
                logger.error("journal %s is left alone: %s", path.name, error)
                self._foreign.add(path.name)
            except (OperationalError, InterfaceError):
                raise  # the database is away, for all of them
            except Exception:
                # The others must not wait for this one; it is tried again with the next round.
                if path.name not in self._troubled:
                    logger.exception("journal %s cannot be adopted", path.name)
                self._troubled.add(path.name)
            finally:
                orphan.release()

    def _remove_old(self) -> None:
        """Remove booked segments that are older than the setting, or above its size (J1, J5)."""
        self._remove_own_segments()
        for name in sorted(self._finished_orphans):
            path = self._journal.path.parent / name
            orphan = adopt(path)
            if orphan is None:
                self._finished_orphans.discard(name)
                continue
            try:
                if all(self._is_old(segment_path(path, number)) for number in segments_of(path)):
                    orphan.remove()
                    self._finished_orphans.discard(name)
            finally:
                orphan.release()

    def _remove_own_segments(self) -> None:
        if self._booker.has_pending:
            return  # the `opened` of a call that is read but not booked may be anywhere
        needed = self._reader.oldest_open_segment()
        for number in segments_of(self._journal.path):
            path = segment_path(self._journal.path, number)
            is_booked = number < self._booker.booked.segment and (needed is None or number < needed)
            if is_booked and self._is_old(path):
                path.unlink()

    def _is_old(self, path: Path) -> bool:
        if time.time() - path.stat().st_mtime > self._keep_days * 86_400:
            return True
        newer = sum(
            other.stat().st_size
            for other in self._journal.path.parent.glob("*/*.seg")
            if other.stat().st_mtime > path.stat().st_mtime
        )
        return newer > self._keep_bytes
