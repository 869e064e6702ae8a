"""
Budgets: /budget/* (contract 5.2).

A private budget was made with one holder's own limits. It is not listed unless asked for;
by its id it is read and changed like any other.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.views import examples
from customers.api import Action, Envelope, ManagementView
from customers.api.errors import BadRequest, NotFound
from customers.api.schema import described
from customers.durations import period_of
from customers.model_limits import ModelLimit
from customers.models import Budget
from customers.money import from_nano
from customers.serializers.budgets import (
    BudgetFields,
    BudgetId,
    BudgetIds,
    BudgetListQuery,
    BudgetSettingsQuery,
)
from customers.services.budgets import create_budget, delete_budget, update_budget
from customers.services.defaults import enforceable_limits

# What /budget/settings tells of each field: its type, and what it does.
_SETTINGS = {
    "max_budget": ("Float", "USD that each holder may spend in a period; empty: no limit."),
    "soft_budget": ("Float", "USD from which on a warning is sent; no call is refused."),
    "budget_duration": ("String", "How long a period is: 1d, 1w, 1mo, 12h, …; empty: for all time."),
    "rpm_limit": ("Integer", "Requests a minute of each holder; empty: no limit."),
    "tpm_limit": ("Integer", "Tokens a minute of each holder; empty: no limit."),
    "max_parallel_requests": ("Integer", "Calls of each holder at a time; empty: no limit."),
    "model_max_budget": ("Dict", "Limits of single models, besides those above."),
    "budget_limits": ("List", "Further windows, each with a limit of its own: a day besides a month."),
    "temp_budget_increase": ("Float", "USD added to max_budget until temp_budget_expiry."),
    "temp_budget_expiry": ("Datetime", "When the temporary increase ends."),
    "mode": ("String", "standard: hold what answers usually cost; strict: hold the most they can."),
}


class BudgetView(ManagementView):
    envelope = Envelope.DETAIL
    refusal_status = 400


class NewBudget(BudgetView):
    """Make a budget: a tier of limits that customers, keys, teams, users and tags attach to."""

    actions = {"POST": Action.WRITE_BUDGETS}

    @described(
        body=BudgetFields,
        answer=examples.BUDGET,
        example={"budget_id": "gold", "max_budget": 100, "budget_duration": "1mo", "rpm_limit": 300},
    )
    def post(self, request: Request) -> Response:
        budget = create_budget(enforceable_limits(None, self.body(BudgetFields)))
        return Response(budget_row(budget, at=timezone.now()))


class UpdateBudget(BudgetView):
    """Change those limits of a budget that are sent; what was spent stays. Unknown id: null."""

    actions = {"POST": Action.WRITE_BUDGETS}

    @described(
        body=BudgetFields,
        answer=examples.BUDGET,
        also=[None],
        example={"budget_id": "gold", "max_budget": 120},
    )
    def post(self, request: Request) -> Response:
        given = self.body(BudgetFields)
        if given.get("budget_id") is None:
            raise BadRequest("Say which budget to change: budget_id.", param="budget_id")
        budget = Budget.objects.filter(pk=given["budget_id"]).first()
        if budget is None:
            return Response(None)
        update_budget(budget, enforceable_limits(budget, given))
        return Response(budget_row(budget, at=timezone.now()))


class BudgetInfo(BudgetView):
    """Return budgets by their ids, in that order; unknown ones are left out."""

    actions = {"POST": Action.READ_BUDGETS}
    reads_by_post = True

    @described(body=BudgetIds, answer=[examples.BUDGET], example={"budgets": ["gold"]})
    def post(self, request: Request) -> Response:
        ids = self.body(BudgetIds)["budgets"]
        if not ids:
            raise BadRequest('Say which budgets: {"budgets": ["id1", "id2"]}.', param="budgets")
        found = Budget.objects.in_bulk(ids)
        return Response(_rows(found[budget_id] for budget_id in dict.fromkeys(ids) if budget_id in found))


class BudgetList(BudgetView):
    """List the budgets that may be shared; `include_private=true`: all."""

    actions = {"GET": Action.READ_BUDGETS}

    @described(query=BudgetListQuery, answer=[examples.BUDGET])
    def get(self, request: Request) -> Response:
        budgets = Budget.objects.order_by("pk")
        if not self.query(BudgetListQuery)["include_private"]:
            budgets = budgets.filter(is_private=False)
        return Response(_rows(budgets))


class BudgetSettings(BudgetView):
    """Tell what each field of a budget means, and what it is."""

    actions = {"GET": Action.READ_BUDGETS}

    @described(query=BudgetSettingsQuery, answer=[examples.BUDGET_SETTING])
    def get(self, request: Request) -> Response:
        budget_id = self.query(BudgetSettingsQuery)["budget_id"]
        budget = Budget.objects.filter(pk=budget_id).first()
        if budget is None:
            raise NotFound(f"no budget with id {budget_id}: make it with POST /budget/new", param="budget_id")
        row = budget_row(budget, at=timezone.now())
        return Response(
            [
                {
                    "field_name": name,
                    "field_type": kind,
                    "field_description": description,
                    "field_value": row[name],
                    "stored_in_db": row[name] is not None,
                    "field_default_value": Budget.Mode.STANDARD.value if name == "mode" else None,
                }
                for name, (kind, description) in _SETTINGS.items()
            ]
        )


class DeleteBudget(BudgetView):
    """Delete a budget that limits nobody. Unknown id: null."""

    actions = {"POST": Action.WRITE_BUDGETS}

    @described(body=BudgetId, answer=examples.BUDGET, also=[None], example={"id": "gold"})
    def post(self, request: Request) -> Response:
        budget = Budget.objects.filter(pk=self.body(BudgetId)["id"]).first()
        if budget is None:
            return Response(None)
        row = budget_row(budget, at=timezone.now())
        delete_budget(budget)
        return Response(row)


# -- what they look like -----------------------------------------------------------------


def _rows(budgets: Iterable[Budget]) -> list[dict[str, Any]]:
    at = timezone.now()
    return [budget_row(budget, at=at) for budget in budgets]


def budget_row(budget: Budget, *, at: datetime) -> dict[str, Any]:
    """Return a budget by itself: the contract's row, and below it ours. Makes no query."""
    limits = budget_object(budget, at=at)
    return {
        "budget_id": limits["budget_id"],
        "max_budget": limits["max_budget"],
        "soft_budget": limits["soft_budget"],
        "max_parallel_requests": limits["max_parallel_requests"],
        "tpm_limit": limits["tpm_limit"],
        "rpm_limit": limits["rpm_limit"],
        "model_max_budget": limits["model_max_budget"],
        "budget_duration": limits["budget_duration"],
        "budget_reset_at": limits["budget_reset_at"],
        "created_at": budget.created_at,
        "created_by": budget.created_by,
        "updated_at": budget.updated_at,
        "updated_by": budget.updated_by,
        **limits,
        "is_private": budget.is_private,
    }


def budget_object(budget: Budget, *, at: datetime | None = None) -> dict[str, Any]:
    """Return a budget as its holder shows it (`litellm_budget_table`). Makes no query.

    at: now; whose period's end is told.
    """
    return {
        "budget_id": budget.pk,
        "soft_budget": budget.soft_budget,
        "max_budget": budget.max_budget,
        "max_parallel_requests": budget.max_parallel_requests,
        "tpm_limit": budget.tpm_limit,
        "rpm_limit": budget.rpm_limit,
        "tpd_limit": None,  # not enforced here, so never accepted
        "model_max_budget": model_limits_object(budget),
        "budget_duration": budget.budget_duration or None,
        "allowed_models": [],
        "temp_budget_increase": budget.temp_budget_increase,
        "temp_budget_expiry": budget.temp_budget_expiry,
        "budget_reset_at": _reset_at(budget, at or timezone.now()),
        "created_at": budget.created_at,
        "budget_limits": windows_object(budget, at=at or timezone.now()),
        "mode": budget.mode,
    }


def model_limits_object(budget: Budget) -> dict[str, dict[str, Any]] | None:
    """Return the limits by model with amounts as numbers; None where there are none."""
    return {model: _limit_object(limit) for model, limit in budget.model_limits().items()} or None


def windows_object(budget: Budget, *, at: datetime) -> list[dict[str, Any]] | None:
    """Return the further windows with amounts as numbers; None where there are none.

    at: now; whose periods' ends are told.
    """
    return [
        {
            "budget_duration": str(window.duration),
            "max_budget": from_nano(window.limit_nano),
            "reset_at": period_of(window.duration, at, settings.BUDGET_TIME_ZONE).ends_at,
        }
        for window in budget.windows()
    ] or None


def _limit_object(limit: ModelLimit) -> dict[str, Any]:
    fields = {
        "max_budget": None if limit.limit_nano is None else from_nano(limit.limit_nano),
        "budget_duration": None if limit.duration is None else str(limit.duration),
        "tpm_limit": limit.tpm_limit,
        "rpm_limit": limit.rpm_limit,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _reset_at(budget: Budget, at: datetime) -> datetime | None:
    """Return when the period under way ends: the same for all holders, periods follow the calendar."""
    return period_of(budget.duration(), at, settings.BUDGET_TIME_ZONE).ends_at


urlpatterns = [
    path("budget/new", NewBudget.as_view()),
    path("budget/update", UpdateBudget.as_view()),
    path("budget/info", BudgetInfo.as_view()),
    path("budget/list", BudgetList.as_view()),
    path("budget/settings", BudgetSettings.as_view()),
    path("budget/delete", DeleteBudget.as_view()),
]
