"""
Spend reports: /global/spend/report, and each caller's own (contract 6.1).

All filters hold in every form of the report (decision 9). Where a report names
customers it tells what they are charged, else what the provider bills.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.http.response import HttpResponseBase
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting.log_reading import key_ids, keys_named
from billing.reporting.reports import Dimension, Filters, Group, Tally, grouped, in_parts, most_spent
from billing.views.ranges import KeyNames, days_of, key_names
from billing.views.streaming import streamed
from customers.api import Action, Envelope, ManagementView
from customers.api.errors import BadRequest, NotFound
from customers.api.schema import described
from customers.models import Team, VirtualKey
from customers.money import NANO_PER_USD
from customers.serializers.spend import KeyReportQuery, ReportQuery, TeamReportQuery, UserReportQuery

_Name = TypeVar("_Name")

NO_TEAM = "Unassigned Team"
# Calls of the days that are held in memory at once: where each may have a line of its own, and elsewhere.
_CALLS_OF_MANY, _CALLS_OF_FEW = 20_000, 200_000
_CUSTOMERS_AT_ONCE = 500
_LONGEST = 366  # days of a caller's own report, as in LiteLLM

_DETAILS = {
    "model": "gpt-4o-mini", "api_key": "88dc…", "spend": Decimal("1.75"), "total_tokens": 90210,
    "requests": 12, "unpriced_requests": 0, "estimated_requests": 0,
}  # fmt: skip
_DAY_EXAMPLE = [
    {
        "group_by_day": "2026-02-03T00:00:00+00:00",
        "teams": [
            {
                "team_name": "Sales", "total_spend": Decimal("1.75"), "metadata": [_DETAILS],
                "team_id": "t-sales", "requests": 12, "unpriced_requests": 0, "estimated_requests": 0,
            }
        ],
    }
]  # fmt: skip
_KEYS_EXAMPLE = [
    {
        "api_key": "88dc…", "total_cost": Decimal("1.75"), "total_input_tokens": 80000,
        "total_output_tokens": 10210,
        "model_details": [
            {"model": "gpt-4o-mini", "total_cost": Decimal("1.75"), "total_input_tokens": 80000,
             "total_output_tokens": 10210, "requests": 12, "unpriced_requests": 0, "estimated_requests": 0}
        ],
        "key_alias": "acme-prod", "requests": 12, "unpriced_requests": 0, "estimated_requests": 0,
    }
]  # fmt: skip


class SpendReport(ManagementView):
    """Spend by day and team or customer, or by key. Long reports are sent as they are made."""

    actions = {"GET": Action.READ_ALL_SPEND}
    envelope = Envelope.DETAIL

    @described(query=ReportQuery, answer=_DAY_EXAMPLE)
    def get(self, request: Request) -> HttpResponseBase:
        given = self.query(ReportQuery)
        filters = _filters(given)
        if given.get("api_key") or given.get("internal_user_id") or given["group_by"] == "api_key":
            return Response(keys_report(filters))
        if given.get("team_id") and given.get("customer_id"):
            return _streamed(request, filters, TEAMS_CUSTOMERS)
        return _streamed(request, filters, CUSTOMERS if given["group_by"] == "customer" else TEAMS)


class KeySpendReport(ManagementView):
    """What one key spent: by default the one that asks."""

    actions = {"GET": Action.READ_SPEND}
    envelope = Envelope.DETAIL

    @described(query=KeyReportQuery, answer=_KEYS_EXAMPLE)
    def get(self, request: Request) -> Response:
        given = self.query(KeyReportQuery)
        days = days_of(given, longest=_LONGEST)
        named = given.get("api_key")
        return Response(keys_report(Filters(**days, keys=self._named(named) if named else [self._own()])))

    def _own(self) -> str:
        return MASTER_KEY_ID if self.caller.key is None else str(self.caller.key.pk)

    def _named(self, named: str) -> list[str]:
        """Return the key's id. Raises: NotFound, also for one that is out of reach."""
        ids = key_ids(named)
        if ids is None and self.reach.is_all:
            return [MASTER_KEY_ID]
        rows = VirtualKey.objects.filter(pk__in=ids or [])
        reached = [str(row.pk) for row in rows if self.reach.has_key(row)]
        if not reached and ids and self.reach.is_all:
            return [str(id_) for id_ in ids]  # a key that was purged
        if not reached:
            raise NotFound("There is no such key.", param="api_key")
        return reached


class UserSpendReport(ManagementView):
    """What one user's calls cost, key by key: by default the user whose key asks."""

    actions = {"GET": Action.READ_SPEND}
    envelope = Envelope.DETAIL

    @described(query=UserReportQuery, answer=_KEYS_EXAMPLE)
    def get(self, request: Request) -> Response:
        given = self.query(UserReportQuery)
        days = days_of(given, longest=_LONGEST)
        user_id = given.get("user_id") or (self.caller.key and self.caller.key.user_id)
        if not user_id:
            raise BadRequest("This key has no user: say user_id, or ask /key/spend/report.", param="user_id")
        if not self.reach.has_user(user_id):
            raise NotFound("There is no such user.", param="user_id")
        return Response(keys_report(Filters(**days, users=[user_id])))


class TeamSpendReport(ManagementView):
    """What teams spent by day: one, or all that the caller administers."""

    actions = {"GET": Action.READ_SPEND}
    envelope = Envelope.DETAIL

    @described(query=TeamReportQuery, answer=_DAY_EXAMPLE)
    def get(self, request: Request) -> HttpResponseBase:
        given = self.query(TeamReportQuery)
        days = days_of(given, longest=_LONGEST)
        return _streamed(request, Filters(**days, teams=self._teams(given.get("team_id"))), TEAMS)

    def _teams(self, named: str | None) -> list[str] | None:
        if named:
            if not self.reach.has_team(named):
                raise NotFound("There is no such team.", param="team_id")
            return [named]
        if self.reach.is_all:
            return None
        if not self.reach.team_ids:
            raise NotFound(
                "There is no team that you administer: /user/spend/report tells what is your own.",
                param="team_id",
            )
        return sorted(self.reach.team_ids)


def _filters(given: Mapping[str, Any]) -> Filters:
    def one(name: str) -> list[str] | None:
        return [given[name]] if given.get(name) else None

    return Filters(
        **days_of(given),
        keys=keys_named(given.get("api_key")),
        users=one("internal_user_id"),
        teams=one("team_id"),
        customers=one("customer_id"),
    )


# -- by day --------------------------------------------------------------------------------


class Details(msgspec.Struct):
    """What a day's team or customer spent with one key on one model."""

    model: str
    api_key: str
    spend: msgspec.Raw
    total_tokens: int
    requests: int
    unpriced_requests: int
    estimated_requests: int


class Form(NamedTuple):
    """A report by day: what each day lists, by what, and how one of it is told."""

    name: str
    dimensions: tuple[Dimension, ...]
    told: Callable[[tuple[str, ...], Mapping[str, str]], dict[str, Any]]  # (names, aliases of teams)


TEAMS = Form(
    "teams",
    ("team",),
    lambda names, teams: {"team_name": teams.get(names[0]) or NO_TEAM, "team_id": names[0] or None},
)
CUSTOMERS = Form("customers", ("customer",), lambda names, teams: {"customer": names[0]})
TEAMS_CUSTOMERS = Form(
    "teams_customers",
    ("team", "customer"),
    lambda names, teams: {**TEAMS.told(names[:1], teams), "customer": names[1]},
)


def _streamed(request: Request, filters: Filters, form: Form) -> HttpResponseBase:
    pieces = days_report(filters, form)
    return streamed(request, _as_json(pieces, form.name), content_type="application/json")


class Piece(NamedTuple):
    """Some of a day's teams or customers; the next piece may have more of the same day."""

    day: date
    rows: list[dict[str, Any]]


def _as_json(pieces: Iterable[Piece], name: str) -> Iterator[bytes]:
    """Write the pieces as one JSON array of days, a chunk a piece. They have no Decimals."""
    last: date | None = None
    for day, rows in pieces:
        before = b","
        if day != last:
            before = b"[" if last is None else b"]},"
            before += f'{{"group_by_day":"{_midnight(day)}","{name}":['.encode()
        yield before + b",".join(map(msgspec.json.encode, rows))
        last = day
    yield b"[]" if last is None else b"]}]"


def days_report(filters: Filters, form: Form) -> Iterator[Piece]:
    """Yield days with calls, in their order, a day of many customers in pieces: most spent first."""
    is_charged = filters.customers is not None or "customer" in form.dimensions
    teams = dict(Team.objects.values_list("pk", "alias")) if "team" in form.dimensions else {}
    width = 1 + len(form.dimensions)
    for part in _parts(filters, form):
        groups = grouped(part, ("day", *form.dimensions, "model", "upstream_model", "key"))
        keys = key_names({group.names[-1] for group in groups})
        days: dict[date, dict[tuple[str, ...], list[Group]]] = {}
        for group in groups:
            of_day = days.setdefault(group.names[0], {})
            of_day.setdefault(group.names[1:width], []).append(group)
        for day in sorted(days):
            yield Piece(day, _listed(days[day], form, teams, keys, is_charged=is_charged))


def _parts(filters: Filters, form: Form) -> Iterator[Filters]:
    """Yield the report cut into parts that are held in memory at once: days, or customers of one day."""
    if form is not CUSTOMERS:
        yield from in_parts(filters, most_calls=_CALLS_OF_FEW)
        return
    for part in in_parts(filters, most_calls=_CALLS_OF_MANY):
        names = most_spent(part, "customer") if part.start == part.end else []
        if len(names) <= _CUSTOMERS_AT_ONCE:
            yield part
            continue
        for start in range(0, len(names), _CUSTOMERS_AT_ONCE):
            chosen = names[start : start + _CUSTOMERS_AT_ONCE]
            yield msgspec.structs.replace(part, customers=chosen)


def _listed(
    of_day: Mapping[tuple[str, ...], Iterable[Group]],
    form: Form,
    teams: Mapping[str, str],
    keys: Mapping[str, KeyNames],
    *,
    is_charged: bool,
) -> list[dict[str, Any]]:
    sums = {names: _by_model_and_key(members) for names, members in of_day.items()}
    totals = {names: sum_of(of_names.values()) for names, of_names in sums.items()}
    return [
        {
            **form.told(names, teams),
            "total_spend": usd(nano_of(totals[names], is_charged=is_charged)),
            "metadata": [
                Details(
                    model,
                    keys[key].hash,
                    usd(nano_of(tally, is_charged=is_charged)),
                    tally.prompt_tokens + tally.completion_tokens,
                    tally.calls,
                    tally.unpriced_calls,
                    tally.estimated_calls,
                )
                for (model, key), tally in _most_first(sums[names], is_charged=is_charged)
            ],
            **counts_of(totals[names]),
        }
        for names, _ in _most_first(totals, is_charged=is_charged)
    ]


def _midnight(day: date) -> str:
    return datetime.combine(day, time.min, tzinfo=UTC).isoformat()


# -- by key --------------------------------------------------------------------------------


def keys_report(filters: Filters) -> list[dict[str, Any]]:
    """Return keys with their models, those that cost most first. Two queries."""
    is_charged = filters.customers is not None
    by_key: dict[str, dict[tuple[str, str], Tally]] = {}
    sums = _by_model_and_key(grouped(filters, ("model", "upstream_model", "key")))
    for (model, key), tally in sums.items():
        by_key.setdefault(key, {})[model, key] = tally
    keys = key_names(by_key)
    totals = {key: sum_of(of_key.values()) for key, of_key in by_key.items()}
    return [
        {
            "api_key": keys[key].hash,
            **_costs(total, is_charged=is_charged),
            "model_details": [
                {"model": model, **_costs(tally, is_charged=is_charged), **counts_of(tally)}
                for (model, _), tally in _most_first(by_key[key], is_charged=is_charged)
            ],
            "key_alias": keys[key].alias,
            **counts_of(total),
        }
        for key, total in _most_first(totals, is_charged=is_charged)
    ]


def _costs(tally: Tally, *, is_charged: bool) -> dict[str, Any]:
    return {
        "total_cost": usd(nano_of(tally, is_charged=is_charged)),
        "total_input_tokens": tally.prompt_tokens,
        "total_output_tokens": tally.completion_tokens,
    }


# -- what all reports share ----------------------------------------------------------------


def nano_of(tally: Tally, *, is_charged: bool) -> int:
    """Return nano-dollars: what customers are charged, or what the provider bills."""
    return tally.charge if is_charged else tally.cost


def usd(nano: int) -> msgspec.Raw:
    """Return an amount as JSON has it: exact, in USD.

    Optimization: a report has a hundred thousand of them, and a Decimal takes longer.
    """
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, rest = divmod(nano, NANO_PER_USD)
    return msgspec.Raw(f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".").encode())


def _most_first(tallies: Mapping[_Name, Tally], *, is_charged: bool) -> list[tuple[_Name, Tally]]:
    return sorted(tallies.items(), key=lambda item: (-nano_of(item[1], is_charged=is_charged), item[0]))


def counts_of(tally: Tally) -> dict[str, int]:
    """Return our own fields: calls whose cost is not known, or not from the provider, stay visible."""
    return {
        "requests": tally.calls,
        "unpriced_requests": tally.unpriced_calls,
        "estimated_requests": tally.estimated_calls,
    }


def sum_of(tallies: Iterable[Tally]) -> Tally:
    return Tally(*map(sum, zip(Tally(), *tallies, strict=True)))


def _by_model_and_key(groups: Iterable[Group]) -> dict[tuple[str, str], Tally]:
    """Add up groups whose last names are model, upstream model and key. LiteLLM's model is the upstream's."""
    found: dict[tuple[str, str], Tally] = {}
    for group in groups:
        *_, model, upstream_model, key = group.names
        name = upstream_model or model, key
        found[name] = found[name].plus(group.tally) if name in found else group.tally
    return found


urlpatterns = [
    path("global/spend/report", SpendReport.as_view()),
    path("key/spend/report", KeySpendReport.as_view()),
    path("user/spend/report", UserSpendReport.as_view()),
    path("team/spend/report", TeamSpendReport.as_view()),
]
