"""From journals to rows, exactly once: races, crashes, poison and a database that is away."""

import logging
import os
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from unittest import mock, skipUnless

from django.db import OperationalError, close_old_connections, connection, connections
from django.test import TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext

from billing.booking import ledger
from billing.booking.journal import Damage, ForeignJournal, Position, adopt, segment_path, segments_of
from billing.booking.ledger import Booking, LostFence
from billing.booking.recorder import JournalBooker, JournalReader, Recorder, adopt_orphan
from billing.booking.records import CallRecords
from billing.models import JournalCheckpoint, SpendLog, SpendTotal
from billing.usage import Usage
from tests.billing.making import (
    INSTALLATION,
    NOON,
    START,
    append_call,
    killed,
    make_call,
    make_closed,
    make_folder,
    make_journal,
    make_opened,
    make_sent,
    nano,
    records_in,
    total,
)

POSTGRESQL = connection.vendor == "postgresql"


def make_booker(journal, *, booked=START) -> JournalBooker:
    return JournalBooker(journal.id, JournalReader(journal.path, INSTALLATION), booked=booked)


def book_all(booker: JournalBooker, limit: int = 100) -> int:
    count = 0
    while booked := booker.book_next(limit):
        count += booked
    return count


def adopted(path, *, batch: int = 100) -> int:
    """Adopt the journal at `path` as another process would; return how many calls that booked."""
    orphan = adopt(path)
    try:
        return adopt_orphan(orphan, INSTALLATION, batch=batch)
    finally:
        orphan.release()


def costs() -> dict[bytes, object]:
    """Return what is booked: call id → cost."""
    return {log.pk.bytes: log.cost for log in SpendLog.objects.all()}


class JournalCase:
    def setUp(self):
        super().setUp()
        self.folder = make_folder(self)

    def make(self, **options):
        return make_journal(self, self.folder, **options)


class BookingTests(JournalCase, TestCase):
    def test_each_finished_call_becomes_one_row(self):
        journal = self.make()
        calls = [append_call(journal, make_call(cost_usd=cost)) for cost in ("0.1", "0.2", "0.3")]

        count = book_all(make_booker(journal))

        self.assertEqual(count, 3)
        self.assertEqual(
            {call_id: nano(str(cost)) for call_id, cost in costs().items()},
            {call.opened.call_id: call.closed.cost_nano for call in calls},
        )

    def test_a_call_that_is_still_open_is_not_booked(self):
        journal = self.make()
        opened = make_opened()
        journal.append(opened)
        journal.append(make_sent(opened))

        count = book_all(make_booker(journal))

        self.assertEqual((count, costs()), (0, {}))

    def test_a_call_is_booked_when_it_ends_however_far_behind_its_beginning(self):
        journal = self.make(segment_bytes=300)
        early = make_opened(customer_id="early")
        journal.append(early)
        booker = make_booker(journal)
        for _ in range(10):
            append_call(journal, make_call())
            book_all(booker, limit=1)

        journal.append(make_closed(early))
        book_all(booker)

        self.assertEqual(SpendLog.objects.get(customer_id="early").pk.bytes, early.call_id)
        self.assertEqual(SpendLog.objects.count(), 11)

    def test_the_checkpoint_says_how_far_it_is_booked(self):
        journal = self.make()
        append_call(journal, make_call())

        book_all(make_booker(journal))

        checkpoint = JournalCheckpoint.objects.get(pk=journal.id)
        self.assertEqual(Position(checkpoint.segment, checkpoint.position), journal.end)

    def test_damaged_bytes_become_a_visible_row_and_what_follows_is_booked(self):
        journal = self.make()
        append_call(journal, make_call())
        begin = journal.end.offset
        append_call(journal, make_call())
        append_call(journal, make_call())
        path = segment_path(journal.path, 1)
        data = bytearray(path.read_bytes())
        data[begin + 12] ^= 0xFF  # in the `opened` of the second call
        path.write_bytes(data)

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            book_all(make_booker(journal))

        damage = SpendLog.objects.get(status="quarantined")
        self.assertIsNone(damage.cost)
        self.assertIn(f"offset {begin}", damage.error_message)
        self.assertEqual(SpendLog.objects.filter(status="success").count(), 3)  # a cost never vanishes

    def test_a_file_that_fails_to_be_read_half_way_loses_no_call(self):
        journal = self.make()
        calls = [append_call(journal, make_call()) for _ in range(3)]
        booker = make_booker(journal)

        with mock.patch("billing.booking.recorder.read", _failing_after(4)), self.assertRaises(OSError):
            booker.book_next(100)
        book_all(booker)

        self.assertEqual(set(costs()), {call.opened.call_id for call in calls})


class ExactlyOnceTests(JournalCase, TestCase):
    """J3: the checkpoint is a fence."""

    def setUp(self):
        super().setUp()
        self.journal = self.make()
        self.calls = [append_call(self.journal, make_call(cost_usd="0.5")) for _ in range(5)]

    def test_of_two_recorders_on_one_journal_one_books(self):
        one, other = make_booker(self.journal), make_booker(self.journal)
        other._reader.take(3)  # has read another stretch

        book_all(one)
        with self.assertRaises(LostFence):
            ledger.book(Booking(self.journal.id, self.calls[:3], START, other._reader.position))

        self.assertEqual(len(costs()), 5)
        self.assertEqual(total("gateway", "gateway"), 5 * self.calls_cost())

    def test_a_recorder_that_lost_the_fence_writes_nothing(self):
        strangers = [make_call(customer_id="stranger")]
        book_all(make_booker(self.journal))

        for before in (START, Position(1, 5)):
            with self.assertRaises(LostFence):
                ledger.book(Booking(self.journal.id, strangers, before, Position(9, 9)))

        self.assertEqual(SpendLog.objects.filter(customer_id="stranger").count(), 0)
        self.assertEqual(total("customer", "stranger"), 0)

    def test_the_fence_is_the_first_statement(self):
        booker = make_booker(self.journal)

        with CaptureQueriesContext(connection) as queries:
            booker.book_next(2)
            booker.book_next(2)

        statements = [query["sql"] for query in queries]
        begins = [i for i, sql in enumerate(statements) if sql.startswith("SAVEPOINT")]
        self.assertEqual(len(begins), 2)
        for i in begins:
            self.assertIn("billing_journalcheckpoint", statements[i + 1])

    def test_an_answer_lost_after_the_commit_books_nothing_twice(self):
        booker = make_booker(self.journal)

        with _losing_the_answer(), self.assertRaises(OperationalError):
            booker.book_next(3)
        self.assertEqual(len(costs()), 3)
        book_all(booker)

        self.assertEqual(len(costs()), 5)
        self.assertEqual(total("gateway", "gateway"), 5 * self.calls_cost())

    def test_a_database_that_fails_before_the_commit_loses_nothing(self):
        booker = make_booker(self.journal)

        with mock.patch("billing.booking.ledger._add_totals", side_effect=OperationalError("gone")):
            for _ in range(3):
                with self.assertRaises(OperationalError):
                    booker.book_next(3)
        self.assertEqual(costs(), {})
        book_all(booker)

        self.assertEqual(set(costs()), {call.opened.call_id for call in self.calls})

    def test_a_call_that_is_in_the_log_already_is_not_added_again(self):
        ledger.book(Booking(uuid.uuid4(), self.calls[:1], START, Position(1, 1)))

        with self.assertLogs("billing.booking.recorder", logging.CRITICAL):
            book_all(make_booker(self.journal))

        self.assertEqual(len(costs()), 5)
        self.assertEqual(total("gateway", "gateway"), 5 * self.calls_cost())

    def test_a_record_that_stands_in_the_journal_twice_is_booked_once(self):
        self.journal.append(self.calls[4].opened, self.calls[4].closed)
        last = append_call(self.journal, make_call(cost_usd="0.5"))

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            book_all(make_booker(self.journal))

        self.assertIn(last.opened.call_id, costs())
        self.assertEqual(total("gateway", "gateway"), 6 * self.calls_cost())

    def calls_cost(self):
        return costs()[self.calls[0].opened.call_id]


@skipUnless(POSTGRESQL, "SQLite has one writer: its transactions cannot meet")
class RaceTests(JournalCase, TransactionTestCase):
    def test_two_recorders_that_meet_in_the_database_book_once(self):
        journal = self.make()
        calls = [append_call(journal, make_call(cost_usd="1", customer_id="acme")) for _ in range(4)]
        first, second = make_booker(journal), make_booker(journal)
        has_fence, outcomes = threading.Event(), {}
        insert_logs = ledger._insert_logs

        def insert_while_the_other_waits(cursor, calls):
            has_fence.set()
            time.sleep(0.3)  # the second recorder now waits for the row that the first has locked
            insert_logs(cursor, calls)

        def book(name, booker, limit):
            try:
                outcomes[name] = booker.book_next(limit)
            except LostFence:
                outcomes[name] = "lost the fence"
            finally:
                connections.close_all()

        with mock.patch("billing.booking.ledger._insert_logs", insert_while_the_other_waits):
            one = threading.Thread(target=book, args=("first", first, 4))
            one.start()
            has_fence.wait(10)
            two = threading.Thread(target=book, args=("second", second, 3))
            two.start()
            one.join()
            two.join()

        self.assertEqual(outcomes, {"first": 4, "second": "lost the fence"})
        self.assertEqual(set(costs()), {call.opened.call_id for call in calls})
        self.assertEqual(total("customer", "acme"), 4 * 1)


class AdoptionTests(JournalCase, TestCase):
    """J1, J2, J6: a process died; whoever comes next finishes its journal."""

    def test_a_call_that_was_never_sent_costs_nothing(self):
        journal = self.make()
        opened = make_opened(customer_id="acme")
        journal.append(opened)

        adopted(killed(journal))

        log = SpendLog.objects.get()
        self.assertEqual((log.pk.bytes, log.status, log.cost), (opened.call_id, "not_sent", 0))
        self.assertEqual((log.usage_source, log.usage.total_tokens), ("none", 0))

    def test_a_call_that_was_sent_is_booked_by_its_estimate(self):
        journal = self.make()
        opened = make_opened(customer_id="acme")
        journal.append(opened)
        journal.append(make_sent(opened, cost_usd="0.25", estimated_input=100, estimated_output=20))

        adopted(killed(journal))

        log = SpendLog.objects.get()
        self.assertEqual(
            (log.status, log.usage_source, nano(str(log.cost))), ("interrupted", "estimated", nano("0.25"))
        )
        self.assertEqual(log.usage, Usage(input_uncached=100, output_text=20))
        self.assertEqual((log.customer_id, log.upstream, log.deployment_id), ("acme", "openai", 7))

    def test_of_several_attempts_the_last_counts(self):
        journal = self.make()
        opened = make_opened()
        journal.append(opened, make_sent(opened, cost_usd="0.25"))
        journal.append(make_sent(opened, cost_usd="0.75", upstream="second"))

        adopted(killed(journal))

        self.assertEqual(
            [(log.upstream, nano(str(log.cost))) for log in SpendLog.objects.all()],
            [("second", nano("0.75"))],
        )

    def test_a_call_without_a_price_stays_unpriced(self):
        journal = self.make()
        opened = make_opened()
        journal.append(opened, make_sent(opened, cost_usd=None))

        adopted(killed(journal))

        self.assertEqual(SpendLog.objects.get().usage_state, "unpriced")

    def test_adopting_twice_books_once(self):
        path, calls = self.dead_journal()

        first, second = adopted(path), adopted(path)
        JournalCheckpoint.objects.update(finished=False)  # as if the first had died before it said so
        third = adopted(path)

        self.assertEqual((first, second, third), (len(calls) - 2, 0, 0))
        self.check(calls)

    def test_what_an_adopter_adds_is_in_the_journal_and_booked_from_there(self):
        journal = self.make()
        opened = make_opened()
        journal.append(opened)
        path = killed(journal)

        with mock.patch("billing.booking.recorder.JournalBooker.book_next", return_value=0):
            adopted(path)

        self.assertEqual(records_in(path)[-1].call_id, opened.call_id)
        self.assertEqual(records_in(path)[-1].status, "not_sent")
        self.assertEqual(costs(), {})

    def test_an_adopter_that_dies_before_it_books_is_followed_by_the_next(self):
        path, calls = self.dead_journal()

        with mock.patch("billing.booking.ledger.book", side_effect=OperationalError("gone")):
            with self.assertRaises(OperationalError):
                adopted(path)
        adopted(path)

        self.check(calls)

    def test_an_adopter_that_dies_after_any_of_its_commits_is_followed_by_the_next(self):
        for survives in range(7):
            with self.subTest(commits=survives):
                SpendLog.objects.all().delete()
                SpendTotal.objects.all().delete()
                path, calls = self.dead_journal()

                with _dying_after(survives), suppress(OperationalError):
                    adopted(path, batch=1)
                adopted(path, batch=2)

                self.check(calls)

    def test_an_adopter_that_dies_while_it_writes_is_followed_by_the_next(self):
        path, calls = self.dead_journal()
        segment = segment_path(path, segments_of(path)[-1])
        before = segment.stat().st_size
        with mock.patch("billing.booking.recorder.JournalBooker.book_next", return_value=0):
            adopted(path)
        JournalCheckpoint.objects.all().delete()
        whole = segment.read_bytes()

        for length in range(before, len(whole), 13):
            with self.subTest(length=length):
                SpendLog.objects.all().delete()
                SpendTotal.objects.all().delete()
                JournalCheckpoint.objects.all().delete()
                segment.write_bytes(whole[:length])

                adopted(path)

                self.check(calls)

    def test_an_opened_record_before_the_checkpoint_is_not_forgotten(self):
        journal = self.make(segment_bytes=300)
        early = make_opened(customer_id="early")
        journal.append(early)
        journal.append(make_sent(early, cost_usd="0.25"))
        later = [append_call(journal, make_call()) for _ in range(8)]
        book_all(make_booker(journal))

        adopted(killed(journal))

        self.assertEqual(len(costs()), len(later) + 1)
        self.assertEqual(SpendLog.objects.get(customer_id="early").status, "interrupted")

    def test_a_torn_tail_is_no_obstacle(self):
        journal = self.make()
        call = append_call(journal, make_call())
        opened = make_opened()
        journal.append(opened)
        torn = segment_path(killed(journal), 1)
        with torn.open("ab") as file:
            file.write(b"\xabR\x00\x01")

        adopted(journal.path)

        self.assertEqual(set(costs()), {call.opened.call_id, opened.call_id})

    def test_a_journal_found_months_later_is_booked_like_any_other(self):
        journal = self.make()
        opened = make_opened(at=NOON - timedelta(days=400), customer_id="acme")
        journal.append(opened, make_sent(opened))

        adopted(killed(journal))

        log = SpendLog.objects.get()
        self.assertEqual(
            (log.status, log.customer_id, log.started_at), ("interrupted", "acme", NOON - timedelta(days=400))
        )

    def test_a_journal_without_a_record_is_finished_at_once(self):
        self.assertEqual(adopted(killed(self.make())), 0)

    def test_a_foreign_journal_is_left_as_it_is(self):
        journal = self.make(installation_id=uuid.uuid4())
        journal.append(make_opened())
        path = killed(journal)
        before = segment_path(path, 1).read_bytes()

        with self.assertRaises(ForeignJournal):
            adopted(path)

        self.assertEqual(segment_path(path, 1).read_bytes(), before)
        self.assertFalse(JournalCheckpoint.objects.exists())

    def dead_journal(self):
        """Return (a dead process's journal, what its calls must cost): booked half, four calls open."""
        journal = self.make(segment_bytes=500)
        expected = {}
        booker = make_booker(journal)
        for i in range(6):
            call = append_call(journal, make_call(cost_usd="0.5", customer_id=f"c{i % 2}"))
            expected[call.opened.call_id] = "0.5"
            opened = make_opened(customer_id=f"c{i % 2}")
            if i < 4:
                journal.append(opened)
                expected[opened.call_id] = "0"
            if i % 2:
                journal.append(make_sent(opened, cost_usd="0.25"))
                if i < 4:
                    expected[opened.call_id] = "0.25"
        booker.book_next(2)
        return killed(journal), expected

    def check(self, expected):
        self.assertEqual(
            {call_id: nano(str(cost)) for call_id, cost in costs().items()},
            {call_id: nano(cost) for call_id, cost in expected.items()},
        )
        self.assertEqual(
            nano(str(total("gateway", "gateway"))), sum(nano(cost) for cost in expected.values())
        )


class PoisonTests(JournalCase, TestCase):
    """J4: one bad record stops nothing, and is seen."""

    def book_with(self, *poison, limit=100):
        journal = self.make()
        good = [append_call(journal, make_call(cost_usd="0.5", customer_id="good")) for _ in range(3)]
        for call in poison:
            append_call(journal, call)
        good += [append_call(journal, make_call(cost_usd="0.5", customer_id="good")) for _ in range(3)]
        book_all(make_booker(journal), limit)
        self.assertEqual(SpendLog.objects.filter(customer_id="good", status="success").count(), len(good))
        self.assertEqual(total("customer", "good"), nano("0.5") * 6 / 10**9)

    def check_quarantined(self, call, *, cost_usd):
        log = SpendLog.objects.get(pk=uuid.UUID(bytes=call.opened.call_id))
        self.assertEqual(log.status, "quarantined")
        self.assertEqual(log.error_type, "quarantined")
        self.assertIn("The database refused this row", log.error_message)
        self.assertEqual(None if log.cost is None else nano(str(log.cost)), nano(cost_usd))

    @skipUnless(POSTGRESQL, "SQLite stores NUL")
    def test_a_nul_is_quarantined_with_its_cost(self):
        for field, value in (
            ("model", "gpt\0"),
            ("session_id", "\0"),
            ("metadata", {"k": "\0"}),
            ("tags", ["\0"]),
        ):
            with self.subTest(field=field):
                call = make_call(cost_usd="0.125", **{field: value})

                with self.assertLogs("billing.booking.recorder", logging.ERROR):
                    self.book_with(call)

                self.check_quarantined(call, cost_usd="0.125")
                SpendLog.objects.all().delete()
                SpendTotal.objects.all().delete()

    @skipUnless(POSTGRESQL, "SQLite has no limit on text")
    def test_an_overlong_text_is_quarantined_with_its_cost(self):
        call = make_call(cost_usd="0.125", closed={"error_message": "x" * 501})

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            self.book_with(call)

        self.check_quarantined(call, cost_usd="0.125")

    def test_tokens_beyond_64_bits_are_quarantined_with_their_cost(self):
        call = make_call(cost_usd="0.125", closed={"usage": Usage(input_uncached=1 << 63)})

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            self.book_with(call)

        self.check_quarantined(call, cost_usd="0.125")

    def test_a_cost_beyond_64_bits_is_quarantined_as_unpriced(self):
        call = make_call(closed={"cost_nano": 1 << 63, "charge_nano": 1 << 63})

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            self.book_with(call)

        self.check_quarantined(call, cost_usd=None)
        self.assertEqual(SpendTotal.objects.get(holder_type="gateway").unpriced_calls, 1)

    def test_a_charge_beyond_64_bits_keeps_the_cost(self):
        call = make_call(cost_usd="0.125", closed={"charge_nano": 1 << 63})

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            self.book_with(call)

        self.check_quarantined(call, cost_usd="0.125")

    def test_an_instant_out_of_this_world_is_quarantined_with_its_cost(self):
        for started_us in (1 << 62, -(1 << 62)):
            call = make_call(cost_usd="0.125")
            call.opened.started_us = started_us
            with (
                self.subTest(started_us=started_us),
                self.assertLogs("billing.booking.recorder", logging.ERROR),
            ):
                self.book_with(call)

                self.check_quarantined(call, cost_usd="0.125")
            SpendLog.objects.all().delete()
            SpendTotal.objects.all().delete()

    def test_a_lone_surrogate_is_quarantined_with_its_cost(self):
        # A journal cannot hold one, so the reader is played.
        good, bad = make_call(cost_usd="0.5"), make_call(cost_usd="0.125", model="gpt-\ud800")
        reader = mock.Mock(position=Position(1, 100), take=mock.Mock(side_effect=[[good, bad], []]))

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            book_all(JournalBooker(uuid.uuid4(), reader))

        self.check_quarantined(bad, cost_usd="0.125")
        self.assertEqual(SpendLog.objects.get(status="success").pk.bytes, good.opened.call_id)

    def test_several_in_one_batch_and_alone_in_theirs(self):
        for limit in (100, 1):
            bad = [make_call(cost_usd="0.125", closed={"usage": Usage(reasoning=1 << 63)}) for _ in range(2)]
            with self.subTest(limit=limit), self.assertLogs("billing.booking.recorder", logging.ERROR):
                self.book_with(*bad, limit=limit)

                for call in bad:
                    self.check_quarantined(call, cost_usd="0.125")
            SpendLog.objects.all().delete()
            SpendTotal.objects.all().delete()

    def test_a_quarantined_cost_is_in_the_total_of_the_gateway(self):
        call = make_call(cost_usd="0.125", closed={"usage": Usage(cache_read=1 << 63)})

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            self.book_with(call)

        self.assertEqual(nano(str(total("gateway", "gateway"))), 6 * nano("0.5") + nano("0.125"))

    def test_a_database_that_goes_away_while_the_culprit_is_sought_is_no_verdict(self):
        journal = self.make()
        bad = append_call(journal, make_call(cost_usd="0.125", closed={"usage": Usage(reasoning=1 << 63)}))
        good = append_call(journal, make_call(cost_usd="0.5"))
        booker = make_booker(journal)

        with self.assertLogs("billing.booking.recorder", logging.ERROR):
            with mock.patch("billing.booking.ledger.rehearse", side_effect=OperationalError("gone")):
                with self.assertRaises(OperationalError):
                    booker.book_next(10)
            book_all(booker)

        self.check_quarantined(bad, cost_usd="0.125")
        self.assertEqual(SpendLog.objects.get(status="success").pk.bytes, good.opened.call_id)


class RecorderTests(JournalCase, TransactionTestCase):
    """The thread itself, against a database that comes and goes."""

    def start(self, journal, **options):
        given = {"interval": 0.01, "batch": 10, "keep_days": 7, "keep_bytes": 1 << 40, **options}
        recorder = Recorder(journal, INSTALLATION, **given)
        recorder.start()
        self.addCleanup(lambda: recorder.is_alive() and recorder.stop(deadline=time.monotonic() + 5))
        return recorder

    def test_only_what_is_on_the_disk_is_booked(self):
        journal = self.make()
        synced = append_call(journal, make_call())
        journal.sync()
        not_synced = append_call(journal, make_call())
        recorder = self.start(journal)

        _wait_until(lambda: recorder.booked_calls == 1)
        time.sleep(0.1)  # ten more rounds
        before = set(costs())
        journal.sync()
        _wait_until(lambda: recorder.booked_calls == 2)

        self.assertEqual(before, {synced.opened.call_id})
        self.assertEqual(set(costs()), {synced.opened.call_id, not_synced.opened.call_id})

    def test_a_database_that_comes_back_finds_every_call_once(self):
        journal = self.make()
        is_away = True

        def book(booking):
            if is_away:
                raise OperationalError("the database is away")
            original(booking)

        original = ledger.book
        with (
            mock.patch("billing.booking.ledger.book", book),
            self.assertLogs("billing.booking.recorder", logging.ERROR),
        ):
            recorder = self.start(journal)
            calls = [append_call(journal, make_call(cost_usd="0.5")) for _ in range(25)]
            journal.sync()
            _wait_until(lambda: recorder.last_error == "OperationalError")
            calls += [append_call(journal, make_call(cost_usd="0.5")) for _ in range(5)]
            journal.sync()
            self.assertEqual(costs(), {})
            self.assertGreater(recorder.backlog_bytes, 0)

            is_away = False
            _wait_until(lambda: recorder.booked_calls == 30)

        self.assertEqual(set(costs()), {call.opened.call_id for call in calls})
        self.assertEqual(nano(str(total("gateway", "gateway"))), 30 * nano("0.5"))
        self.assertIsNone(recorder.last_error)
        self.assertEqual(recorder.backlog_bytes, 0)

    def test_a_commit_whose_answer_is_lost_is_not_repeated(self):
        journal = self.make()
        calls = [append_call(journal, make_call(cost_usd="0.5")) for _ in range(25)]
        journal.sync()

        with _losing_the_answer(times=2), self.assertLogs("billing.booking.recorder", logging.ERROR):
            recorder = self.start(journal)
            _wait_until(lambda: len(costs()) == 25 and recorder.backlog_bytes == 0)

        self.assertEqual(set(costs()), {call.opened.call_id for call in calls})
        self.assertEqual(nano(str(total("gateway", "gateway"))), 25 * nano("0.5"))

    def test_it_adopts_the_journals_of_the_dead_beside_its_own(self):
        dead = self.make()
        opened = make_opened()
        dead.append(opened, make_sent(opened))
        call = append_call(dead, make_call())
        killed(dead)

        recorder = self.start(self.make())
        _wait_until(lambda: recorder.booked_calls == 2)

        self.assertEqual(set(costs()), {opened.call_id, call.opened.call_id})
        self.assertTrue(JournalCheckpoint.objects.get(pk=dead.id).finished)

    def test_a_journal_that_cannot_be_adopted_does_not_keep_it_from_the_others(self):
        foreign = self.make(installation_id=uuid.uuid4())
        foreign.append(make_opened())
        killed(foreign)
        broken, good = sorted((self.make(), self.make()), key=lambda journal: journal.path)
        broken.append(make_opened())
        segment = segment_path(killed(broken), 1)
        call = append_call(good, make_call())
        killed(good)

        with (
            mock.patch("billing.booking.recorder.adopt_orphan", _failing_for(broken.id)),
            self.assertLogs("billing.booking.recorder", logging.ERROR) as logs,
        ):
            recorder = self.start(self.make())
            _wait_until(lambda: recorder.booked_calls == 1 and str(foreign.id) in str(logs.output))

        self.assertEqual(set(costs()), {call.opened.call_id})
        self.assertTrue(segment.exists())

    def test_it_books_what_is_left_when_it_stops(self):
        journal = self.make()
        recorder = self.start(journal, interval=60)
        call = append_call(journal, make_call())
        journal.sync()

        is_done = recorder.stop(deadline=time.monotonic() + 10)

        self.assertTrue(is_done)
        self.assertEqual(set(costs()), {call.opened.call_id})

    def test_it_gives_up_at_the_deadline_and_says_so(self):
        journal = self.make()
        append_call(journal, make_call())
        journal.sync()

        with (
            mock.patch("billing.booking.ledger.book", side_effect=OperationalError("away")),
            self.assertLogs("billing.booking.recorder", logging.ERROR),
        ):
            recorder = self.start(journal, interval=60)
            is_done = recorder.stop(deadline=time.monotonic() + 0.3)

        self.assertFalse(is_done)


class RetentionTests(JournalCase, TestCase):
    """J1, J5: what may be removed, and when."""

    def make_recorder(self, journal, **options):
        given = {"interval": 60, "batch": 100, "keep_days": 7, "keep_bytes": 1 << 40, **options}
        return Recorder(journal, INSTALLATION, **given)

    def make_old(self, path, *, days=8):
        for number in segments_of(path):
            then = time.time() - days * 86_400
            os.utime(segment_path(path, number), (then, then))

    def test_old_segments_that_are_booked_are_removed(self):
        journal = self.make(segment_bytes=300)
        for _ in range(6):
            append_call(journal, make_call())
        recorder = self.make_recorder(journal)
        book_all(recorder._booker)
        self.make_old(journal.path)

        recorder._remove_old()

        self.assertEqual(segments_of(journal.path), [journal.end.segment])

    def test_young_segments_stay(self):
        journal = self.make(segment_bytes=300)
        for _ in range(6):
            append_call(journal, make_call())
        recorder = self.make_recorder(journal)
        book_all(recorder._booker)
        self.make_old(journal.path, days=6)
        before = segments_of(journal.path)

        recorder._remove_old()

        self.assertEqual(segments_of(journal.path), before)

    def test_the_oldest_go_when_there_are_more_bytes_than_may_be_kept(self):
        journal = self.make(segment_bytes=300)
        for _ in range(6):
            append_call(journal, make_call())
        for i, number in enumerate(segments_of(journal.path)):
            os.utime(segment_path(journal.path, number), (time.time() - 100 + i,) * 2)
        numbers = segments_of(journal.path)
        newest_two = sum(segment_path(journal.path, number).stat().st_size for number in numbers[-2:])
        recorder = self.make_recorder(journal, keep_bytes=newest_two)
        book_all(recorder._booker)

        recorder._remove_old()

        self.assertEqual(segments_of(journal.path), numbers[-3:])  # the third is where the limit falls

    def test_a_segment_that_is_not_booked_stays_however_old(self):
        journal = self.make(segment_bytes=300)
        for _ in range(6):
            append_call(journal, make_call())
        recorder = self.make_recorder(journal)
        recorder._booker.book_next(2)
        booked = recorder._booker.booked.segment
        self.make_old(journal.path)

        recorder._remove_old()

        self.assertEqual(segments_of(journal.path)[0], booked)

    def test_an_open_call_keeps_the_segment_it_was_opened_in(self):
        journal = self.make(segment_bytes=300)
        append_call(journal, make_call())
        early = make_opened(customer_id="early")
        journal.append(early)
        kept = journal.end.segment
        for _ in range(6):
            append_call(journal, make_call())
        recorder = self.make_recorder(journal)
        book_all(recorder._booker)
        self.make_old(journal.path)

        recorder._remove_old()
        adopted(killed(journal))

        self.assertEqual(segments_of(journal.path)[0], kept)
        self.assertEqual(SpendLog.objects.get(customer_id="early").pk.bytes, early.call_id)

    def test_a_call_that_was_read_but_not_booked_keeps_its_segment_too(self):
        journal = self.make(segment_bytes=300)
        early = make_opened(customer_id="early")
        journal.append(early)
        for _ in range(6):
            append_call(journal, make_call())
        recorder = self.make_recorder(journal)
        book_all(recorder._booker)
        journal.append(make_closed(early))
        with mock.patch("billing.booking.ledger.book", side_effect=OperationalError("away")):
            with self.assertRaises(OperationalError):
                recorder._booker.book_next(10)
        self.make_old(journal.path)

        recorder._remove_old()
        adopted(killed(journal))

        self.assertEqual(SpendLog.objects.get(customer_id="early").pk.bytes, early.call_id)

    def test_a_dead_journal_goes_as_a_whole_when_all_of_it_is_old(self):
        dead = self.make(segment_bytes=300)
        for _ in range(3):
            append_call(dead, make_call())
        path = killed(dead)
        recorder = self.make_recorder(self.make())
        recorder._adopt_orphans()
        newest = segment_path(path, segments_of(path)[-1])
        self.make_old(path)
        os.utime(newest)

        recorder._remove_old()
        while_young = path.exists()
        self.make_old(path)
        recorder._remove_old()

        self.assertTrue(while_young)
        self.assertFalse(path.exists())

    def test_its_checkpoint_outlives_it(self):
        dead = self.make()
        append_call(dead, make_call())
        path = killed(dead)
        recorder = self.make_recorder(self.make())
        recorder._adopt_orphans()
        self.make_old(path)

        recorder._remove_old()

        self.assertTrue(JournalCheckpoint.objects.filter(pk=dead.id, finished=True).exists())

    def test_a_dead_journal_that_could_not_be_booked_stays_however_old(self):
        dead = self.make()
        append_call(dead, make_call())
        path = killed(dead)
        self.make_old(path)
        recorder = self.make_recorder(self.make())

        with mock.patch("billing.booking.ledger.book", side_effect=OperationalError("away")):
            with self.assertRaises(OperationalError):
                recorder._adopt_orphans()
        recorder._remove_old()

        self.assertTrue(path.exists())


class ReaderTests(JournalCase, TestCase):
    def test_it_takes_no_more_calls_than_asked_for(self):
        journal = self.make()
        calls = [append_call(journal, make_call(model=str(i))) for i in range(5)]
        reader = JournalReader(journal.path, INSTALLATION)

        batches = [reader.take(2), reader.take(2), reader.take(2), reader.take(2)]

        self.assertEqual(batches, [calls[:2], calls[2:4], calls[4:], []])

    def test_it_goes_on_where_the_journal_grew(self):
        journal = self.make()
        reader = JournalReader(journal.path, INSTALLATION)
        first = append_call(journal, make_call())
        taken = reader.take(10)
        second = append_call(journal, make_call())

        self.assertEqual(taken, [first])
        self.assertEqual(reader.take(10), [second])

    def test_a_closed_whose_opened_is_lost_still_counts(self):
        journal = self.make()
        closed = make_closed(make_opened(), cost_usd="0.5")
        journal.append(closed)

        [call] = JournalReader(journal.path, INSTALLATION).take(10)

        self.assertIsInstance(call, CallRecords)
        self.assertEqual((call.opened.call_id, call.closed), (closed.call_id, closed))

    def test_damage_names_its_place(self):
        journal = self.make()
        reader = JournalReader(journal.path, INSTALLATION)
        damage = Damage(segment=3, offset=44, length=55)

        with self.assertLogs("billing.booking.recorder", logging.ERROR) as logs:
            call = reader._damaged(damage)

        self.assertIn("segment 3, offset 44, 55 bytes", call.closed.error_message)
        self.assertIn(journal.path.name, logs.output[0])


# -- failures ------------------------------------------------------------------------


@contextmanager
def _losing_the_answer(times: int = 1):
    """Have the next bookings commit and then fail, as when the connection breaks in between."""
    book = ledger.book
    left = [times]

    def book_and_fail(booking):
        book(booking)
        if left[0]:
            left[0] -= 1
            raise OperationalError("server closed the connection unexpectedly")

    with mock.patch("billing.booking.ledger.book", book_and_fail):
        yield


@contextmanager
def _dying_after(commits: int):
    """Have a process die behind that many bookings."""
    book = ledger.book
    left = [commits]

    def book_or_die(booking):
        if not left[0]:
            raise OperationalError("killed")
        left[0] -= 1
        book(booking)

    with mock.patch("billing.booking.ledger.book", book_or_die):
        yield


def _failing_after(count: int):
    """Return a `read` that breaks behind so many records, as a failing disk does."""
    from billing.booking.journal import read

    def failing_read(*args, **kwargs):
        for i, item in enumerate(read(*args, **kwargs)):
            if i == count:
                raise OSError("input/output error")
            yield item

    return failing_read


def _failing_for(journal_id):
    def adopt_or_fail(orphan, *args, **kwargs):
        if orphan.id == journal_id:
            raise OSError("input/output error")
        return adopt_orphan(orphan, *args, **kwargs)

    return adopt_or_fail


def _wait_until(is_true, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        close_old_connections()
        time.sleep(0.01)
