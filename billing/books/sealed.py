"""
Sealed months: whose logs were removed, and what is known of their calls all the same.

Removing them is in `retention.py`. Here is what others ask: which days are sealed, and what
a holder spent in them, for a budget period that is made later and reaches back that far.
Amounts are nano-dollars.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import QuerySet, Sum

from billing.booking.partitions import next_month
from billing.models import Adjustment, HolderType, SealedMonth, SpendLog
from billing.reporting.reports import Filters, totals
from customers.money import to_nano

# PostgreSQL's advisory lock on which months are sealed: who makes budget periods shares it.
SEAL_LOCK = 0x5345414C


class Days(NamedTuple):
    """Days of the reporting time zone, both included."""

    first: date
    last: date

    @property
    def starts_at(self) -> datetime:
        return datetime.combine(self.first, time(), _zone()).astimezone(UTC)

    @property
    def ends_at(self) -> datetime:
        return datetime.combine(self.last + timedelta(days=1), time(), _zone()).astimezone(UTC)


def days_of_month(month: date) -> Days:
    """Return the days of a calendar month."""
    first = month.replace(day=1)
    return Days(first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1))


def days_touched(month: date) -> Days:
    """Return the days on which calls of a month started that is one in UTC, as partitions are."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    last = next_month(start) - timedelta(microseconds=1)
    return Days(start.astimezone(_zone()).date(), last.astimezone(_zone()).date())


def sealed_days() -> list[Days]:
    """Return the days of which logs were removed, of all or of a part of the day; ranges do not meet."""
    merged: list[Days] = []
    for month in SealedMonth.objects.order_by("pk").values_list("pk", flat=True):
        days = days_touched(month)
        if merged and days.first <= merged[-1].last + timedelta(days=1):
            merged[-1] = Days(merged[-1].first, days.last)
        else:
            merged.append(days)
    return merged


def kept_since() -> date | None:
    """Return the day, in UTC, since which all logs are kept; None where all that ever were are."""
    month = SealedMonth.objects.order_by("-pk").values_list("pk", flat=True).first()
    return None if month is None else days_of_month(month).last + timedelta(days=1)


def sealed_spend(
    holder_type: str, holder_id: str, *, scope: str, since: datetime, days: list[Days]
) -> tuple[int, int]:
    """Return (cost, charge) of removed calls of a holder that started since the instant.

    From the rollups, so exact to the day: of a day that `since` divides, all counts. A limit
    is then reached too early rather than too late. scope: a model, or empty. days: sealed ones.
    """
    cost = charge = 0
    first = since.astimezone(_zone()).date()
    for each in days:
        if each.last < first:
            continue
        part = Days(max(first, each.first), each.last)
        models = [scope] if scope else None
        figures = totals(
            Filters(start=part.first, end=part.last, models=models, **_named(holder_type, holder_id))
        )
        kept = SpendLog.objects.of_holder(holder_type, holder_id).started_between(
            part.starts_at, part.ends_at
        )
        adjusted = Adjustment.objects.of_calls().of_holder(holder_type, holder_id)
        adjusted = adjusted.filter(booked_at__gte=part.starts_at, booked_at__lt=part.ends_at)
        cost += to_nano(figures.cost) - _sum(kept, scope, "cost") - _sum(adjusted, scope, "cost")
        charge += to_nano(figures.charge) - _sum(kept, scope, "charge") - _sum(adjusted, scope, "charge")
    return cost, charge


def _sum(rows: QuerySet, scope: str, column: str) -> int:
    if scope:
        rows = rows.filter(model=scope)
    return to_nano(rows.aggregate(sum=Sum(column))["sum"] or 0)


def _named(holder_type: str, holder_id: str) -> dict[str, Any]:
    """Return the filters of a report about a holder."""
    match HolderType(holder_type):
        case HolderType.GATEWAY:
            return {}
        case HolderType.TEAM_MEMBER:
            team_id, _, user_id = holder_id.partition("\n")
            return {"teams": [team_id], "users": [user_id]}
        case named:
            return {f"{named.value}s": [holder_id]}


def _zone() -> ZoneInfo:
    return ZoneInfo(settings.REPORTING_TIME_ZONE)
