"""
Demo data: a log as a busy gateway would have it, and everything derived from it.

Who calls follows Zipf's law (the n-th customer calls 1/n as often as the first); when,
the hours of an office day. Costs are those of the price rows that the rows name, so that
each can be explained. Where nothing is booked yet PostgreSQL itself draws them
(`seeding_in_sql.py`); else only the log is written here, and `reconciliation.repair` makes
totals and rollups of it, as it would after a loss. Then days that are over are closed.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction

from billing.booking.ledger import LOG_COLUMNS, make_customers
from billing.booking.partitions import ensure_partitions, month_start, next_month
from billing.booking.summaries import close_days
from billing.books.closed_months import MonthIsClosed, closed_months
from billing.books.reconciliation import repair
from billing.bulk import timestamp
from billing.demo.seeding_in_sql import can_seed, seed_in_sql
from billing.models import Price, SpendLog
from billing.prices.pricing import PriceBook, ResolvedPrice
from billing.prices.sources import canonical_model, load_genai_prices
from billing.usage import NO_USAGE, Usage
from customers.ids import uuid7_bytes
from customers.models import Team, User, VirtualKey
from customers.services import create_key

Progress = Callable[[str, int, int], None]  # what, how many of them are done, and how many there are

TEAMS, USERS, KEYS = 20, 60, 100
SHAPES = 20_000  # different calls; each row of the log is one of them, at its own time, of its own caller
_ROWS_A_WRITE = {"postgresql": 50_000, "sqlite": 1_000}  # SQLite's writer is held up for milliseconds
_CUSTOMERS_A_WRITE = 5_000
_DAY_MS = 86_400_000
_HOURS = (2, 1, 1, 1, 1, 2, 4, 8, 16, 22, 24, 22, 18, 22, 24, 22, 18, 14, 10, 8, 7, 6, 4, 3)  # weights, UTC
_WEEKEND = 0.35  # of a working day
_FAVOURITE = 0.9  # of a caller's calls are for one model
_UNPRICED = "in-house-13b"  # a model without a price: pages always have some calls of it to show
_RANK_OF_UNPRICED = 10  # by how often a caller calls: the one whose model it is
_to_json = msgspec.json.Encoder().encode

_CALLER_COLUMNS = ("customer_id", "key_id", "team_id", "user_id", "tags", "client_tool", "user_agent")
_TAGS = _CALLER_COLUMNS.index("tags")
_TIME_COLUMNS = ("id", "started_at", "ended_at")
_SHAPE_COLUMNS = tuple(name for name in LOG_COLUMNS if name not in (*_TIME_COLUMNS, *_CALLER_COLUMNS))
_COLUMNS = (*_TIME_COLUMNS, *_CALLER_COLUMNS, *_SHAPE_COLUMNS)
_READ_BY_PAGES = (
    "billing_spendlog", "billing_dailyspend", "billing_dailyoverview", "billing_spendtotal",
    "customers_customer",
)  # fmt: skip


class Model(NamedTuple):
    """A model, how often it is called, and what its calls are like."""

    name: str
    provider: str
    dialect: str
    weight: int
    input_tokens: int  # what is usual
    output_tokens: int
    ms_per_token: float


class Caller(NamedTuple):
    """A customer, or somebody who names none."""

    values: tuple  # of `_CALLER_COLUMNS`
    model: str  # that most of its calls are for


class Shape(NamedTuple):
    """A call without its caller and its time."""

    took_ms: int
    values: tuple  # of `_SHAPE_COLUMNS`


MODELS = (
    Model("gpt-4o-mini", "openai", "openai_chat", 40, 900, 180, 9),
    Model("claude-sonnet-4-5", "anthropic", "anthropic_messages", 22, 6000, 420, 14),
    Model("gpt-4o", "openai", "openai_chat", 14, 1400, 260, 14),
    Model("gpt-5-mini", "openai", "openai_responses", 9, 1800, 500, 8),
    Model("claude-haiku-4-5", "anthropic", "anthropic_messages", 8, 3000, 250, 6),
    Model("text-embedding-3-small", "openai", "openai_embeddings", 6, 500, 0, 0),
    Model(_UNPRICED, "in-house", "openai_chat", 1, 700, 200, 20),
)
_TOOLS = (
    ("OpenAI SDK", "OpenAI/Python 1.60.0", 50),
    ("Claude Code", "claude-cli/2.0.1 (external, cli)", 25),
    ("Open WebUI", "Open WebUI", 10),
    ("", "", 15),
)
_PROJECTS = ("search", "support", "summaries", "agents", "translation", "onboarding", "reports", "research")


def seed(*, rows: int, customers: int, days: int, at: datetime, progress: Progress) -> None:
    """Add `rows` calls of the `days` before `at`, and what follows from them.

    Raises: MonthIsClosed; `reconciliation.AlreadyRepairing`, with the log written; a repair makes up for it.
    """
    closed = closed_months((at - timedelta(days=days)).date(), at.date())
    if closed:
        raise MonthIsClosed(f"{closed[0]:%Y-%m} is closed: calls of it cannot be made up.")
    dice = random.Random()  # noqa: S311  no secrets
    load_genai_prices(at=at)
    callers = [f"customer-{number:06d}" for number in range(1, customers + 1)]
    _make_customers(callers, progress)
    if can_seed():
        _seed_in_sql(rows, _callers(callers, dice), _shapes(at, dice), days, at, progress)
    else:
        _make_partitions(at - timedelta(days=days), at)
        written = 0
        for lines in _lines(rows, _callers(callers, dice), _shapes(at, dice), days, at, dice):
            _write(lines)
            written += len(lines)
            progress("calls", written, rows)
        repair(at=at, progress=progress)
    if connection.vendor == "postgresql":
        close_days(at=at, progress=progress)


def _seed_in_sql(
    rows: int,
    callers: Sequence["Caller"],
    shapes: Mapping[str, Sequence["Shape"]],
    days: int,
    at: datetime,
    progress: Progress,
) -> None:
    seed_in_sql(
        callers=callers,
        caller_columns=_CALLER_COLUMNS,
        shapes=shapes,
        shape_columns=_SHAPE_COLUMNS,
        days=[day for day in _days(rows, days, at) if day[1]],
        hours=_HOURS,
        favourite=_FAVOURITE,
        tag_sets={tuple(msgspec.json.decode(caller.values[_TAGS])) for caller in callers},
        rows=rows,
        progress=progress,
    )
    for table in _READ_BY_PAGES:
        with connection.cursor() as cursor:
            if not connection.in_atomic_block:
                cursor.execute(f"VACUUM (ANALYZE) {table}")  # pages are as fast then as a day later
        progress("tables vacuumed", _READ_BY_PAGES.index(table) + 1, len(_READ_BY_PAGES))


def _make_customers(ids: Sequence[str], progress: Progress) -> None:
    for first in range(0, len(ids), _CUSTOMERS_A_WRITE):
        with transaction.atomic(), connection.cursor() as cursor:
            make_customers(cursor, ids[first : first + _CUSTOMERS_A_WRITE])
        progress("customers", min(first + _CUSTOMERS_A_WRITE, len(ids)), len(ids))


def _make_partitions(start: datetime, end: datetime) -> None:
    month = month_start(start)
    while month <= end:
        ensure_partitions(at=month)
        month = next_month(month)


# -- who calls -------------------------------------------------------------------------


def _callers(customers: Sequence[str], dice: random.Random) -> list[Caller]:
    """Return what each customer's calls are made with: one key, one set of tags, mostly one model.

    Two more callers, who call about as often as the second customer, name no customer.
    """
    keys = _keys()
    tools, tool_weights = _TOOLS, [weight for _, _, weight in _TOOLS]
    found = []
    for rank, customer_id in enumerate([customers[0], None, None, *customers[1:]], start=1):
        key_id, team_id, user_id = keys[int(len(keys) * dice.random() ** 2)]
        tool, agent, _ = dice.choices(tools, tool_weights)[0]
        tags = [
            f"project:{dice.choice(_PROJECTS)}",
            f"env:{dice.choice(('prod', 'prod', 'prod', 'staging'))}",
        ]
        if agent:
            tags.append(f"User-Agent: {agent.split('/')[0]}")
        values = (customer_id, key_id, team_id, user_id, _to_json(tags).decode(), tool, agent)
        favourite = dice.choices(MODELS, [model.weight for model in MODELS])[0]
        found.append(Caller(values, _UNPRICED if rank == _RANK_OF_UNPRICED else favourite.name))
    return found


def _keys() -> list[tuple[str, str | None, str | None]]:
    """Return (key, team, user) of the demo's keys; what is missing is made. Their secrets are not kept."""
    known = {key.alias: key for key in VirtualKey.objects.filter(alias__startswith="demo key ")}
    found = []
    for number in range(KEYS):
        alias = f"demo key {number + 1:03d}"
        key = known.get(alias)
        if key is None:
            team = _team(number % TEAMS + 1)
            user = _user(number % USERS + 1) if number % 3 else None
            key, _ = create_key(alias=alias, team=team, user=user)
        found.append((key.id.hex, key.team_id, key.user_id))
    return found


def _team(number: int) -> Team:
    team, _ = Team.objects.get_or_create(
        pk=f"demo-team-{number:02d}", defaults={"alias": f"Demo team {number}"}
    )
    return team


def _user(number: int) -> User:
    name = f"demo-user-{number:02d}"
    user, _ = User.objects.get_or_create(pk=name, defaults={"username": name, "alias": f"Demo user {number}"})
    return user


# -- what they call --------------------------------------------------------------------


def _shapes(at: datetime, dice: random.Random) -> dict[str, list[Shape]]:
    """Return different calls of each model."""
    book = PriceBook(Price.objects.all(), canonical_model=canonical_model)
    prices = {model.name: book.find(model.provider, model.name, at_s=at.timestamp()) for model in MODELS}
    drawn = dice.choices(MODELS, [model.weight for model in MODELS], k=SHAPES)
    shapes: dict[str, list[Shape]] = {model.name: [] for model in MODELS}
    for model in [*MODELS, *drawn]:
        shapes[model.name].append(_shape(model, prices[model.name], dice))
    return shapes


def _shape(model: Model, price: ResolvedPrice | None, dice: random.Random) -> Shape:
    fate = dice.random()
    usage = _usage(model, dice)
    took_ms = int(150 * dice.lognormvariate(0, 0.5) + model.ms_per_token * usage.completion_tokens)
    values: dict[str, Any] = {
        "dialect": model.dialect,
        "streamed": model.output_tokens > 0 and dice.random() < 0.6,
        "status": SpendLog.Status.SUCCESS.value,
        "http_status": 200,
        "model": model.name,
        "deployment_id": MODELS.index(model) + 1,
        "upstream": model.provider,
        "provider": model.provider,
        "upstream_model": model.name,
        "usage_source": SpendLog.UsageSource.PROVIDER.value,
    }
    if fate < 0.015:
        usage, took_ms = NO_USAGE, 2
        values |= _REFUSED
    elif fate < 0.035:
        usage = NO_USAGE
        values |= _FAILED
    elif fate < 0.04:
        values |= {"usage_source": SpendLog.UsageSource.PARTIAL.value, "client_left": True}
    elif fate < 0.05:
        usage, took_ms = NO_USAGE, 3
        values["usage_source"] = SpendLog.UsageSource.CACHE.value
    cost = 0 if usage == NO_USAGE else None if price is None else price.cost_nano(usage)
    values |= {
        **usage._asdict(),
        "cost": cost,
        "charge": cost,
        "price_id": price.price_id if price and cost else None,
        "latency_ms": took_ms,
        "first_token_ms": min(took_ms, 400) if values["streamed"] and usage != NO_USAGE else None,
    }
    return Shape(took_ms, tuple(values.get(name, _OTHERWISE.get(name, "")) for name in _SHAPE_COLUMNS))


_REFUSED = {
    "status": SpendLog.Status.REFUSED.value,
    "http_status": 400,
    "error_type": "budget_exceeded",
    "error_message": "Budget has been exceeded.",
    "usage_source": SpendLog.UsageSource.NONE.value,
    "deployment_id": None,
    "upstream": "",
    "provider": "",
    "upstream_model": "",
}
_FAILED = {
    "status": SpendLog.Status.FAILURE.value,
    "http_status": 503,
    "error_type": "upstream_error",
    "error_message": "The provider is overloaded.",
    "usage_source": SpendLog.UsageSource.NONE.value,
}
_OTHERWISE = {"client_left": False, "attempts": "[]", "metadata": "{}", "units": None}


def _usage(model: Model, dice: random.Random) -> Usage:
    prompt = max(1, int(model.input_tokens * dice.lognormvariate(0, 0.8)))
    output = int(model.output_tokens * dice.lognormvariate(0, 0.7))
    cached = prompt * dice.randrange(4, 9) // 10 if prompt > 1024 and dice.random() < 0.5 else 0
    reasoning = output // 2 if "gpt-5" in model.name else 0
    written = prompt // 10 if cached and model.provider == "anthropic" else 0
    return Usage(
        input_uncached=prompt - cached - written,
        cache_read=cached,
        cache_write_5m=written,
        output_text=output - reasoning,
        reasoning=reasoning,
    )


# -- when, and writing it --------------------------------------------------------------


def _lines(
    rows: int,
    callers: Sequence[Caller],
    shapes: Mapping[str, Sequence[Shape]],
    days: int,
    at: datetime,
    dice: random.Random,
) -> Iterator[list[tuple]]:
    """Return the rows, day by day in the order of time, so many at a time as are written at once."""
    zipf = list(accumulate(1 / rank for rank in range(1, len(callers) + 1)))
    hours = list(accumulate(_HOURS))
    hour_ms = _DAY_MS // len(_HOURS)
    others = [shape for each in shapes.values() for shape in each]
    pending: list[tuple] = []
    most = _ROWS_A_WRITE[connection.vendor]
    for day_ms, count in _days(rows, days, at):
        drawn = dice.choices(range(len(_HOURS)), cum_weights=hours, k=count)
        instants = sorted(day_ms + hour * hour_ms + int(dice.random() * hour_ms) for hour in drawn)
        who = dice.choices(callers, cum_weights=zipf, k=count)
        for ms, caller in zip(instants, who, strict=True):
            shape = dice.choice(shapes[caller.model] if dice.random() < _FAVOURITE else others)
            times = (uuid7_bytes(ms).hex(), timestamp(ms * 1000), timestamp((ms + shape.took_ms) * 1000))
            pending.append((times, caller.values, shape.values))
            if len(pending) == most:
                yield pending
                pending = []
    if pending:
        yield pending


def _days(rows: int, days: int, at: datetime) -> Iterator[tuple[int, int]]:
    """Return (first millisecond, number of calls) of the days before `at`: fewer at weekends."""
    today = datetime(at.year, at.month, at.day, tzinfo=UTC)
    listed = [today - timedelta(days=back) for back in range(days, 0, -1)]
    weights = [_WEEKEND if day.weekday() >= 5 else 1.0 for day in listed]
    behind, done = 0.0, 0
    for day, weight in zip(listed, weights, strict=True):
        behind += weight
        until = round(rows * behind / sum(weights))
        yield int(day.timestamp()) * 1000, until - done
        done = until


def _write(lines: Sequence[tuple]) -> None:
    listed = ", ".join(f'"{name}"' for name in _COLUMNS)
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            texts = {part: _copied(part) for line in lines for part in line[1:]}
            with (
                connection.wrap_database_errors,
                cursor.copy(f"COPY billing_spendlog ({listed}) FROM STDIN") as copy,
            ):
                copy.write(
                    "".join(
                        [
                            "\t".join((*times, texts[caller], texts[shape])) + "\n"
                            for times, caller, shape in lines
                        ]
                    )
                )
        else:
            marks = ", ".join(["%s"] * len(_COLUMNS))
            cursor.executemany(
                f"INSERT INTO billing_spendlog ({listed}) VALUES ({marks})",
                [(*times, *caller, *shape) for times, caller, shape in lines],
            )


def _copied(values: tuple) -> str:
    """Return values as PostgreSQL copies them. Ours have no tabs, line breaks or backslashes."""
    return "\t".join(["\\N" if value is None else str(value) for value in values])
