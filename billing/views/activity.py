"""
Daily activity of users, teams, tags and customers (contract 6.6).

Pages are pages of days, newest first, and `metadata` adds up the whole range (decision
11). A call with several tags counts under each, in the days as in the totals of the tag
routes; `metadata.deduplicated` has each call once (decision 26). Customers are told the
charge, all else the cost.

Of entities a day lists those that were asked for, else the hundred that spent most on the
page's days, and the calls without any under the empty name; `other_entities` is the rest.
Of keys it lists the hundred that spent most, and under each name the first ten of them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec
from django.conf import settings
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from billing.reporting.log_reading import keys_named
from billing.reporting.reports import (
    Dimension,
    Filters,
    Group,
    Tally,
    by_day_and_number_of_tags,
    grouped,
    one_instant,
    ranked,
    tally,
    with_callers_names,
)
from billing.views.ranges import KeyNames, days_of, key_names, names_of
from billing.views.spend import nano_of, sum_of, usd
from customers.api import Action, Envelope, ManagementView
from customers.api.access import Reach
from customers.api.errors import NotFound
from customers.api.schema import described
from customers.models import Customer, Team, User
from customers.serializers import spend as shapes

_Name = TypeVar("_Name")

MOST_ENTITIES = 100
MOST_KEYS, MOST_KEYS_OF_ONE = 100, 10  # of a day, and of one name of a day
MOST_DAYS_AT_ONCE = 366  # of /aggregated, which has no pages
ENDPOINTS = {
    "openai_chat": "/v1/chat/completions",
    "openai_completions": "/v1/completions",
    "openai_embeddings": "/v1/embeddings",
    "openai_responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
}


class Metrics(msgspec.Struct):
    """The sums of some calls, as they are told. A struct, because an answer has thousands of them."""

    spend: msgspec.Raw
    prompt_tokens: int
    completion_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    total_tokens: int
    successful_requests: int
    failed_requests: int
    api_requests: int
    unpriced_requests: int
    estimated_requests: int
    cache_hits: int


class Entity(NamedTuple):
    """What a route's activity is about."""

    name: str
    dimension: Dimension
    filter: str  # the field of `Filters`, named after it
    named: str  # the query's field
    excluded: str | None
    is_charged: bool
    described: Callable[[Collection[str]], dict[str, dict[str, Any]]]  # ids → metadata by id

    @property
    def is_tag(self) -> bool:
        return self.dimension == "tag"


def _teams(ids: Collection[str]) -> dict[str, dict[str, Any]]:
    rows = Team.objects.filter(pk__in=ids).values_list("pk", "alias")
    return {pk: {"alias": alias or None, "team_alias": alias or None} for pk, alias in rows}


def _users(ids: Collection[str]) -> dict[str, dict[str, Any]]:
    rows = User.objects.filter(pk__in=ids).values_list("pk", "alias", "email")
    return {pk: {"alias": alias or None, "user_email": email or None} for pk, alias, email in rows}


def _customers(ids: Collection[str]) -> dict[str, dict[str, Any]]:
    rows = Customer.objects.filter(pk__in=ids).values_list("pk", "alias")
    return {pk: {"alias": alias or None} for pk, alias in rows}


USER = Entity("user", "user", "users", "user_id", None, False, _users)
TEAM = Entity("team", "team", "teams", "team_ids", "exclude_team_ids", False, _teams)
TAG = Entity("tag", "tag", "tags", "tags", None, False, lambda ids: {})
CUSTOMER = Entity(
    "customer", "customer", "customers", "end_user_ids", "exclude_end_user_ids", True, _customers
)


# -- what is asked for ----------------------------------------------------------------------


def filters_of(
    entity: Entity, given: Mapping[str, Any], reach: Reach, *, longest: int | None = None
) -> Filters:
    """Return what a request asks for, narrowed down to what the caller may see.

    Raises: BadRequest, NotFound.
    """
    names = names_of(given.get(entity.named))
    wanted: dict[str, Any] = {
        **days_of(given, longest=longest),
        "keys": keys_named(given.get("api_key")),
        "either_models": [given["model"]] if given.get("model") else None,
    }
    if entity.excluded and (without := names_of(given.get(entity.excluded))):
        wanted[f"without_{entity.filter}"] = without
    if entity is USER:
        names = [given["user_id"]] if given.get("user_id") else None  # an id may have commas
        if names and not reach.has_user(names[0]):
            raise NotFound("There is no such user.", param="user_id")
    if entity is TEAM and reach.team_ids:
        if not all(map(reach.has_team, names or ())):
            raise NotFound("One of these teams is not there.", param="team_ids")
        names = names or sorted(reach.team_ids)
    if names:
        wanted[entity.filter] = names
    if not reach.is_all and not (entity is TEAM and reach.team_ids):
        wanted |= _own(reach, wanted["keys"])
    return Filters(**wanted)


def _own(reach: Reach, keys: list[str] | None) -> dict[str, Any]:
    """Return what narrows a report down to the caller's own calls."""
    if reach.user_id:
        return {"users": [reach.user_id]}
    own = str(reach.key_id)
    return {"keys": [own] if keys is None or own in keys else []}


# -- the answer -------------------------------------------------------------------------------


def activity(entity: Entity, filters: Filters, *, number: int, size: int | None) -> dict[str, Any]:
    """Return one page of `size` days, or all of them. A fixed number of queries."""
    with one_instant():
        filters = with_callers_names(filters)
        by_day, beside = (_tags_by_day if entity.is_tag else _by_day)(entity, filters)
        days = sorted(by_day, reverse=True)
        pages = -(-len(days) // size) if size else 1
        shown = days[(number - 1) * size : number * size] if size else days
        results = _days(entity, filters, shown, by_day) if shown else []
        return {
            "results": results,
            "metadata": {
                **_totals(sum_of(by_day.values()), entity),
                "page": number,
                "total_pages": pages,
                "has_more": number < pages,
                **{name: metrics_of(sums, entity) for name, sums in beside.items()},
                "time_zone": settings.REPORTING_TIME_ZONE,
            },
        }


# The sums of each day; and what these do not tell, by its name in `metadata`.
_ByDay = tuple[dict[date, Tally], dict[str, Tally]]


def _by_day(entity: Entity, filters: Filters) -> _ByDay:
    by_day = {group.names[0]: group.tally for group in grouped(filters, ("day",))}
    without = Tally()
    if getattr(filters, entity.filter) is None:
        without = tally(msgspec.structs.replace(filters, **{entity.filter: [""]}))
    return by_day, {"unattributed": without}


def _tags_by_day(entity: Entity, filters: Filters) -> _ByDay:
    """A call counts under each of its tags; `deduplicated` has each call with any once."""
    by_day: dict[date, Tally] = {}
    once, without = Tally(), Tally()
    for (day, number), sums in by_day_and_number_of_tags(filters):
        if number:
            by_day[day] = by_day.get(day, Tally()).plus(sums.times(number))
        if number or filters.tags is not None:
            once = once.plus(sums)
        else:
            without = without.plus(sums)
    return by_day, {"unattributed": without, "deduplicated": once}


_KINDS: tuple[Dimension, ...] = ("day", "model", "upstream_model", "provider", "dialect")


def _days(
    entity: Entity, filters: Filters, shown: list[date], by_day: Mapping[date, Tally]
) -> list[dict[str, Any]]:
    part = msgspec.structs.replace(filters, start=min(shown), end=max(shown))
    names = getattr(part, entity.filter)
    only = names[0] if names is not None and len(names) == 1 else None
    per_tag = entity.is_tag and only is None  # optimization: of one tag each call counts once
    by_kind = _of_days(grouped(part, _KINDS, per_tag=per_tag))
    by_key = grouped(part, ("day", "key"), per_tag=per_tag)
    top_keys = _most_spent(entity, by_key)
    by_key = [group for group in by_key if group.names[1] in top_keys[:MOST_KEYS]]
    of_top_keys = msgspec.structs.replace(part, keys=top_keys[:MOST_KEYS_OF_ONE])
    by_kind_and_key = _of_days(grouped(of_top_keys, (*_KINDS, "key"), per_tag=per_tag))
    if only is None:
        entities = _listed_entities(entity, part)
        by_entity = grouped(entities, ("day", entity.dimension))
        of_top_keys = msgspec.structs.replace(entities, keys=top_keys[:MOST_KEYS_OF_ONE])
        by_entity_and_key = grouped(of_top_keys, ("day", entity.dimension, "key"))
    else:  # optimization: all calls are this one's
        by_entity = [Group((day, only), by_day[day]) for day in shown]
        by_entity_and_key = [
            Group((day, only, key), sums) for (day, key), sums in by_key if key in top_keys[:MOST_KEYS_OF_ONE]
        ]
    shower = _Shower(
        entity,
        key_names(top_keys[:MOST_KEYS]),
        entity.described({group.names[1] for group in by_entity}),
    )
    keys_of, entities_of, keys_of_entities = map(_of_days, (by_key, by_entity, by_entity_and_key))
    return [
        {
            "date": day.isoformat(),
            "metrics": metrics_of(by_day[day], entity),
            "breakdown": {
                "mcp_servers": {},
                **shower.kinds(by_kind.get(day, []), by_kind_and_key.get(day, [])),
                **shower.keys(keys_of.get(day, []), of=by_day[day]),
                **shower.entities(entities_of.get(day, []), keys_of_entities.get(day, []), of=by_day[day]),
            },
        }
        for day in shown
    ]


def _most_spent(entity: Entity, by_key: Iterable[Group]) -> list[str]:
    """Return the keys of all days, those that spent most first."""
    spent: dict[str, int] = {}
    for group in by_key:
        key = group.names[1]
        spent[key] = spent.get(key, 0) + nano_of(group.tally, is_charged=entity.is_charged)
    return sorted(spent, key=lambda key: (-spent[key], key))


def _listed_entities(entity: Entity, part: Filters) -> Filters:
    """Return the filters narrowed down to those entities that are listed. One query at most."""
    names = getattr(part, entity.filter)
    if names is None:
        order = "charge" if entity.is_charged else "cost"
        top = ranked(part, entity.dimension, order=order, limit=MOST_ENTITIES).names
        names = top if entity.is_tag else [*top, ""]
    return msgspec.structs.replace(part, **{entity.filter: names})


def _of_days(groups: Iterable[Group]) -> dict[date, list[Group]]:
    found: dict[date, list[Group]] = {}
    for group in groups:
        found.setdefault(group.names[0], []).append(group)
    return found


class _Shower:
    """Writes breakdowns."""

    def __init__(
        self, entity: Entity, keys: Mapping[str, KeyNames], described: Mapping[str, dict[str, Any]]
    ) -> None:
        self._entity = entity
        self._described = described
        self._hashes = {id_: key.hash for id_, key in keys.items()}
        self._keys = {
            id_: {"key_alias": key.alias, "team_id": key.team_id, "user_id": key.user_id}
            for id_, key in keys.items()
        }

    def kinds(self, groups: Iterable[Group], by_key: Sequence[Group]) -> dict[str, Any]:
        """Return one day's sums by each kind of thing that was called."""
        told = {}
        for kind, name_of in _NAME_OF_KIND.items():
            sums = _added((name_of(group.names), group.tally) for group in groups)
            of_keys = _added(((name_of(group.names), group.names[-1]), group.tally) for group in by_key)
            told[kind] = self._told(sums, of_keys, lambda name: {})
        return told

    def keys(self, groups: Sequence[Group], *, of: Tally) -> dict[str, Any]:
        rest = of.less(sum_of(group.tally for group in groups))
        return {
            "api_keys": self._by_key({group.names[1]: group.tally for group in groups}),
            "other_api_keys": {"metrics": metrics_of(rest, self._entity)},
        }

    def entities(self, groups: Sequence[Group], by_key: Sequence[Group], *, of: Tally) -> dict[str, Any]:
        sums = {group.names[1]: group.tally for group in groups}
        of_keys = {(group.names[1], group.names[2]): group.tally for group in by_key}
        rest = of.less(sum_of(sums.values()))
        nameless: dict[str, Any] = {} if self._entity.is_tag else {"alias": None}
        return {
            "entities": self._told(sums, of_keys, lambda name: self._described.get(name, nameless)),
            "other_entities": {"metrics": metrics_of(rest, self._entity)},
        }

    def _told(
        self,
        sums: Mapping[str, Tally],
        of_keys: Mapping[tuple[str, str], Tally],
        metadata: Callable[[str], dict[str, Any]],
    ) -> dict[str, dict[str, Any]]:
        by_name: dict[str, dict[str, Tally]] = {}
        for (name, key), each in of_keys.items():
            by_name.setdefault(name, {})[key] = each
        return {
            name: {
                "metrics": metrics_of(tally, self._entity),
                "metadata": metadata(name),
                "api_key_breakdown": self._by_key(by_name.get(name, {})),
            }
            for name, tally in sums.items()
        }

    def _by_key(self, by_key: Mapping[str, Tally]) -> dict[str, dict[str, Any]]:
        return {
            self._hashes[key]: {"metrics": metrics_of(tally, self._entity), "metadata": self._keys[key]}
            for key, tally in by_key.items()
        }


# What a breakdown is by → the name in a group of `_KINDS`. LiteLLM's model is the upstream's.
_NAME_OF_KIND: dict[str, Callable[[tuple[str, ...]], str]] = {
    "models": lambda names: names[2] or names[1],
    "model_groups": lambda names: names[1],
    "providers": lambda names: names[3],
    "endpoints": lambda names: ENDPOINTS.get(names[4], names[4]),
}


def _added(tallies: Iterable[tuple[_Name, Tally]]) -> dict[_Name, Tally]:
    found: dict[_Name, Tally] = {}
    for name, each in tallies:
        found[name] = found[name].plus(each) if name in found else each
    return found


def metrics_of(tally: Tally, entity: Entity) -> Metrics:
    return Metrics(
        usd(nano_of(tally, is_charged=entity.is_charged)),
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.cache_read,
        tally.cache_write,
        tally.prompt_tokens + tally.completion_tokens,
        tally.calls - tally.failed_calls,
        tally.failed_calls,
        tally.calls,
        tally.unpriced_calls,
        tally.estimated_calls,
        tally.cache_hits,
    )


_IN_METADATA = (
    "spend", "prompt_tokens", "completion_tokens", "total_tokens", "api_requests", "successful_requests",
    "failed_requests", "cache_read_input_tokens", "cache_creation_input_tokens", "unpriced_requests",
    "estimated_requests", "cache_hits",
)  # fmt: skip


def _totals(total: Tally, entity: Entity) -> dict[str, Any]:
    metrics = metrics_of(total, entity)
    # LiteLLM names them so: total_spend, but total_tokens.
    return {f"total_{name.removeprefix('total_')}": getattr(metrics, name) for name in _IN_METADATA}


# -- routes -------------------------------------------------------------------------------------

_METRICS = {
    "spend": 0.42, "prompt_tokens": 20000, "completion_tokens": 1000, "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0, "total_tokens": 21000, "successful_requests": 12,
    "failed_requests": 1, "api_requests": 13, "unpriced_requests": 0, "estimated_requests": 0,
    "cache_hits": 0,
}  # fmt: skip
_BY_KEY = {"88dc…": {"metrics": _METRICS, "metadata": {"key_alias": "acme-prod", "team_id": "t-sales"}}}
_PART = {"metrics": _METRICS, "metadata": {}, "api_key_breakdown": _BY_KEY}
EXAMPLE = {
    "results": [
        {
            "date": "2026-02-03",
            "metrics": _METRICS,
            "breakdown": {
                "mcp_servers": {},
                "models": {"gpt-4o-mini": _PART},
                "model_groups": {"gpt-4o-mini": _PART},
                "providers": {"openai": _PART},
                "endpoints": {"/v1/chat/completions": _PART},
                "api_keys": _BY_KEY,
                "other_api_keys": {"metrics": _METRICS},
                "entities": {"acme-042": {**_PART, "metadata": {"alias": "Acme Ltd"}}},
                "other_entities": {"metrics": _METRICS},
            },
        }
    ],
    "metadata": {
        "total_spend": 0.42, "total_prompt_tokens": 20000, "total_completion_tokens": 1000,
        "total_tokens": 21000, "total_api_requests": 13, "total_successful_requests": 12,
        "total_failed_requests": 1, "total_cache_read_input_tokens": 0,
        "total_cache_creation_input_tokens": 0, "page": 1, "total_pages": 1, "has_more": False,
        "unattributed": _METRICS, "time_zone": "UTC",
    },
}  # fmt: skip


class ActivityView(ManagementView):
    """What all routes of daily activity share."""

    envelope = Envelope.DETAIL
    entity: ClassVar[Entity]

    def page(self, shape: type[Serializer]) -> Response:
        given = self.query(shape)
        filters = filters_of(self.entity, given, self.reach)
        return _encoded(activity(self.entity, filters, number=given["page"], size=given["page_size"]))

    def aggregated(self, shape: type[Serializer]) -> Response:
        filters = filters_of(self.entity, self.query(shape), self.reach, longest=MOST_DAYS_AT_ONCE)
        return _encoded(activity(self.entity, filters, number=1, size=None))


def _encoded(answer: dict[str, Any]) -> Response:
    """Optimization: there is no Decimal in it for the renderer to look for."""
    return Response(msgspec.Raw(msgspec.json.encode(answer)))


class UserActivity(ActivityView):
    """Activity by day, by user. Users see their own."""

    actions = {"GET": Action.READ_SPEND}
    entity = USER

    @described(query=shapes.UserActivityQuery, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.page(shapes.UserActivityQuery)


class UserActivityAtOnce(UserActivity):
    """Activity by day, by user, without pages."""

    @described(query=shapes.UserActivityFilters, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.aggregated(shapes.UserActivityFilters)


class TeamActivity(ActivityView):
    """Activity by day, by team. Who administers teams sees those; everybody else their own calls."""

    actions = {"GET": Action.READ_SPEND}
    entity = TEAM

    @described(query=shapes.TeamActivityQuery, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.page(shapes.TeamActivityQuery)


class TeamActivityAtOnce(TeamActivity):
    """Activity by day, by team, without pages."""

    @described(query=shapes.TeamActivityFilters, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.aggregated(shapes.TeamActivityFilters)


class TagActivity(ActivityView):
    """Activity by day, by tag. A call counts under each of its tags; `deduplicated` has each once."""

    actions = {"GET": Action.READ_ALL_SPEND}
    entity = TAG

    @described(query=shapes.TagActivityQuery, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.page(shapes.TagActivityQuery)


class TagActivityAtOnce(TagActivity):
    """Activity by day, by tag, without pages."""

    @described(query=shapes.TagActivityFilters, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.aggregated(shapes.TagActivityFilters)


class CustomerActivity(ActivityView):
    """Activity by day, by customer. Spend is what they are charged."""

    actions = {"GET": Action.READ_ALL_SPEND}
    entity = CUSTOMER

    @described(query=shapes.CustomerActivityQuery, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.page(shapes.CustomerActivityQuery)


class CustomerActivityAtOnce(CustomerActivity):
    """Activity by day, by customer, without pages."""

    @described(query=shapes.CustomerActivityFilters, answer=EXAMPLE)
    def get(self, request: Request) -> Response:
        return self.aggregated(shapes.CustomerActivityFilters)


urlpatterns = [
    path("user/daily/activity", UserActivity.as_view()),
    path("user/daily/activity/aggregated", UserActivityAtOnce.as_view()),
    path("team/daily/activity", TeamActivity.as_view()),
    path("team/daily/activity/aggregated", TeamActivityAtOnce.as_view()),
    path("tag/daily/activity", TagActivity.as_view()),
    path("tag/daily/activity/aggregated", TagActivityAtOnce.as_view()),
    path("customer/daily/activity", CustomerActivity.as_view()),
    path("customer/daily/activity/aggregated", CustomerActivityAtOnce.as_view()),
    path("end_user/daily/activity", CustomerActivity.as_view()),
    path("end_user/daily/activity/aggregated", CustomerActivityAtOnce.as_view()),
]
