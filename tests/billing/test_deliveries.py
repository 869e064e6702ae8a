"""Deliveries: signed posts, retries, leases, lanes that pause, replays; by a clock that is moved by hand."""

import asyncio
import json
import random
import uuid
from datetime import timedelta

import httpx
from django.db import connection
from django.test import SimpleTestCase, TestCase
from standardwebhooks import Webhook, WebhookVerificationError

from billing.models import Delivery, DeliveryLane, Event, WebhookEndpoint
from billing.webhooks import deliveries
from billing.webhooks.deliveries import (
    PAUSE_AFTER,
    RETRY_DELAYS,
    RETRY_FOR,
    claim,
    delivery_health,
    due_lanes,
    failed,
    give_up_old,
    hold_lane,
    next_attempt,
    pause_after,
    prune,
    replay,
)
from billing.webhooks.endpoints import rotate_secret, update_endpoint
from tests.billing.making import NOON, book_calls, make_call
from tests.billing.receiving import (
    Clock,
    Receiver,
    an_event,
    as_stream,
    body_of,
    deliver_to,
    forget_what_is_cached,
    make_endpoint,
    write,
)

State = Delivery.State


class ScheduleTests(SimpleTestCase):
    def test_the_attempts_of_a_delivery_span_about_three_days(self):
        self.assertAlmostEqual(sum(RETRY_DELAYS, timedelta()) / timedelta(days=1), 3, delta=0.5)

    def test_delays_are_spread_by_a_fifth(self):
        delivery = Delivery(attempts=3, since=NOON)
        delays = [next_attempt(delivery, at=NOON) - NOON for _ in range(500)]

        self.assertGreaterEqual(min(delays), RETRY_DELAYS[3] * 0.8)
        self.assertLessEqual(max(delays), RETRY_DELAYS[3] * 1.2)
        self.assertGreater(max(delays) - min(delays), RETRY_DELAYS[3] * 0.2)

    def test_the_last_attempt_is_followed_by_none(self):
        last = len(RETRY_DELAYS)

        self.assertIsNotNone(next_attempt(Delivery(attempts=last - 1, since=NOON), at=NOON))
        self.assertIsNone(next_attempt(Delivery(attempts=last, since=NOON), at=NOON))

    def test_retry_after_is_waited_for_but_not_for_ever(self):
        delivery = Delivery(attempts=0, since=NOON)

        self.assertEqual(next_attempt(delivery, at=NOON, retry_after=600), NOON + timedelta(seconds=600))
        self.assertEqual(next_attempt(delivery, at=NOON, retry_after=1e9), NOON + timedelta(days=1))
        self.assertLess(next_attempt(delivery, at=NOON, retry_after=1), NOON + timedelta(seconds=7))

    def test_a_lane_pauses_longer_and_longer_up_to_five_minutes(self):
        self.assertIsNone(pause_after(PAUSE_AFTER - 1))
        pauses = [pause_after(PAUSE_AFTER + n).total_seconds() for n in range(8)]
        self.assertEqual(pauses, [5, 10, 20, 40, 80, 160, 300, 300])


class DeliveringTests(TestCase):
    def setUp(self):
        forget_what_is_cached(self)
        self.clock = Clock()
        self.receiver = Receiver()
        self.endpoint, self.secret = make_endpoint()

    def deliver(self) -> int:
        return deliver_to(self.receiver, self.clock)

    def only(self) -> Delivery:
        return Delivery.objects.select_related("event").get()

    def test_an_event_is_posted_byte_for_byte_and_signed_for_the_public_library(self):
        clock = Clock(deliveries_now())
        write(an_event(body={"spend": 1}), at=clock.now)

        self.assertEqual(deliver_to(self.receiver, clock), 1)

        (request,) = self.receiver.requests
        event = Event.objects.get()
        self.assertEqual(request.content.decode(), event.text)
        self.assertEqual(request.headers["content-type"], "application/json")
        self.assertEqual(request.headers["webhook-id"], event.wire_id)
        self.assertEqual(self.receiver.verify(self.secret), json.loads(event.text))
        delivery = self.only()
        self.assertEqual(
            (
                delivery.state,
                delivery.attempts,
                delivery.last_status,
                delivery.next_attempt_at,
                delivery.lease,
            ),
            (State.DELIVERED, 1, 200, None, None),
        )
        self.assertEqual(delivery.delivered_at, clock.now)

    def test_another_secret_or_another_body_does_not_verify(self):
        clock = Clock(deliveries_now())
        write(an_event(), at=clock.now)
        deliver_to(self.receiver, clock)
        (request,) = self.receiver.requests

        for secret, body in ((make_endpoint()[1], request.content), (self.secret, request.content + b" ")):
            with self.assertRaises(WebhookVerificationError):
                Webhook(secret).verify(body, dict(request.headers))

    def test_after_a_rotation_both_secrets_sign_until_the_overlap_is_over(self):
        clock = Clock(deliveries_now())
        new = rotate_secret(self.endpoint, at=clock.now, overlap=timedelta(minutes=2))
        write(an_event(), at=clock.now)
        deliver_to(self.receiver, clock)

        self.receiver.verify(self.secret)
        self.receiver.verify(new)
        clock.pass_by(minutes=3)  # standardwebhooks takes what is five minutes off
        write(an_event(), at=clock.now)
        deliver_to(self.receiver, clock)
        self.receiver.verify(new)
        with self.assertRaises(WebhookVerificationError):
            self.receiver.verify(self.secret)

    def test_what_fails_is_tried_again_under_the_same_id_until_it_arrives(self):
        self.receiver.answer = lambda request: httpx.Response(500, text="no luck")
        write(an_event())
        self.deliver()
        delivery = self.only()
        self.assertEqual((delivery.state, delivery.attempts, delivery.last_answer), (State.DUE, 1, "no luck"))
        self.assertEqual(self.deliver(), 0, "not due yet")

        self.clock.pass_by(seconds=7)
        self.receiver.answer = 204
        self.assertEqual(self.deliver(), 1)

        self.assertEqual(len(set(self.receiver.ids)), 1)
        delivery = self.only()
        self.assertEqual((delivery.state, delivery.attempts, delivery.last_status), (State.DELIVERED, 2, 204))
        (failure,) = delivery.failures
        self.assertEqual((failure["status"], failure["error"]), (500, ""))

    def test_one_that_waits_for_its_next_attempt_can_be_delivered_at_once(self):
        self.receiver.answer = 500
        write(an_event())
        for _ in range(3):
            self.deliver()
            self.clock.now = self.only().next_attempt_at
        self.deliver()
        self.receiver.answer = 200
        self.assertEqual(self.deliver(), 0)  # in half an hour

        self.assertEqual(replay(Delivery.objects.filter(pk=self.only().pk), at=self.clock.now), 1)

        self.assertEqual((self.deliver(), self.only().state, self.only().attempts), (1, State.DELIVERED, 5))

    def test_after_about_three_days_it_is_given_up_visibly_and_can_be_replayed(self):
        self.receiver.answer = 500
        write(an_event())

        for _ in range(len(RETRY_DELAYS) + 1):
            self.assertEqual(self.deliver(), 1)
            delivery = self.only()
            self.clock.now = delivery.next_attempt_at or self.clock.now

        self.assertEqual((delivery.state, delivery.attempts), (State.FAILED, len(RETRY_DELAYS) + 1))
        self.assertEqual(len(delivery.failures), delivery.attempts)
        self.assertAlmostEqual((self.clock.now - NOON) / timedelta(days=1), 3, delta=1)
        self.receiver.answer = 200
        self.assertEqual(replay(failed(endpoint_id=self.endpoint.pk), at=self.clock.now), 1)
        self.assertEqual(self.deliver(), 1)
        self.assertEqual((self.only().state, len(set(self.receiver.ids))), (State.DELIVERED, 1))

    def test_retry_after_holds_the_whole_lane(self):
        self.receiver.answer = lambda request: httpx.Response(429, headers={"retry-after": "120"})
        write(an_event())
        self.deliver()
        write(an_event(), at=self.clock.now)

        self.assertEqual(self.deliver(), 0)
        self.clock.pass_by(seconds=119)
        self.assertEqual(self.deliver(), 0)
        self.clock.pass_by(seconds=2)
        self.receiver.answer = 200
        self.assertEqual(self.deliver(), 2)

    def test_410_switches_the_endpoint_off_and_says_so(self):
        self.receiver.answer = 410
        write(an_event(), an_event(), an_event())

        self.deliver()

        endpoint = WebhookEndpoint.objects.get()
        self.assertFalse(endpoint.is_active)
        self.assertIn("410", endpoint.disabled_reason)
        self.assertEqual(Delivery.objects.filter(state=State.LEASED).count(), 0)
        asked = len(self.receiver.requests)
        self.clock.pass_by(hours=1)
        self.assertEqual((self.deliver(), len(self.receiver.requests)), (0, asked))
        # Switched on again, what waited goes on.
        update_endpoint(endpoint, is_active=True)
        self.receiver.answer = 200
        self.deliver()
        self.assertEqual(Delivery.objects.exclude(state=State.DELIVERED).count(), asked)

    def test_a_redirect_is_not_followed(self):
        self.receiver.answer = lambda request: httpx.Response(302, headers={"location": "http://127.0.0.1/"})
        write(an_event())

        self.deliver()

        delivery = self.only()
        self.assertEqual((delivery.state, len(self.receiver.requests)), (State.DUE, 1))
        self.assertIn("Redirects are not followed (to http://127.0.0.1/)", delivery.last_error)

    def test_a_long_or_binary_answer_is_kept_at_its_beginning(self):
        self.receiver.answer = lambda request: httpx.Response(500, content=b"\0\xff" + b"x" * 100_000)
        write(an_event())

        self.deliver()

        self.assertTrue(self.only().last_answer.startswith("��xxx"))
        self.assertEqual(len(self.only().last_answer), deliveries.MAX_ANSWER)

    def test_a_receiver_that_hangs_delays_nobody_else(self):
        slow, _ = make_endpoint("https://slow.example/", customer_ids=["acme"])
        arrived: list[str] = []
        hangs: list[str] = []

        async def take(request: httpx.Request) -> httpx.Response:
            if request.url.host == "slow.example":
                hangs.append(request.headers["webhook-id"])
                await asyncio.Event().wait()
            arrived.append(request.headers["webhook-id"])
            return as_stream(httpx.Response(200))

        self.receiver.transport = lambda connections: httpx.MockTransport(take)  # type: ignore[method-assign]
        write(*[an_event() for _ in range(50)])
        with self.settings(WEBHOOK_TIMEOUT_SECONDS=0.3):
            deliver_to(self.receiver, self.clock, until=lambda: bool(hangs) and len(arrived) == 50)

        left = Delivery.objects.filter(lane=f"webhook:{slow.pk}")
        self.assertEqual(set(left.values_list("state", flat=True)), {State.DUE})
        self.assertTrue(left.filter(attempts=1, last_error="No answer within 0.3 s.").exists())
        others = Delivery.objects.exclude(lane=f"webhook:{slow.pk}")
        self.assertEqual(others.filter(state=State.DELIVERED).count(), 50)

    def test_an_endpoint_gets_no_more_posts_at_a_time_than_it_says(self):
        update_endpoint(self.endpoint, max_concurrency=3)
        now, most = 0, 0

        async def take(request: httpx.Request) -> httpx.Response:
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            await asyncio.sleep(0)
            now -= 1
            return as_stream(httpx.Response(200))

        self.receiver.transport = lambda connections: httpx.MockTransport(take)  # type: ignore[method-assign]
        write(*[an_event() for _ in range(40)])

        self.assertEqual(self.deliver(), 40)
        self.assertEqual(most, 3)

    def test_a_lane_that_fails_again_and_again_pauses_and_is_tried_with_one(self):
        self.receiver.answer = 500
        write(*[an_event() for _ in range(200)])

        tried = self.deliver()

        lane = DeliveryLane.objects.get()
        self.assertLess(tried, PAUSE_AFTER + self.endpoint.max_concurrency)
        self.assertGreater(lane.paused_until, self.clock.now)
        self.assertEqual(lane.failing_since, NOON)
        self.assertEqual(self.deliver(), 0)
        self.clock.now = lane.paused_until
        self.assertEqual(self.deliver(), 1)
        self.clock.now = DeliveryLane.objects.get().paused_until
        self.receiver.answer = 200
        self.deliver()
        self.assertIsNone(DeliveryLane.objects.get().failing_since)
        self.clock.pass_by(hours=1)
        self.deliver()
        self.assertEqual(Delivery.objects.filter(state=State.DELIVERED).count(), 200)

    def test_a_receiver_that_fails_by_half_at_random_gets_everything(self):
        """With one that hangs at times and is down for an hour; the order is told by the numbers."""
        rng = random.Random(7)
        down_until = NOON + timedelta(hours=1)

        def answer(request: httpx.Request) -> httpx.Response:
            if self.clock.now < down_until:
                raise httpx.ConnectError("nobody listens")
            if rng.random() < 0.1:
                raise httpx.ReadTimeout("hangs")
            return httpx.Response(200 if rng.random() < 0.5 else 500)

        self.receiver.answer = answer
        for n in range(10):
            book_calls(*[make_call(customer_id=f"c{m % 5}", cost_usd="0.001") for m in range(n + 10)])
        Delivery.objects.update(since=NOON, next_attempt_at=NOON)
        self.clock.now = NOON
        while due := Delivery.objects.exclude(next_attempt_at=None).order_by("next_attempt_at").first():
            lane = DeliveryLane.objects.first()
            paused = lane.paused_until if lane and lane.paused_until else self.clock.now
            self.clock.now = max(self.clock.now, due.next_attempt_at, paused)
            self.deliver()

        self.assertEqual(set(Delivery.objects.values_list("state", flat=True)), {State.DELIVERED})
        events = {event.wire_id: event for event in Event.objects.all()}
        self.assertEqual(set(self.receiver.ids), set(events))
        by_customer: dict[str, dict[int, dict]] = {}
        for body in map(body_of, self.receiver.requests):
            by_customer.setdefault(body["customer_id"], {})[body["sequence"]] = body
        for bodies in by_customer.values():
            in_order = [bodies[sequence]["total_spend"] for sequence in sorted(bodies)]
            self.assertEqual(in_order, sorted(in_order))


def deliveries_now():
    from django.utils import timezone

    return timezone.now().replace(microsecond=0)


class LeaseTests(TestCase):
    """Who has what: every claim is a conditional UPDATE (E1)."""

    def setUp(self):
        forget_what_is_cached(self)
        self.endpoint, _ = make_endpoint()
        self.lane = f"webhook:{self.endpoint.pk}"

    def claim(self, count: int = 10, *, at=NOON) -> list[Delivery]:
        self.worker = uuid.uuid4()
        return claim(self.lane, count, lease=self.worker, at=at, until=at + timedelta(seconds=30))

    def test_what_one_has_the_other_does_not_get_until_the_lease_has_run_out(self):
        write(an_event(), an_event())

        first = self.claim(1)
        second = self.claim()
        self.assertEqual((len(first), len(second)), (1, 1))
        self.assertNotEqual(first[0].pk, second[0].pk)
        self.assertEqual(self.claim(), [])
        self.assertEqual(len(self.claim(at=NOON + timedelta(seconds=31))), 2)

    def test_who_lost_the_lease_writes_nothing_down(self):
        write(an_event())
        (delivery,) = self.claim()
        late = self.worker
        self.claim(at=NOON + timedelta(seconds=31))

        result = deliveries.Result(delivery.pk, State.DELIVERED, NOON, None, 200, "", "", None)
        deliveries.finish([result], lease=late)
        self.assertEqual(Delivery.objects.get().state, State.LEASED)
        deliveries.finish([result], lease=self.worker)
        self.assertEqual(Delivery.objects.get().state, State.DELIVERED)

    def test_the_oldest_come_first(self):
        write(an_event(), at=NOON + timedelta(seconds=1))
        write(an_event(), at=NOON)

        (first,) = self.claim(1, at=NOON + timedelta(seconds=2))

        self.assertEqual(first.since, NOON)

    def test_a_lane_has_one_worker_at_a_time(self):
        write(an_event())
        mine, other = uuid.uuid4(), uuid.uuid4()

        self.assertEqual(due_lanes([self.lane, "slack"], at=NOON), [self.lane])
        self.assertIsNotNone(hold_lane(self.lane, mine, at=NOON))
        self.assertIsNone(hold_lane(self.lane, other, at=NOON))
        self.assertEqual(due_lanes([self.lane], at=NOON), [])
        self.assertIsNotNone(hold_lane(self.lane, mine, at=NOON + timedelta(seconds=10)))
        self.assertIsNone(hold_lane(self.lane, other, at=NOON + timedelta(seconds=20)))
        self.assertIsNotNone(hold_lane(self.lane, other, at=NOON + timedelta(seconds=26)))

    def test_after_a_kill_the_lane_and_its_deliveries_come_back(self):
        write(an_event())
        hold_lane(self.lane, uuid.uuid4(), at=NOON)
        self.claim()
        clock, receiver = Clock(NOON + timedelta(seconds=1)), Receiver()

        self.assertEqual(deliver_to(receiver, clock), 0)
        clock.pass_by(minutes=1)
        self.assertEqual(deliver_to(receiver, clock), 1)


class KeepingTests(TestCase):
    def setUp(self):
        forget_what_is_cached(self)
        self.endpoint, _ = make_endpoint()

    def test_what_waited_for_too_long_is_given_up(self):
        write(an_event())
        write(an_event(), at=NOON + timedelta(days=1))

        self.assertEqual(give_up_old(at=NOON + RETRY_FOR + timedelta(seconds=1)), 1)

        given_up = Delivery.objects.get(state=State.FAILED)
        self.assertIn("Given up", given_up.last_error)
        self.assertIsNone(given_up.next_attempt_at)

    def test_replays_can_be_confined_to_an_endpoint_and_to_what_failed_since(self):
        make_endpoint()
        write(an_event())
        (new,) = write(an_event(), at=NOON + timedelta(hours=1))
        Delivery.objects.update(state=State.FAILED, next_attempt_at=None)
        at = NOON + timedelta(days=5)

        count = replay(failed(endpoint_id=self.endpoint.pk, since=NOON + timedelta(minutes=30)), at=at)

        self.assertEqual(count, 1)
        due = Delivery.objects.get(state=State.DUE)
        self.assertEqual((due.event_id, due.endpoint_id), (new, self.endpoint.pk))
        self.assertEqual((due.attempts, due.since, due.next_attempt_at), (0, at, at))
        self.assertEqual(replay(failed(), at=at), 3)
        self.assertEqual(replay(failed(), at=at), 0)

    def test_old_events_go_with_their_deliveries(self):
        write(an_event())
        (kept,) = write(an_event(), at=NOON + timedelta(days=2))

        with self.settings(EVENT_KEEP_DAYS=30):
            self.assertEqual(prune(at=NOON + timedelta(days=31)), 1)

        self.assertEqual([event.pk for event in Event.objects.all()], [kept])
        self.assertEqual(Delivery.objects.get().event_id, kept)

    def test_health_tells_what_waits_and_what_fails(self):
        self.assertEqual(delivery_health(), [])
        write(an_event(), an_event())
        DeliveryLane.objects.create(name="slack", failing_since=NOON)

        slack, webhook = delivery_health()

        self.assertEqual((slack.name, slack.waiting, slack.failing_since), ("slack", 0, NOON))
        self.assertEqual(
            (webhook.name, webhook.waiting, webhook.oldest_since), (f"webhook:{self.endpoint.pk}", 2, NOON)
        )
        self.assertEqual(deliveries.readiness()["failing"], ["slack"])

    def test_claims_are_found_by_an_index(self):
        if connection.vendor != "postgresql":
            self.skipTest("of PostgreSQL's planner")
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(
                "EXPLAIN SELECT id FROM billing_delivery WHERE lane = 'webhook:1' "
                "AND next_attempt_at <= now() ORDER BY next_attempt_at, id LIMIT 10"
            )
            plan = "\n".join(row[0] for row in cursor.fetchall())
        self.assertIn("delivery_open", plan)
        self.assertNotIn("Sort", plan)
