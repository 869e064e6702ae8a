"""
Counters that all web processes share, in Redis.

The same two counters per rule as in memory, as keys that expire; slots are sorted
sets of call ids by the end of their leases. A call's rules are decided in one script,
all together, by the server's clock.

One connection, used in order: what a call gives back is there before the next call
of this process asks. Whatever waits when the connection is free goes out together.
Any failure, also an answer that takes too long, ends the connection; until
`connect()` succeeds again everything is answered with None at once, and the
limiter counts in memory.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from proxy.rate_limits.rules import PARALLEL, Answer, Changes, Rule
from proxy.rate_limits.windows import WINDOW_MS

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0  # nobody waits for it
ANSWER_SECONDS = 0.1  # of up to _BATCH commands; calls wait for it
_BATCH = 100  # a millisecond or two of the server's time
_RENEWED_AT_ONCE = 500

SERVER_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_WINDOW = f"""
local window = {WINDOW_MS}
local minute = math.floor(now / window)
local function counter(name, of) return name .. ':' .. of end
local function count(name, of) return tonumber(redis.call('GET', counter(name, of)) or 0) end
local function add(name, amount)
  redis.call('INCRBY', counter(name, minute), amount)
  redis.call('PEXPIRE', counter(name, minute), 2 * window)
end
"""

# KEYS: the rules' names. ARGV: call id, lease in ms, then limit, amount, 1 for a slot or 0, of each.
# Returns: now, the refused rule's number or 0, then current and previous of each rule.
_TAKE = """
local answer = {now, 0}
for i, name in ipairs(KEYS) do
  local limit, amount = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local current, previous, has_room
  if ARGV[3 * i + 2] == '1' then
    redis.call('ZREMRANGEBYSCORE', name, '-inf', now)
    current, previous = redis.call('ZCARD', name), 0
    has_room = current < limit
  else
    current, previous = count(name, minute), count(name, minute - 1)
    has_room = (limit - current - amount) * window >= previous * (window - now % window)
  end
  answer[#answer + 1], answer[#answer + 2] = current, previous
  if not has_room then
    answer[2] = i
    return answer
  end
end
for i, name in ipairs(KEYS) do
  if ARGV[3 * i + 2] == '1' then
    redis.call('ZADD', name, now + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', name, ARGV[2])
  else
    add(name, ARGV[3 * i + 1])
  end
end
return answer
"""

# KEYS: names. ARGV: call id, when it took in ms, then amount, 1 for a slot or 0, of each.
_CHANGE = """
local taken_in = math.floor(ARGV[2] / window)
for i, name in ipairs(KEYS) do
  local amount = tonumber(ARGV[2 * i + 1])
  if ARGV[2 * i + 2] == '1' then
    redis.call('ZREM', name, ARGV[1])
  elseif amount > 0 then
    add(name, amount)
  elseif taken_in >= minute - 1 then
    local there = count(name, taken_in)
    if there > 0 then redis.call('DECRBY', counter(name, taken_in), math.min(there, -amount)) end
  end
end
"""

# KEYS: names of slots' rules. ARGV: lease in ms, then the call id of each.
_RENEW = """
for i, name in ipairs(KEYS) do
  redis.call('ZADD', name, now + ARGV[1], ARGV[i + 1])
  redis.call('PEXPIRE', name, ARGV[1])
end
"""


class RedisCounters:
    """The store that web processes share. For one event loop."""

    def __init__(self, url: str, *, lease_ms: int, clock: str = SERVER_CLOCK) -> None:
        """lease_ms: how long a slot stays taken unless it is renewed; clock: Lua that sets `now`, in ms."""
        self._lease_ms = lease_ms
        self._scripts = [clock + _WINDOW + script for script in (_TAKE, _CHANGE, _RENEW)]
        self._take_sha = self._change_sha = self._renew_sha = ""
        self._pool = ConnectionPool.from_url(url, socket_timeout=None, retry=Retry(NoBackoff(), 0))
        self._connection: AbstractConnection | None = None
        self._waiting: list[_Command] = []
        self._sender: asyncio.Task | None = None
        self._is_told = False  # that Redis is away
        self.why_away: str | None = "not connected yet"

    # -- the connection ----------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, or note why that fails. Logs where an outage begins and ends."""
        connection: AbstractConnection = self._pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
            loads = [("SCRIPT", "LOAD", script) for script in self._scripts]
            # A server that is full or read-only is as good as none.
            *shas, _ = await _exchange(connection, [*loads, ("SET", "rate:probe", "1", "PX", "1000")])
        except Exception as error:  # whatever it is, calls go on
            await connection.disconnect(nowait=True)
            self._is_away(error)
            return
        self._take_sha, self._change_sha, self._renew_sha = (sha.decode() for sha in shas)
        self._connection = connection
        self.why_away = None
        if self._is_told:
            self._is_told = False
            logger.warning("Redis is back: rate limits are shared again")

    async def close(self) -> None:
        """Send what still waits, and disconnect."""
        if self._sender is not None:
            await self._sender
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
            self._connection = None

    def _is_away(self, error: Exception) -> None:
        self.why_away = f"{type(error).__name__}: {error}".rstrip(": ")
        if not self._is_told:
            self._is_told = True
            logger.error("Redis is away, each web process counts rate limits alone: %s", self.why_away)

    # -- the store ---------------------------------------------------------------------

    async def take(self, call_id: bytes, rules: Sequence[Rule], amounts: Sequence[int]) -> Answer | None:
        """Count `amounts` (of slots: 1) under each rule, or nothing where one has no room; None: away.

        Who is cancelled here takes nothing.
        """
        if self._connection is None:
            return None
        arguments: list[Any] = [call_id, self._lease_ms]
        for rule, amount in zip(rules, amounts, strict=True):
            arguments += (rule.limit, amount, int(rule.kind == PARALLEL))
        answer: asyncio.Future = asyncio.get_running_loop().create_future()
        given_back = Changes(call_id, 0, rules, [-amount for amount in amounts])
        self._send(_Command(self._words(self._take_sha, rules, arguments), answer, given_back))
        try:
            numbers = await answer
        except asyncio.CancelledError:
            if not answer.cancelled():  # it came at the same moment
                self._give_back(given_back, answer.result())
            raise
        return None if numbers is None else _answer(numbers)

    def change(self, changes: Changes) -> None:
        """Bring back what a call took, or add what it used beyond that (see `MemoryCounters.change`)."""
        self._send(self._change_command(changes))

    def renew(self, slots: Sequence[tuple[bytes, Rule]]) -> None:
        """Begin the leases of these calls' slots anew. Without any: ask whether Redis is there."""
        for start in range(0, len(slots) or 1, _RENEWED_AT_ONCE):
            some = slots[start : start + _RENEWED_AT_ONCE]
            call_ids = [call_id for call_id, _ in some]
            rules = [rule for _, rule in some]
            self._send(_Command(self._words(self._renew_sha, rules, [self._lease_ms, *call_ids])))

    def _give_back(self, changes: Changes, numbers: list[int] | None) -> None:
        """Give back what a call took that nobody waits for any more; before others are asked for."""
        if numbers is None:
            return
        answer = _answer(numbers)
        if answer.refused is None:
            self._waiting.insert(0, self._change_command(changes._replace(taken_at_ms=answer.at_ms)))
            self._start_sending()

    def _change_command(self, changes: Changes) -> "_Command":
        arguments: list[Any] = [changes.call_id, changes.taken_at_ms]
        for rule, amount in zip(changes.rules, changes.amounts, strict=True):
            arguments += (amount, int(rule.kind == PARALLEL))
        return _Command(self._words(self._change_sha, changes.rules, arguments))

    @staticmethod
    def _words(sha: str, rules: Sequence[Rule], arguments: list[Any]) -> tuple:
        names = [f"rate:{rule.scope}:{rule.kind}:{rule.holder}" for rule in rules]
        return ("EVALSHA", sha, len(names), *names, *arguments)

    # -- sending -----------------------------------------------------------------------

    def _send(self, command: "_Command") -> None:
        if self._connection is not None:  # else a lease ends, a minute passes: it mends itself
            self._waiting.append(command)
            self._start_sending()

    def _start_sending(self) -> None:
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        """Exchange what waits, until nothing does."""
        batch: list[_Command] = []
        try:
            while self._connection is not None and (batch := self._next_batch()):
                numbers = await _exchange(self._connection, [command.words for command in batch])
                for command, answer in zip(batch, numbers, strict=True):
                    if command.is_abandoned:
                        assert command.given_back is not None
                        self._give_back(command.given_back, answer)
                    elif command.answer is not None:
                        command.answer.set_result(answer)
                batch = []
        except Exception as error:  # whatever it is, calls go on
            connection, self._connection = self._connection, None
            self._is_away(error)
            if connection is not None:
                await connection.disconnect(nowait=True)
        finally:
            left, self._waiting = [*batch, *self._waiting], []
            for command in left:
                if command.answer is not None and not command.answer.done():
                    command.answer.set_result(None)
            self._sender = None

    def _next_batch(self) -> list["_Command"]:
        waiting = [command for command in self._waiting if not command.is_abandoned]
        self._waiting = waiting[_BATCH:]
        return waiting[:_BATCH]


class _Command(NamedTuple):
    """A script to be run."""

    words: tuple
    answer: asyncio.Future | None = None  # of what it returns, or of None where Redis went away
    given_back: Changes | None = None  # where the caller has gone by then

    @property
    def is_abandoned(self) -> bool:
        return self.answer is not None and self.answer.cancelled()


async def _exchange(connection: AbstractConnection, commands: list[tuple]) -> list[Any]:
    """Send commands together and return their answers. Raises: RedisError, OSError, TimeoutError."""
    async with asyncio.timeout(ANSWER_SECONDS):
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [await connection.read_response() for _ in commands]


def _answer(numbers: list[int]) -> Answer:
    at_ms, refused, *counts = numbers
    return Answer(at_ms, refused - 1 if refused else None, list(zip(counts[::2], counts[1::2], strict=True)))
