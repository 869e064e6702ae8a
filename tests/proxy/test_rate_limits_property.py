"""
Any sequence of takes, settlements, give-backs, renewals and pauses, against an oracle.

The oracle keeps every event for ever and sums with fractions; it shares no line with
the stores. Memory and Redis must both decide as it does, call by call, and say the
same of what is left.
"""

import asyncio
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from django.test import SimpleTestCase
from hypothesis import example, given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from proxy.errors import RateLimited
from proxy.rate_limits.limiter import LEASE_SECONDS, Taken
from proxy.rate_limits.rules import Rule
from tests import services
from tests.proxy.limiting import MINUTE_MS, START_MS, Limiter, memory_limiter, shared_limiter

RULES = [
    Rule("gateway", "", "requests", 6),
    Rule("api_key", "k", "requests", 3),
    Rule("api_key", "k", "tokens", 100),
    Rule("team", "blue", "tokens", 150),
    Rule("user", "alice", "max_parallel_requests", 2),
    Rule("team", "blue", "max_parallel_requests", 3),
]


class Take(NamedTuple):
    rules: list[Rule]
    tokens: int


class Settle(NamedTuple):
    which: int  # of the calls under way
    tokens: int


class Undo(NamedTuple):
    which: int


class Renew(NamedTuple):
    pass


class Pause(NamedTuple):
    ms: int


class Oracle:
    """What the rules say, by adding up everything that ever happened."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.amounts: list[tuple[int, Rule, int]] = []  # (minute it counts in, rule, amount)
        self.slots: dict[tuple[int, Rule], int] = {}  # (call, rule) → end of the lease
        self.asked: dict[int, tuple[int, Take]] = {}  # call → (minute, what it took)

    def take(self, call: int, take: Take) -> tuple[Any, ...]:
        """Return ("refused", scope, kind), or ("taken", what is left of each rule)."""
        for rule in take.rules:
            if self.used(rule) + self.asks(rule, take) > rule.limit:
                return "refused", rule.scope, rule.kind
        minute = self.now_ms // MINUTE_MS
        for rule in take.rules:
            if rule.kind == "max_parallel_requests":
                self.slots[call, rule] = self.now_ms + LEASE_SECONDS * 1000
            else:
                self.amounts.append((minute, rule, self.asks(rule, take)))
        self.asked[call] = minute, take
        left = [max(0, (rule.limit - self.used(rule)).__floor__()) for rule in take.rules]
        return "taken", *left

    def settle(self, call: int, tokens: int | None) -> None:
        """tokens: that were used; None: all is given back."""
        taken_in, take = self.asked.pop(call)
        for rule in take.rules:
            self.slots.pop((call, rule), None)
            if rule.kind == "max_parallel_requests" or (rule.kind == "requests" and tokens is not None):
                continue
            difference = (tokens or 0) - self.asks(rule, take)
            minute = taken_in if difference < 0 else self.now_ms // MINUTE_MS
            self.amounts.append((minute, rule, difference))

    def renew(self) -> None:
        for call, (_, take) in self.asked.items():
            for rule in take.rules:
                if rule.kind == "max_parallel_requests":
                    self.slots[call, rule] = self.now_ms + LEASE_SECONDS * 1000

    def used(self, rule: Rule) -> Fraction:
        if rule.kind == "max_parallel_requests":
            ends = [end for (_, held), end in self.slots.items() if held == rule]
            return Fraction(sum(end > self.now_ms for end in ends))
        minute, elapsed = divmod(self.now_ms, MINUTE_MS)
        weights = {minute: Fraction(1), minute - 1: 1 - Fraction(elapsed, MINUTE_MS)}
        return sum((weights.get(at, 0) * n for at, held, n in self.amounts if held == rule), Fraction(0))

    def asks(self, rule: Rule, take: Take) -> int:
        return min(max(take.tokens, 1), rule.limit) if rule.kind == "tokens" else 1


class Played:
    """A limiter of ours, driven as the oracle is."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.taken: dict[int, Taken] = {}

    async def take(self, call: int, take: Take) -> tuple[Any, ...]:
        try:
            taken = await self.limiter.take(*take.rules, tokens=take.tokens)
        except RateLimited as error:
            return "refused", error.message.split()[4].rstrip(":"), error.headers["rate_limit_type"]
        self.taken[call] = taken
        headers = dict(taken.headers())
        names = [f"x-ratelimit-{rule.scope}-remaining-{rule.kind}".encode() for rule in take.rules]
        return "taken", *(int(headers[name]) for name in names)

    def settle(self, call: int, tokens: int | None) -> None:
        taken = self.taken.pop(call)
        if tokens is None:
            taken.undo()
        else:
            taken.settle(Usage(input_uncached=tokens // 2, output_text=tokens - tokens // 2))


async def play(steps: list[Any], limiter: Limiter) -> None:
    """Do the steps with the limiter and the oracle, and compare what they answer."""
    oracle, played = Oracle(), Played(limiter)
    for number, step in enumerate(steps):
        under_way = sorted(oracle.asked)
        match step:
            case Take():
                assert await played.take(number, step) == oracle.take(number, step), (number, step)
            case Settle(which, tokens) if under_way:
                call = under_way[which % len(under_way)]
                played.settle(call, tokens)
                oracle.settle(call, tokens)
            case Undo(which) if under_way:
                call = under_way[which % len(under_way)]
                played.settle(call, None)
                oracle.settle(call, None)
            case Renew():
                limiter.renew()
                oracle.renew()
            case Pause(ms):
                await limiter.move(ms)
                oracle.now_ms += ms


takes = st.builds(Take, st.lists(st.sampled_from(RULES), min_size=1, unique=True), st.integers(0, 120))
sequences = st.lists(
    st.one_of(
        takes,
        takes,
        st.builds(Settle, st.integers(0, 9), st.integers(0, 200)),
        st.builds(Undo, st.integers(0, 9)),
        st.builds(Renew),
        st.builds(Pause, st.sampled_from([1, 7_000, 29_999, 59_999, 60_000, 61_000, 120_000])),
    ),
    max_size=40,
)


class InterleavingTests(SimpleTestCase):
    @given(sequences)
    @settings(max_examples=300, deadline=None, database=None)
    @example([Take(RULES, 100), Pause(60_000), Undo(0), Take(RULES, 100)])
    @example([Take(RULES[4:], 1), Pause(LEASE_SECONDS * 1000), Take(RULES[4:], 1)])
    @example([Take(RULES, 10), Pause(120_000), Settle(0, 90), Take(RULES, 20)])
    def test_memory_decides_as_the_oracle(self, steps):
        asyncio.run(play(steps, memory_limiter()))

    @pytest.mark.skipif(not services.redis_url(), reason="needs Redis (REDIS_URL)")
    @given(sequences)
    @settings(max_examples=60, deadline=None, database=None)
    @example([Take(RULES, 100), Pause(60_000), Undo(0), Take(RULES, 100)])
    @example([Take(RULES[4:], 1), Pause(LEASE_SECONDS * 1000), Take(RULES[4:], 1)])
    @example([Take(RULES, 10), Pause(120_000), Settle(0, 90), Take(RULES, 20)])
    def test_redis_decides_as_the_oracle(self, steps):
        async def run():
            async with shared_limiter() as limiter:
                await play(steps, limiter)
                assert limiter.limiter.degraded is None

        asyncio.run(run())
