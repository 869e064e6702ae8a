"""Reconciliation: nothing differs, whatever was booked; the smallest drift is found, named and repaired."""

import json
import threading
import uuid
from datetime import date, timedelta
from decimal import Decimal
from io import StringIO
from unittest import mock

from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models import F, Value
from django.db.models.functions import Coalesce
from django.test import TestCase, TransactionTestCase, override_settings

from billing.booking.ledger import quarantined
from billing.booking.summaries import SUMMARIES, close_days
from billing.books.adjustments import adjust, initial_spend
from billing.books.reconciliation import MONEY, AlreadyRepairing, alone, compare, repair
from billing.books.sealed import days_of_month
from billing.budgets.periods import ensure_periods, start_afresh
from billing.models import (
    Adjustment,
    BudgetPeriod,
    DailyOverview,
    DailySpend,
    ReconcileRun,
    SpendLog,
    SpendTotal,
    TagSet,
    TagSetMember,
)
from billing.models.daily_spend import DIMENSIONS, SUMS
from billing.tasks import reconcile
from billing.usage import Usage
from customers.money import UsdField
from tests.billing.budgets import admitted, all_time, july, settle
from tests.billing.making import NOON, book_calls, make_call, nano

KEY = uuid.UUID(int=5)
NANO = Value(Decimal("0.000000001"), UsdField())
REASON = Adjustment.Reason.REPRICING


def book_all_kinds() -> None:
    """Book something of everything that a log can hold, under periods of every type of holder."""
    holders = (
        ("gateway", "gateway"), ("key", str(KEY)), ("key", "master"), ("team", "red"), ("user", "bob"),
        ("team_member", "red\nbob"), ("customer", "acme"), ("tag", "a"), ("tag", "ü \"'\\"),
    )  # fmt: skip
    keys = [july(*holder) for holder in holders] + [july(scope="gpt-4o"), all_time("gateway", "gateway")]
    book_calls(make_call(customer_id="acme", cost_usd="1"))  # before there is any period
    ensure_periods(keys)
    everyone = {"key_id": KEY.bytes, "team_id": "red", "user_id": "bob", "customer_id": "acme"}
    book_calls(
        make_call(**everyone, tags=["a", "b"], client_tool="curl"),
        make_call(**everyone, tags=["b", "a"], model="other", closed={"usage": Usage(*range(1, 12))}),
        make_call(**everyone, tags=["ü \"'\\"], closed={"usage_source": "partial"}),
        make_call(cost_usd=None, customer_id="acme", tags=["a"]),
        make_call(cost_usd="0", closed={"status": "refused", "usage_source": "none", "usage": Usage()}),
        make_call(cost_usd="0.1", customer_id="new", closed={"status": "failure", "deployment_id": 3}),
        make_call(cost_usd="0", closed={"status": "not_sent"}),
        make_call(cost_usd="0.3", closed={"status": "interrupted", "usage_source": "estimated"}),
        make_call(cost_usd="0", closed={"usage_source": "cache"}),
        make_call(at=NOON - timedelta(days=20), **everyone),
        make_call(at=NOON.replace(hour=23, minute=59, second=59, microsecond=999_999), **everyone),
        make_call(customer_id="acme", closed={"charge_nano": nano("0.75")}),
        quarantined(make_call(cost_usd="2", **everyone), "too long"),
        *[
            make_call(closed={"ended_us": int(NOON.timestamp() * 1e6) + ms * 1000})
            for ms in (0, 50, 51, 90_000, 90_001)
        ],
    )
    settle(admitted((july(), "50")), cost_usd="0.2")
    for log in SpendLog.objects.filter(customer_id="acme"):
        adjust(
            log, cost_nano=nano("0.7"), charge_nano=nano("0.8"), reason=REASON, at=NOON + timedelta(days=1)
        )
    start_afresh([july(), july("gateway", "gateway")], at=NOON + timedelta(days=2))
    adjust(SpendLog.objects.first(), cost_nano=5, charge_nano=5, reason=REASON, at=NOON + timedelta(days=40))
    initial_spend(customer_id="acme", amount=Decimal("12"), at=NOON)
    initial_spend(key_id=KEY, amount=Decimal("13"), at=NOON + timedelta(days=3))


def told(table: str, differences: list) -> list[tuple[str, str]]:
    return [(each.column, each.off_by) for each in differences if each.table == table]


def repaired() -> None:
    repair(at=NOON, progress=lambda table, done, rows: None)


class NothingDiffersTests(TestCase):
    def test_after_something_of_everything_was_booked(self):
        book_all_kinds()

        found = compare(at=NOON)

        self.assertEqual((found.differences, found.examples), (0, []))
        rows = SpendLog.objects.count() + Adjustment.objects.count()
        for model in (
            SpendTotal,
            BudgetPeriod,
            DailySpend,
            DailyOverview,
            TagSet,
            TagSetMember,
        ):
            self.assertGreater(model.objects.count(), 0)
            rows += model.objects.count()
        self.assertEqual(found.rows_compared, rows)

    @override_settings(REPORTING_TIME_ZONE="America/New_York")
    def test_in_a_time_zone_with_days_of_23_and_25_hours(self):
        for month, day in ((3, 8), (11, 1)):
            for hour in range(0, 24):
                for minute in (0, 59):
                    at = NOON.replace(month=month, day=day, hour=hour, minute=minute)
                    book_calls(make_call(at=at), make_call(at=at + timedelta(days=1)))

        self.assertEqual(compare(at=NOON).differences, 0)
        self.assertEqual(DailySpend.objects.count(), 6)

    def test_on_an_empty_database(self):
        self.assertEqual(compare(at=NOON).differences, 0)

    def test_comparing_again_needs_no_clearing_up(self):
        book_all_kinds()

        self.assertEqual([compare(at=NOON).differences for _ in range(2)], [0, 0])


class DriftTests(TestCase):
    def setUp(self):
        book_all_kinds()

    def test_a_nano_dollar_too_much_is_found_named_and_repaired(self):
        for name, table, column in (
            ("daily spend", DailySpend, "cost"),
            ("daily overview", DailyOverview, "cost"),
            ("spend totals", SpendTotal, "charge"),
            ("budget periods", BudgetPeriod, "spent_charge"),
        ):
            with self.subTest(name):
                row = table.objects.order_by("pk").last()
                table.objects.filter(pk=row.pk).update(**{column: F(column) + NANO})

                found = compare(at=NOON)
                repaired()

                self.assertEqual(found.differing[name], found.differences)
                self.assertEqual(told(name, found.examples), [(column, "0.000000001")])
                self.assertEqual(compare(at=NOON).differences, 0)
                self.assertEqual(getattr(table.objects.get(pk=row.pk), column), getattr(row, column))

    def test_a_drift_is_found_and_repaired_in_every_column_of_every_table(self):
        totals = (*MONEY[:2], "calls", "failed_calls", "unpriced_calls", "prompt_tokens", "completion_tokens")
        for table, columns in (
            (DailySpend, SUMS),
            (DailyOverview, SUMS),
            (SpendTotal, totals),
            (BudgetPeriod, MONEY[2:]),
            *((apps.get_model("billing", each.table.removeprefix("billing_")), SUMS) for each in SUMMARIES),
        ):
            close_days(at=NOON + timedelta(days=90))  # a repair of a day opens it
            row = table.objects.order_by("pk").last()
            table.objects.filter(pk=row.pk).update(
                # Summaries have null for 0.
                **{name: F(name) + NANO if name in MONEY else Coalesce(F(name), 0) + 1 for name in columns}
            )

            with mock.patch("billing.books.reconciliation.EXAMPLES", 1000):
                found = compare(at=NOON)
            repaired()

            self.assertLessEqual(set(columns), {each.column for each in found.examples}, table)
            self.assertEqual(compare(at=NOON).differences, 0, table)

    def test_dimensions_that_drift_are_found_and_repaired(self):
        for table, column, value in (
            *(
                (DailySpend, name, "x")
                for name in DIMENSIONS
                if not name.endswith(("day", "key_id", "set_id"))
            ),
            (DailySpend, "day", date(2026, 7, 3)),
            (DailySpend, "key_id", uuid.UUID(int=77)),
            (DailySpend, "tag_set_id", uuid.UUID(int=77)),
            (SpendTotal, "holder_id", "x"),
            (TagSetMember, "tag", "x"),
            (TagSetMember, "tag_set_id", uuid.UUID(int=77)),
            (TagSet, "tags", ["x"]),
        ):
            value = 77 if column == "deployment_id" else value
            row = table.objects.order_by("pk").last()
            table.objects.filter(pk=row.pk).update(**{column: value})

            self.assertGreater(compare(at=NOON).differences, 0, (table, column))
            table.objects.filter(pk=row.pk).update(**{column: getattr(row, column)})
            self.assertEqual(compare(at=NOON).differences, 0, (table, column))

    def test_tags_that_drift_are_repaired(self):
        TagSetMember.objects.create(tag_set=TagSet.objects.first(), tag="never")
        TagSetMember.objects.create(tag_set_id=uuid.UUID(int=77), tag="never")
        TagSet.objects.filter(pk=TagSet.objects.last().pk).update(tags=["x"])

        found = compare(at=NOON)
        repaired()

        self.assertEqual(found.differing["tags of no set"], 2)
        self.assertEqual(found.differing["sets of tags"], 1)
        self.assertEqual(compare(at=NOON).differences, 0)

    def test_another_instant_of_the_last_call_is_found_and_repaired(self):
        for wrong in (NOON + timedelta(days=99), NOON - timedelta(days=99), None):
            SpendTotal.objects.filter(holder_id="acme").update(last_call_at=wrong)

            [difference] = compare(at=NOON).examples
            repaired()

            self.assertEqual((difference.column, difference.off_by), ("last_call_at", "another instant"))
            self.assertEqual(compare(at=NOON).differences, 0)

    def test_a_month_is_compared_and_repaired_alone(self):
        DailyOverview.objects.filter(day="2026-06-25").update(calls=F("calls") + 1)
        BudgetPeriod.objects.filter(ends_at=None).update(spent_cost=F("spent_cost") + NANO)

        july, june = (days_of_month(date(2026, month, 1)) for month in (7, 6))
        found = [compare(at=NOON, days=days).differences for days in (july, june)]
        repair(at=NOON, progress=lambda what, done, rows: None, days=june)

        self.assertEqual(found, [0, 1])
        self.assertEqual(compare(at=NOON, days=june).differences, 0)
        self.assertEqual(set(compare(at=NOON).differing.values()), {0, 1})  # the period that never ends

    def test_a_row_of_a_customer_is_named(self):
        row = DailySpend.objects.filter(customer_id="new").get()
        DailySpend.objects.filter(pk=row.pk).update(cost=F("cost") - NANO)

        [difference] = compare(at=NOON).examples

        self.assertIn("2026-07-15", difference.row)
        self.assertIn("customer_id=new", difference.row)
        self.assertEqual(difference.off_by, "-0.000000001")

    def test_everything_that_was_lost_is_made_again(self):
        tables = (DailySpend, DailyOverview, TagSet, TagSetMember, SpendTotal)
        before = [_rows(table) for table in tables]
        for table in tables:
            table.objects.all().delete()
        BudgetPeriod.objects.update(spent_cost=0, spent_charge=0)

        repaired()

        self.assertEqual([_rows(table) for table in tables], before)
        self.assertEqual(compare(at=NOON).differences, 0)

    def test_rows_that_no_log_is_behind_become_nothing(self):
        DailyOverview.objects.bulk_create([_another_model(DailyOverview.objects.first())])

        found = compare(at=NOON)
        repaired()

        self.assertEqual(found.differing["daily overview"], 1)
        self.assertEqual(compare(at=NOON).differences, 0)

    def test_what_is_booked_after_the_comparison_is_not_added_twice(self):
        DailyOverview.objects.update(cost=F("cost") + NANO)
        late = []

        def book_meanwhile(what: str, done: int, rows: int) -> None:
            if what.startswith("log"):
                return  # the snapshot, which is this test's transaction
            late.append(what)
            book_calls(make_call(customer_id="acme", tags=["a"]))

        repair(at=NOON, progress=book_meanwhile)

        self.assertEqual(late, ["daily overview: repaired"])
        self.assertEqual(compare(at=NOON).differences, 0)


class CommandTests(TestCase):
    def test_it_says_that_nothing_differs_and_keeps_the_result(self):
        book_all_kinds()
        output = StringIO()

        call_command("reconcile", stdout=output)

        self.assertIn("0 differences", output.getvalue())
        run = ReconcileRun.objects.get()
        self.assertEqual((run.differences, run.repaired, run.examples), (0, False, []))

    def test_it_exits_with_1_and_a_table_of_what_differs(self):
        book_calls(make_call(customer_id="acme"))
        SpendTotal.objects.filter(holder_type="customer").update(cost=F("cost") + NANO)
        output = StringIO()

        with self.assertRaises(SystemExit) as stopped:
            call_command("reconcile", stdout=output)

        self.assertEqual(stopped.exception.code, 1)
        self.assertRegex(output.getvalue(), r"spend totals +cost +0\.000000001  customer acme")
        self.assertEqual(ReconcileRun.objects.get().examples[0]["row"], "customer acme")

    def test_a_repair_ends_with_nothing_that_differs(self):
        book_all_kinds()
        DailySpend.objects.all().delete()
        output = StringIO()

        call_command("reconcile", "--repair", stdout=output)

        self.assertRegex(output.getvalue(), r"daily spend: repaired +[\d,]+ of")
        self.assertIn("0 differences", output.getvalue())
        self.assertTrue(ReconcileRun.objects.get().repaired)

    def test_a_month_is_named_and_not_kept_as_a_result(self):
        book_all_kinds()
        output = StringIO()

        call_command("reconcile", "--month", "2026-07", "--json", stdout=output)

        result = json.loads(output.getvalue())
        self.assertEqual((result["month"], result["differences"]), ("2026-07", 0))
        self.assertFalse(ReconcileRun.objects.exists())

    def test_programs_read_json(self):
        book_calls(make_call(customer_id="acme"))
        DailyOverview.objects.update(calls=3)
        output = StringIO()

        with self.assertRaises(SystemExit):
            call_command("reconcile", "--json", stdout=output)

        result = json.loads(output.getvalue())
        self.assertEqual(result["differences"], 1)
        self.assertEqual(result["differing_rows"]["daily overview"], 1)
        self.assertEqual(result["examples"][0]["off_by"], "2")

    def test_every_night_the_result_is_kept_and_those_of_last_year_go(self):
        book_all_kinds()
        old = ReconcileRun.objects.create(
            started_at=NOON - timedelta(days=4000), seconds=1, rows_compared=1, differences=0
        )

        reconcile(later="argument")

        run = ReconcileRun.objects.get()
        self.assertNotEqual(run.pk, old.pk)
        self.assertEqual(run.differences, 0)
        self.assertGreater(run.rows_compared, 0)


class MeetingTests(TransactionTestCase):
    def test_only_one_repairs(self):
        refused = []

        def second() -> None:
            try:
                repaired()
            except AlreadyRepairing as error:
                refused.append(error)
            finally:
                connections.close_all()

        with alone():
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

        self.assertEqual(len(refused), 1)
        repaired()

    def test_the_command_says_that_another_one_repairs(self):
        with self.assertRaisesMessage(CommandError, "another repair is running"):
            _in_another_thread_while_alone(lambda: call_command("reconcile", "--repair", stdout=StringIO()))

    def test_a_repair_and_bookings_at_once_leave_nothing_that_differs(self):
        book_all_kinds()
        for table in (DailySpend, DailyOverview, SpendTotal):
            table.objects.update(cost=F("cost") + NANO)
        BudgetPeriod.objects.update(spent_cost=F("spent_cost") + NANO)
        stop, errors = threading.Event(), []

        def book_on() -> None:
            try:
                while not stop.is_set():
                    book_calls(*[make_call(customer_id="acme", tags=["a"], team_id="red") for _ in range(5)])
            except Exception as error:
                errors.append(error)
            finally:
                connections.close_all()

        threads = [
            threading.Thread(target=book_on) for _ in range(2 if connection.vendor == "postgresql" else 1)
        ]
        for thread in threads:
            thread.start()
        for _ in range(3):
            repaired()
        stop.set()
        for thread in threads:
            thread.join()

        self.assertEqual(errors, [])
        self.assertEqual(compare(at=NOON).differences, 0)


def _in_another_thread_while_alone(work) -> None:
    raised = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)
        finally:
            connections.close_all()

    with alone():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    if raised:
        raise raised[0]


def _rows(table) -> list[tuple]:
    """Return what a table says, without the numbers that the database gives."""
    names = [
        field.attname
        for field in table._meta.concrete_fields
        if field.attname != "id" or table is not TagSetMember
    ]
    names = [name for name in names if not (name == "id" and table is SpendTotal)]
    return sorted(table.objects.values_list(*names), key=str)


def _another_model(row):
    row.pk, row.model = uuid.uuid4(), "never called"
    row._state.adding = True
    return row
