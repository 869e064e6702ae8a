"""
Which calls the API lists: filters, sorts and pages of the spend log. No HTTP, no JSON.

The log may have any number of rows, so nothing here reads all of them. Dates bound the
primary key. A filter that no index serves, and a sort by anything but time, looks at the
newest calls that all other filters leave, `LOOKED_AT`, and says from when on it looked.
"""

import uuid
import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Coalesce, NullIf

from billing.booking.rollups import CACHED, FAILED
from billing.models import SpendLog
from billing.models.spend_total import MASTER_KEY_ID
from billing.usage import TOKEN_BUCKETS
from customers.api import Reach
from customers.api.errors import BadRequest
from customers.keys import hash_secret
from customers.models import VirtualKey

MASTER_KEY_NAME = "litellm_proxy_master_key"  # what LiteLLM's log has for calls with the master key
CAP = 10_000  # calls of one answer, and of all pages of a list together
# Calls side by side share pages of the disk; those of one customer or user lie on a page each.
LOOKED_AT, LOOKED_AT_SCATTERED = 50_000, 20_000

_LARGEST_STATUS = 32_767
# Gateways have no calls outside of these; sums of dates stay within what Python knows.
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


# -- dates ---------------------------------------------------------------------------


class Range(NamedTuple):
    """[start, end) in time. None: not bounded there."""

    start: datetime | None
    end: datetime | None


def day_of(text: str, param: str) -> date:
    """Return the day that `text` names. Raises: BadRequest."""
    try:
        day = datetime.strptime(text.strip(), "%Y-%m-%d").date()  # noqa: DTZ007  a day has no zone
    except ValueError:
        raise BadRequest(f"Write {param} as YYYY-MM-DD, for example 2026-02-03.", param=param) from None
    return min(max(day, _FIRST.date()), _LAST.date())


def days_range(start: date | None, end: date | None) -> Range:
    """Return the instants of days of the reporting time zone, the end day included."""
    if start is not None and end is not None and start > end:
        raise _swapped()
    return Range(
        None if start is None else _midnight(start),
        None if end is None else _midnight(end + timedelta(days=1)),
    )


def moments_range(start: str, end: str) -> Range:
    """Return the instants from `start` to `end`, both included: seconds in UTC, or days.

    Raises: BadRequest.
    """
    starts_at, ends_at = _moment(start, "start_date"), _moment(end, "end_date")
    if not isinstance(starts_at, datetime):
        starts_at = _midnight(starts_at)
    if isinstance(ends_at, datetime):
        ends_at += timedelta(milliseconds=1) if ends_at.microsecond else timedelta(seconds=1)
    else:
        ends_at = _midnight(ends_at + timedelta(days=1))
    if starts_at >= ends_at:
        raise _swapped()
    return Range(starts_at, ends_at)


def _swapped() -> BadRequest:
    return BadRequest("start_date is after end_date: swap them.", param="start_date")


def _moment(text: str, param: str) -> datetime | date:
    """Return an instant, or the day that `text` is."""
    text = text.strip()
    if len(text) <= len("2026-02-03"):
        return day_of(text, param)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(
            f"Write {param} as YYYY-MM-DD HH:MM:SS, for example 2026-02-03 09:00:00, in UTC.", param=param
        ) from None
    if not _FIRST.year <= at.year < _LAST.year:
        return _FIRST if at.year < _FIRST.year else _LAST
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _midnight(day: date) -> datetime:
    zone = zoneinfo.ZoneInfo(settings.REPORTING_TIME_ZONE)
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)


# -- which calls -----------------------------------------------------------------------


def within(reach: Reach) -> Q:
    """Return the condition on calls, or on their sums: those that a caller may see."""
    if reach.is_all:
        return Q()
    own = Q(user_id=reach.user_id) if reach.user_id else Q(key_id=reach.key_id)
    return own | Q(team_id__in=reach.team_ids) if reach.team_ids else own


class Found(NamedTuple):
    """Calls, and since when they were looked for; None: all of them."""

    logs: QuerySet[SpendLog]
    since: datetime | None


def find_logs(given: Mapping[str, Any], *, reach: Reach, between: Range, sort_by: str = "startTime") -> Found:
    """Return the calls that fit every filter of `given`, named as in `LogPageQuery`.

    Queries: one each for api_key and key_alias; one more where the log is not looked at from its beginning.
    """
    logs = SpendLog.objects.started_between(between.start, between.end)
    conditions, others = _indexed_conditions(given), _other_conditions(given)
    if not reach.is_all:
        conditions.append(within(reach))
    for condition in conditions:
        logs = logs.filter(condition)
    if given.get("tag"):
        logs = logs.with_tag(given["tag"])
    if not others and sort_by == "startTime":
        return Found(logs, None)
    looked_at = LOOKED_AT_SCATTERED if conditions or given.get("tag") else LOOKED_AT
    since = logs.order_by("-pk").values_list("pk", flat=True)[looked_at : looked_at + 1].first()
    if since is not None:
        logs = logs.filter(pk__gt=since)
    return Found(logs.filter(*others), None if since is None else _instant_of(since))


def _indexed_conditions(given: Mapping[str, Any]) -> list[Q]:
    conditions = []
    if given.get("api_key"):
        conditions.append(key_condition(given["api_key"]))
    if given.get("key_alias"):
        named = VirtualKey.objects.filter(alias__icontains=given["key_alias"])
        conditions.append(Q(key_id__in=list(named.values_list("pk", flat=True))))
    for name, column in (
        ("user_id", "user_id"), ("end_user", "customer_id"), ("team_id", "team_id"), ("model_group", "model"),
    ):  # fmt: skip
        if given.get(name):
            conditions.append(Q(**{column: given[name]}))
    if given.get("session_id"):
        conditions.append(Q(session_id=given["session_id"], session_id__gt=""))
    if given.get("request_id"):
        conditions.append(_request_condition(given["request_id"]))
    if _status(given) == "failure":
        conditions.append(~Q(status="success") & Q(status__in=FAILED))
    if code := given.get("error_code"):
        is_status = code.isascii() and code.isdigit() and int(code) <= _LARGEST_STATUS
        conditions.append(
            ~Q(status="success") & (Q(http_status=int(code)) if is_status else Q(error_type=code))
        )
    if given.get("error_message"):
        conditions.append(~Q(status="success") & Q(error_message__icontains=given["error_message"]))
    return conditions


def _other_conditions(given: Mapping[str, Any]) -> list[Q]:
    """Return the conditions that no index serves."""
    conditions = []
    if given.get("model"):
        conditions.append(model_condition(given["model"]))
    if number := given.get("model_id"):
        is_number = number.isascii() and number.isdigit() and len(number) < 19
        conditions.append(Q(deployment_id=int(number)) if is_number else Q(pk__in=[]))
    if given.get("min_spend") is not None:
        conditions.append(Q(cost__gte=given["min_spend"]))
    if given.get("max_spend") is not None:
        conditions.append(Q(cost__lte=given["max_spend"]))
    if hit := given.get("cache_hit_filter"):
        is_hit = Q(usage_source=CACHED)
        conditions.append(is_hit if hit.lower() in ("true", "hit") else ~is_hit)
    if _status(given) == "success":
        conditions.append(~Q(status__in=FAILED))
    return conditions


def _status(given: Mapping[str, Any]) -> str:
    return given.get("status") or given.get("status_filter") or ""


def model_condition(model: str) -> Q:
    """Return the condition on calls, or on their sums: the model by either of its names."""
    return Q(model=model) | Q(upstream_model=model)


def key_condition(text: str) -> Q:
    """Return the condition on calls that were made with a key, given as its secret or its hash. One query."""
    return Q(key_id__in=ids) if (ids := key_ids(text)) is not None else Q(key_id=None)


def key_ids(text: str) -> list[uuid.UUID] | None:
    """Return the ids of the key with this secret or hash; None: the master key. One query."""
    token_hash = hash_secret(text) if text.startswith("sk-") else text.lower()
    if text == MASTER_KEY_NAME or token_hash == hash_secret(settings.MASTER_KEY):
        return None
    keys = VirtualKey.objects.filter(Q(token_hash=token_hash) | Q(previous_token_hash=token_hash))
    ids = list(keys.values_list("pk", flat=True))
    # A key that was purged has no hash any more: its calls go by its id.
    return ids if ids or (id_ := _uuid_of(text)) is None else [id_]


def keys_named(text: str | None) -> list[str] | None:
    """Return a report's filter for a key by its secret or hash. One query at most."""
    if not text:
        return None
    ids = key_ids(text)
    return [MASTER_KEY_ID] if ids is None else [str(id_) for id_ in ids]


def _request_condition(text: str) -> Q:
    id_ = _uuid_of(text)
    named = Q(response_id=text, response_id__gt="") | Q(client_call_id=text, client_call_id__gt="")
    return named if id_ is None else named | Q(pk=id_)


def _uuid_of(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _instant_of(id_: uuid.UUID) -> datetime:
    """Return when the call with this UUIDv7 started."""
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)


# -- pages -----------------------------------------------------------------------------


class LogPage(NamedTuple):
    """One page. total: of all pages, at most `CAP`; is_capped: there may be more calls than that."""

    logs: Sequence[SpendLog]
    total: int
    is_capped: bool


def read_page(found: Found, *, sort_by: str, descending: bool, number: int, size: int) -> LogPage:
    """Return the page `number` (from 1) of `size` calls, without their bodies. At most three queries."""
    counted = found.logs.order_by().values("pk")[: CAP + 1].count()
    total, start = min(counted, CAP), (number - 1) * size
    is_capped = counted > CAP or found.since is not None
    if start >= total:
        return LogPage([], total, is_capped)
    ordered = found.logs.order_by(*_order(sort_by, descending=descending))
    ids = list(ordered.values_list("pk", flat=True)[start : min(start + size, total)])
    # Optimization: sorting carries ids, not the fifty columns of each call.
    by_id = SpendLog.objects.defer("request_body", "response_body").in_bulk(ids)
    return LogPage([by_id[id_] for id_ in ids if id_ in by_id], total, is_capped)


def _order(sort_by: str, *, descending: bool) -> list[Any]:
    """Return the ORDER BY: down to the id, and what is not known at the end. An unpriced call counts as 0."""
    tie = "-pk" if descending else "pk"
    if sort_by == "startTime":
        return [tie]  # ids are in the order of time
    by = _SORTED_BY[sort_by]
    is_spend = sort_by == "spend"
    if descending:
        return [by.desc(nulls_last=True), tie]
    return [by.asc(nulls_first=True) if is_spend else by.asc(nulls_last=True), tie]


_SORTED_BY: dict[str, Any] = {
    "endTime": F("ended_at"),
    "spend": F("cost"),
    "total_tokens": reduce(add, map(F, TOKEN_BUCKETS)),
    "request_duration_ms": F("latency_ms"),
    "model": Coalesce(NullIf(F("upstream_model"), Value("")), F("model")),
    "ttft_ms": F("first_token_ms"),
}
