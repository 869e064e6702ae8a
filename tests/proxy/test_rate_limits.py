"""Rate limits in one process's memory: the sliding minute, slots, refusals, headers."""

import asyncio
import gc
from unittest import mock

import msgspec
from django.conf import settings
from django.core.checks import Error, Warning
from django.test import SimpleTestCase, override_settings
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import NO_USAGE, Usage
from proxy.checks import rate_limits_are_shared
from proxy.dialects import anthropic_messages, openai_chat
from proxy.errors import RateLimited
from proxy.rate_limits import windows
from proxy.rate_limits.limiter import LEASE_SECONDS, RateLimiter, Taken
from proxy.rate_limits.memory import MemoryCounters
from proxy.rate_limits.rules import Rule, rules_of
from proxy.responses import WholeAnswer

MINUTE_MS = 60_000


class WindowTests(SimpleTestCase):
    figures = st.integers(0, 300)
    elapsed = st.integers(0, MINUTE_MS - 1)

    def test_the_previous_minute_weighs_what_is_left_of_it(self):
        # A quarter of this minute has passed: 3/4 of the previous 40 still count.
        room = 100 - 10 - 40 * 3 // 4

        self.assertEqual(windows.remaining(100, 10, 40, MINUTE_MS // 4), room)
        self.assertTrue(windows.has_room(100, 10, 40, MINUTE_MS // 4, room))
        self.assertFalse(windows.has_room(100, 10, 40, MINUTE_MS // 4, room + 1))

    @given(figures, figures, figures, elapsed)
    def test_what_remains_is_the_most_that_has_room(self, limit, current, previous, elapsed):
        left = windows.remaining(limit, current, previous, elapsed)

        self.assertTrue(left == 0 or windows.has_room(limit, current, previous, elapsed, left))
        self.assertFalse(windows.has_room(limit, current, previous, elapsed, left + 1))

    @given(figures, figures, figures, elapsed, st.integers(1, 300))
    def test_the_wait_is_the_shortest_that_helps(self, limit, current, previous, elapsed, amount):
        wait = windows.wait_ms(limit, current, previous, elapsed, amount)

        def has_room(after_ms):
            at = elapsed + after_ms
            counts = [(current, previous), (0, current), (0, 0)][at // MINUTE_MS]
            return windows.has_room(limit, *counts, at % MINUTE_MS, amount)

        if wait is None:
            self.assertGreater(amount, limit)
        else:
            self.assertTrue(has_room(wait))
            self.assertFalse(wait and has_room(wait - 1))


class LimiterCase(SimpleTestCase):
    """A limiter on a clock that is moved by hand: `self.now` in ms."""

    def setUp(self):
        self.now = 1_000 * MINUTE_MS
        self.calls = 0
        self.limiter = self.make_limiter()

    def make_limiter(self, **options) -> RateLimiter:
        limiter = RateLimiter(**options)
        limiter._memory = MemoryCounters(lease_ms=LEASE_SECONDS * 1000, clock=lambda: self.now)
        return limiter

    def take(self, *rules: Rule, tokens: tuple[int, int] = (0, 0), limiter=None) -> Taken:
        self.calls += 1
        input_tokens, output_tokens = tokens
        return asyncio.run(
            (limiter or self.limiter).take(
                b"call %d" % self.calls, rules, input_tokens=input_tokens, output_tokens=output_tokens
            )
        )

    def assert_full(self, *rules: Rule, **options) -> RateLimited:
        with self.assertRaises(RateLimited) as caught:
            self.take(*rules, **options)
        return caught.exception

    def sweep_at_once(self) -> None:
        """Have the limiter renew its leases now."""
        self.limiter._renewed_at = float("-inf")
        self.limiter.sweep()


THREE = Rule("api_key", "k", "requests", 3)
TOKENS = Rule("team", "blue", "tokens", 1_000)
TWO_SLOTS = Rule("user", "alice", "max_parallel_requests", 2)


class RequestTests(LimiterCase):
    def test_as_many_as_the_limit_pass_and_not_one_more(self):
        for _ in range(3):
            self.take(THREE)

        self.assert_full(THREE)

    def test_they_count_for_a_minute(self):
        for _ in range(3):
            self.take(THREE).settle(NO_USAGE)
        self.now += MINUTE_MS

        self.assert_full(THREE)  # a new clock minute, but the last sixty seconds are full
        self.now += MINUTE_MS // 3
        self.take(THREE)  # 3 * 2/3 still count
        self.assert_full(THREE)

    def test_two_minutes_later_nothing_counts(self):
        for _ in range(3):
            self.take(THREE)
        self.now += 2 * MINUTE_MS

        for _ in range(3):
            self.take(THREE)

    def test_holders_scopes_and_kinds_are_counted_apart(self):
        rules = [Rule("team", "a", "requests", 1), Rule("team", "b", "requests", 1)]
        rules += [Rule("user", "a", "requests", 1), Rule("team", "a", "tokens", 1)]

        for rule in rules:
            self.take(rule)

    def test_a_changed_limit_finds_what_was_counted(self):
        for _ in range(3):
            self.take(THREE)

        self.take(THREE._replace(limit=4))
        self.assert_full(THREE._replace(limit=4))

    def test_a_limit_of_nothing_refuses_every_call(self):
        for kind in ("requests", "tokens", "max_parallel_requests"):
            error = self.assert_full(Rule("user", "alice", kind, 0))

            self.assertEqual(error.headers["retry-after"], "60")

    def test_500_at_once_get_exactly_the_limit(self):
        rule = Rule("api_key", "k", "requests", 10)

        async def take(i):
            try:
                return await self.limiter.take(b"%d" % i, [rule], input_tokens=0, output_tokens=0)
            except RateLimited:
                return None

        async def take_all():
            return await asyncio.gather(*(take(i) for i in range(500)))

        self.assertEqual(sum(taken is not None for taken in asyncio.run(take_all())), 10)

    def test_a_call_without_rules_takes_nothing(self):
        taken = self.take()

        taken.settle(Usage(output_text=5))
        taken.undo()

        self.assertEqual((taken.headers(), len(self.limiter._memory)), ([], 0))


class TogetherTests(LimiterCase):
    def test_a_call_that_one_rule_refuses_takes_nothing_from_the_others(self):
        roomy = Rule("team", "blue", "requests", 2)
        self.take(TWO_SLOTS)
        self.take(TWO_SLOTS)

        self.assert_full(roomy, TOKENS, TWO_SLOTS, tokens=(1_000, 0))

        self.take(roomy)
        self.take(roomy, TOKENS, tokens=(1_000, 0))

    def test_the_first_rule_without_room_is_named(self):
        full = [Rule("team", "blue", "requests", 0), Rule("user", "alice", "requests", 0)]

        error = self.assert_full(THREE, *full)

        self.assertIn("team blue", error.message)

    def test_what_is_undone_was_never_taken(self):
        for _ in range(2):
            self.take(THREE, TOKENS, TWO_SLOTS, tokens=(900, 100)).undo()

        self.take(THREE, TOKENS, TWO_SLOTS, tokens=(900, 100))
        self.take(THREE)
        self.take(THREE)
        self.assert_full(THREE)

    def test_what_is_undone_in_the_next_minute_goes_off_the_one_it_was_counted_in(self):
        taken = [self.take(THREE) for _ in range(3)]
        self.now += MINUTE_MS

        taken[0].undo()

        self.take(THREE)
        self.assert_full(THREE)

    def test_what_is_undone_later_gives_no_credit(self):
        taken = self.take(THREE)
        self.now += 2 * MINUTE_MS

        taken.undo()

        for _ in range(3):
            self.take(THREE)
        self.assert_full(THREE)

    def test_only_the_first_way_out_counts(self):
        one = self.take(THREE, TWO_SLOTS)
        self.take(THREE, TWO_SLOTS)

        one.settle(NO_USAGE)
        one.undo()
        one.settle(NO_USAGE)

        self.take(THREE, TWO_SLOTS)
        self.assert_full(TWO_SLOTS)
        self.assert_full(THREE)


class TokenTests(LimiterCase):
    def test_the_estimate_counts_until_the_usage_is_known(self):
        taken = self.take(TOKENS, tokens=(300, 500))
        self.assert_full(TOKENS, tokens=(201, 0))

        taken.settle(Usage(input_uncached=300, output_text=50))

        self.take(TOKENS, tokens=(1_000 - 350, 0))
        self.assert_full(TOKENS, tokens=(1, 0))

    def test_more_than_was_estimated_counts_from_when_it_is_known(self):
        taken = self.take(TOKENS, tokens=(100, 0))
        self.now += 10 * MINUTE_MS

        taken.settle(Usage(input_uncached=100, output_text=800))

        self.take(TOKENS, tokens=(200, 0))
        self.assert_full(TOKENS, tokens=(1, 0))

    def test_less_than_was_estimated_gives_later_calls_no_credit(self):
        taken = self.take(TOKENS, tokens=(1_000, 0))
        self.now += 10 * MINUTE_MS

        taken.settle(Usage(input_uncached=10))

        self.take(TOKENS, tokens=(1_000, 0))
        self.assert_full(TOKENS, tokens=(1, 0))

    def test_a_call_that_failed_for_nothing_keeps_its_request_but_no_tokens(self):
        self.take(THREE, TOKENS, tokens=(1_000, 0)).settle(NO_USAGE)

        self.take(THREE, TOKENS, tokens=(1_000, 0))
        self.take(THREE)
        self.assert_full(THREE)

    def test_without_usage_the_estimate_stands(self):
        self.take(TOKENS, tokens=(1_000, 0)).settle()

        self.assert_full(TOKENS, tokens=(1, 0))

    def test_an_estimate_above_the_limit_passes_when_the_minute_is_empty(self):
        self.take(TOKENS, tokens=(50_000, 0)).settle(Usage(input_uncached=2_000))

        error = self.assert_full(TOKENS, tokens=(50_000, 0))
        self.now += int(error.headers["retry-after"]) * 1000

        self.take(TOKENS, tokens=(50_000, 0))

    def test_what_counts_is_a_setting(self):
        for counted, estimated, used in (("total", 700, 70), ("input", 500, 50), ("output", 200, 20)):
            limiter = self.make_limiter(counted_tokens=counted)

            taken = self.take(TOKENS, tokens=(500, 200), limiter=limiter)
            self.assertIn(
                (b"x-ratelimit-team-remaining-tokens", b"%d" % (1_000 - estimated)), taken.headers()
            )
            taken.settle(Usage(cache_read=30, input_uncached=20, output_text=15, reasoning=5))

            rest = self.take(TOKENS, limiter=limiter).headers()
            self.assertIn((b"x-ratelimit-team-remaining-tokens", b"%d" % (1_000 - used - 1)), rest)


class SlotTests(LimiterCase):
    def test_a_slot_is_free_again_when_its_call_is_over(self):
        one = self.take(TWO_SLOTS)
        self.take(TWO_SLOTS)
        self.assert_full(TWO_SLOTS)

        one.settle(NO_USAGE)

        self.take(TWO_SLOTS)
        self.assert_full(TWO_SLOTS)

    def test_a_long_call_keeps_its_slot(self):
        taken = [self.take(TWO_SLOTS) for _ in range(2)]
        for _ in range(6):
            self.now += LEASE_SECONDS * 1000 // 2
            self.sweep_at_once()

        self.assert_full(TWO_SLOTS)
        self.assertEqual(len(taken), 2)

    def test_a_call_that_is_over_does_not_take_its_slot_again(self):
        taken = [self.take(TWO_SLOTS) for _ in range(2)]
        for one in taken:
            one.settle(NO_USAGE)

        self.sweep_at_once()

        self.take(TWO_SLOTS)
        self.take(TWO_SLOTS)

    def test_the_slot_of_a_call_that_was_forgotten_frees_itself(self):
        for _ in range(2):
            self.take(TWO_SLOTS)  # nobody holds what it returns
        gc.collect()
        self.now += LEASE_SECONDS * 1000 - 1
        self.sweep_at_once()
        self.assert_full(TWO_SLOTS)

        self.now += 1
        self.sweep_at_once()

        self.assertEqual(len(self.limiter._memory), 0)
        self.take(TWO_SLOTS)

    def test_it_does_so_behind_a_call_that_lives(self):
        alive = self.take(TWO_SLOTS)
        self.take(TWO_SLOTS)  # nobody holds what it returns
        gc.collect()
        self.now += LEASE_SECONDS * 1000 - 1
        self.sweep_at_once()

        self.now += 1

        self.take(TWO_SLOTS)
        self.assert_full(TWO_SLOTS)
        alive.settle(NO_USAGE)

    def test_leases_are_renewed_three_times_in_their_life(self):
        with mock.patch("proxy.rate_limits.limiter.time.monotonic", lambda: self.now / 1000):
            self.limiter._renewed_at = self.now / 1000
            taken = [self.take(TWO_SLOTS) for _ in range(2)]
            for _ in range(5 * LEASE_SECONDS // 2):
                self.now += 1000
                self.limiter.sweep()

        self.assert_full(TWO_SLOTS)
        self.assertEqual(len(taken), 2)


class MemoryTests(LimiterCase):
    def test_idle_holders_vanish(self):
        for i in range(1_000):
            self.take(Rule("end_user", f"customer-{i}", "requests", 5))
        self.now += 2 * MINUTE_MS

        self.take(THREE)

        self.assertEqual(len(self.limiter._memory), 1)

    def test_it_is_bounded_and_forgets_the_newcomers_first(self):
        self.limiter._memory = MemoryCounters(lease_ms=1, clock=lambda: self.now, max_counters=100)
        for _ in range(3):
            self.take(THREE)

        for minute in range(3):
            self.now += MINUTE_MS if minute else 0
            self.take(THREE._replace(holder="another"))
            for i in range(500):
                self.take(Rule("end_user", f"customer-{minute}-{i}", "requests", 5))
            if minute == 0:
                self.assert_full(THREE)

            self.assertLessEqual(len(self.limiter._memory), 200)

    def test_what_was_forgotten_is_not_given_back_to_others(self):
        self.limiter._memory = MemoryCounters(lease_ms=1, clock=lambda: self.now, max_counters=1)
        forgotten = self.take(TOKENS, tokens=(1_000, 0))
        self.take(THREE)
        self.take(TOKENS, tokens=(100, 0))

        forgotten.undo()

        self.take(TOKENS, tokens=(1_000, 0))
        self.assert_full(TOKENS, tokens=(1, 0))


class RefusalTests(LimiterCase):
    def test_it_says_whose_limit_how_much_is_left_and_when_to_come_back(self):
        rule = Rule("end_user", "acme-042", "tokens", 60)
        self.take(rule, tokens=(50, 0))
        self.now += 45_000

        with mock.patch("proxy.rate_limits.limiter.time.time", lambda: 1_770_110_000.0):
            error = self.assert_full(rule, tokens=(30, 0))

        # 20 of the 50 have to fade, in the next minute: 15 s to its beginning, and 20/50 of it.
        self.assertEqual((error.status, error.type, error.param), (429, "rate_limit_error", None))
        self.assertEqual(
            error.headers,
            {
                "retry-after": str(15 + 60 * 20 // 50),
                "rate_limit_type": "tokens",
                "reset_at": "2026-02-03 09:13:59 UTC",
            },
        )
        self.assertEqual(
            error.message,
            "Rate limit exceeded for end_user acme-042: "
            "60 tokens per 60 s, 10 left, resets 2026-02-03 09:13:59 UTC",
        )

    def test_who_comes_back_then_passes(self):
        for _ in range(3):
            self.take(THREE)
            self.now += 7_300  # so that the wait is no whole number of seconds

        error = self.assert_full(THREE)
        self.now += (int(error.headers["retry-after"]) - 1) * 1000
        self.assert_full(THREE)
        self.now += 1000

        self.take(THREE)

    def test_a_slot_may_be_free_any_moment(self):
        for _ in range(2):
            self.take(TWO_SLOTS)

        error = self.assert_full(TWO_SLOTS)

        self.assertEqual(error.headers["retry-after"], "1")
        self.assertEqual(error.headers["rate_limit_type"], "max_parallel_requests")
        self.assertIn("user alice: 2 parallel requests, 0 left", error.message)

    def test_people_read_a_label_not_an_id(self):
        rule = Rule("api_key", "0b0d4f9e", "requests", 0, label="sk-...1234")

        error = self.assert_full(rule)

        self.assertIn("for api_key sk-...1234:", error.message)
        self.assertNotIn("0b0d4f9e", error.message)

    def test_the_gateway_needs_no_name(self):
        error = self.assert_full(Rule("gateway", "", "requests", 0))

        self.assertTrue(error.message.startswith("Rate limit exceeded for gateway: 0 requests"))

    def test_it_is_answered_in_the_callers_dialect(self):
        error = self.assert_full(Rule("gateway", "", "requests", 0))

        openai, anthropic = (
            WholeAnswer.of_error(dialect, error, "call-1") for dialect in (openai_chat, anthropic_messages)
        )

        self.assertEqual((openai.status_code, anthropic.status_code), (429, 429))
        said = msgspec.json.decode(openai.body)["error"]
        self.assertEqual((said["type"], said["param"], said["code"]), ("rate_limit_error", None, "429"))
        said = msgspec.json.decode(anthropic.body)
        self.assertEqual((said["type"], said["error"]["type"]), ("error", "rate_limit_error"))
        self.assertEqual(anthropic.headers["retry-after"], "60")


class HeaderTests(LimiterCase):
    def test_each_limit_and_what_is_left_of_it(self):
        rules = rules_of("team", "blue", requests_per_minute=10, tokens_per_minute=1_000, parallel_requests=4)

        headers = self.take(*rules, tokens=(200, 100)).headers()

        self.assertEqual(
            sorted(headers),
            [
                (b"x-ratelimit-team-limit-max_parallel_requests", b"4"),
                (b"x-ratelimit-team-limit-requests", b"10"),
                (b"x-ratelimit-team-limit-tokens", b"1000"),
                (b"x-ratelimit-team-remaining-max_parallel_requests", b"3"),
                (b"x-ratelimit-team-remaining-requests", b"9"),
                (b"x-ratelimit-team-remaining-tokens", b"700"),
            ],
        )

    def test_of_several_tags_the_one_with_least_left(self):
        self.take(Rule("tag", "b", "requests", 9), Rule("tag", "b", "tokens", 9))
        tags = [Rule("tag", name, "requests", limit) for name, limit in (("a", 20), ("b", 9), ("c", 15))]

        headers = self.take(*tags).headers()

        self.assertEqual(
            headers,
            [(b"x-ratelimit-tag-limit-requests", b"9"), (b"x-ratelimit-tag-remaining-requests", b"7")],
        )

    def test_a_keys_own_have_a_second_name(self):
        rules = rules_of("api_key", "k", requests_per_minute=10, tokens_per_minute=100, parallel_requests=1)

        headers = dict(self.take(*rules).headers())

        self.assertEqual(headers[b"x-litellm-key-rpm-limit"], b"10")
        self.assertEqual(headers[b"x-litellm-key-tpm-limit"], b"100")

    def test_a_keys_limit_on_a_model_names_the_model_as_a_header_can(self):
        label = "OpenAI/gpt-4o:x\r\ninjected: yes"
        rule = Rule("model_per_key", "k/gpt-4o", "requests", 5, label=label)

        headers = dict(self.take(rule).headers())

        name = b"x-litellm-key-remaining-requests-openai-gpt-4o-x--injected--yes"
        self.assertEqual(headers[name], b"4")


class ShareTests(LimiterCase):
    """Several web processes, no Redis."""

    def test_each_enforces_its_part(self):
        limiter = self.make_limiter(web_workers=4)
        rule = Rule("team", "blue", "requests", 11)

        for _ in range(11 // 4):
            self.take(rule, limiter=limiter)
        error = self.assert_full(rule, limiter=limiter)

        self.assertIn("2 requests per 60 s (one web process's share of 11), 0 left", error.message)

    def test_a_small_limit_still_lets_one_pass_and_none_none(self):
        limiter = self.make_limiter(web_workers=4)

        self.take(THREE, limiter=limiter)
        self.assert_full(THREE, limiter=limiter)
        self.assert_full(THREE._replace(holder="other", limit=0), limiter=limiter)

    def test_it_is_told(self):
        self.assertIsNone(RateLimiter().degraded)
        self.assertIn("each of 4 web processes", RateLimiter(web_workers=4).degraded)


class CheckTests(SimpleTestCase):
    def check(self, **options):
        with override_settings(**options):
            return rate_limits_are_shared(None)

    def test_several_web_processes_without_redis_are_warned_of(self):
        [warning] = self.check(WEB_WORKERS=2, REDIS_URL="")

        self.assertEqual((type(warning), warning.id), (Warning, "proxy.W001"))

    def test_one_process_or_redis_is_fine(self):
        self.assertEqual(self.check(WEB_WORKERS=1, REDIS_URL=""), [])
        self.assertEqual(self.check(WEB_WORKERS=2, REDIS_URL="redis://127.0.0.1:6379/1"), [])

    def test_a_url_of_something_else_is_an_error(self):
        [error] = self.check(WEB_WORKERS=1, REDIS_URL="http://127.0.0.1:6379")

        self.assertEqual((type(error), error.id), (Error, "proxy.E005"))

    def test_all_tokens_count_unless_it_is_set(self):
        self.assertEqual(settings.TOKEN_RATE_LIMIT_TYPE, "total")
