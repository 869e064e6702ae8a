"""The ledger: rows, customers and totals of one booking, and bookings that meet."""

import json
import random
import threading
import uuid
from collections import Counter, defaultdict
from datetime import timedelta
from unittest import skipUnless

from django.db import IntegrityError, connection, connections
from django.test import TestCase, TransactionTestCase
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from billing.booking import ledger
from billing.booking.journal import Position
from billing.booking.ledger import Booking, book
from billing.booking.records import CallRecords
from billing.models import HolderType, JournalCheckpoint, SpendLog, SpendTotal
from billing.models.spend_total import GATEWAY_ID, MASTER_KEY_ID, team_member_id
from billing.usage import BUCKETS, Usage
from customers.models import Customer
from customers.money import to_nano
from tests.billing.making import (
    NOON,
    START,
    book_calls,
    make_call,
    make_closed,
    make_opened,
    microseconds,
    nano,
    total,
)

POSTGRESQL = connection.vendor == "postgresql"
KEYS = [uuid.UUID(int=1), uuid.UUID(int=2)]


class RowTests(TestCase):
    def test_a_row_keeps_everything_the_records_say(self):
        usage = Usage(*range(1, 12))
        call = make_call(
            cost_usd="1.000000001",
            key_id=KEYS[0].bytes,
            team_id="red",
            user_id="bob",
            customer_id="acme",
            tags=["a", "b"],
            streamed=True,
            session_id="s1",
            user_agent="curl/8",
            client_tool="curl",
            client_call_id="mine",
            metadata={"spend_logs_metadata": {"k": [1, 2.5, None]}},
            request_body="{}",
            closed={
                "usage": usage,
                "price_id": 3,
                "deployment_id": 4,
                "upstream": "openai",
                "provider": "openai",
                "upstream_model": "gpt-4o-2024-08-06",
                "response_id": "chatcmpl-1",
                "service_tier": "default",
                "first_token_us": 250_999,
                "attempts": [{"deployment_id": 4, "status": 200}],
                "client_left": True,
                "response_body": "{}",
            },
        )

        book_calls(call)

        log = SpendLog.objects.get()
        self.assertEqual(log.pk.bytes, call.opened.call_id)
        self.assertEqual((log.started_at, log.ended_at), (NOON, NOON + timedelta(seconds=1.5)))
        self.assertEqual(
            (log.key_id, log.team_id, log.user_id, log.customer_id), (KEYS[0], "red", "bob", "acme")
        )
        self.assertEqual(
            (log.tags, log.metadata), (["a", "b"], {"spend_logs_metadata": {"k": [1, 2.5, None]}})
        )
        self.assertEqual(log.attempts, [{"deployment_id": 4, "status": 200}])
        self.assertEqual((log.usage, log.price_id, log.deployment_id), (usage, 3, 4))
        self.assertEqual((to_nano(log.cost), to_nano(log.charge)), (nano("1.000000001"),) * 2)
        self.assertEqual((log.latency_ms, log.first_token_ms), (1500, 250))
        self.assertEqual((log.streamed, log.client_left), (True, True))
        for name in (
            "session_id",
            "user_agent",
            "client_tool",
            "client_call_id",
            "request_body",
            "model",
            "dialect",
        ):
            self.assertEqual(getattr(log, name), getattr(call.opened, name), name)
        for name in (
            "upstream",
            "provider",
            "upstream_model",
            "response_id",
            "service_tier",
            "response_body",
        ):
            self.assertEqual(getattr(log, name), getattr(call.closed, name), name)

    def test_every_column_of_the_model_is_written(self):
        columns = {field.column for field in SpendLog._meta.concrete_fields}

        self.assertEqual(set(ledger.LOG_COLUMNS), columns)

    def test_an_instant_keeps_its_microseconds(self):
        at = NOON.replace(microsecond=123_457)

        book_calls(make_call(at=at))

        self.assertEqual(SpendLog.objects.get().started_at, at)

    def test_ids_of_every_kind_are_counted_under_their_own_name(self):
        """They travel in one text per column: nothing in them may end it, or begin the next."""
        names = ['"', "\\", 'a","b', "{}", "NULL", "null", "a,b", " a ", "ü\t\n"]

        book_calls(*[make_call(customer_id=name, tags=[name]) for name in names])

        for holder_type in ("customer", "tag"):
            counted = SpendTotal.objects.filter(holder_type=holder_type).values_list("holder_id", "calls")
            self.assertEqual(dict(counted), dict.fromkeys(names, 1))

    def test_text_of_every_script_comes_back_as_it_was(self):
        text = "Ünïcødé 漢字 🙂 \\ \" ' \t \\N \\."

        book_calls(make_call(model=text, session_id=text, tags=[text], metadata={text: text}))

        log = SpendLog.objects.get()
        self.assertEqual(
            (log.model, log.session_id, log.tags, log.metadata), (text, text, [text], {text: text})
        )

    def test_an_unpriced_call_is_not_a_free_one(self):
        book_calls(make_call(cost_usd=None, customer_id="acme"), make_call(cost_usd="0", customer_id="acme"))

        acme = SpendTotal.objects.get(holder_type="customer")
        self.assertEqual({log.usage_state for log in SpendLog.objects.all()}, {"unpriced", "provider"})
        self.assertEqual((acme.calls, acme.unpriced_calls, acme.cost), (2, 1, 0))

    def test_nothing_is_written_where_one_row_is_refused(self):
        there = make_call(customer_id="there")
        book_calls(there)

        with self.assertRaises(IntegrityError):
            book_calls(make_call(customer_id="new"), there)

        self.assertEqual(SpendLog.objects.count(), 1)
        self.assertFalse(Customer.objects.filter(pk="new").exists())
        self.assertEqual(SpendTotal.objects.get(holder_type="gateway").calls, 1)
        self.assertEqual(JournalCheckpoint.objects.count(), 1)

    def test_a_booking_without_calls_moves_the_checkpoint_alone(self):
        journal_id = uuid.uuid4()

        book(Booking(journal_id, [], START, Position(3, 44)))

        checkpoint = JournalCheckpoint.objects.get(pk=journal_id)
        self.assertEqual((checkpoint.segment, checkpoint.position, checkpoint.finished), (3, 44, False))
        self.assertFalse(SpendTotal.objects.exists())

    def test_a_rehearsal_leaves_nothing(self):
        ledger.rehearse(make_call(customer_id="acme"))

        self.assertFalse(
            SpendLog.objects.exists() or Customer.objects.exists() or SpendTotal.objects.exists()
        )


class CustomerTests(TestCase):
    def test_a_customer_is_made_by_its_first_call_that_spends(self):
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))

        customer = Customer.objects.get()
        self.assertEqual(
            (customer.pk, customer.alias, customer.blocked, customer.metadata), ("acme", "", False, {})
        )
        self.assertIsNone(customer.deleted_at)

    def test_a_free_or_unpriced_success_makes_one_too(self):
        book_calls(
            make_call(customer_id="free", cost_usd="0"), make_call(customer_id="unpriced", cost_usd=None)
        )

        self.assertEqual(set(Customer.objects.values_list("pk", flat=True)), {"free", "unpriced"})

    def test_a_call_that_failed_makes_no_customer(self):
        for status in ("failure", "refused", "not_sent"):
            book_calls(make_call(customer_id=f"of {status}", cost_usd="0", closed={"status": status}))

        self.assertFalse(Customer.objects.exists())
        self.assertEqual(SpendLog.objects.count(), 3)

    def test_a_stream_that_broke_off_and_is_billed_makes_one(self):
        book_calls(
            make_call(
                customer_id="acme", cost_usd="0.25", closed={"status": "failure", "usage_source": "partial"}
            )
        )

        self.assertEqual(Customer.objects.get().pk, "acme")
        self.assertEqual(nano(str(total("customer", "acme"))), nano("0.25"))

    def test_a_customer_that_is_there_stays_as_it_is(self):
        before = Customer.objects.create(
            pk="acme", alias="Acme Inc.", blocked=True, metadata={"plan": "gold"}
        )

        book_calls(make_call(customer_id="acme"))

        after = Customer.objects.get()
        for field in Customer._meta.concrete_fields:
            self.assertEqual(getattr(after, field.attname), getattr(before, field.attname), field.name)

    def test_a_call_in_flight_does_not_bring_a_deleted_customer_back_unblocked(self):
        Customer.objects.create(pk="acme", blocked=True, deleted_at=NOON)

        book_calls(make_call(customer_id="acme", cost_usd="0.5"))

        customer = Customer.objects.get()
        self.assertEqual((customer.blocked, customer.deleted_at), (True, NOON))
        self.assertEqual(nano(str(total("customer", "acme"))), nano("0.5"))

    def test_a_call_without_a_customer_makes_none(self):
        book_calls(make_call(customer_id=None))

        self.assertFalse(Customer.objects.exists())


class HolderTests(TestCase):
    def test_a_call_counts_for_everyone_behind_it(self):
        book_calls(
            make_call(
                cost_usd="0.5",
                key_id=KEYS[0].bytes,
                team_id="red",
                user_id="bob",
                customer_id="acme",
                tags=["a", "b"],
            )
        )

        holders = set(SpendTotal.objects.values_list("holder_type", "holder_id"))
        self.assertEqual(
            holders,
            {
                ("gateway", GATEWAY_ID),
                ("key", str(KEYS[0])),
                ("team", "red"),
                ("team_member", team_member_id("red", "bob")),
                ("user", "bob"),
                ("customer", "acme"),
                ("tag", "a"),
                ("tag", "b"),
            },
        )
        self.assertEqual({to_nano(row.cost) for row in SpendTotal.objects.all()}, {nano("0.5")})

    def test_a_call_with_the_master_key_counts_for_the_master_key(self):
        book_calls(make_call(cost_usd="0.5"))

        self.assertEqual(nano(str(total("key", MASTER_KEY_ID))), nano("0.5"))

    def test_tokens_and_calls_are_counted_too(self):
        usage = Usage(input_uncached=10, cache_read=5, output_text=3, reasoning=2, web_searches=9)
        book_calls(
            make_call(closed={"usage": usage}),
            make_call(
                at=NOON + timedelta(hours=1), cost_usd="0", closed={"status": "failure", "usage": Usage()}
            ),
        )

        row = SpendTotal.objects.get(holder_type="gateway")
        self.assertEqual((row.calls, row.failed_calls, row.unpriced_calls), (2, 1, 0))
        self.assertEqual((row.prompt_tokens, row.completion_tokens), (10 + 5, 3 + 2))
        self.assertEqual(row.last_call_at, NOON + timedelta(hours=1))

    def test_the_last_call_is_the_latest_in_whatever_order_they_are_booked(self):
        book_calls(make_call(at=NOON), make_call(at=NOON - timedelta(days=1)))
        book_calls(make_call(at=NOON - timedelta(days=2)))

        self.assertEqual(SpendTotal.objects.get(holder_type="gateway").last_call_at, NOON)


_names = st.sampled_from(["a", "b", "c\u00e9", "\U0001f642"])
_calls = st.builds(
    dict,
    cost=st.one_of(st.none(), st.just(0), st.integers(0, 10**12)),
    status=st.sampled_from(SpendLog.Status.values),
    key=st.sampled_from([None, *KEYS]),
    team=st.one_of(st.none(), _names),
    user=st.one_of(st.none(), _names),
    customer=st.one_of(st.none(), _names),
    tags=st.lists(_names, unique=True, max_size=3),
    usage=st.builds(Usage, *[st.integers(0, 10**6)] * len(BUCKETS)),
    minutes=st.integers(0, 10**5),
)


class TotalsTests(HypothesisTestCase):
    """One number: what a holder's total says is the sum of its logs."""

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(batches=st.lists(st.lists(_calls, max_size=8), max_size=4))
    def test_every_total_is_the_sum_of_its_logs(self, batches):
        for batch in batches:
            book_calls(*map(_made, batch))

        expected = _sums_of_logs()
        self.assertEqual(
            {(row.holder_type, row.holder_id): _figures(row) for row in SpendTotal.objects.all()}, expected
        )
        self.assertEqual(
            expected.get(("gateway", GATEWAY_ID), Counter())["cost"],
            sum(call["cost"] or 0 for batch in batches for call in batch),
        )


@skipUnless(POSTGRESQL, "SQLite has one writer: its transactions cannot meet")
class MeetingTests(TransactionTestCase):
    def test_bookings_that_share_holders_do_not_deadlock(self):
        customers = [f"customer-{i}" for i in range(30)]
        tags = [f"tag-{i}" for i in range(30)]
        failures = []

        def book_many(seed):
            draw = random.Random(seed)
            try:
                for _ in range(12):
                    names = draw.sample(customers, 20)  # in an order of its own
                    book_calls(
                        *[
                            make_call(
                                cost_usd="0.5", customer_id=name, tags=draw.sample(tags, 3), team_id="red"
                            )
                            for name in names
                        ]
                    )
            except Exception as error:
                failures.append(error)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=book_many, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        self.assertEqual(failures, [])
        self.assertEqual(nano(str(total("gateway", GATEWAY_ID))), 4 * 12 * 20 * nano("0.5"))
        self.assertEqual(
            {(row.holder_type, row.holder_id): _figures(row) for row in SpendTotal.objects.all()},
            _sums_of_logs(),
        )

    def test_rows_are_touched_in_the_order_of_their_keys(self):
        """Two bookings whose calls come in opposite orders: the second waits, it does not cross."""
        names = [f"customer-{i:02}" for i in range(20)]
        statements = []

        def note(run, sql, params, many, context):
            statements.append((sql, params))
            return run(sql, params, many, context)

        for order in (names, names[::-1]):
            with connection.execute_wrapper(note):
                book_calls(*[make_call(customer_id=name) for name in order])

        customers = [
            _values(params[0])
            for sql, params in statements
            if sql.startswith("INSERT INTO customers_customer")
        ]
        holders = [
            list(zip(*map(_values, params[:2]), strict=True))
            for sql, params in statements
            if "spendtotal" in sql
        ]
        self.assertEqual(customers, [names, names])
        self.assertEqual(holders, [sorted(holders[0]), sorted(holders[0])])


def _values(array: str) -> list[str]:
    """Return the elements of an array as PostgreSQL reads it."""
    return json.loads(f"[{array[1:-1]}]")


class QuarantineTests(TestCase):
    def test_a_minimal_row_keeps_id_instant_and_cost(self):
        call = make_call(cost_usd="0.125", customer_id="acme\0", metadata={"k": "\0"})

        minimal = ledger.quarantined(call, "because \0 of \ud800 this")
        book_calls(minimal)

        log = SpendLog.objects.get()
        self.assertEqual(
            (log.pk.bytes, log.started_at, to_nano(log.cost)), (call.opened.call_id, NOON, nano("0.125"))
        )
        self.assertEqual((log.status, log.error_message), ("quarantined", "because ? of ? this"))

    def test_it_can_be_stored_whatever_is_wrong_with_the_call(self):
        opened = make_opened(model="x" * 10_000, team_id="\0")
        opened.started_us = -5
        call = CallRecords(
            opened, make_closed(opened, cost_nano=1 << 80, charge_nano=-(1 << 80), ended_us=1 << 80)
        )

        book_calls(ledger.quarantined(call, "x" * 10_000))

        log = SpendLog.objects.get()
        self.assertEqual((log.cost, log.charge, microseconds(log.started_at)), (None, None, 0))


def _made(drawn):
    opened = make_opened(
        at=NOON + timedelta(minutes=drawn["minutes"]),
        key_id=drawn["key"].bytes if drawn["key"] else None,
        team_id=drawn["team"],
        user_id=drawn["user"],
        customer_id=drawn["customer"],
        tags=drawn["tags"],
    )
    closed = make_closed(
        opened,
        status=drawn["status"],
        usage=drawn["usage"],
        cost_nano=drawn["cost"],
        charge_nano=drawn["cost"],
    )
    return CallRecords(opened, closed)


def _sums_of_logs() -> dict[tuple[str, str], Counter]:
    """Add the logs up per holder, row by row, in Python."""
    sums: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for log in SpendLog.objects.all():
        for holder in _holders_of(log):
            sums[holder].update(
                cost=to_nano(log.cost or 0),
                charge=to_nano(log.charge or 0),
                calls=1,
                failed_calls=log.status in ("failure", "refused", "not_sent"),
                unpriced_calls=log.cost is None,
                prompt_tokens=log.input_uncached + log.cache_read + log.cache_write_5m + log.cache_write_1h
                + log.input_audio + log.input_image,
                completion_tokens=log.output_text + log.reasoning + log.output_audio + log.output_image,
            )  # fmt: skip
            sums[holder]["last"] = max(sums[holder]["last"], microseconds(log.started_at))
    return dict(sums)


def _holders_of(log):
    yield HolderType.GATEWAY, GATEWAY_ID
    yield HolderType.KEY, str(log.key_id) if log.key_id else MASTER_KEY_ID
    for holder_type, holder_id in (
        ("team", log.team_id),
        ("user", log.user_id),
        ("customer", log.customer_id),
    ):
        if holder_id:
            yield holder_type, holder_id
    if log.team_id and log.user_id:
        yield "team_member", f"{log.team_id}\n{log.user_id}"
    for tag in log.tags:
        yield "tag", tag


def _figures(row: SpendTotal) -> Counter:
    figures = Counter(cost=to_nano(row.cost), charge=to_nano(row.charge), last=microseconds(row.last_call_at))
    for name in ("calls", "failed_calls", "unpriced_calls", "prompt_tokens", "completion_tokens"):
        figures[name] = getattr(row, name)
    return figures
