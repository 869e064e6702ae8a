"""The statement of the line: it writes what the transaction of `holds.admit` writes, or nothing."""

import random
from unittest import skipUnless

from django.db import connection, transaction
from django.test import TestCase
from psycopg import pq

from billing.budgets.hold_line import _rows
from billing.budgets.hold_statement import ADMIT_TOGETHER, Together
from billing.budgets.holds import Ask, Granted, admit, known_rows
from billing.budgets.periods import KnownPeriods
from billing.models import BudgetPeriod, Hold
from tests.billing.budgets import LEASE_S, all_time, check_the_books, july, make_ask, settle
from tests.billing.making import make_opened

PERIODS = (
    july(),
    july("team", "red"),
    july("team_member", "red\nann"),
    july("customer", "acme", "gpt-4o"),
    all_time("gateway", "gateway"),
    all_time("tag", 'quo"ted, {x} \\ ünïcode'),
)


def by_statement(asks: list[Ask], known: KnownPeriods) -> list[Granted]:
    """Do what the line does, on the connection of the test."""
    rows = known_rows(asks, known)
    together = Together.of(asks, rows, LEASE_S)
    pgconn = connection.connection.pgconn
    result = pgconn.exec_params(
        ADMIT_TOGETHER.encode(), together.parameters, param_formats=[1] * len(together.parameters)
    )
    assert result.status == pq.ExecStatus.TUPLES_OK, result.get_error_message()
    return together.decisions(_rows(result))


def written() -> tuple[list, list]:
    """Return all that a batch writes: the rows of holds and of periods."""
    holds = Hold.objects.order_by("call_id", "period_id")
    fields = [field.name for field in Hold._meta.fields if field.name not in ("id", "lease_expires_at")]
    periods = BudgetPeriod.objects.order_by("pk")
    return list(holds.values_list(*fields)), list(periods.values_list())


@skipUnless(connection.vendor == "postgresql", "the statement is PostgreSQL's")
class StatementTests(TestCase):
    def known(self) -> KnownPeriods:
        """Return periods of which each has spent, holds and knows a limit already."""
        known = KnownPeriods()
        first, second = (
            make_ask(*[(key, "1000") for key in PERIODS], opened=make_opened(customer_id="acme"))
            for _ in range(2)
        )
        opened = make_opened(customer_id="acme", team_id="red", model="gpt-4o")
        admit(
            [first, second, make_ask((july(), "1000"), opened=opened)],
            lease_s=LEASE_S,
            known=known,
        )
        settle(opened)
        return known

    def test_it_writes_what_the_transaction_writes(self):
        known = self.known()
        draw = random.Random(7)
        for size in (1, 2, 9, 60):
            asks = [
                make_ask(
                    *[(key, "900") for key in draw.sample(PERIODS, draw.randint(1, 6))],
                    amount_usd=draw.choice(["0", "0.000000001", "0.25", "1.75"]),
                    opened=make_opened(customer_id="acme", tags=['a "b" \\ c', "ü"] * draw.randint(0, 2)),
                )
                for _ in range(size)
            ]
            with transaction.atomic():
                decisions = admit(asks, lease_s=LEASE_S, known=known)
                expected = written()
                transaction.set_rollback(True)

            granted = by_statement(asks, known)

            self.assertEqual(granted, decisions)
            self.assertEqual(written(), expected)
        leases = Hold.objects.values_list("lease_expires_at", flat=True)
        self.assertLess((max(leases) - min(leases)).total_seconds(), LEASE_S / 2)
        check_the_books()

    def test_what_does_not_fit_as_a_whole_is_not_decided_and_writes_nothing(self):
        known = self.known()
        before = written()
        for asks in (
            [make_ask((july(), "0.25"))],  # spent already
            [make_ask((july(), "1000")), make_ask((july("team", "red"), "0.9"))],
            [make_ask((july(), "1000"), amount_usd="600") for _ in range(2)],
        ):
            self.assertEqual(by_statement(asks, known), [])
            self.assertEqual(written(), before)

    def test_it_fits_to_the_last_nano_and_not_one_more(self):
        known = KnownPeriods()
        admit([make_ask((july(), "1"), amount_usd="0.5")], lease_s=LEASE_S, known=known)

        self.assertEqual(by_statement([make_ask((july(), "1"), amount_usd="0.500000001")], known), [])
        self.assertEqual(len(by_statement([make_ask((july(), "1"), amount_usd="0.5")], known)), 1)

    def test_an_ask_for_units_is_not_for_it(self):
        known = self.known()
        asks = [make_ask((july(), "1000")), make_ask((july(), "1000"), unit_nano=1, max_units=5)]

        self.assertIsNone(Together.of(asks, known_rows(asks, known), LEASE_S))
