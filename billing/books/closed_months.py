"""
Closed months: their figures stay what they were when somebody said "this is the bill".

A month, in the reporting time zone, that is over can be closed, and opened again; both are in
the audit log. What a closed month protects are the sums of its days, by whatever name:

    adjustments       are booked on the day they are made, so never in it (M3)
    a call that turns up later   keeps its row and counts as a call of its day; what it cost is
                      booked as an adjustment, today
    a repair          leaves its days' sums alone, and says that they differ
    seeding           is refused

All-time totals move, as they must: they are of no month.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

import msgspec
from django.conf import settings
from django.db import OperationalError, connection, transaction

from billing.booking.records import CallRecords
from billing.booking.rollups import day_of
from billing.budgets.periods import lock_totals
from billing.models import ClosedMonth
from billing.models.spend_total import GATEWAY_ID, HolderType


class MonthIsClosed(Exception):
    """What was to be booked would move the figures of a month that was closed."""


class NotClosable(Exception):
    """The month cannot be closed, or not yet; the text says why."""


def month_of(at: datetime) -> date:
    """Return the first day of the instant's month, in the reporting time zone."""
    return at.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date().replace(day=1)


def close_month(month: date, *, at: datetime, by: str, note: str = "") -> ClosedMonth:
    """Close the month that begins on `month`. Raises: NotClosable.

    Waits for bookings under way: whatever is booked behind it knows that the month is closed.
    """
    month = month.replace(day=1)
    if month >= month_of(at):
        raise NotClosable(f"{month:%Y-%m} is not over: calls of it are still to come.")
    with transaction.atomic(), connection.cursor() as cursor:
        lock_totals(cursor, [(HolderType.GATEWAY.value, GATEWAY_ID)])
        if ClosedMonth.objects.filter(pk=month).exists():
            raise NotClosable(f"{month:%Y-%m} is closed already.")
        return ClosedMonth.objects.create(month=month, closed_at=at, closed_by=by, note=note)


def open_month(month: date) -> bool:
    """Open a month again; return whether it was closed."""
    with transaction.atomic():
        row = ClosedMonth.objects.filter(pk=month.replace(day=1)).first()
        if row is not None:
            row.delete()
    return row is not None


def closed_months(first: date, last: date) -> list[date]:
    """Return the first days of closed months that have a day in [first, last]."""
    rows = ClosedMonth.objects.filter(month__gte=first.replace(day=1), month__lte=last)
    return list(rows.order_by("month").values_list("month", flat=True))


def require_open(at: datetime) -> None:
    """Raises: MonthIsClosed where nothing may be booked on the day of `at`."""
    month = month_of(at)
    if ClosedMonth.objects.filter(pk=month).exists():
        raise MonthIsClosed(f"{month:%Y-%m} is closed: nothing can be booked in it. Is the clock right?")


# -- calls that turn up later ------------------------------------------------------------


def split_late(calls: Sequence[CallRecords], *, at: datetime) -> tuple[Sequence[CallRecords], list[int]]:
    """Return the calls as they are to be booked, and the numbers of those whose month is closed.

    What those cost is left out, as of calls without a price: `billing.books.adjustments` books it
    today. at: now. A query only where a call is of an earlier month.
    """
    # Optimization: nearly always all calls are of this month.
    earliest_s = min(call.opened.started_us for call in calls) // 1_000_000
    zone = settings.REPORTING_TIME_ZONE
    first = date.fromisoformat(day_of(earliest_s, zone)).replace(day=1)
    this_month = month_of(at)
    if first >= this_month:
        return calls, []
    closed = set(closed_months(first, this_month))
    late = [number for number, call in enumerate(calls) if closed and _is_priced_in(call, closed, zone)]
    if not late:
        return calls, []
    booked = list(calls)
    for number in late:
        call = calls[number]
        closed_without = msgspec.structs.replace(call.closed, cost_nano=None, charge_nano=None)
        booked[number] = CallRecords(call.opened, closed_without)
    return booked, late


def _is_priced_in(call: CallRecords, months: set[date], zone: str) -> bool:
    day = date.fromisoformat(day_of(call.opened.started_us // 1_000_000, zone))
    return bool(call.closed.cost_nano or call.closed.charge_nano) and day.replace(day=1) in months


def require_same(calls: Sequence[CallRecords], late: Iterable[int], *, at: datetime) -> None:
    """Look again behind the lock of the totals. Raises: OperationalError where a month was closed since.

    The recorder then tries the batch again.
    """
    earliest_s = min(call.opened.started_us for call in calls) // 1_000_000
    if date.fromisoformat(day_of(earliest_s, settings.REPORTING_TIME_ZONE)).replace(day=1) >= month_of(at):
        return
    if split_late(calls, at=at)[1] != list(late):
        raise OperationalError("a month was closed while calls of it were booked")
