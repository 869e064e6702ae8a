"""The outbox: which events are written, what they say, in which order, and who is told."""

import json
import threading
from datetime import timedelta
from decimal import Decimal
from unittest import skipUnless

from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from billing.models import Delivery, Event, EventCounter
from billing.webhooks.events import write_events
from customers.models import Budget, Customer, GatewayLimits, Team, User, VirtualKey
from tests.billing.making import NOON, book_calls, make_call, total
from tests.billing.receiving import an_event, forget_what_is_cached, make_endpoint, write

POSTGRESQL = connection.vendor == "postgresql"
EXAMPLE_KEYS = [  # of the user's example; soft_budget, team_alias and organization_id are LiteLLM's
    "spend", "max_budget", "soft_budget", "token", "customer_id", "user_id", "team_id", "team_alias",
    "organization_id", "user_email", "key_alias", "projected_exceeded_date", "projected_spend", "event",
    "event_group", "event_message",
]  # fmt: skip
ADDED_KEYS = ["id", "timestamp", "sequence", "request_id", "total_spend"]


class SpendTrackedTests(TestCase):
    def setUp(self):
        forget_what_is_cached(self)

    def test_the_body_is_the_users_example_key_by_key(self):
        make_endpoint()

        book_calls(make_call(customer_id="krrish12", cost_usd="0.001112"))

        event = Event.objects.get()
        self.assertEqual(list(json.loads(event.text)), [*EXAMPLE_KEYS, *ADDED_KEYS])
        body = event.body
        self.assertEqual(
            {name: body[name] for name in EXAMPLE_KEYS},
            {
                "spend": Decimal("0.001112"), "max_budget": None, "soft_budget": None,
                "token": "litellm_proxy_master_key", "customer_id": "krrish12", "user_id": None,
                "team_id": None, "team_alias": None, "organization_id": None, "user_email": None,
                "key_alias": None, "projected_exceeded_date": None, "projected_spend": None,
                "event": "spend_tracked", "event_group": "customer",
                "event_message": "Customer spend tracked. Customer=krrish12, spend=0.001112",
            },
        )  # fmt: skip
        self.assertEqual((body["id"], body["sequence"]), (event.wire_id, event.sequence))
        self.assertEqual(
            (event.type, event.group, event.customer_id), ("spend_tracked", "customer", "krrish12")
        )

    @override_settings(EVENT_GROUPS="litellm")
    def test_the_group_may_be_what_litellm_s_code_sends(self):
        make_endpoint()

        book_calls(make_call(customer_id="krrish12", cost_usd="0.001112"))

        event = Event.objects.get()
        self.assertEqual((event.body["event_group"], event.group), ("end_user", "end_user"))

    def test_amounts_are_exact_numbers_with_all_their_digits(self):
        make_endpoint()

        book_calls(make_call(customer_id="acme", cost_usd="1234567.000000001"))
        book_calls(make_call(customer_id="acme", cost_usd="0.000000002"))

        first, second = (event.text for event in Event.objects.order_by("sequence"))
        self.assertIn('"spend":1234567.000000001,', first)
        self.assertIn('"spend":0.000000002,', second)
        self.assertIn('"total_spend":1234567.000000003}', second)

    def test_the_total_runs_on_within_a_batch_and_ends_at_what_is_booked(self):
        make_endpoint()
        book_calls(make_call(customer_id="acme", cost_usd="1"))

        book_calls(
            make_call(customer_id="acme", cost_usd="0.5"),
            make_call(customer_id="other", cost_usd="7"),
            make_call(customer_id="acme", cost_usd="0.25"),
        )

        told = [event.body for event in Event.objects.order_by("sequence")]
        self.assertEqual(
            [(body["customer_id"], body["total_spend"]) for body in told],
            [
                ("acme", Decimal("1")), ("acme", Decimal("1.5")), ("other", Decimal("7")),
                ("acme", Decimal("1.75")),
            ],
        )  # fmt: skip
        self.assertEqual(told[-1]["total_spend"], total("customer", "acme"))

    def test_it_is_the_charge_that_is_told(self):
        make_endpoint()

        book_calls(make_call(customer_id="acme", cost_usd="1", closed={"charge_nano": 1_500_000_000}))

        body = Event.objects.get().body
        self.assertEqual((body["spend"], body["total_spend"]), (Decimal("1.5"), Decimal("1.5")))

    def test_names_and_budgets_are_told(self):
        make_endpoint()
        team = Team.objects.create(id="red", alias="Red team")
        user = User.objects.create(id="bob", username="bob", email="bob@example.com")
        budget = Budget.objects.create(id="gold", max_budget=Decimal(50), soft_budget=Decimal("40.5"))
        key = VirtualKey.objects.create(
            token_hash="f" * 64, display_name="sk-…f", alias="prod", team=team, user=user
        )
        Customer.objects.create(id="acme", budget=budget)

        book_calls(
            make_call(
                customer_id="acme", key_id=key.pk.bytes, team_id="red", user_id="bob",
                closed={"response_id": "chatcmpl-1"},
            )
        )  # fmt: skip

        body = Event.objects.get().body
        told = {
            name: body[name]
            for name in ("token", "key_alias", "team_id", "team_alias", "user_id", "user_email")
        }
        self.assertEqual(
            told,
            {
                "token": "f" * 64, "key_alias": "prod", "team_id": "red", "team_alias": "Red team",
                "user_id": "bob", "user_email": "bob@example.com",
            },
        )  # fmt: skip
        self.assertEqual((body["max_budget"], body["soft_budget"]), (50, Decimal("40.5")))
        self.assertEqual(body["request_id"], "chatcmpl-1")

    def test_the_budget_that_counts_is_the_customers_then_the_keys_then_the_gateways(self):
        make_endpoint()
        own, of_key, of_gateway = (Budget.objects.create(id=name, max_budget=most) for name, most in
                                   (("own", 1), ("key", 2), ("gateway", 3)))  # fmt: skip
        GatewayLimits.objects.update_or_create(pk=1, defaults={"customer_budget": of_gateway})
        key = VirtualKey.objects.create(token_hash="e" * 64, display_name="sk-…e", customer_budget=of_key)
        Customer.objects.create(id="with its own", budget=own)

        book_calls(
            make_call(customer_id="with its own", key_id=key.pk.bytes),
            make_call(customer_id="of the key", key_id=key.pk.bytes),
            make_call(customer_id="of nobody"),
        )

        limits = {event.customer_id: event.body["max_budget"] for event in Event.objects.all()}
        self.assertEqual(limits, {"with its own": 1, "of the key": 2, "of nobody": 3})

    def test_only_priced_calls_of_a_customer_that_spent_are_told_of(self):
        make_endpoint()

        book_calls(
            make_call(customer_id="free", cost_usd="0"),
            make_call(customer_id="broken off", closed={"status": "failure", "usage_source": "partial"}),
            make_call(customer_id="unpriced", cost_usd=None),
            make_call(customer_id="failed", cost_usd="0", closed={"status": "failure"}),
            make_call(customer_id="refused", cost_usd="0", closed={"status": "refused"}),
            make_call(customer_id=None),
        )

        self.assertEqual(set(Event.objects.values_list("customer_id", flat=True)), {"free", "broken off"})

    def test_without_an_endpoint_nothing_is_written_unless_it_is_asked_for(self):
        book_calls(make_call(customer_id="acme"))
        self.assertFalse(Event.objects.exists() or EventCounter.objects.exists())

        with override_settings(SPEND_EVENTS="always"):
            book_calls(make_call(customer_id="acme"))

        self.assertEqual((Event.objects.count(), Delivery.objects.count()), (1, 0))

    def test_filters_say_who_is_told_of_what(self):
        everything, _ = make_endpoint()
        of_acme, _ = make_endpoint(customer_ids=["acme"])
        of_budgets, _ = make_endpoint(event_types=["budget_crossed"])
        make_endpoint(is_active=False)

        book_calls(make_call(customer_id="acme"), make_call(customer_id="other"))
        write(an_event(customer_id="other"))

        told = {
            (delivery.endpoint_id, delivery.event.customer_id, delivery.event.type)
            for delivery in Delivery.objects.select_related("event")
        }
        self.assertEqual(
            told,
            {
                (everything.pk, "acme", "spend_tracked"), (everything.pk, "other", "spend_tracked"),
                (of_acme.pk, "acme", "spend_tracked"), (everything.pk, "other", "budget_crossed"),
                (of_budgets.pk, "other", "budget_crossed"),
            },
        )  # fmt: skip

    def test_where_only_some_customers_are_wanted_the_others_cost_no_row(self):
        make_endpoint(customer_ids=["acme"])

        book_calls(make_call(customer_id="acme"), make_call(customer_id="other"))

        self.assertEqual(Event.objects.get().customer_id, "acme")

    def test_ids_of_every_kind_arrive_as_they_are(self):
        make_endpoint()
        names = ['"', "\\", 'a","b', "{}", "NULL", "null", "a,b", "ü漢🙂"]

        book_calls(*[make_call(customer_id=name) for name in names])

        events = Event.objects.order_by("sequence")
        self.assertEqual([event.body["customer_id"] for event in events], names)
        self.assertEqual([event.customer_id for event in events], names)

    def test_an_event_costs_a_booking_the_same_number_of_statements_however_many_there_are(self):
        def statements(*calls) -> int:
            from django.test.utils import CaptureQueriesContext

            with CaptureQueriesContext(connection) as context:
                book_calls(*calls)
            return len(context)

        without = statements(make_call(customer_id="acme"))
        make_endpoint()
        statements(make_call(customer_id="acme"))  # names and endpoints are known after it

        one = statements(make_call(customer_id="acme"))
        many = statements(*[make_call(customer_id=f"c{n}") for n in range(40)])

        extra = 4  # standings, number, events, deliveries
        if POSTGRESQL:
            self.assertLessEqual(one, without + extra)
            self.assertEqual(many, one)
        else:  # totals and customers are one statement each there
            self.assertLessEqual(one, without + extra)


class WritingTests(TestCase):
    def setUp(self):
        forget_what_is_cached(self)

    def test_numbers_follow_each_other_without_gaps(self):
        write(an_event(), an_event())
        write(an_event())

        self.assertEqual(
            list(Event.objects.order_by("sequence").values_list("sequence", flat=True)), [1, 2, 3]
        )

    def test_what_is_rolled_back_takes_no_number(self):
        write(an_event())
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                write_events(cursor, [an_event()], at=NOON)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

        (event_id,) = write(an_event())

        self.assertEqual(Event.objects.get(pk=event_id).sequence, 2)

    def test_mail_and_slack_get_a_delivery_each_and_an_address_only_one(self):
        make_endpoint()

        write(an_event(emails=("a@example.com", "b@example.com", "a@example.com"), slack=True, webhook=False))

        told = {(each.channel, each.lane, each.target) for each in Delivery.objects.all()}
        self.assertEqual(
            told,
            {
                ("email", "email", "a@example.com"),
                ("email", "email", "b@example.com"),
                ("slack", "slack", ""),
            },
        )

    def test_ids_timestamp_and_number_are_part_of_what_is_posted(self):
        (event_id,) = write(an_event(body={"spend": Decimal("0.10"), "id": "not this"}))

        event = Event.objects.get(pk=event_id)
        self.assertEqual(
            event.text,
            f'{{"spend":0.1,"id":"evt_{event_id.hex}","timestamp":"2026-07-15T12:00:00Z","sequence":1}}',
        )

    def test_a_delivery_is_due_at_once(self):
        make_endpoint()

        write(an_event())

        delivery = Delivery.objects.get()
        self.assertEqual(
            (delivery.state, delivery.attempts, delivery.next_attempt_at, delivery.since, delivery.failures),
            ("due", 0, NOON, NOON, []),
        )


class LateCommitTests(TransactionTestCase):
    """A reader who has seen 2 will never be shown a 1 that was committed later (E2)."""

    def setUp(self):
        forget_what_is_cached(self)

    @skipUnless(POSTGRESQL, "SQLite has one writer")
    def test_the_second_writer_waits_for_the_first_ones_commit(self):
        drew, may_commit, seen = threading.Event(), threading.Event(), []

        def slow() -> None:
            with transaction.atomic(), connection.cursor() as cursor:
                write_events(cursor, [an_event()], at=NOON)
                drew.set()
                may_commit.wait(20)
            connection.close()

        def quick() -> None:
            write(an_event(), at=NOON + timedelta(seconds=1))
            seen.extend(Event.objects.order_by("sequence").values_list("sequence", flat=True))
            connection.close()

        first, second = threading.Thread(target=slow), threading.Thread(target=quick)
        first.start()
        drew.wait(20)
        second.start()
        second.join(timeout=0.5)

        self.assertTrue(second.is_alive(), "it must wait for the number before its own")
        self.assertFalse(Event.objects.exists())
        may_commit.set()
        first.join(20)
        second.join(20)
        self.assertEqual(seen, [1, 2])
