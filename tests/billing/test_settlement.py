"""Settlement: what a booked call does to the periods of its holders, hold or no hold."""

import threading
from datetime import timedelta

from django.db import connection, connections
from django.forms import modelform_factory
from django.test import TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext

from billing.booking import ledger
from billing.booking.records import CallRecords
from billing.budgets.periods import PeriodKey, ensure_periods
from billing.models import BudgetPeriod, Hold, SpendTotal, TypicalOutput
from billing.models.ledger_model import WrittenByTheLedger
from billing.usage import Usage
from customers.models import Budget, Customer, Tag, Team, User, VirtualKey
from tests.billing.budgets import (
    AUGUST,
    JULY,
    admitted,
    all_time,
    check_the_books,
    figures,
    july,
    settle,
    settle_calls,
    usd,
)
from tests.billing.making import NOON, book_calls, make_call, make_closed, make_opened, nano


class SettledTests(TestCase):
    def test_a_hold_becomes_what_the_call_really_cost(self):
        for cost in ("0.1", "0.25", "0.7"):  # less than held, as much, more
            settle(admitted((july(), "9"), amount_usd="0.25"), cost_usd=cost)

        self.assertEqual(figures(july()), (sum(usd("0.1", "0.25", "0.7")), 0, 0))
        self.assertFalse(Hold.objects.exists())
        check_the_books()

    def test_a_call_that_was_not_admitted_counts_all_the_same(self):
        """H5: a budget attached to a holder counts calls that knew nothing of it."""
        ensure_periods([july(), july("gateway", "gateway")])

        book_calls(make_call(customer_id="acme", cost_usd="0.5"), make_call(cost_usd="0.25"))

        self.assertEqual((figures(july())[0], figures(july("gateway", "gateway"))[0]), usd("0.5", "0.75"))

    def test_it_counts_in_every_window_that_contains_its_start(self):
        day = PeriodKey(
            "customer", "acme", "", "1d UTC v1", NOON.replace(hour=0), NOON.replace(hour=0, day=16)
        )
        ensure_periods([july(), all_time(), day, july(scope="gpt-4o"), july(scope="other")])

        book_calls(make_call(customer_id="acme", cost_usd="0.5"))

        counted = {key: figures(key)[0] for key in (july(), all_time(), day, july(scope="gpt-4o"))}
        self.assertEqual(set(counted.values()), {nano("0.5")}, counted)
        self.assertEqual(figures(july(scope="other"))[0], 0)

    def test_a_call_over_midnight_is_paid_by_the_day_it_started_in(self):
        august = PeriodKey("customer", "acme", "", "1mo UTC v1", AUGUST, AUGUST + timedelta(days=31))
        opened = admitted((july(), "1"), at=AUGUST - timedelta(seconds=1))
        ensure_periods([august])

        settle(opened, ended_us=opened.started_us + 10**9)

        self.assertEqual((figures(july()), figures(august)), (usd("0.5", "0", "0"), (0, 0, 0)))

    def test_a_period_includes_its_start_and_excludes_its_end(self):
        ensure_periods([july()])

        book_calls(
            make_call(customer_id="acme", cost_usd="0.5", at=JULY),
            make_call(customer_id="acme", cost_usd="10", at=AUGUST),
            make_call(customer_id="acme", cost_usd="10", at=JULY - timedelta(microseconds=1)),
        )

        self.assertEqual(figures(july())[0], nano("0.5"))

    def test_customers_are_charged_and_others_cost(self):
        keys = [july(), july("gateway", "gateway")]
        opened = admitted(*[(key, "9") for key in keys])

        settle(opened, cost_usd="0.5", charge_nano=nano("0.6"))

        self.assertEqual([figures(key) for key in keys], [usd("0.6", "0", "0"), usd("0.5", "0", "0")])
        check_the_books()

    def test_a_call_that_cost_nothing_gives_its_hold_back(self):
        for status in ("refused", "not_sent", "failure"):
            settle(admitted((july(), "1")), cost_usd="0", status=status)

        self.assertEqual(figures(july()), (0, 0, 0))

    def test_an_unpriced_call_keeps_its_hold_as_provisional(self):
        """H7: an unknown model is not a free one."""
        opened = admitted((july(), "1"), (july("team", "red"), "1"), team_id="red")

        settle(opened, cost_usd=None)

        self.assertEqual({figures(key) for key in (july(), july("team", "red"))}, {usd("0", "0", "0.25")})
        self.assertEqual({hold.lease_expires_at for hold in Hold.objects.all()}, {None})
        check_the_books()

    def test_a_batch_of_everything_is_settled_at_once(self):
        held = [admitted((july(), "9"), amount_usd="0.5") for _ in range(3)]
        free = make_opened(customer_id="acme")
        ends = ("0.1", None, "0", "0.02")

        settle_calls(
            *[
                CallRecords(o, make_closed(o, cost_usd=cost))
                for o, cost in zip([*held, free], ends, strict=True)
            ]
        )

        self.assertEqual(figures(july()), usd("0.12", "0", "0.5"))
        check_the_books()

    def test_a_quarantined_call_gives_its_hold_back_too(self):
        """Its row names no customer; the hold is found by the call's id."""
        opened = admitted((july(), "1"), (july("gateway", "gateway"), "1"))
        call = CallRecords(opened, make_closed(opened, cost_usd="0.5"))

        settle_calls(ledger.quarantined(call, "because"))

        self.assertEqual(
            (figures(july()), figures(july("gateway", "gateway"))), ((0, 0, 0), usd("0.5", "0", "0"))
        )

    def test_a_booking_that_fails_settles_nothing(self):
        opened = admitted((july(), "1"))
        there = make_call(customer_id="acme", cost_usd="0.5")
        settle_calls(there)

        with self.assertRaisesMessage(Exception, ""):
            settle_calls(CallRecords(opened, make_closed(opened)), there)

        self.assertEqual(figures(july()), usd("0.5", "0.25", "0"))

    def test_what_was_booked_of_another_month_moves_no_period(self):
        ensure_periods([july()])

        book_calls(make_call(customer_id="acme", at=JULY - timedelta(days=40)))

        self.assertEqual(figures(july()), (0, 0, 0))


class StatementTests(TestCase):
    def statements(self, *calls):
        with CaptureQueriesContext(connection) as queries:
            book_calls(*calls)
        found = [query["sql"] for query in queries]
        return [sql for sql in found if "billing_budgetperiod" in sql or "billing_hold" in sql]

    def test_where_nobody_has_a_budget_settlement_is_one_look(self):
        self.assertEqual(len(self.statements(*[make_call(customer_id="acme") for _ in range(20)])), 1)

    def test_the_number_of_statements_does_not_grow_with_the_calls(self):
        ensure_periods([july(), july("gateway", "gateway")])
        one = len(self.statements(make_call(customer_id="acme")))

        many = len(self.statements(*[make_call(customer_id="acme", tags=[f"t{i}"]) for i in range(50)]))

        self.assertEqual(one, many)

    def test_periods_are_written_last_and_in_the_order_of_their_ids(self):
        """H10: admissions want these rows."""
        admitted((july(), "1"), (july("gateway", "gateway"), "1"))
        with CaptureQueriesContext(connection) as queries:
            book_calls(make_call(customer_id="acme", team_id="red"))

        last = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]][-1]
        self.assertIn("UPDATE billing_budgetperiod", last)
        if connection.vendor == "postgresql":
            self.assertLess(last.index("ORDER BY id FOR UPDATE"), last.index("UPDATE billing_budgetperiod"))


class TypicalOutputTests(TestCase):
    """H8: one shared figure per model."""

    def learn(self, count, tokens, model="gpt-4o", **closed):
        book_calls(
            *[
                make_call(closed={"usage": Usage(output_text=tokens), "upstream_model": model, **closed})
                for _ in range(count)
            ]
        )

    def test_it_is_the_mean_of_what_the_provider_reported(self):
        self.learn(10, 100)
        self.learn(10, 201)

        self.assertEqual(TypicalOutput.objects.get(pk="gpt-4o").tokens, 151)

    def test_a_few_calls_say_nothing_yet(self):
        self.learn(19, 100)
        self.assertIsNone(TypicalOutput.objects.get().tokens)

        self.learn(1, 100)
        self.assertEqual(TypicalOutput.objects.get().tokens, 100)

    def test_estimates_failures_and_nameless_models_teach_nothing(self):
        self.learn(1, 100, usage_source="estimated")
        self.learn(1, 100, status="failure")
        self.learn(1, 100, model="")

        self.assertFalse(TypicalOutput.objects.exists())

    def test_what_is_recent_weighs_more(self):
        for _ in range(3):
            self.learn(900, 100)
        for _ in range(3):
            self.learn(900, 500)

        row = TypicalOutput.objects.get()
        self.assertLessEqual(row.calls, 1000)
        self.assertGreater(row.tokens, 400)

    def test_models_are_kept_apart(self):
        self.learn(20, 100)
        self.learn(20, 7, model="gpt-4o-mini")

        self.assertEqual(
            {row.pk: row.tokens for row in TypicalOutput.objects.all()}, {"gpt-4o": 100, "gpt-4o-mini": 7}
        )


class FormTests(TransactionTestCase):
    """H11: whoever saves a form while the recorder runs moves no sum."""

    def test_no_form_of_staff_writes_a_sum_back(self):
        budget = Budget.objects.create(max_budget="9")
        key = VirtualKey.objects.create(token_hash="0" * 64, display_name="sk-...0000", budget=budget)
        rows = [
            budget,
            key,
            Customer.objects.create(pk="acme", budget=budget),
            Team.objects.create(id="red", budget=budget),
            User.objects.create(username="bob", password="x"),
            Tag.objects.create(name="a", budget=budget),
        ]
        call = {"customer_id": "acme", "key_id": key.pk.bytes, "team_id": "red", "tags": ["a"]}
        keys = [july(), july("team", "red"), july("tag", "a"), july("key", str(key.pk))]
        admitted(*[(key, "9") for key in keys], **call)
        forms = [_form_as_opened(row) for row in rows]

        for form in forms:
            _book_beside(make_call(cost_usd="0.125", **call))
            form.save()

        self.assertEqual({figures(key) for key in keys}, {(len(forms) * nano("0.125"), nano("0.25"), 0)})
        check_the_books()

    def test_a_form_of_a_ledger_row_cannot_be_saved(self):
        admitted((july(), "9"))
        settle(admitted((july(), "9")), upstream_model="gpt-4o")

        for model in (BudgetPeriod, Hold, SpendTotal, TypicalOutput):
            form = _form_as_opened(model.objects.first())
            _book_beside(make_call(customer_id="acme", cost_usd="0.125"))
            with self.assertRaises(WrittenByTheLedger):
                form.save()

        check_the_books()


def _form_as_opened(row):
    """Return a form that is sent with the row as it was when staff opened it."""
    form_class = modelform_factory(type(row), fields="__all__")
    shown = form_class(instance=row)
    data = {field.html_name: field.value() for field in shown if field.value() is not None}
    form = form_class(data, instance=row)
    assert form.is_valid(), form.errors
    return form


def _book_beside(call):
    """Book a call as the recorder does: in another thread, with a connection of its own."""

    def run():
        try:
            book_calls(call)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
