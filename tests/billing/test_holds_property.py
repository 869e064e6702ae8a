"""
Any order of events keeps the books: admissions, settlements, crashes, expiries, fresh starts.

Processes are journals, as in life: their calls are admitted, sent and closed, their
recorders book, they are killed and adopted, or lost with their disk, which turns up
again or does not. After every step each period is what its logs, adjustments and holds
add up to, row by row (`check_the_books`).
"""

import logging
import tempfile
import uuid
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from django.db import transaction
from django.test import TestCase
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.booking.journal import Journal, adopt
from billing.booking.recorder import JournalBooker, JournalReader, adopt_orphan
from billing.booking.records import interrupted
from billing.budgets.holds import Granted, admit, release, renew
from billing.budgets.leases import book_expired, release_strays
from billing.budgets.periods import KnownPeriods, PeriodKey, ensure_periods, start_afresh
from billing.models import Adjustment, BudgetPeriod, Hold, SpendLog
from customers.money import to_nano
from tests.billing.budgets import all_time, check_the_books, contains, make_ask, settle_calls
from tests.billing.making import INSTALLATION, NOON, killed, make_call, make_closed, make_opened, make_sent

HOUR = timedelta(hours=1)
LIMIT = "2"
ENDINGS = [
    {"cost_usd": "0.1"},
    {"cost_usd": "0.25", "charge_nano": 300_000_000},
    {"cost_usd": "1.5"},  # more than was held
    {"cost_usd": None},
    {"cost_usd": "0", "status": "refused"},
    {"cost_usd": "0", "status": "failure"},
]


class Process:
    """A web process: its journal, its recorder, and the calls it has under way."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder, INSTALLATION)
        self.booker = JournalBooker(self.journal.id, JournalReader(self.journal.path, INSTALLATION))
        self.known = KnownPeriods()
        self.held: list = []  # `opened` of calls that were admitted
        self.sent: list = []  # (opened, sent)
        self.endings: dict = {}  # call id → the `closed` in the journal


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="spend-books-")
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.now = NOON
        # The recorder reads the clock where it books what a late journal says.
        self.clock = mock.patch(
            "billing.booking.recorder.datetime", SimpleNamespace(now=lambda zone: self.now)
        )
        self.clock.start()
        self.alive: list[Process] = []
        self.lost: list[Process] = []

    def teardown(self) -> None:
        self.clock.stop()
        for process in self.alive + self.lost:
            killed(process.journal)
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)
        self.folder.cleanup()

    # -- budgets -------------------------------------------------------------------

    def hour(self, holder: tuple[str, str], scope: str = "") -> PeriodKey:
        start = self.now.replace(minute=0, second=0, microsecond=0)
        return PeriodKey(*holder, scope, "1h UTC v1", start, start + HOUR)

    holders = st.sampled_from(
        [
            ("customer", "acme"),
            ("team", "red"),
            ("gateway", "gateway"),
            ("tag", "t"),
            ("team_member", "red\nbob"),
        ]
    )

    @rule(holder=holders, scope=st.sampled_from(["", "gpt-4o"]), endless=st.booleans())
    def attach(self, holder, scope, endless):
        key = all_time(*holder, scope) if endless else self.hour(holder, scope)
        ensure_periods([key])

    @rule(holder=holders, endless=st.booleans())
    def start_afresh(self, holder, endless):
        start_afresh([all_time(*holder) if endless else self.hour(holder)], at=self.now)

    @rule(minutes=st.sampled_from([0.001, 7, 61]))
    def time_passes(self, minutes):
        self.now += timedelta(minutes=minutes)

    # -- calls ---------------------------------------------------------------------

    @initialize()
    def first_process(self):
        self.start()

    @precondition(lambda self: len(self.alive) < 3)
    @rule()
    def start(self):
        self.alive.append(Process(Path(self.folder.name)))

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        model=st.sampled_from(["gpt-4o", "o3"]),
        amounts=st.lists(st.sampled_from(["0", "0.25", "0.9"]), min_size=1, max_size=4),
        sent=st.integers(0, 4),
        estimate=st.sampled_from(["0.25", None]),
    )
    def admit(self, data, model, amounts, sent, estimate):
        """Have calls admitted, and the first few of them sent."""
        process = data.draw(st.sampled_from(self.alive))
        keys = [
            self.hour(("customer", "acme")),
            self.hour(("team", "red"), model),
            all_time("gateway", "gateway"),
        ]
        calls = [
            make_opened(
                at=self.now, customer_id="acme", model=model, team_id="red", user_id="bob", tags=["t"]
            )
            for _ in amounts
        ]
        asks = [
            make_ask(
                *[(key, LIMIT) for key in keys[: 1 + number]],
                amount_usd=amount, opened=opened, journal_id=process.journal.id, estimate_usd=estimate,
            )
            for number, (opened, amount) in enumerate(zip(calls, amounts, strict=True))
        ]  # fmt: skip
        decisions = admit(asks, lease_s=60, known=process.known)
        granted = [
            each for each, decision in zip(calls, decisions, strict=True) if isinstance(decision, Granted)
        ]
        for opened in granted[:sent]:
            note = make_sent(opened, cost_usd=estimate)
            process.journal.append(opened, note)
            process.sent.append((opened, note))
        process.held += granted[sent:]
        made = Hold.objects.filter(call_id__in=[uuid.UUID(bytes=opened.call_id) for opened in granted])
        assert all(contains(hold.period, hold.started_at) for hold in made.select_related("period"))

    @precondition(lambda self: any(process.held for process in self.alive))
    @rule(data=st.data())
    def give_back(self, data):
        process = data.draw(st.sampled_from([process for process in self.alive if process.held]))
        release([process.held.pop().call_id])

    endings = st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=4)

    @precondition(lambda self: any(process.sent for process in self.alive))
    @rule(data=st.data(), endings=endings)
    def calls_end_and_are_booked(self, data, endings):
        process = data.draw(st.sampled_from([process for process in self.alive if process.sent]))
        self._close(process, endings)
        process.journal.sync()
        process.booker.book_next(100, until=process.journal.synced)

    @rule(cost=st.sampled_from(["0.3", None]))
    def a_call_that_holds_nothing_is_booked(self, cost):
        settle_calls(make_call(at=self.now, customer_id="acme", team_id="red", cost_usd=cost))

    # -- what goes wrong -------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def a_process_is_killed_and_adopted(self, data):
        process = data.draw(st.sampled_from(self.alive))
        self.alive.remove(process)
        self._adopt(process)

    @precondition(lambda self: any(process.held or process.sent for process in self.alive))
    @rule(data=st.data(), endings=endings, limit=st.sampled_from([1, 100]))
    def a_process_is_lost_with_its_disk(self, data, endings, limit):
        """Some of its calls had ended; nobody knows. Their leases run out."""
        process = data.draw(st.sampled_from([each for each in self.alive if each.held or each.sent]))
        self._close(process, endings)
        self.alive.remove(process)
        self.lost.append(process)
        killed(process.journal)
        renew(process.journal.id, lease_s=-100)
        book_expired(limit, grace_s=30, at=self.now)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def a_lost_disk_turns_up(self, data):
        process = data.draw(st.sampled_from(self.lost))
        self.lost.remove(process)
        self._adopt(process)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def leases_are_renewed_and_strays_swept(self, data):
        renew(data.draw(st.sampled_from(self.alive)).journal.id, lease_s=60)
        release_strays()

    def _close(self, process: Process, endings: list[dict]) -> None:
        """Have the oldest calls of a process end."""
        for ending in endings[: len(process.sent)]:
            opened, _ = process.sent.pop(0)
            process.endings[opened.call_id] = closed = make_closed(opened, **ending)
            process.journal.append(closed)

    def _adopt(self, process: Process) -> None:
        for opened, sent in process.sent:
            process.endings[opened.call_id] = interrupted(opened, sent, at_us=opened.started_us)
        orphan = adopt(killed(process.journal))
        try:
            adopt_orphan(orphan, INSTALLATION, batch=100)
        finally:
            orphan.release()
        assert not Hold.objects.filter(journal_id=process.journal.id, lease_expires_at__isnull=False).exists()
        self._check_that_it_is_booked(process)

    def _check_that_it_is_booked(self, process: Process) -> None:
        """What the journal says is what is booked: by the log, or by the log and its adjustments."""
        for call_id, closed in process.endings.items():
            log = SpendLog.objects.get(pk=uuid.UUID(bytes=call_id))
            adjusted = sum(to_nano(row.cost) for row in Adjustment.objects.filter(log_id=log.pk))
            if closed.cost_nano is None:
                assert not adjusted
            else:
                assert to_nano(log.cost or 0) + adjusted == closed.cost_nano

    # -- what must hold ----------------------------------------------------------------

    @invariant()
    def the_books_are_right(self):
        check_the_books()

    @invariant()
    def no_more_is_held_than_was_admitted(self):
        for period in BudgetPeriod.objects.filter(held__gt=0):
            assert to_nano(period.held) <= to_nano(period.last_limit)


class BooksTests(TestCase):
    def test_any_order_of_events_keeps_the_books(self):
        logging.disable(logging.CRITICAL)  # of crashes and late journals there are plenty here
        self.addCleanup(logging.disable, logging.NOTSET)
        run_state_machine_as_test(
            Books,
            settings=settings(
                max_examples=40, stateful_step_count=40, deadline=None, database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
