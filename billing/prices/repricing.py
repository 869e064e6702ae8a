"""
Re-pricing: calls that had no price, or the wrong one, are priced again by the price book as it is.

    look (a dry run) → start → run, chunk by chunk

Each call's difference is an `Adjustment`, booked on the day it is made, with who did it and
why; totals, that day's rollups, provisional holds and periods that still run move in the same
transaction (`adjustments.py`). Log rows never change. So it is safe to run twice, beside calls
that are booked, and beside another run: what is booked already is no difference any more.

A run moves its own position in each chunk's transaction: whoever is interrupted, another goes on
behind it. What a call was charged by (margin, rate card) is noted in its row and counts again.

Left alone: calls that cost nothing by rule (cached answers, refusals); calls whose usage a late
journal corrected, because their rows do not have it; calls whose rows were removed.
"""

import contextlib
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from django.apps import apps
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet, Value

from billing.booking.rollups import Moved
from billing.books.adjustments import (
    Booked,
    Correction,
    Why,
    add_to_periods,
    adjust_all,
    booked_for,
    holders_of,
)
from billing.books.closed_months import month_of
from billing.budgets.periods import Moves, retried
from billing.models import Adjustment, BudgetPeriod, Price, Repricing, SpendLog
from billing.prices.pricing import PriceBook, ResolvedPrice, cost_of, resolve
from billing.prices.rate_cards import charge_nano
from billing.prices.sources import canonical_model
from billing.usage import OWN_PRICE, REPORTED_COST
from customers.money import UsdField, from_nano, to_nano

Progress = Callable[[int], None]  # how many calls were looked at

_FREE = (SpendLog.UsageSource.CACHE.value, SpendLog.UsageSource.NONE.value)
_READ_AT_ONCE = 2_000
_WRITE_SECONDS = {"sqlite": 0.035, "postgresql": 0.1}  # what a chunk's transaction aims at (S)
_MOST_CALLS = {"sqlite": 500, "postgresql": 2_000}
_FIRST_CALLS, _FEWEST_CALLS = 20, 10
_PAUSE_SECONDS = 0.005  # between two of them on SQLite, whose busy handler is unfair


class Selection(NamedTuple):
    """Which calls: of one model, as it was sent upstream, that started in [starts_at, ends_at)."""

    provider: str
    model: str
    starts_at: datetime | None
    ends_at: datetime
    only_unpriced: bool = True

    def logs(self, *, behind: uuid.UUID | None = None) -> QuerySet:
        """Return the rows behind one of them, in their order."""
        rows = SpendLog.objects.filter(provider=self.provider, upstream_model=self.model)
        rows = rows.started_between(self.starts_at, self.ends_at).exclude(usage_source__in=_FREE)
        if self.only_unpriced:
            rows = rows.filter(cost__isnull=True)
        if behind is not None:
            rows = rows.filter(pk__gt=behind)
        return rows.defer("metadata", "request_body", "response_body", "attempts").order_by("pk")


# -- what calls should have cost ---------------------------------------------------------


class Override(NamedTuple):
    """What a deployment says of prices: its own row, since when it is there, another model's name."""

    price: ResolvedPrice | None
    since: datetime | None
    base_model: str


class Prices:
    """The price book for the calls of one model, with what their deployments say."""

    def __init__(self, selection: Selection) -> None:
        self._model = selection.model
        self._overrides = _overrides()
        names = {selection.model, *(each.base_model for each in self._overrides.values() if each.base_model)}
        wanted = [(selection.provider, name) for name in names]
        rows = Price.objects.listed_for(wanted, canonical_model=canonical_model)
        self._book = PriceBook(rows, canonical_model=canonical_model)
        self._own: dict[int, ResolvedPrice | None] = {}

    def find(self, log: SpendLog) -> ResolvedPrice | None:
        """Return the price of a call at the instant it started.

        A deployment's override counts for calls since it is there: it has no date of its own.
        """
        override = self._overrides.get(log.deployment_id or 0, _NO_OVERRIDE)
        if override.price and override.since and override.since <= log.started_at:
            return override.price
        model = override.base_model or self._model
        found = self._book.find(log.provider, model, at_s=log.started_at.timestamp())
        return found or (override.price if log.cost is None else None)

    def own_price(self, log: SpendLog) -> ResolvedPrice | None:
        """Return the row of a rate card that the call was charged by."""
        price_id = (log.units or {}).get(OWN_PRICE)
        if price_id is None:
            return None
        if price_id not in self._own:
            row = Price.objects.filter(pk=price_id).first()
            self._own[price_id] = resolve(row) if row else None
        return self._own[price_id]


_NO_OVERRIDE = Override(None, None, "")


def _overrides() -> dict[int, Override]:
    # By its name: the app `proxy` is above this one.
    deployments = apps.get_model("proxy.Deployment")._default_manager.select_related("price")
    named = deployments.filter(Q(price__isnull=False) | ~Q(base_model=""))
    return {
        each.pk: Override(
            resolve(each.price) if each.price else None,
            each.price.created_at if each.price else None,
            each.base_model,
        )
        for each in named
    }


def correction_of(log: SpendLog, prices: Prices) -> Correction | None:
    """Return what a call should have cost; None where nobody knows."""
    price = prices.find(log)
    units = log.units
    if units and REPORTED_COST in units and price is not None and not price.provider_reports_count:
        units = {name: number for name, number in units.items() if name != REPORTED_COST}
    cost = cost_of(price, log.usage, units, log.service_tier)
    if cost is None:
        return None
    charge = charge_nano(cost, prices.own_price(log), log.usage, units, log.service_tier)
    return Correction(log, cost, charge or 0, price.price_id if price else None)


class Look(NamedTuple):
    """What a stretch of calls comes to. left_alone: priced otherwise than by their rows."""

    changed: list[Moved]
    corrections: list[Correction]
    calls: int
    unpriced: int  # that stay so
    left_alone: int


def look_at(logs: Sequence[SpendLog], prices: Prices) -> Look:
    """Compare what is booked for calls with what they should have cost. One query."""
    booked = booked_for(logs)
    changed, corrections, unpriced, left_alone = [], [], 0, 0
    for log in logs:
        known = booked[log.pk]
        if known.is_late:
            left_alone += 1
            continue
        correction = correction_of(log, prices)
        if correction is None:
            unpriced += 0 if known.is_priced else 1
            continue
        moved = _difference(correction, known)
        if moved.cost_nano or moved.charge_nano or moved.unpriced:
            changed.append(moved)
            corrections.append(correction)
    return Look(changed, corrections, len(logs), unpriced, left_alone)


def _difference(correction: Correction, known: Booked) -> Moved:
    return Moved(
        correction.log,
        correction.cost_nano - known.cost_nano,
        correction.charge_nano - known.charge_nano,
        0 if known.is_priced else -1,
    )


# -- the dry run -------------------------------------------------------------------------


class Line(NamedTuple):
    """What the calls of one customer in one month come to: nano-dollars more."""

    customer_id: str  # empty: none
    month: date
    calls: int
    cost_nano: int
    charge_nano: int


class Over(NamedTuple):
    """A running budget period that would go over its limit."""

    period: BudgetPeriod
    spent_nano: int  # afterwards


class Diff(NamedTuple):
    """What a re-pricing would do."""

    calls: int
    changed_calls: int
    unpriced: int
    left_alone: int
    cost_nano: int
    charge_nano: int
    lines: list[Line]  # the largest change first
    over: list[Over]
    is_whole: bool  # there are no more calls than were looked at

    @property
    def customers(self) -> int:
        return len({line.customer_id for line in self.lines if line.customer_id})


def diff(selection: Selection, *, at: datetime, most: int | None = None) -> Diff:
    """Look at the calls and write nothing. most: how many calls; None: all. at: now."""
    prices = Prices(selection)
    sums: dict[tuple[str, date], list[int]] = defaultdict(lambda: [0, 0, 0])
    moves = Moves()
    calls = changed = unpriced = left_alone = 0
    is_whole = True
    for logs in _chunks(selection):
        if most is not None and calls >= most:
            is_whole = False
            break
        found = look_at(logs, prices)
        calls, changed = calls + found.calls, changed + len(found.changed)
        unpriced, left_alone = unpriced + found.unpriced, left_alone + found.left_alone
        for log, cost, charge, _ in found.changed:
            line = sums[log.customer_id or "", month_of(log.started_at)]
            line[0] += 1
            line[1] += cost
            line[2] += charge
        if found.changed:
            behind = {each.log.pk: holders_of(each.log) for each in found.changed}
            with connection.cursor() as cursor:
                add_to_periods(cursor, found.changed, behind, at, moves)
    lines = [Line(*key, *line) for key, line in sums.items()]
    lines.sort(key=lambda line: (-abs(line.charge_nano), line.customer_id, line.month))
    cost, charge = sum(line.cost_nano for line in lines), sum(line.charge_nano for line in lines)
    return Diff(calls, changed, unpriced, left_alone, cost, charge, lines, _over(moves), is_whole)


def _chunks(selection: Selection) -> Iterator[list[SpendLog]]:
    behind = None
    while logs := list(selection.logs(behind=behind)[:_READ_AT_ONCE]):
        yield logs
        behind = logs[-1].pk


def _over(moves: Moves) -> list[Over]:
    spent = moves.spent
    found = []
    for period in BudgetPeriod.objects.filter(pk__in=list(spent), last_limit__isnull=False).order_by("pk"):
        cost, charge = spent[period.pk]
        before, limit = to_nano(period.spent), to_nano(period.last_limit or 0)
        after = before + (charge if period.holder_type == "customer" else cost)
        if before <= limit < after:
            found.append(Over(period, after))
    return found


# -- the run -----------------------------------------------------------------------------


class _Overtaken(Exception):
    """Somebody else moved the run's position."""


def start(selection: Selection, *, actor: str, note: str, at: datetime) -> Repricing:
    """Make a run, which `run` then does. at: now."""
    return Repricing.objects.create(**selection._asdict(), actor=actor, note=note, created_at=at)


def unfinished() -> list[Repricing]:
    return list(Repricing.objects.filter(finished_at=None).order_by("pk"))


def run(
    repricing: Repricing,
    *,
    seconds: float | None = None,
    progress: Progress = lambda calls: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> bool:
    """Do a run, or a part of it; return whether it is finished. Safe to call twice, at once, too.

    seconds: how long to go on; None: to its end. clock: the time that adjustments are booked at.
    """
    until = None if seconds is None else time.monotonic() + seconds
    repricing.refresh_from_db()
    selection = Selection(
        repricing.provider,
        repricing.model,
        repricing.starts_at,
        repricing.ends_at,
        repricing.only_unpriced,
    )
    prices = Prices(selection)
    size = _FIRST_CALLS
    while repricing.finished_at is None:
        logs = list(selection.logs(behind=repricing.position)[:size])
        if not logs:
            Repricing.objects.filter(pk=repricing.pk, finished_at=None).update(finished_at=clock())
            repricing.refresh_from_db()
            break
        begun = time.monotonic()
        with contextlib.suppress(_Overtaken):  # then it goes on where the other is
            retried(lambda logs=logs: _do_chunk(repricing, logs, prices, clock()))  # type: ignore[misc]
        took = time.monotonic() - begun
        repricing.refresh_from_db()
        progress(repricing.calls)
        size = _next_size(size, took)
        if until is not None and time.monotonic() >= until:
            break
        if connection.vendor == "sqlite" and not connection.in_atomic_block:
            time.sleep(_PAUSE_SECONDS)
    return repricing.finished_at is not None


def _do_chunk(repricing: Repricing, logs: Sequence[SpendLog], prices: Prices, at: datetime) -> None:
    found = look_at(logs, prices)  # before the transaction: behind its locks differences are taken again
    with transaction.atomic():
        # The fence: of two who do the same run one moves it, the other finds it moved.
        mine = Repricing.objects.filter(pk=repricing.pk, position=repricing.position, finished_at=None)
        if not mine.update(position=logs[-1].pk, calls=F("calls") + len(logs)):
            raise _Overtaken
        why = Why(
            Adjustment.Reason.REPRICING,
            at,
            repricing.note,
            repricing.actor,
            repricing.pk,
        )
        made = adjust_all(found.corrections, why=why)
        if made:
            Repricing.objects.filter(pk=repricing.pk).update(
                changed_calls=F("changed_calls") + len(made),
                cost=F("cost") + Value(sum((each.cost for each in made), from_nano(0)), UsdField()),
                charge=F("charge") + Value(sum((each.charge for each in made), from_nano(0)), UsdField()),
            )


def _next_size(size: int, took: float) -> int:
    aim = _WRITE_SECONDS[connection.vendor]
    if took > aim:
        return max(_FEWEST_CALLS, size // 2)
    return min(2 * size, _MOST_CALLS[connection.vendor]) if took < aim / 3 else size


def run_unfinished(*, seconds: float) -> int:
    """Go on with runs that were interrupted; return how many were finished."""
    until = time.monotonic() + seconds
    return sum(
        run(each, seconds=max(0.0, until - time.monotonic()))
        for each in unfinished()
        if time.monotonic() < until
    )
