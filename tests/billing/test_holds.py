"""Holds: admitted together or not at all, released, renewed; and the arithmetic of a decision."""

import random
import uuid
from datetime import timedelta

from django.db import IntegrityError, connection
from django.db.models.functions import Now
from django.test import SimpleTestCase, TestCase
from django.test.utils import CaptureQueriesContext

from billing.budgets.holds import (
    Attribution,
    Balance,
    Granted,
    Refused,
    admit,
    decide,
    release,
    release_journal,
    renew,
)
from billing.budgets.periods import KnownPeriods, ensure_periods, start_afresh
from billing.models import BudgetPeriod, Hold
from tests.billing.budgets import (
    AUGUST,
    JOURNAL,
    LEASE_S,
    admit_one,
    admitted,
    all_time,
    check_the_books,
    figures,
    july,
    make_ask,
    period_of,
    settle,
    usd,
)
from tests.billing.making import NOON, book_calls, make_call, make_opened, make_sent, nano

ANOTHER_JOURNAL = uuid.UUID(int=8)


def balance(
    *, spent: str = "0", held: str = "0", provisional: str = "0", charge: str | None = None
) -> Balance:
    return Balance(nano(spent), nano(charge or spent), nano(held), nano(provisional))


class DecisionTests(SimpleTestCase):
    """Plain arithmetic, without a database."""

    def decide(self, limit: str, standing: Balance, amount: str = "0.25", **options):
        return decide(make_ask((july("team", "red"), limit), amount_usd=amount, **options), [standing])

    def test_it_holds_to_the_last_nano_and_not_one_more(self):
        for spent, held, provisional in (("0.75", "0", "0"), ("0.25", "0.5", "0"), ("0.25", "0.25", "0.25")):
            standing = {"spent": spent, "held": held, "provisional": provisional}
            self.assertIsInstance(self.decide("1", balance(**standing)), Granted)
            self.assertIsInstance(self.decide("0.999999999", balance(**standing)), Refused)

    def test_what_an_earlier_ask_of_the_batch_holds_counts(self):
        standing = balance(spent="0.5")

        decisions = [self.decide("1", standing) for _ in range(3)]

        self.assertEqual([type(each) for each in decisions], [Granted, Granted, Refused])
        self.assertEqual(standing.added_nano, 2 * nano("0.25"))

    def test_a_smaller_ask_behind_a_refused_one_may_fit(self):
        standing = balance(spent="0.9")

        decisions = [self.decide("1", standing, amount) for amount in ("0.2", "0.1")]

        self.assertEqual([type(each) for each in decisions], [Refused, Granted])

    def test_a_limit_of_nothing_refuses_at_once_also_what_is_free(self):
        for amount in ("0", "0.000000001"):
            self.assertIsInstance(self.decide("0", balance(), amount), Refused)

    def test_at_its_limit_a_holder_is_blocked_also_for_what_is_free(self):
        """Contract, decision 19: spend ≥ max refuses."""
        self.assertIsInstance(self.decide("1", balance(spent="1"), "0"), Refused)
        self.assertIsInstance(self.decide("1", balance(spent="0.5", provisional="0.5"), "0"), Refused)
        self.assertIsInstance(self.decide("1", balance(spent="0.999999999"), "0"), Granted)

    def test_what_is_free_is_not_refused_for_what_others_hold(self):
        self.assertIsInstance(self.decide("1", balance(held="1"), "0"), Granted)

    def test_a_customer_is_held_to_the_charge_and_everybody_else_to_the_cost(self):
        standing = balance(spent="0.1", charge="0.9")

        customer = decide(make_ask((july("customer", "acme"), "1"), amount_usd="0.5"), [standing])
        team = decide(make_ask((july("team", "red"), "1"), amount_usd="0.5"), [standing])

        self.assertEqual((type(customer), type(team)), (Refused, Granted))
        self.assertEqual((customer.spent_nano, team.spent_nano), (nano("0.9"), (nano("0.1"),)))

    def test_the_first_claim_that_does_not_fit_is_named_and_nothing_is_held(self):
        ask = make_ask(
            (july("team", "red"), "1"), (july("user", "bob"), "1"), (july(), "1"), amount_usd="0.5"
        )
        standings = [balance(), balance(spent="0.6", held="0.1", provisional="0.2"), balance(spent="2")]

        refused = decide(ask, standings)

        self.assertEqual(refused, Refused(ask.claims[1], *usd("0.6", "0.1", "0.2", "0.5")))
        self.assertEqual([each.added_nano for each in standings], [0, 0, 0])

    def test_units_are_what_the_tightest_claim_still_buys(self):
        """H6: a missing `max_tokens` becomes what the budget buys."""
        ask = make_ask(
            (july("team", "red"), "10"), (july(), "1"),
            amount_usd="0.3", unit_nano=nano("0.01"), min_units=1, max_units=1000,
        )  # fmt: skip

        granted = decide(ask, [balance(), balance(spent="0.255")])

        self.assertEqual((granted.units, granted.amount_nano), (44, nano("0.3") + 44 * nano("0.01")))

    def test_units_are_at_most_what_was_asked_for(self):
        for unit in ("0.01", "0"):
            granted = self.decide("100", balance(), "0.3", unit_nano=nano(unit), min_units=1, max_units=10)
            self.assertEqual((granted.units, granted.amount_nano), (10, nano("0.3") + 10 * nano(unit)))

    def test_units_below_the_least_are_refused(self):
        units = {"unit_nano": nano("0.01"), "min_units": 16, "max_units": 100}
        least = nano("0.3") + 16 * nano("0.01")

        granted = self.decide("0.46", balance(), "0.3", **units)
        refused = self.decide("0.459999999", balance(), "0.3", **units)

        self.assertEqual((granted.units, granted.amount_nano), (16, least))
        self.assertEqual(refused.asked_nano, least)


class AdmissionTests(TestCase):
    def test_a_hold_is_set_aside_on_every_period_of_the_call(self):
        ask = make_ask((july(), "1"), (july("gateway", "gateway"), "100"), amount_usd="0.25")

        granted = admit_one(ask)

        self.assertEqual(granted, Granted(nano("0.25"), 0, (0, 0)))
        self.assertEqual({figures(claim.period) for claim in ask.claims}, {usd("0", "0.25", "0")})
        holds = Hold.objects.all()
        self.assertEqual(
            {(h.call_id.bytes, h.journal_id, h.started_at) for h in holds}, {(ask.call_id, JOURNAL, NOON)}
        )
        check_the_books()

    def test_together_or_not_at_all(self):
        refused = admit_one(make_ask((july(), "1"), (july("team", "red"), "0.2"), amount_usd="0.25"))

        self.assertEqual(refused.claim.period, july("team", "red"))
        self.assertFalse(Hold.objects.exists())
        self.assertEqual({(row.held, row.last_limit) for row in BudgetPeriod.objects.all()}, {(0, None)})

    def test_a_refusal_writes_nothing(self):
        ensure_periods([july()])
        known = KnownPeriods()
        admit_one(make_ask((july(), "0.1")), known=known)  # learns the row

        with CaptureQueriesContext(connection) as queries:
            admit_one(make_ask((july(), "0.1")), known=known)

        written = [q["sql"] for q in queries if q["sql"].startswith(("UPDATE", "INSERT", "DELETE"))]
        self.assertEqual(written, [])

    def test_a_batch_is_a_handful_of_statements_however_many_calls(self):
        known = KnownPeriods()
        keys = [july(), july("team", "red"), july("gateway", "gateway")]
        admit_one(make_ask(*[(key, "100") for key in keys]), known=known)

        with CaptureQueriesContext(connection) as queries:
            admit(
                [make_ask(*[(key, "100") for key in keys]) for _ in range(50)], lease_s=LEASE_S, known=known
            )

        statements = [
            q["sql"] for q in queries if "SAVEPOINT" not in q["sql"] and "set_config" not in q["sql"]
        ]
        # On PostgreSQL periods and holds are written together.
        expected = ["SELECT", "WITH"] if connection.vendor == "postgresql" else ["SELECT", "UPDATE", "INSERT"]
        self.assertEqual([sql.split()[0] for sql in statements], expected)
        check_the_books()

    def test_a_batch_is_decided_in_the_order_of_arrival(self):
        asks = [make_ask((july(), "1"), amount_usd=amount) for amount in ("0.5", "0.6", "0.5", "0.1")]

        decisions = admit(asks, lease_s=LEASE_S, known=KnownPeriods())

        self.assertEqual([type(each) for each in decisions], [Granted, Refused, Granted, Refused])
        self.assertEqual(figures(july())[1], nano("1"))

    def test_a_call_without_claims_is_granted_and_holds_nothing(self):
        self.assertEqual(admit_one(make_ask(max_units=7)), Granted(nano("0.25"), 7, ()))
        self.assertFalse(Hold.objects.exists())

    def test_no_asks_no_decisions(self):
        self.assertEqual(admit([], lease_s=LEASE_S, known=KnownPeriods()), [])

    def test_what_was_booked_before_the_first_use_counts(self):
        book_calls(make_call(customer_id="acme", cost_usd="0.9"))

        refused = admit_one(make_ask((july(), "1")))

        self.assertEqual((refused.spent_nano, refused.held_nano), usd("0.9", "0"))

    def test_the_limit_is_the_one_of_now(self):
        """An edit of the budget bites with the next call, and the row notes it."""
        admitted((july(), "1"), amount_usd="0.5")

        self.assertIsInstance(admit_one(make_ask((july(), "0.6"))), Refused)
        self.assertIsInstance(admit_one(make_ask((july(), "0.75"))), Granted)

        self.assertEqual(str(period_of(july()).last_limit), "0.750000000")

    def test_the_started_at_of_a_call_decides_its_period(self):
        with self.assertRaisesMessage(ValueError, "does not contain"):
            admit_one(make_ask((july(), "1"), opened=make_opened(at=AUGUST)))

    def test_a_call_id_that_comes_twice_holds_once(self):
        """A retry after a lost answer must release first; the database insists."""
        ask = make_ask((july(), "1"))
        admit_one(ask)

        with self.assertRaises(IntegrityError):
            admit_one(ask)

        self.assertEqual(figures(july())[1], nano("0.25"))

    def test_a_lease_runs_by_the_clock_of_the_database(self):
        admitted((july(), "1"), lease_s=75)

        left = Hold.objects.annotate(now=Now()).values_list("lease_expires_at", "now").get()
        self.assertAlmostEqual((left[0] - left[1]).total_seconds(), 75, delta=5)

    def test_the_first_hold_of_a_call_says_who_called(self):
        opened = make_opened(
            key_id=uuid.uuid4().bytes, team_id="red", user_id="bob", customer_id="acme", tags=["a"],
            streamed=True, client_tool="curl", session_id="s1",
        )  # fmt: skip
        ask = make_ask((july(), "1"), (july("team", "red"), "1"), opened=opened)

        admit_one(ask)

        notes = {hold.period.holder_type: hold.attribution for hold in Hold.objects.select_related("period")}
        self.assertIsNone(notes["team"])
        self.assertEqual((notes["customer"]["model"], notes["customer"]["tags"]), ("gpt-4o", ["a"]))

    def test_an_attribution_makes_the_records_that_the_journal_would_have(self):
        opened = make_opened(
            key_id=uuid.uuid4().bytes, team_id="red", user_id="bob", customer_id="acme", tags=["a"],
            streamed=True, client_tool="curl", session_id="s1",
        )  # fmt: skip
        sent = make_sent(opened, price_id=3)

        records = Attribution.of(opened, sent).records(opened.call_id, opened.started_us)

        self.assertEqual(records, (opened, sent))


class ReleaseTests(TestCase):
    def test_a_call_that_was_never_sent_gives_back_what_it_held(self):
        kept = admitted((july(), "1"), (july("team", "red"), "1"))
        gone = admitted((july(), "1"), (july("team", "red"), "1"))

        self.assertEqual(release([gone.call_id, make_opened().call_id]), 2)

        self.assertEqual({figures(key) for key in (july(), july("team", "red"))}, {usd("0", "0.25", "0")})
        self.assertEqual({hold.call_id.bytes for hold in Hold.objects.all()}, {kept.call_id})

    def test_twice_gives_back_once(self):
        """H1: only what came back is subtracted."""
        opened = admitted((july(), "1"))
        admitted((july(), "1"))

        self.assertEqual([release([opened.call_id]), release([opened.call_id]), release([])], [1, 0, 0])

        self.assertEqual(figures(july())[1], nano("0.25"))
        check_the_books()

    def test_a_settled_call_has_nothing_to_give_back(self):
        opened = admitted((july(), "1"))
        settle(opened, cost_usd="0.5")

        self.assertEqual(release([opened.call_id]), 0)

        self.assertEqual(figures(july()), usd("0.5", "0", "0"))

    def test_what_an_unpriced_call_left_is_not_given_back(self):
        """H7: only a price clears it."""
        opened = admitted((july(), "1"))
        settle(opened, cost_usd=None)

        self.assertEqual((release([opened.call_id]), release_journal(JOURNAL)), (0, 0))

        self.assertEqual(figures(july()), usd("0", "0", "0.25"))

    def test_a_journal_gives_back_its_own(self):
        admitted((july(), "1"))
        admitted((july(), "1"), journal_id=ANOTHER_JOURNAL)

        self.assertEqual(release_journal(JOURNAL), 1)

        self.assertEqual(Hold.objects.get().journal_id, ANOTHER_JOURNAL)
        check_the_books()


class RenewalTests(TestCase):
    def setUp(self):
        self.calls = [admitted((july(), "9"), lease_s=10) for _ in range(2)]
        self.stranger = admitted((july(), "9"), lease_s=10, journal_id=ANOTHER_JOURNAL)
        self.before = self.leases()

    def leases(self):
        return {hold.call_id.bytes: hold.lease_expires_at for hold in Hold.objects.all()}

    def renewed(self):
        return {call_id for call_id, lease in self.leases().items() if lease != self.before[call_id]}

    def test_a_worker_renews_what_its_calls_hold(self):
        self.assertEqual(renew(JOURNAL, lease_s=60), 2)

        self.assertEqual(self.renewed(), {call.call_id for call in self.calls})
        left = [self.leases()[call.call_id] - self.before[call.call_id] for call in self.calls]
        self.assertTrue(all(timedelta(seconds=45) < each < timedelta(seconds=60) for each in left), left)

    def test_or_what_those_hold_that_it_names(self):
        ids = [self.calls[0].call_id, self.stranger.call_id]

        self.assertEqual(renew(JOURNAL, lease_s=60, call_ids=ids), 1)

        self.assertEqual(self.renewed(), {self.calls[0].call_id})

    def test_a_lease_that_ran_out_can_be_renewed_while_the_hold_is_there(self):
        """After an outage, workers that live renew first."""
        renew(JOURNAL, lease_s=-100)

        self.assertEqual(renew(JOURNAL, lease_s=60), 2)

        self.assertTrue(all(self.leases()[call.call_id] > self.before[call.call_id] for call in self.calls))

    def test_what_an_unpriced_call_left_gets_no_lease(self):
        settle(self.calls[0], cost_usd=None)

        self.assertEqual(renew(JOURNAL, lease_s=60), 1)

        self.assertIsNone(self.leases()[self.calls[0].call_id])

    def test_nothing_is_renewed_where_no_call_lives(self):
        self.assertEqual(renew(JOURNAL, lease_s=60, call_ids=[]), 0)
        self.assertEqual(self.renewed(), set())


class KnownPeriodsTests(TestCase):
    def test_it_keeps_within_its_bounds_and_a_batch_still_finds_its_rows(self):
        known = KnownPeriods(most=10)
        for turn in range(20):
            keys = [july("customer", f"c{number}") for number in (0, *range(turn * 4, turn * 4 + 4))]
            decisions = admit([make_ask((key, "99")) for key in keys], lease_s=LEASE_S, known=known)
            self.assertEqual({type(each) for each in decisions}, {Granted})

            self.assertLessEqual(len(known._rows), 10 + len(keys))

    def test_a_stale_memory_is_put_right(self):
        """Whatever a thread remembers, what it holds on is what the database says."""
        known = KnownPeriods()
        draw = random.Random(1)
        keys = [july("customer", f"c{number}") for number in range(5)] + [all_time()]
        for minute in range(30):
            at = NOON + timedelta(minutes=minute)
            start_afresh(draw.sample(keys, 2), at=at)
            admit_one(make_ask((draw.choice(keys), "9"), opened=make_opened(at=at)), known=known)
            for hold in Hold.objects.select_related("period"):
                self.assertLessEqual(hold.period.counts_from, hold.started_at)
                self.assertTrue(hold.period.ends_at is None or hold.started_at < hold.period.ends_at)
        check_the_books()
