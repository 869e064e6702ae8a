"""
Daily sums of GET /spend/logs: what keys, users and models spent on each day, from the rollups.

An adjustment counts on the day it was booked; a call on the day it started. Days are those
of the reporting time zone. Amounts are what providers bill, in nano-dollars.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import msgspec

from billing.reporting.log_reading import keys_named
from billing.reporting.reports import Filters, Within, costs, one_instant
from customers.api import Reach


class DaySums(msgspec.Struct):
    """What was spent on one day, and by whom on what. Each of the three adds up to `spend`."""

    day: date
    spend: int = 0
    keys: dict[str, int] = {}  # by the key's id, or `master`
    users: dict[str, int] = {}  # empty: by no user
    models: dict[str, int] = {}  # as sent upstream; where nothing was, as it was asked for


def daily_sums(given: Mapping[str, Any], *, reach: Reach, start: date, end: date) -> list[DaySums]:
    """Return the sums of the days with calls from `start` to `end`, both included, in their order.

    given: the filters of `LogFilters`, without `request_id`.
    """
    filters = _filters(given, reach, start, end)
    days: dict[date, DaySums] = {}
    with one_instant():
        for (day, key), spent in costs(filters, ("day", "key")):
            of_day = days.setdefault(day, DaySums(day))
            of_day.spend += spent
            _add(of_day.keys, key, spent)
        for (day, user), spent in costs(filters, ("day", "user")):
            _add(days[day].users, user, spent)
        for (day, upstream, model), spent in costs(filters, ("day", "upstream_model", "model")):
            _add(days[day].models, upstream or model, spent)
    return [days[day] for day in sorted(days)]


def sums_of(spent: Iterable[tuple[date, str, str, str, int]]) -> list[DaySums]:
    """Return the sums of some calls: (day, key's id, user, model, nano-dollars)."""
    days: dict[date, DaySums] = {}
    for day, key, user, model, nano in spent:
        of_day = days.setdefault(day, DaySums(day))
        of_day.spend += nano
        for sums, name in ((of_day.keys, key), (of_day.users, user), (of_day.models, model)):
            _add(sums, name, nano)
    return [days[day] for day in sorted(days)]


def _add(sums: dict[str, int], name: str, nano: int) -> None:
    sums[name] = sums.get(name, 0) + nano


def _filters(given: Mapping[str, Any], reach: Reach, start: date, end: date) -> Filters:
    def one(name: str) -> list[str] | None:
        return [given[name]] if given.get(name) else None

    own = None
    if not reach.is_all:
        key = None if reach.user_id or reach.key_id is None else str(reach.key_id)
        own = Within(reach.user_id, key, tuple(sorted(reach.team_ids)))
    return Filters(
        start=start,
        end=end,
        within=own,
        keys=keys_named(given.get("api_key")),
        users=one("user_id"),
        customers=one("end_user"),
        teams=one("team_id"),
        tags=one("tag"),
        either_models=one("model"),
    )
