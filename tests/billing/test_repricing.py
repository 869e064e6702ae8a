"""Re-pricing: what was booked moves by adjustments, once, and every sum says the same afterwards."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.test import TestCase
from django.utils import timezone

from billing.books.adjustments import booked_for
from billing.books.closed_months import MonthIsClosed, NotClosable, close_month, open_month
from billing.books.reconciliation import compare, repair
from billing.budgets.periods import ensure_periods
from billing.models import Adjustment, BudgetPeriod, DailyOverview, Price, Repricing, SpendLog, SpendTotal
from billing.prices import repricing
from billing.prices.repricing import Selection, diff
from billing.prices.unpriced import nearest_price, queue
from billing.usage import Usage
from customers.models import AuditLog
from tests.billing.budgets import admitted, all_time, check_the_books, figures, july, settle, usd
from tests.billing.making import NOON, book_calls, make_call

MODEL = "nobody-lists-this"
AUGUST_2 = datetime(2026, 8, 2, 9, tzinfo=UTC)
# 1,000 tokens in and 200 out, as `make_closed` has them.
COST = (Decimal(3) * 1_000 + Decimal(15) * 200) / 1_000_000


def unpriced_call(*, at=NOON, model=MODEL, closed=None, **fields):
    told = {"provider": "openai", "upstream_model": model, **(closed or {})}
    return make_call(at=at, cost_usd=None, model=model, closed=told, **{"customer_id": "acme", **fields})


def set_price(model=MODEL, **fields) -> Price:
    rates = {"input_per_mtok_usd": Decimal(3), "output_per_mtok_usd": Decimal(15), **fields}
    return Price.objects.create(provider="openai", model=model, **rates)


def everything(**fields) -> Selection:
    return Selection("openai", MODEL, None, timezone.now() + timedelta(days=3650), **fields)


class RepricingCase(TestCase):
    def run_it(self, selection: Selection | None = None, *, at=AUGUST_2) -> Repricing:
        run = repricing.start(selection or everything(), actor="alice", note="price list of July", at=at)
        self.assertTrue(repricing.run(run, clock=lambda: at))
        return run

    def total(self, holder_type="customer", holder_id="acme") -> SpendTotal:
        return SpendTotal.objects.get(holder_type=holder_type, holder_id=holder_id)

    def assert_reconciled(self):
        found = compare(at=timezone.now())
        self.assertEqual(found.differences, 0, found.examples)
        check_the_books()


class UnpricedQueueTests(RepricingCase):
    def test_it_lists_models_with_their_calls_and_what_periods_keep_for_them(self):
        call = admitted((all_time(), "10"), amount_usd="0.4", model=MODEL)
        settle(call, cost_usd=None, provider="openai", upstream_model=MODEL)
        book_calls(unpriced_call(at=NOON + timedelta(hours=1)), unpriced_call(model="other"))
        book_calls(make_call(closed={"provider": "openai", "upstream_model": "gpt-4o"}))

        first, second = queue()

        self.assertEqual((first.model, first.calls, first.calls_with_rows), (MODEL, 2, 2))
        self.assertEqual((first.input_tokens, first.output_tokens), (2_000, 400))
        self.assertEqual((first.first_at, first.last_at), (NOON, NOON + timedelta(hours=1)))
        self.assertEqual(first.provisional, Decimal("0.4"))
        self.assertEqual(second.model, "other")

    def test_the_nearest_price_is_of_the_model_with_the_likest_name(self):
        set_price("gpt-4o")
        set_price("gpt-4o-mini", effective_from=NOON)
        latest = set_price("gpt-4o-mini", effective_from=NOON + timedelta(days=1))

        self.assertEqual(nearest_price("openai", "gpt-4o-mini-2031"), latest)
        self.assertIsNone(nearest_price("openai", "zzz"))
        self.assertIsNone(nearest_price("anthropic", "gpt-4o"))


class RepricingTests(RepricingCase):
    def test_a_price_moves_everything_and_empties_the_queue(self):
        call = admitted((all_time(), "10"), amount_usd="0.4", model=MODEL)
        settle(call, cost_usd=None, provider="openai", upstream_model=MODEL)
        book_calls(*[unpriced_call(tags=["a", "b"], team_id="t", user_id="u") for _ in range(70)])
        price = set_price()
        self.assertEqual(figures(all_time()), usd("0", "0", "0.4"))

        run = self.run_it()

        self.assertEqual((run.calls, run.changed_calls, run.cost), (71, 71, 71 * COST))
        self.assertEqual(self.total().cost, 71 * COST)
        self.assertEqual(self.total("tag", "a").charge, 70 * COST)
        self.assertEqual(self.total().unpriced_calls, 0)
        self.assertEqual(figures(all_time()), usd(str(71 * COST), "0", "0"))
        booked_on = DailyOverview.objects.filter(day=AUGUST_2.date())
        self.assertEqual(sum(booked_on.values_list("cost", flat=True)), 71 * COST)
        self.assertEqual(queue(), [])
        adjustment = Adjustment.objects.first()
        self.assertEqual(
            (adjustment.reason, adjustment.actor, adjustment.note, adjustment.price_id, adjustment.booked_at),
            ("repricing", "alice", "price list of July", price.pk, AUGUST_2),
        )
        self.assertIsNone(SpendLog.objects.first().cost)  # log rows never change
        self.assert_reconciled()

    def test_twice_is_once(self):
        book_calls(*[unpriced_call() for _ in range(3)])
        set_price()
        self.run_it()

        again = self.run_it()

        self.assertEqual((again.calls, again.changed_calls, again.cost), (3, 0, 0))
        self.assertEqual(Adjustment.objects.count(), 3)
        self.assert_reconciled()

    def test_a_price_of_zero_is_a_price(self):
        book_calls(unpriced_call())
        set_price(input_per_mtok_usd=Decimal(0), output_per_mtok_usd=Decimal(0))

        self.run_it()

        self.assertEqual((self.total().unpriced_calls, self.total().cost), (0, 0))
        self.assertEqual(queue(), [])
        self.assert_reconciled()

    def test_an_interrupted_run_goes_on_where_it_was(self):
        book_calls(*[unpriced_call() for _ in range(50)])
        set_price()
        run = repricing.start(everything(), actor="alice", note="", at=AUGUST_2)

        self.assertFalse(repricing.run(run, seconds=0, clock=lambda: AUGUST_2))
        self.assertEqual(run.calls, 20)
        position = run.position
        self.assertEqual(repricing.unfinished(), [run])
        self.assertTrue(repricing.run(Repricing.objects.get(), clock=lambda: AUGUST_2))

        run.refresh_from_db()
        self.assertEqual((run.calls, run.changed_calls, run.cost), (50, 50, 50 * COST))
        self.assertGreater(run.position, position)
        self.assert_reconciled()

    def test_two_who_do_the_same_run_do_it_once(self):
        book_calls(*[unpriced_call() for _ in range(3)])
        set_price()
        run = repricing.start(everything(), actor="alice", note="", at=AUGUST_2)
        stale = Repricing.objects.get()
        logs = list(everything().logs())
        prices = repricing.Prices(everything())
        repricing._do_chunk(run, logs, prices, AUGUST_2)

        with self.assertRaises(repricing._Overtaken):
            repricing._do_chunk(stale, logs, prices, AUGUST_2)

        self.assertEqual(Adjustment.objects.count(), 3)

    def test_the_dry_run_says_what_the_run_does_and_writes_nothing(self):
        ensure_periods([all_time()])
        BudgetPeriod.objects.update(last_limit=Decimal("0.01"))
        september = NOON + timedelta(days=60)
        book_calls(unpriced_call(), unpriced_call(at=september), unpriced_call(customer_id="bits"))
        set_price()

        found = diff(everything(), at=AUGUST_2)

        self.assertEqual((found.changed_calls, found.customers, found.unpriced), (3, 2, 0))
        self.assertEqual(found.cost_nano, int(3 * COST * 10**9))
        self.assertEqual(
            [(line.customer_id, f"{line.month:%Y-%m}", line.calls) for line in found.lines],
            [("acme", "2026-07", 1), ("acme", "2026-09", 1), ("bits", "2026-07", 1)],
        )
        [over] = found.over
        self.assertEqual((over.period.holder_id, over.spent_nano), ("acme", int(2 * COST * 10**9)))
        self.assertFalse(Adjustment.objects.exists())
        self.assertEqual(self.run_it().cost, 3 * COST)

    def test_a_call_priced_wrongly_gets_the_difference_and_only_when_asked(self):
        old = set_price()
        closed = {"provider": "openai", "upstream_model": MODEL, "price_id": old.pk}
        book_calls(*[make_call(cost_usd=str(COST), customer_id="acme", model=MODEL, closed=closed)])
        set_price(effective_from=NOON - timedelta(days=1), input_per_mtok_usd=Decimal(2))

        self.assertEqual(self.run_it(everything()).changed_calls, 0)
        run = self.run_it(everything(only_unpriced=False))

        self.assertEqual(run.cost, Decimal(2 - 3) * 1_000 / 1_000_000)
        self.assertEqual(self.total().cost, COST - Decimal("0.001"))
        self.assert_reconciled()

    def test_what_has_no_price_yet_and_what_is_free_by_rule_stay(self):
        book_calls(unpriced_call(model="other"), unpriced_call())
        book_calls(
            make_call(
                cost_usd="0", customer_id="acme", model=MODEL,
                closed={"provider": "openai", "upstream_model": MODEL, "usage_source": "cache"},
            )
        )  # fmt: skip

        self.assertEqual(diff(everything(only_unpriced=False), at=AUGUST_2).unpriced, 1)
        self.assertEqual(self.run_it(everything(only_unpriced=False)).changed_calls, 0)
        self.assert_reconciled()

    def test_only_the_calls_of_the_days_asked_for(self):
        later = NOON + timedelta(days=1)
        book_calls(unpriced_call(), unpriced_call(at=later))
        set_price()

        run = self.run_it(Selection("openai", MODEL, later - timedelta(hours=1), later + timedelta(hours=1)))

        self.assertEqual(run.changed_calls, 1)

    def test_margins_that_a_row_notes_count_again(self):
        book_calls(unpriced_call(closed={"units": {"margin_ppm": 200_000}}))
        set_price()

        self.run_it()

        total = self.total()
        self.assertEqual((total.cost, total.charge), (COST, COST * Decimal("1.2")))
        self.assert_reconciled()

    def test_a_long_prompt_has_the_rates_of_its_tier(self):
        usage = Usage(input_uncached=300_000, output_text=10)
        book_calls(unpriced_call(closed={"usage": usage}))
        tiers = [{"above_prompt_tokens": 200_000, "input_per_mtok_usd": "6", "output_per_mtok_usd": "20"}]
        set_price(long_context_tiers=tiers)

        self.assertEqual(self.run_it().cost, (Decimal(6) * 300_000 + 20 * 10) / 1_000_000)

    def test_several_calls_at_once_move_only_the_periods_that_contain_them(self):
        """Calls of June and July, corrected together while July still runs."""
        june, late_july = NOON - timedelta(days=30), NOON + timedelta(days=5)
        ensure_periods([july()])
        book_calls(unpriced_call(at=june), unpriced_call(), unpriced_call(at=NOON + timedelta(days=1)))
        set_price()

        self.run_it(at=late_july)

        self.assertEqual(figures(july())[0], int(2 * COST * 10**9))
        self.assert_reconciled()


class ClosedMonthTests(RepricingCase):
    JULY = datetime(2026, 7, 1, tzinfo=UTC).date()

    def july(self):
        rows = DailyOverview.objects.filter(day__range=("2026-07-01", "2026-07-31"))
        return sorted(rows.values_list("day", "model", "cost", "charge"))

    def close(self):
        return close_month(self.JULY, at=AUGUST_2, by="alice", note="billed")

    def test_a_month_that_is_not_over_cannot_be_closed_nor_one_that_is(self):
        with self.assertRaises(NotClosable):
            close_month(self.JULY, at=datetime(2026, 7, 31, 23, 59, tzinfo=UTC), by="alice")
        self.close()
        with self.assertRaises(NotClosable):
            self.close()

    def test_closing_and_opening_are_in_the_audit_log(self):
        self.close()
        self.assertTrue(open_month(self.JULY))
        self.assertFalse(open_month(self.JULY))

        actions = AuditLog.objects.filter(kind="billing.closedmonth").values_list("action", flat=True)
        self.assertEqual(sorted(actions), ["created", "deleted"])

    def test_re_pricing_a_closed_month_lands_on_today(self):
        book_calls(unpriced_call())
        set_price()
        self.close()
        before = self.july()

        self.run_it()

        self.assertEqual(self.july(), before)
        self.assertEqual(DailyOverview.objects.get(day=AUGUST_2.date()).cost, COST)
        self.assert_reconciled()

    def test_nothing_is_booked_on_a_day_of_a_closed_month(self):
        book_calls(unpriced_call())
        set_price()
        self.close()

        with self.assertRaises(MonthIsClosed):
            self.run_it(at=NOON + timedelta(days=3))
        self.assertFalse(Adjustment.objects.exists())

    def test_a_call_that_turns_up_later_costs_on_the_day_it_is_booked(self):
        book_calls(make_call(cost_usd="0.5", customer_id="acme"))
        self.close()
        before = self.july()

        call = make_call(cost_usd="0.25", customer_id="acme", at=NOON + timedelta(hours=1))
        book_calls(call, make_call(cost_usd="2", customer_id="acme", at=timezone.now()))

        self.assertEqual([row[2] for row in self.july()], [row[2] for row in before])
        self.assertEqual(self.total().cost, Decimal("2.75"))
        self.assertEqual((self.total().calls, self.total().unpriced_calls), (3, 0))
        [adjustment] = Adjustment.objects.all()
        self.assertEqual((adjustment.reason, adjustment.cost), ("late_call", Decimal("0.25")))
        [known] = booked_for(SpendLog.objects.filter(cost=None)).values()
        self.assertTrue(known.is_priced)
        self.assert_reconciled()

    def test_a_repair_leaves_its_sums_alone_until_it_is_opened(self):
        book_calls(make_call(cost_usd="0.5", customer_id="acme"))
        DailyOverview.objects.update(cost=Decimal(9))
        self.close()

        repair(at=AUGUST_2, progress=lambda *_: None)
        self.assertEqual(DailyOverview.objects.get().cost, 9)
        open_month(self.JULY)
        repair(at=AUGUST_2, progress=lambda *_: None)

        self.assertEqual(DailyOverview.objects.get().cost, Decimal("0.5"))
        self.assert_reconciled()
