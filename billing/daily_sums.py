"""
Daily sums of GET /spend/logs: what each key, user and model spent on each day, from the rollups.

An adjustment counts on the day it was booked; a call on the day it started. Days are those
of the reporting time zone.
"""

import uuid
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet, Sum

from billing.log_reading import key_ids, model_condition, within
from billing.models import DailyOverview, DailySpend, TagSetMember
from billing.models.daily_spend import MASTER_KEY
from customers.api import Reach

_ZERO = Decimal(0)


class DailySum(NamedTuple):
    """What was spent on one day. key_id None: with the master key; user_id empty: by no user."""

    day: date
    key_id: uuid.UUID | None
    user_id: str
    model: str  # as it was sent upstream; where nothing was, as it was asked for
    spend: Decimal


def daily_sums(given: Mapping[str, Any], *, reach: Reach, start: date, end: date) -> list[DailySum]:
    """Return the sums of the days from `start` to `end`, both included, in the order of days.

    given: the filters of `LogFilters`, without `request_id`. Three queries at most.
    """
    conditions = _conditions(given, reach)
    if given.get("end_user") or given.get("user_id") or reach.user_id:
        return _sums(DailySpend.objects.filter(*conditions), start, end, by_user=True)
    table = DailySpend if given.get("tag") else DailyOverview
    by_key = _sums(table.objects.filter(*conditions), start, end, by_user=False)
    # Optimization: the small table knows no users, and of the big one an index has the rows with users.
    of_users = _sums(DailySpend.objects.filter(*conditions, user_id__gt=""), start, end, by_user=True)
    return sorted([*_without(by_key, of_users), *of_users], key=attrgetter("day"))


def _conditions(given: Mapping[str, Any], reach: Reach) -> list[Q]:
    conditions = [within(reach)]
    if given.get("api_key"):
        ids = key_ids(given["api_key"])
        conditions.append(Q(key_id__in=[MASTER_KEY] if ids is None else ids))
    for name, column in (("user_id", "user_id"), ("end_user", "customer_id"), ("team_id", "team_id")):
        if given.get(name):
            conditions.append(Q(**{column: given[name]}))
    if given.get("tag"):
        sets = TagSetMember.objects.filter(tag=given["tag"]).values("tag_set_id")
        conditions.append(Q(tag_set_id__in=sets))
    if given.get("model"):
        conditions.append(model_condition(given["model"]))
    return conditions


def _sums(rows: QuerySet[Any], start: date, end: date, *, by_user: bool) -> list[DailySum]:
    """Return the sums of a rollup's rows. Rows of a range of days are a range of ids."""
    days = rows.filter(pk__gte=_first_id(start), pk__lt=_first_id(end + timedelta(days=1)))
    columns = ("day", "key_id", "upstream_model", "model", *(("user_id",) if by_user else ()))
    return [
        DailySum(
            row["day"],
            None if row["key_id"] == MASTER_KEY else row["key_id"],
            row.get("user_id", ""),
            row["upstream_model"] or row["model"],
            row["spend"],
        )
        for row in days.order_by().values(*columns).annotate(spend=Sum("cost")).order_by("day")
    ]


def _first_id(day: date) -> uuid.UUID:
    return uuid.UUID(f"{day:%Y%m%d}" + "0" * 24)


def _without(sums: Iterable[DailySum], of_users: Iterable[DailySum]) -> list[DailySum]:
    """Return what is left of the sums of everybody, without those of users."""
    taken: dict[Any, Decimal] = {}
    for each in of_users:
        group = (each.day, each.key_id, each.model)
        taken[group] = taken.get(group, _ZERO) + each.spend
    left: dict[Any, Decimal] = {}
    for each in sums:
        group = (each.day, each.key_id, each.model)
        left[group] = left.get(group, -taken.get(group, _ZERO)) + each.spend
    return [
        DailySum(day, key_id, "", model, spend)
        for (day, key_id, model), spend in left.items()
        if spend or (day, key_id, model) not in taken
    ]
