"""Retention: the logs of a month go, and nothing else moves; whatever interrupts it, nothing is lost."""

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from unittest import mock, skipUnless

from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.db.models import F, Value
from django.test import TestCase, TransactionTestCase, override_settings
from django.urls import reverse

from billing.booking import partitions
from billing.books import retention
from billing.books.adjustments import adjust
from billing.books.reconciliation import AlreadyRepairing, alone, compare, record, repair
from billing.books.retention import NotSealable, due_months, seal_month
from billing.books.sealed import kept_since
from billing.budgets.periods import PeriodKey, ensure_periods
from billing.checks import log_retention
from billing.models import (
    BudgetPeriod,
    DailyOverview,
    DailySpend,
    JournalCheckpoint,
    SealedBalance,
    SealedMonth,
    SealedPeriod,
    SpendLog,
    SpendTotal,
)
from billing.models.daily_spend import SUMS
from billing.reporting.reports import Filters, by, by_day, totals
from billing.tasks import apply_retention
from customers.models import User
from customers.money import UsdField
from tests.billing.budgets import admitted, all_time, july
from tests.billing.making import (
    INSTALLATION,
    NOON,
    book_calls,
    make_call,
    make_folder,
    make_journal,
    make_opened,
    nano,
)
from tests.billing.test_reconciliation import KEY, NANO, REASON, book_all_kinds

POSTGRESQL = connection.vendor == "postgresql"
JULY = date(2026, 7, 1)
LATER = datetime(2026, 9, 20, 12, tzinfo=UTC)  # July is over for longer than a month
JUNE_CALL = datetime(2026, 6, 30, 23, 59, tzinfo=UTC)
ALL_DAYS = Filters(start=date(2026, 1, 1), end=date(2026, 12, 31))


def seal(month: date = JULY, at: datetime = LATER) -> retention.Sealing:
    return seal_month(month, at=at, progress=lambda what, done, rows: None)


def all_reports() -> list:
    """Return everything that reports say, over all kinds of names."""
    dimensions = ("customer", "key", "team", "user", "model", "provider", "client_tool", "tag", "dialect")
    return [totals(ALL_DAYS), by_day(ALL_DAYS, "model"), *(by(ALL_DAYS, name) for name in dimensions)]


def sums_of_tables() -> list:
    return [
        sorted(SpendTotal.objects.values_list("holder_type", "holder_id", "cost", "charge", "calls")),
        sorted(BudgetPeriod.objects.values_list("pk", "spent_cost", "spent_charge", "held", "provisional")),
    ]


class SealingTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        partitions.ensure_partitions(at=NOON)
        book_all_kinds()
        book_calls(
            make_call(at=JUNE_CALL, customer_id="acme", tags=["a"]), make_call(at=LATER, customer_id="acme")
        )

    def test_reports_totals_and_budgets_are_as_before_and_proven(self):
        reports, tables = all_reports(), sums_of_tables()
        july_calls = SpendLog.objects.started_between(*_bounds(JULY)).count()

        sealed = seal()

        self.assertEqual((all_reports(), sums_of_tables()), (reports, tables))
        self.assertEqual(sealed.calls + sealed.kept, july_calls)
        self.assertGreater(sealed.calls, 10)
        self.assertEqual(SpendLog.objects.started_between(*_bounds(JULY)).count(), sealed.kept)
        found = compare(at=LATER)
        self.assertEqual((found.differences, found.examples), (0, []))
        self.assertEqual(found.kept_since, date(2026, 8, 1))
        month = SealedMonth.objects.get()
        gateway = SealedBalance.objects.get(holder_type="gateway")
        self.assertEqual((month.calls, month.cost), (gateway.calls, gateway.cost))
        self.assertIsNotNone(month.sealed_at)

    def test_twice_is_as_good_as_once(self):
        before = seal()

        self.assertEqual(seal().calls, before.calls)
        self.assertEqual(compare(at=LATER).differences, 0)

    def test_older_months_may_follow(self):
        seal()
        seal(date(2026, 6, 1))

        self.assertEqual(compare(at=LATER).differences, 0)
        self.assertEqual(kept_since(), date(2026, 8, 1))

    def test_what_is_booked_late_counts_and_goes_with_the_next_run(self):
        seal()
        book_calls(make_call(customer_id="acme", tags=["late"], cost_usd="3"))

        late = compare(at=LATER)
        again = seal()

        self.assertEqual((late.differences, compare(at=LATER).differences), (0, 0))
        self.assertFalse(SpendLog.objects.started_between(*_bounds(JULY)).exclude(cost=None).exists())
        self.assertEqual(again.calls, SealedMonth.objects.get().calls)
        self.assertEqual(due_months(keep=1, at=LATER), [date(2026, 6, 1)])

    def test_a_correction_whose_log_is_gone_is_booked(self):
        log = SpendLog.objects.filter(customer_id="acme", model="other").get()
        seal()

        adjust(log, cost_nano=nano("9"), charge_nano=nano("9"), reason=REASON, at=LATER)

        self.assertEqual(compare(at=LATER).differences, 0)
        self.assertFalse(SpendLog.objects.filter(pk=log.pk).exists())

    def test_a_period_made_later_has_the_calls_that_are_gone(self):
        seal()
        year = PeriodKey(
            "customer", "acme", "", "year", *(datetime(y, 1, 1, tzinfo=UTC) for y in (2026, 2027))
        )
        holders = (
            ("gateway", "gateway"), ("key", str(KEY)), ("key", "master"), ("team", "red"), ("user", "bob"),
            ("team_member", "red\nbob"), ("tag", "a"),
        )  # fmt: skip
        keys = [year, year._replace(scope="gpt-4o"), all_time("team", "red")]
        keys += [year._replace(holder_type=kind, holder_id=name) for kind, name in holders]
        ensure_periods(keys)

        self.assertEqual(compare(at=LATER).differences, 0)
        spent = BudgetPeriod.objects.get(holder_type="customer", window="year", scope="").spent_charge
        total = SpendTotal.objects.get(holder_type="customer", holder_id="acme").charge
        self.assertEqual(spent, total)
        self.assertEqual(
            SealedPeriod.objects.filter(period_id=BudgetPeriod.objects.latest("pk").pk).count(), 1
        )

    @override_settings(REPORTING_TIME_ZONE="America/New_York")
    def test_days_that_lie_in_two_months_stay_proven(self):
        for table in (DailySpend, DailyOverview):
            table.objects.all().delete()
        repair(at=LATER, progress=lambda what, done, rows: None)
        book_calls(
            make_call(at=datetime(2026, 7, 1, 2, tzinfo=UTC)),
            make_call(at=datetime(2026, 8, 1, 2, tzinfo=UTC)),
        )
        reports = all_reports()

        seal()
        self.assertEqual(compare(at=LATER).differences, 0)
        seal(date(2026, 8, 1))
        seal(date(2026, 6, 1))

        self.assertEqual(compare(at=LATER).differences, 0)
        self.assertEqual(all_reports(), reports)

    def test_what_may_still_be_corrected_stays(self):
        unpriced = admitted((july("customer", "held"), "5"))
        book_calls(make_call(call_id=unpriced.call_id, cost_usd=None, customer_id="held"))
        book_calls(make_call(customer_id="expired", closed={"error_type": "lease_expired"}))

        sealed = seal()

        self.assertEqual(
            set(SpendLog.objects.started_between(*_bounds(JULY)).values_list("customer_id", flat=True)),
            {"held", "expired"},
        )
        self.assertEqual(sealed.kept, 2)
        self.assertEqual(compare(at=LATER).differences, 0)


def _bounds(month: date) -> tuple[datetime, datetime]:
    sealing = retention.Month.of(month)
    return sealing.start, sealing.end


class RefusalTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        partitions.ensure_partitions(at=NOON)
        book_calls(make_call(customer_id="acme"))

    def assert_refused(self, reason: str, at: datetime = LATER) -> None:
        with self.assertRaisesMessage(NotSealable, reason):
            seal(at=at)
        self.assertEqual((SpendLog.objects.count(), SealedMonth.objects.count()), (1, 0))

    def test_a_month_that_is_not_over_stays(self):
        self.assert_refused("2026-07 is not over", at=datetime(2026, 7, 31, 23, 59, tzinfo=UTC))

    def test_a_month_that_differs_stays(self):
        DailySpend.objects.update(latency_3=F("latency_3") + 1)

        self.assert_refused("reconcile --repair --month 2026-07")

    def test_drift_elsewhere_is_no_reason(self):
        book_calls(make_call(at=LATER))
        DailyOverview.objects.filter(day__gt="2026-08-01").update(calls=F("calls") + 1)

        self.assertEqual(seal().calls, 1)

    def test_a_month_with_calls_under_way_stays(self):
        admitted((july(), "5"))

        self.assert_refused("1 calls that started before the end of 2026-07 are under way")

    def test_a_month_with_calls_in_a_journal_stays(self):
        folder = make_folder(self)
        journal = make_journal(self, folder)
        with (
            override_settings(JOURNAL_DIR=str(folder)),
            mock.patch("billing.books.retention.installation_id", return_value=INSTALLATION),
        ):
            journal.append(make_opened(at=LATER))
            retention.check_sealable(JULY, at=LATER)
            journal.append(make_opened())
            self.assert_refused(f"journal {journal.id} has calls of 2026-07")

    def test_a_journal_that_is_booked_to_its_end_is_no_reason(self):
        folder = make_folder(self)
        journal = make_journal(self, folder)
        journal.append(make_opened())
        JournalCheckpoint.objects.create(pk=journal.id, finished=True)

        with override_settings(JOURNAL_DIR=str(folder)):
            self.assertEqual(seal().calls, 1)


class SealedDriftTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        partitions.ensure_partitions(at=NOON)
        book_all_kinds()
        seal()

    def test_a_drift_of_one_row_is_found_and_not_repaired(self):
        for table in (DailySpend, DailyOverview):
            for column in ("charge", "latency_15"):
                row = table.objects.filter(day="2026-07-15").first()
                table.objects.filter(pk=row.pk).update(**{column: F(column) + _least(column)})

                found = compare(at=LATER)

                self.assertGreater(found.differences, 0, (table, column))
                self.assertEqual(found.lasting, found.differences)
                table.objects.filter(pk=row.pk).update(**{column: F(column) - _least(column)})

    def test_a_drift_is_found_in_every_column(self):
        for table in (DailySpend, DailyOverview):
            row = table.objects.filter(day="2026-07-15").first()
            table.objects.filter(pk=row.pk).update(
                **{column: F(column) + number * _least(column) for number, column in enumerate(SUMS, 1)}
            )

            with mock.patch("billing.books.reconciliation.EXAMPLES", 1000):
                found = compare(at=LATER)

            self.assertLessEqual(set(SUMS), {each.column for each in found.examples}, table)
            table.objects.filter(pk=row.pk).update(
                **{column: F(column) - number * _least(column) for number, column in enumerate(SUMS, 1)}
            )

    def test_a_repair_leaves_sealed_days_alone_and_says_so(self):
        DailySpend.objects.filter(customer_id="new").update(cost=F("cost") + NANO)
        SpendTotal.objects.filter(holder_id="acme").update(cost=F("cost") + NANO)
        output = StringIO()

        with self.assertRaises(SystemExit):
            call_command("reconcile", "--repair", stdout=output)

        self.assertIn("days whose logs were removed", output.getvalue())
        self.assertRegex(
            output.getvalue(), r"daily spend, sealed days +cost +0\.000000001  2026-07-01 customer new"
        )
        found = compare(at=LATER)
        self.assertEqual(found.differing["spend totals"], 0)
        self.assertEqual(found.differences, found.lasting)

    def test_a_drift_of_what_is_sealed_is_found(self):
        for table, columns in (
            (SealedBalance, ("cost", "charge", "calls", "failed_calls", "unpriced_calls", "prompt_tokens",
                             "completion_tokens")),
            (SealedPeriod, ("cost", "charge")),
        ):  # fmt: skip
            for column in columns:
                row = table.objects.first()
                table.objects.filter(pk=row.pk).update(**{column: F(column) + _least(column)})

                self.assertGreater(compare(at=LATER).differences, 0, (table, column))
                table.objects.filter(pk=row.pk).update(**{column: F(column) - _least(column)})

    def test_days_that_lost_all_their_rows_are_found(self):
        for table in (DailySpend, DailyOverview):
            table.objects.filter(day__lt="2026-08-01").delete()

        self.assertGreater(compare(at=LATER).lasting, 0)


def _least(column: str):
    return Value(Decimal("0.000000001"), UsdField()) if column in ("cost", "charge") else Value(1)


class DueTests(TestCase):
    def test_whole_months_besides_the_present_one_are_kept(self):
        partitions.ensure_partitions(at=NOON)
        book_calls(*(make_call(at=at) for at in (JUNE_CALL, NOON, LATER)))
        first = datetime(2026, 9, 1, tzinfo=UTC)

        self.assertEqual(due_months(keep=1, at=first), [date(2026, 6, 1), JULY])
        self.assertEqual(due_months(keep=1, at=first - timedelta(microseconds=1)), [date(2026, 6, 1)])
        self.assertEqual(due_months(keep=2, at=first), [date(2026, 6, 1)])
        self.assertEqual(due_months(keep=3, at=first), [])

    def test_the_command_says_what_it_would_do_and_does_it(self):
        book_calls(*(make_call(at=at) for at in (JUNE_CALL, NOON)))

        self.assertRegex(
            _command("--keep", "1", "--dry-run"), r"2026-06: would remove 1 calls\n2026-07: would"
        )
        self.assertEqual(SpendLog.objects.count(), 2)
        self.assertRegex(
            _command("--month", "2026-07"), r"2026-07: 1 calls are sealed, their rows removed \("
        )
        self.assertEqual(SpendLog.objects.get().started_at, JUNE_CALL)
        with self.assertRaisesMessage(CommandError, "write it as 2026-03"):
            _command("--month", "March")
        with self.assertRaisesMessage(CommandError, "kept for ever"):
            _command()

    def test_the_command_stops_at_the_first_month_that_must_stay(self):
        book_calls(*(make_call(at=at) for at in (JUNE_CALL, NOON)))
        DailyOverview.objects.filter(day="2026-06-30").update(calls=2)

        self.assertIn(
            "2026-06: would stay: 1 rows about 2026-06 differ", _command("--keep", "1", "--dry-run")
        )
        with self.assertRaisesMessage(CommandError, "2026-06 and later stay"):
            _command("--keep", "1")
        self.assertEqual(SpendLog.objects.count(), 2)

    def test_every_night_what_is_due_goes_where_the_setting_says_so(self):
        book_calls(make_call(at=JUNE_CALL))

        apply_retention()
        self.assertEqual(SpendLog.objects.count(), 1)
        with override_settings(LOG_RETENTION_MONTHS=1):
            apply_retention(later="argument")

        self.assertEqual(SpendLog.objects.count(), 0)
        self.assertEqual(SealedMonth.objects.get().calls, 1)

    def test_every_night_a_month_that_must_stay_is_reported(self):
        book_calls(make_call(at=JUNE_CALL))
        DailyOverview.objects.update(calls=2)

        with override_settings(LOG_RETENTION_MONTHS=1), self.assertLogs("billing.tasks", "ERROR") as logs:
            apply_retention()

        self.assertIn("2026-06 and later stay", logs.output[0])
        self.assertEqual(SpendLog.objects.count(), 1)

    def test_a_setting_that_is_no_number_of_months_is_refused(self):
        for months, count in ((0, 0), (12, 0), (-1, 1), (1201, 1), ("3", 1)):
            with override_settings(LOG_RETENTION_MONTHS=months):
                self.assertEqual(len(log_retention(None)), count, months)


def _command(*options: str) -> str:
    output = StringIO()
    call_command("apply_retention", *options, stdout=output)
    return output.getvalue()


class InterruptedTests(TransactionTestCase):
    """A process that dies leaves all of a month, or a part of it that is sealed and one that is not."""

    def setUp(self):
        partitions.ensure_partitions(at=NOON)

    def tearDown(self):
        connection.close()  # admissions made it too impatient for what clears up

    def test_whenever_it_ends_everything_is_proven_and_the_next_run_goes_on(self):
        book_all_kinds()
        reports = all_reports()

        deaths = 0
        for steps in (1, 2, 3, 99):
            dies = _dies_after(steps, retention._seal_periods)
            try:
                with mock.patch.object(retention, "_seal_periods", dies):
                    seal_in_chunks_of_three()
            except Died:
                deaths += 1
                self.assertEqual(compare(at=LATER).differences, 0)
        self.assertEqual(deaths, 3)
        self.assertEqual((compare(at=LATER).differences, all_reports()), (0, reports))
        self.assertFalse(SpendLog.objects.started_between(*_bounds(JULY)).exists())

    @skipUnless(POSTGRESQL, "partitions")
    def test_a_partition_is_dropped_with_its_seals_or_not_at_all(self):
        book_all_kinds()
        calls = SpendLog.objects.count()

        with (
            self.assertRaises(Died),
            mock.patch.object(retention, "_note_periods", _dies_after(2, retention._note_periods)),
        ):
            seal()
        left = (SpendLog.objects.count(), SealedMonth.objects.count(), compare(at=LATER).differences)
        seal()

        self.assertEqual(left, (calls, 0, 0))
        self.assertNotIn(datetime(2026, 7, 1, tzinfo=UTC), partitions.partition_months())
        self.assertEqual(compare(at=LATER).differences, 0)

    @skipUnless(POSTGRESQL, "partitions")
    def test_a_period_made_while_the_month_is_counted_has_its_calls(self):
        book_all_kinds()
        lock_out = retention._lock_out

        def make_periods_first(*args):
            in_a_thread(lambda: ensure_periods([all_time("team", "red"), all_time("user", "bob", "gpt-4o")]))
            return lock_out(*args)

        with mock.patch.object(retention, "_lock_out", make_periods_first):
            seal()

        self.assertEqual(
            SealedPeriod.objects.filter(pk__gt=BudgetPeriod.objects.latest("pk").pk - 2).count(), 2
        )
        self.assertEqual(compare(at=LATER).differences, 0)

    @skipUnless(POSTGRESQL, "partitions")
    def test_whoever_reads_the_log_for_long_is_not_cut_off(self):
        book_calls(make_call())
        with (
            mock.patch.object(retention, "_LOCK_ATTEMPTS", 1),
            mock.patch.object(retention, "_LOCK_TIMEOUT", "50ms"),
            mock.patch.object(retention, "_LOCK_PAUSE_SECONDS", 0),
            transaction.atomic(),
        ):
            SpendLog.objects.count()
            with self.assertRaisesMessage(NotSealable, "being read for long"):
                in_a_thread(seal)

        self.assertEqual((SpendLog.objects.count(), SealedMonth.objects.count()), (1, 0))

    def test_a_second_one_is_refused_while_one_runs(self):
        with alone(), self.assertRaises(AlreadyRepairing):
            in_a_thread(seal)


def in_a_thread(work: Callable[[], Any]) -> None:
    """Have another connection do it, and raise what it raises."""
    raised = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


class Died(Exception):
    """The process ended here."""


def _dies_after(steps: int, step):
    left = [steps]

    def take(*args):
        left[0] -= 1
        if left[0] == 0:
            raise Died
        return step(*args)

    return take


def seal_in_chunks_of_three() -> None:
    remove = retention._remove_chunk
    with (
        mock.patch.object(retention, "_remove_chunk", lambda sealing, size, last: remove(sealing, 3, last)),
        mock.patch.object(retention, "partition_months", return_value=[]),
    ):
        seal()


class PageTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        partitions.ensure_partitions(at=NOON)
        book_calls(make_call(customer_id="acme"), make_call(at=LATER, customer_id="acme"))
        seal()
        cls.staff = User.objects.create_superuser("staff", password="x")

    def setUp(self):
        self.client.force_login(self.staff)

    def test_the_logs_say_since_when_calls_are_kept(self):
        page = self.client.get(reverse("admin:billing_spendlog_changelist"))

        self.assertContains(page, "Calls before 2026-08-01 (UTC) are no longer kept")

    def test_the_sealed_months_are_listed(self):
        page = self.client.get(reverse("admin:billing_sealedmonth_changelist"))

        self.assertContains(page, "2026-07")
        self.assertContains(page, "0.5")

    def test_usage_says_what_the_sums_were_compared_with(self):
        record(compare(at=LATER), repaired=False)

        page = self.client.get(reverse("usage:overview"))

        self.assertContains(
            page, "against the log since 2026-08-01, and sealed balances before: 0 differences"
        )
