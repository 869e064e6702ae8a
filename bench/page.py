"""
The figures as a page: `docs/benchmarks.md`. Plain functions: results in, Markdown out.

A figure is the median of its rounds with the smallest and the largest; a ratio is made
within each round first. Times are milliseconds.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.rounds import (
    BUDGETED,
    EVENTS,
    SHARE_OF_MAXIMUM,
    STREAMS_AT_ONCE,
    TOLD,
    UNBUDGETED,
    UNTOLD,
    Figures,
)

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
DIRECT, NGINX, GATEWAY = "direct", "nginx", "gateway"
NAMES = {
    DIRECT: "the provider, called directly",
    NGINX: "nginx, plain reverse proxy",
    GATEWAY: "this gateway",
}
# How threads' names begin, and what is shown.
THREADS = {
    "main": "event loop",
    "recorder": "recorder",
    "journal-syncer": "journal syncer",
    "refresher": "refresher",
    "lookup": "key look-ups",
    "hold-desk": "hold desk",
}


@dataclass
class Results:
    """One run, as the page tells it."""

    date: str
    command: str
    machine: Sequence[tuple[str, str]]
    database: str
    rounds: int
    seconds: float
    figures: Figures = field(default_factory=dict)
    threads: dict[str, list[float]] = field(default_factory=dict)
    served: int = 0
    booked: int = 0
    streams_served: int = 0
    streams_booked: int = 0
    steps: Sequence[tuple[str, float]] = ()
    peers: dict[str, str] = field(default_factory=dict)  # name → what it is, version and settings
    missing_peers: dict[str, str] = field(default_factory=dict)  # name → why it was not measured

    def of(self, party: str, name: str) -> list[float]:
        return self.figures.get(party, {}).get(name, [])


@dataclass(frozen=True)
class Bar:
    """A promise of ours: `values` must stay on the right side of `limit`, in the median."""

    what: str
    values: Sequence[float]
    limit: float
    unit: str
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        value = statistics.median(self.values)
        return value >= self.limit if self.at_least else value <= self.limit

    def line(self) -> str:
        sign = "≥" if self.at_least else "≤"
        verdict = "met" if self.is_met else "**not met**"
        return row(
            self.what, f"{sign} {_number(self.limit)}{self.unit}", spread(self.values, self.unit), verdict
        )


def bars(results: Results) -> list[Bar]:
    """Return the bars this run has figures for."""
    of = results.of
    found = [
        Bar("requests/s per core, of nginx's",
            percents(of(GATEWAY, "rate"), of(NGINX, "rate")), 6, " %", at_least=True),
        Bar("CPU per call", of(GATEWAY, "cpu_ms"), 0.30, " ms"),
        Bar("p50 added at one connection",
            differences(of(GATEWAY, "p50_ms"), of(DIRECT, "p50_ms")), 0.8, " ms"),
        Bar("p99 at 70 % load", of(GATEWAY, "open_p99_ms"), 10, " ms"),
        Bar(f"CPU per stream of {EVENTS} events", of(GATEWAY, "stream_cpu_ms"), 1.5, " ms"),
        Bar("first event of a stream later by (p50)",
            differences(of(GATEWAY, "first_byte_ms"), of(DIRECT, "first_byte_ms")), 1, " ms"),
        Bar("requests/s under one hot budget, of those without",
            percents(of(BUDGETED, "rate"), of(UNBUDGETED, "rate")), 75, " %", at_least=True),
        Bar("p99 added by a hold at 70 % load",
            differences(of(BUDGETED, "open_p99_ms"), of(UNBUDGETED, "open_p99_ms")), 10, " ms"),
        Bar("requests/s with webhooks on, of those without",
            percents(of(TOLD, "rate"), of(UNTOLD, "rate")), 90, " %", at_least=True),
    ]  # fmt: skip
    for name, times in (("litellm", 35), ("portkey", 5), ("mlflow", 3)):
        values = ratios(of(name, "cpu_ms"), of(GATEWAY, "cpu_ms"))
        found.append(Bar(f"CPU per call of {name}, times ours", values, times, f" {TIMES}", at_least=True))
    return [bar for bar in found if bar.values]


def page(results: Results) -> str:
    """Return the whole page."""
    sections = (_head, _bars, _plain, _threads, _streamed, _budgeted, _told, _peers, _steps, _foot)
    return "\n\n".join(part for section in sections if (part := section(results))) + "\n"


def _head(results: Results) -> str:
    machine = [row(name, value) for name, value in [*results.machine, ("database", results.database)]]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `{results.command}` on {results.date}.",
            f"Rounds: {results.rounds}, each measuring all parties in turn for {_number(results.seconds)} s.",
            "A figure is the median of the rounds, with the smallest and the largest; ratios and differences",
            "are made within each round. Absolute figures are this machine's; ratios travel.",
            "",
            *table(("machine", ""), machine),
        ]
    )


def _bars(results: Results) -> str:
    lines = [bar.line() for bar in bars(results)]
    if not lines:
        return ""
    return "\n".join(["## The bars", "", *table(("figure", "bar", "measured", ""), lines)])


def _plain(results: Results) -> str:
    if not results.of(GATEWAY, "rate"):
        return ""
    names = [NGINX, GATEWAY, *results.peers, DIRECT]
    of, lines = results.of, []
    for name in [name for name in names if of(name, "rate")]:
        cpu = of(name, "cpu_ms")
        lines.append(
            row(
                NAMES.get(name, name),
                spread(percents(of(name, "rate"), of(NGINX, "rate")), " %"),
                spread(ratios(cpu, of(GATEWAY, "cpu_ms")), f" {TIMES}") if cpu else DASH,
                spread(of(name, "rate")),
                spread(cpu) if cpu else DASH,
                spread(differences(of(name, "p50_ms"), of(DIRECT, "p50_ms"))) if name != DIRECT else DASH,
                spread(of(name, "open_p50_ms")),
                spread(of(name, "open_p99_ms")),
            )
        )
    rate = statistics.median(of(GATEWAY, "open_rate"))
    heads = ("party", "rate, of nginx's", "CPU, times ours", "requests/s on one core", "CPU per call, ms",
             "p50 added at one connection, ms", "p50 at 70 %, ms", "p99 at 70 %, ms")  # fmt: skip
    text = [
        "## Plain calls",
        "",
        "The gateway authenticates one of 100 virtual keys of 10 teams, attributes the call to one of 10,000",
        "customers, takes 3 tags, prices the answer, journals it and books it into the database.",
        f"The mock provider answered {results.served:,} calls, and {results.booked:,} were booked at their",
        "exact cost; the journal was empty after each measurement. A run whose backlog grows, or whose rows",
        "are not what was served, fails.",
        "",
        *table(heads, lines),
        "",
        "CPU counts all processes of the party until its last row is booked. 70 % is",
        f"{rate:,.0f} calls/s for everyone: {SHARE_OF_MAXIMUM} {TIMES} the gateway's maximum then, sent",
        "at random instants over 32 connections and timed from when they were due.",
    ]
    if of(GATEWAY, "drained_s"):
        text.append(
            f"The journal's backlog under full load was at most {max(of(GATEWAY, 'backlog_mb')):.1f} MB and "
            f"empty {spread(of(GATEWAY, 'drained_s'), ' s')} after it."
        )
    if of(GATEWAY, "database_cpu_ms"):
        text.append(
            f"PostgreSQL's own processes took {spread(of(GATEWAY, 'database_cpu_ms'), ' ms')} per call "
            "besides, on whichever core was free."
        )
    return "\n".join(text)


def _threads(results: Results) -> str:
    if not results.threads:
        return ""
    grouped: dict[str, list[float]] = {}
    for name, values in results.threads.items():
        shown = next((shown for start, shown in THREADS.items() if name.startswith(start)), "other")
        known = grouped.get(shown)
        grouped[shown] = [a + b for a, b in zip(known, values, strict=False)] if known else values
    lines = [
        row(name, spread(values))
        for name, values in sorted(grouped.items(), key=lambda item: -statistics.median(item[1]))
    ]
    return "\n".join(
        ["### Where the gateway's CPU goes", "", *table(("thread", "CPU per plain call, ms"), lines)]
    )


def _streamed(results: Results) -> str:
    of = results.of
    if not of(GATEWAY, "stream_cpu_ms"):
        return ""
    lines = [
        row("CPU per stream, ms", DASH, spread(of(GATEWAY, "stream_cpu_ms"))),
        row("streams finished a second", DASH, spread(of(GATEWAY, "stream_rate"))),
        row("first event after, p50, ms", spread(of(DIRECT, "first_byte_ms")),
            spread(of(GATEWAY, "first_byte_ms"))),
        row("first event after, p99, ms", spread(of(DIRECT, "first_byte_p99_ms")),
            spread(of(GATEWAY, "first_byte_p99_ms"))),
        row("later by, p50, ms", DASH,
            spread(differences(of(GATEWAY, "first_byte_ms"), of(DIRECT, "first_byte_ms")))),
    ]  # fmt: skip
    return "\n".join(
        [
            f"## Streamed calls of {EVENTS} events",
            "",
            f"{STREAMS_AT_ONCE} streams at once, events 10 ms apart, from the test suite's fake provider.",
            f"It served {results.streams_served:,}, and {results.streams_booked:,} were booked; the sum is",
            "the provider's own bill to the nano-dollar. First events are timed one stream at a time, by",
            "turns directly and through the gateway.",
            "",
            *table(("figure", "directly", "through the gateway"), lines),
        ]
    )


def _budgeted(results: Results) -> str:
    of = results.of
    if not of(BUDGETED, "rate"):
        return ""
    figures = (*_FLAT_OUT, ("p50 at 70 %, ms", "open_p50_ms"), ("p99 at 70 %, ms", "open_p99_ms"))
    lines = _beside(results, figures, UNBUDGETED, BUDGETED)
    return "\n".join(
        [
            "## Calls under a budget",
            "",
            "The whole gateway has one budget, so every call holds on the same row of the database, and",
            "settles there. Afterwards the row is the sum of all that is booked, and nothing is held.",
            "70 % is of the maximum under the budget, for both.",
            "",
            *table(("figure", "without", "with the budget"), lines),
        ]
    )


def _told(results: Results) -> str:
    if not results.of(TOLD, "rate"):
        return ""
    return "\n".join(
        [
            "## Calls with webhooks on",
            "",
            "A receiver wants the event of every call: it is written, numbered and with the customer's",
            "total, in the transaction that books the call. Every call has its event. Nobody delivers",
            "them meanwhile; that is a worker's work, on another core (`make bench-webhooks`).",
            "",
            *table(("figure", "off", "on"), _beside(results, _FLAT_OUT, UNTOLD, TOLD)),
        ]
    )


_FLAT_OUT = (
    ("requests/s on one core", "rate"),
    ("CPU per call, ms", "cpu_ms"),
    ("PostgreSQL's CPU per call, ms", "database_cpu_ms"),
)


def _beside(results: Results, figures: Iterable[tuple[str, str]], *names: str) -> list[str]:
    """Return a line for each figure that there is, with a column for each of `names`."""
    return [
        row(what, *(spread(results.of(name, figure)) for name in names))
        for what, figure in figures
        if results.of(names[-1], figure)
    ]


def _peers(results: Results) -> str:
    if not results.peers and not results.missing_peers:
        return ""
    lines = [f"- **{name}**: {what}" for name, what in results.peers.items()]
    lines += [f"- **{name}**: not measured: {why}" for name, why in results.missing_peers.items()]
    return "\n".join(
        [
            "## Other gateways",
            "",
            "In the same rounds, on the same core, with the same calls; none of them kept accounts, so they",
            "do less per call than this gateway does. Settings are in `bench/peers/`.",
            "",
            *lines,
        ]
    )


def _steps(results: Results) -> str:
    if not results.steps:
        return ""
    lines = [row(name, f"{value:.2f}") for name, value in results.steps]
    return "\n".join(
        [
            "## Steps of a call",
            "",
            "Each alone in a loop inside one process, no socket: so that a slip shows.",
            "",
            *table(("step", "CPU, µs"), lines),
        ]
    )


def _foot(results: Results) -> str:
    return """## How to repeat it

    apt install nginx-light wrk
    make bench
    make bench ARGS="--quick --no-write"              # about a minute, prints only
    make bench ARGS="--peers litellm,portkey,mlflow"  # others beside it, installed for the run

Linux with two cores. What is measured runs on the first (nginx and the gateway never at the same time: the
others stand still), load generator and provider on the second. PostgreSQL is the one at
`BENCH_DATABASE_URL`, by default the local one; the run makes a database `bench_…` there and drops it.

## What the figures do not say

- The network is the loopback and the provider answers at once. A real provider takes 300 ms and more; what
  the gateway adds disappears in that, its CPU per call does not.
- No TLS on either side; no budgets and no webhooks (but in their own tables) and no rate limits on the keys.
- Bodies are small (about 0.9 kB each way). Long prompts cost more: they are read, and sent on.
- One web process on one core. More processes share the work, and the database then has more recorders.
- PostgreSQL runs on the same machine, with its own settings, not pinned.
- Nobody reads reports meanwhile. A client that asks the same process for one report after the other
  has calls wait for the interpreter: where that matters, send staff and reports to a web process of
  their own on the same database (any process serves everything; route by path or by port).
- Neighbours on the same host show in the spread; the ratios suffer less than the absolute figures."""


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide round by round; nothing where one of them was not measured."""
    return [a / b for a, b in zip(ours, theirs, strict=False) if b]


def percents(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [100 * ratio for ratio in ratios(ours, theirs)]


def differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=False)]


def spread(values: Sequence[float], unit: str = "") -> str:
    """Write `median (smallest to largest)`, the brackets only where they say something."""
    if not values:
        return DASH
    middle = _number(statistics.median(values)) + unit
    low, high = _number(min(values)), _number(max(values))
    if low == high:
        return middle
    return f"{middle} ({low}{DASH}{high})"


def _number(value: float) -> str:
    """Write three significant digits or, of large numbers, all before the point."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    places = 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{places}f}".rstrip("0").rstrip(".") if value else "0"


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def table(heads: Sequence[str], rows: Sequence[str]) -> list[str]:
    return [row(*heads), "|" + "---|" * len(heads), *rows]
