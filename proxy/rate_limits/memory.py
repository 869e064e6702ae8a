"""
Counters of one web process, in its memory.

Two dictionaries are the sliding minute: the clock's current minute and the one
before. When a minute ends the older one is dropped, so idle holders vanish without
being looked for. For the event loop alone; nothing waits.
"""

import time
from collections.abc import Callable, Sequence

from proxy.rate_limits.rules import PARALLEL, Answer, Changes, Rule
from proxy.rate_limits.windows import WINDOW_MS, has_room

# Of one minute. A process would have to serve 3,000 new holders a second to get there.
MAX_COUNTERS = 100_000

Identity = tuple[str, str, str]


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class MemoryCounters:
    """The store of a process on its own."""

    def __init__(
        self, *, lease_ms: int, clock: Callable[[], int] = monotonic_ms, max_counters: int = MAX_COUNTERS
    ) -> None:
        """lease_ms: how long a slot stays taken unless it is renewed."""
        self._lease_ms = lease_ms
        self._clock = clock
        self._max_counters = max_counters
        self._minute = 0
        self._current: dict[Identity, int] = {}
        self._previous: dict[Identity, int] = {}
        self._slots: dict[Identity, dict[bytes, int]] = {}  # call id → its lease's end, in that order

    def __len__(self) -> int:
        """How many entries there are, slots included."""
        return len(self._current) + len(self._previous) + sum(map(len, self._slots.values()))

    def take(self, call_id: bytes, rules: Sequence[Rule], amounts: Sequence[int]) -> Answer:
        """Count `amounts` (of slots: 1) under each rule, or nothing where one has no room."""
        now = self._turn()
        elapsed = now % WINDOW_MS
        current, previous = self._current, self._previous
        counts: list[tuple[int, int]] = []
        for rule, amount in zip(rules, amounts, strict=True):
            identity = rule[:3]
            if rule.kind == PARALLEL:
                count = (self._slots_taken(identity, now), 0)
                is_free = count[0] < rule.limit
            else:
                count = (current.get(identity, 0), previous.get(identity, 0))
                is_free = has_room(rule.limit, *count, elapsed, amount)
            counts.append(count)
            if not is_free:
                return Answer(now, len(counts) - 1, counts)
        for rule, amount, count in zip(rules, amounts, counts, strict=True):
            identity = rule[:3]
            if rule.kind == PARALLEL:
                self._slots.setdefault(identity, {})[call_id] = now + self._lease_ms
            else:
                self._set(identity, count[0] + amount)
        return Answer(now, None, counts)

    def change(self, changes: Changes) -> None:
        """Bring back what a call took, or add what it used beyond that.

        What is added counts from now on. What is taken off is taken from the minute it was
        counted in, while that one lasts: a credit would let others exceed the limit.
        """
        minute = self._turn() // WINDOW_MS
        taken_in = changes.taken_at_ms // WINDOW_MS
        for rule, amount in zip(changes.rules, changes.amounts, strict=True):
            identity = rule[:3]
            if rule.kind == PARALLEL:
                self._slots.get(identity, {}).pop(changes.call_id, None)
            elif amount > 0:
                self._set(identity, self._current.get(identity, 0) + amount)
            elif taken_in == minute:
                _take_off(self._current, identity, amount)
            elif taken_in == minute - 1:
                _take_off(self._previous, identity, amount)

    def renew(self, slots: Sequence[tuple[bytes, Rule]]) -> None:
        """Begin the leases of these calls' slots anew, and drop those that ended."""
        now = self._clock()
        ends_at = now + self._lease_ms
        for call_id, rule in slots:
            taken = self._slots.setdefault(rule.identity, {})
            taken.pop(call_id, None)  # it goes to the end: slots stay in the order of their ends
            taken[call_id] = ends_at
        for identity, taken in list(self._slots.items()):
            _drop_ended(taken, now)
            if not taken:
                del self._slots[identity]

    def _turn(self) -> int:
        """Return the time, after dropping what is more than a minute old."""
        now = self._clock()
        minute = now // WINDOW_MS
        if minute != self._minute:
            self._previous = self._current if minute == self._minute + 1 else {}
            self._current = {}
            self._minute = minute
        return now

    def _set(self, identity: Identity, amount: int) -> None:
        current = self._current
        if len(current) >= self._max_counters and identity not in current:
            # Forget the one that came last: those who call most came first in this minute.
            current.popitem()
        current[identity] = amount

    def _slots_taken(self, identity: Identity, now: int) -> int:
        slots = self._slots.get(identity)
        if slots is None:
            return 0
        _drop_ended(slots, now)
        return len(slots)


def _drop_ended(slots: dict[bytes, int], now: int) -> None:
    while slots and slots[first := next(iter(slots))] <= now:
        del slots[first]


def _take_off(counters: dict[Identity, int], identity: Identity, amount: int) -> None:
    if identity in counters:  # else it was forgotten
        counters[identity] = max(0, counters[identity] + amount)
