"""The response cache: who gets a kept answer, what is kept, and what a hit costs."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest import mock

import anthropic
import httpx
import msgspec
import openai
import pytest
from django.conf import settings
from django.core.cache import caches
from django.test import SimpleTestCase, override_settings
from django.utils import timezone

from billing.booking.records import Closed, Opened, Sent
from billing.budgets.holds import Claim
from billing.models import SpendLog
from billing.usage import NO_USAGE
from proxy import response_cache
from proxy.calls import Call
from proxy.checks import response_cache_has_a_store
from proxy.dialects import anthropic_messages, openai_chat, openai_embeddings, openai_responses
from proxy.errors import BadCall
from proxy.gateway import Gateway
from proxy.rate_limits.rules import Rule
from proxy.response_cache import Copy, SizedMemoryCache
from proxy.tiers import UNLIMITED, CallLimits
from spendproject import environment
from tests import services
from tests.admin_pages import AdminTestCase, make_log
from tests.gateway import GatewayProcess, is_true_within
from tests.proxy.limiting import Wire
from tests.proxy.playing import (
    ANSWER,
    COMPLETION,
    DONE,
    PROMPT,
    STREAM,
    USAGE,
    WORDS,
    Play,
    Provider,
    event,
    playing,
    steps,
)

ALICE, BOB = b"a" * 16, b"b" * 16
HELLO = [{"role": "user", "content": "hello"}]
COST_USD = Decimal("0.0036")  # of ANSWER at the prices of `playing`: 1,000 at $2 and 200 at $8 a million
RESPONSE = msgspec.json.encode(
    {"id": "resp_1", "status": "completed", "output": [], "usage": {"input_tokens": 5, "output_tokens": 7}}
)


def start(
    play: Play,
    *,
    key: bytes | None = ALICE,
    customer: str | None = None,
    user_id: str | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    query: str = "",
    dialect: Any = openai_chat,
    limits: CallLimits = UNLIMITED,
    raw: bytes | None = None,
    **body: Any,
) -> Call:
    """Start a call as the view does. raw: its body as it is."""
    said = raw or msgspec.json.encode({"model": "gpt-4o", "messages": HELLO, **body})
    ask = dialect.read_call(said)
    call_id, text, now_us = play.gateway.new_call_id()
    opened = Opened(
        call_id, now_us, dialect.NAME, ask.model, ask.streamed, key, user_id=user_id, customer_id=customer
    )
    targets = play.gateway.catalog.targets(ask.model)
    return play.gateway.start_call(dialect, ask, opened, text, targets, limits, list(headers), query)


async def answered(play: Play, **call: Any) -> tuple[dict[bytes, bytes], bytes]:
    """Make a call that succeeds. Returns (its headers, its whole body)."""
    head, body = await play.whole(start(play, **call))
    assert head.status == 200, body
    await play.settled()
    return dict(head.headers), body


def is_hit(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"x-litellm-cache-hit") == b"true"


class CacheTestCase(SimpleTestCase):
    def setUp(self) -> None:
        caches[response_cache.ALIAS].clear()  # one for the process

    async def is_second_a_hit(self, first: dict[str, Any], second: dict[str, Any], **options: Any) -> bool:
        """Tell whether the second call is answered with what the first one got."""
        caches[response_cache.ALIAS].clear()
        provider = options.pop("provider", None) or Provider()
        async with playing(self, one=provider, RESPONSE_CACHE="simple", **options) as play:
            await answered(play, **first)
            headers, _ = await answered(play, **second)
            asked = len(provider.requests)
        self.assertEqual(asked, 1 if is_hit(headers) else 2)
        return is_hit(headers)


class HitTests(CacheTestCase):
    async def test_an_identical_call_gets_the_same_bytes_and_does_not_go_upstream(self):
        provider = Provider()
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            first, first_body = await answered(play)
            second, second_body = await answered(play)

        self.assertEqual(first_body, ANSWER)
        self.assertEqual(second_body, ANSWER)
        self.assertEqual([is_hit(first), is_hit(second)], [False, True])
        self.assertEqual(second[b"content-type"], b"application/json")
        self.assertEqual(len(provider.requests), 1)

    async def test_it_costs_nothing_and_uses_nothing(self):
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            first, _ = await answered(play)
            second, _ = await answered(play)

            original, hit = play.records(Closed)
        self.assertEqual(Decimal(first[b"x-litellm-response-cost"].decode()), COST_USD)
        self.assertEqual(second[b"x-litellm-response-cost"], b"0")
        self.assertEqual(second[b"x-litellm-response-tokens"], b"0")
        self.assertEqual(
            (original.usage_source, original.usage.total_tokens), ("provider", PROMPT + COMPLETION)
        )
        self.assertEqual((hit.status, hit.http_status, hit.usage_source), ("success", 200, "cache"))
        self.assertEqual((hit.cost_nano, hit.charge_nano, hit.usage), (0, 0, NO_USAGE))
        self.assertEqual((hit.price_id, hit.deployment_id, hit.upstream), (None, None, ""))

    async def test_its_records_say_that_it_was_not_sent_and_whose_answer_it_got(self):
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            await answered(play)
            headers, _ = await answered(play)

            self.assertTrue(play.is_settled_once())
            opened, hit = play.records(Opened), play.records(Closed)[1]
            self.assertEqual([sent.call_id for sent in play.records(Sent)], [opened[0].call_id])
        came_from = opened[1].metadata["cache_hit"]
        self.assertEqual(came_from["call_id"], str(uuid.UUID(bytes=opened[0].call_id)))
        self.assertEqual(came_from["key"].encode(), headers[b"x-litellm-cache-key"])
        self.assertRegex(hit.response_id, r"^chatcmpl-1_cache_hit\d+\.\d+$")

    async def test_a_stream_is_replayed_as_a_stream(self):
        provider = Provider.streaming()
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            call = {"stream": True, "stream_options": {"include_usage": True}}
            _, first = await answered(play, **call)
            headers, second = await answered(play, **call)

        self.assertEqual(first, b"".join(STREAM))
        self.assertEqual(second, first)
        self.assertTrue(is_hit(headers))
        self.assertEqual(headers[b"content-type"], b"text/event-stream")
        self.assertEqual(headers[b"x-litellm-response-cost"], b"0")
        self.assertEqual(len(provider.requests), 1)

    async def test_a_replayed_stream_hides_the_usage_that_nobody_asked_for(self):
        async with playing(self, one=Provider.streaming(), RESPONSE_CACHE="simple") as play:
            await answered(play, stream=True)
            headers, body = await answered(play, stream=True)

        self.assertTrue(is_hit(headers))
        self.assertEqual(body, b"".join([*WORDS, DONE]))

    async def test_a_replayed_stream_says_that_it_cost_nothing_where_streams_say_their_cost(self):
        options = {"RESPONSE_CACHE": "simple", "INCLUDE_COST_IN_STREAMING_USAGE": True}
        async with playing(self, one=Provider.streaming(), **options) as play:
            call = {"stream": True, "stream_options": {"include_usage": True}}
            _, first = await answered(play, **call)
            headers, second = await answered(play, **call)

            hit_where_they_do = is_hit(headers)
        async with playing(self, one=Provider.streaming(), RESPONSE_CACHE="simple") as play:
            headers, _ = await answered(play, **call)

        self.assertTrue(hit_where_they_do)
        self.assertIn(f'"cost":{COST_USD}'.encode(), first)
        self.assertIn(b'"cost":0}', second)
        self.assertFalse(is_hit(headers))  # the setting was switched off: the kept one is of another form

    async def test_a_plain_and_a_streamed_call_never_get_each_others_answers(self):
        self.assertFalse(await self.is_second_a_hit({"stream": True}, {}, provider=Provider.streaming()))
        self.assertFalse(await self.is_second_a_hit({}, {"stream": True}))
        self.assertTrue(await self.is_second_a_hit({}, {"stream": False}))

    async def test_responses_embeddings_and_messages_are_kept_too(self):
        message = {"id": "msg_1", "usage": {"input_tokens": 3, "output_tokens": 4}}
        for dialect, answer in (
            (openai_embeddings, ANSWER),
            (openai_responses, RESPONSE),
            (anthropic_messages, msgspec.json.encode(message)),
        ):
            call = {"dialect": dialect, "input": "hi"}
            with self.subTest(dialect=dialect.NAME), mock.patch.object(
                anthropic_messages, "base_url", openai_chat.base_url
            ):  # fmt: skip
                self.assertTrue(await self.is_second_a_hit(call, call, provider=Provider([answer])))

    async def test_two_identical_calls_at_once_may_both_go_upstream_and_both_are_booked(self):
        provider = Provider(holds_head=True)
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            calls = [start(play), start(play)]
            await provider.is_held.wait()
            provider.go.set()
            bodies = [(await play.whole(call))[1] for call in calls]
            await play.settled()

            self.assertEqual([closed.usage_source for closed in play.records(Closed)], ["provider"] * 2)
        self.assertEqual(bodies, [ANSWER, ANSWER])

    async def test_the_client_of_a_hit_may_leave(self):
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            await answered(play)
            call = start(play)
            call.head.cancel()
            await play.settled()

            self.assertTrue(play.is_settled_once())
            self.assertEqual(play.records(Closed)[1].usage_source, "cache")


class OffTests(CacheTestCase):
    async def test_it_is_off_unless_it_is_switched_on_and_then_nothing_is_worked_out(self):
        provider = Provider()
        async with playing(self, one=provider) as play:
            self.assertIsNone(play.gateway.response_cache)
            with mock.patch.object(response_cache.ResponseCache, "place_of") as place_of:
                for _ in range(2):
                    headers, _ = await answered(play)

        self.assertEqual(len(provider.requests), 2)
        self.assertFalse(is_hit(headers))
        place_of.assert_not_called()

    async def test_the_field_cache_never_goes_upstream_on_or_off(self):
        for state in ("off", "simple"):
            provider = Provider()
            async with playing(self, one=provider, RESPONSE_CACHE=state) as play:
                await answered(play, cache={"no-cache": True, "no-store": True, "ttl": 5})

            [request] = provider.requests
            with self.subTest(state=state):
                sent = msgspec.json.decode(await request.aread())
                self.assertEqual(sent, {"model": "gpt-4o", "messages": HELLO})


class IdenticalTests(CacheTestCase):
    """What makes two calls identical, and what keeps them apart."""

    async def test_order_of_fields_and_white_space_do_not_matter(self):
        first = b'{"model": "gpt-4o", "temperature": 0.5, "messages": [{"role": "user", "content": "x"}]}'
        second = b'{"messages":[{"content":"x","role":"user"}],"temperature":0.5,"model":"gpt-4o"}'

        self.assertTrue(await self.is_second_a_hit({"raw": first}, {"raw": second}))

    async def test_who_asks_does_not_matter_beyond_key_customer_and_user(self):
        first = {"user": "u1", "metadata": {"tags": ["a"]}, "tags": ["b"], "safety_identifier": "s1"}
        second = {"user": "u2", "metadata": {"user_id": "x"}, "litellm_metadata": {"tags": ["c"]}}

        self.assertTrue(await self.is_second_a_hit(first, second))

    async def test_answers_of_the_responses_api_repeat_who_asked_so_there_it_matters(self):
        call = {"dialect": openai_responses, "input": "hi"}
        for name in ("user", "metadata", "safety_identifier"):
            first, second = {**call, name: {"a": "1"}}, {**call, name: {"a": "2"}}
            with self.subTest(name=name):
                self.assertFalse(await self.is_second_a_hit(first, second, provider=Provider([RESPONSE])))
                self.assertTrue(await self.is_second_a_hit(first, first, provider=Provider([RESPONSE])))

    async def test_everything_else_keeps_calls_apart(self):
        for name, first, second in (
            ("another key", {"key": ALICE}, {"key": BOB}),
            ("the master key", {"key": ALICE}, {"key": None}),
            ("another customer", {"customer": "acme"}, {"customer": "beta"}),
            ("no customer", {"customer": "acme"}, {}),
            ("another user", {"user_id": "alice"}, {"user_id": "bob"}),
            ("another model", {"model": "gpt-4o"}, {"model": "gpt-4o-mini"}),
            ("another message", {}, {"messages": [{"role": "user", "content": "Hello"}]}),
            ("another temperature", {"temperature": 1}, {"temperature": 0.5}),
            ("a number that is a text", {"seed": 1}, {"seed": "1"}),
            ("an unknown field", {}, {"top_secret_knob": 1}),
            ("another namespace", {"cache": {"namespace": "a"}}, {"cache": {"namespace": "b"}}),
            ("a beta feature", {}, {"headers": ((b"anthropic-beta", b"x"),)}),
            ("another organization", {}, {"headers": ((b"openai-organization", b"org"),)}),
            ("another query", {}, {"query": "beta=true"}),
            ("another dialect", {}, {"dialect": openai_embeddings}),
            ("the usage of a stream", {"stream": True}, {"stream": True, "stream_options": {"x": 1}}),
        ):
            made = Provider.streaming if first.get("stream") else Provider
            with self.subTest(name):
                self.assertFalse(await self.is_second_a_hit(first, second, provider=made()))
                self.assertTrue(await self.is_second_a_hit(second, second, provider=made()))

    async def test_headers_that_only_name_the_program_do_not_matter(self):
        first = {"headers": ((b"user-agent", b"one"), (b"x-stainless-retry-count", b"0"))}
        second = {"headers": ((b"user-agent", b"two"), (b"authorization", b"Bearer x"))}

        self.assertTrue(await self.is_second_a_hit(first, second))

    async def test_a_deployment_that_leads_elsewhere_now_has_no_answers(self):
        provider = Provider()
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            await answered(play)
            catalog = play.gateway.catalog
            [target] = catalog.targets("gpt-4o")
            elsewhere = replace(target, upstream_model="gpt-5")
            play.gateway.refresher.catalog = replace(catalog, exact={"gpt-4o": (elsewhere,)})
            headers, _ = await answered(play)

        self.assertFalse(is_hit(headers))

    async def test_another_installation_on_the_same_store_has_answers_of_its_own(self):
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            await answered(play)
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple", SECRET_KEY="y" * 50) as play:
            headers, _ = await answered(play)

        self.assertFalse(is_hit(headers))


class AskedForTests(CacheTestCase):
    """What a caller may ask for, by header and by the field `cache`."""

    async def test_no_cache_asks_the_provider_and_keeps_what_it_says(self):
        for wish in (
            {"cache": {"no-cache": True}},
            {"headers": ((b"cache-control", b"max-age=5, No-Cache"),)},
        ):
            with self.subTest(wish):
                self.assertFalse(await self.is_second_a_hit({}, wish))
                self.assertTrue(await self.is_second_a_hit(wish, {}))

    async def test_no_store_keeps_nothing_and_may_be_answered(self):
        for wish in ({"cache": {"no-store": True}}, {"headers": ((b"cache-control", b"no-store"),)}):
            with self.subTest(wish):
                self.assertFalse(await self.is_second_a_hit(wish, {}))
                self.assertTrue(await self.is_second_a_hit({}, wish))

    async def test_s_maxage_wants_an_answer_that_is_younger(self):
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            await answered(play)
            with later(10):
                young, _ = await answered(play, cache={"s-maxage": 9, "no-store": True})
                old, _ = await answered(play, cache={"s-maxage": 11, "no-store": True})

        self.assertEqual([is_hit(young), is_hit(old)], [False, True])

    async def test_ttl_shortens_how_long_an_answer_is_kept_but_never_lengthens_it(self):
        for ttl, after_s, expected in ((5, 4, True), (5, 6, False), (10**9, 99, True), (10**9, 101, False)):
            async with playing(
                self, one=Provider(), RESPONSE_CACHE="simple", RESPONSE_CACHE_SECONDS=100
            ) as play:
                await answered(play, cache={"ttl": ttl, "no-cache": True})
                with later(after_s), self.subTest(ttl=ttl, after_s=after_s):
                    headers, _ = await answered(play, cache={"no-store": True})
                    self.assertEqual(is_hit(headers), expected)

    async def test_a_ttl_of_nothing_keeps_nothing(self):
        self.assertFalse(await self.is_second_a_hit({"cache": {"ttl": 0}}, {}))

    def test_a_field_that_cannot_be_used_is_refused_by_name(self):
        for cache, told in (
            ("yes", r"\$\.cache"),
            ({"no-cache": "yes"}, r"\$\.cache\.no-cache"),
            ({"ttl": -1}, r"\$\.cache\.ttl"),
            ({"ttl": "1h"}, r"\$\.cache\.ttl"),
            ({"s-maxage": []}, r"\$\.cache\.s-maxage"),
        ):
            for dialect in (openai_chat, openai_responses, openai_embeddings, anthropic_messages):
                with self.subTest(cache=cache, dialect=dialect.NAME), self.assertRaisesRegex(BadCall, told):
                    dialect.read_call(msgspec.json.encode({"model": "m", "cache": cache}))


class NotKeptTests(CacheTestCase):
    async def test_calls_that_do_more_than_answer_are_not_kept(self):
        responses = {"dialect": openai_responses, "input": "hi"}
        for call in (
            {"store": True},
            {"tools": [{"type": "web_search"}]},
            {"web_search_options": {}, "tools": [{"type": "code_interpreter"}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            {**responses, "store": True},
            {**responses, "previous_response_id": "resp_0"},
            {**responses, "background": True},
            {**responses, "tools": [{"type": "file_search"}]},
        ):
            provider = Provider([RESPONSE if "dialect" in call else ANSWER])
            with self.subTest(call):
                self.assertFalse(await self.is_second_a_hit(call, call, provider=provider))

    async def test_calls_with_tools_that_the_client_runs_are_kept(self):
        call = {"tools": [{"type": "function", "function": {"name": "look_up"}}]}

        self.assertTrue(await self.is_second_a_hit(call, call))

    async def test_a_body_or_an_answer_above_the_limit_is_not_kept(self):
        options = {"RESPONSE_CACHE_ENTRY_BYTES": 1024}
        long = {"messages": [{"role": "user", "content": "x" * 1024}]}
        large = msgspec.json.encode({**msgspec.json.decode(ANSWER), "filler": "y" * 1024})
        chunks = [event({"id": "c", "choices": [{"delta": {"content": "z" * 1024}}]}), *STREAM]

        self.assertFalse(await self.is_second_a_hit(long, long, **options))
        self.assertFalse(await self.is_second_a_hit({}, {}, provider=Provider([large]), **options))
        streamed = {"stream": True}
        provider = Provider.streaming(chunks)
        self.assertFalse(await self.is_second_a_hit(streamed, streamed, provider=provider, **options))

    async def test_an_answer_whose_usage_is_estimated_is_not_kept(self):
        silent = msgspec.json.encode({"id": "x", "choices": []})

        self.assertFalse(await self.is_second_a_hit({}, {}, provider=Provider([silent])))

    async def test_a_failure_inside_a_200_is_not_kept(self):
        usage = {"input_tokens": 5, "output_tokens": 7}
        for body in (
            {"id": "r", "status": "failed", "usage": usage},
            {"id": "r", "status": "in_progress", "usage": usage},
            {"id": "r", "error": {"message": "no"}, "usage": usage},
        ):
            call = {"dialect": openai_responses, "input": "hi"}
            with self.subTest(body):
                provider = Provider([msgspec.json.encode(body)])
                self.assertFalse(await self.is_second_a_hit(call, call, provider=provider))

    async def test_another_status_than_200_is_not_kept(self):
        self.assertFalse(await self.is_second_a_hit({}, {}, provider=Provider(status=201)))

    async def test_an_error_is_not_kept(self):
        error = msgspec.json.encode({"error": {"message": "no", "type": "invalid_request_error"}})
        provider = Provider([error], status=400)
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            for _ in range(2):
                head, _ = await play.whole(start(play))
                self.assertEqual(head.status, 400)

        self.assertEqual(len(provider.requests), 2)

    async def test_a_stream_that_did_not_end_as_streams_do_is_not_kept(self):
        broken = httpx.ReadError("broken")
        for name, chunks, breaks in (
            ("without [DONE]", [*WORDS, USAGE], None),
            ("without usage", [*WORDS, DONE], None),
            ("with an error", [*WORDS, event({"error": {"message": "no"}}), USAGE, DONE], None),
            ("inside an event", [*WORDS, USAGE, DONE, b"data: {"], None),
            ("broken off", [*WORDS, USAGE], broken),
            ("broken off behind its end", STREAM, broken),
        ):
            provider = Provider.streaming(chunks, breaks=breaks)
            with self.subTest(name):
                call = {"stream": True}
                self.assertFalse(await self.is_second_a_hit(call, call, provider=provider))

    async def test_a_stream_cut_at_the_end_of_the_grace_is_not_kept(self):
        provider = Provider.streaming(holds_at=2)
        async with playing(self, one=provider, RESPONSE_CACHE="simple", DISCONNECT_GRACE_SECONDS=0) as play:
            call = start(play, stream=True)
            head = await call.head
            await provider.is_held.wait()
            head.channel.client_left()
            await play.settled()
            provider.go.set()
            headers, _ = await answered(play, stream=True)

        self.assertFalse(is_hit(headers))

    async def test_a_stream_read_to_its_end_after_its_client_left_is_kept(self):
        provider = Provider.streaming(holds_at=2)
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            head = await start(play, stream=True).head
            await provider.is_held.wait()
            head.channel.client_left()
            provider.go.set()
            await play.settled()
            headers, body = await answered(play, stream=True)

        self.assertTrue(is_hit(headers))
        self.assertEqual(body, b"".join([*WORDS, DONE]))

    async def test_an_answer_that_a_strict_budget_cut_short_is_not_kept(self):
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            call = start(play)
            call._output_limit = 16
            await play.whole(call)
            headers, _ = await answered(play)

        self.assertFalse(is_hit(headers))

    async def test_an_answer_in_another_form_than_was_asked_for_is_not_kept(self):
        self.assertFalse(await self.is_second_a_hit({"stream": True}, {"stream": True}))
        self.assertFalse(await self.is_second_a_hit({}, {}, provider=Provider.streaming()))
        html = Provider(kind="text/html")
        self.assertFalse(await self.is_second_a_hit({}, {}, provider=html))

    async def test_a_stream_that_breaks_behind_its_end_is_settled_as_ever(self):
        provider = Provider.streaming(breaks=httpx.ReadError("broken"))
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            with self.assertNoLogs("proxy.calls", "ERROR"):
                await play.whole(start(play, stream=True))
                await play.settled()

            closed = play.the_closed()
        self.assertEqual((closed.status, closed.usage_source), ("failure", "provider"))

    async def test_a_body_that_the_cache_cannot_read_is_passed_on(self):
        """It reads all of it, the gateway only what it needs: the rest is the provider's to judge."""
        call = {"raw": b'{"model":"gpt-4o","x":1e400}'}

        self.assertFalse(await self.is_second_a_hit(call, call))


class LimitsTests(CacheTestCase):
    async def test_a_rate_limit_counts_hits_and_refuses_them(self):
        limits = CallLimits(rules=(Rule("api_key", "k", "requests", 2),))
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            await answered(play, limits=limits)
            hit, _ = await answered(play, limits=limits)
            head, _ = await play.whole(start(play, limits=limits))

        self.assertTrue(is_hit(hit))
        self.assertEqual(hit[b"x-ratelimit-api_key-remaining-requests"], b"0")
        self.assertEqual(head.status, 429)

    async def test_a_hit_uses_no_tokens_of_a_rate_limit(self):
        limits = CallLimits(rules=(Rule("api_key", "k", "tokens", 5_000),))
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            left = []
            for _ in range(3):
                headers, _ = await answered(play, limits=limits, max_tokens=100)
                left.append(int(headers[b"x-ratelimit-api_key-remaining-tokens"]))

        self.assertEqual(left[1], left[2])  # as of when each was let in: what the second took came back

    async def test_a_hit_asks_no_budget(self):
        claim = Claim(mock.Mock(), 1)
        limits = CallLimits(claims=(claim,), labels=("k",), is_strict=True)
        async with playing(self, one=Provider(), RESPONSE_CACHE="simple") as play:
            await answered(play)
            with mock.patch.object(play.gateway.hold_desk, "admit", side_effect=AssertionError) as admit:
                headers, _ = await answered(play, limits=limits)

        self.assertTrue(is_hit(headers))
        admit.assert_not_called()

    async def test_nothing_is_answered_while_no_record_can_be_written(self):
        provider = Provider()
        async with playing(self, one=provider, RESPONSE_CACHE="simple") as play:
            await answered(play)
            play.gateway._unwritten = [Closed(b"x" * 16, 0, "failure")]
            headers, _ = await answered(play)
            play.gateway._unwritten = []

        self.assertFalse(is_hit(headers))
        self.assertEqual(len(provider.requests), 2)


class MemoryTests(SimpleTestCase):
    def make(self, max_bytes: int) -> SizedMemoryCache:
        return SizedMemoryCache(uuid.uuid4().hex, {"OPTIONS": {"MAX_BYTES": max_bytes}})

    def test_it_stays_within_its_bytes_and_drops_what_was_not_asked_for_longest(self):
        store = self.make(10_000)
        for name in "abc":
            store.set(name, name.encode() * 2_500)
        store.get("a")

        store.set("d", b"d" * 2_500)

        self.assertEqual([name for name in "abcd" if store.get(name) is not None], ["a", "c", "d"])
        self.assertLessEqual(store.used_bytes, 10_000)

    def test_small_entries_count_with_the_room_they_take(self):
        store = self.make(10_000)
        for number in range(1_000):
            store.set(str(number), b"")

        self.assertLessEqual(sum(store.get(str(number)) is not None for number in range(1_000)), 20)

    def test_what_is_larger_than_all_of_it_is_not_kept_and_drives_nothing_out(self):
        store = self.make(10_000)
        store.set("a", b"a")

        store.set("b", b"b" * 10_000)

        self.assertEqual((store.get("a"), store.get("b")), (b"a", None))

    def test_a_value_replaced_deleted_expired_or_cleared_gives_its_room_back(self):
        store = self.make(100_000)
        store.set("a", b"a" * 9_000)
        store.set("a", b"a")
        store.set("b", b"b", 0.01)
        store.set("c", b"c")
        store.delete("c")
        time.sleep(0.02)

        self.assertIsNone(store.get("b"))
        only_a = store.used_bytes
        store.clear()
        self.assertLess(only_a, 1_000)
        self.assertEqual((store.used_bytes, store.get("a")), (0, None))

    def test_a_copy_of_a_stream_is_all_of_it_or_nothing(self):
        copy, too_much = Copy(4), Copy(3)
        for chunk in (b"ab", b"cd"):
            copy.add(chunk)
            too_much.add(chunk)

        self.assertEqual((copy.whole(), too_much.whole()), (b"abcd", None))


@pytest.mark.skipif(not services.redis_url(), reason="needs Redis (REDIS_URL)")
class RedisTests(SimpleTestCase):
    def options(self, url: str) -> dict[str, Any]:
        entry = environment.response_cache("redis", url, max_bytes=0)
        caches_setting = {**settings.CACHES, "responses": {**entry, "KEY_PREFIX": f"test-{uuid.uuid4().hex}"}}
        return {"RESPONSE_CACHE": "redis", "CACHES": caches_setting}

    async def test_processes_share_their_answers(self):
        options = self.options(services.redis_url())
        with patient():
            async with playing(self, one=Provider(), **options) as play:
                await answered(play)
                await written(play.gateway)
                self.assertEqual(play.gateway.response_cache.state, "redis")
            async with playing(self, one=Provider(), **options) as play:
                headers, body = await answered(play)

        self.assertTrue(is_hit(headers))
        self.assertEqual(body, ANSWER)

    async def test_one_that_is_away_is_a_miss_said_once_and_asked_again(self):
        wire = Wire()
        await wire.mend()
        options = self.options(wire.url)
        await wire.cut()
        async with playing(self, one=Provider(), **options) as play:
            cache = play.gateway.response_cache
            with self.assertLogs("proxy.response_cache", "WARNING") as logs, patient():
                await cache.start()
                for _ in range(3):
                    headers, _ = await answered(play)
                    self.assertFalse(is_hit(headers))
                away = cache.state
                await wire.mend()
                cache._asks_again_at = 0
                await answered(play)
                await written(play.gateway)
                headers, _ = await answered(play)
            await wire.cut()

        self.assertIn("redis is away", away)
        self.assertTrue(is_hit(headers))
        self.assertEqual([record.levelname for record in logs.records], ["ERROR", "WARNING"])

    async def test_one_that_does_not_answer_is_waited_for_a_moment_and_by_few(self):
        wire = Wire()
        await wire.mend()
        async with playing(self, one=Provider(), **self.options(wire.url)) as play:
            with patient():
                await play.gateway.response_cache.start()
            wire.hold()
            began = time.monotonic()
            with self.assertLogs("proxy.response_cache", "ERROR") as logs:
                for _ in range(20):
                    await answered(play)
            took_s = time.monotonic() - began
            cache = play.gateway.response_cache
            cache._asks_again_at = 0
            with mock.patch.object(cache._store, "get", wraps=cache._store.get) as get:
                await asyncio.gather(*(answered(play) for _ in range(20)))
            wire.pass_on()
            await written(play.gateway)
        await wire.cut()

        self.assertEqual(len(logs.records), 1)
        self.assertLess(took_s, 20 * response_cache.ANSWER_SECONDS / 2)
        self.assertEqual(get.call_count, 1)  # one found out for all

    async def test_a_call_that_is_cut_while_it_waits_for_the_cache_was_not_sent(self):
        wire = Wire()
        await wire.mend()
        provider = Provider()
        async with playing(self, one=provider, **self.options(wire.url)) as play:
            with patient():
                await play.gateway.response_cache.start()
                wire.hold()
                call = start(play)
                await steps(5)
                call.cut("shutdown")
                await play.settled()
            wire.pass_on()
            await written(play.gateway)

            self.assertEqual(play.the_closed().status, "not_sent")
        await wire.cut()
        self.assertEqual(provider.requests, [])

    async def test_what_somebody_else_wrote_there_is_a_miss(self):
        async with playing(self, one=Provider(), **self.options(services.redis_url())) as play:
            with patient():
                await answered(play)
                await written(play.gateway)
                headers, _ = await answered(play)
                store = play.gateway.response_cache._store
                key = headers[b"x-litellm-cache-key"].decode()
                await asyncio.to_thread(store.set, key, b"cos\nsystem\n(S'true'\ntR.")
                headers, body = await answered(play)

        self.assertFalse(is_hit(headers))
        self.assertEqual(body, ANSWER)

    async def test_after_its_end_nothing_is_asked_or_written(self):
        async with playing(self, one=Provider(), **self.options(services.redis_url())) as play:
            play.gateway.response_cache.close()
            headers, _ = await answered(play)

        self.assertFalse(is_hit(headers))


class SettingsTests(SimpleTestCase):
    def test_redis_without_an_address_is_refused_at_the_start(self):
        for cache, url, expected in (
            ("off", "", []),
            ("simple", "", []),
            ("redis", "redis://h", []),
            ("redis", "", ["proxy.E006"]),
        ):
            with self.subTest(cache=cache, url=url), override_settings(RESPONSE_CACHE=cache, REDIS_URL=url):
                self.assertEqual([error.id for error in response_cache_has_a_store(None)], expected)


class PageTests(AdminTestCase):
    def test_the_log_shows_what_came_from_the_cache(self):
        log = make_log(at=timezone.now(), usage_source="cache", cost=0, charge=0)

        listed = self.client.get(self.url(SpendLog, "changelist") + "?usage=cache")
        page = self.client.get(self.url(SpendLog, "change", log.pk))

        self.assertEqual([row.pk for row in listed.context["cl"].result_list], [log.pk])
        self.assertContains(page, "Answered from the response cache")


# -- through the whole gateway -------------------------------------------------------------


@pytest.fixture(scope="module")
def caching(provider: Any) -> Iterator[GatewayProcess]:
    with GatewayProcess(provider=provider, RESPONSE_CACHE="simple") as process:
        yield process


@pytest.fixture
def as_openai(caching, customer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{caching.url}/v1", api_key=caching.master_key, max_retries=0, timeout=20,
        default_headers={"x-litellm-customer-id": customer},
    ) as sdk:  # fmt: skip
        yield sdk


@pytest.fixture
def as_anthropic(caching, customer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=caching.url, api_key=caching.master_key, max_retries=0, timeout=20,
        default_headers={"x-litellm-customer-id": customer},
    ) as sdk:  # fmt: skip
        yield sdk


@pytest.fixture
def billed_once(caching, provider, customer):
    """Assert that of two calls the provider saw one, and that both are booked, one for nothing."""

    def check() -> None:
        rows = caching.wait_booked(2, customer_id=customer)
        entries = provider.settled_bill(tag=customer)["entries"]
        assert len(entries) == 1
        assert [row["usage_source"] for row in rows] == ["provider", "cache"]
        assert rows[0]["cost"] > 0
        assert (rows[1]["cost"], rows[1]["charge"], rows[1]["status"]) == (0, 0, "success")
        assert rows[1]["metadata"]["cache_hit"]["call_id"] == str(rows[0]["id"])
        total = caching.total("customer", customer)
        assert (total["cost"], total["calls"]) == (rows[0]["cost"], 2)
        assert total["prompt_tokens"] + total["completion_tokens"] == sum(
            rows[0][name] for name in ("input_uncached", "output_text")
        )

    return check


@pytest.mark.processes
class TestSdks:
    def test_openai_chat(self, as_openai, customer, billed_once):
        call = {"model": "gpt-4o-mini", "messages": HELLO, "extra_body": {"fake": {"tag": customer}}}

        first = as_openai.chat.completions.create(**call)
        raw = as_openai.chat.completions.with_raw_response.create(**call)

        assert raw.parse() == first
        assert raw.headers["x-litellm-cache-hit"] == "true"
        assert Decimal(raw.headers["x-litellm-response-cost"]) == 0
        billed_once()

    def test_openai_chat_streamed(self, as_openai, customer, billed_once):
        call = {"model": "gpt-4o-mini", "messages": HELLO, "extra_body": {"fake": {"tag": customer}}}

        texts = []
        for _ in range(2):
            with as_openai.chat.completions.stream(**call) as stream:
                texts.append(stream.get_final_completion().choices[0].message.content)

        assert texts[0] == texts[1] != ""
        billed_once()

    def test_openai_responses_plain_and_streamed(self, as_openai, customer, caching, provider):
        call = {"model": "gpt-4o-mini", "input": "hi", "extra_body": {"fake": {"tag": customer}}}

        plain = [as_openai.responses.create(**call).output_text for _ in range(2)]
        streamed = []
        for _ in range(2):
            with as_openai.responses.stream(**call) as stream:
                streamed.append(stream.get_final_response().output_text)

        rows = caching.wait_booked(4, customer_id=customer)
        assert plain[0] == plain[1] == streamed[0] == streamed[1] != ""
        assert [row["usage_source"] for row in rows] == ["provider", "cache"] * 2
        assert len(provider.settled_bill(tag=customer)["entries"]) == 2

    def test_openai_embeddings(self, as_openai, customer, billed_once):
        body = {"fake": {"tag": customer}}
        first, second = (
            as_openai.embeddings.create(model="text-embedding-3-small", input="hi", extra_body=body)
            for _ in range(2)
        )

        assert first.data[0].embedding == second.data[0].embedding != []
        billed_once()

    def test_openai_completions(self, as_openai, customer, billed_once):
        call = {"model": "gpt-3.5-turbo-instruct", "prompt": "hi", "extra_body": {"fake": {"tag": customer}}}

        first, second = (as_openai.completions.create(**call) for _ in range(2))

        assert first == second
        billed_once()

    def test_anthropic_messages(self, as_anthropic, customer, billed_once):
        call = {
            "model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 100,
            "extra_body": {"fake": {"tag": customer}},
        }  # fmt: skip

        first = as_anthropic.messages.create(**call)
        raw = as_anthropic.messages.with_raw_response.create(**call)

        assert raw.parse().content == first.content
        assert raw.headers["x-litellm-cache-hit"] == "true"
        billed_once()

    def test_anthropic_messages_streamed(self, as_anthropic, customer, billed_once):
        call = {
            "model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 100,
            "extra_body": {"fake": {"tag": customer}},
        }  # fmt: skip

        texts = []
        for _ in range(2):
            with as_anthropic.messages.stream(**call) as stream:
                texts.append(stream.get_final_text())

        assert texts[0] == texts[1] != ""
        billed_once()

    def test_a_caller_may_ask_for_a_fresh_answer_by_header_and_by_field(self, as_openai, customer, provider):
        call = {"model": "gpt-4o-mini", "messages": HELLO}
        body = {"fake": {"tag": customer}}
        as_openai.chat.completions.create(**call, extra_body=body)

        by_header = as_openai.chat.completions.with_raw_response.create(
            **call, extra_body=body, extra_headers={"Cache-Control": "no-cache"}
        )
        by_field = as_openai.chat.completions.with_raw_response.create(
            **call, extra_body={**body, "cache": {"no-cache": True}}
        )

        assert "x-litellm-cache-hit" not in {**by_header.headers, **by_field.headers}
        assert len(provider.settled_bill(tag=customer)["entries"]) == 3

    def test_a_field_that_cannot_be_used_is_a_400(self, as_openai, as_anthropic):
        body = {"cache": {"ttl": "1h"}}
        with pytest.raises(openai.BadRequestError, match="ttl"):
            as_openai.chat.completions.create(model="gpt-4o-mini", messages=HELLO, extra_body=body)
        with pytest.raises(anthropic.BadRequestError, match="ttl"):
            as_anthropic.messages.create(
                model="claude-haiku-4-5", messages=HELLO, max_tokens=9, extra_body=body
            )


@pytest.mark.processes
class TestRefusals:
    """Kept answers open no door that is shut."""

    @pytest.fixture
    def call(self, caching, customer):
        def make(secret: str, **body: Any) -> httpx.Response:
            said = {"model": "gpt-4o-mini", "messages": HELLO, "user": customer, "fake": {"tag": customer}}
            with httpx.Client(base_url=caching.url, trust_env=False, verify=False, timeout=20) as client:
                bearer = {"authorization": f"Bearer {secret}"}
                return client.post("/v1/chat/completions", json={**said, **body}, headers=bearer)

        return make

    def test_another_key_gets_an_answer_of_its_own(self, caching, customer, call, provider):
        (_, one), (_, other) = caching.create_key(), caching.create_key()

        answers = [call(secret) for secret in (one, other, one, other)]

        hits = [answer.headers.get("x-litellm-cache-hit") for answer in answers]
        assert hits == [None, None, "true", "true"]
        assert len(provider.settled_bill(tag=customer)["entries"]) == 2

    def test_a_blocked_customer_is_refused_what_is_kept(self, caching, customer, call):
        from customers.models import Customer

        assert call(caching.master_key).status_code == 200
        caching.wait_booked(1, customer_id=customer)
        customer_row = caching.execute_orm(Customer.objects.get, pk=customer)
        customer_row.blocked = True
        caching.execute_orm(customer_row.save)

        assert is_true_within(5, lambda: call(caching.master_key).status_code == 403)

    def test_a_blocked_key_and_a_model_that_is_not_allowed_any_more_are_refused(self, caching, call):
        key, secret = caching.create_key()
        assert call(secret).status_code == 200
        assert call(secret).headers["x-litellm-cache-hit"] == "true"

        key.allowed_models = ["gpt-4o"]
        caching.execute_orm(key.save)
        assert is_true_within(5, lambda: call(secret).status_code == 403)
        key.blocked = True
        caching.execute_orm(key.save)
        assert is_true_within(5, lambda: call(secret).status_code == 401)

    def test_a_budget_that_is_spent_refuses_calls_but_not_what_is_free(self, caching, customer, call):
        from customers.models import Budget, Customer

        def limit() -> None:
            budget = Budget.objects.create(max_budget=Decimal("0.000000001"))
            Customer.objects.update_or_create(pk=customer, defaults={"budget": budget})

        assert call(caching.master_key).status_code == 200
        caching.wait_booked(1, customer_id=customer)
        caching.execute_orm(limit)

        seeds = itertools.count()  # another call each time: none of them is kept already
        assert is_true_within(5, lambda: call(caching.master_key, seed=next(seeds)).status_code == 400)
        free = call(caching.master_key)
        assert (free.status_code, free.headers.get("x-litellm-cache-hit")) == (200, "true")

    def test_readiness_names_the_cache(self, caching, gateway):
        def told(process: GatewayProcess) -> str:
            return httpx.get(f"{process.url}/health/readiness", trust_env=False).json()["response_cache"]

        assert (told(caching), told(gateway)) == ("simple", "off")


@pytest.mark.processes
@pytest.mark.skipif(not services.redis_url(), reason="needs Redis (REDIS_URL)")
def test_with_redis_what_is_kept_outlives_the_web_process(make_gateway, customer, provider):
    gateway = make_gateway(RESPONSE_CACHE="redis")
    said = {"model": "gpt-4o-mini", "messages": HELLO, "user": customer, "fake": {"tag": customer}}

    def call() -> httpx.Response:
        bearer = {"authorization": f"Bearer {gateway.master_key}"}
        return httpx.post(f"{gateway.url}/v1/chat/completions", json=said, headers=bearer, trust_env=False)

    assert call().status_code == 200
    # On a busy machine Redis may have been too slow for the first one: then the next one is kept.
    assert is_true_within(10, lambda: call().headers.get("x-litellm-cache-hit") == "true")
    asked = len(provider.settled_bill(tag=customer)["entries"])
    gateway.restart()
    assert is_true_within(10, lambda: call().headers.get("x-litellm-cache-hit") == "true")

    assert len(provider.settled_bill(tag=customer)["entries"]) == asked


# -- helpers -------------------------------------------------------------------------------


def later(seconds: float) -> Any:
    """Let the cache's clock be ahead."""
    clock = SimpleNamespace(time=lambda: time.time() + seconds, monotonic=time.monotonic)
    return mock.patch.object(response_cache, "time", clock)


def patient() -> Any:
    """Wait for Redis, however slow this machine is."""
    return mock.patch.object(response_cache, "ANSWER_SECONDS", 10)


async def written(gateway: Gateway) -> None:
    """Wait until the cache's thread has done what it was given."""
    cache = gateway.response_cache
    await gateway.loop.run_in_executor(cache._thread, int)
    await asyncio.sleep(0)
