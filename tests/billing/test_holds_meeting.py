"""Holds and periods under real concurrency: threads with connections of their own."""

import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock, skipUnless

from django.db import connection, connections, transaction
from django.test import TransactionTestCase

from billing.budgets import leases, periods, settlement
from billing.budgets.holds import Granted, admit, release, renew
from billing.budgets.leases import book_expired
from billing.budgets.periods import KnownPeriods, ensure_periods, start_afresh
from billing.models import BudgetPeriod, Hold, SpendLog
from tests.billing.budgets import (
    JOURNAL,
    LEASE_S,
    admit_one,
    admitted,
    all_time,
    check_the_books,
    figures,
    july,
    make_ask,
    settle,
    usd,
)
from tests.billing.making import NOON, book_calls, make_call, make_opened, nano

POSTGRESQL = connection.vendor == "postgresql"
on_postgresql = skipUnless(POSTGRESQL, "SQLite has one writer: its transactions cannot meet")


class Threads:
    """Runs functions in threads, each with a connection of its own, and raises what they raised."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._errors.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a thread hangs"
        if self._errors:
            raise self._errors[0]


def wait_until_somebody_waits_for_a_lock() -> None:
    """Return as soon as another session of this database stands in line."""
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if cursor.fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


@contextmanager
def paused(module, name: str):
    """Have the first call of `module.name` stop before it begins. Yields (is there, may go on)."""
    is_there, may_go_on = threading.Event(), threading.Event()
    original = getattr(module, name)

    def stop_first(*args, **kwargs):
        if not is_there.is_set():
            is_there.set()
            assert may_go_on.wait(30)
        return original(*args, **kwargs)

    with mock.patch.object(module, name, stop_first):
        try:
            yield is_there, may_go_on
        finally:
            may_go_on.set()


class RoomTests(TransactionTestCase):
    def test_of_500_calls_exactly_those_pass_that_there_is_room_for(self):
        granted = []

        def work():
            known = KnownPeriods()  # as each web process has its own
            for _ in range(25):
                asks = [make_ask((july(), "1"), (july("gateway", "gateway"), "100"), amount_usd="0.1")]
                granted.extend(
                    each for each in admit(asks, lease_s=LEASE_S, known=known) if isinstance(each, Granted)
                )

        threads = Threads()
        for _ in range(20):
            threads.start(work)
        threads.join()

        self.assertEqual(len(granted), 10)
        self.assertEqual(Hold.objects.count(), 20)
        self.assertEqual(figures(july()), usd("0", "1", "0"))
        check_the_books()

    def test_everything_at_once_neither_deadlocks_nor_loses_a_nano(self):
        customers = [f"c{number}" for number in range(6)]
        journals = [uuid.UUID(int=number) for number in range(1, 4)]

        def work(seed):
            draw, known = random.Random(seed), KnownPeriods()
            for turn in range(25):
                at = NOON + timedelta(seconds=turn)
                names = draw.sample(customers, 3)
                opened = [
                    make_opened(at=at, customer_id=name, team_id="red", tags=draw.sample(customers, 2))
                    for name in names
                ]
                keys = [
                    all_time("gateway", "gateway"),
                    july("team", "red"),
                    july("tag", draw.choice(customers)),
                ]
                asks = [
                    make_ask(
                        *[
                            (key, "1000")
                            for key in draw.sample([*keys, july("customer", each.customer_id)], 3)
                        ],
                        opened=each,
                        journal_id=draw.choice(journals),
                    )
                    for each in opened
                ]
                admit(asks, lease_s=LEASE_S, known=known)
                settle(opened[0], cost_usd=draw.choice(["0.1", "0.5", None]))
                release([opened[1].call_id])
                renew(draw.choice(journals), lease_s=LEASE_S)
                if turn % 8 == seed:
                    start_afresh([july("customer", names[0]), july("team", "red")], at=at)

        threads = Threads()
        for seed in range(5):
            threads.start(lambda seed=seed: work(seed))
        threads.join()

        self.assertEqual(SpendLog.objects.count(), 5 * 25)
        check_the_books()


@on_postgresql
class FirstUseTests(TransactionTestCase):
    """H5: making a period meets the recorder, either way round."""

    def test_a_period_made_while_a_booking_is_under_way_counts_it(self):
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))
        threads = Threads()

        with paused(settlement, "running_periods") as (totals_are_written, may_go_on):
            ensure_periods([july("team", "red")])  # so that settlement looks at all
            threads.start(lambda: book_calls(make_call(customer_id="acme", cost_usd="0.25")))
            self.assertTrue(totals_are_written.wait(30))
            threads.start(lambda: ensure_periods([july(), all_time()]))
            wait_until_somebody_waits_for_a_lock()
            may_go_on.set()
            threads.join()

        self.assertEqual((figures(july())[0], figures(all_time())[0]), usd("0.75", "0.75"))
        check_the_books()

    def test_a_booking_that_comes_while_a_period_is_made_counts_in_it(self):
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))
        threads = Threads()

        with paused(periods, "_insert") as (is_summed_up, may_go_on):
            threads.start(lambda: ensure_periods([july(), all_time()]))
            self.assertTrue(is_summed_up.wait(30))
            threads.start(lambda: book_calls(make_call(customer_id="acme", cost_usd="0.25")))
            wait_until_somebody_waits_for_a_lock()
            may_go_on.set()
            threads.join()

        self.assertEqual((figures(july())[0], figures(all_time())[0]), usd("0.75", "0.75"))
        check_the_books()

    def test_also_for_a_holder_that_nobody_has_seen_before(self):
        for module, name in ((settlement, "running_periods"), (periods, "_insert")):
            holder = f"seen first by {name}"
            ensure_periods([july("team", "red")])
            threads = Threads()
            with paused(module, name) as (is_there, may_go_on):
                works = [
                    lambda holder=holder: book_calls(make_call(customer_id=holder, cost_usd="0.25")),
                    lambda holder=holder: ensure_periods([july("customer", holder)]),
                ]
                first, second = works if module is settlement else works[::-1]
                threads.start(first)
                self.assertTrue(is_there.wait(30))
                threads.start(second)
                wait_until_somebody_waits_for_a_lock()
                may_go_on.set()
                threads.join()
            self.assertEqual(figures(july("customer", holder))[0], nano("0.25"), name)

    def test_two_that_make_the_same_period_make_one(self):
        threads = Threads()

        with paused(periods, "_insert") as (is_there, may_go_on):
            for _ in range(3):
                threads.start(lambda: admit_one(make_ask((july(), "9"))))
            self.assertTrue(is_there.wait(30))
            wait_until_somebody_waits_for_a_lock()
            may_go_on.set()
            threads.join()

        self.assertEqual(figures(july())[1], 3 * nano("0.25"))
        self.assertEqual(BudgetPeriod.objects.count(), 1)

    def test_starting_afresh_meets_a_booking(self):
        """Whichever comes first, the call counts where it started."""
        cut = NOON + timedelta(hours=1)
        for number, (module, name) in enumerate(((settlement, "running_periods"), (periods, "_insert"))):
            key = july("customer", f"c{number}")
            ensure_periods([key])
            threads = Threads()
            with paused(module, name) as (is_there, may_go_on):
                calls = [make_call(customer_id=key.holder_id, cost_usd="0.25", at=at) for at in (NOON, cut)]
                works = [
                    lambda calls=calls: book_calls(*calls),
                    lambda key=key: start_afresh([key], at=cut),
                ]
                first, second = works if module is settlement else works[::-1]
                threads.start(first)
                self.assertTrue(is_there.wait(30))
                threads.start(second)
                wait_until_somebody_waits_for_a_lock()
                may_go_on.set()
                threads.join()
            self.assertEqual([figures(key, each)[0] for each in (0, 1)], [nano("0.25")] * 2, name)
        check_the_books()


@on_postgresql
class LeaseTests(TransactionTestCase):
    def test_renewal_does_not_wait_for_a_settlement(self):
        """Two that lock many holds in different orders would deadlock; renewal skips instead."""
        settling, living = (admitted((july(), "9"), lease_s=10) for _ in range(2))
        done = threading.Event()
        threads = Threads()

        def renew_all():
            self.assertEqual(renew(JOURNAL, lease_s=60), 1)
            done.set()

        with transaction.atomic():
            Hold.objects.select_for_update().get(call_id=uuid.UUID(bytes=settling.call_id))
            threads.start(renew_all)
            self.assertTrue(done.wait(30))
        threads.join()
        self.assertEqual(Hold.objects.order_by("-lease_expires_at")[0].call_id.bytes, living.call_id)

    def test_two_sweeps_book_each_call_once(self):
        for _ in range(40):
            admitted((july(), "99"), estimate_usd="0.25", lease_s=-100)
        booked = []

        def sweep():
            while count := book_expired(7, grace_s=30, at=NOON):
                booked.append(count)

        threads = Threads()
        for _ in range(3):
            threads.start(sweep)
        threads.join()

        self.assertEqual((sum(booked), SpendLog.objects.count()), (40, 40))
        self.assertEqual(figures(july()), (40 * nano("0.25"), 0, 0))
        check_the_books()

    def test_an_expiry_that_meets_the_journal_books_once(self):
        """The journal is booked between the look and the booking, and is faster."""
        opened = admitted((july(), "9"), lease_s=-100)
        threads = Threads()

        with paused(leases.ledger, "book_estimates") as (has_looked, may_go_on):
            threads.start(lambda: book_expired(10, grace_s=30, at=NOON))
            self.assertTrue(has_looked.wait(30))
            settle(opened, cost_usd="0.5")
            may_go_on.set()
            threads.join()

        self.assertEqual(figures(july()), usd("0.5", "0", "0"))
        self.assertEqual(SpendLog.objects.get().status, "success")
        check_the_books()
