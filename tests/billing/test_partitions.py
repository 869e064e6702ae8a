"""Monthly partitions of the spend log on PostgreSQL; the plain table elsewhere."""

import logging
from datetime import UTC, datetime, timedelta
from unittest import skipIf, skipUnless

from django.db import connection
from django.test import SimpleTestCase, TestCase

from billing.booking.partitions import ensure_partitions, month_start, next_month, partition_name
from billing.models import SpendLog
from tests.billing.making import book_calls, make_call

POSTGRESQL = connection.vendor == "postgresql"
JANUARY = datetime(2031, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2031, 2, 1, tzinfo=UTC)
MARCH = datetime(2031, 3, 1, tzinfo=UTC)


class MonthTests(SimpleTestCase):
    def test_a_month_begins_at_its_first_instant_in_utc(self):
        tokyo = datetime.fromisoformat("2031-02-01T08:59:59+09:00")  # still January in UTC

        self.assertEqual(month_start(tokyo), JANUARY)
        self.assertEqual(month_start(FEBRUARY), FEBRUARY)
        self.assertEqual(month_start(FEBRUARY - timedelta(microseconds=1)), JANUARY)

    def test_december_is_followed_by_january(self):
        self.assertEqual(next_month(datetime(2030, 12, 1, tzinfo=UTC)), JANUARY)
        self.assertEqual(next_month(JANUARY), FEBRUARY)


@skipUnless(POSTGRESQL, "partitions are PostgreSQL's; SQLite keeps one plain table")
class PartitionTests(TestCase):
    def test_this_month_and_the_next_get_a_partition(self):
        before = partitions()

        ensure_partitions(at=JANUARY + timedelta(days=14))

        self.assertEqual(partitions() - before, {"billing_spendlog_2031_01", "billing_spendlog_2031_02"})

    def test_making_them_twice_is_as_good_as_once(self):
        ensure_partitions(at=JANUARY)
        before = partitions()

        ensure_partitions(at=JANUARY)
        with self.assertNumQueries(2):  # one look per month, nothing made
            ensure_partitions(at=JANUARY)

        self.assertEqual(partitions(), before)

    def test_rows_land_in_the_month_they_started_in(self):
        ensure_partitions(at=JANUARY)
        millisecond = timedelta(milliseconds=1)

        for at in (JANUARY, FEBRUARY - millisecond, FEBRUARY, MARCH - millisecond):
            book_calls(make_call(at=at))

        self.assertEqual(
            homes(),
            {
                JANUARY: "billing_spendlog_2031_01",
                FEBRUARY - millisecond: "billing_spendlog_2031_01",
                FEBRUARY: "billing_spendlog_2031_02",
                MARCH - millisecond: "billing_spendlog_2031_02",
            },
        )

    def test_rows_of_a_month_without_a_partition_land_in_the_default_one(self):
        ensure_partitions(at=JANUARY)

        for at in (JANUARY - timedelta(milliseconds=1), MARCH):
            book_calls(make_call(at=at))

        self.assertEqual(set(homes().values()), {"billing_spendlog_default"})

    def test_a_month_that_began_in_the_default_partition_stays_there(self):
        book_calls(make_call(at=JANUARY))

        with self.assertLogs("billing.booking.partitions", logging.WARNING) as logs:
            ensure_partitions(at=JANUARY)
        book_calls(make_call(at=JANUARY + timedelta(days=1)), make_call(at=FEBRUARY))

        self.assertIn("billing_spendlog_2031_01", logs.output[0])
        self.assertEqual(
            list(homes().values()), ["billing_spendlog_default"] * 2 + ["billing_spendlog_2031_02"]
        )

    def test_a_query_by_time_reads_only_its_months(self):
        ensure_partitions(at=JANUARY)
        january = SpendLog.objects.started_between(JANUARY, FEBRUARY)

        plan = january.explain()

        self.assertIn("billing_spendlog_2031_01", plan)
        self.assertNotIn("billing_spendlog_2031_02", plan)

    def test_every_partition_has_the_indexes_of_the_table(self):
        ensure_partitions(at=JANUARY)

        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_indexes WHERE tablename = %s", [partition_name(JANUARY)])
            count = cursor.fetchone()[0]

        self.assertEqual(count, len(SpendLog._meta.indexes) + 2)  # the primary key, and the tags' own


@skipIf(POSTGRESQL, "SQLite's side of it")
class PlainTableTests(TestCase):
    def test_there_is_nothing_to_make(self):
        with self.assertNumQueries(0):
            ensure_partitions(at=JANUARY)

    def test_rows_of_every_month_are_found_by_time(self):
        for at in (JANUARY, FEBRUARY - timedelta(milliseconds=1), FEBRUARY):
            book_calls(make_call(at=at))

        found = SpendLog.objects.started_between(JANUARY, FEBRUARY)

        self.assertEqual(found.count(), 2)


def partitions() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing_spendlog'::regclass"
        )
        return {name for (name,) in cursor.fetchall()}


def homes() -> dict[datetime, str]:
    """Return where each row is, in the order of time."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT started_at, tableoid::regclass::text FROM billing_spendlog ORDER BY id")
        return dict(cursor.fetchall())
