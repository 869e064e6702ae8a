"""
What holders may spend and what they have: limits of their budgets, joined with the periods under way.

A bar is one limit in one period: spent, provisional and held, against the limit. Read
only: a period that no call was admitted in has no row, and its bar is empty. Amounts are
USD; a customer's are what it is charged, everybody else's what the provider bills.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Count, Q

from billing.budgets.periods import PeriodKey
from billing.models import BudgetPeriod, Hold
from customers.budget_windows import BudgetWindow
from customers.durations import Duration, period_of
from customers.model_limits import ModelLimit
from customers.models import Budget
from customers.money import from_nano
from customers.words import count, usd

_ZERO = Decimal(0)
_ALL_TIME = "all"  # the window of a budget without a duration
T = TypeVar("T")


class Holder(NamedTuple):
    """Somebody who may have a budget."""

    type: str
    id: str
    label: str
    budget: Budget | None
    is_default: bool = False  # the budget, if any, is not its own: it is that of customers without one

    @property
    def key(self) -> tuple[str, str]:
        return self.type, self.id

    @property
    def is_limited(self) -> bool:
        """Tell whether something may limit its spend."""
        # A customer's calls may also be limited by what the key says of its customers.
        return self.budget is not None or self.is_default


class Allowance(NamedTuple):
    """One limit on spend of a budget."""

    scope: str  # a model name, or empty for all
    limit: Decimal
    duration: Duration | None
    is_window: bool = False  # a further window of the budget, besides max_budget

    def period(self, holder: tuple[str, str], at: datetime) -> PeriodKey:
        """Return the key of the period of `holder` (type, id) that contains `at`."""
        period = period_of(self.duration, at, settings.BUDGET_TIME_ZONE)
        return PeriodKey(*holder, self.scope, period.window, period.starts_at, period.ends_at)


def allowances(budget: Budget | None) -> list[Allowance]:
    """Return the limits on spend: `max_budget` first, then the further windows, then those of models.

    A duration that cannot be read is no duration, as on the hot path.
    """
    if budget is None:
        return []
    found = []
    if budget.max_budget is not None:
        found.append(Allowance("", Decimal(budget.max_budget), _read(budget.duration, None)))
    windows: list[BudgetWindow] = _read(budget.windows, [])
    found += [Allowance("", from_nano(each.limit_nano), each.duration, True) for each in windows]
    by_model: dict[str, ModelLimit] = _read(budget.model_limits, {})
    for model, limit in by_model.items():
        if limit.limit_nano is not None:
            found.append(Allowance(model, from_nano(limit.limit_nano), limit.duration))
    return found


def _read(read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except (ValueError, ValidationError):  # written past the forms
        return otherwise


@dataclass(frozen=True)
class Bar:
    """One limit in one period of one holder."""

    period: PeriodKey
    counts_from: datetime
    ends_at: datetime | None
    limit: Decimal | None  # None: no call was admitted in it yet, so nobody knows which was in force
    spent: Decimal = _ZERO
    held: Decimal = _ZERO
    provisional: Decimal = _ZERO
    generation: int = 0
    row_id: int | None = None  # None: no call yet
    calls: int = 0  # under way
    unpriced_calls: int = 0  # behind `provisional`
    is_window: bool = False  # of a further window, besides max_budget

    @classmethod
    def of(cls, row: BudgetPeriod, limit: Decimal | int | None, *, is_window: bool = False) -> "Bar":
        return cls(
            PeriodKey(row.holder_type, row.holder_id, row.scope, row.window, row.starts_at, row.ends_at),
            row.counts_from,
            row.ends_at,
            None if limit is None else Decimal(limit),
            row.spent,
            Decimal(row.held),
            Decimal(row.provisional),
            row.generation,
            row.pk,
            is_window=is_window,
        )

    @property
    def taken(self) -> Decimal:
        return self.spent + self.provisional + self.held

    @property
    def left(self) -> Decimal | None:
        """Return what a new call may still cost: 0 where that is nothing."""
        return None if self.limit is None else max(_ZERO, self.limit - self.taken)

    @property
    def overspend(self) -> Decimal:
        return _ZERO if self.limit is None else max(_ZERO, self.spent - self.limit)

    @property
    def is_used_up(self) -> bool:
        return self.limit is not None and self.spent + self.provisional >= self.limit

    @property
    def share(self) -> Decimal:
        """Return how much of the limit is taken, for finding the tightest: 1 is all of it."""
        if self.limit is None:
            return _ZERO
        return self.taken / self.limit if self.limit else Decimal(1)

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Return (kind, width in per cent) of what is drawn, from the left."""
        amounts = (("spent", self.spent), ("provisional", self.provisional), ("held", self.held))
        return [(kind, self._percent(amount)) for kind, amount in amounts if amount > 0]

    @property
    def limit_mark(self) -> str | None:
        """Return where the limit is, in per cent, if it lies within the bar."""
        return None if self.limit is None or self.taken <= self.limit else self._percent(self.limit)

    def _percent(self, amount: Decimal) -> str:
        whole = max(self.taken, self.limit or _ZERO)
        return f"{amount / whole * 100:.2f}" if whole else "0.00"

    # -- in words ----------------------------------------------------------------------

    @property
    def spent_text(self) -> str:
        return usd(self.spent)

    @property
    def limit_text(self) -> str:
        return usd(self.limit)

    @property
    def left_text(self) -> str:
        return usd(self.left)

    @property
    def overspend_text(self) -> str:
        return usd(self.overspend)

    @property
    def spent_of_limit(self) -> str:
        return usd(self.spent) if self.limit is None else f"{usd(self.spent)} of {usd(self.limit)}"

    @property
    def held_text(self) -> str:
        by = (
            f" by {count(self.calls)} {'call' if self.calls == 1 else 'calls'} under way"
            if self.calls
            else ""
        )
        return f"{usd(self.held)} held{by}"

    @property
    def provisional_text(self) -> str:
        calls = "call" if self.unpriced_calls == 1 else "calls"
        of = f" for {count(self.unpriced_calls)} {calls} without a price" if self.unpriced_calls else ""
        return f"{usd(self.provisional)} provisional{of}"

    @property
    def summary(self) -> str:
        """Say it all in one line: what stands beside the drawing for those who do not see it."""
        said = [f"{self.spent_of_limit} spent"]
        said += [self.held_text] if self.held else []
        said += [self.provisional_text] if self.provisional else []
        return ", ".join(said)

    @property
    def duration(self) -> str:
        return duration_text(self.period.window)

    @property
    def zone(self) -> str:
        return _zone_of(self.period.window).key

    @property
    def begins(self) -> str:
        return "" if self.period.window == _ALL_TIME and not self.generation else self._at(self.counts_from)

    @property
    def ends(self) -> str:
        return "" if self.ends_at is None else self._at(self.ends_at)

    def _at(self, at: datetime) -> str:
        local = at.astimezone(_zone_of(self.period.window))
        return f"{local:%Y-%m-%d %H:%M:%S}" if local.second else f"{local:%Y-%m-%d %H:%M}"


def duration_text(window: str) -> str:
    """Return the duration that a window is named by: `1mo`, or `all time`."""
    return "all time" if window == _ALL_TIME else window.partition(" ")[0]


def _zone_of(window: str) -> ZoneInfo:
    # A window keeps the zone that it was made in, also when the setting is another today.
    return settings.BUDGET_TIME_ZONE if window == _ALL_TIME else ZoneInfo(window.split(" ")[1])


# -- the periods under way ---------------------------------------------------------------


def bars_now(holders: Iterable[Holder], *, at: datetime) -> dict[tuple[str, str], list[Bar]]:
    """Return the bars of each holder, by (type, id). One query, however many there are."""
    listed = list(holders)
    rows = _rows_at([holder.key for holder in listed if holder.is_limited], at)
    return {holder.key: _bars(holder, rows[holder.key], at) for holder in listed}


def bars_of_each(holders: Sequence[Holder], *, at: datetime) -> list[list[Bar]]:
    """Return the bars of each holder, in their order; one may come again, with another budget. One query."""
    rows = _rows_at([holder.key for holder in holders if holder.is_limited], at)
    return [_bars(holder, rows[holder.key], at) for holder in holders]


def tightest(bars: Sequence[Bar]) -> Bar | None:
    """Return the bar that will refuse first."""
    return max(bars, key=lambda bar: bar.share, default=None)


def with_calls(bars: Sequence[Bar]) -> list[Bar]:
    """Return the bars with how many calls are behind what is held. One query."""
    ids = [bar.row_id for bar in bars if bar.row_id is not None and (bar.held or bar.provisional)]
    holds = Hold.objects.filter(period_id__in=ids).values("period_id").annotate(
        under_way=Count("pk", filter=Q(lease_expires_at__isnull=False)),
        left_behind=Count("pk", filter=Q(lease_expires_at__isnull=True)),
    )  # fmt: skip
    counts = {found["period_id"]: found for found in holds} if ids else {}
    return [
        replace(bar, calls=found["under_way"], unpriced_calls=found["left_behind"])
        if bar.row_id is not None and (found := counts.get(bar.row_id))
        else bar
        for bar in bars
    ]


def _rows_at(keys: Sequence[tuple[str, str]], at: datetime) -> dict[tuple[str, str], list[BudgetPeriod]]:
    """Return the rows that count calls which start at `at`."""
    found: dict[tuple[str, str], list[BudgetPeriod]] = defaultdict(list)
    ids: dict[str, list[str]] = defaultdict(list)
    for holder_type, holder_id in keys:
        ids[holder_type].append(holder_id)
    if ids:
        of_holders = Q()
        for holder_type, holder_ids in ids.items():
            of_holders |= Q(holder_type=holder_type, holder_id__in=holder_ids)
        not_ended = Q(ends_at__isnull=True) | Q(ends_at__gt=at)
        for row in BudgetPeriod.objects.filter(of_holders, not_ended, counts_from__lte=at).order_by("pk"):
            found[row.holder_type, row.holder_id].append(row)
    return found


def _bars(holder: Holder, rows: Sequence[BudgetPeriod], at: datetime) -> list[Bar]:
    by_window = {(row.scope, row.window): row for row in rows}
    bars = []
    for allowance in allowances(holder.budget):
        period = allowance.period(holder.key, at)
        row = by_window.pop((period.scope, period.window), None)
        limit: Decimal | None = allowance.limit
        if holder.budget and not allowance.scope and not allowance.is_window:
            limit = holder.budget.limit_at(at)  # in force, with an increase for a time: as on the hot path
        bars.append(
            Bar(period, period.starts_at, period.ends_at, limit, is_window=allowance.is_window)
            if row is None
            else Bar.of(row, limit, is_window=allowance.is_window)
        )
    if holder.is_default:
        # Those of another budget: a key's, of its customers.
        bars += [Bar.of(row, row.last_limit) for row in by_window.values() if row.last_limit is not None]
    return bars
