"""
Summaries: daily rollups of days that are over, added up by the few things that most reports ask.

    daily rollups ──close──►  summaries of a day, of 4 and 16 days, of a month
                  ◄──open───  in the transaction of whoever books into one of the days

A report reads the longest closed spans that fit into its days, and the daily rollups for
the rest, today above all: what it tells is what is booked, at every instant. Booking costs
nothing more for it: calls are booked into today, and today is never closed. Without the
nightly closing reports are as right, and slower.
"""

import contextlib
import logging
from calendar import monthrange
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import DatabaseError, connection, transaction

from billing.booking.rollups import DAY_LOCKS, OVERVIEW, SPEND, Rollup, summed
from billing.bulk import among
from billing.models import (
    ClosedSpan,
    DailyOverview,
    SummaryByCaller,
    SummaryByCustomer,
    SummaryByCustomerAndModel,
    SummaryByKey,
    SummaryByModel,
    SummaryByTags,
    SummaryByTagsAndModel,
    SummaryByTagsAndUser,
    SummaryByUser,
    SummaryByUserAndModel,
    SummaryWithoutCustomer,
)
from billing.models.daily_spend import SUMS
from billing.models.summary import Summary as SummaryRow

logger = logging.getLogger(__name__)

_LENGTHS = (4, 16)  # days, counted from the first of the month
_LONGEST = 32
# A call is booked into the day it started on: nearly all of a day's are booked by then.
_CLOSED_AFTER = timedelta(hours=1)

Progress = Callable[[str, int, int], None]  # what, how many of them are done, and how many there are


class Summary(NamedTuple):
    """A table of sums by some dimensions, and the rollup that it adds up."""

    table: str
    dimensions: tuple[str, ...]
    rollup: Rollup
    made_of: str  # the table whose rows of a day are added up: the rollup's, or another summary's


def _summary(model: type[SummaryRow], rollup: Rollup, made_of: type[SummaryRow] | None = None) -> Summary:
    own = {"id", "span", "day", *SUMS}
    columns = [str(field.column) for field in model._meta.concrete_fields]
    names = tuple(column for column in columns if column not in own)
    return Summary(model._meta.db_table, names, rollup, made_of._meta.db_table if made_of else rollup.table)


# The smallest first: a report reads the first that has all it asks for.
SUMMARIES = (
    _summary(SummaryByModel, OVERVIEW),
    _summary(SummaryByTags, SPEND, SummaryWithoutCustomer),
    _summary(SummaryByUser, SPEND, SummaryWithoutCustomer),
    _summary(SummaryByKey, OVERVIEW),
    _summary(SummaryByTagsAndModel, SPEND, SummaryWithoutCustomer),
    _summary(SummaryByUserAndModel, SPEND, SummaryWithoutCustomer),
    _summary(SummaryByTagsAndUser, SPEND, SummaryWithoutCustomer),
    _summary(SummaryWithoutCustomer, SPEND),
    _summary(SummaryByCustomer, SPEND, SummaryByCaller),
    _summary(SummaryByCustomerAndModel, SPEND),
    _summary(SummaryByCaller, SPEND),
)


# -- spans ------------------------------------------------------------------------------


class Span(NamedTuple):
    """Days of one month, from the first on."""

    day: date
    days: int

    @property
    def id(self) -> int:
        return self.day.toordinal() * _LONGEST + self.days

    @property
    def last_day(self) -> date:
        return self.day + timedelta(days=self.days - 1)

    @property
    def parts(self) -> "list[Span]":
        return [Span(self.day + timedelta(days=number), 1) for number in range(self.days)]


class Parts(NamedTuple):
    """What a range of days is made of: ids of closed spans, and the days that are left, as ranges."""

    spans: list[int]
    open: list[tuple[date, date]]


def spans_from(day: date) -> list[Span]:
    """Return the spans that begin on a day, the longest first."""
    month = monthrange(day.year, day.month)[1]
    lengths = {1}
    for length in (*_LENGTHS, month):
        if (day.day - 1) % length == 0:
            lengths.add(min(length, month - day.day + 1))
    return [Span(day, length) for length in sorted(lengths, reverse=True)]


def parts_of(start: date, end: date, *, by_day: bool) -> Parts:
    """Return what [start, end] is made of now. by_day: of spans of one day. One query.

    Within `remembered` days are asked for once.
    """
    known = _remembered.get()
    known = {} if known is None else known
    closed = next((ids for (first, last), ids in known.items() if first <= start and end <= last), None)
    if closed is None:
        closed = known[start, end] = _closed(start, end)
    return _parts_of(start, end, closed, by_day=by_day)


def _parts_of(start: date, end: date, closed: Collection[int], *, by_day: bool) -> Parts:
    if not closed:
        return Parts([], [(start, end)])
    # Optimization: days before and behind all that is closed are not looked at one by one.
    first = date.fromordinal(min(closed) // _LONGEST)
    last = date.fromordinal(max(id_ // _LONGEST + id_ % _LONGEST - 1 for id_ in closed))
    parts, day = Parts([], []), min(max(start, first), end + timedelta(days=1))
    if start < day:
        parts.open.append((start, day - timedelta(days=1)))
    while day <= min(last, end):
        fitting = (
            span
            for span in spans_from(day)
            if span.id in closed and span.last_day <= end and (span.days == 1 or not by_day)
        )
        span = next(fitting, None)
        if span is not None:
            parts.spans.append(span.id)
        elif parts.open and parts.open[-1][1] == day - timedelta(days=1):
            parts.open[-1] = (parts.open[-1][0], day)
        else:
            parts.open.append((day, day))
        day = (span.last_day if span else day) + timedelta(days=1)
    if day <= end:
        if parts.open and parts.open[-1][1] == day - timedelta(days=1):
            day = parts.open.pop()[0]
        parts.open.append((day, end))
    return parts


def _closed(start: date, end: date) -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM billing_closedspan WHERE day >= %s AND last_day <= %s", [start, end])
        return {row[0] for row in cursor.fetchall()}


_remembered: ContextVar[dict[tuple[date, date], set[int]] | None] = ContextVar("remembered", default=None)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Ask once which spans are closed: for several reports that belong together.

    What is opened meanwhile keeps its rows until it is closed again: they are then as of before.
    """
    if _remembered.get() is not None:
        yield
        return
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def smallest(columns: Collection[str]) -> Summary | None:
    """Return the smallest summary that has all of these columns."""
    return next((each for each in SUMMARIES if set(columns) <= {"day", *each.dimensions}), None)


# -- closing ----------------------------------------------------------------------------


def close_days(*, at: datetime, progress: Progress | None = None) -> int:
    """Close all spans whose days are over and that are not closed; return how many. at: now.

    A transaction for each; only bookings into one of its days wait for it. What was written is vacuumed
    then, where no transaction is under way: an index alone can answer only for pages that were.
    """
    first = DailyOverview.objects.order_by("pk").values_list("day", flat=True).first()
    last = (at - _CLOSED_AFTER).astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date() - timedelta(days=1)
    if first is None or first > last:
        return 0
    closed = _closed(first, last)
    wanted = [span for span in _spans(first, last) if span.id not in closed]
    for number, span in enumerate(wanted, 1):
        _close(span, at)
        if progress is not None:
            progress("summaries", number, len(wanted))
    if wanted and connection.vendor == "postgresql" and not connection.in_atomic_block:
        _vacuum()
    return len(wanted)


def _vacuum() -> None:
    for table in ("billing_closedspan", *(summary.table for summary in SUMMARIES)):
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"VACUUM (ANALYZE, SKIP_LOCKED) {table}")
        except DatabaseError as error:  # autovacuum comes later
            logger.warning("table %s was not vacuumed: %s", table, error)


def _spans(first: date, last: date) -> Iterator[Span]:
    """Return all spans of [first, last], the short ones first: the others are made of them."""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    spans = [span for day in days for span in spans_from(day) if span.last_day <= last]
    yield from sorted(spans, key=lambda span: (span.days, span))


def _close(span: Span, at: datetime) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            for part in span.parts:
                cursor.execute(f"SELECT pg_advisory_xact_lock({DAY_LOCKS}, %s::int)", [part.day.toordinal()])
            cursor.execute("SET LOCAL work_mem = '64MB'")  # what is added up fits into memory
            cursor.execute("SET LOCAL jit = off")
        closed = _closed(span.day, span.last_day)
        if span.id in closed:
            return  # by somebody else
        parts = _parts_of(span.day, span.last_day, closed, by_day=False)
        if span.days > 1 and parts.open:
            return  # one of its days was opened again: the next time
        # Those that others are made of come first.
        for summary in sorted(SUMMARIES, key=lambda each: each.made_of != each.rollup.table):
            cursor.execute(f"DELETE FROM {summary.table} WHERE span = %s", [span.id])
            _add_up(cursor, summary, span, parts.spans)
        ClosedSpan.objects.create(pk=span.id, day=span.day, last_day=span.last_day, closed_at=at)


def _add_up(cursor: Any, summary: Summary, span: Span, parts: Sequence[int]) -> None:
    """Write a span's rows of a summary. parts: the closed spans that a longer one is made of."""
    names, sums = ", ".join(summary.dimensions), ", ".join(SUMS)
    added = ", ".join(
        summed(name) if name in ("cost", "charge") else f"NULLIF({summed(name)}, 0)" for name in SUMS
    )
    # Optimization: rows that are read together lie side by side: of the customers that are asked for most
    # often, and of one key.
    order = ""
    if "customer_id" in summary.dimensions:
        order = f" ORDER BY {summed('charge')} DESC"
    elif "key_id" in summary.dimensions:
        order = " ORDER BY key_id"
    if span.days == 1 and summary.made_of == summary.rollup.table:
        table, condition, parameters = summary.made_of, *days_condition("id", [(span.day, span.day)])
    elif span.days == 1:
        table, condition, parameters = summary.made_of, "span = %s", [span.id]
    else:
        which = among("span", "int", parts)
        table, condition, parameters = summary.table, which.sql, which.parameters
    cursor.execute(
        f"INSERT INTO {summary.table} (span, day, {names}, {sums}) "
        f"SELECT %s, {_date()}, {names}, {added} FROM {table} WHERE {condition} GROUP BY {names}{order}",
        [span.id, span.day, *parameters],
    )


def _date() -> str:
    return "CAST(%s AS date)" if connection.vendor == "postgresql" else "%s"


def days_condition(column: str, ranges: Sequence[tuple[date, date]]) -> tuple[str, list[Any]]:
    """Return the condition for an id of a daily rollup to be of one of these ranges of days."""
    # Ids begin with the digits of their day.
    each = f"({column} >= %s AND {column} < %s)"
    parameters = [
        digits for start, end in ranges for digits in (_first_id_of(start), _first_id_of(end + timedelta(1)))
    ]
    return f"({' OR '.join([each] * len(ranges))})", parameters


def _first_id_of(day: date) -> str:
    return f"{day:%Y%m%d}".zfill(8) + "0" * 24
