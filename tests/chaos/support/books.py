"""
The books after everything has settled, each sum redone by hand from the rows.

Nothing of the product's arithmetic is used: rows are read as they are, and added.
Amounts are whole nano-dollars.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection, transaction

from tests.chaos.support.purchases import customer_of
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess


class Books(NamedTuple):
    """All that the gateway's database says, as dicts with amounts in nano-dollars."""

    logs: list[dict[str, Any]]
    adjustments: list[dict[str, Any]]
    totals: list[dict[str, Any]]
    periods: list[dict[str, Any]]
    holds: list[dict[str, Any]]

    @classmethod
    def read(cls, gateway: GatewayProcess) -> "Books":
        from billing.models import Adjustment, BudgetPeriod, Hold, SpendLog, SpendTotal

        with gateway.orm(), transaction.atomic():
            if connection.vendor == "postgresql":
                # One snapshot: the sweep over leases may settle something between two of these reads.
                with connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            tables = [
                [_in_nano(row) for row in model.objects.order_by("pk").values()]
                for model in (SpendLog, Adjustment, SpendTotal, BudgetPeriod, Hold)
            ]
        return cls(*tables)

    def logs_of(self, customer: str) -> list[dict[str, Any]]:
        return [log for log in self.logs if log["customer_id"] == customer]

    def period_of(self, customer: str) -> dict[str, Any]:
        """Return the customer's one period."""
        [period] = [period for period in self.periods if period["holder_id"] == customer]
        return period

    def assert_agree(self) -> None:
        """Assert that nothing is held any more, and that totals and periods are what rows add up to."""
        assert not self.holds, f"{len(self.holds)} holds are left: {self.holds[:3]}"
        rows = defaultdict(list)
        for row in [*self.logs, *self.adjustments]:
            for holder in _behind(row):
                rows[holder].append(row)
        for total in self.totals:
            holder = (total["holder_type"], total["holder_id"])
            _assert_is_sum(total, "cost", "charge", rows[holder])
            assert total["calls"] == sum("status" in row for row in rows[holder]), holder
        for period in self.periods:
            counted = [
                row for row in rows[period["holder_type"], period["holder_id"]] if _counts(period, row)
            ]
            _assert_is_sum(period, "spent_cost", "spent_charge", counted)
            assert (period["held"], period["provisional"]) == (0, 0), period


def assert_provider_agrees(books: Books, bill: dict[str, Any]) -> None:
    """Assert that rows with the provider's usage have its tokens, and that each billed call is one row."""
    rows = defaultdict(list)
    for log in books.logs:
        rows[log["client_call_id"]].append(log)
    for entry in bill["entries"]:
        name = entry["tag"]
        assert len(rows[name]) == 1, f"{name}: {len(rows[name])} rows for {entry}"
        [row] = rows[name]
        assert row["customer_id"] == customer_of(name)
        if row["usage_source"] == "provider":
            assert row["output_text"] + row["reasoning"] == entry["usage"]["output"], (row, entry)


def settled_books(
    gateway: GatewayProcess, provider: ProviderProcess, *, timeout_s: float = 40, stays_s: float = 0.5
) -> tuple[Books, dict[str, Any]]:
    """Wait until nothing is under way or held and no more is booked; return the books and the bill.

    stays_s: for so long nothing may be booked: longer than adoption takes where workers were killed.
    """
    from billing.models import Hold, SpendLog

    deadline = time.monotonic() + timeout_s
    bill = provider.settled_bill(timeout_s=timeout_s)
    booked, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        with gateway.orm():
            now_booked, held = SpendLog.objects.count(), Hold.objects.count()
        if now_booked != booked or held:
            booked, since = now_booked, time.monotonic()
        elif time.monotonic() - since >= stays_s:
            break
        time.sleep(0.1)
    return Books.read(gateway), bill


def billed_to(bill: dict[str, Any], customer: str) -> list[dict[str, Any]]:
    return [entry for entry in bill["entries"] if customer_of(entry["tag"]) == customer]


def _in_nano(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: int(value.scaleb(9)) if isinstance(value, Decimal) else value for name, value in row.items()
    }


def _behind(row: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "gateway", "gateway"
    yield "key", str(row["key_id"] or "master")
    if row["customer_id"]:
        yield "customer", row["customer_id"]
    assert not (row["team_id"] or row["user_id"] or row["tags"]), "these tests buy for customers alone"


def _counts(period: dict[str, Any], row: dict[str, Any]) -> bool:
    if row["started_at"] < period["counts_from"]:
        return False
    ends_at = period["ends_at"]
    return ends_at is None or (
        row["started_at"] < ends_at and row.get("booked_at", row["started_at"]) < ends_at
    )


def _assert_is_sum(says: dict[str, Any], cost: str, charge: str, rows: list[dict[str, Any]]) -> None:
    sums = (sum(row["cost"] or 0 for row in rows), sum(row["charge"] or 0 for row in rows))
    assert (says[cost], says[charge]) == sums, (says, sums)
