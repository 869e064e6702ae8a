"""
What a link or a read token tells: one customer's usage of some days, and its own limits.

Nothing of anybody else: no cost (what providers bill), no limit of a team, a tag or the
gateway, no name of a budget, and names of keys only where the link says so.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings

from billing.budgets.customer_limits import Limit, Outlook, outlooks, own_limits
from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting.reports import (
    Amounts,
    Figures,
    Filters,
    Row,
    added,
    amounts_by_day,
    by,
    by_day,
    one_instant,
)
from customers.models import Customer, HandoutLink, VirtualKey

MOST_MODELS = 50
_LATELY = timedelta(days=31)  # whose keys may have a default for their customers


class Told(NamedTuple):
    """The usage of the days [start, end], both included."""

    start: date
    end: date
    total: Figures
    days: dict[date, Figures]  # without those that have no calls
    models: list[Row]  # the most spend first
    keys: list[Row] | None  # by the name that people know; None: the link does not name them
    model_days: Mapping[str, Mapping[date, Amounts]]


class Standing(NamedTuple):
    """The limits of now, and the outlook of each that is on spend."""

    limits: list[Limit]
    outlooks: list[Outlook]


def today_at(at: datetime) -> date:
    return at.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date()


def usage_told(link: HandoutLink, start: date, end: date) -> Told:
    """Return what a link tells of these days. Up to five queries, at one instant."""
    filters = Filters(start=start, end=end, customers=[link.customer_id])
    with one_instant():
        days = {row.day: row.figures for row in by_day(filters)}
        models = by(filters, "model", order="charge", limit=MOST_MODELS)
        return Told(
            start,
            end,
            added(days.values(), is_charged=True),
            days,
            models,
            _keys(filters) if link.shows_keys else None,
            amounts_by_day(filters, "model"),
        )


def standing_told(customer: Customer, *, at: datetime) -> Standing:
    """Return the customer's own limits as they are. Up to six queries."""
    today = today_at(at)
    lately = Filters(start=today - _LATELY, end=today, customers=[customer.pk])
    with one_instant():
        keys = [row.name for row in by(lately, "key", order="charge", limit=10) if row.name != MASTER_KEY_ID]
        limits = own_limits(customer, keys, at=at)
        return Standing(limits, outlooks(customer.pk, limits, at=at))


def _keys(filters: Filters) -> list[Row]:
    rows = by(filters, "key", order="charge", limit=MOST_MODELS)
    found = VirtualKey.objects.in_bulk([row.name for row in rows if row.name != MASTER_KEY_ID])
    names = {str(pk): key.alias or key.display_name for pk, key in found.items()}
    return [Row(names.get(row.name, "another key"), row.figures) for row in rows]


def spend_by_day(told: Told, most: int) -> list[tuple[str, list[Decimal]]]:
    """Return the spend of each day by model, the largest models by themselves and the rest as one."""
    days = days_of(told)
    largest = [row.name for row in told.models[:most]]
    series = [(name, _amounts(days, told.model_days.get(name, {}))) for name in largest]
    rest = [
        (told.days[day].charge if day in told.days else Decimal(0))
        - sum((values[at] for _, values in series), Decimal(0))
        for at, day in enumerate(days)
    ]
    return [*series, ("other models", rest)] if any(rest) else series


def days_of(told: Told) -> list[date]:
    return [told.start + timedelta(days=number) for number in range((told.end - told.start).days + 1)]


def _amounts(days: Sequence[date], amounts: Mapping[date, Amounts]) -> list[Decimal]:
    return [amounts[day].charge if day in amounts else Decimal(0) for day in days]
