"""
Reports: the one place that reads the rollups, for pages, charts, exports and the API alike.

Every function takes the same `Filters` and returns the same figures, so that a card, its
chart and its export cannot disagree. Each reads the smallest rollup that can answer; none
reads the log. Amounts are USD; days are those of the reporting time zone.

A report about customers counts what they are charged, every other one what the provider
bills (M4): `Figures.spend` is the one that is meant, `cost` and `charge` are always there.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache, partial
from operator import add, sub
from typing import Any, Literal, NamedTuple

import msgspec
from django.db import connection, transaction

from billing.booking.rollups import OVERVIEW, SPEND, Rollup, summed
from billing.booking.summaries import Parts, days_condition, parts_of, remembered, smallest
from billing.bulk import among
from billing.models import SummaryByCustomer
from billing.models.daily_spend import LATENCY_BOUNDS_MS, LATENCY_BUCKETS, MASTER_KEY, NO_TAGS, SUMS
from billing.models.spend_total import MASTER_KEY_ID
from billing.usage import BUCKETS, TOKEN_BUCKETS, Usage
from customers.money import from_nano

Dimension = Literal[
    "day", "customer", "key", "team", "user", "model", "provider", "upstream_model", "deployment", "dialect",
    "client_tool", "tag",
]  # fmt: skip
Order = Literal[
    "spend", "cost", "charge", "calls", "failed_calls", "total_tokens", "name",
]  # fmt: skip

_COLUMNS: dict[str, str] = {
    "day": "day",
    "customer": "customer_id",
    "key": "key_id",
    "team": "team_id",
    "user": "user_id",
    "model": "model",
    "provider": "provider",
    "upstream_model": "upstream_model",
    "deployment": "deployment_id",
    "dialect": "dialect",
    "client_tool": "client_tool",
}
_MANY_NAMES = ("customer", "user")


class BadReport(ValueError):
    """What was asked for cannot be told; the message says why."""


class Within(NamedTuple):
    """Whose calls somebody may see: one who is any of these. A key is its UUID."""

    user: str | None = None
    key: str | None = None
    teams: tuple[str, ...] = ()


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls a report is about: those of the days [start, end], both included, that fit all of the rest.

    None: whatever it is. A list: one of these. An empty name is the calls without any:
    of no customer, of no team. A key is its UUID, or `master`. tags: a call that carries
    any of them, which counts once.
    """

    start: date
    end: date
    customers: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    teams: Sequence[str] | None = None
    users: Sequence[str] | None = None
    models: Sequence[str] | None = None
    either_models: Sequence[str] | None = None  # by the name that callers use, or the one sent upstream
    tags: Sequence[str] | None = None
    providers: Sequence[str] | None = None
    client_tools: Sequence[str] | None = None
    dialects: Sequence[str] | None = None
    without_customers: Sequence[str] = ()
    without_teams: Sequence[str] = ()
    within: Within | None = None


class Figures(NamedTuple):
    """What the calls of a report, or of one of its rows, add up to."""

    cost: Decimal
    charge: Decimal
    is_charged: bool
    calls: int
    failed_calls: int
    unpriced_calls: int
    estimated_calls: int
    cache_hits: int
    usage: Usage
    latency_ms_sum: int
    latencies: tuple[int, ...]  # of the successful calls, by bucket

    @property
    def spend(self) -> Decimal:
        return self.charge if self.is_charged else self.cost

    @property
    def successful_calls(self) -> int:
        return self.calls - self.failed_calls

    @property
    def mean_latency_ms(self) -> float | None:
        timed = sum(self.latencies)
        return self.latency_ms_sum / timed if timed else None

    @property
    def p50_ms(self) -> float | None:
        return percentile(self.latencies, 0.5)

    @property
    def p95_ms(self) -> float | None:
        return percentile(self.latencies, 0.95)


class Row(NamedTuple):
    """The figures of one name: a model, a customer, a day. Empty: of the calls without any."""

    name: str
    figures: Figures


class DayRow(NamedTuple):
    """The figures of a day, and of one name where the report is grouped."""

    day: date
    name: str | None
    figures: Figures


def totals(filters: Filters) -> Figures:
    """Return what all calls of the report add up to. Zeros where there is none."""
    query = _Query(filters, ())
    [row] = query.rows(f"SELECT {query.sums} FROM {query.source} WHERE {query.condition}")
    return query.figures(row)


def by(
    filters: Filters, dimension: Dimension, *, order: Order = "spend", limit: int = 100, offset: int = 0
) -> list[Row]:
    """Return the figures by one dimension, the most first (by name: in the alphabet's order).

    By tag a call counts under each of its tags: the rows then add up to more than
    `totals`. Raises: BadReport.
    """
    with remembered():
        return _by(filters, dimension, order, limit, offset)


def _by(filters: Filters, dimension: Dimension, order: Order, limit: int, offset: int) -> list[Row]:
    if limit < 1 or offset < 0:
        raise BadReport("limit is at least 1, offset at least 0.")
    if dimension == "customer" and order in ("spend", "charge"):
        names = _most_charged(filters, limit + offset, with_none=True)
        if names is not None:
            filters, offset = msgspec.structs.replace(filters, customers=names[offset:]), 0
    query = _Query(filters, (dimension,))
    name = query.column(dimension)
    matching, sorting = f"FROM {query.source} WHERE {query.condition}", query.order(order, name)
    page = f"GROUP BY {name} ORDER BY {sorting} LIMIT %s OFFSET %s"
    chosen = {"customer": filters.customers, "user": filters.users}.get(dimension)
    if dimension in _MANY_NAMES and (chosen is None or offset or len(chosen) > limit):
        # Optimization: one sum finds the page's names among many; all the others are of these alone.
        rows = query.rows(
            f"SELECT {name}, {query.sums} {matching} AND {name} IN (SELECT {name} {matching} {page}) "
            f"GROUP BY {name} ORDER BY {sorting}",
            *query.parameters,
            limit,
            offset,
        )
    else:
        rows = query.rows(f"SELECT {name}, {query.sums} {matching} {page}", limit, offset)
    return [Row(_name(dimension, first), query.figures(sums)) for first, *sums in rows]


def by_day(filters: Filters, group: Dimension | None = None, *, only: int | None = None) -> list[DayRow]:
    """Return the figures of each day that has calls, in the order of days, by `group` where it is given.

    only: of so many names, those with the most spend in the whole report; a chart takes
    the rest from the ungrouped report. Raises: BadReport.
    """
    if group == "day":
        raise BadReport("A report by day is by day already.")
    if group is not None and only is not None:
        names = {row.name for row in by(filters, group, limit=only)}
        return [row for row in by_day(filters, group) if row.name in names]
    query = _Query(filters, ("day",) if group is None else ("day", group))
    keys = ["day"] if group is None else ["day", query.column(group)]
    listed = ", ".join(keys)
    rows = query.rows(
        f"SELECT {listed}, {query.sums} FROM {query.source} WHERE {query.condition} "
        f"GROUP BY {listed} ORDER BY {listed}"
    )
    found = []
    for row in rows:
        name = None if group is None else _name(group, row[1])
        found.append(DayRow(_date(row[0]), name, query.figures(row[len(keys) :])))
    return found


def count(filters: Filters, dimension: Dimension) -> int:
    """Return how many names `by` would return without a limit."""
    query = _Query(filters, (dimension,), adding=())
    name = query.column(dimension)
    [row] = query.rows(
        # Optimization: PostgreSQL sorts for COUNT(DISTINCT …).
        f"SELECT COUNT(*) FROM (SELECT {name} FROM {query.source} WHERE {query.condition} "
        f"GROUP BY {name}) AS names"
    )
    return row[0]


def count_by(filters: Filters, dimension: Dimension, *, of: Dimension) -> dict[str, int]:
    """Return how many different names of `of` the calls of each name have; the empty one does not count."""
    query = _Query(filters, (dimension, of), adding=())
    name, counted = query.column(dimension), query.column(of)
    rows = query.rows(
        "SELECT name, SUM(CASE WHEN counted = '' THEN 0 ELSE 1 END) FROM ("
        f"SELECT {name} AS name, {counted} AS counted FROM {query.source} WHERE {query.condition} "
        f"GROUP BY {name}, {counted}) AS pairs GROUP BY name"
    )
    return {_name(dimension, value): int(number) for value, number in rows}


def percentile(latencies: Sequence[int], part: float) -> float | None:
    """Return the milliseconds within which `part` of the calls were answered; None where there is none.

    Straight between the bounds of the bucket it falls into; what is slower than the last
    bound is told as that bound.
    """
    calls = sum(latencies)
    if not calls:
        return None
    rank, below, lower = part * calls, 0, 0.0
    for held, upper in zip(latencies, LATENCY_BOUNDS_MS, strict=False):
        if held and below + held >= rank:
            return lower + (upper - lower) * (rank - below) / held
        below, lower = below + held, float(upper)
    return lower


# -- queries -------------------------------------------------------------------------


class _Query:
    """The pieces of a statement that answers for `filters`, by some dimensions."""

    def __init__(
        self,
        filters: Filters,
        dimensions: Iterable[str],
        *,
        per_tag: bool = False,
        with_untagged: bool = False,
        adding: Sequence[str] = SUMS,
    ) -> None:
        """
        adding: the sums that the statement names.
        per_tag: the rows are joined with `weight.tags`: how many of its tags, or of those
            that are asked for, a call carries.
        with_untagged: those that carry none stay, with null.
        """
        wanted = set(dimensions)
        for unknown in wanted - _COLUMNS.keys() - {"tag"}:
            raise BadReport(f"There is no report by {unknown!r}. One of: {', '.join([*_COLUMNS, 'tag'])}.")
        if filters.end < filters.start:
            raise BadReport("The report ends before it starts.")
        self._is_by_tag = "tag" in wanted
        self.parameters: list[Any] = []
        self._conditions: list[str] = []
        self._days: list[tuple[date, date]] = []  # to be found in the table that is read
        self._adding = adding
        self.source = self._rows_of(filters, wanted | {"tag"} if per_tag else wanted)
        self.is_charged = (
            filters.customers is not None or bool(filters.without_customers) or "customer" in wanted
        )
        if per_tag:
            self._weigh(filters.tags, "LEFT JOIN" if with_untagged else "JOIN")
        self._filter(filters)
        if self._is_by_tag:
            self._add_up_sets(wanted - {"tag"})
            self._name_tags(filters.tags)
        self.sums = ", ".join(map(summed, SUMS))

    @property
    def condition(self) -> str:
        return " AND ".join(self._conditions) or "1 = 1"

    def column(self, dimension: str) -> str:
        return "member.tag" if dimension == "tag" else f"rollup.{_COLUMNS[dimension]}"

    def order(self, order: str, name: str) -> str:
        amount = "charge" if self.is_charged else "cost"
        sums = {
            "spend": (amount,), "cost": ("cost",), "charge": ("charge",), "calls": ("calls",),
            "failed_calls": ("failed_calls",), "total_tokens": TOKEN_BUCKETS,
        }  # fmt: skip
        if order == "name":
            return name
        if order not in sums:
            raise BadReport(f"There is no order by {order!r}. One of: {', '.join(sums)}, name.")
        return f"{_sum_of(sums[order])} DESC, {name}"

    def rows(self, statement: str, *more: Any) -> list[tuple]:
        return _rows(statement, [*self.parameters, *more])

    def figures(self, sums: Sequence[int | None]) -> Figures:
        values = dict(zip(SUMS, (value or 0 for value in sums), strict=True))
        return Figures(
            cost=from_nano(values["cost"]),
            charge=from_nano(values["charge"]),
            is_charged=self.is_charged,
            calls=values["calls"],
            failed_calls=values["failed_calls"],
            # Below 0 where calls of other days were priced on these.
            unpriced_calls=max(0, values["unpriced_calls"]),
            estimated_calls=values["estimated_calls"],
            cache_hits=values["cache_hits"],
            usage=Usage(*(values[bucket] for bucket in BUCKETS)),
            latency_ms_sum=values["latency_ms_sum"],
            latencies=tuple(values[bucket] for bucket in LATENCY_BUCKETS),
        )

    def _rows_of(self, filters: Filters, dimensions: set[str]) -> str:
        """Return what the report adds up, as the table `rollup`: summaries of closed spans, days, or both."""
        columns = _columns_of(filters, dimensions)
        summary = smallest(columns)
        parts = parts_of(filters.start, filters.end, by_day="day" in dimensions) if summary else None
        if summary is None or parts is None or not parts.spans:
            self._days = [(filters.start, filters.end)]
            return f"{_smallest(filters, dimensions).table} AS rollup"
        listed = ", ".join(["day", *sorted(columns - {"day"})])
        spans = among("span", "int", parts.spans)
        self.parameters += spans.parameters
        # Optimization: only what is added up, so that an index may have all of it.
        sources = [f"SELECT {', '.join([listed, *self._adding])} FROM {summary.table} WHERE {spans.sql}"]
        if parts.open:
            condition, days = _days_condition(filters, "", parts.open)
            self.parameters += days
            # Columns of the same types on both sides: else PostgreSQL would build the whole of it first.
            sums = [f"CAST({name} AS bigint) AS {name}" for name in self._adding]
            open_days = f"SELECT {', '.join([listed, *sums])} FROM {summary.rollup.table}"
            sources.append(f"{open_days} WHERE {condition}")
        return f"({' UNION ALL '.join(sources)}) AS rollup"

    def _filter(self, filters: Filters) -> None:
        if self._days:
            condition, days = _days_condition(filters, "rollup.", self._days)
            self._add(condition, *days)
        self._among("customer_id", filters.customers)
        self._among("team_id", filters.teams)
        self._among("user_id", filters.users)
        self._among("model", filters.models)
        if filters.either_models is not None:
            names = list(filters.either_models)
            public = among("rollup.model", "text", names)
            upstream = among("rollup.upstream_model", "text", names)
            self._add(f"({public.sql} OR {upstream.sql})", *public.parameters, *upstream.parameters)
        self._among("provider", filters.providers)
        self._among("client_tool", filters.client_tools)
        self._among("dialect", filters.dialects)
        self._among("customer_id", filters.without_customers or None, is_not=True)
        self._among("team_id", filters.without_teams or None, is_not=True)
        if filters.within is not None:
            self._within(filters.within)
        if filters.keys is not None:
            self._among("key_id", [_key(name) for name in filters.keys], type_="uuid")
        if filters.tags is not None:
            tags = among("tag", "text", list(filters.tags))
            untagged = [NO_TAGS.hex] if "" in filters.tags else []
            self._add(
                f"(rollup.tag_set_id IN (SELECT tag_set_id FROM billing_tagsetmember WHERE {tags.sql})"
                f"{' OR rollup.tag_set_id = %s' if untagged else ''})",
                *tags.parameters,
                *untagged,
            )

    def _within(self, whose: Within) -> None:
        allowed = [
            among("rollup.user_id", "text", [] if whose.user is None else [whose.user]),
            among("rollup.key_id", "uuid", [] if whose.key is None else [_key(whose.key)]),
            among("rollup.team_id", "text", list(whose.teams)),
        ]
        parameters = [each for condition in allowed for each in condition.parameters]
        self._add(f"({' OR '.join(condition.sql for condition in allowed)})", *parameters)

    def _add_up_sets(self, dimensions: set[str]) -> None:
        """Optimization: add up each set of tags before it is joined with its tags, and those are more."""
        columns = ", ".join(["tag_set_id", *sorted(_COLUMNS[name] for name in dimensions)])
        sums = ", ".join(f"{summed(name)} AS {name}" for name in self._adding)
        self.source = (
            f"(SELECT {columns}{', ' if sums else ''}{sums} FROM {self.source} WHERE {self.condition} "
            f"GROUP BY {columns}) AS rollup"
        )
        self._conditions = []

    def _name_tags(self, tags: Sequence[str] | None) -> None:
        self.source += " JOIN billing_tagsetmember AS member ON member.tag_set_id = rollup.tag_set_id"
        if tags is not None:
            shown = among("member.tag", "text", list(tags))
            self._add(shown.sql, *shown.parameters)

    def _weigh(self, tags: Sequence[str] | None, join: str) -> None:
        chosen = "" if tags is None else "WHERE "
        condition = among("tag", "text", list(tags or ()))
        self.source += (
            f" {join} (SELECT tag_set_id, COUNT(*) AS tags FROM billing_tagsetmember "
            f"{chosen}{condition.sql if chosen else ''} GROUP BY tag_set_id) AS weight "
            "ON weight.tag_set_id = rollup.tag_set_id"
        )
        self.parameters += condition.parameters if chosen else []

    def _among(
        self, column: str, names: Sequence[str] | None, *, type_: str = "text", is_not: bool = False
    ) -> None:
        if names is None:
            return
        condition = among(f"rollup.{column}", type_, list(names))
        self._add(f"NOT ({condition.sql})" if is_not else condition.sql, *condition.parameters)

    def _add(self, condition: str, *parameters: Any) -> None:
        self._conditions.append(condition)
        self.parameters += parameters


def _days_condition(
    filters: Filters, table: str, ranges: Sequence[tuple[date, date]]
) -> tuple[str, list[Any]]:
    """Return the condition for rows of a daily rollup to be of these days."""
    if filters.customers is None:
        # The primary key finds the days, where nothing finds less.
        return days_condition(f"{table}id", ranges)
    each = f"({table}day >= %s AND {table}day <= %s)"  # the index by customer has the day
    return f"({' OR '.join([each] * len(ranges))})", [day for pair in ranges for day in pair]


def _rows(statement: str, parameters: Sequence[Any]) -> list[tuple]:
    with _tuned(), connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


@contextlib.contextmanager
def _tuned() -> Iterator[None]:
    """Have PostgreSQL plan statements as reports need it."""
    if connection.vendor != "postgresql" or connection.in_atomic_block:
        yield  # `one_instant` has done so
        return
    with transaction.atomic():
        _tune()
        yield


def _tune() -> None:
    with connection.cursor() as cursor:
        # Compiling a statement takes longer than it saves: most are of a few thousand rows. A hundred
        # thousand names are added up in memory. And a page takes one core, not all of what books calls.
        cursor.execute(
            "SELECT set_config('jit', 'off', true), set_config('work_mem', '64MB', true), "
            "set_config('max_parallel_workers_per_gather', '0', true)"
        )


def _smallest(filters: Filters, dimensions: set[str]) -> Rollup:
    """Return the smallest rollup that has everything that is asked for."""
    is_in_overview = _columns_of(filters, dimensions) <= set(OVERVIEW.dimensions)
    return OVERVIEW if is_in_overview else SPEND


def _columns_of(filters: Filters, dimensions: set[str]) -> set[str]:
    """Return the columns of rollups that a report asks for."""
    columns = {_COLUMNS.get(name, "tag_set_id") for name in dimensions}
    for column, chosen in (
        ("customer_id", (filters.customers, filters.without_customers or None)),
        ("key_id", (filters.keys,)),
        ("team_id", (filters.teams, filters.without_teams or None)),
        ("user_id", (filters.users,)),
        ("model", (filters.models, filters.either_models)),
        ("upstream_model", (filters.either_models,)),
        ("provider", (filters.providers,)),
        ("client_tool", (filters.client_tools,)),
        ("dialect", (filters.dialects,)),
        ("tag_set_id", (filters.tags,)),
        *((column, (filters.within,)) for column in ("user_id", "key_id", "team_id")),
    ):
        if any(each is not None for each in chosen):
            columns.add(column)
    return columns


def _key(name: str) -> str:
    if name == MASTER_KEY_ID:
        return MASTER_KEY.hex
    digits = name.replace("-", "").lower()
    if len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        raise BadReport(f"{name!r} is no key's id: write its UUID, or {MASTER_KEY_ID}.")
    return digits


def _name(dimension: str, value: Any) -> str:
    """Return a dimension's value as it is told: a key as its UUID, or `master`; empty for none."""
    if dimension == "key":
        digits = str(value).replace("-", "")
        if digits == MASTER_KEY.hex:
            return MASTER_KEY_ID
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    if dimension == "deployment":
        return str(value) if value else ""
    return str(value)


def _date(value: date | str) -> date:
    return value if isinstance(value, date) else date.fromisoformat(value)


# -- for pages: a page of names, then the figures of those alone ------------------------


class Ranking(NamedTuple):
    """The names of one page in their order, and how many names there are in all.

    of: None where that was not counted, as there are so many.
    """

    names: list[str]
    of: int | None
    has_more: bool = False  # behind these


class Amounts(NamedTuple):
    """What one name spent, USD."""

    cost: Decimal
    charge: Decimal


# What names can be put in order by, and the sums that this takes. `rate` is USD per token, last where
# there is none.
_RANKED_BY: dict[str, tuple[str, ...]] = {
    "cost": ("cost",),
    "charge": ("charge",),
    "calls": ("calls",),
    "failed_calls": ("failed_calls",),
    "total_tokens": TOKEN_BUCKETS,
    "rate": ("cost", "charge", *TOKEN_BUCKETS),
    "name": (),
}
RANKED_BY = tuple(_RANKED_BY)


def ranked(
    filters: Filters,
    dimension: Dimension,
    *,
    order: str,
    ascending: bool = False,
    search: str = "",
    alike: Sequence[str] = (),
    limit: int,
    offset: int = 0,
) -> Ranking:
    """Return a page of the names that `by` has, without the calls of none.

    Optimization: adds up the one sum that it sorts by, where `by` adds up all of them for
    each of what may be a hundred thousand names. search: a part of the name, in any case;
    alike: names that are found besides (a key is known by another name than its id).
    Raises: BadReport.
    """
    with remembered():
        return _ranked(
            filters, dimension, order, search, alike, ascending=ascending, limit=limit, offset=offset
        )


def _ranked(
    filters: Filters,
    dimension: Dimension,
    order: str,
    search: str,
    alike: Sequence[str],
    *,
    ascending: bool,
    limit: int,
    offset: int,
    is_counted: bool = False,
) -> Ranking:
    is_first = dimension == "customer" and order == "charge" and not ascending and not search
    if is_first and not is_counted:
        found = _most_charged(filters, offset + limit + 1, with_none=False)
        if found is not None and (len(found) > offset or not offset):
            return Ranking(found[offset:][:limit], None, len(found) > offset + limit)
    query = _Query(filters, (dimension,), adding=_RANKED_BY.get(order, ()))
    name = query.column(dimension)
    having = ""
    if dimension == "key":
        if search:
            query._among("key_id", [_key(each) for each in alike], type_="uuid")
    else:
        query._add(f"{name} <> %s", "")
        if search:
            pattern = "%" + re.sub(r"([\\%_])", r"\\\1", search.lower()) + "%"
            known = among(name, "text", list(alike))
            # Optimization: a name is compared once, not for each of its spans.
            having = f" HAVING LOWER({name}) LIKE %s ESCAPE '\\' OR {known.sql}"
            query.parameters += [pattern, *known.parameters]
    sorting = _ranking(query, order, name, ascending=ascending)
    rows = query.rows(
        f"SELECT {name}, COUNT(*) OVER () FROM {query.source} WHERE {query.condition} "
        f"GROUP BY {name}{having} ORDER BY {sorting} LIMIT %s OFFSET %s",
        limit,
        offset,
    )
    if not rows and offset:
        terms: dict[str, Any] = {"ascending": ascending, "limit": 1, "offset": 0, "is_counted": True}
        of = _ranked(filters, dimension, order, search, alike, **terms).of
        return Ranking([], of)
    of = rows[0][1] if rows else 0
    return Ranking([_name(dimension, row[0]) for row in rows], of, has_more=of > offset + len(rows))


def most_spent(filters: Filters, dimension: Dimension) -> list[str]:
    """Return all names that `by` has, those that spent most first."""
    query = _Query(filters, (dimension,), adding=("cost", "charge"))
    name = query.column(dimension)
    rows = query.rows(
        f"SELECT {name} FROM {query.source} WHERE {query.condition} "
        f"GROUP BY {name} ORDER BY {query.order('spend', name)}"
    )
    return [_name(dimension, row[0]) for row in rows]


# Of so many rows the names are not counted, and those that were charged most not looked for among all.
_MANY_ROWS = 50_000
_FIRST_TRIED = 100  # of each part
_MOST_TRIED = 20_000


def _most_charged(filters: Filters, number: int, *, with_none: bool) -> list[str] | None:
    """Return the `number` customers that were charged most, all other filters aside; None where it is
    as well to add up all of them.

    Fagin's threshold: a customer that is among the first of no part of the report was charged, in all,
    at most the sum of what the last of those was. Who was charged more is known to come before it.
    """
    days = Filters(start=filters.start, end=filters.end)
    if connection.vendor != "postgresql" or filters != days:
        return None
    parts = parts_of(filters.start, filters.end, by_day=False)
    if not parts.spans or not _has_many_rows(parts):
        return None
    first = max(2 * number, _FIRST_TRIED)
    while first <= _MOST_TRIED:  # where few differ the last of a part is charged as much as the first
        rows = _rows(*_first_of_each_part(parts, first, number, with_none=with_none))
        is_complete = not rows or rows[0][3]
        if is_complete or (len(rows) == number and rows[-1][1] > rows[-1][2]):
            return [row[0] for row in rows]
        first *= 4
    return None


def _has_many_rows(parts: Parts) -> bool:
    table = SummaryByCustomer._meta.db_table
    [(rows,)] = _rows(
        f"SELECT COUNT(*) FROM (SELECT FROM {table} WHERE span = ANY(%s) LIMIT {_MANY_ROWS}) AS found",
        [parts.spans],
    )
    return rows == _MANY_ROWS


def _first_of_each_part(parts: Parts, first: int, number: int, *, with_none: bool) -> tuple[str, list[Any]]:
    """Return a statement for (customer, charge, the most of one that is not considered, whether all are)."""
    table = SummaryByCustomer._meta.db_table
    condition, ids = days_condition("id", parts.open) if parts.open else ("1 = 0", [])
    return (
        f"""
        WITH of_span AS MATERIALIZED (
            SELECT span, most.* FROM unnest(%s::int[]) AS given(span) CROSS JOIN LATERAL (
                SELECT customer_id, charge FROM {table} AS summary WHERE summary.span = given.span
                ORDER BY charge DESC LIMIT {first}) AS most
        ), of_days AS MATERIALIZED (
            SELECT customer_id, {summed("charge")} AS charge FROM {SPEND.table} WHERE {condition}
            GROUP BY customer_id
        ), most_of_days AS MATERIALIZED (
            SELECT customer_id, charge FROM of_days ORDER BY charge DESC LIMIT {first}
        ), considered AS MATERIALIZED (
            SELECT customer_id FROM of_span UNION SELECT customer_id FROM most_of_days
        ), last AS (
            SELECT COUNT(*) = {first} AS is_cut, GREATEST(MIN(charge), 0) AS charge FROM of_span GROUP BY span
            UNION ALL SELECT COUNT(*) = {first}, GREATEST(MIN(charge), 0) FROM most_of_days
        )
        SELECT customer_id, {summed("charge")} AS charge,
            (SELECT COALESCE(SUM(charge) FILTER (WHERE is_cut), 0) FROM last),
            (SELECT NOT bool_or(is_cut) FROM last)
        FROM (
            SELECT considered.customer_id, of_one.charge FROM considered CROSS JOIN LATERAL (
                SELECT {summed("charge")} AS charge FROM {table} AS summary
                WHERE summary.customer_id = considered.customer_id AND summary.span = ANY(%s)) AS of_one
            UNION ALL SELECT customer_id, charge FROM of_days
            WHERE customer_id IN (SELECT customer_id FROM considered)
        ) AS parts {"" if with_none else "WHERE customer_id <> ''"} GROUP BY customer_id
        ORDER BY charge DESC, customer_id LIMIT {number}
        """,
        [parts.spans, *ids, parts.spans],
    )


def amounts_by_day(filters: Filters, dimension: Dimension) -> dict[str, dict[date, Amounts]]:
    """Return what each name spent on each day that it has calls on. For sparklines and stacked charts."""
    query = _Query(filters, ("day", dimension), adding=("cost", "charge"))
    name = query.column(dimension)
    rows = query.rows(
        f"SELECT {name}, day, {summed('cost')}, {summed('charge')} FROM {query.source} "
        f"WHERE {query.condition} GROUP BY {name}, day"
    )
    found: dict[str, dict[date, Amounts]] = {}
    for value, day, cost, charge in rows:
        of_name = found.setdefault(_name(dimension, value), {})
        of_name[_date(day)] = Amounts(from_nano(cost), from_nano(charge))
    return found


def amounts(filters: Filters, dimension: Dimension) -> dict[str, Amounts]:
    """Return what each name spent. For the change from the period before."""
    query = _Query(filters, (dimension,), adding=("cost", "charge"))
    name = query.column(dimension)
    rows = query.rows(
        f"SELECT {name}, {summed('cost')}, {summed('charge')} FROM {query.source} "
        f"WHERE {query.condition} GROUP BY {name}"
    )
    return {
        _name(dimension, value): Amounts(from_nano(cost), from_nano(charge)) for value, cost, charge in rows
    }


def untagged(filters: Filters) -> Figures:
    """Return what the calls without a tag add up to: the report by tag has no row of them."""
    return totals(msgspec.structs.replace(filters, tags=[""]))


def added(reports: Iterable[Figures], *, is_charged: bool) -> Figures:
    """Return the figures of several reports that have no call in common, together."""
    figures = list(reports)
    usages, latencies = [each.usage for each in figures], [each.latencies for each in figures]
    return Figures(
        cost=sum((each.cost for each in figures), Decimal(0)),
        charge=sum((each.charge for each in figures), Decimal(0)),
        is_charged=is_charged,
        calls=sum(each.calls for each in figures),
        failed_calls=sum(each.failed_calls for each in figures),
        unpriced_calls=sum(each.unpriced_calls for each in figures),
        estimated_calls=sum(each.estimated_calls for each in figures),
        cache_hits=sum(each.cache_hits for each in figures),
        usage=Usage(*map(sum, zip(*usages, strict=True))),
        latency_ms_sum=sum(each.latency_ms_sum for each in figures),
        latencies=tuple(map(sum, zip(*latencies, strict=True))) or (0,) * len(LATENCY_BUCKETS),
    )


def less(whole: Figures, parts: Iterable[Figures]) -> Figures:
    """Return the figures of those calls of a report that are in none of its parts."""
    part = added(parts, is_charged=whole.is_charged)
    return Figures(
        whole.cost - part.cost,
        whole.charge - part.charge,
        whole.is_charged,
        whole.calls - part.calls,
        whole.failed_calls - part.failed_calls,
        whole.unpriced_calls - part.unpriced_calls,
        whole.estimated_calls - part.estimated_calls,
        whole.cache_hits - part.cache_hits,
        Usage(*map(sub, whole.usage, part.usage)),
        whole.latency_ms_sum - part.latency_ms_sum,
        tuple(map(sub, whole.latencies, part.latencies)),
    )


def _ranking(query: _Query, order: str, name: str, *, ascending: bool) -> str:
    if order not in RANKED_BY:
        raise BadReport(f"Names are not put in order by {order!r}. One of: {', '.join(RANKED_BY)}.")
    direction = "ASC" if ascending else "DESC"
    if order == "name":
        return f"{name} {direction}"
    if order == "rate":
        amount = "charge" if query.is_charged else "cost"
        # A whole number: neither database then rounds what it compares.
        rate = f"{summed(amount)} * 1000 / NULLIF({_sum_of(TOKEN_BUCKETS)}, 0)"
        return f"({rate}) IS NULL, {rate} {direction}, {name}"
    return f"{_sum_of(_RANKED_BY[order])} {direction}, {name}"


def _sum_of(columns: Iterable[str], times: str = "") -> str:
    """Return what adds up several columns. times: what each row counts. A null would make their sum null."""
    return "(" + " + ".join(summed(f"{column}{times}") for column in columns) + ")"


@contextlib.contextmanager
def one_instant() -> Iterator[None]:
    """Have several reports see the database as it is at one instant: their figures then fit together."""
    if connection.in_atomic_block:
        with remembered():
            yield  # the caller's transaction decides what is seen
    elif connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            _tune()
            with remembered():
                yield
    else:
        # `atomic` would begin with the writer's lock.
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                with remembered():
                    yield
            finally:
                cursor.execute("ROLLBACK")  # nothing was written


# -- for the API: by several dimensions at once ------------------------------------------

_PROMPT_TOKENS = (
    "input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "input_audio", "input_image",
)  # fmt: skip
_COMPLETION_TOKENS = ("output_text", "reasoning", "output_audio", "output_image")
_TALLIED = (
    *((name,) for name in SUMS[:7]),
    _PROMPT_TOKENS,
    _COMPLETION_TOKENS,
    ("cache_read",),
    ("cache_write_5m", "cache_write_1h"),
)
_ADDED_TO_TALLIES = (*SUMS[:7], *TOKEN_BUCKETS)


class Tally(NamedTuple):
    """What calls add up to, in whole numbers: `cost` and `charge` are nano-dollars.

    Optimization: without latencies and the rarer buckets, a report of many small groups
    is made in half the time.
    """

    cost: int = 0
    charge: int = 0
    calls: int = 0
    failed_calls: int = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read: int = 0
    cache_write: int = 0

    def plus(self, other: "Tally") -> "Tally":
        return Tally._make(map(add, self, other))

    def less(self, other: "Tally") -> "Tally":
        return Tally._make(map(sub, self, other))

    def times(self, number: int) -> "Tally":
        return Tally._make(number * each for each in self)


class Group(NamedTuple):
    """The sums of one combination of names; `names[0]` is a date where the first dimension is `day`."""

    names: tuple[Any, ...]
    tally: Tally


def grouped(filters: Filters, dimensions: Sequence[Dimension], *, per_tag: bool = False) -> list[Group]:
    """Return the sums by several dimensions at once, in no order; one group without names for none.

    By tag, and with per_tag, a call counts under each of its tags: of those that are asked
    for, or of all. Raises: BadReport.
    """
    query = _Query(filters, dimensions, per_tag=per_tag, adding=_ADDED_TO_TALLIES)
    columns = [query.column(dimension) for dimension in dimensions]
    by_columns = f" GROUP BY {', '.join(columns)}" if columns else ""
    rows = query.rows(
        f"SELECT {', '.join([*columns, _tallied(per_tag=per_tag)])} FROM {query.source} "
        f"WHERE {query.condition}{by_columns}"
    )
    width = len(dimensions)
    # Optimization: there are far fewer names than rows.
    told = [(at, lru_cache(_TOLD[name])) for at, name in enumerate(dimensions) if name in _TOLD]
    groups = []
    for row in rows:
        names = list(row[:width])
        for at, tell in told:
            names[at] = tell(names[at])
        groups.append(Group(tuple(names), Tally._make(row[width:])))
    return groups


def by_day_and_number_of_tags(filters: Filters) -> list[Group]:
    """Return the sums by day and by how many tags a call carries, or how many of those that are asked for.

    `names` of the groups is (date, number). Each call is in one of them.
    """
    query = _Query(filters, ("day",), per_tag=True, with_untagged=True, adding=_ADDED_TO_TALLIES)
    columns = f"{query.column('day')}, COALESCE(weight.tags, 0)"
    rows = query.rows(
        f"SELECT {columns}, {_tallied(per_tag=False)} FROM {query.source} "
        f"WHERE {query.condition} GROUP BY {columns}"
    )
    return [Group((_date(day), number), Tally._make(sums)) for day, number, *sums in rows]


def _tallied(*, per_tag: bool) -> str:
    times = " * weight.tags" if per_tag else ""
    return ", ".join(_sum_of(each, times) for each in _TALLIED)


def costs(filters: Filters, dimensions: Sequence[Dimension]) -> list[tuple[tuple[Any, ...], int]]:
    """Return (names, nano-dollars) of what providers bill, by several dimensions at once, in no order.

    Optimization: one sum instead of all of them.
    """
    query = _Query(filters, dimensions, adding=("cost",))
    listed = ", ".join(query.column(dimension) for dimension in dimensions)
    rows = query.rows(
        f"SELECT {listed}, {summed('cost')} FROM {query.source} WHERE {query.condition} GROUP BY {listed}"
    )
    tell = [lru_cache(_TOLD.get(name, str)) for name in dimensions]
    return [(tuple([told(value) for told, value in zip(tell, row, strict=False)]), row[-1]) for row in rows]


_TOLD: dict[str, Callable[[Any], Any]] = {
    "day": _date,
    "key": partial(_name, "key"),
    "deployment": partial(_name, "deployment"),
}


def with_callers_names(filters: Filters) -> Filters:
    """Return the same report, with the names that callers use for `either_models` besides.

    Optimization: indexes know models by these names, and no index finds either of two.
    """
    if filters.either_models is None or filters.models is not None:
        return filters
    plain = Filters(start=filters.start, end=filters.end, either_models=filters.either_models)
    return msgspec.structs.replace(filters, models=sorted(row.names[0] for row in grouped(plain, ("model",))))


def tally(filters: Filters) -> Tally:
    """Return what all calls of the report add up to."""
    return grouped(filters, ())[0].tally


def in_parts(filters: Filters, *, most_calls: int) -> list[Filters]:
    """Return the same report cut into ranges of days with few enough calls to be held in memory.

    Days without calls are in none of them. A day is never cut. One query.
    """
    days = sorted(grouped(filters, ("day",)))
    parts: list[Filters] = []
    calls = 0
    for group in days:
        day, calls = group.names[0], calls + group.tally.calls
        if parts and calls <= most_calls:
            parts[-1] = msgspec.structs.replace(parts[-1], end=day)
        else:
            parts.append(msgspec.structs.replace(filters, start=day, end=day))
            calls = group.tally.calls
    return parts
