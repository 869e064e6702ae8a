"""
What calls add up to, in SQL: for `reconciliation.py`, which compares, and `retention.py`, which seals.

A table of **sums** has a row for each group of calls: by all dimensions of the rollups,
with the tags beside their set, and by the **slice** of time that they started in. Slices
are cut where any budget period begins or ends: the calls of a slice are all in a period,
or none of them is. So the log is read once, for rollups, totals and periods alike.

Everything here returns pieces of statements. Amounts are nano-dollars.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection

from billing.booking.rollups import CACHED, ESTIMATED, FAILED, TIMED
from billing.bulk import instant, microseconds, timestamp
from billing.models import Adjustment, HolderType
from billing.models.daily_spend import (
    DIMENSIONS,
    LATENCY_BOUNDS_MS,
    LATENCY_BUCKETS,
    MASTER_KEY,
    NO_DEPLOYMENT,
    NO_TAGS,
    SUMS,
)
from billing.models.spend_total import GATEWAY_ID, MASTER_KEY_ID
from billing.usage import BUCKETS

TOTAL_SUMS = (
    "cost", "charge", "calls", "failed_calls", "unpriced_calls", "prompt_tokens", "completion_tokens",
)  # fmt: skip
IS_OF_A_CALL = f"adjustment.reason <> '{Adjustment.Reason.INITIAL_SPEND.value}'"
_BEFORE_ALL = "0001-01-01 00:00:00"
# As `Usage` derives them.
_PROMPT = "input_uncached + cache_read + cache_write_5m + cache_write_1h + input_audio + input_image"
_COMPLETION = "output_text + reasoning + output_audio + output_image"
_KEYS = [name for name in DIMENSIONS if name != "tag_set_id"]


def is_postgresql() -> bool:
    return connection.vendor == "postgresql"


# -- slices of time --------------------------------------------------------------------


class Slices:
    """Where time is cut: at the beginning and at the end of every budget period."""

    def __init__(self, cursor: Any) -> None:
        cursor.execute(
            "SELECT counts_from FROM billing_budgetperiod "
            "UNION SELECT ends_at FROM billing_budgetperiod WHERE ends_at IS NOT NULL"
        )
        # SQLite compares texts: these are as the columns have them.
        cuts = [_BEFORE_ALL, *sorted(_written(row[0]) for row in cursor.fetchall())]
        if is_postgresql():
            array = "CAST('{" + ",".join(f'"{cut}+00"' for cut in cuts) + "}' AS timestamptz[])"
            self._expression = f"({array})[width_bucket(%s, {array})]"
        else:
            connection.connection.create_function(
                "slice_of", 1, lambda at: cuts[bisect_right(cuts, at) - 1], deterministic=True
            )
            self._expression = "slice_of(%s)"

    def of(self, column: str) -> str:
        """Return an expression for the beginning of the slice that contains the instant."""
        return self._expression % column


def _written(at: datetime | str) -> str:
    return at if isinstance(at, str) else instant(at if at.tzinfo else at.replace(tzinfo=ZoneInfo("UTC")))


# -- tables of sums --------------------------------------------------------------------


def create_sums(cursor: Any, name: str) -> None:
    """Make an empty temporary table of sums."""
    cursor.execute(f"CREATE TEMPORARY TABLE {name} AS {_summed(_logs('1 = 0', _no_instant()))} LIMIT 0")


def add_logs(cursor: Any, name: str, condition: str, slices: Slices | None, source: str = "") -> None:
    """Add calls to a table of sums. One pass over the log.

    condition: on `log`. slices: None where each instant is one of its own: for a few calls.
    source: another table than the log.
    """
    at = slices.of("log.started_at") if slices else "log.started_at"
    cursor.execute(f"INSERT INTO {name} {_summed(_logs(condition, at, source or 'billing_spendlog'))}")


def add_adjustments(cursor: Any, name: str, condition: str) -> None:
    """Add adjustments of calls, on the days they were booked. They are in no slice: periods have a rule."""
    cursor.execute(f"INSERT INTO {name} {_summed(_adjustments(condition))}")


def _summed(rows: str) -> str:
    """Return a query for the sums of rows, with the id of their set of tags."""
    grouped = ", ".join([*_KEYS, "tags", "sliced_at"])
    sums = ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in SUMS)
    return (
        f"SELECT {', '.join(_KEYS)}, {tag_set_id('tags')} AS tag_set_id, tags, sliced_at, last_call_at, "
        f"{', '.join(SUMS)} FROM ("
        f"SELECT {grouped}, MAX(last_call_at) AS last_call_at, {sums} FROM ({rows}) AS booked "
        f"GROUP BY {grouped}) AS booked"
    )


def _logs(condition: str, sliced_at: str, source: str = "billing_spendlog") -> str:
    figures = {
        "cost": "COALESCE(log.cost, 0)",
        "charge": "COALESCE(log.charge, 0)",
        "calls": "1",
        "failed_calls": _one_if(f"log.status IN {_texts(FAILED)}"),
        "unpriced_calls": _one_if("log.cost IS NULL"),
        "estimated_calls": _one_if(f"log.usage_source IN {_texts(ESTIMATED)}"),
        "cache_hits": _one_if(f"log.usage_source = '{CACHED}'"),
        **{bucket: f"log.{bucket}" for bucket in BUCKETS},
        "latency_ms_sum": f"CASE WHEN log.status = '{TIMED}' THEN log.latency_ms ELSE 0 END",
        **{name: _one_if(f"log.status = '{TIMED}' AND {bounds}") for name, bounds in _latency_buckets()},
    }
    return (
        f"SELECT {_dimensions('log', 'log.started_at')}, {sliced_at} AS sliced_at, "
        f"log.started_at AS last_call_at, "
        f"{', '.join(f'{figures[name]} AS {name}' for name in SUMS)} FROM {source} AS log WHERE {condition}"
    )


def _adjustments(condition: str) -> str:
    figures = {name: f"adjustment.{name}" for name in ("cost", "charge", "unpriced_calls")}
    return (
        f"SELECT {_dimensions('adjustment', 'adjustment.booked_at')}, {_no_instant()} AS sliced_at, "
        f"{_no_instant()} AS last_call_at, "
        f"{', '.join(f'{figures.get(name, 0)} AS {name}' for name in SUMS)} "
        f"FROM billing_adjustment AS adjustment WHERE {IS_OF_A_CALL} AND {condition}"
    )


def _dimensions(row: str, at: str) -> str:
    """Return the dimensions of a log or an adjustment, and its tags."""
    columns = {
        "day": day_of(at),
        "key_id": f"COALESCE({row}.key_id, {uuid_of(MASTER_KEY.hex)})",
        "model": f"{row}.model",
        "deployment_id": f"COALESCE({row}.deployment_id, {NO_DEPLOYMENT})",
        **{name: f"COALESCE({row}.{name}, '')" for name in ("team_id", "customer_id", "user_id")},
        **{name: f"{row}.{name}" for name in ("provider", "upstream_model", "dialect", "client_tool")},
    }
    return ", ".join([*(f"{columns[name]} AS {name}" for name in _KEYS), f"{row}.tags AS tags"])


def _latency_buckets() -> Iterator[tuple[str, str]]:
    """Return each bucket's column and the condition for a log to be in it."""
    lower = None
    for name, upper in zip(LATENCY_BUCKETS, [*LATENCY_BOUNDS_MS, None], strict=True):
        bounds = [] if lower is None else [f"log.latency_ms > {lower}"]
        bounds += [] if upper is None else [f"log.latency_ms <= {upper}"]
        yield name, " AND ".join(bounds)
        lower = upper


def _one_if(condition: str) -> str:
    return f"CASE WHEN {condition} THEN 1 ELSE 0 END"


def _texts(values: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


# -- by holder, and in periods -----------------------------------------------------------


def by_holder(source: str, columns: str, *, with_period_in: str = "") -> str:
    """Return a query for `columns` of a table of sums, for each holder that they count for.

    The inverse of `holders`, of sums instead of one call. with_period_in: a table; those without a
    period in it are left out.
    """
    nobody = uuid_of(MASTER_KEY.hex)
    key = f"CASE WHEN key_id = {nobody} THEN '{MASTER_KEY_ID}' ELSE {written_key('key_id')} END"
    named = {
        HolderType.GATEWAY: (f"'{GATEWAY_ID}'", ""),
        HolderType.KEY: (key, ""),
        HolderType.TEAM: ("team_id", "team_id <> ''"),
        HolderType.TEAM_MEMBER: (f"team_id || {newline()} || user_id", "team_id <> '' AND user_id <> ''"),
        HolderType.USER: ("user_id", "user_id <> ''"),
        HolderType.CUSTOMER: ("customer_id", "customer_id <> ''"),
        HolderType.TAG: ("each.value", ""),
    }
    branches = []
    for kind, (holder, condition) in named.items():
        table = f"{source} AS sums {each('sums.tags')}" if kind == HolderType.TAG else f"{source} AS sums"
        conditions = [condition] if condition else []
        if with_period_in:
            conditions.append(
                f"{holder} IN (SELECT period.holder_id FROM {with_period_in} AS period "
                f"WHERE period.holder_type = '{kind.value}')"
            )
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        branches.append(
            f"SELECT '{kind.value}' AS holder_type, {holder} AS holder_id, {columns} FROM {table}{where}"
        )
    return " UNION ALL ".join(branches)


def total_figures() -> str:
    """Return the columns of a table of sums that totals have, in the order of `TOTAL_SUMS`."""
    tokens = f"{_PROMPT} AS prompt_tokens, {_COMPLETION} AS completion_tokens"
    return f"cost, charge, calls, failed_calls, unpriced_calls, {tokens}"


def in_periods(source: str, periods: str = "billing_budgetperiod") -> str:
    """Return a query for (id, spent_cost, spent_charge): what each period has of a table of sums.

    periods: a table with a period's id, holder, scope and bounds.
    """
    spent = by_holder(source, "model, sliced_at, cost, charge", with_period_in=periods)
    grouped = "holder_type, holder_id, model, sliced_at"
    return (
        "SELECT period.id AS id, CAST(SUM(spent.cost) AS bigint) AS spent_cost, "
        "CAST(SUM(spent.charge) AS bigint) AS spent_charge "
        f"FROM (SELECT {grouped}, SUM(cost) AS cost, SUM(charge) AS charge FROM ({spent}) AS spent "
        f"WHERE sliced_at IS NOT NULL GROUP BY {grouped}) AS spent "
        f"JOIN {periods} AS period "
        "ON period.holder_type = spent.holder_type AND period.holder_id = spent.holder_id "
        "AND (period.scope = '' OR period.scope = spent.model) AND period.counts_from <= spent.sliced_at "
        "AND (period.ends_at IS NULL OR period.ends_at > spent.sliced_at) GROUP BY period.id"
    )


# -- expressions that databases spell differently --------------------------------------


def day_of(at: str) -> str:
    zone = settings.REPORTING_TIME_ZONE  # `billing.E001`: it is one
    if is_postgresql():
        return f"CAST({at} AT TIME ZONE '{zone}' AS date)"
    return f"django_datetime_cast_date({at}, '{zone}', 'UTC')"


def month_of(day: str) -> str:
    """Return the first day of a day's month."""
    if is_postgresql():
        return f"CAST(date_trunc('month', {day}) AS date)"
    return f"substr({day}, 1, 7) || '-01'"


def _no_instant() -> str:
    return "CAST(NULL AS timestamptz)" if is_postgresql() else "NULL"


def instant_of(at: datetime) -> str:
    """Return an instant as a literal. Logs and adjustments have theirs with six digits."""
    return f"'{timestamp(microseconds(at))}{'+00' if is_postgresql() else ''}'"


def boundary_of(at: datetime) -> str:
    """Return an instant of a whole second as a literal, to compare with the bounds of periods.

    SQLite compares texts, and there those have no fraction where it is 0.
    """
    return f"'{instant(at)}{'+00' if is_postgresql() else ''}'"


def uuid_of(digits: str) -> str:
    return f"CAST('{digits}' AS uuid)" if is_postgresql() else f"'{digits}'"


def newline() -> str:
    return "chr(10)" if is_postgresql() else "char(10)"


def latest() -> str:
    """Return the name of the function that returns the greatest of its arguments."""
    return "GREATEST" if is_postgresql() else "MAX"


def digest(text: str, digits: int) -> str:
    if is_postgresql():
        return f"substr(encode(sha256(convert_to({text}, 'UTF8')), 'hex'), 1, {digits})"
    return f"substr(SHA256({text}), 1, {digits})"  # Django adds the function to SQLite


def tag_set_id(tags: str) -> str:
    """Return `rollups.tag_set_id` of a column with tags."""
    if is_postgresql():
        joined = (
            "(SELECT string_agg(each.value, chr(31) ORDER BY each.at) "
            f"FROM jsonb_array_elements_text({tags}) WITH ORDINALITY AS each(value, at))"
        )
        set_id = f"CAST({digest(joined, 32)} AS uuid)"
        return f"CASE WHEN {tags} = '[]' THEN {uuid_of(NO_TAGS.hex)} ELSE {set_id} END"
    joined = f"(SELECT group_concat(value, char(31)) FROM json_each({tags}))"
    return f"CASE WHEN json_array_length({tags}) = 0 THEN '{NO_TAGS.hex}' ELSE {digest(joined, 32)} END"


def each(column: str) -> str:
    """Return what joins a table with the texts of a JSON list in one of its columns, as `each.value`."""
    if is_postgresql():
        return f"CROSS JOIN LATERAL jsonb_array_elements_text(CAST({column} AS jsonb)) AS each(value)"
    return f"CROSS JOIN json_each({column}) AS each"


def written_key(column: str) -> str:
    """Return a key's id as totals name its holder."""
    if is_postgresql():
        return f"CAST({column} AS text)"
    cuts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    return " || '-' || ".join(f"substr({column}, {start}, {length})" for start, length in cuts)
