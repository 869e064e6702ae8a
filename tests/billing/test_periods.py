"""Budget periods: made on first use with what was booked before, and started afresh."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from billing.books.adjustments import adjust
from billing.budgets.periods import KnownPeriods, PeriodKey, ensure_periods, load_periods, start_afresh
from billing.models import Adjustment, BudgetPeriod, SpendLog, SpendTotal
from billing.models.ledger_model import WrittenByTheLedger
from billing.models.spend_total import team_member_id
from customers.money import to_nano
from tests.billing.budgets import (
    AUGUST,
    JULY,
    admit_one,
    admitted,
    all_time,
    check_the_books,
    figures,
    july,
    make_ask,
    period_of,
    settle,
    settle_calls,
    usd,
)
from tests.billing.making import NOON, book_calls, make_call, make_opened, microseconds, nano

MILLISECOND = timedelta(milliseconds=1)


class FirstUseTests(TestCase):
    """H5: a budget attached in the middle of a period starts from what was spent in it."""

    def test_a_period_starts_from_what_was_booked_in_it(self):
        for at, cost in (
            (JULY - MILLISECOND, "1"),
            (JULY, "0.1"),
            (NOON, "0.02"),
            (AUGUST - MILLISECOND, "0.003"),
            (AUGUST, "10"),
        ):
            book_calls(make_call(at=at, cost_usd=cost, customer_id="acme"))

        ensure_periods([july()])

        self.assertEqual(figures(july())[0], nano("0.1") + nano("0.02") + nano("0.003"))
        check_the_books()

    def test_every_kind_of_holder_counts_its_own(self):
        key = SpendLog._meta.get_field("id").default()
        book_calls(
            make_call(
                cost_usd="0.5",
                key_id=key.bytes,
                team_id="red",
                user_id="bob",
                customer_id="acme",
                tags=["a", "b"],
            ),
            make_call(cost_usd="0.25", team_id="red", user_id="eve", customer_id="other", tags=["b"]),
        )
        wanted = {
            july("gateway", "gateway"): "0.75",
            july("key", str(key)): "0.5",
            july("key", "master"): "0.25",
            july("team", "red"): "0.75",
            july("team_member", team_member_id("red", "bob")): "0.5",
            july("user", "bob"): "0.5",
            july("customer", "acme"): "0.5",
            july("tag", "a"): "0.5",
            july("tag", "b"): "0.75",
            july("tag", "c"): "0",
        }

        ensure_periods(wanted)

        self.assertEqual({key: figures(key)[0] for key in wanted}, {k: nano(v) for k, v in wanted.items()})
        check_the_books()

    def test_a_scope_counts_its_model_alone(self):
        for model in ("gpt-4o", "gpt-4o-mini"):
            book_calls(make_call(model=model, customer_id="acme", cost_usd="0.5"))
        keys = [july(scope="gpt-4o"), all_time(scope="gpt-4o")]

        ensure_periods(keys)

        self.assertEqual([figures(key)[0] for key in keys], [nano("0.5")] * 2)

    def test_all_time_is_what_the_total_says(self):
        """Also where the logs are gone: retention keeps the total (M5)."""
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))
        SpendLog.objects.all().delete()

        ensure_periods([all_time()])

        self.assertEqual(figures(all_time())[0], nano("0.5"))

    def test_a_charge_is_kept_apart_from_the_cost(self):
        book_calls(make_call(customer_id="acme", cost_usd="0.5", closed={"charge_nano": nano("0.6")}))

        ensure_periods([july(), july("gateway", "gateway")])

        self.assertEqual((figures(july())[0], figures(july("gateway", "gateway"))[0]), usd("0.6", "0.5"))

    def test_adjustments_count_where_their_call_does(self):
        opened = make_opened(customer_id="acme")
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))
        log = SpendLog.objects.get()
        for booked_at in (NOON + timedelta(hours=1), AUGUST):  # the second came too late for July
            Adjustment.objects.create(
                log_id=log.pk, started_at=log.started_at, booked_at=booked_at, reason="repricing",
                customer_id="acme", model=opened.model, cost=Decimal("0.125"), charge=Decimal("0.125"),
            )  # fmt: skip

        ensure_periods([july()])

        self.assertEqual(figures(july())[0], nano("0.5") + nano("0.125"))
        check_the_books()

    def test_a_period_without_a_call_reads_no_log(self):
        """100,000 customers cross midnight: nobody reads the log of the month before."""
        book_calls(make_call(customer_id="acme", at=JULY - MILLISECOND))

        with CaptureQueriesContext(connection) as queries:
            ensure_periods([july(), july("customer", "new")])

        self.assertFalse([query for query in queries if "billing_spendlog" in query["sql"]])
        self.assertEqual((figures(july())[0], figures(july("customer", "new"))[0]), (0, 0))

    def test_a_total_made_for_a_period_learns_of_the_first_call(self):
        """A date that stayed empty would let the next period believe that nobody ever called."""
        ensure_periods([july()])

        book_calls(make_call(customer_id="acme", cost_usd="0.5"))

        self.assertEqual(SpendTotal.objects.get(holder_type="customer").last_call_at, NOON)

    def test_what_is_there_is_left_alone(self):
        ensure_periods([july()])
        row = period_of(july()).pk

        ensure_periods([july(), july("team", "red")])

        self.assertEqual(period_of(july()).pk, row)
        self.assertEqual(BudgetPeriod.objects.count(), 2)

    def test_the_rows_of_a_key_are_found_with_their_bounds(self):
        ensure_periods([july(), all_time()])

        found = load_periods([july(), all_time(), july("team", "nobody")])

        self.assertEqual(set(found), {july(), all_time()})
        (row,), (endless,) = found[july()], found[all_time()]
        self.assertEqual((row.counts_from_us, row.ends_us), (microseconds(JULY), microseconds(AUGUST)))
        self.assertEqual((endless.counts_from_us, endless.ends_us), (0, float("inf")))

    def test_two_windows_that_start_together_are_two_periods(self):
        """H4: `1d` and `1mo` both begin on the 1st."""
        day = PeriodKey("customer", "acme", "", "1d UTC v1", JULY, JULY + timedelta(days=1))
        book_calls(make_call(at=JULY, customer_id="acme", cost_usd="0.5"))
        book_calls(make_call(at=NOON, customer_id="acme", cost_usd="0.25"))

        ensure_periods([day, july()])

        self.assertEqual((figures(day)[0], figures(july())[0]), usd("0.5", "0.75"))


class StartAfreshTests(TestCase):
    """The next generation begins; nothing is reset."""

    def test_it_counts_from_zero_and_keeps_what_was(self):
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))
        ensure_periods([july()])
        cut = NOON + timedelta(hours=1)

        start_afresh([july()], at=cut)
        book_calls(make_call(customer_id="acme", cost_usd="0.125", at=cut))

        old, new = period_of(july(), 0), period_of(july(), 1)
        self.assertEqual((old.counts_from, old.ends_at), (JULY, cut))
        self.assertEqual((new.counts_from, new.ends_at, new.starts_at), (cut, AUGUST, JULY))
        self.assertEqual((figures(july(), 0)[0], figures(july(), 1)[0]), usd("0.5", "0.125"))
        check_the_books()

    def test_it_forgets_also_what_was_spent_before_the_budget_was_used(self):
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))

        start_afresh([july(), all_time()], at=NOON + timedelta(hours=1))

        self.assertEqual((figures(july(), 1)[0], figures(all_time(), 1)[0]), (0, 0))
        check_the_books()

    def test_calls_under_way_settle_where_they_began(self):
        limit = (july(), "1")
        before = admitted(limit, amount_usd="0.75")
        cut = NOON + timedelta(hours=1)

        start_afresh([july()], at=cut)
        during = admitted(limit, amount_usd="1", at=cut)  # the whole limit is free again
        settle(before, cost_usd="0.5")

        self.assertEqual(figures(july(), 0), usd("0.5", "0", "0"))
        self.assertEqual(figures(july(), 1), usd("0", "1", "0"))
        settle(during, cost_usd="0.25")
        self.assertEqual(figures(july(), 1), usd("0.25", "0", "0"))
        check_the_books()

    def test_a_call_booked_by_a_clock_ahead_of_the_cut_moves_over(self):
        ensure_periods([july()])
        ahead = NOON + timedelta(seconds=2)
        settle_calls(make_call(customer_id="acme", cost_usd="0.5", at=ahead))

        start_afresh([july()], at=NOON + timedelta(seconds=1))

        self.assertEqual((figures(july(), 0)[0], figures(july(), 1)[0]), usd("0", "0.5"))
        check_the_books()

    def test_an_adjustment_of_the_very_instant_is_behind_the_cut(self):
        """What counts is told by the clock alone, so that anybody can redo the sum."""
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))
        ensure_periods([july()])
        cut = NOON + timedelta(hours=1)
        adjust(SpendLog.objects.get(), cost_nano=0, charge_nano=0, reason="repricing", at=cut)

        start_afresh([july()], at=cut)

        self.assertEqual((figures(july(), 0)[0], figures(july(), 1)[0]), usd("0.5", "0"))
        check_the_books()

    def test_the_cut_is_on_a_millisecond_so_that_ids_tell_the_sides_apart(self):
        cut = NOON + timedelta(microseconds=1_999)
        book_calls(make_call(customer_id="acme", cost_usd="0.5", at=NOON + timedelta(microseconds=1_500)))

        start_afresh([july()], at=cut)

        self.assertEqual(period_of(july(), 1).counts_from, NOON + MILLISECOND)
        check_the_books()

    def test_twice_within_an_instant_leaves_no_empty_row(self):
        for _ in range(3):
            start_afresh([july()], at=NOON)

        check_the_books()
        self.assertEqual(BudgetPeriod.objects.count(), 4)

    def test_a_period_that_has_ended_stays_as_it_is(self):
        ensure_periods([july()])

        start_afresh([july()], at=AUGUST)

        self.assertEqual(BudgetPeriod.objects.get().ends_at, AUGUST)

    def test_an_admission_that_knows_the_old_row_finds_the_new_one(self):
        """Another process started the period afresh: its end is seen under the lock."""
        known = KnownPeriods()
        full = make_ask((july(), "1"), amount_usd="1")
        admit_one(full, known=known)
        cut = NOON + timedelta(hours=1)
        start_afresh([july()], at=cut)

        late = make_ask((july(), "1"), amount_usd="1", opened=make_opened(at=cut))
        early = make_ask((july(), "1"), amount_usd="1", opened=make_opened(at=cut - MILLISECOND))

        self.assertEqual(type(admit_one(late, known=known)).__name__, "Granted")
        self.assertEqual(type(admit_one(early, known=known)).__name__, "Refused")
        self.assertEqual((figures(july(), 0)[1], figures(july(), 1)[1]), usd("1", "1"))


class RowTests(TestCase):
    def test_overspend_is_what_went_above_the_last_limit(self):
        opened = admitted((july(), "1"), amount_usd="0.5")
        settle(opened, cost_usd="1.25")

        self.assertEqual(period_of(july()).overspend_usd, Decimal("0.25"))
        self.assertEqual(to_nano(period_of(july()).last_limit), nano("1"))

    def test_nothing_is_overspent_below_the_limit_or_without_one(self):
        settle(admitted((july(), "1"), amount_usd="0.5"), cost_usd="0.5")
        ensure_periods([july("team", "red")])

        self.assertEqual({row.overspend_usd for row in BudgetPeriod.objects.all()}, {Decimal(0)})

    def test_a_row_of_the_ledger_refuses_to_be_saved(self):
        """H11: `save()` would write the sums back as they once were."""
        admitted((july(), "1"), amount_usd="0.5")
        book_calls(make_call(customer_id="acme"))

        for model in (BudgetPeriod, SpendTotal):
            with self.assertRaises(WrittenByTheLedger):
                model.objects.first().save()

    def test_a_reading_time_of_midnight_utc_is_not_off_by_a_zone(self):
        berlin = datetime(2026, 6, 30, 22, tzinfo=UTC)  # 1 July, 00:00 in Berlin
        key = PeriodKey("customer", "acme", "", "1mo Europe/Berlin v1", berlin, AUGUST - timedelta(hours=2))
        book_calls(make_call(at=berlin, customer_id="acme", cost_usd="0.5"))

        ensure_periods([key, july()])

        self.assertEqual((figures(key)[0], figures(july())[0]), usd("0.5", "0"))
