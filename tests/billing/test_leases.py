"""Holds whose worker is gone: given back where nothing was sent, else booked by their estimates."""

import logging
import uuid
from datetime import timedelta
from unittest import mock

from django.db import OperationalError
from django.test import SimpleTestCase, TestCase

from billing.booking import ledger
from billing.booking.journal import adopt
from billing.booking.recorder import JournalBooker, JournalReader, Recorder, adopt_orphan
from billing.books.adjustments import adjust
from billing.budgets import leases
from billing.budgets.holds import release, renew
from billing.budgets.leases import GRACE_SECONDS, SWEEP_SECONDS, HoldSweep, book_expired, release_strays
from billing.models import Adjustment, Hold, JournalCheckpoint, SpendLog
from billing.usage import Usage
from customers.money import to_nano
from tests.billing.budgets import (
    AUGUST,
    JOURNAL,
    JULY,
    admitted,
    all_time,
    check_the_books,
    figures,
    july,
    settle,
    usd,
)
from tests.billing.making import (
    INSTALLATION,
    NOON,
    killed,
    make_closed,
    make_folder,
    make_journal,
    make_opened,
    make_sent,
    nano,
    total,
)

LATER = NOON + timedelta(minutes=5)
EXPIRED = -100.0  # a lease of so many seconds ran out long ago


def book_all_expired(*, limit: int = 100, at=LATER) -> int:
    return book_expired(limit, grace_s=30, at=at)


class ExpiredTests(TestCase):
    """H2: expiry without news books the call instead of giving its hold back."""

    def test_a_call_whose_lease_ran_out_is_booked_by_its_estimate(self):
        opened = admitted(
            (july(), "1"), (july("team", "red"), "1"), amount_usd="0.5", estimate_usd="0.3", lease_s=EXPIRED,
            team_id="red", user_id="bob", key_id=uuid.uuid4().bytes, tags=["a"], streamed=True,
        )  # fmt: skip

        self.assertEqual(book_all_expired(), 1)

        log = SpendLog.objects.get()
        self.assertEqual((log.pk.bytes, log.started_at, log.ended_at), (opened.call_id, NOON, LATER))
        self.assertEqual(
            (log.status, log.error_type, log.usage_source), ("interrupted", "lease_expired", "estimated")
        )
        self.assertEqual((log.usage, to_nano(log.cost)), (Usage(100, output_text=20), nano("0.3")))
        self.assertEqual(
            (log.customer_id, log.team_id, log.user_id, log.key_id.bytes, log.tags, log.model, log.streamed),
            ("acme", "red", "bob", opened.key_id, ["a"], "gpt-4o", True),
        )
        self.assertEqual((log.upstream, log.upstream_model), ("openai", "gpt-4o-2024-08-06"))
        self.assertEqual({figures(key) for key in (july(), july("team", "red"))}, {usd("0.3", "0", "0")})
        self.assertEqual(to_nano(total("team", "red")), nano("0.3"))
        check_the_books()

    def test_a_lease_that_runs_or_is_within_the_grace_is_left_alone(self):
        admitted((july(), "1"), lease_s=60)
        admitted((july(), "1"), lease_s=-20)

        self.assertEqual(book_all_expired(), 0)

        self.assertEqual(Hold.objects.count(), 2)

    def test_an_unpriced_one_stays_provisional(self):
        admitted((july(), "1"), estimate_usd=None, lease_s=EXPIRED)

        book_all_expired()

        self.assertIsNone(SpendLog.objects.get().cost)
        self.assertEqual(figures(july()), usd("0", "0", "0.25"))
        self.assertEqual(book_all_expired(), 0)

    def test_not_more_than_it_was_told_and_the_oldest_first(self):
        admitted((july(), "9"), lease_s=EXPIRED)
        old = [admitted((july(), "9"), lease_s=EXPIRED * 2) for _ in range(2)]

        self.assertEqual(book_all_expired(limit=2), 2)

        self.assertEqual({log.pk.bytes for log in SpendLog.objects.all()}, {call.call_id for call in old})

    def test_nobody_else_books_what_was_taken_over(self):
        """Two processes sweep at once; the first dies between taking over and booking."""
        admitted((july(), "1"), lease_s=EXPIRED)
        with mock.patch("billing.budgets.leases.ledger.book_estimates", side_effect=OperationalError):
            with self.assertRaises(OperationalError):
                book_all_expired()

        self.assertEqual(book_all_expired(), 0)
        self.assertEqual(figures(july()), usd("0", "0.25", "0"))

        renew(JOURNAL, lease_s=EXPIRED)  # a minute passes
        self.assertEqual(book_all_expired(), 1)

    def test_a_call_given_back_meanwhile_is_not_booked(self):
        """Its worker came back and knows that it never sent it."""
        gone, kept = (admitted((july(), "1"), lease_s=EXPIRED) for _ in range(2))

        with _before_booking(lambda: release([gone.call_id])):
            self.assertEqual(book_all_expired(), 1)

        self.assertEqual(SpendLog.objects.get().pk.bytes, kept.call_id)
        self.assertEqual(figures(july()), usd("0.25", "0", "0"))
        check_the_books()

    def test_a_call_settled_meanwhile_is_not_booked_again(self):
        done, other = (admitted((july(), "1"), lease_s=EXPIRED) for _ in range(2))

        with _before_booking(lambda: settle(done, cost_usd="0.5")):
            self.assertEqual(book_all_expired(), 1)

        self.assertEqual(figures(july()), usd("0.75", "0", "0"))
        self.assertEqual(SpendLog.objects.get(pk=uuid.UUID(bytes=other.call_id)).error_type, "lease_expired")
        check_the_books()

    def test_a_hold_that_came_after_its_booking_is_given_back(self):
        """An admission whose commit took longer than its call: the call is booked already."""
        opened = make_opened(customer_id="acme")
        settle(opened, cost_usd="0.5")
        admitted((july(), "1"), call_id=opened.call_id, lease_s=EXPIRED)

        self.assertEqual(book_all_expired(), 0)

        self.assertEqual(figures(july()), usd("0.5", "0", "0"))
        self.assertFalse(Hold.objects.exists())

    def test_a_poisoned_one_is_booked_as_a_minimal_row_and_the_rest_as_they_are(self):
        admitted((july(), "9"), lease_s=EXPIRED)
        bad = admitted((july(), "9"), lease_s=EXPIRED)
        bad_id = uuid.UUID(bytes=bad.call_id)
        Hold.objects.filter(call_id=bad_id).update(
            attribution={"dialect": "openai_chat", "model": "gpt-4o", "estimate_nano": 1 << 70}
        )

        with self.assertLogs("billing.budgets.leases", logging.ERROR):
            self.assertEqual(book_all_expired(), 2)

        self.assertEqual(SpendLog.objects.get(pk=bad_id).status, "quarantined")
        self.assertEqual(SpendLog.objects.exclude(pk=bad_id).get().error_type, "lease_expired")
        self.assertEqual(figures(july())[1], 0)


class LateJournalTests(TestCase):
    """H2: a journal that turns up later with that call books only the difference."""

    def setUp(self):
        self.folder = make_folder(self)

    def journal_of(self, opened, **closed):
        """Return the booker of a journal that turned up, with the call as it really was."""
        journal = make_journal(self, self.folder)
        journal.append(opened, make_sent(opened), make_closed(opened, **closed))
        journal.sync()
        return JournalBooker(journal.id, JournalReader(journal.path, INSTALLATION))

    def expired(self, key=None, *, estimate_usd: str | None = "0.25"):
        """Return a call that was booked because its lease ran out."""
        opened = admitted((key or all_time(), "9"), estimate_usd=estimate_usd, lease_s=EXPIRED)
        book_all_expired()
        return opened

    def book(self, booker):
        with self.assertLogs("billing.booking.recorder") as logs:
            booker.book_next(100)
        return [record.levelname for record in logs.records]

    def test_the_difference_is_booked_and_the_row_stays(self):
        for cost, charge in (("0.75", "0.8"), ("0.1", "0.1"), ("0", "0")):
            with self.subTest(cost):
                opened = self.expired()
                before = figures(all_time())[0] - nano("0.25")

                self.book(self.journal_of(opened, cost_usd=cost, charge_nano=nano(charge)))

                log = SpendLog.objects.get(pk=uuid.UUID(bytes=opened.call_id))
                adjustment = Adjustment.objects.get(log_id=log.pk)
                self.assertEqual(to_nano(log.cost), nano("0.25"))
                self.assertEqual(to_nano(adjustment.cost), nano(cost) - nano("0.25"))
                self.assertEqual(to_nano(adjustment.charge), nano(charge) - nano("0.25"))
                self.assertEqual((adjustment.reason, adjustment.customer_id), ("late_journal", "acme"))
                self.assertEqual(figures(all_time()), (before + nano(charge), 0, 0))
                check_the_books()
        self.assertEqual(to_nano(total("customer", "acme")), nano("0.75") + nano("0.1"))

    def test_the_rest_of_its_batch_is_booked_as_usual(self):
        opened = self.expired()
        journal = make_journal(self, self.folder)
        other = make_opened(customer_id="acme")
        for each in (opened, other):
            journal.append(each, make_sent(each), make_closed(each, cost_usd="0.5"))
        journal.sync()

        self.book(JournalBooker(journal.id, JournalReader(journal.path, INSTALLATION)))

        self.assertEqual(figures(all_time())[0], 2 * nano("0.5"))
        self.assertEqual(SpendLog.objects.count(), 2)

    def test_where_the_estimate_was_right_nothing_is_booked(self):
        opened = self.expired()

        self.assertIn("WARNING", self.book(self.journal_of(opened, cost_usd="0.25")))

        self.assertFalse(Adjustment.objects.exists())

    def test_twice_makes_no_difference_twice(self):
        opened = self.expired()

        for _ in range(2):
            self.book(self.journal_of(opened, cost_usd="0.75"))

        self.assertEqual(Adjustment.objects.count(), 1)
        self.assertEqual(figures(all_time())[0], nano("0.75"))

    def test_a_period_that_has_ended_is_closed(self):
        """M3: the total learns of it, July does not."""
        opened = self.expired(july())
        log = SpendLog.objects.get()

        adjust(log, cost_nano=nano("0.75"), charge_nano=nano("0.75"), reason="late_journal", at=AUGUST)

        self.assertEqual(figures(july())[0], nano("0.25"))
        self.assertEqual(to_nano(total("customer", "acme")), nano("0.75"))
        self.assertEqual(Adjustment.objects.get().started_at, log.started_at)
        self.assertEqual(log.pk.bytes, opened.call_id)
        check_the_books()

    def test_a_price_that_comes_late_clears_what_was_provisional(self):
        opened = self.expired(estimate_usd=None)
        self.assertEqual(figures(all_time()), usd("0", "0", "0.25"))

        self.book(self.journal_of(opened, cost_usd="0.75"))

        self.assertEqual(figures(all_time()), usd("0.75", "0", "0"))
        self.assertFalse(Hold.objects.exists())
        check_the_books()

    def test_a_journal_that_knows_no_price_changes_nothing(self):
        for estimate in ("0.25", None):
            opened = self.expired(estimate_usd=estimate)
            before = figures(all_time())

            self.book(self.journal_of(opened, cost_usd=None))

            self.assertEqual(figures(all_time()), before)
        self.assertFalse(Adjustment.objects.exists())

    def test_a_call_that_is_there_for_another_reason_stays_and_is_reported(self):
        opened = admitted((all_time(), "9"))
        settle(opened, cost_usd="0.5")

        self.assertIn("CRITICAL", self.book(self.journal_of(opened, cost_usd="0.75")))

        self.assertEqual(figures(all_time())[0], nano("0.5"))
        self.assertFalse(Adjustment.objects.exists())

    def test_a_difference_that_cannot_be_stored_does_not_stop_the_journal(self):
        opened = self.expired()

        self.assertIn("CRITICAL", self.book(self.journal_of(opened, cost_nano=(1 << 64) - 1)))

        self.assertEqual(figures(all_time())[0], nano("0.25"))


class UnopenedTests(TestCase):
    """H3: a kill between the admission and the first record must not refuse good calls."""

    def setUp(self):
        self.folder = make_folder(self)
        self.journal = make_journal(self, self.folder)

    def adopted(self):
        orphan = adopt(killed(self.journal))
        try:
            return adopt_orphan(orphan, INSTALLATION, batch=100)
        finally:
            orphan.release()

    def test_an_adopter_gives_back_what_never_came_to_be_sent(self):
        admitted((july(), "1"), journal_id=self.journal.id)

        self.adopted()

        self.assertEqual(figures(july()), (0, 0, 0))

    def test_and_books_what_was_sent(self):
        sent = admitted((july(), "9"), journal_id=self.journal.id)
        opened_only = admitted((july(), "9"), journal_id=self.journal.id)
        admitted((july(), "9"), journal_id=self.journal.id)
        stranger = admitted((july(), "9"))
        self.journal.append(sent, make_sent(sent, cost_usd="0.2"))
        self.journal.append(opened_only)

        self.assertEqual(self.adopted(), 2)

        self.assertEqual(figures(july()), usd("0.2", "0.25", "0"))
        self.assertEqual(Hold.objects.get().call_id.bytes, stranger.call_id)
        check_the_books()

    def test_an_admission_that_commits_after_the_adoption_is_found(self):
        self.adopted()
        admitted((july(), "1"), journal_id=self.journal.id)
        admitted((july(), "1"))

        self.assertEqual(release_strays(), 1)

        self.assertEqual(figures(july())[1], nano("0.25"))

    def test_a_journal_that_is_still_being_booked_keeps_its_holds(self):
        JournalCheckpoint.objects.create(journal_id=JOURNAL)
        admitted((july(), "1"))

        self.assertEqual(release_strays(), 0)

    def test_what_an_unpriced_call_left_outlives_its_journal(self):
        opened = admitted((july(), "1"), journal_id=self.journal.id)
        self.journal.append(opened, make_sent(opened, cost_usd=None))

        self.adopted()
        release_strays()

        self.assertEqual(figures(july()), usd("0", "0", "0.25"))


class SweepRuleTests(TestCase):
    """Leases may run out for all while the database is away: those that live must renew first."""

    def setUp(self):
        self.now = 1_000_000.0
        self.sweep = HoldSweep(clock=lambda: self.now)
        admitted((july(), "9"), lease_s=EXPIRED)

    def run_for(self, seconds: float) -> None:
        for _ in range(round(seconds / SWEEP_SECONDS) + 1):
            self.sweep.run()
            self.now += SWEEP_SECONDS

    def test_nothing_is_booked_before_the_database_was_there_for_the_whole_grace(self):
        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)
        self.assertEqual((self.sweep.booked_calls, SpendLog.objects.count()), (0, 0))

        self.run_for(0)
        self.assertEqual((self.sweep.booked_calls, SpendLog.objects.count()), (1, 1))

    def test_an_outage_begins_the_grace_again(self):
        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)
        self.sweep.lost_database()

        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)

        self.assertEqual(self.sweep.booked_calls, 0)

    def test_a_sweep_that_fails_is_an_outage(self):
        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)
        with mock.patch("billing.budgets.leases.release_strays", side_effect=OperationalError):
            with self.assertRaises(OperationalError):
                self.sweep.run()

        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)

        self.assertEqual(self.sweep.booked_calls, 0)

    def test_a_machine_that_slept_begins_the_grace_again(self):
        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)
        self.now += 3600

        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)
        self.assertEqual(self.sweep.booked_calls, 0)

        self.run_for(0)
        self.assertEqual(self.sweep.booked_calls, 1)

    def test_a_clock_that_was_set_back_books_nothing_early(self):
        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)
        self.now -= 3600

        self.run_for(GRACE_SECONDS - SWEEP_SECONDS)

        self.assertEqual(self.sweep.booked_calls, 0)

    def test_it_books_all_there_is_batch_by_batch(self):
        for _ in range(4):
            admitted((july(), "9"), lease_s=EXPIRED)

        with mock.patch("billing.budgets.leases._BATCH", 2):
            self.run_for(GRACE_SECONDS)

        self.assertEqual((self.sweep.booked_calls, Hold.objects.count()), (5, 0))


class RecorderTests(TestCase):
    """The recorder's thread sweeps, and tells the sweep of outages."""

    def setUp(self):
        self.recorder = Recorder(
            make_journal(self, make_folder(self)), INSTALLATION,
            interval=0.01, batch=100, keep_days=7, keep_bytes=1 << 30, clock=lambda: NOON,
        )  # fmt: skip

    def test_it_gives_strays_back(self):
        JournalCheckpoint.objects.create(journal_id=JOURNAL, finished=True)
        admitted((july(), "1"))

        self.recorder._work()

        self.assertFalse(Hold.objects.exists())

    def test_what_fails_in_the_recorder_begins_the_grace_again(self):
        self.recorder._work()

        def fail():
            raise OperationalError("away")

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            self.recorder._attempt(fail)

        self.assertIsNone(self.recorder._hold_sweep._reached_since)


class DamagedTests(SimpleTestCase):
    def test_a_closed_without_its_opened_counts_when_its_id_says(self):
        """Its period is found by the id's time, so that is when it started."""
        from billing.booking.recorder import _without_opened

        opened = make_opened(at=JULY)

        call = _without_opened(make_closed(opened))

        self.assertEqual(call.opened.started_us, opened.started_us)


def _before_booking(do):
    """Do something between the moment when leases are taken over and the booking."""
    book = ledger.book_estimates
    done = []

    def book_after(calls):
        if not done:
            done.append(True)
            do()
        return book(calls)

    return mock.patch.object(leases.ledger, "book_estimates", book_after)
