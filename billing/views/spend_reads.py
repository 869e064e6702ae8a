"""
The small reads of spend (contract 6.4): what everybody spent, by one thing at a time.

Where no dates are taken, the last 30 days are told, today included, as LiteLLM does; the
lists of keys and users tell what they ever spent. Customers are told the charge.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
from django.db.models import F, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.admin.naming import UuidText
from billing.budgets.bars import Holder, bars_now
from billing.budgets.periods import start_afresh
from billing.models import HolderType, SpendTotal
from billing.reporting.log_reading import keys_named
from billing.reporting.reports import Dimension, Filters, Tally, grouped, ranked, tally
from billing.views.key_objects import key_objects
from billing.views.ranges import Days, day_or, days_of, key_names, last_days, names_of, today
from billing.views.spend import NO_TEAM
from billing.views.users import user_objects
from customers.api import Action, Envelope, ManagementView
from customers.api.errors import AccessError, BadRequest
from customers.api.schema import described
from customers.models import Customer, GatewayLimits, Team, User, VirtualKey
from customers.models.audit_log import record_audit
from customers.money import UsdField, from_nano
from customers.serializers import spend as shapes

_DAYS = 30
_MOST = 100  # customers of one answer
_TOP = 10  # models of /global/activity/model
_ALL_TAGS = "all-tags"  # what LiteLLM's pages send for: no filter
_USD = Decimal("1.2")


class SpendView(ManagementView):
    """What all of these share: they are for those who see everybody's spend."""

    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_ALL_SPEND}


# -- keys and users, by what they ever spent -------------------------------------------------


class SpendOfKeys(SpendView):
    """List keys, those that ever spent most first."""

    @described(
        query=shapes.KeyLimitQuery, answer=[{"token": "88dc…", "key_alias": "acme-prod", "spend": _USD}]
    )
    def get(self, request: Request) -> Response:
        limit = self.query(shapes.KeyLimitQuery)["limit"]
        keys = VirtualKey.objects.listed().select_related("budget", "team", "user")
        listed = _by_spend(keys, HolderType.KEY)[:limit]
        return Response(key_objects(listed, at=timezone.now()))


class SpendOfUsers(SpendView):
    """List users, those that ever spent most first."""

    @described(query=shapes.UserQuery, answer=[{"user_id": "u-17", "user_email": None, "spend": _USD}])
    def get(self, request: Request) -> Response:
        given = self.query(shapes.UserQuery)
        users = User.objects.filter(deleted_at=None).select_related("budget")
        if given.get("user_id"):
            users = users.filter(pk=given["user_id"])
        listed = _by_spend(users.prefetch_related("team_memberships"), HolderType.USER)[: given["limit"]]
        return Response(user_objects(list(listed), at=timezone.now()))


def _by_spend(rows: QuerySet, holder_type: HolderType) -> QuerySet:
    id_ = UuidText(OuterRef("pk")) if holder_type == HolderType.KEY else OuterRef("pk")
    totals = SpendTotal.objects.filter(holder_type=holder_type, holder_id=id_).values("cost")
    spent = Coalesce(Subquery(totals), Value(0, UsdField()), output_field=UsdField())
    return rows.annotate(ever_spent=spent).order_by(F("ever_spent").desc(), "pk")


# -- by one thing -----------------------------------------------------------------------------


class SpendOfTags(SpendView):
    """List tags with what their calls cost. A call counts under each of its tags."""

    @described(
        query=shapes.Days,
        answer=[{"individual_request_tag": "engineering", "log_count": 4, "total_spend": _USD}],
    )
    def get(self, request: Request) -> Response:
        given = self.query(shapes.Days)
        days: Days = {
            "start": day_or(given.get("start_date"), "start_date", date(1971, 1, 1)),
            "end": day_or(given.get("end_date"), "end_date", today()),
        }
        if days["start"] > days["end"]:
            raise BadRequest("start_date is after end_date: swap them.", param="start_date")
        return Response(
            [
                {
                    "individual_request_tag": name,
                    "log_count": sums.calls,
                    "total_spend": from_nano(sums.cost),
                    "unpriced_requests": sums.unpriced_calls,
                }
                for name, sums in _most_first(Filters(**days), "tag")
            ]
        )


class GlobalSpendOfTags(SpendView):
    """Tell what tags cost from one day to another, and what is left when each call counts once."""

    @described(
        query=shapes.TagSpendQuery,
        answer={
            "spend_per_tag": [{"name": "engineering", "spend": _USD, "log_count": 4}],
            "deduplicated": {"spend": _USD, "log_count": 4},
        },
    )
    def get(self, request: Request) -> Response:
        given = self.query(shapes.TagSpendQuery)
        tags = names_of(given.get("tags"))
        filters = Filters(**days_of(given), tags=None if tags is None or _ALL_TAGS in tags else tags)
        once = tally(filters)
        if filters.tags is None:
            once = once.less(tally(Filters(start=filters.start, end=filters.end, tags=[""])))
        return Response(
            {
                "spend_per_tag": [
                    {"name": name, "spend": from_nano(sums.cost), "log_count": sums.calls}
                    for name, sums in _most_first(filters, "tag")
                ],
                "deduplicated": {"spend": from_nano(once.cost), "log_count": once.calls},
            }
        )


class AllTagNames(SpendView):
    """List all tags that calls ever carried."""

    @described(answer={"tag_names": ["engineering"]})
    def get(self, request: Request) -> Response:
        totals = SpendTotal.objects.filter(holder_type=HolderType.TAG).order_by("holder_id")
        return Response({"tag_names": list(totals.values_list("holder_id", flat=True))})


class GlobalSpend(SpendView):
    """Tell what everybody spent in the last 30 days, and the gateway's budget."""

    @described(answer={"spend": _USD, "max_budget": Decimal("100")})
    def get(self, request: Request) -> Response:
        limits = GatewayLimits.objects.select_related("budget").first()
        spent = tally(Filters(**last_days(_DAYS)))
        return Response(
            {
                "spend": from_nano(spent.cost),
                "max_budget": limits.budget.max_budget if limits and limits.budget else None,
                "unpriced_requests": spent.unpriced_calls,
            }
        )


class GlobalSpendByDay(SpendView):
    """Tell what each of the last 30 days cost; days without calls are left out."""

    @described(query=shapes.KeyQuery, answer=[{"date": "2026-02-03", "spend": _USD}])
    def get(self, request: Request) -> Response:
        named = self.query(shapes.KeyQuery).get("api_key")
        keys = keys_named(named)
        days = sorted(grouped(Filters(**last_days(_DAYS), keys=keys), ("day",)))
        of_key = {"api_key": key_names(keys)[keys[0]].hash if keys else named} if named else {}
        return Response(
            [{"date": day.names[0].isoformat(), "spend": from_nano(day.tally.cost), **of_key} for day in days]
        )


class GlobalSpendOfKeys(SpendView):
    """List the keys that spent most in the last 30 days."""

    @described(
        query=shapes.KeyLimitQuery,
        answer=[
            {"api_key": "88dc…", "key_alias": "acme-prod", "key_name": "sk-...abcd", "total_spend": _USD}
        ],
    )
    def get(self, request: Request) -> Response:
        limit = self.query(shapes.KeyLimitQuery)["limit"]
        spent = _most_first(Filters(**last_days(_DAYS)), "key")[:limit]
        keys = key_names(id_ for id_, _ in spent)
        return Response(
            [
                {
                    "api_key": keys[id_].hash,
                    "key_alias": keys[id_].alias,
                    "key_name": keys[id_].display_name,
                    "total_spend": from_nano(sums.cost),
                }
                for id_, sums in spent
            ]
        )


class GlobalSpendOfTeams(SpendView):
    """Tell what teams spent on each of the last 30 days. Teams go by alias, as in LiteLLM, else by id."""

    @described(
        answer={
            "daily_spend": [{"date": "2026-02-03", "Sales": _USD}],
            "teams": ["Sales"],
            "total_spend_per_team": [{"team_id": "Sales", "total_spend": _USD}],
        }
    )
    def get(self, request: Request) -> Response:
        aliases = dict(Team.objects.exclude(alias="").values_list("pk", "alias"))
        by_day: dict[str, dict[str, Decimal]] = {}
        totals: dict[str, Decimal] = {}
        for (day, team), sums in sorted(grouped(Filters(**last_days(_DAYS)), ("day", "team"))):
            name = aliases.get(team) or team or NO_TEAM
            spend, of_day = from_nano(sums.cost), by_day.setdefault(day.isoformat(), {})
            of_day[name] = of_day.get(name, Decimal(0)) + spend
            totals[name] = totals.get(name, Decimal(0)) + spend
        ranked = sorted(totals, key=lambda name: (-totals[name], name))
        return Response(
            {
                "daily_spend": [{**spent, "date": day} for day, spent in by_day.items()],
                "teams": ranked,
                "total_spend_per_team": [{"team_id": name, "total_spend": totals[name]} for name in ranked],
            }
        )


class GlobalSpendOfCustomers(SpendView):
    """List the hundred customers that were charged most; the empty name is calls of none."""

    actions = {"POST": Action.READ_ALL_SPEND}
    reads_by_post = True

    @described(
        body=shapes.EndUsersBody,
        answer=[{"end_user": "acme-042", "total_count": 13, "total_spend": _USD}],
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.EndUsersBody)
        default = last_days(_DAYS)
        start = day_or(given.get("startTime"), "startTime", default["start"])
        end = day_or(given.get("endTime"), "endTime", default["end"])
        if start > end:
            raise BadRequest("startTime is after endTime: swap them.", param="startTime")
        filters = Filters(start=start, end=end, keys=keys_named(given.get("api_key")))
        names = ranked(filters, "customer", order="charge", limit=_MOST).names
        top = msgspec.structs.replace(filters, customers=[*names, ""])
        return Response(
            [
                {"end_user": name, "total_count": sums.calls, "total_spend": from_nano(sums.charge)}
                for name, sums in _most_first(top, "customer", is_charged=True)[:_MOST]
            ]
        )


class AllCustomers(SpendView):
    """List the ids of all customers."""

    @described(answer={"end_users": ["acme-042"]})
    def get(self, request: Request) -> Response:
        ids = Customer.objects.filter(deleted_at=None).order_by("pk").values_list("pk", flat=True)
        return Response({"end_users": list(ids)})


class GlobalSpendOfModels(SpendView):
    """List the models that cost most in the last 30 days."""

    @described(query=shapes.LimitQuery, answer=[{"model": "gpt-4o-mini", "total_spend": _USD}])
    def get(self, request: Request) -> Response:
        limit = self.query(shapes.LimitQuery)["limit"]
        sums: dict[str, Tally] = {}
        for (model, upstream_model), each in grouped(
            Filters(**last_days(_DAYS)), ("model", "upstream_model")
        ):
            name = upstream_model or model
            sums[name] = sums[name].plus(each) if name in sums else each
        spent = sorted(sums.items(), key=lambda item: (-item[1].cost, item[0]))[:limit]
        return Response([{"model": name, "total_spend": from_nano(each.cost)} for name, each in spent])


class GlobalSpendOfProviders(SpendView):
    """List providers with what they bill; the empty name is calls that were sent to none."""

    @described(query=shapes.Days, answer=[{"provider": "openai", "spend": _USD}])
    def get(self, request: Request) -> Response:
        filters = Filters(**days_of(self.query(shapes.Days)))
        return Response(
            [
                {"provider": name, "spend": from_nano(sums.cost)}
                for name, sums in _most_first(filters, "provider")
            ]
        )


def _most_first(
    filters: Filters, dimension: Dimension, *, is_charged: bool = False
) -> list[tuple[str, Tally]]:
    groups = [(group.names[0], group.tally) for group in grouped(filters, (dimension,))]
    return sorted(groups, key=lambda item: (-(item[1].charge if is_charged else item[1].cost), item[0]))


# -- activity ---------------------------------------------------------------------------------


class ActivityView(SpendView):
    envelope = Envelope.DETAIL

    def asked(self) -> Filters:
        return Filters(**days_of(self.query(shapes.Days)))


_ACTIVITY = {
    "daily_data": [{"date": "Feb 03", "api_requests": 4, "total_tokens": 900}],
    "sum_api_requests": 4,
    "sum_total_tokens": 900,
}
_FAILURES = {"daily_data": [{"date": "Feb 03", "num_exceptions": 4}], "sum_num_exceptions": 4}


class GlobalActivity(ActivityView):
    """Tell how many calls and tokens there were on each day."""

    @described(query=shapes.Days, answer=_ACTIVITY)
    def get(self, request: Request) -> Response:
        days = grouped(self.asked(), ("day",))
        return Response(_activity((day.names[0], day.tally) for day in days))


class ModelActivity(ActivityView):
    """Tell how many calls and tokens the ten most called models had on each day."""

    @described(query=shapes.Days, answer=[{"model": "gpt-4o-mini", **_ACTIVITY}])
    def get(self, request: Request) -> Response:
        by_model: dict[str, list[tuple[date, Tally]]] = {}
        for (day, model), sums in grouped(self.asked(), ("day", "model")):
            by_model.setdefault(model, []).append((day, sums))
        told = [{"model": model, **_activity(days)} for model, days in by_model.items()]
        told.sort(key=lambda each: (-each["sum_api_requests"], each["model"]))
        return Response(told[:_TOP])


def _activity(days: Iterable[tuple[date, Tally]]) -> dict[str, Any]:
    data = [
        {
            "date": f"{day:%b %d}",
            "api_requests": sums.calls,
            "total_tokens": sums.prompt_tokens + sums.completion_tokens,
        }
        for day, sums in sorted(days)
    ]
    return {
        "daily_data": data,
        "sum_api_requests": sum(each["api_requests"] for each in data),
        "sum_total_tokens": sum(each["total_tokens"] for each in data),
    }


class FailureActivity(ActivityView):
    """Tell how many calls failed on each day, refused ones included."""

    @described(query=shapes.Days, answer=_FAILURES)
    def get(self, request: Request) -> Response:
        days = grouped(self.asked(), ("day",))
        return Response(_failures((day.names[0], day.tally) for day in days))


class DeploymentFailureActivity(ActivityView):
    """Tell how many calls failed on each day, by deployment; the empty one: they were sent to none."""

    @described(query=shapes.Days, answer=[{"deployment": "7", **_FAILURES}])
    def get(self, request: Request) -> Response:
        by_deployment: dict[str, list[tuple[date, Tally]]] = {}
        for (day, deployment), sums in grouped(self.asked(), ("day", "deployment")):
            by_deployment.setdefault(deployment, []).append((day, sums))
        told = [{"deployment": name, **_failures(days)} for name, days in by_deployment.items()]
        told = [each for each in told if each["sum_num_exceptions"]]
        return Response(sorted(told, key=lambda each: (-each["sum_num_exceptions"], each["deployment"])))


def _failures(days: Iterable[tuple[date, Tally]]) -> dict[str, Any]:
    data = [
        {"date": f"{day:%b %d}", "num_exceptions": sums.failed_calls}
        for day, sums in sorted(days)
        if sums.failed_calls
    ]
    return {"daily_data": data, "sum_num_exceptions": sum(each["num_exceptions"] for each in data)}


# -- budgets ----------------------------------------------------------------------------------


class ProviderBudgets(SpendView):
    """Budgets of providers: there are none here; deployments are limited through teams, keys and tags."""

    @described(answer={"providers": {}})
    def get(self, request: Request) -> Response:
        return Response({"providers": {}})


class ResetSpend(ManagementView):
    """Have the running budget periods of all keys and teams count from zero. With the master key alone.

    What was ever spent stays: totals, reports and the log are never rewritten.
    """

    actions = {"POST": Action.MANAGE_TEAMS}

    @described(answer={"message": "…", "status": "success", "periods": 12})
    def post(self, request: Request) -> Response:
        if self.caller.key is not None:
            raise AccessError(
                "Only the master key may reset everybody's budgets; POST /key/{key}/reset_spend resets one.",
                status=401,
                type="auth_error",
            )
        at = timezone.now()
        keys = VirtualKey.objects.listed().exclude(budget=None).select_related("budget")
        teams = Team.objects.filter(deleted_at=None).exclude(budget=None).select_related("budget")
        count = sum(
            _reset(model, rows, holder_type, at=at)
            for model, rows, holder_type in (
                (VirtualKey, keys, HolderType.KEY),
                (Team, teams, HolderType.TEAM),
            )
        )
        return Response(
            {
                "message": f"{count} budget periods of keys and teams count from zero. What was spent stays.",
                "status": "success",
                "periods": count,
            }
        )


def _reset(model: Any, rows: Iterable[Any], holder_type: HolderType, *, at: Any) -> int:
    by_id = {str(row.pk): row for row in rows}
    holders = [Holder(holder_type, id_, str(row), row.budget) for id_, row in by_id.items()]
    bars = bars_now(holders, at=at)
    used = {key[1]: of_holder for key, of_holder in bars.items() if any(bar.spent for bar in of_holder)}
    start_afresh([bar.period for of_holder in used.values() for bar in of_holder], at=at)
    before = {by_id[id_].pk: {"spent_in_period": str(found[0].spent)} for id_, found in used.items()}
    record_audit(model, before, {pk: {"spent_in_period": "0"} for pk in before})
    return sum(map(len, used.values()))


class RefreshSpend(ManagementView):
    """Nothing to be refreshed: every figure is of the transaction that booked the last call."""

    actions = {"POST": Action.READ_ALL_SPEND}
    reads_by_post = True

    @described(answer={"message": "…", "status": "success"})
    def post(self, request: Request) -> Response:
        return Response(
            {
                "message": "Reports are always of the last call booked: nothing to refresh.",
                "status": "success",
            }
        )


urlpatterns = [
    path("spend/keys", SpendOfKeys.as_view()),
    path("spend/users", SpendOfUsers.as_view()),
    path("spend/tags", SpendOfTags.as_view()),
    path("global/spend/tags", GlobalSpendOfTags.as_view()),
    path("global/spend/all_tag_names", AllTagNames.as_view()),
    path("global/spend", GlobalSpend.as_view()),
    path("global/spend/logs", GlobalSpendByDay.as_view()),
    path("global/spend/keys", GlobalSpendOfKeys.as_view()),
    path("global/spend/teams", GlobalSpendOfTeams.as_view()),
    path("global/spend/end_users", GlobalSpendOfCustomers.as_view()),
    path("global/all_end_users", AllCustomers.as_view()),
    path("global/spend/models", GlobalSpendOfModels.as_view()),
    path("global/spend/provider", GlobalSpendOfProviders.as_view()),
    path("global/activity", GlobalActivity.as_view()),
    path("global/activity/model", ModelActivity.as_view()),
    path("global/activity/exceptions", FailureActivity.as_view()),
    path("global/activity/exceptions/deployment", DeploymentFailureActivity.as_view()),
    path("provider/budgets", ProviderBudgets.as_view()),
    path("global/spend/reset", ResetSpend.as_view()),
    path("global/spend/refresh", RefreshSpend.as_view()),
]
