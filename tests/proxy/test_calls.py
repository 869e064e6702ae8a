"""The call task: whatever happens to its client, its provider or its disk, it settles exactly once."""

import asyncio
import errno
import logging
from decimal import Decimal
from unittest import mock

import httpx
import msgspec
from django.test import SimpleTestCase

from billing.booking.journal import JournalFull
from billing.booking.records import Closed, Opened, Sent
from billing.usage import Usage
from customers.money import from_nano
from proxy.dialects import anthropic_count_tokens
from tests.proxy.playing import (
    ANSWER,
    COMPLETION,
    CREDENTIAL,
    DONE,
    INPUT_USD,
    OUTPUT_USD,
    PROMPT,
    STREAM,
    USAGE,
    WORDS,
    Client,
    Provider,
    event,
    playing,
    steps,
)

COST = (INPUT_USD * PROMPT + OUTPUT_USD * COMPLETION) / 1_000_000
REPORTED = Usage(input_uncached=PROMPT, output_text=COMPLETION)
REQUEST = httpx.Request("POST", "https://one.test")
UNBILLED = (httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("full"))
PERHAPS_BILLED = (
    httpx.ReadTimeout("slow"),
    httpx.ReadError("broken"),
    httpx.WriteError("broken"),
    httpx.WriteTimeout("slow"),
)


def cost_of(closed: Closed) -> Decimal | None:
    return None if closed.cost_nano is None else from_nano(closed.cost_nano)


class PlainTests(SimpleTestCase):
    async def test_an_answer_is_passed_on_and_booked_at_its_price(self):
        async with playing(self, one=Provider()) as play:
            head, body = await play.whole(play.start())

            closed = play.the_closed()
            self.assertEqual((head.status, body), (200, ANSWER))
            self.assertEqual(
                (closed.status, closed.usage_source, closed.usage), ("success", "provider", REPORTED)
            )
            self.assertEqual((cost_of(closed), closed.price_id), (COST, 5))
            self.assertEqual(closed.charge_nano, closed.cost_nano)
            self.assertEqual(
                (closed.response_id, closed.upstream, closed.deployment_id), ("chatcmpl-1", "one", 10)
            )

    async def test_its_cost_is_in_a_header(self):
        async with playing(self, one=Provider()) as play:
            head, _ = await play.whole(play.start())

            self.assertEqual(Decimal(dict(head.headers)[b"x-litellm-response-cost"].decode()), COST)

    async def test_the_records_are_written_before_the_request_leaves(self):
        provider = Provider()
        async with playing(self, one=provider) as play:
            provider.on_request = lambda: seen.extend(map(type, play.records()))
            seen = []

            await play.whole(play.start())

            self.assertEqual(seen, [Opened, Sent])

    async def test_a_call_that_ended_is_in_the_registry_no_more(self):
        async with playing(self, one=Provider()) as play:
            call = play.start()
            while_running = set(play.gateway.calls)
            await play.whole(call)
            await play.settled()

            self.assertEqual((while_running, play.gateway.calls), ({call}, set()))

    async def test_the_response_is_closed(self):
        provider = Provider()
        async with playing(self, one=provider) as play:
            await play.whole(play.start())
            await play.settled()

        self.assertEqual(provider.closed, 1)

    async def test_an_answer_without_usage_is_estimated_from_its_bytes(self):
        body = msgspec.json.encode({"id": "x", "choices": [], "filler": "y" * 4_000})
        async with playing(self, one=Provider([body])) as play:
            await play.whole(play.start())

            closed = play.the_closed()
            self.assertEqual((closed.status, closed.usage_source), ("success", "estimated"))
            self.assertEqual(closed.usage.output_text, len(body) // 4)

    async def test_a_model_without_a_price_is_unpriced(self):
        async with playing(self, one=Provider(), price=False) as play:
            head, _ = await play.whole(play.start())

            self.assertEqual((play.the_closed().cost_nano, play.the_closed().usage), (None, REPORTED))
            self.assertNotIn(b"x-litellm-response-cost", dict(head.headers))

    async def test_an_answer_above_the_buffer_streams_and_is_metered(self):
        halves = [ANSWER[:50], ANSWER[50:]]
        async with playing(self, one=Provider(halves), PLAIN_ANSWER_BUFFER_BYTES=10) as play:
            head, body = await play.whole(play.start())
            await play.settled()

            self.assertIsNotNone(head.channel)
            self.assertEqual(body, ANSWER)
            self.assertEqual(cost_of(play.the_closed()), COST)

    async def test_an_answer_above_the_buffer_that_breaks_is_not_ended_as_if_it_were_whole(self):
        broken = Provider([ANSWER[:50], ANSWER[50:90]], breaks=httpx.ReadError("gone"))

        async with playing(self, one=broken, PLAIN_ANSWER_BUFFER_BYTES=20) as play:
            call = play.start()
            head, body = await play.whole(call)
            await play.settled()

        self.assertEqual(body, ANSWER[:90])
        self.assertTrue(head.channel.is_broken)
        self.assertEqual(play.the_closed().status, "failure")

    async def test_a_call_that_is_not_billed_leaves_no_record(self):
        async with playing(self, one=Provider([b'{"input_tokens": 3}'])) as play:
            with mock.patch.object(anthropic_count_tokens, "base_url", lambda target: target.openai_base_url):
                head, _ = await play.whole(play.start(dialect=anthropic_count_tokens, max_tokens=5))

            self.assertEqual((head.status, play.records()), (200, []))


class StreamedTests(SimpleTestCase):
    async def test_a_stream_is_passed_on_and_booked_by_the_provider_s_usage(self):
        async with playing(self, one=Provider.streaming()) as play:
            asked = {"include_usage": True}
            _, body = await play.whole(play.start(stream=True, stream_options=asked))
            await play.settled()

            closed = play.the_closed()
            self.assertEqual(body, b"".join(STREAM))
            self.assertEqual(
                (closed.status, closed.usage_source, cost_of(closed)), ("success", "provider", COST)
            )

    async def test_usage_that_only_we_asked_for_does_not_reach_the_client(self):
        async with playing(self, one=Provider.streaming()) as play:
            _, body = await play.whole(play.start(stream=True))
            await play.settled()

            self.assertEqual(body, b"".join([*WORDS, DONE]))
            self.assertEqual(cost_of(play.the_closed()), COST)

    async def test_the_record_is_written_before_the_client_sees_the_end(self):
        async with playing(self, one=Provider.streaming()) as play:
            head = await play.start(stream=True).head
            while await head.channel.get() is not None:
                pass

            self.assertEqual(cost_of(play.the_closed()), COST)

    async def test_a_stream_that_breaks_off_is_booked_by_what_was_seen(self):
        provider = Provider.streaming(WORDS, breaks=httpx.ReadError("reset"))
        async with playing(self, one=provider) as play:
            _, body = await play.whole(play.start(stream=True))
            await play.settled()

            closed = play.the_closed()
            self.assertEqual((closed.status, closed.usage_source), ("failure", "partial"))
            self.assertEqual(closed.usage.output_text, len(WORDS))
            self.assertGreater(closed.cost_nano, 0)
            self.assertIn(b"upstream_error", body)

    async def test_a_stream_that_ends_too_early_is_no_success(self):
        async with playing(self, one=Provider.streaming(WORDS)) as play:
            await play.whole(play.start(stream=True))
            await play.settled()

            self.assertEqual(
                (play.the_closed().status, play.the_closed().usage_source), ("failure", "partial")
            )

    async def test_a_stream_without_usage_is_estimated(self):
        async with playing(self, one=Provider.streaming([*WORDS, DONE])) as play:
            await play.whole(play.start(stream=True))
            await play.settled()

            closed = play.the_closed()
            self.assertEqual((closed.status, closed.usage_source), ("success", "estimated"))
            self.assertEqual(closed.usage.output_text, len(WORDS))

    async def test_an_error_inside_a_stream_is_a_failure(self):
        said = event({"error": {"message": "overloaded"}})
        async with playing(self, one=Provider.streaming([*WORDS, said, DONE])) as play:
            await play.whole(play.start(stream=True))
            await play.settled()

            self.assertEqual(play.the_closed().status, "failure")


class CancelledViewTests(SimpleTestCase):
    """C1: the view may be cancelled at every one of its awaits; the call settles all the same."""

    async def cancelled_after(self, count: int, make_provider, **body) -> bool:
        """Cancel a request after `count` rounds of the event loop. Returns: whether it was done by then."""
        provider = make_provider()
        async with playing(self, one=provider) as play:
            client = Client(**body)
            view = asyncio.create_task(client.run())
            await steps(count)
            was_done = view.done()
            view.cancel()
            await asyncio.gather(view, return_exceptions=True)
            await play.settled()

            started = len(play.records(Opened))
            self.assertEqual(started, len(provider.requests), f"cancelled after {count}")
            self.assertTrue(play.is_settled_once(), f"cancelled after {count}: {play.records()}")
            for closed in play.records(Closed):
                self.assertEqual(
                    (closed.usage_source, cost_of(closed)), ("provider", COST), f"cancelled after {count}"
                )
            self.assertEqual(play.gateway.calls, set())
            self.assertEqual(play.gateway.bodies_bytes, 0)
            if was_done:
                self.assertEqual((client.status, client.is_complete), (200, True))
            self.assertEqual(provider.closed, started)
        return was_done

    async def check_everywhere(self, make_provider, **body):
        count = 0
        while not await self.cancelled_after(count, make_provider, **body):
            count += 1
        self.assertGreater(count, 5)

    async def test_a_plain_call(self):
        await self.check_everywhere(Provider)

    async def test_a_streamed_call(self):
        await self.check_everywhere(Provider.streaming, stream=True)

    async def test_a_plain_call_whose_answer_streams(self):
        with self.settings(PLAIN_ANSWER_BUFFER_BYTES=10):
            await self.check_everywhere(lambda: Provider([ANSWER[:50], ANSWER[50:]]))

    async def test_that_the_client_left_is_in_the_record(self):
        provider = Provider(holds_head=True)
        async with playing(self, one=provider) as play:
            view = asyncio.create_task(Client().run())
            await provider.is_held.wait()
            view.cancel()
            await steps(3)
            provider.go.set()
            await play.settled()

            self.assertTrue(play.the_closed().client_left)
            self.assertEqual(cost_of(play.the_closed()), COST)


class CutTests(SimpleTestCase):
    """A call may be cut at every one of its awaits: shutdown, time limit, end of the grace."""

    async def cut_after(self, count: int, make_provider, **body) -> bool:
        provider = make_provider()
        async with playing(self, one=provider) as play:
            call = play.start(**body)
            await steps(count)
            was_done = call.task.done()
            call.cut("shutdown")
            await play.settled()

            self.assertTrue(call.head.done(), f"nobody is answered when cut after {count}")
            [closed] = play.records(Closed)
            self.assertTrue(play.is_settled_once(), f"cut after {count}")
            self.assertEqual(play.gateway.calls, set(), f"cut after {count}")
            self.assertEqual(provider.closed, 1 if provider.sent_chunks else provider.closed)
            if not provider.requests:
                self.assertEqual((closed.status, closed.cost_nano), ("not_sent", 0))
            elif not was_done:
                self.assertNotEqual(closed.usage_source, "none", f"cut after {count}")
        return was_done

    async def check_everywhere(self, make_provider, **body):
        count = 0
        while not await self.cut_after(count, make_provider, **body):
            count += 1
        self.assertGreater(count, 3)

    async def test_a_plain_call(self):
        await self.check_everywhere(Provider)

    async def test_a_streamed_call(self):
        await self.check_everywhere(Provider.streaming, stream=True)

    async def test_a_call_with_a_second_attempt(self):
        def check(count):
            return self.second_attempt_cut_after(count)

        count = 0
        while not await check(count):
            count += 1
        self.assertGreater(count, 4)

    async def second_attempt_cut_after(self, count):
        first, second = Provider([b"{}"], status=503), Provider()
        async with playing(self, one=first, two=second) as play:
            call = play.start()
            await steps(count)
            was_done = call.task.done()
            call.cut("shutdown")
            await play.settled()

            self.assertTrue(call.head.done())
            self.assertTrue(play.is_settled_once(), f"cut after {count}")
            self.assertEqual(len(play.records(Sent)), len(first.requests) + len(second.requests))
        return was_done

    async def test_what_the_provider_was_at_is_booked_by_its_estimate(self):
        provider = Provider(holds_head=True)
        async with playing(self, one=provider) as play:
            call = play.start(max_tokens=50)
            await provider.is_held.wait()

            call.cut("time_limit")
            head, body = await play.whole(call)

            [sent], closed = play.records(Sent), play.the_closed()
            self.assertEqual((closed.status, closed.usage_source), ("interrupted", "estimated"))
            self.assertEqual((closed.error_type, closed.usage.output_text), ("time_limit", 50))
            self.assertEqual((closed.cost_nano, closed.cost_nano > 0), (sent.estimate_nano, True))
            self.assertEqual(head.status, 503)
            self.assertIn(b"longer than the gateway allows", body)

    async def test_a_stream_is_booked_by_what_was_seen_and_its_client_is_told(self):
        provider = Provider.streaming(holds_at=2)
        async with playing(self, one=provider) as play:
            call = play.start(stream=True)
            await provider.is_held.wait()

            call.cut("shutdown")
            _, body = await play.whole(call)
            await play.settled()

            closed = play.the_closed()
            self.assertEqual(
                (closed.status, closed.usage_source, closed.usage.output_text), ("failure", "partial", 2)
            )
            self.assertEqual(body.partition(b'data: {"error"')[0], b"".join(WORDS[:2]))
            self.assertTrue(body.endswith(DONE))
            self.assertEqual(provider.closed, 1)

    async def test_the_sweep_cuts_a_call_that_takes_too_long(self):
        provider = Provider(holds_head=True)
        async with playing(self, one=provider, CALL_SECONDS=0.01) as play:
            with mock.patch("proxy.gateway._SWEEP_SECONDS", 0.01):
                sweeper = asyncio.create_task(play.gateway._sweep())
                head, _ = await play.whole(play.start())
                sweeper.cancel()

            self.assertEqual((head.status, play.the_closed().error_type), (503, "time_limit"))

    async def test_a_call_that_waits_for_the_disk_still_answers(self):
        async with playing(self, one=Provider(), JOURNAL_SYNC="always") as play:
            play.gateway.syncer = mock.Mock(synced=asyncio.Event().wait)  # a disk that hangs
            call = play.start()
            await steps(20)
            is_waiting = not call.head.done()

            call.cut("shutdown")
            head, _ = await play.whole(call)

            self.assertTrue(is_waiting)
            self.assertEqual(head.status, 503)
            self.assertEqual(cost_of(play.the_closed()), COST)


class LeavingClientTests(SimpleTestCase):
    async def test_metering_goes_on_to_the_provider_s_own_usage(self):
        provider = Provider.streaming(holds_at=2)
        async with playing(self, one=provider) as play:
            client = Client(stream=True, leaves_after=1)
            view = asyncio.create_task(client.run())
            await provider.is_held.wait()
            await steps(10)
            view_was_done = view.done()
            provider.go.set()
            await view
            await play.settled()

            closed = play.the_closed()
            self.assertTrue(view_was_done)
            self.assertEqual(
                (closed.usage_source, cost_of(closed), closed.client_left), ("provider", COST, True)
            )
            self.assertLess(len(client.body), len(b"".join(STREAM)))

    async def test_at_the_end_of_the_grace_what_was_seen_is_booked(self):
        provider = Provider.streaming(holds_at=2)
        async with playing(self, one=provider, DISCONNECT_GRACE_SECONDS=0.02) as play:
            await Client(stream=True, leaves_after=1).run()
            await play.settled()

            closed = play.the_closed()
            self.assertEqual((closed.usage_source, closed.usage.output_text), ("partial", 2))
            self.assertEqual((closed.http_status, closed.error_type), (499, "client_disconnect"))
            self.assertEqual(provider.closed, 1)

    async def test_a_client_that_stops_reading_counts_as_gone(self):
        provider = Provider.streaming([*WORDS * 200, USAGE, DONE])
        options = {"STREAM_BUFFER_BYTES": 500, "STALLED_CLIENT_SECONDS": 0.05}
        async with playing(self, one=provider, **options) as play:
            call = play.start(stream=True)
            head = await call.head  # and takes nothing from the channel
            await play.settled()

            closed = play.the_closed()
            self.assertTrue(head.channel.is_gone)
            self.assertEqual(
                (closed.usage_source, cost_of(closed), closed.client_left), ("provider", COST, True)
            )

    async def test_what_waits_for_a_slow_client_is_bounded(self):
        provider = Provider.streaming([*WORDS * 200, USAGE, DONE])
        async with playing(self, one=provider, STREAM_BUFFER_BYTES=500, STALLED_CLIENT_SECONDS=60) as play:
            head = await play.start(stream=True).head
            await steps(2_000)
            waiting, taken = head.channel._size, provider.sent_chunks
            _, body = await play.whole(mock.Mock(head=_resolved(head)))

            self.assertLess(waiting, 500 + len(max(WORDS, key=len)) + 1)
            self.assertLess(taken, 20)
            self.assertEqual(body, b"".join([*WORDS * 200, DONE]))

    async def test_one_stalled_client_holds_up_no_other(self):
        provider = Provider.streaming([*WORDS * 200, USAGE, DONE])
        options = {"STREAM_BUFFER_BYTES": 500, "STALLED_CLIENT_SECONDS": 60}
        async with playing(self, one=provider, **options) as play:
            stuck = [play.start(stream=True) for _ in range(200)]
            await asyncio.gather(*[call.head for call in stuck])
            _, body = await play.whole(play.start(stream=True))

            self.assertEqual(body, b"".join([*WORDS * 200, DONE]))
            for call in stuck:
                call.cut("shutdown")
            await play.settled()
            self.assertEqual(len(play.records(Closed)), 201)
            self.assertTrue(play.is_settled_once())


class RetryTests(SimpleTestCase):
    """H9: retried is what is provably unbilled, and nothing else."""

    async def test_a_connection_that_was_never_made_is_tried_elsewhere(self):
        for error in UNBILLED:
            second = Provider()
            async with playing(self, one=Provider(error=error), two=second) as play:
                head, body = await play.whole(play.start())

                closed = play.the_closed()
                self.assertEqual((head.status, body), (200, ANSWER))
                self.assertEqual((closed.upstream, cost_of(closed)), ("two", COST))
                self.assertEqual(
                    closed.attempts,
                    [
                        {"deployment_id": 10, "upstream": "one", "error": type(error).__name__},
                        {"deployment_id": 20, "upstream": "two", "status": 200},
                    ],
                )
                self.assertTrue(play.is_settled_once())

    async def test_a_refusal_for_now_is_tried_elsewhere(self):
        for status in (429, 500, 502, 503, 529):
            first, second = Provider([b'{"error": {"message": "later"}}'], status=status), Provider()
            async with playing(self, one=first, two=second) as play:
                head, body = await play.whole(play.start())

                self.assertEqual((head.status, body, first.closed), (200, ANSWER, 1))
                self.assertEqual(
                    [(attempt["upstream"], attempt["status"]) for attempt in play.the_closed().attempts],
                    [("one", status), ("two", 200)],
                )

    async def test_what_may_have_been_billed_is_never_tried_again(self):
        for error in PERHAPS_BILLED:
            second = Provider()
            async with playing(self, one=Provider(error=error), two=second) as play:
                head, _ = await play.whole(play.start())

                self.assertEqual(second.requests, [], type(error).__name__)
                self.assertEqual(head.status, 504 if isinstance(error, httpx.TimeoutException) else 502)
                self.assertEqual(play.the_closed().status, "failure")

    async def test_an_answer_that_breaks_off_is_never_tried_again(self):
        for make in (Provider, Provider.streaming):
            second = Provider()
            first = make([b"data: {"], breaks=httpx.ReadError("reset"))
            async with playing(self, one=first, two=second) as play:
                await play.whole(play.start(stream=make is not Provider))
                await play.settled()

                self.assertEqual(second.requests, [])
                self.assertEqual(play.the_closed().attempts[-1]["error"], "ReadError")

    async def test_a_call_that_the_provider_finds_wrong_is_wrong_everywhere(self):
        for status in (400, 401, 403, 404, 413, 422):
            second = Provider()
            first = Provider([b'{"error": {"message": "wrong", "type": "t"}}'], status=status)
            async with playing(self, one=first, two=second) as play:
                head, _ = await play.whole(play.start())

                self.assertEqual((head.status, second.requests), (status, []))
                self.assertEqual((play.the_closed().status, play.the_closed().cost_nano), ("failure", 0))

    async def test_the_last_refusal_is_passed_on(self):
        last = b'{"error": {"message": "later", "type": "rate_limit_error"}}'
        providers = {"one": Provider([b"{}"], status=500), "two": Provider([last], status=429)}
        async with playing(self, **providers) as play:
            head, body = await play.whole(play.start())

            self.assertEqual((head.status, body), (429, last))
            self.assertEqual(
                (play.the_closed().http_status, play.the_closed().error_type), (429, "rate_limit_error")
            )

    async def test_when_nobody_can_be_reached_it_costs_nothing(self):
        down = {name: Provider(error=UNBILLED[0]) for name in ("one", "two")}
        async with playing(self, **down) as play:
            head, body = await play.whole(play.start())

            closed = play.the_closed()
            self.assertEqual((head.status, closed.status, closed.cost_nano), (502, "failure", 0))
            self.assertEqual([attempt["upstream"] for attempt in closed.attempts], ["one", "two"])
            self.assertIn(b"cannot be reached", body)

    async def test_a_failed_target_is_tried_last_for_a_while(self):
        first = Provider(error=UNBILLED[0])
        async with playing(self, one=first, two=Provider()) as play:
            for _ in range(3):
                await play.whole(play.start())

        self.assertEqual(len(first.requests), 1)


class FullDiskTests(SimpleTestCase):
    async def test_what_cannot_be_recorded_is_not_sent(self):
        provider = Provider()
        async with playing(self, one=provider) as play:
            with _full_disk(play), self.assertLogs("proxy", logging.CRITICAL):
                head, body = await play.whole(play.start())

            self.assertEqual((head.status, provider.requests), (503, []))
            self.assertIn(b"disk full", body)

    async def test_the_refusal_is_written_once_the_disk_has_room(self):
        async with playing(self, one=Provider()) as play:
            with _full_disk(play), self.assertLogs("proxy", logging.CRITICAL):
                await play.whole(play.start())
                play.gateway._write_unwritten()
                while_full = play.records()

            with self.assertLogs("proxy", logging.WARNING):
                play.gateway._write_unwritten()
            play.gateway._write_unwritten()

            self.assertEqual(while_full, [])
            self.assertEqual(list(map(type, play.records())), [Opened, Closed])
            self.assertEqual((play.the_closed().status, play.the_closed().cost_nano), ("failure", 0))

    async def test_an_answer_is_given_and_its_record_is_written_later(self):
        provider = Provider(holds_head=True)
        async with playing(self, one=provider) as play:
            call = play.start()
            await provider.is_held.wait()
            with _full_disk(play), self.assertLogs("proxy", logging.CRITICAL):
                provider.go.set()
                head, body = await play.whole(call)
                while_full = play.records(Closed)

            with mock.patch("proxy.gateway._SWEEP_SECONDS", 0.01), self.assertLogs("proxy", logging.WARNING):
                sweeper = asyncio.create_task(play.gateway._sweep())
                await asyncio.sleep(0.1)
                sweeper.cancel()

            self.assertEqual((head.status, body, while_full), (200, ANSWER, []))
            self.assertEqual(cost_of(play.the_closed()), COST)
            self.assertTrue(play.is_settled_once())

    async def test_records_that_wait_keep_their_order(self):
        provider = Provider(holds_head=True)
        async with playing(self, one=provider) as play:
            call = play.start()
            await provider.is_held.wait()
            with _full_disk(play), self.assertLogs("proxy", logging.CRITICAL):
                provider.go.set()
                await play.whole(call)
            await play.whole(play.start())  # the disk has room again, but the first one's record still waits

            with self.assertLogs("proxy", logging.WARNING):
                play.gateway._write_unwritten()

            self.assertEqual(len(play.records(Closed)), 2)
            self.assertTrue(play.is_settled_once())

    async def test_with_sync_always_nobody_is_answered_before_the_disk_has_it(self):
        for provider in (Provider(), Provider.streaming()):
            async with playing(self, one=provider, JOURNAL_SYNC="always") as play:
                is_synced = asyncio.Event()
                play.gateway.syncer = mock.Mock(synced=is_synced.wait)
                call = play.start(stream=provider._headers["content-type"] == "text/event-stream")
                await steps(30)
                before = (call.head.done() and call.head.result().channel is None, call.task.done())

                is_synced.set()
                head, _ = await play.whole(call)

                self.assertEqual(before, (False, False))
                self.assertEqual(head.status, 200)


class ErrorTests(SimpleTestCase):
    async def test_a_failure_inside_the_gateway_is_answered_and_booked(self):
        async with playing(self, one=Provider(error=RuntimeError("a bug"))) as play:
            with self.assertLogs("proxy.calls", logging.ERROR):
                head, body = await play.whole(play.start())

            self.assertEqual((head.status, play.the_closed().status), (500, "failure"))
            self.assertNotIn(b"a bug", body)

    async def test_a_provider_that_refuses_our_credential_does_not_show_it(self):
        for status in (401, 400):
            said = msgspec.json.encode({"error": {"message": f"Incorrect API key: {CREDENTIAL}"}})
            async with playing(self, one=Provider([said], status=status)) as play:
                head, body = await play.whole(play.start())

                self.assertEqual(head.status, status)
                self.assertNotIn(CREDENTIAL.encode(), body)
                self.assertNotIn(CREDENTIAL, play.the_closed().error_message)

    async def test_an_answer_that_is_no_json_is_put_into_our_words(self):
        for status, expected in ((200, 502), (500, 500), (302, 502)):
            async with playing(self, one=Provider([b"<html>"], status=status, kind="text/html")) as play:
                head, body = await play.whole(play.start())

                self.assertEqual(head.status, expected)
                self.assertIn("text/html", msgspec.json.decode(body)["error"]["message"])
                self.assertEqual(play.the_closed().status, "failure")

    async def test_what_a_provider_or_a_caller_says_can_be_stored(self):
        said = b'{"error": {"message": "m\\u0000", "type": "t\\u0000"}}'
        name = "gpt-\0" + "x" * 300  # served by the wildcard
        async with playing(self, one=Provider([said], status=400)) as play:
            await play.whole(play.start(model=name))

            [sent], closed = play.records(Sent), play.the_closed()
            for text in (closed.error_type, closed.error_message, closed.upstream_model, sent.upstream_model):
                self.assertNotIn("\0", text)
                self.assertLessEqual(len(text), 255)

    async def test_a_call_that_cannot_be_recorded_is_answered_and_holds_nothing(self):
        provider = Provider()
        async with playing(self, one=provider) as play:
            desk = play.gateway.hold_desk = mock.Mock()
            unwritable = mock.patch.object(play.gateway.journal, "append", side_effect=OverflowError("int"))
            with unwritable, self.assertLogs("proxy.calls", "ERROR"):
                call = play.start()
                head, _ = await play.whole(call)
                await play.settled()

            self.assertEqual((head.status, len(provider.requests)), (500, 0))
            desk.give_back.assert_called_once_with(call._opened.call_id)
            self.assertEqual(play.gateway.calls, set())

    async def test_a_compressed_answer_is_read_all_the_same(self):
        import gzip

        packed = gzip.compress(ANSWER)
        provider = Provider([packed[:20], packed[20:]], headers={"content-encoding": "gzip"})
        async with playing(self, one=provider) as play:
            _, body = await play.whole(play.start())

            self.assertEqual((body, cost_of(play.the_closed())), (ANSWER, COST))

    async def test_a_compression_that_we_cannot_read_is_an_upstream_failure(self):
        provider = Provider(headers={"content-encoding": "br"})
        async with playing(self, one=provider) as play:
            head, _ = await play.whole(play.start())
            await play.settled()

            self.assertEqual((head.status, play.the_closed().status, provider.closed), (502, "failure", 1))


def _full_disk(play):
    error = JournalFull(errno.ENOSPC, "no space left on device")
    return mock.patch.object(play.gateway.journal, "append", side_effect=error)


def _resolved(value):
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future
