"""
Put load on a server and time its answers. Run on the core that is not measured.

Three ways: wrk as fast as it goes or on one connection (`wrk`); an open loop, whose
calls are due at times drawn beforehand and timed from then, so that a server that
falls behind is charged the wait (`open_loop`); streams, so many at once or one at a
time (`streams`, `first_bytes`). The last three speak HTTP/1.1 on raw asyncio
protocols and understand as much of it as the parties send.
"""

import asyncio
import random
import re
import selectors
import socket
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import CannotMeasure
from bench.seed import PRICED_MODEL, STREAM_MODEL

CUSTOMERS = 10_000
PATH = "/v1/chat/completions"
HEADERS = {
    "content-type": "application/json",
    "authorization": "Bearer {key}",
    "user-agent": "OpenAI/Python 1.60.0",
    "x-stainless-lang": "python",
}
_TEXT = "hello world " * 60
_LUA = Path(__file__).with_name("load.lua")
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
# Timers of epoll-based loops are exact to a millisecond only; select's to a microsecond.
_PRECISE = selectors.SelectSelector


@dataclass(frozen=True)
class Target:
    """Where and how to call: other gateways take other paths and headers."""

    port: int
    keys_path: Path
    path: str = PATH
    model: str = PRICED_MODEL
    headers: tuple[tuple[str, str], ...] = tuple(HEADERS.items())
    tag: str = ""  # of its streams, in the provider's bill

    def keys(self) -> list[str]:
        return self.keys_path.read_text().split()

    def try_once(self) -> None:
        """Make one call. Raises: CannotMeasure with what was answered."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(plain_request(self, self.keys()))
            while b'"usage"' not in answer:
                received = connection.recv(65536)
                answer += received
                if not received or not answer.startswith(b"HTTP/1.1 200"):
                    raise CannotMeasure(f"it answered {answer[:300].decode('utf-8', 'replace')!r}")


class WrkResult(NamedTuple):
    calls: int
    rate: float  # answers a second
    p50_ms: float
    bad: int  # answers that are not 2xx, and broken connections


def wrk(target: Target, *, core: int, connections: int, seconds: float) -> WrkResult:
    """Call as fast as the answers come. Raises: CannotMeasure when wrk does not run."""
    headers = [f"{name}: {value}" for name, value in target.headers]
    command = [
        *("taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"),
        *("--latency", "--timeout", "30s", "-s", str(_LUA), f"http://127.0.0.1:{target.port}", "--"),
        *(target.path, str(target.keys_path), target.model, *headers),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise CannotMeasure(f"wrk failed:\n{done.stdout}{done.stderr}")
    return read_wrk(done.stdout)


def read_wrk(output: str) -> WrkResult:
    """Read what wrk prints."""
    [calls] = re.findall(r"(\d+) requests in", output)
    [rate] = re.findall(r"Requests/sec:\s+([\d.]+)", output)
    [(p50, unit)] = re.findall(r"50%\s+([\d.]+)(us|ms|s)", output)
    bad = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", output)))
    for errors in re.findall(r"Socket errors: (.*)", output):
        bad += sum(map(int, re.findall(r"\d+", errors)))
    return WrkResult(int(calls), float(rate), float(p50) * _UNITS[unit], bad)


def plain_request(target: Target, keys: Sequence[str]) -> bytes:
    """Return one call like those of load.lua."""
    customer = random.randint(1, CUSTOMERS)
    body = (
        f'{{"model":"{target.model}","user":"customer-{customer}",'
        f'"messages":[{{"role":"user","content":"{_TEXT}"}}],'
        f'"metadata":{{"tags":["project:{customer % 20}","team:{customer % 5}","env:prod"]}}}}'
    )
    return _request(target, random.choice(keys), body)


def stream_request(target: Target, key: str, *, chunks: int, delay_ms: float) -> bytes:
    """Return a streamed call, answered by tests.provider with `chunks` + 4 events, that time apart."""
    body = (
        f'{{"model":"{STREAM_MODEL}","user":"customer-{random.randint(1, CUSTOMERS)}","stream":true,'
        '"stream_options":{"include_usage":true},'
        f'"messages":[{{"role":"user","content":"{_TEXT}"}}],'
        f'"fake":{{"chunks":{chunks},"chunk_delay_ms":{delay_ms},"output_tokens":{chunks},'
        f'"tag":"{target.tag}"}}}}'
    )
    return _request(target, key, body)


def _request(target: Target, key: str, body: str) -> bytes:
    lines = [f"POST {target.path} HTTP/1.1", f"host: 127.0.0.1:{target.port}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value.replace('{key}', key)}" for name, value in target.headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one call at a time; tells `on_end` of each end of an answer."""

    def __init__(self, on_end: Callable[["_Connection", bool], None]) -> None:
        self._on_end = on_end
        self._received = bytearray()
        self._is_busy = False
        self.due = self.first_at = 0.0
        self.events = 0

    def connection_made(self, transport) -> None:
        self._transport = transport

    def send(self, request: bytes, *, due: float) -> None:
        self.due, self.first_at, self.events = due, 0.0, 0
        self._received.clear()
        self._is_busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self.first_at and b"data:" in received:
            self.first_at = time.perf_counter()
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = received[:head].lower()
        if (at := lower.find(b"\r\ncontent-length:")) >= 0:
            length = int(lower[at + 17 :].split(b"\r\n", 1)[0])
            is_whole = len(received) >= head + 4 + length
        else:
            is_whole = received.endswith(b"0\r\n\r\n")
        if is_whole:
            self._is_busy = False
            self.events = received.count(b"data:", head)
            self._on_end(self, received.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_busy:
            self._is_busy = False
            self._on_end(self, False)

    def close(self) -> None:
        self._transport.close()


async def _connect(port: int, count: int, on_end) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    return [
        (await loop.create_connection(lambda: _Connection(on_end), "127.0.0.1", port))[1]
        for _ in range(count)
    ]


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_PRECISE())) as runner:
        return runner.run(work)


class OpenLoopResult(NamedTuple):
    calls: int
    p50_ms: float
    p99_ms: float
    bad: int


def open_loop(target: Target, *, rate: float, seconds: float, connections: int = 128) -> OpenLoopResult:
    """Send `rate` calls a second at random instants (Poisson), each timed from when it was due."""
    return _run(_open_loop(target, rate, seconds, connections))


async def _open_loop(target: Target, rate: float, seconds: float, connections: int) -> OpenLoopResult:
    keys = target.keys()
    requests = [plain_request(target, keys) for _ in range(2000)]
    took: list[float] = []
    bad = 0
    waiting: deque[float] = deque()  # due, but every connection is busy

    def ended(connection: _Connection, is_good: bool) -> None:
        nonlocal bad
        took.append(time.perf_counter() - connection.due)
        bad += not is_good
        if waiting:
            connection.send(random.choice(requests), due=waiting.popleft())
        else:
            idle.append(connection)

    idle = await _connect(target.port, connections, ended)
    everyone = list(idle)
    begun = due = time.perf_counter()
    sent = 0
    while due - begun < seconds:
        due += random.expovariate(rate)
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        else:
            await asyncio.sleep(0)  # behind: answers are still taken in
        sent += 1
        if idle:
            idle.pop().send(random.choice(requests), due=due)
        else:
            waiting.append(due)
    deadline = time.perf_counter() + 30
    while len(took) < sent and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    for connection in everyone:
        connection.close()
    cuts = statistics.quantiles(took, n=100)
    return OpenLoopResult(sent, cuts[49] * 1000, cuts[98] * 1000, bad + sent - len(took))


class StreamsResult(NamedTuple):
    calls: int
    events: int  # a call, where all had the same number
    seconds: float
    bad: int


def streams(
    target: Target, *, at_once: int, seconds: float, chunks: int = 56, delay_ms: float = 10
) -> StreamsResult:
    """Hold `at_once` streams open for some time, each followed by another; wait for the last to end."""
    return _run(_streams(target, at_once, seconds, chunks, delay_ms))


async def _streams(
    target: Target, at_once: int, seconds: float, chunks: int, delay_ms: float
) -> StreamsResult:
    keys = target.keys()
    calls = bad = 0
    under_way = at_once
    counts: set[int] = set()
    all_done = asyncio.Event()

    def begin(connection: _Connection) -> None:
        request = stream_request(target, random.choice(keys), chunks=chunks, delay_ms=delay_ms)
        connection.send(request, due=time.perf_counter())

    def ended(connection: _Connection, is_good: bool) -> None:
        nonlocal calls, bad, under_way
        calls += 1
        bad += not is_good
        counts.add(connection.events)
        if time.perf_counter() < ends_at and is_good:
            begin(connection)
            return
        under_way -= 1
        if not under_way:
            all_done.set()

    connections = await _connect(target.port, at_once, ended)
    begun = time.perf_counter()
    ends_at = begun + seconds
    for connection in connections:
        begin(connection)
        await asyncio.sleep(delay_ms / 1000 / at_once)  # not all their events at the same instant
    await asyncio.wait_for(all_done.wait(), seconds + 60)
    for connection in connections:
        connection.close()
    events = counts.pop() if len(counts) == 1 else -1
    return StreamsResult(calls, events, time.perf_counter() - begun, bad)


def first_bytes(targets: Sequence[Target], *, calls: int) -> list[list[float]]:
    """Time the first event of streams in ms, one call at a time, the targets in turn; a list for each."""
    return _run(_first_bytes(targets, calls))


async def _first_bytes(targets: Sequence[Target], calls: int) -> list[list[float]]:
    ended = asyncio.Event()
    bad = 0

    def on_end(connection: _Connection, is_good: bool) -> None:
        nonlocal bad
        bad += not is_good
        ended.set()

    connections = [(await _connect(target.port, 1, on_end))[0] for target in targets]
    took: list[list[float]] = [[] for _ in targets]
    for _ in range(calls):
        for target, connection, times in zip(targets, connections, took, strict=True):
            request = stream_request(target, random.choice(target.keys()), chunks=3, delay_ms=2)
            ended.clear()
            begun = time.perf_counter()
            connection.send(request, due=begun)
            await asyncio.wait_for(ended.wait(), 30)
            if bad:
                raise CannotMeasure(f"a stream of port {target.port} failed")
            times.append((connection.first_at - begun) * 1000)
    for connection in connections:
        connection.close()
    return took
