"""
What one round measures: everyone in turn, so that each figure has its neighbour's to be divided by.

Figures are kept per party and name, a list with one value a round; `page.py` says what
the names mean. The others stand still while one is measured.
"""

import contextlib
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench import load
from bench.load import Target
from bench.machine import CannotMeasure, Pinned, standing_still
from bench.parties import ANSWER_NANO_USD, Gateway, Provider
from tests.provider import ProviderProcess

CONNECTIONS = 64
SHARE_OF_MAXIMUM = 0.7
STREAMS_AT_ONCE = 48
EVENTS = 60
WARM_UP_SECONDS = 2
SAMPLE_SECONDS = 0.5
UNBUDGETED, BUDGETED = "unbudgeted", "budgeted"  # the gateway, twice
UNTOLD, TOLD = "untold", "told"  # and twice again
PEER_SECONDS = 8.0  # at least, for others: at 50 answers a second two seconds say nothing
PEER_SETTLE_SECONDS = 2.0  # for calls whose client left with the end of the load
LAG_SECONDS = 2.0  # a recorder that needs longer than this to catch up was not keeping up

Figures = dict[str, dict[str, list[float]]]


@dataclass
class Party:
    """Who is measured, and the process it is; the provider itself has none that counts."""

    name: str
    target: Target
    process: Pinned | None = None
    gateway: Gateway | None = None
    is_peer: bool = False


@dataclass
class Run:
    """Everyone who takes part, and everything measured so far."""

    provider: Provider
    stream_provider: ProviderProcess
    parties: list[Party]
    load_core: int
    seconds: float
    figures: Figures = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    threads: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    served: int = 0  # plain calls that the provider answered for the gateway
    booked: int = 0
    streams_served: int = 0
    streams_booked: int = 0

    @property
    def gateway(self) -> Party:
        return next(party for party in self.parties if party.gateway)

    def warm_up(self) -> None:
        for party in self.parties:
            with self._alone(party):
                self._wrk(party, connections=CONNECTIONS, seconds=WARM_UP_SECONDS)

    # -- plain calls -----------------------------------------------------------------

    def plain_round(self) -> None:
        """Measure everyone: as fast as it goes, on one connection, at 70 % of the gateway's maximum."""
        for measure in (self._fastest, self._single, self._open_loop):
            for party in self.parties:
                with self._alone(party):
                    measure(party)

    def _fastest(self, party: Party) -> None:
        """As many calls as go, on many connections. CPU counts until the last row is booked."""
        cpu, threads, database = _cpu(party)
        served = self.provider.served()
        with _watched(party.gateway) as backlogs:
            result = self._wrk(party, connections=CONNECTIONS, seconds=self.seconds)
        self._note(party, rate=result.rate)
        if party.gateway:
            drained_s = party.gateway.drain()
            refuse_growth(backlogs, drained_s)
            self._note(party, backlog_mb=max(backlogs, default=0) / 1e6, drained_s=drained_s)
        if party.is_peer:
            time.sleep(PEER_SETTLE_SECONDS)
        calls = self.provider.served() - served
        cpu_after, threads_after, database_after = _cpu(party)
        if party.process:
            self._note(party, cpu_ms=(cpu_after - cpu) / calls * 1000)
        if database is not None and database_after is not None:
            self._note(party, database_cpu_ms=(database_after - database) / calls * 1000)
        if party.gateway:
            for name, seconds in threads_after.items():
                self.threads[name].append((seconds - threads.get(name, 0.0)) / calls * 1000)

    def _single(self, party: Party) -> None:
        self._note(party, p50_ms=self._wrk(party, connections=1, seconds=self.seconds / 2).p50_ms)

    def _open_loop(self, party: Party) -> None:
        """Send everyone 70 % of what the gateway can do. Other gateways are not asked for that much."""
        if party.is_peer:
            return
        rate = SHARE_OF_MAXIMUM * self._last(self.gateway, "rate")
        result = load.open_loop(party.target, rate=rate, seconds=self.seconds)
        _refuse_bad(party, result.bad)
        self._note(party, open_rate=rate, open_p50_ms=result.p50_ms, open_p99_ms=result.p99_ms)

    def _wrk(self, party: Party, *, connections: int, seconds: float) -> load.WrkResult:
        if party.is_peer:
            seconds = max(seconds, PEER_SECONDS)
        result = load.wrk(party.target, core=self.load_core, connections=connections, seconds=seconds)
        _refuse_bad(party, result.bad)
        if not result.calls:
            raise CannotMeasure(f"{party.name} answered no call in {seconds:.0f} s")
        return result

    # -- calls under a budget ----------------------------------------------------------

    def budget_round(self) -> None:
        """Measure the gateway without budgets, and with one that every call holds on, at the same rates."""
        party = self.gateway
        assert party.gateway is not None
        rates = {}
        for name in (UNBUDGETED, BUDGETED):
            party.gateway.switch("budget", name == BUDGETED)
            rates[name] = self._flat_out(name)
        for name in (BUDGETED, UNBUDGETED):
            party.gateway.switch("budget", name == BUDGETED)
            with self._alone(party):
                rate = SHARE_OF_MAXIMUM * rates[BUDGETED]
                timed = load.open_loop(party.target, rate=rate, seconds=self.seconds)
                _refuse_bad(party, timed.bad)
                party.gateway.drain()
            self.figures[name]["open_p50_ms"].append(timed.p50_ms)
            self.figures[name]["open_p99_ms"].append(timed.p99_ms)
        party.gateway.check_budget()

    # -- webhooks ------------------------------------------------------------------------

    def webhook_round(self) -> None:
        """Measure the gateway where nobody is told of calls, and with an event for each of them."""
        gateway = self.gateway.gateway
        assert gateway is not None
        for name in (UNTOLD, TOLD):
            gateway.switch("webhooks", name == TOLD)
            events, served = gateway.events(), self.served
            self._flat_out(name)
            expected = self.served - served if name == TOLD else 0
            if gateway.events() - events != expected:
                raise CannotMeasure(f"{gateway.events() - events} events of {expected} calls")
        gateway.switch("webhooks", False)

    def _flat_out(self, name: str) -> float:
        """Measure the gateway, as `name`, with as many calls as go; return its rate."""
        party, figures = self.gateway, self.figures[name]
        assert party.gateway is not None
        with self._alone(party):
            cpu, _, database = _cpu(party)
            result = self._wrk(party, connections=CONNECTIONS, seconds=self.seconds)
            refuse_growth([], party.gateway.drain())
            cpu_after, _, database_after = _cpu(party)
        figures["rate"].append(result.rate)
        figures["cpu_ms"].append((cpu_after - cpu) / result.calls * 1000)
        if database is not None and database_after is not None:
            figures["database_cpu_ms"].append((database_after - database) / result.calls * 1000)
        return result.rate

    # -- streamed calls --------------------------------------------------------------

    def stream_round(self) -> None:
        """Measure streams of 60 events: CPU with many at once, then the first event one at a time."""
        party, direct = self.gateway, self._straight_to_streams()
        assert party.process is not None and party.gateway is not None
        with self._alone(party):
            cpu = party.process.cpu_s()
            result = load.streams(party.target, at_once=STREAMS_AT_ONCE, seconds=self.seconds)
            _refuse_bad(party, result.bad)
            if result.events != EVENTS:
                raise CannotMeasure(f"a stream had {result.events} events instead of {EVENTS}")
            party.gateway.drain()
            spent = party.process.cpu_s() - cpu
            self._note(
                party, stream_cpu_ms=spent / result.calls * 1000, stream_rate=result.calls / result.seconds
            )
            calls = max(30, round(self.seconds * 30))
            for each, times in zip(
                (party, direct),
                load.first_bytes((party.target, direct.target), calls=calls),
                strict=True,
            ):
                self._note(
                    each,
                    first_byte_ms=statistics.median(times),
                    first_byte_p99_ms=statistics.quantiles(times, n=100)[98],
                )

    def _straight_to_streams(self) -> Party:
        port = int(self.stream_provider.url.rpartition(":")[2])
        return Party("direct", Target(port, self.gateway.target.keys_path))

    # -- what holds for all ------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, party: Party) -> Iterator[None]:
        """Let only this party run (the provider is on the other core), and check what it booked after."""
        others = [other.process for other in self.parties if other is not party and other.process]
        with standing_still(*others):
            served = self.provider.served()
            yield
            if party.gateway:
                party.gateway.drain()
                self.served += self.provider.served() - served
                self._check_booked(party.gateway)

    def _check_booked(self, gateway: Gateway) -> None:
        """Raises: CannotMeasure unless every call the providers served is one row at its exact cost."""
        self.booked, cost = gateway.booked(streamed=False)
        if (self.booked, cost) != (self.served, self.served * ANSWER_NANO_USD):
            raise CannotMeasure(
                f"the provider served {self.served} calls, {self.booked} are booked "
                f"({cost} nano-dollars, expected {self.served * ANSWER_NANO_USD})"
            )
        self.streams_booked, cost = gateway.booked(streamed=True)
        bill = self.stream_provider.bill(tag=gateway.target.tag, entries=False)
        self.streams_served = bill["count"]
        if (self.streams_booked, cost) != (bill["count"], bill["total_nano_usd"]):
            raise CannotMeasure(
                f"{bill['count']} streams for {bill['total_nano_usd']} nano-dollars were served, "
                f"{self.streams_booked} for {cost} are booked"
            )

    def _note(self, party: Party, **values: float) -> None:
        for name, value in values.items():
            self.figures[party.name][name].append(value)

    def _last(self, party: Party, name: str) -> float:
        return self.figures[party.name][name][-1]


def _cpu(party: Party) -> tuple[float, dict[str, float], float | None]:
    """Return CPU seconds so far: the party's, by thread, and its database's where that can be seen."""
    if party.process is None:
        return 0.0, {}, None
    threads = party.process.cpu_by_thread() if party.gateway else {}
    return party.process.cpu_s(), threads, party.gateway.database_cpu_s() if party.gateway else None


def _refuse_bad(party: Party, bad: int) -> None:
    if bad:
        tail = party.process.tail() if party.process else ""
        raise CannotMeasure(f"{party.name}: {bad} calls failed\n{tail}")


@contextlib.contextmanager
def _watched(gateway: Gateway | None) -> Iterator[list[int]]:
    """Sample the journal's backlog, twice a second, while the block runs."""
    backlogs: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while gateway and not over.wait(SAMPLE_SECONDS):
            backlogs.append(gateway.backlog_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield backlogs
    finally:
        over.set()
        watcher.join()


def refuse_growth(backlogs: list[int], drained_s: float) -> None:
    """A run whose backlog grows does not count. Raises: CannotMeasure."""
    third = len(backlogs) // 3
    grows = third > 1 and min(backlogs[-third:]) > 2 * max(backlogs[:third])
    if grows or drained_s > LAG_SECONDS:
        raise CannotMeasure(
            f"the recorder did not keep up: {drained_s:.1f} s to catch up; backlog in bytes, "
            f"every {SAMPLE_SECONDS} s: {backlogs}"
        )
