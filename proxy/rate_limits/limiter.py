"""
The limiter: what a call takes before it is sent, and what it brings back.

One per web process. With REDIS_URL the counters are shared; without it, and while
Redis is away, each web process enforces its share of every limit from memory. A
call never fails because Redis does, and no money depends on any of this.

Slots are leases: this process renews those of its calls three times a lease, so the
slots of a process that was killed free themselves, and so does that of a call that
was forgotten here by mistake.
"""

import asyncio
import re
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from billing.usage import Usage
from proxy.errors import RateLimited
from proxy.headers import Headers
from proxy.rate_limits import windows
from proxy.rate_limits.memory import MemoryCounters
from proxy.rate_limits.redis import RedisCounters
from proxy.rate_limits.rules import PARALLEL, REQUESTS, TOKENS, Answer, Changes, Rule, Store

LEASE_SECONDS = 60
_RENEW_SECONDS = LEASE_SECONDS / 3

# What setting TOKEN_RATE_LIMIT_TYPE counts, of (input, output) tokens.
_COUNTED: dict[str, Callable[[int, int], int]] = {
    "total": lambda input_tokens, output_tokens: input_tokens + output_tokens,
    "input": lambda input_tokens, output_tokens: input_tokens,
    "output": lambda input_tokens, output_tokens: output_tokens,
}


class RateLimiter:
    """Decides on calls for one event loop."""

    def __init__(self, *, redis_url: str = "", web_workers: int = 1, counted_tokens: str = "total") -> None:
        """counted_tokens: which of a call's tokens count: "total", "input" or "output"."""
        self._web_workers = web_workers
        self._counted = _COUNTED[counted_tokens]
        self._memory = MemoryCounters(lease_ms=LEASE_SECONDS * 1000)
        self._redis = RedisCounters(redis_url, lease_ms=LEASE_SECONDS * 1000) if redis_url else None
        self._with_slots: weakref.WeakSet[Taken] = weakref.WeakSet()
        self._renewed_at = time.monotonic()
        self._connecting: asyncio.Task | None = None

    async def start(self) -> None:
        """Connect to Redis, where there is one to be used. Does not fail where it is away."""
        if self._redis is not None:
            await self._redis.connect()

    async def stop(self) -> None:
        """Bring back what still waits to be, and disconnect."""
        if self._connecting is not None:
            await self._connecting
        if self._redis is not None:
            await self._redis.close()

    @property
    def degraded(self) -> str | None:
        """Why limits are not exact across web processes right now; None: they are."""
        if self._redis is not None:
            away = self._redis.why_away
            return None if away is None else f"Redis is away ({away}): {self._told_share()}"
        return None if self._web_workers == 1 else f"no REDIS_URL: {self._told_share()}"

    def _told_share(self) -> str:
        if self._web_workers == 1:
            return "each web process counts alone"
        return f"each of {self._web_workers} web processes enforces that part of every limit"

    async def take(
        self, call_id: bytes, rules: Sequence[Rule], *, input_tokens: int, output_tokens: int
    ) -> "Taken":
        """Take a request, the estimated tokens and a slot under every rule, or nothing at all.

        Waits for nobody but Redis, and not for long. Raises: RateLimited, naming the first
        rule that refuses.
        """
        if not rules:
            return NOTHING_TAKEN
        tokens = self._counted(input_tokens, output_tokens)
        store: Store | None = self._redis
        amounts = _amounts(rules, tokens)
        answer = await self._redis.take(call_id, rules, amounts) if self._redis is not None else None
        enforced = rules
        if answer is None:
            store = self._memory
            if self._web_workers > 1:
                enforced = [_share(rule, self._web_workers) for rule in rules]
                amounts = _amounts(enforced, tokens)
            answer = self._memory.take(call_id, enforced, amounts)
        if answer.refused is not None:
            i = answer.refused
            raise _refusal(rules[i], enforced[i].limit, amounts[i], answer)
        assert store is not None
        taken = Taken(store, call_id, enforced, amounts, answer, self._counted)
        if any(rule.kind == PARALLEL for rule in rules):
            self._with_slots.add(taken)
        return taken

    def sweep(self) -> None:
        """Once a second: renew the leases when it is time, look whether Redis is back."""
        redis = self._redis
        if time.monotonic() - self._renewed_at >= _RENEW_SECONDS:
            self._renewed_at = time.monotonic()
            for store in (self._memory, redis):
                if store is not None:
                    taken = [taken for taken in self._with_slots if taken.is_of(store)]
                    store.renew([slot for one in taken for slot in one.slots])
        if redis is not None and redis.why_away and (self._connecting is None or self._connecting.done()):
            self._connecting = asyncio.get_running_loop().create_task(redis.connect())


class Taken:
    """What one call took. It is settled or undone; whichever comes first counts."""

    __slots__ = ("__weakref__", "_amounts", "_answer", "_call_id", "_counted", "_is_over", "_rules", "_store")

    def __init__(
        self,
        store: Store | None,
        call_id: bytes,
        rules: Sequence[Rule],
        amounts: Sequence[int],
        answer: Answer,
        counted: Callable[[int, int], int],
    ) -> None:
        """rules: as enforced; counted: (input tokens, output tokens) → those that count."""
        self._store = store
        self._call_id = call_id
        self._rules = rules
        self._amounts = amounts
        self._answer = answer
        self._counted = counted
        self._is_over = False

    def settle(self, usage: Usage | None = None) -> None:
        """Free the slots, and count the tokens of `usage` in place of the estimate. None: that stands."""
        tokens = None if usage is None else self._counted(usage.prompt_tokens, usage.completion_tokens)
        rules, amounts = [], []
        for rule, amount in zip(self._rules, self._amounts, strict=True):
            if rule.kind == PARALLEL:
                rules.append(rule)
                amounts.append(-amount)
            elif rule.kind == TOKENS and tokens is not None and tokens != amount:
                rules.append(rule)
                amounts.append(tokens - amount)
        self._bring_back(rules, amounts)

    def undo(self) -> None:
        """Give everything back: the call was refused by something else, or never sent."""
        self._bring_back(self._rules, [-amount for amount in self._amounts])

    def _bring_back(self, rules: Sequence[Rule], amounts: Sequence[int]) -> None:
        if self._is_over:
            return
        self._is_over = True
        if rules and self._store is not None:
            self._store.change(Changes(self._call_id, self._answer.at_ms, rules, amounts))

    def headers(self) -> Headers:
        """Return the answer's headers on limits (contract 4), as of when the call was let in.

        Where several holders of a scope have a limit (tags), the one with least left.
        """
        left: dict[tuple[str, str], tuple[int, Rule]] = {}
        elapsed_ms = self._answer.at_ms % windows.WINDOW_MS
        for rule, amount, count in zip(self._rules, self._amounts, self._answer.counts, strict=True):
            key = (rule.scope, rule.kind)
            remaining = _remaining(rule, count[0] + amount, count[1], elapsed_ms)
            if key not in left or remaining < left[key][0]:
                left[key] = (remaining, rule)
        headers: Headers = []
        for remaining, rule in left.values():
            limit_names, left_names = _header_names(rule.scope, rule.kind, rule.label)
            headers += [(name, b"%d" % rule.limit) for name in limit_names]
            headers += [(name, b"%d" % remaining) for name in left_names]
        return headers

    # -- for the limiter -----------------------------------------------------------------

    @property
    def slots(self) -> list[tuple[bytes, Rule]]:
        """The slots it has: none once it is over."""
        if self._is_over:
            return []
        return [(self._call_id, rule) for rule in self._rules if rule.kind == PARALLEL]

    def is_of(self, store: Store) -> bool:
        return self._store is store


NOTHING_TAKEN = Taken(None, b"", (), (), Answer(0, None, []), _COUNTED["total"])  # of a call without a rule


def _amounts(rules: Sequence[Rule], tokens: int) -> list[int]:
    """Return what a call asks of each rule.

    Of a limit on tokens at most all of it: an estimate above the limit waits for an empty
    minute, it does not refuse the call for ever.
    """
    return [max(1, min(tokens, rule.limit)) if rule.kind == TOKENS else 1 for rule in rules]


def _share(rule: Rule, web_workers: int) -> Rule:
    """Return a web process's part of a rule. At least 1: nobody is locked out who may do something."""
    return rule._replace(limit=max(1, rule.limit // web_workers)) if rule.limit else rule


def _remaining(rule: Rule, current: int, previous: int, elapsed_ms: int) -> int:
    if rule.kind == PARALLEL:
        return max(0, rule.limit - current)
    return windows.remaining(rule.limit, current, previous, elapsed_ms)


# -- the refusal -------------------------------------------------------------------------

_TOLD = {REQUESTS: "requests per 60 s", TOKENS: "tokens per 60 s", PARALLEL: "parallel requests"}


def _refusal(rule: Rule, limit: int, amount: int, answer: Answer) -> RateLimited:
    """Return the 429 (contract 8.5). limit: what was enforced, the rule's own or a process's share."""
    current, previous = answer.counts[-1]
    enforced = rule._replace(limit=limit)
    elapsed_ms = answer.at_ms % windows.WINDOW_MS
    retry_after_s = _retry_after_s(enforced, current, previous, elapsed_ms, amount)
    reset_at = datetime.fromtimestamp(time.time() + retry_after_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    share = "" if limit == rule.limit else f" (one web process's share of {rule.limit})"
    error = RateLimited(
        f"Rate limit exceeded for {f'{rule.scope} {rule.label or rule.holder}'.strip()}: "
        f"{limit} {_TOLD[rule.kind]}{share}, {_remaining(enforced, current, previous, elapsed_ms)} left, "
        f"resets {reset_at}",
        headers={"retry-after": str(retry_after_s), "rate_limit_type": rule.kind, "reset_at": reset_at},
    )
    error.refusal = {
        "scope": rule.scope,
        "id": rule.label or rule.holder,
        "rate_limit_type": rule.kind,
        "limit": limit,
        "reset_at": reset_at,
    }
    return error


def _retry_after_s(rule: Rule, current: int, previous: int, elapsed_ms: int, amount: int) -> int:
    """Return when the call could pass, in whole seconds; where nobody knows, a guess.

    A slot may be freed at any moment: 1. What is limited to nothing never passes: 60.
    """
    if rule.limit == 0:
        return windows.WINDOW_MS // 1000
    if rule.kind == PARALLEL:
        return 1
    wait_ms = windows.wait_ms(rule.limit, current, previous, elapsed_ms, amount)
    assert wait_ms is not None  # no more is asked than the limit
    return max(1, -(-wait_ms // 1000))


# -- names of headers ---------------------------------------------------------------------


@lru_cache(maxsize=1000)  # behind a `*` callers choose the models
def _header_names(scope: str, kind: str, label: str) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return (names that carry the limit, names that carry what is left)."""
    limit = [f"x-ratelimit-{scope}-limit-{kind}"]
    left = [f"x-ratelimit-{scope}-remaining-{kind}"]
    if scope == "api_key" and kind != PARALLEL:
        limit.append("x-litellm-key-rpm-limit" if kind == REQUESTS else "x-litellm-key-tpm-limit")
    if scope == "model_per_key" and kind != PARALLEL:
        left.append(f"x-litellm-key-remaining-{kind}-{re.sub('[^a-z0-9._-]', '-', label.lower())}")
    return tuple(name.encode() for name in limit), tuple(name.encode() for name in left)
