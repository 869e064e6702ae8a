"""
Alerts under concurrency: each crossing is told exactly once, whoever books it and whatever dies.

Eight processes book the calls of six customers at once; each customer goes over 80 and
over 100 % of its budget. Twelve crossings, twelve alerts, twelve events.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from django.conf import settings
from django.db import connection
from django.test import TransactionTestCase

from billing.booking import ledger
from billing.models import Alert, AlertRule, Event, SpendLog
from customers.money import to_nano
from tests.billing.alerts import Kind, afresh, bodies, make_rule, told
from tests.billing.budgets import admitted, check_the_books, july, period_of, settle

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

PROCESSES, BATCHES = 8, 12
CUSTOMERS = [f"customer-{number}" for number in range(6)]
COST_NANO = 15_000_000  # 8 processes, 12 times $0.015: $1.44 of a budget of $1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one web process")
class ProcessesTests(TransactionTestCase):
    def setUp(self):
        # The hold desk's time limits stay with its connection; emptying all tables takes longer.
        self.addCleanup(connection.close)
        afresh()
        AlertRule.objects.all().delete()
        for threshold in ("0.8", "1"):
            make_rule(Kind.BUDGET, threshold=threshold)

    def test_12_crossings_booked_by_8_processes_are_12_events(self):
        for customer in CUSTOMERS:
            settle(
                admitted((july("customer", customer), "1"), amount_usd="0", customer_id=customer),
                cost_usd="0",
            )

        with started(PROCESSES) as processes:
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in processes:
                self.assertEqual(process.stdout.readline().strip(), "done")

        spent = COST_NANO * BATCHES * PROCESSES
        self.assertEqual(
            [to_nano(period_of(july("customer", each)).spent) for each in CUSTOMERS], [spent] * 6
        )
        expected = {(customer, threshold): 1 for customer in CUSTOMERS for threshold in ("0.8", "1")}
        self.assertEqual(Counter((holder, threshold) for _, holder, threshold in told()), expected)
        self.assertEqual(Event.objects.filter(type__endswith="_crossed").count(), 12)
        self.assertEqual(len({body["id"] for body in bodies()}), 12)
        self.assertEqual(Alert.objects.filter(event_id=None).count(), 0)
        check_the_books()


class CrashTests(TransactionTestCase):
    def setUp(self):
        # The hold desk's time limits stay with its connection; emptying all tables takes longer.
        self.addCleanup(connection.close)
        afresh()
        AlertRule.objects.all().delete()
        make_rule(Kind.BUDGET, threshold="0.8")

    def test_what_was_not_committed_was_not_told_and_is_told_when_it_is(self):
        opened = admitted((july(), "1"), amount_usd="0")
        with (
            mock.patch.object(ledger, "track_spend", side_effect=KeyboardInterrupt),
            self.assertRaises(KeyboardInterrupt),
        ):
            settle(opened, cost_usd="0.9")
        self.assertEqual((SpendLog.objects.count(), Alert.objects.count(), Event.objects.count()), (0, 0, 0))

        settle(opened, cost_usd="0.9")
        settle(admitted((july(), "1"), amount_usd="0"), cost_usd="0.01")

        self.assertEqual(told(), [("threshold_crossed", "acme", "0.8")])
        self.assertEqual(len(bodies()), 1)


@contextmanager
def started(count: int) -> Iterator[list[subprocess.Popen]]:
    """Start processes that are ready to book, and end them."""
    database = settings.DATABASES["default"]
    host, port = database["HOST"] or "127.0.0.1", database["PORT"] or "5432"
    url = f"postgres://{database['USER']}:{database['PASSWORD']}@{host}:{port}/{connection.settings_dict['NAME']}"
    arguments = [
        sys.executable,
        "-m",
        "tests.chaos.support.crossing",
        str(BATCHES),
        str(COST_NANO),
        *CUSTOMERS,
    ]
    processes = [
        subprocess.Popen(
            arguments,
            cwd=Path(settings.BASE_DIR),
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_DATABASE_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()
