"""
What a budget would have refused: the log of the last 30 days, run through its limits.

An approximation that is told where it is shown: a call counts as refused when what was
booked before it in its period had reached the limit. Nobody can know what calls in flight
would have held; calls without a price count as nothing. The work is bounded: of each
holder the latest calls are read, so that the figures are lower bounds where there are more.
"""

import uuid
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from django.conf import settings

from billing.admin.attached import biggest
from billing.admin.naming import holder_link, key_names
from billing.budgets.bars import Allowance, allowances
from billing.bulk import microseconds
from billing.models import HolderType, SpendLog
from customers.durations import CurrentPeriods, Duration, period_of
from customers.ids import first_uuid7_at
from customers.models import Budget
from customers.words import count

DAYS = 30
MOST_HOLDERS = 20
MOST_CALLS = 5_000  # of each holder
MOST_UNINDEXED = 200_000  # calls of everybody, in which those of users are looked for

_NEVER_SERVED = (SpendLog.Status.REFUSED, SpendLog.Status.NOT_SENT)


class Replayed(NamedTuple):
    """What would have become of one holder's calls."""

    calls: int
    refused: frozenset[uuid.UUID]  # the calls' ids
    periods: int  # in which calls were refused
    is_partial: bool  # there are more calls than were read


class Preview(NamedTuple):
    """What a budget would have refused of the holders that were looked at."""

    by_holder: dict[tuple[str, str], Replayed]

    @property
    def refused(self) -> int:
        """Return how many calls; one that several holders are behind counts once."""
        return len(frozenset().union(*(each.refused for each in self.by_holder.values())))

    @property
    def periods(self) -> int:
        return sum(each.periods for each in self.by_holder.values())

    @property
    def holders(self) -> int:
        return sum(1 for each in self.by_holder.values() if each.refused)

    @property
    def is_partial(self) -> bool:
        return any(each.is_partial for each in self.by_holder.values())

    @property
    def table(self) -> dict[str, list]:
        """Return the figures as the theme's table component takes them, most refusals first."""
        names = key_names(self.by_holder)
        order = sorted(self.by_holder.items(), key=lambda item: -len(item[1].refused))
        return {
            "headers": ["holder", "calls read", "would have been refused", "in periods"],
            "rows": [
                [
                    holder_link(*holder, names),
                    f"{'the latest ' if each.is_partial else ''}{count(each.calls)}",
                    f"{'at least ' if each.is_partial else ''}{count(len(each.refused))}",
                    count(each.periods),
                ]
                for holder, each in order
            ],
        }


def preview(budget: Budget, *, at: datetime) -> Preview:
    """Replay the log for the holders of `budget` with the limits it has now, saved or not."""
    limits = allowances(budget)
    return Preview({holder: replay(*holder, limits, at=at) for holder in biggest(budget, MOST_HOLDERS)})


def replay(holder_type: str, holder_id: str, limits: list[Allowance], *, at: datetime) -> Replayed:
    """Run the calls of the 30 days before `at` through `limits`, in the order they started in.

    It begins with the periods that contain the first of those days, but counts refusals
    within them only.
    """
    zone = settings.BUDGET_TIME_ZONE
    since = at - timedelta(days=DAYS)
    start = min((period_of(limit.duration, since, zone).starts_at for limit in limits), default=since)
    logs = SpendLog.objects.of_holder(holder_type, holder_id).started_between(start, at)
    floor = _beyond_reach() if holder_type == HolderType.USER else None
    if floor is not None:
        logs = logs.filter(pk__gt=floor)
    amount = "charge" if holder_type == HolderType.CUSTOMER else "cost"
    latest = logs.exclude(status__in=_NEVER_SERVED).order_by("-pk")
    calls = list(latest.values_list("pk", "started_at", amount, "model")[: MOST_CALLS + 1])
    is_partial = len(calls) > MOST_CALLS or (floor is not None and floor >= first_uuid7_at(start))

    periods = CurrentPeriods(zone)
    spent: dict[tuple[str, Duration | None, int], Decimal] = defaultdict(Decimal)
    refused, refusing = set(), set()
    for call_id, started_at, cost, model in reversed(calls[:MOST_CALLS]):
        at_us = microseconds(started_at)
        for limit in limits:
            if limit.scope and limit.scope != model:
                continue
            period = limit.scope, limit.duration, periods.at(limit.duration, at_us).starts_us
            if spent[period] >= limit.limit and started_at >= since:
                refused.add(call_id)
                refusing.add(period)
            spent[period] += cost or 0
    return Replayed(min(len(calls), MOST_CALLS), frozenset(refused), len(refusing), is_partial)


def _beyond_reach() -> uuid.UUID | None:
    """Return the id of the latest call that is not read where no index helps: for users there is none."""
    ids = SpendLog.objects.order_by("-pk").values_list("pk", flat=True)
    return next(iter(ids[MOST_UNINDEXED : MOST_UNINDEXED + 1]), None)
