"""
Durations of budgets, and the period of a duration that an instant falls into.

A duration is written `30d`, `1h`, `2mo` or `monthly`. Every one follows the calendar
of a time zone, by one rule (`docs/budgets.md` tells it to users, with examples):

- shorter than a day: counted from the start of the local day, cut where the day ends;
- days and weeks: whole local days, counted from the anchor; weeks begin on Mondays;
- months: begin on the 1st, counted from the anchor; `3mo` are the quarters;
- longer than a day, but not whole days (`36h`): hours that pass, from the anchor.

The anchor is Monday, 1 January 2024, 00:00 in the zone. Writings of one duration are
one: `60m` is `1h`, `24h` is `1d`, `7d` is `1w`; and `30d` is `1mo`, as in LiteLLM.
A local day begins at the first instant of its date, so that days have 23 or 25 hours
where the clock is changed. Periods are half-open: [starts_at, ends_at).

Plain arithmetic: no query, no clock, no settings.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

_ALLOWED = (
    "write a whole number and a unit (s, m, h, d, w, mo), such as 1d, 12h or 3mo, "
    "or hourly, daily, weekly, monthly; at most 100 years"
)
_RULE = 1  # part of every window's name: raise it when the rule or the anchor changes
_ANCHOR = date(2024, 1, 1)
_ANCHOR_MONTH = _ANCHOR.year * 12
_WORDS = {"hourly": "1h", "daily": "1d", "weekly": "1w", "monthly": "1mo"}
_WRITTEN = re.compile("([1-9][0-9]{0,9})(s|m|h|d|w|mo)")
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}  # the largest first
_LONGEST_DAYS = 36_525
_LONGEST_MONTHS = 1_200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Duration(NamedTuple):
    """A duration in its one canonical form, made by `parse_duration`: 90 `m`, but 1 `h`."""

    number: int
    unit: str

    def __str__(self) -> str:
        return f"{self.number}{self.unit}"


class Period(NamedTuple):
    """The stretch [starts_at, ends_at) of a window; `window` names duration, zone and rule."""

    window: str
    starts_at: datetime
    ends_at: datetime | None  # None: never
    starts_us: int  # Unix microseconds, for the hot path
    ends_us: float  # a whole number, or infinity

    def contains(self, at_us: int) -> bool:
        return self.starts_us <= at_us < self.ends_us


# The period of a budget without a duration.
ALL_TIME = Period("all", _EPOCH, None, 0, float("inf"))


def parse_duration(text: str) -> Duration:
    """Read `30d`, `1h`, `monthly`, …

    Raises: ValueError, whose message says what is allowed.
    """
    match = _WRITTEN.fullmatch(_WORDS.get(text, text))
    if match is None:
        raise ValueError(f"{text!r} is no duration: {_ALLOWED}")
    number, unit = int(match[1]), match[2]
    if unit == "mo":
        duration, is_too_long = Duration(number, unit), number > _LONGEST_MONTHS
    else:
        seconds = number * _SECONDS[unit]
        duration, is_too_long = _canonical(seconds), seconds > _LONGEST_DAYS * _SECONDS["d"]
    if is_too_long:
        raise ValueError(f"{text!r} is too long a duration: {_ALLOWED}")
    return duration


def period_of(duration: Duration | None, at: datetime, zone: ZoneInfo) -> Period:
    """Return the period that contains the aware instant `at`. No duration: all time."""
    if duration is None:
        return ALL_TIME
    starts_at, ends_at = _bounds(duration, at.astimezone(UTC), zone)
    return Period(
        f"{duration} {zone.key} v{_RULE}",
        starts_at,
        ends_at,
        _microseconds(starts_at),
        _microseconds(ends_at),
    )


class CurrentPeriods:
    """Periods in one zone. Remembers each duration's last: nearly every call falls into it."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._last: dict[Duration | None, Period] = {}

    def at(self, duration: Duration | None, at_us: int) -> Period:
        """Return the period of `duration` that contains `at_us` (Unix microseconds)."""
        period = self._last.get(duration)
        if period is None or not period.contains(at_us):
            period = period_of(duration, _EPOCH + at_us * _MICROSECOND, self._zone)
            self._last[duration] = period
        return period


def _canonical(seconds: int) -> Duration:
    if seconds == 30 * _SECONDS["d"]:
        return Duration(1, "mo")
    unit = next(unit for unit, size in _SECONDS.items() if seconds % size == 0)
    return Duration(seconds // _SECONDS[unit], unit)


def _bounds(duration: Duration, at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    number, unit = duration
    if unit in ("s", "m", "h"):
        return _clock_bounds(timedelta(seconds=number * _SECONDS[unit]), at, zone)
    day = _day_of(at, zone)
    if unit == "mo":
        month = day.year * 12 + day.month - 1
        first = month - (month - _ANCHOR_MONTH) % number
        return _start_of(_first_of(first), zone), _start_of(_first_of(first + number), zone)
    length = timedelta(days=number * 7 if unit == "w" else number)
    first_day = day - (day - _ANCHOR) % length
    return _start_of(first_day, zone), _start_of(first_day + length, zone)


def _clock_bounds(length: timedelta, at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    if length > timedelta(days=1):
        starts_at = at - (at - _start_of(_ANCHOR, zone)) % length
        return starts_at, starts_at + length
    day = _day_of(at, zone)
    starts_at = at - (at - _start_of(day, zone)) % length
    return starts_at, min(starts_at + length, _start_of(day + timedelta(days=1), zone))


def _day_of(at: datetime, zone: ZoneInfo) -> date:
    """Return the last day that has started. Not always the clock's date.

    Where the clock is set back over midnight, it shows the old date once more.
    """
    day = at.astimezone(zone).date() + timedelta(days=1)
    while _start_of(day, zone) > at:
        day -= timedelta(days=1)
    return day


def _start_of(day: date, zone: ZoneInfo) -> datetime:
    """Return midnight: the first where there are two, the moment it is skipped where there is none."""
    return datetime(day.year, day.month, day.day, tzinfo=zone, fold=0).astimezone(UTC)


def _first_of(month: int) -> date:
    """Return the 1st of a month, given as its number since the year 0."""
    return date(month // 12, month % 12 + 1, 1)


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
