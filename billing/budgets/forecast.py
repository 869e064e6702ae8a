"""
What a budget period will come to at the pace of late. Plain arithmetic: no query, no clock, no settings.

    pace        what was spent in the stretch [since, at), per unit of time
    at the end  what is spent already, plus the pace for the rest of the period
    exceeds at  the instant at which the limit is reached at that pace

One straight line: no season, no trend. A pace of seven days has each weekday in it once,
which is why `Pace` is of so many where there are that many. Too short a stretch says
nothing, and then there is no forecast rather than a bad one. Amounts are USD.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import NamedTuple

PACE_DAYS = 7
_ENOUGH = timedelta(days=2)
_PART_OF_SHORT_PERIODS = 4  # a quarter of a period has to be over, where that is less than `_ENOUGH`
_ONE_DAY = timedelta(days=1)
_FARTHEST = timedelta(days=3650)  # beyond it nobody knows anything
_NANO = Decimal(1).scaleb(-9)  # no amount has more places
_ZERO = Decimal(0)


class Pace(NamedTuple):
    """What was spent from `since` until now."""

    amount: Decimal
    since: datetime


class Forecast(NamedTuple):
    """What a period will come to."""

    per_day: Decimal  # the pace
    since: datetime  # the pace is that of [since, at)
    at_end: Decimal | None  # None: the period never ends
    # None: there is no limit, or it is not reached before the period ends (at most ten years from now).
    # Where it is reached already: the instant that was asked about.
    exceeds_at: datetime | None

    def exceeds_on(self, zone: tzinfo) -> date | None:
        """Return the day on which the limit is reached."""
        return None if self.exceeds_at is None else self.exceeds_at.astimezone(zone).date()


def forecast(
    *,
    spent: Decimal,
    limit: Decimal | None,
    counts_from: datetime,
    ends_at: datetime | None,
    at: datetime,
    recent: Pace | None = None,
) -> Forecast | None:
    """Return what a period will come to, or None where too little is known to say.

    spent: what counts against the limit already, so with what is provisional, without what is
    held; counts_from, ends_at: of the period (None: never). recent: what the same holder spent
    in up to `PACE_DAYS` days before `at`, from its first day on where that was later. Without
    it, and for a period of a day or less, the pace is that of the period itself.

    Too little: less than two days, or than a quarter of a period that is shorter than eight.
    """
    length = None if ends_at is None else ends_at - counts_from
    is_short = length is not None and length <= _ONE_DAY
    pace = Pace(spent, counts_from) if recent is None or is_short else recent
    known_for = at - pace.since
    if known_for < enough(length):
        return None
    per_second = max(_ZERO, pace.amount) / _seconds(known_for)
    at_end = None
    if ends_at is not None:
        at_end = (spent + per_second * _seconds(max(ends_at - at, timedelta()))).quantize(_NANO)
    return Forecast(
        per_day=(per_second * _seconds(_ONE_DAY)).quantize(_NANO),
        since=pace.since,
        at_end=at_end,
        exceeds_at=_exceeds_at(spent, limit, per_second, ends_at, at),
    )


def enough(length: timedelta | None) -> timedelta:
    """Return how long a pace must have been watched for a period of that length; None: one without end."""
    return _ENOUGH if length is None else min(_ENOUGH, length / _PART_OF_SHORT_PERIODS)


def pace_of_days(
    spent: Mapping[date, Decimal], *, today: date, starts_at: datetime, active_before: bool
) -> Pace | None:
    """Return the pace of the days until `today` of which there are sums; None where nothing was spent.

    spent: by day; those without calls may be missing, and others are passed over. starts_at:
    the instant at which `today` began. active_before: whether the holder had calls before these
    days; else its pace begins with its first day, for before that it was not there.
    """
    first = today - timedelta(days=PACE_DAYS - 1)
    within = {day: amount for day, amount in spent.items() if first <= day <= today}
    if not within:
        return Pace(_ZERO, starts_at - (today - first)) if active_before else None
    begins = first if active_before else min(within)
    return Pace(sum(within.values(), _ZERO), starts_at - (today - begins))


def _exceeds_at(
    spent: Decimal, limit: Decimal | None, per_second: Decimal, ends_at: datetime | None, at: datetime
) -> datetime | None:
    if limit is None:
        return None
    if spent >= limit:
        return at
    if not per_second:
        return None
    seconds = (limit - spent) / per_second
    if seconds > _seconds(_FARTHEST):
        return None
    reached = at + timedelta(seconds=float(seconds))
    return reached if ends_at is None or reached < ends_at else None


def _seconds(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)) / 1_000_000
