"""Summaries: whatever is closed or open, a report tells what the daily rollups say."""

import threading
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import product
from unittest import mock

from django.db import connection, connections
from django.db.models import F, Value
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext

from billing.booking.rollups import summed
from billing.booking.summaries import SUMMARIES, Span, close_days, parts_of, remembered, smallest, spans_from
from billing.books.adjustments import adjust
from billing.books.reconciliation import compare, repair
from billing.models import (
    Adjustment,
    ClosedSpan,
    DailyOverview,
    DailySpend,
    SpendLog,
    SummaryByCustomer,
    SummaryByKey,
)
from billing.models.daily_spend import SUMS
from billing.reporting import reports
from billing.reporting.reports import (
    Filters,
    amounts_by_day,
    by,
    by_day,
    grouped,
    ranked,
    tally,
    totals,
    untagged,
)
from customers.money import UsdField
from tests.billing.making import NOON, book_calls, make_call, nano

FIRST = date(2026, 6, 20)
LAST = date(2026, 8, 10)
NANO = Value(Decimal("0.000000001"), UsdField())
AFTER = datetime(2026, 8, 12, 3, tzinfo=NOON.tzinfo)  # LAST + 1 has no calls, and is over


def at_noon(day: date) -> datetime:
    return NOON.replace(year=day.year, month=day.month, day=day.day)


def book_a_season() -> None:
    """Book calls of all kinds on most days of three months, all different amounts."""
    calls = []
    for number in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=number)
        if day.day == 13:
            continue  # a day without calls
        for which in range(3):
            calls.append(
                make_call(
                    at=at_noon(day),
                    cost_usd=None if number % 11 == 5 else str(Decimal(3**which + number) / 1000),
                    customer_id=("", "acme", f"c{number % 7}")[which] or None,
                    user_id=("bob", None, "ada")[(number + which) % 3],
                    team_id=("red", None)[which % 2],
                    key_id=None if which else uuid.UUID(int=1 + number % 2).bytes,
                    model=("gpt-4o", "other")[number % 2],
                    tags=[[], ["a"], ["a", "b"]][(number + which) % 3],
                    client_tool=("", "curl")[which % 2],
                    closed={"charge_nano": nano("0.5"), "provider": ("openai", "")[which % 2]},
                )
            )
    book_calls(*calls)


def of(start: date = FIRST, end: date = LAST, **filters) -> Filters:
    return Filters(start=start, end=end, **filters)


def told() -> list:
    """Return what every kind of report says, over ranges that begin and end anywhere."""
    ranges = [
        (FIRST, LAST), (date(2026, 7, 1), date(2026, 7, 31)), (date(2026, 6, 23), date(2026, 7, 22)),
        (date(2026, 7, 17), date(2026, 7, 17)),
    ]  # fmt: skip
    filters = [
        {}, {"customers": ["acme", ""]}, {"without_customers": ["acme"]}, {"users": ["bob"]}, {"users": [""]},
        {"tags": ["a"]}, {"tags": [""]}, {"models": ["other"], "teams": ["red"]}, {"keys": ["master"]},
        {"client_tools": ["curl"], "tags": ["b"]}, {"customers": ["acme"], "models": ["gpt-4o"]},
    ]  # fmt: skip
    found = []
    for (start, end), chosen in product(ranges, filters):
        asked = of(start, end, **chosen)
        found += [totals(asked), by_day(asked), untagged(asked) if "tags" not in chosen else None]
        for dimension in (
            "customer",
            "user",
            "key",
            "team",
            "model",
            "provider",
            "client_tool",
            "tag",
            "day",
        ):
            found.append(by(asked, dimension))
        for dimension in ("customer", "user", "tag", "key"):
            found.append(ranked(asked, dimension, order="charge", limit=3, offset=1))
            found.append(amounts_by_day(asked, dimension))
        found.append(by_day(asked, "customer"))
        found.append(sorted(grouped(asked, ("tag", "user"))))
        found.append(sorted(grouped(asked, ("day", "team", "model", "upstream_model", "key"))))
        found.append(sorted(grouped(asked, ("model", "provider"), per_tag=True)))
    return found


class SpanTests(SimpleTestCase):
    def test_spans_are_of_one_month_and_nest(self):
        for year, month, days in ((2026, 2, 28), (2028, 2, 29), (2026, 4, 30), (2026, 7, 31)):
            first = date(year, month, 1)
            spans = [span for n in range(days) for span in spans_from(first + timedelta(days=n))]

            self.assertEqual(len({span.id for span in spans}), len(spans))
            for length in (1, 4, 16, days):
                of_length = [span for span in spans if span.days == length]
                self.assertEqual(len(of_length), days // length)
            self.assertTrue(all(span.last_day.month == month for span in spans))
            for one, other in product(spans, spans):
                apart = one.last_day < other.day or other.last_day < one.day
                inside = other.day <= one.day and one.last_day <= other.last_day
                contains = one.day <= other.day and other.last_day <= one.last_day
                self.assertTrue(apart or inside or contains, (one, other))

    def test_each_column_of_a_rollup_is_in_some_summary(self):
        for columns, summary in (
            (set(), "billing_summarybymodel"),
            ({"day", "model"}, "billing_summarybymodel"),
            ({"key_id", "model"}, "billing_summarybykey"),
            ({"tag_set_id"}, "billing_summarybytags"),
            ({"tag_set_id", "model"}, "billing_summarybytagsandmodel"),
            ({"user_id"}, "billing_summarybyuser"),
            ({"user_id", "tag_set_id"}, "billing_summarybytagsanduser"),
            ({"user_id", "provider"}, "billing_summarybyuserandmodel"),
            ({"user_id", "deployment_id"}, "billing_summarywithoutcustomer"),
            ({"customer_id"}, "billing_summarybycustomer"),
            ({"customer_id", "model"}, "billing_summarybycustomerandmodel"),
            ({"customer_id", "client_tool"}, "billing_summarybycaller"),
        ):
            self.assertEqual(smallest(columns).table, summary)
        self.assertIsNone(smallest({"customer_id", "key_id", "model"}))


class ReportTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        book_a_season()

    def test_reports_say_the_same_whatever_is_closed(self):
        all_open = told()

        close_days(at=AFTER)
        self.assert_same(told(), all_open)

        for number, span in enumerate(ClosedSpan.objects.order_by("pk")):
            if number % 3 == 0:
                span.delete()
        self.assert_same(told(), all_open)

    def assert_same(self, found: list, expected: list) -> None:
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:  # a difference of everything at once takes minutes to be written
                self.assertEqual(one, other, f"report {number}")

    def test_the_customers_charged_most_are_the_same_without_adding_up_all(self):
        asked = [of(), of(date(2026, 7, 1), date(2026, 7, 31)), of(date(2026, 6, 23), LAST)]

        def charged_most() -> list:
            ranks = [ranked(each, "customer", order="charge", limit=2, offset=n).names
                     for each in asked for n in range(5)]  # fmt: skip
            return [*ranks, *(by(each, "customer", limit=n) for each in asked for n in (1, 3, 20))]

        expected = charged_most()
        close_days(at=AFTER)
        ClosedSpan.objects.filter(day__lte=date(2026, 7, 25), last_day__gte=date(2026, 7, 25)).delete()
        for many, most in ((1, 20_000), (1, 2), (1_000_000, 20_000)):
            with mock.patch.multiple(reports, _MANY_ROWS=many, _MOST_TRIED=most, _FIRST_TRIED=2):
                self.assertEqual(charged_most(), expected)
        with mock.patch.object(reports, "_MANY_ROWS", 1):
            page = ranked(of(), "customer", order="charge", limit=2, offset=1)
            if connection.vendor == "postgresql":
                self.assertEqual((page.of, page.has_more), (None, True))
            self.assertIsNotNone(ranked(of(), "customer", order="charge", limit=2, offset=100).of)

    def test_a_long_report_reads_a_few_spans(self):
        close_days(at=AFTER)

        parts = parts_of(date(2026, 6, 28), LAST, by_day=False)

        expected = [
            Span(date(2026, 6, 28), 1), Span(date(2026, 6, 29), 2), Span(date(2026, 7, 1), 31),
            Span(date(2026, 8, 1), 4), Span(date(2026, 8, 5), 4), Span(date(2026, 8, 9), 1),
            Span(date(2026, 8, 10), 1),
        ]  # fmt: skip
        self.assertEqual((parts.spans, parts.open), ([span.id for span in expected], []))
        days = parts_of(date(2026, 6, 28), LAST, by_day=True)
        self.assertEqual(len(days.spans), (LAST - date(2026, 6, 28)).days + 1)

    def test_days_before_and_behind_all_that_is_closed_are_one_range_each(self):
        close_days(at=AFTER)
        first = ClosedSpan.objects.order_by("day")[0].day
        last = ClosedSpan.objects.order_by("-last_day")[0].last_day
        before, behind = first - timedelta(days=1), last + timedelta(days=1)

        whole = parts_of(date(1971, 1, 1), date(9000, 1, 1), by_day=True)

        self.assertEqual(whole.open, [(date(1971, 1, 1), before), (behind, date(9000, 1, 1))])
        self.assertEqual(len(whole.spans), (last - first).days + 1)
        for start, end in ((date(1971, 1, 1), before), (behind, date(9000, 1, 1))):
            with remembered():
                parts_of(date(1971, 1, 1), date(9000, 1, 1), by_day=True)
                self.assertEqual(parts_of(start, end, by_day=True), ([], [(start, end)]))

    def test_neither_the_log_nor_closed_days_are_read(self):
        close_days(at=AFTER)

        with CaptureQueriesContext(connection) as queries:
            by(of(), "customer")

        statements = " ".join(query["sql"] for query in queries)
        self.assertIn("billing_summarybycustomer", statements)
        self.assertNotIn("billing_dailyspend", statements)
        self.assertNotIn("billing_spendlog", statements)


class ClosingTests(TestCase):
    def test_days_that_are_not_over_stay_open(self):
        book_calls(make_call(at=at_noon(LAST)), make_call(at=at_noon(LAST + timedelta(days=1))))
        for hours, closed in ((12, 0), (24 + 0, 0), (24 + 2, 1), (48 + 2, 2)):
            close_days(at=at_noon(LAST) - timedelta(hours=12) + timedelta(hours=hours))

            self.assertEqual(ClosedSpan.objects.filter(day=F("last_day")).count(), closed)

    @override_settings(REPORTING_TIME_ZONE="Pacific/Auckland")
    def test_a_day_is_over_where_the_reports_are(self):
        book_calls(make_call(at=NOON))  # past midnight there: of the 16th
        close_days(at=NOON + timedelta(hours=12))
        self.assertEqual(ClosedSpan.objects.count(), 0)

        close_days(at=NOON + timedelta(hours=26))

        self.assertEqual([str(span) for span in ClosedSpan.objects.all()], ["2026-07-16 to 2026-07-16"])

    def test_nothing_to_close_is_nothing(self):
        self.assertEqual(close_days(at=AFTER), 0)
        book_calls(make_call())
        self.assertGreater(close_days(at=AFTER), 0)
        self.assertEqual(close_days(at=AFTER), 0)

    def test_what_is_booked_into_a_closed_day_is_told_at_once(self):
        book_calls(make_call(cost_usd="1", customer_id="acme"), make_call(at=at_noon(date(2026, 6, 30))))
        close_days(at=AFTER)
        july = of(date(2026, 7, 1), date(2026, 7, 31))
        self.assertEqual(
            ClosedSpan.objects.filter(day__lte=NOON.date(), last_day__gte=NOON.date()).count(), 4
        )

        book_calls(make_call(cost_usd="2", customer_id="acme"))

        self.assertEqual(totals(july).cost, 3)
        self.assertEqual(by(july, "customer")[0].figures.cost, 3)
        self.assertFalse(ClosedSpan.objects.filter(day__lte=NOON.date(), last_day__gte=NOON.date()).exists())
        close_days(at=AFTER)
        self.assertEqual(by(july, "customer")[0].figures.cost, 3)
        self.assertEqual(SummaryByCustomer.objects.filter(span=Span(NOON.date(), 1).id).count(), 1)
        self.assertEqual(compare(at=AFTER).differences, 0)

    def test_an_adjustment_opens_the_day_it_is_booked_on_and_no_other(self):
        book_calls(make_call(cost_usd="1"), make_call(at=NOON + timedelta(days=8)))
        close_days(at=AFTER)
        adjust(
            SpendLog.objects.earliest("pk"), cost_nano=nano("1.5"), charge_nano=nano("1.5"),
            reason=Adjustment.Reason.REPRICING, at=NOON + timedelta(days=8),
        )  # fmt: skip

        days = set(ClosedSpan.objects.filter(day=F("last_day")).values_list("day", flat=True))

        self.assertIn(NOON.date(), days)
        self.assertNotIn(NOON.date() + timedelta(days=8), days)
        self.assertEqual(tally(of(end=LAST)).cost, nano("2"))


class ReconcilingTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        book_a_season()
        close_days(at=AFTER)

    def test_closed_spans_are_compared_row_by_row(self):
        self.assertEqual(compare(at=AFTER).differences, 0)
        for span in (Span(date(2026, 7, 15), 1), Span(date(2026, 7, 1), 31)):
            row = SummaryByKey.objects.filter(span=span.id).first()
            SummaryByKey.objects.filter(pk=row.pk).update(charge=F("charge") + NANO)

            found = compare(at=AFTER)

            # A day that is wrong makes the longer spans of it differ from their days.
            self.assertGreaterEqual(found.differences, 1)
            self.assertEqual({example.column for example in found.examples}, {"charge"})
            repair(at=AFTER, progress=lambda *_: None)
            self.assertEqual(compare(at=AFTER).differences, 0)
            close_days(at=AFTER)
            self.assertEqual(compare(at=AFTER).differences, 0)

    def test_a_rollup_that_is_repaired_opens_its_days(self):
        row = DailySpend.objects.filter(day=NOON.date(), customer_id="acme").get()
        DailySpend.objects.filter(pk=row.pk).update(cost=F("cost") + NANO)
        ClosedSpan.objects.all().delete()
        close_days(at=AFTER)  # so that what is closed is as wrong as the day
        day = of(NOON.date(), NOON.date(), customers=["acme"])
        wrong = totals(day).cost

        repair(at=AFTER, progress=lambda *_: None)

        self.assertEqual(totals(day).cost, wrong - Decimal("0.000000001"))
        self.assertEqual(compare(at=AFTER).differences, 0)

    def test_every_sum_is_in_every_summary(self):
        for summary in SUMMARIES:
            with connection.cursor() as cursor:
                listed = ", ".join(map(summed, SUMS))
                days = [Span(day, 1).id for day in _days()]
                marks = ", ".join(["%s"] * len(days))
                cursor.execute(f"SELECT {listed} FROM {summary.table} WHERE span IN ({marks})", days)
                found = cursor.fetchone()
                cursor.execute(f"SELECT {listed} FROM {DailyOverview._meta.db_table}")
                self.assertEqual(found, cursor.fetchone(), summary.table)


def _days() -> list[date]:
    return [FIRST + timedelta(days=number) for number in range((LAST - FIRST).days + 1)]


class TogetherTests(TransactionTestCase):
    def test_closing_and_late_bookings_at_once_lose_nothing(self):
        book_calls(make_call(customer_id="acme"))
        stop, errors = threading.Event(), []

        def book_on() -> None:
            try:
                for number in range(60):
                    book_calls(make_call(customer_id="acme", at=NOON - timedelta(days=number % 2)))
            except Exception as error:
                errors.append(error)
            finally:
                stop.set()
                connections.close_all()

        thread = threading.Thread(target=book_on)
        thread.start()
        while not stop.is_set():
            close_days(at=AFTER)
            thread.join()
        close_days(at=AFTER)

        self.assertEqual(errors, [])
        self.assertEqual(tally(of()).calls, 61)
        self.assertEqual(by(of(), "customer")[0].figures.calls, 61)
        self.assertEqual(compare(at=AFTER).differences, 0)
