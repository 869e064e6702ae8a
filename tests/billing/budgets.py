"""
Budgets for the tests of billing: keys of periods, asks, and what the rows must say.

Money is given as text, in USD. `check_the_books` redoes every sum by hand, from the log
rows, adjustments and holds, without the code that made them.
"""

import itertools
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from billing.booking.journal import Position
from billing.booking.ledger import Booking, book
from billing.booking.records import CallRecords, Opened
from billing.budgets.holds import Ask, Attribution, Claim, Granted, admit
from billing.budgets.periods import KnownPeriods, PeriodKey
from billing.models import Adjustment, BudgetPeriod, Hold, SpendLog
from customers.ids import uuid7_text
from customers.money import to_nano
from tests.billing.making import START, make_closed, make_opened, make_sent, nano

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
JULY, AUGUST = datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 8, 1, tzinfo=UTC)
JOURNAL = uuid.UUID(int=7)
LEASE_S = 60.0


def july(holder_type: str = "customer", holder_id: str = "acme", scope: str = "") -> PeriodKey:
    """Return the key of a monthly budget; July 2026 is in it."""
    return PeriodKey(holder_type, holder_id, scope, "1mo UTC v1", JULY, AUGUST)


def all_time(holder_type: str = "customer", holder_id: str = "acme", scope: str = "") -> PeriodKey:
    return PeriodKey(holder_type, holder_id, scope, "all", EPOCH, None)


def claims(*limits: tuple[PeriodKey, str]) -> tuple[Claim, ...]:
    return tuple(Claim(key, nano(limit)) for key, limit in limits)


def make_ask(
    *limits: tuple[PeriodKey, str],
    amount_usd: str = "0.25",
    opened: Opened | None = None,
    journal_id: uuid.UUID = JOURNAL,
    estimate_usd: str | None = "0.25",
    **options: Any,
) -> Ask:
    """Return what a call asks for. limits: (period, limit in USD); options: of `Ask`."""
    opened = opened or make_opened(customer_id="acme")
    return Ask(
        call_id=opened.call_id,
        started_us=opened.started_us,
        journal_id=journal_id,
        claims=claims(*limits),
        amount_nano=nano(amount_usd),
        attribution=Attribution.of(opened, make_sent(opened, cost_usd=estimate_usd)),
        **options,
    )


def admit_one(ask: Ask, *, known: KnownPeriods | None = None, lease_s: float = LEASE_S) -> Any:
    return admit([ask], lease_s=lease_s, known=known or KnownPeriods())[0]


def admitted(*limits: tuple[PeriodKey, str], **options: Any) -> Opened:
    """Have a call admitted and return its first record. options: of `make_ask` and of the record."""
    asking = {
        name: options.pop(name) for name in ("amount_usd", "journal_id", "estimate_usd") if name in options
    }
    lease_s = options.pop("lease_s", LEASE_S)
    opened = make_opened(**{"customer_id": "acme", **options})
    decision = admit_one(make_ask(*limits, opened=opened, **asking), lease_s=lease_s)
    assert isinstance(decision, Granted), decision
    return opened


def settle_calls(*calls: CallRecords, journal_id: uuid.UUID | None = None) -> None:
    """Book the calls as the recorder does."""
    book(Booking(journal_id or uuid.uuid4(), calls, START, Position(1, 1)))


def settle(opened: Opened, *, cost_usd: str | None = "0.5", **closed: Any) -> None:
    settle_calls(CallRecords(opened, make_closed(opened, cost_usd=cost_usd, **closed)))


def period_of(key: PeriodKey, generation: int = 0) -> BudgetPeriod:
    return BudgetPeriod.objects.get(
        holder_type=key.holder_type, holder_id=key.holder_id, scope=key.scope, window=key.window,
        starts_at=key.starts_at, generation=generation,
    )  # fmt: skip


def figures(key: PeriodKey, generation: int = 0) -> tuple[int, int, int]:
    """Return (spent, held, provisional) of a period in nano-dollars."""
    row = period_of(key, generation)
    return to_nano(row.spent), to_nano(row.held), to_nano(row.provisional)


def usd(*amounts: str) -> tuple[int | None, ...]:
    return tuple(map(nano, amounts))


# -- the oracle ------------------------------------------------------------------------


def check_the_books() -> None:
    """Every period says what its logs, adjustments and holds add up to, each summed row by row."""
    rows = [*SpendLog.objects.all(), *Adjustment.objects.all()]
    held, provisional = Counter(), Counter()
    for hold in Hold.objects.all():
        sums = provisional if hold.lease_expires_at is None else held
        sums[hold.period_id] += to_nano(hold.amount)
    for period in BudgetPeriod.objects.all():
        counted = [row for row in rows if _counts(period, row)]
        says = {
            "cost": to_nano(period.spent_cost),
            "charge": to_nano(period.spent_charge),
            "held": to_nano(period.held),
            "provisional": to_nano(period.provisional),
        }
        expected = {
            "cost": sum(to_nano(row.cost or 0) for row in counted),
            "charge": sum(to_nano(row.charge or 0) for row in counted),
            "held": held[period.pk],
            "provisional": provisional[period.pk],
        }
        assert says == expected, (str(period), says, expected)
    _check_that_windows_are_covered()


def contains(period: BudgetPeriod, at: datetime) -> bool:
    """Tell whether the row counts a call that started at `at`."""
    return period.counts_from <= at and (period.ends_at is None or at < period.ends_at)


def _counts(period: BudgetPeriod, row: SpendLog | Adjustment) -> bool:
    if not contains(period, row.started_at):
        return False
    if isinstance(row, Adjustment) and period.ends_at and row.booked_at >= period.ends_at:
        return False
    if period.scope and row.model != period.scope:
        return False
    return (period.holder_type, period.holder_id) in set(_behind(row))


def _behind(row: SpendLog | Adjustment) -> Iterable[tuple[str, str]]:
    if isinstance(row, SpendLog) or row.reason != Adjustment.Reason.INITIAL_SPEND:
        yield "gateway", "gateway"
        yield "key", uuid7_text(row.key_id.bytes) if row.key_id else "master"
    elif row.key_id:
        yield "key", uuid7_text(row.key_id.bytes)
    for kind, holder_id in (("team", row.team_id), ("user", row.user_id), ("customer", row.customer_id)):
        if holder_id:
            yield kind, holder_id
    if row.team_id and row.user_id:
        yield "team_member", f"{row.team_id}\n{row.user_id}"
    for tag in row.tags:
        yield "tag", tag


def _check_that_windows_are_covered() -> None:
    """Each instant of a window has exactly one row: generations follow each other without a gap."""
    windows: dict[tuple, list[BudgetPeriod]] = {}
    for period in BudgetPeriod.objects.order_by("generation"):
        key = (period.holder_type, period.holder_id, period.scope, period.window, period.starts_at)
        windows.setdefault(key, []).append(period)
    for generations in windows.values():
        assert [period.generation for period in generations] == list(range(len(generations)))
        assert generations[0].counts_from == generations[0].starts_at
        for before, after in itertools.pairwise(generations):
            assert before.ends_at == after.counts_from
