"""Rate limits that web processes share: what Redis decides, and what happens without it."""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Coroutine
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
import redis.asyncio
from django.conf import settings
from django.test import SimpleTestCase

from billing.usage import NO_USAGE, Usage
from proxy.errors import RateLimited
from proxy.rate_limits import redis as redis_module
from proxy.rate_limits.limiter import LEASE_SECONDS, Taken
from proxy.rate_limits.redis import RedisCounters
from proxy.rate_limits.rules import Rule
from tests import services
from tests.proxy.limiting import MINUTE_MS, Limiter, shared_limiter, wired_limiter
from tests.proxy.playing import steps

pytestmark = pytest.mark.skipif(not services.redis_url(), reason="needs Redis (REDIS_URL)")

TWO = Rule("api_key", "k", "requests", 2)
TOKENS = Rule("team", "blue", "tokens", 1_000)
ONE_SLOT = Rule("user", "alice", "max_parallel_requests", 1)


async def cancel_after(step_count: int, take: Coroutine[Any, Any, Taken]) -> Taken | Exception | None:
    """Cancel a take at some point of its way; return what it came to if it was there already."""
    task = asyncio.create_task(take)
    await steps(step_count)
    task.cancel()
    [result] = await asyncio.gather(task, return_exceptions=True)
    return None if isinstance(result, asyncio.CancelledError) else result


async def count_passing(limiter: Limiter, rule: Rule, tries: int) -> int:
    passed = 0
    for _ in range(tries):
        try:
            await limiter.take(rule)
        except RateLimited:
            continue
        passed += 1
    return passed


class SharedTests(SimpleTestCase):
    async def test_two_processes_share_one_limit(self):
        async with shared_limiter() as one, shared_limiter(beside=one) as other:
            await one.take(TWO)
            await other.take(TWO)

            with self.assertRaises(RateLimited):
                await one.take(TWO)
            with self.assertRaises(RateLimited):
                await other.take(TWO)

    async def test_a_refused_call_takes_nothing(self):
        async with shared_limiter() as shared:
            await shared.take(ONE_SLOT)

            with self.assertRaises(RateLimited):
                await shared.take(TWO, TOKENS, ONE_SLOT, tokens=1_000)

            headers = dict((await shared.take(TWO, TOKENS, tokens=1_000)).headers())
            self.assertEqual(headers[b"x-ratelimit-api_key-remaining-requests"], b"1")
            self.assertEqual(headers[b"x-ratelimit-team-remaining-tokens"], b"0")

    async def test_what_a_call_gives_back_is_there_for_the_next(self):
        async with shared_limiter() as shared:
            for _ in range(20):
                taken = await shared.take(ONE_SLOT, TOKENS, tokens=500)
                taken.settle(Usage(input_uncached=10))

            headers = dict((await shared.take(TOKENS, tokens=1)).headers())
            self.assertEqual(headers[b"x-ratelimit-team-remaining-tokens"], b"%d" % (1_000 - 20 * 10 - 1))

    async def test_a_call_that_is_cancelled_while_it_waits_takes_nothing(self):
        async with shared_limiter() as shared:
            for step_count in range(8):
                was_there = await cancel_after(step_count, shared.take(ONE_SLOT, TWO))
                if was_there is not None:
                    was_there.undo()

                taken = await shared.take(ONE_SLOT, TWO)

                headers = dict(taken.headers())
                self.assertEqual(headers[b"x-ratelimit-api_key-remaining-requests"], b"1")
                taken.undo()

    async def test_nor_does_it_stand_in_the_way_of_those_that_wait_behind_it(self):
        async with shared_limiter() as shared:
            exchange, is_sent, go = redis_module._exchange, asyncio.Event(), asyncio.Event()

            async def exchange_slowly(*arguments):
                answers = await exchange(*arguments)
                is_sent.set()
                await go.wait()
                return answers

            with mock.patch.object(redis_module, "_exchange", exchange_slowly):
                sent = asyncio.create_task(shared.take(ONE_SLOT))
                await is_sent.wait()
                waiting = asyncio.create_task(shared.take(ONE_SLOT))
                patient = asyncio.create_task(shared.take(ONE_SLOT))
                await steps(2)
                sent.cancel()
                waiting.cancel()
                go.set()

                await patient

            self.assertTrue(sent.cancelled() and waiting.cancelled())

    async def test_nor_does_one_whose_answer_comes_at_that_moment(self):
        async with shared_limiter() as shared:
            task = asyncio.create_task(shared.take(ONE_SLOT, TWO))
            exchange = redis_module._exchange

            async def exchange_and_cancel(*arguments):
                answers = await exchange(*arguments)
                asyncio.get_running_loop().call_soon(task.cancel)
                return answers

            with mock.patch.object(redis_module, "_exchange", exchange_and_cancel):
                with self.assertRaises(asyncio.CancelledError):
                    await task

            headers = dict((await shared.take(ONE_SLOT, TWO)).headers())
            self.assertEqual(headers[b"x-ratelimit-api_key-remaining-requests"], b"1")

    async def test_one_that_is_cancelled_and_was_refused_gives_nothing_back(self):
        async with shared_limiter() as shared:
            for _ in range(2):
                await shared.take(TWO)
            for step_count in range(8):
                result = await cancel_after(step_count, shared.take(TWO))
                self.assertNotIsInstance(result, Taken)

            with self.assertRaises(RateLimited):
                await shared.take(TWO)

    async def test_the_slots_of_a_killed_process_free_themselves(self):
        async with shared_limiter() as killed, shared_limiter(beside=killed) as other:
            taken = await killed.take(ONE_SLOT)
            await killed.move(LEASE_SECONDS * 1000 - 1)
            killed.renew()
            await killed.move(LEASE_SECONDS * 1000 - 1)
            with self.assertRaises(RateLimited):
                await other.take(ONE_SLOT)

            await killed.move(1)  # nobody has renewed it since

            await other.take(ONE_SLOT)
            taken.settle(NO_USAGE)

    async def test_nothing_stays_in_redis(self):
        async with shared_limiter() as shared:
            taken = await shared.take(TWO, TOKENS, ONE_SLOT, tokens=5)
            taken.settle(Usage(input_uncached=50))
            await shared.take(ONE_SLOT)

            keys = [key async for key in shared.client.scan_iter(f"rate:*{shared.suffix}*", count=1_000)]
            lives = [await shared.client.pttl(key) for key in keys]

            self.assertEqual(len(keys), 3 + 1)  # and the clock of the test
            self.assertTrue(all(0 < life <= 600_000 for life in lives), lives)
            counted = [life for key, life in zip(keys, lives, strict=True) if b"clock" not in key]
            self.assertLessEqual(max(counted), 2 * MINUTE_MS)

    async def test_the_servers_clock_decides(self):
        holder = f"clock {time.time_ns()}"
        rule = Rule("api_key", holder, "requests", 2)
        counters = RedisCounters(services.redis_url(), lease_ms=1_000)
        with mock.patch.object(redis_module, "ANSWER_SECONDS", 10):
            await counters.connect()
            async with redis.asyncio.Redis.from_url(services.redis_url()) as client:
                seconds, _ = await client.time()

                answer = await counters.take(b"call", [rule], [1])

            self.assertLess(abs(answer.at_ms - seconds * 1000), 10_000)
            await counters.close()


# What one of several web processes does: all at once, each call of its own.
_PROCESS = """
import asyncio, json, sys
from proxy.rate_limits import redis
from proxy.rate_limits.rules import Rule
redis.ANSWER_SECONDS = 30

async def main(url, holder, kind, calls):
    counters = redis.RedisCounters(url, lease_ms=60_000)
    await counters.connect()
    print("ready", flush=True)
    sys.stdin.readline()
    rule = Rule("api_key", holder, kind, 10)
    ids = [f"{holder} {id(counters)} {i}".encode() for i in range(calls)]
    answers = await asyncio.gather(*(counters.take(call_id, [rule], [1]) for call_id in ids))
    print(json.dumps([answer and answer.refused is None for answer in answers]))
    await counters.close()

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


class RaceTests(SimpleTestCase):
    def test_500_calls_of_four_processes_get_exactly_the_limit(self):
        for kind in ("requests", "max_parallel_requests"):
            holder = f"race {time.time_ns()}"
            processes = [
                subprocess.Popen(
                    [sys.executable, "-c", _PROCESS, services.redis_url(), holder, kind, "125"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=settings.BASE_DIR,
                )
                for _ in range(4)
            ]  # fmt: skip
            for process in processes:
                self.assertEqual(process.stdout.readline(), "ready\n")

            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]

            self.assertEqual([len(some) for some in answers], [125] * 4)
            self.assertEqual(sum(passed for some in answers for passed in some), 10)


class OutageTests(SimpleTestCase):
    async def until_connected(self, limiter: Limiter) -> None:
        async with asyncio.timeout(10):
            while limiter.limiter.degraded is not None:
                limiter.limiter.sweep()
                await asyncio.sleep(0.01)

    async def test_calls_go_on_with_what_memory_knows(self):
        async with wired_limiter() as (limiter, wire):
            await limiter.take(TWO)
            await wire.cut()

            self.assertEqual(await count_passing(limiter, TWO, 5), 2)
            self.assertIn("Redis is away", limiter.limiter.degraded)

    async def test_each_process_then_enforces_its_share(self):
        async with wired_limiter(web_workers=2) as (limiter, wire):
            await wire.cut()

            self.assertEqual(await count_passing(limiter, TWO, 5), 1)

    async def test_it_is_told_once_at_its_beginning_and_once_at_its_end(self):
        async with wired_limiter() as (limiter, wire):
            with self.assertLogs("proxy.rate_limits.redis") as logged:
                await wire.cut()
                await count_passing(limiter, TWO, 5)
                for _ in range(3):
                    limiter.limiter.sweep()
                    await limiter.limiter._connecting
                await wire.mend()
                await self.until_connected(limiter)

            messages = [record.getMessage() for record in logged.records]
            self.assertEqual(len(messages), 2, messages)
            self.assertTrue(messages[0].startswith("Redis is away"))
            self.assertTrue(messages[1].startswith("Redis is back"))

    async def test_afterwards_limits_are_shared_again(self):
        async with wired_limiter() as (limiter, wire), wired_limiter() as (other, _):
            other.suffix = limiter.suffix
            await wire.cut()
            await count_passing(limiter, TWO, 5)
            await wire.mend()
            await self.until_connected(limiter)

            held = await limiter.take(ONE_SLOT)

            self.assertEqual(await count_passing(other, ONE_SLOT, 3), 0)
            held.settle(NO_USAGE)

    async def test_a_slot_that_memory_gave_is_none_of_redis(self):
        async with wired_limiter() as (limiter, wire):
            await wire.cut()
            in_memory = await limiter.take(ONE_SLOT)
            await wire.mend()
            await self.until_connected(limiter)

            limiter.renew()

            shared = await limiter.take(ONE_SLOT)
            in_memory.settle(NO_USAGE)
            shared.settle(NO_USAGE)

    async def test_a_redis_that_does_not_answer_costs_a_call_a_moment_and_the_next_none(self):
        async with wired_limiter(answer_s=0.1) as (limiter, wire):
            await limiter.take(TOKENS)
            wire.hold()

            async with asyncio.timeout(5):
                taken = await limiter.take(TWO)
            with mock.patch.object(redis_module, "_exchange", side_effect=AssertionError("asked again")):
                await limiter.take(TWO)

            self.assertIn("TimeoutError", limiter.limiter.degraded)
            taken.settle(NO_USAGE)
            wire.pass_on()
            await self.until_connected(limiter)

    async def test_calls_that_wait_together_fall_back_together(self):
        async with wired_limiter(answer_s=0.1) as (limiter, wire):
            wire.hold()
            rule = Rule("api_key", "k", "requests", 10)

            results = await asyncio.gather(*(limiter.take(rule) for _ in range(500)), return_exceptions=True)

            self.assertEqual(sum(not isinstance(result, Exception) for result in results), 10)
            wire.pass_on()

    async def test_a_call_from_before_the_outage_settles_all_the_same(self):
        async with wired_limiter() as (limiter, wire):
            taken = await limiter.take(TWO, TOKENS, ONE_SLOT, tokens=100)
            await wire.cut()
            taken.settle(Usage(input_uncached=5))

            await limiter.take(ONE_SLOT)

    async def test_a_redis_that_answers_with_an_error_counts_as_away(self):
        async with wired_limiter() as (limiter, _wire):
            async with redis.asyncio.Redis.from_url(services.redis_url()) as client:
                name = f"rate:user:max_parallel_requests:alice {limiter.suffix}"
                await client.set(name, "no sorted set", px=10_000)

            await limiter.take(ONE_SLOT)

            self.assertIn("WRONGTYPE", limiter.limiter.degraded)
            await self.until_connected(limiter)

    async def test_a_redis_that_takes_no_writes_counts_as_away(self):
        user = f"reader-{uuid.uuid4().hex}"
        parts = urlsplit(services.redis_url())
        url = parts._replace(netloc=f"{user}:any@{parts.netloc.rpartition('@')[2]}").geturl()
        async with redis.asyncio.Redis.from_url(services.redis_url()) as client:
            await client.execute_command("ACL", "SETUSER", user, "on", "nopass", "~*", "+@all", "-@write")
            try:
                with self.assertLogs("proxy.rate_limits.redis", "ERROR"):
                    counters = RedisCounters(url, lease_ms=1_000)
                    await counters.connect()
            finally:
                await client.execute_command("ACL", "DELUSER", user)

        self.assertIn("NoPermission", counters.why_away)
        await counters.close()

    async def test_one_that_is_away_at_the_start_is_used_when_it_comes(self):
        async with wired_limiter() as (limiter, wire):
            await wire.cut()
            late = Limiter(type(limiter.limiter)(redis_url=wire.url))

            with self.assertLogs("proxy.rate_limits.redis", "ERROR"):
                await late.limiter.start()
            await late.take(TWO)
            await wire.mend()
            await self.until_connected(late)

            self.assertEqual(await count_passing(late, TWO, 5), 2)
            await late.limiter.stop()
