"""
What becomes of holds whose worker is gone.

Its journal is at hand: whoever adopted and booked it gives back what is still held;
those calls were never sent (H3). It is not: the lease runs out without news, and the
call is booked by its estimate instead of being given back (H2). If the journal turns up
after all, only the difference is booked.

The recorder's thread runs the sweep. Leases run by the database's clock.
"""

import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from django.db import DataError, IntegrityError, connection, transaction

from billing.booking import ledger
from billing.booking.ledger import HoldGone
from billing.booking.records import CallRecords, Closed, Opened, Sent, interrupted
from billing.books.adjustments import adjust
from billing.budgets.holds import Attribution, release, release_journal
from billing.budgets.periods import retried
from billing.bulk import database_time, for_update, microseconds, uuid_bytes
from billing.models import Adjustment, Hold, JournalCheckpoint, SpendLog

logger = logging.getLogger(__name__)

LEASE_EXPIRED = "lease_expired"  # the error type of a call that was booked in place of its hold
SWEEP_SECONDS = 5.0
GRACE_SECONDS = 30.0
_MAX_GAP_SECONDS = 4 * SWEEP_SECONDS
_BATCH = 100
_CLAIM_SECONDS = 60.0
_UNSTORABLE = (IntegrityError, DataError, ValueError, OverflowError)
_attribution = msgspec.json.Decoder(Attribution)


def release_unopened(journal_id: uuid.UUID) -> int:
    """Give back what calls of a journal still hold that is booked to its end; return how many holds.

    Their process died between the admission and the first record: they were never sent.
    """
    released = release_journal(journal_id)
    if released:
        logger.info("journal %s: released %d holds of calls that were never sent", journal_id, released)
    return released


def release_strays() -> int:
    """Do the same for journals that were finished earlier: an admission may have committed since."""
    holding = Hold.objects.filter(lease_expires_at__isnull=False).values("journal_id").distinct()
    finished = JournalCheckpoint.objects.filter(finished=True, pk__in=holding)
    return sum(release_unopened(journal_id) for journal_id in finished.values_list("pk", flat=True))


def book_expired(limit: int, *, grace_s: float, at: datetime) -> int:
    """Book up to `limit` calls by their estimates whose lease ran out `grace_s` ago; return how many.

    at: now; the instant they are said to have ended at.
    """
    calls = [
        CallRecords(opened, _ending(opened, sent, at)) for opened, sent in _claim_expired(limit, grace_s)
    ]
    if not calls:
        return 0
    try:
        retried(lambda: ledger.book_estimates(calls))
    except (HoldGone, *_UNSTORABLE):
        return sum(_book_apart(call) for call in calls)
    return len(calls)


def _claim_expired(limit: int, grace_s: float) -> list[tuple[Opened, Sent]]:
    """Take expired leases over for a minute, so that nobody else books their calls meanwhile.

    A lock would do that too, but bookings lock holds behind totals, and must do so here.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE billing_hold SET lease_expires_at = {database_time(_CLAIM_SECONDS)} WHERE id IN ("
            "SELECT id FROM billing_hold WHERE attribution IS NOT NULL "
            f"AND lease_expires_at < {database_time(-grace_s)} "
            f"ORDER BY lease_expires_at LIMIT %s {for_update(skip_locked=True)}) "
            "RETURNING call_id, started_at, attribution",
            [limit],
        )
        return [
            _attribution.decode(attribution).records(uuid_bytes(call_id), microseconds(started_at))
            for call_id, started_at, attribution in cursor.fetchall()
        ]


def _ending(opened: Opened, sent: Sent, at: datetime) -> Closed:
    closed = interrupted(opened, sent, at_us=microseconds(at))
    closed.error_type = LEASE_EXPIRED
    closed.error_message = "The gateway that served the call gave no more news; booked by its estimate."
    return closed


def _book_apart(call: CallRecords) -> int:
    """Book one call of a batch that the database refused, if it is still to be booked."""
    call_id = call.opened.call_id
    try:
        retried(lambda: ledger.book_estimates([call]))
    except HoldGone:
        return 0  # released meanwhile, by a worker that came back
    except _UNSTORABLE as error:
        if ledger.booked_ids([call_id]):
            release([call_id])  # what a booking could not know of: an admission that committed later
            return 0
        logger.error("expired call %s cannot be booked as it is: %s", call_id.hex(), error)
        minimal = ledger.quarantined(call, str(error))
        retried(lambda: ledger.book_estimates([minimal]))
    return 1


def book_late(call: CallRecords, *, at: datetime) -> bool:
    """Book what a late journal says of a call that was booked when its lease ran out.

    Returns: whether that is what the call's row in the log is.
    """
    log = SpendLog.objects.filter(pk=uuid.UUID(bytes=call.opened.call_id)).first()
    if log is None or log.error_type != LEASE_EXPIRED:
        return False
    closed = call.closed
    if closed.cost_nano is not None and closed.charge_nano is not None:
        adjust(
            log,
            cost_nano=closed.cost_nano,
            charge_nano=closed.charge_nano,
            reason=Adjustment.Reason.LATE_JOURNAL,
            note=f"The journal says: {closed.status}, usage {closed.usage_source}.",
            at=at,
        )
    return True


class HoldSweep:
    """Releases strays and books expired calls; knows when the latter is fair.

    A lease that ran out while the database was away says nothing: workers that live
    renew as soon as it is back. So calls are booked only when this process has reached
    the database for the whole grace, sweep by sweep; a gap (the machine slept, the thread
    was busy) begins the grace again.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        # The time of day, not the monotonic clock: that one stands still while a machine sleeps.
        self._clock = clock
        self._reached_since: float | None = None
        self._last_reached = 0.0
        self.booked_calls = 0

    def lost_database(self) -> None:
        self._reached_since = None

    def run(self) -> None:
        """Sweep once. Raises: any database error; then the grace begins again."""
        try:
            release_strays()
            self._note_reached()
            if self.may_book_expired():
                self._book_expired()
        except BaseException:
            self.lost_database()
            raise

    def may_book_expired(self) -> bool:
        return self._reached_since is not None and self._last_reached - self._reached_since >= GRACE_SECONDS

    def _note_reached(self) -> None:
        now = self._clock()
        if self._reached_since is None or not 0 <= now - self._last_reached <= _MAX_GAP_SECONDS:
            self._reached_since = now
        self._last_reached = now

    def _book_expired(self) -> None:
        while booked := book_expired(_BATCH, grace_s=GRACE_SECONDS, at=datetime.now(UTC)):
            self.booked_calls += booked
            logger.warning("booked %d calls by their estimates: their leases ran out without news", booked)
