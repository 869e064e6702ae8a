"""Rollups: what bookings and adjustments add to their day's rows."""

import uuid
from datetime import date, timedelta
from decimal import Decimal

from django.core.checks import run_checks
from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from billing.booking import rollups
from billing.books.adjustments import adjust, initial_spend
from billing.installation import installation_id
from billing.models import (
    Adjustment,
    DailyOverview,
    DailySpend,
    Installation,
    SpendLog,
    TagSet,
    TagSetMember,
)
from billing.models.daily_spend import (
    DIMENSIONS,
    LATENCY_BOUNDS_MS,
    LATENCY_BUCKETS,
    MASTER_KEY,
    NO_TAGS,
    SUMS,
    DailySums,
)
from billing.models.ledger_model import WrittenByTheLedger
from billing.usage import Usage
from tests.billing.making import NOON, book_calls, make_call, nano

DAY = date(2026, 7, 15)
KEY = uuid.UUID(int=5)
TABLES = (DailySpend, DailyOverview)


class BookingTests(TestCase):
    def test_a_call_is_in_one_row_of_each_table(self):
        book_calls(
            make_call(
                cost_usd="0.5", key_id=KEY.bytes, team_id="red", user_id="bob", customer_id="acme",
                tags=["a", "b"],
                client_tool="curl",
                closed={
                    "charge_nano": nano("0.75"), "provider": "openai", "upstream_model": "gpt-4o-2024-08-06",
                    "deployment_id": 7, "usage": Usage(*range(1, 12)),
                },
            )
        )  # fmt: skip

        row = DailySpend.objects.get()
        tag_set = TagSet.objects.get()
        self.assertEqual(
            {name: getattr(row, name) for name in DIMENSIONS},
            {
                "day": DAY, "key_id": KEY, "team_id": "red", "user_id": "bob", "customer_id": "acme",
                "model": "gpt-4o", "provider": "openai", "upstream_model": "gpt-4o-2024-08-06",
                "deployment_id": 7, "dialect": "openai_chat", "client_tool": "curl", "tag_set_id": tag_set.pk,
            },
        )  # fmt: skip
        self.assertEqual((row.cost, row.charge), (Decimal("0.5"), Decimal("0.75")))
        self.assertEqual(
            (row.calls, row.failed_calls, row.unpriced_calls, row.usage), (1, 0, 0, Usage(*range(1, 12)))
        )
        self.assertEqual((row.latency_ms_sum, row.latency_7), (1500, 1))  # above 1,000 to 1,500 ms
        self.assertEqual(tag_set.tags, ["a", "b"])
        self.assertEqual(set(TagSetMember.objects.values_list("tag", flat=True)), {"a", "b"})
        overview = DailyOverview.objects.get()
        self.assertEqual([getattr(overview, name) for name in SUMS], [getattr(row, name) for name in SUMS])

    def test_calls_that_differ_in_nothing_add_up(self):
        for _ in range(2):
            book_calls(make_call(cost_usd="0.1"), make_call(cost_usd="0.2"), make_call(cost_usd=None))

        for table in TABLES:
            row = table.objects.get()
            self.assertEqual((row.cost, row.calls, row.unpriced_calls), (Decimal("0.6"), 6, 2))
            self.assertEqual(row.key_id, MASTER_KEY)
        self.assertEqual(DailySpend.objects.get().tag_set_id, NO_TAGS)

    def test_one_that_differs_in_anything_has_a_row_of_its_own(self):
        for fields in (
            {}, {"at": NOON + timedelta(days=1)}, {"customer_id": "acme"}, {"key_id": KEY.bytes},
            {"team_id": "red"}, {"user_id": "bob"}, {"model": "other"}, {"dialect": "anthropic_messages"},
            {"client_tool": "curl"}, {"tags": ["a"]}, {"tags": ["b"]}, {"closed": {"provider": "openai"}},
            {"closed": {"upstream_model": "x"}}, {"closed": {"deployment_id": 3}},
        ):  # fmt: skip
            book_calls(make_call(**fields))

        self.assertEqual(DailySpend.objects.count(), 14)
        self.assertEqual(DailyOverview.objects.count(), 10)

    def test_refused_and_failed_calls_are_calls_that_took_no_time(self):
        for status in ("refused", "failure", "not_sent", "interrupted", "quarantined"):
            book_calls(make_call(cost_usd="0", closed={"status": status}))

        row = DailyOverview.objects.get()
        self.assertEqual((row.calls, row.failed_calls, row.cost), (5, 3, 0))
        self.assertEqual((row.latency_ms_sum, sum(getattr(row, name) for name in LATENCY_BUCKETS)), (0, 0))

    def test_latency_is_counted_in_the_bucket_whose_bound_it_does_not_exceed(self):
        instants = [0, *LATENCY_BOUNDS_MS, *(bound + 1 for bound in LATENCY_BOUNDS_MS)]
        calls = [make_call() for _ in instants]
        for call, ms in zip(calls, instants, strict=True):
            call.closed.ended_us = call.opened.started_us + ms * 1000

        book_calls(*calls)

        row = DailyOverview.objects.get()
        self.assertEqual([getattr(row, name) for name in LATENCY_BUCKETS], [2] * 15 + [1])
        self.assertEqual(row.latency_ms_sum, sum(instants))

    @override_settings(REPORTING_TIME_ZONE="Asia/Kolkata")
    def test_a_day_begins_at_midnight_in_the_reporting_time_zone(self):
        midnight = NOON.replace(hour=18, minute=30)  # in India

        book_calls(make_call(at=midnight - timedelta(milliseconds=1)), make_call(at=midnight))

        self.assertEqual(
            set(DailySpend.objects.values_list("day", flat=True)), {DAY, DAY + timedelta(days=1)}
        )

    def test_rows_of_a_day_are_a_range_of_ids(self):
        book_calls(make_call(), make_call(customer_id="acme"), make_call(at=NOON + timedelta(days=1)))

        for row in DailySpend.objects.all():
            self.assertTrue(row.pk.hex.startswith(f"{row.day:%Y%m%d}"))

    def test_the_number_of_statements_does_not_grow_with_the_calls(self):
        counts = []
        for number in (1, 50):
            calls = [make_call(customer_id=f"c{number}-{n}", tags=[f"t{number}-{n}"]) for n in range(number)]
            with CaptureQueriesContext(connection) as queries:
                book_calls(*calls)
            counts.append(len(queries))

        self.assertEqual(counts[0], counts[1])

    def test_no_form_writes_a_row_back(self):
        book_calls(make_call())

        for table in TABLES:
            with self.assertRaises(WrittenByTheLedger):
                table.objects.get().save()

    def test_every_column_of_the_tables_is_written(self):
        for table, rollup in (
            (DailySpend, rollups.SPEND),
            (DailyOverview, rollups.OVERVIEW),
        ):
            columns = {field.column for field in table._meta.concrete_fields}
            self.assertEqual({"id", *rollup.dimensions, *SUMS}, columns)
            self.assertTrue(issubclass(table, DailySums))


class AdjustmentTests(TestCase):
    def test_it_moves_the_day_it_is_booked_on_and_no_other(self):
        book_calls(make_call(cost_usd="0.5", customer_id="acme", tags=["a"], closed={"provider": "openai"}))
        log = SpendLog.objects.get()

        for _ in range(2):  # which books it once
            adjust(
                log, cost_nano=nano("0.2"), charge_nano=nano("0.9"), reason=Adjustment.Reason.REPRICING,
                at=NOON + timedelta(days=60),
            )  # fmt: skip

        for table in TABLES:
            before, after = table.objects.order_by("day")
            self.assertEqual((before.day, before.cost), (DAY, Decimal("0.5")))
            self.assertEqual(
                (after.day, after.cost, after.charge),
                (DAY + timedelta(days=60), Decimal("-0.3"), Decimal("0.4")),
            )
            self.assertEqual((after.calls, after.usage, after.provider), (0, Usage(), "openai"))

    def test_an_initial_spend_moves_no_day(self):
        initial_spend(customer_id="acme", amount=Decimal(5), at=NOON)

        self.assertFalse(DailySpend.objects.exists())


class TimeZoneTests(TestCase):
    databases = {"default"}

    def problems(self) -> list[str]:
        return [problem.id for problem in run_checks(databases=["default"]) if problem.id == "billing.E002"]

    def test_it_may_be_chosen_until_the_first_call_is_booked(self):
        installation_id()
        with override_settings(REPORTING_TIME_ZONE="Europe/Berlin"):
            self.assertEqual(self.problems(), [])

            installation_id()

        self.assertEqual(Installation.objects.get().reporting_time_zone, "Europe/Berlin")

    def test_then_another_one_is_refused(self):
        installation_id()
        book_calls(make_call())
        self.assertEqual(self.problems(), [])

        with override_settings(REPORTING_TIME_ZONE="Europe/Berlin"):
            installation_id()

            self.assertEqual(self.problems(), ["billing.E002"])

        self.assertEqual(Installation.objects.get().reporting_time_zone, "UTC")


class IdTests(SimpleTestCase):
    def test_what_is_put_together_differently_has_another_id(self):
        keys = [
            ("2026-07-15", "a", "b"),
            ("2026-07-15", "ab", ""),
            ("2026-07-15", "", "ab"),
            ("2026-07-16", "a", "b"),
        ]

        self.assertEqual(len({rollups.row_id(key) for key in keys}), 4)
        self.assertEqual(len({rollups.tag_set_id(tags) for tags in [("a", "b"), ("ab",), ("b", "a"), ()]}), 4)
