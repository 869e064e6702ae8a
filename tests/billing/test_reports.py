"""Reports: the figures of the rollups, by whatever one asks, and never from the log."""

import uuid
from datetime import date, timedelta
from decimal import Decimal

from django.db import connection
from django.test import SimpleTestCase, TestCase
from django.test.utils import CaptureQueriesContext

from billing.books.adjustments import adjust
from billing.models import Adjustment, SpendLog
from billing.models.daily_spend import LATENCY_BOUNDS_MS, LATENCY_BUCKETS
from billing.reporting.reports import (
    BadReport,
    Filters,
    by,
    by_day,
    count,
    grouped,
    in_parts,
    percentile,
    tally,
    totals,
)
from billing.usage import Usage
from tests.billing.making import NOON, book_calls, make_call, nano

DAY = date(2026, 7, 15)
KEY = uuid.UUID(int=5)


def of(start: date = DAY, end: date = DAY, **filters) -> Filters:
    return Filters(start=start, end=end, **filters)


def names(rows) -> list[str]:
    return [row.name for row in rows]


class FigureTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        book_calls(
            make_call(cost_usd="1", customer_id="acme", team_id="red", tags=["a", "b"], key_id=KEY.bytes),
            make_call(
                cost_usd="2", customer_id="acme", model="other", user_id="bob", tags=["b"], client_tool="curl"
            ),
            make_call(
                cost_usd="4", customer_id="beta", closed={"charge_nano": nano("5"), "provider": "anthropic"}
            ),
            make_call(cost_usd="8", at=NOON + timedelta(days=1), closed={"usage": Usage(*range(1, 12))}),
            make_call(cost_usd=None, at=NOON + timedelta(days=2), closed={"usage_source": "partial"}),
            make_call(cost_usd="0", at=NOON + timedelta(days=2), closed={"status": "refused"}),
            make_call(cost_usd="0", at=NOON + timedelta(days=2), closed={"usage_source": "cache"}),
        )

    def test_totals_are_of_the_days_asked_for_both_included(self):
        self.assertEqual(totals(of()).cost, Decimal(7))
        self.assertEqual(totals(of(end=DAY + timedelta(days=1))).cost, Decimal(15))
        self.assertEqual(
            totals(of(start=DAY + timedelta(days=1), end=DAY + timedelta(days=1))).cost, Decimal(8)
        )

    def test_calls_are_counted_by_what_became_of_them(self):
        third = DAY + timedelta(days=2)

        figures = totals(of(third, third))

        self.assertEqual((figures.calls, figures.successful_calls, figures.failed_calls), (3, 2, 1))
        self.assertEqual((figures.unpriced_calls, figures.estimated_calls, figures.cache_hits), (1, 1, 1))

    def test_tokens_are_told_by_bucket(self):
        second = DAY + timedelta(days=1)

        figures = totals(of(second, second))

        self.assertEqual(figures.usage, Usage(*range(1, 12)))

    def test_nothing_is_all_zeros(self):
        figures = totals(of(date(2020, 1, 1), date(2020, 1, 2)))

        self.assertEqual((figures.spend, figures.calls, figures.usage), (0, 0, Usage()))
        self.assertEqual((figures.p50_ms, figures.mean_latency_ms), (None, None))

    def test_customers_are_charged_and_everybody_else_costs(self):
        self.assertEqual(totals(of()).spend, Decimal(7))
        self.assertEqual(totals(of(customers=["acme", "beta"])).spend, Decimal(8))
        self.assertEqual(
            {row.name: row.figures.spend for row in by(of(), "customer")}, {"acme": 3, "beta": 5}
        )

    def test_each_filter_leaves_out_the_rest(self):
        for filters, expected in (
            ({"customers": ["acme"]}, 3),
            ({"customers": ["acme", "beta"]}, 7),
            ({"customers": []}, 0),
            ({"keys": [str(KEY)]}, 1),
            ({"keys": ["master"]}, 6),
            ({"teams": ["red"]}, 1),
            ({"teams": [""]}, 6),
            ({"users": ["bob"]}, 2),
            ({"models": ["gpt-4o"]}, 5),
            ({"providers": ["anthropic"]}, 4),
            ({"client_tools": ["curl"]}, 2),
            ({"dialects": ["openai_chat"]}, 7),
            ({"dialects": ["anthropic_messages"]}, 0),
            ({"tags": ["a"]}, 1),
            ({"customers": ["acme"], "models": ["other"], "tags": ["b"]}, 2),
            ({"without_customers": ["acme"]}, 4),
            ({"without_teams": ["red"]}, 6),
        ):
            with self.subTest(filters=filters):
                self.assertEqual(totals(of(**filters)).cost, Decimal(expected))

    def test_a_call_with_two_of_the_tags_counts_once_in_the_total_and_under_each(self):
        self.assertEqual(totals(of(tags=["a", "b"])).cost, Decimal(3))
        self.assertEqual([(row.name, row.figures.cost) for row in by(of(), "tag")], [("b", 3), ("a", 1)])
        self.assertEqual(names(by(of(tags=["a"]), "tag")), ["a"])
        self.assertEqual(names(by(of(customers=["acme"], users=["bob"]), "tag")), ["b"])

    def test_it_is_told_by_every_dimension(self):
        for dimension, expected in (
            ("day", ["2026-07-15"]),
            ("customer", ["beta", "acme"]),
            ("key", ["master", str(KEY)]),
            ("team", ["", "red"]),
            ("user", ["", "bob"]),
            ("model", ["gpt-4o", "other"]),
            ("provider", ["anthropic", ""]),
            ("upstream_model", [""]),
            ("deployment", [""]),
            ("dialect", ["openai_chat"]),
            ("client_tool", ["", "curl"]),
        ):
            with self.subTest(dimension):
                rows = by(of(), dimension)

                self.assertEqual(names(rows), expected)
                self.assertEqual(sum(row.figures.cost for row in rows), Decimal(7))
                self.assertEqual(count(of(), dimension), len(expected))

    def test_pages_follow_each_other_in_the_order_asked_for(self):
        for order, expected in (
            ("cost", ["beta", "acme"]), ("calls", ["acme", "beta"]), ("total_tokens", ["acme", "beta"]),
            ("name", ["acme", "beta"]), ("failed_calls", ["acme", "beta"]),
        ):  # fmt: skip
            with self.subTest(order):
                pages = [by(of(), "customer", order=order, limit=1, offset=offset) for offset in (0, 1, 2)]

                self.assertEqual([names(page) for page in pages], [[expected[0]], [expected[1]], []])

    def test_days_follow_each_other(self):
        rows = by_day(of(end=DAY + timedelta(days=9)))

        self.assertEqual(
            [(row.day, row.name) for row in rows], [(DAY + timedelta(days=n), None) for n in range(3)]
        )
        self.assertEqual([row.figures.cost for row in rows], [7, 8, 0])

    def test_days_are_told_by_a_group_too(self):
        rows = by_day(of(end=DAY + timedelta(days=1)), "model")

        self.assertEqual(
            [(row.day, row.name, row.figures.cost) for row in rows],
            [(DAY, "gpt-4o", 5), (DAY, "other", 2), (DAY + timedelta(days=1), "gpt-4o", 8)],
        )
        self.assertEqual({row.name for row in by_day(of(), "model", only=1)}, {"gpt-4o"})

    def test_an_adjustment_counts_on_the_day_it_is_booked(self):
        log = SpendLog.objects.get(team_id="red")

        adjust(
            log, cost_nano=nano("0.25"), charge_nano=nano("0.5"), reason=Adjustment.Reason.REPRICING,
            at=NOON + timedelta(days=5),
        )  # fmt: skip

        later = DAY + timedelta(days=5)
        self.assertEqual(totals(of()).cost, Decimal(7))
        figures = totals(of(later, later, tags=["a"], teams=["red"], customers=["acme"]))
        self.assertEqual((figures.cost, figures.charge), (Decimal("-0.75"), Decimal("-0.5")))
        self.assertEqual((figures.calls, figures.usage), (0, Usage()))

    def test_every_report_asks_what_is_closed_then_reads_the_smallest_rollup_and_never_the_log(self):
        for filters, dimension, table in (
            ({}, "model", "billing_dailyoverview"),
            (
                {"teams": ["red"], "keys": ["master"], "client_tools": ["curl"]},
                "provider",
                "billing_dailyoverview",
            ),
            ({"tags": ["a"]}, "model", "billing_dailyspend"),
            ({}, "tag", "billing_dailyspend"),
            ({"customers": ["acme"], "tags": ["a"]}, "model", "billing_dailyspend"),
            ({"users": ["bob"]}, "model", "billing_dailyspend"),
            ({}, "customer", "billing_dailyspend"),
        ):
            for report in (totals, by, by_day, count):
                if report is totals and dimension in ("tag", "customer"):
                    continue
                with CaptureQueriesContext(
                    connection,
                ) as queries:
                    report(of(**filters), *(() if report is totals else (dimension,)))

                *closed, query = queries
                self.assertLessEqual(len(closed), 1)
                self.assertIn(f"{table} ", query["sql"])
                self.assertNotIn("billing_spendlog", query["sql"])

    def test_what_cannot_be_told_is_refused(self):
        for report in (
            lambda: totals(of(start=DAY, end=DAY - timedelta(days=1))),
            lambda: totals(of(keys=["no-uuid"])),
            lambda: by(of(), "colour"),
            lambda: by(of(), "model", order="colour"),
            lambda: by(of(), "model", limit=0),
            lambda: by_day(of(), "day"),
        ):
            with self.assertRaises(BadReport):
                report()

    def test_several_dimensions_at_once_are_the_same_calls(self):
        groups = {group.names: group.tally for group in grouped(of(), ("day", "model", "team"))}

        self.assertEqual(
            {names: sums.cost for names, sums in groups.items()},
            {
                (DAY, "gpt-4o", "red"): nano("1"),
                (DAY, "gpt-4o", ""): nano("4"),
                (DAY, "other", ""): nano("2"),
            },
        )
        self.assertEqual(tally(of(tags=[""])).cost, nano("4"))  # of no tag
        self.assertEqual(tally(of(either_models=["other"])).cost, nano("2"))
        [per_tag] = grouped(of(), (), per_tag=True)
        self.assertEqual(per_tag.tally.cost, nano("4"))  # 1 under each of two tags, 2 under one

    def test_a_report_is_cut_between_days(self):
        whole = of(end=DAY + timedelta(days=9))

        parts = in_parts(whole, most_calls=4)

        self.assertEqual(
            [(part.start, part.end) for part in parts],
            [(DAY, DAY + timedelta(days=1)), (DAY + timedelta(days=2), DAY + timedelta(days=2))],
        )
        self.assertEqual(sum(tally(part).calls for part in parts), tally(whole).calls)

    def test_names_are_values_never_statements(self):
        odd = ["'; DROP TABLE billing_dailyspend; --", '"', "\\", "%s", "{}"]

        self.assertEqual(totals(of(customers=odd, tags=odd, models=odd)).calls, 0)


class PercentileTests(SimpleTestCase):
    def held(self, **calls: int) -> list[int]:
        return [calls.get(name, 0) for name in LATENCY_BUCKETS]

    def test_it_lies_straight_between_the_bounds_of_its_bucket(self):
        latencies = self.held(latency_2=10)  # 100 to 200 ms

        self.assertEqual([percentile(latencies, part) for part in (0.1, 0.5, 1.0)], [110.0, 150.0, 200.0])

    def test_buckets_below_count_for_what_they_hold(self):
        latencies = self.held(latency_0=90, latency_3=10)  # up to 50 ms; 200 to 350 ms

        self.assertEqual(percentile(latencies, 0.5), 50 * 50 / 90)
        self.assertEqual(percentile(latencies, 0.95), 200 + 150 * 0.5)

    def test_what_is_slower_than_all_bounds_is_told_as_the_last(self):
        self.assertEqual(percentile(self.held(latency_15=3), 0.5), LATENCY_BOUNDS_MS[-1])

    def test_nothing_has_none(self):
        self.assertIsNone(percentile(self.held(), 0.5))


class LatencyTests(TestCase):
    def test_of_successful_calls_alone(self):
        for ms, status in ((40, "success"), (60, "success"), (5_000, "failure"), (9_000, "interrupted")):
            call = make_call()
            call.closed.ended_us, call.closed.status = call.opened.started_us + ms * 1000, status
            book_calls(call)

        figures = totals(of())

        self.assertEqual((figures.latencies[:3], sum(figures.latencies)), ((1, 1, 0), 2))
        self.assertEqual((figures.latency_ms_sum, figures.mean_latency_ms), (100, 50.0))
        self.assertEqual((figures.p50_ms, figures.p95_ms), (50.0, 50 + 50 * 0.9))
