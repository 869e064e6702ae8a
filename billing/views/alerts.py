"""Alerts and their rules: /alert/*. LiteLLM has them in its file alone; these routes are ours."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from billing.alerts.editing import create_rule, delete_rule, update_rule
from billing.alerts.holders import kept_holder_id, told_holder_ids
from billing.models import Alert, AlertRule
from billing.models.event import wire_id
from billing.serializers.alerts import AlertQuery, ChangedRule, NewRule, RuleId
from customers.api import Action, ManagementView
from customers.api.paging import page_of
from customers.api.schema import described

_RULE = {
    "rule_id": 7,
    "name": "80 % of a budget",
    "kind": "budget",
    "threshold": Decimal("0.8"),
    "unit": "calls",
    "minimum_usd": None,
    "holder_type": None,
    "holder_id": None,
    "model": None,
    "webhooks": True,
    "slack": True,
    "email": True,
    "emails": ["finance@example.com"],
    "has_slack_url": False,
    "endpoint_id": None,
    "active": True,
    "source": "default",
    "checked_at": None,
}
_ALERT = {
    "id": "0198f2f0-0000-7000-8000-000000000000",
    "rule_id": 7,
    "rule": "80 % of a budget",
    "kind": "budget",
    "event": "threshold_crossed",
    "event_id": "evt_0198f2f000007000800000000000000",
    "holder_type": "customer",
    "holder_id": "acme-042",
    "model": None,
    "threshold": Decimal("0.8"),
    "limit": Decimal(50),
    "spent": Decimal("40.12"),
    "period_starts_at": "2026-07-01T00:00:00Z",
    "message": "Customer Budget: acme-042 has spent $40.12 of $50.00, more than 80 % of the budget.",
    "raised_at": "2026-07-15T12:00:00Z",
}


class NewAlertRule(ManagementView):
    """Make a rule: what to be told of, and where."""

    actions = {"POST": Action.WRITE_ALERTS}

    @described(
        body=NewRule,
        answer=_RULE,
        example={
            "kind": "budget",
            "threshold": 0.5,
            "holder_type": "customer",
            "emails": ["finance@example.com"],
        },
    )
    def post(self, request: Request) -> Response:
        return Response(_answer(create_rule(self.body(NewRule))))


class UpdateAlertRule(ManagementView):
    """Change what is sent of a rule; what is not sent stays."""

    actions = {"POST": Action.WRITE_ALERTS}

    @described(body=ChangedRule, answer=_RULE, example={"rule_id": 7, "active": False})
    def post(self, request: Request) -> Response:
        return Response(_answer(update_rule(self.body(ChangedRule))))


class DeleteAlertRule(ManagementView):
    """Delete a rule. What it told stays in the list."""

    actions = {"POST": Action.WRITE_ALERTS}

    @described(body=RuleId, answer={"message": "Alert rule 7 was deleted."}, example={"rule_id": 7})
    def post(self, request: Request) -> Response:
        rule_id = self.body(RuleId)["rule_id"]
        delete_rule(rule_id)
        return Response({"message": f"Alert rule {rule_id} was deleted."})


class AlertRuleList(ManagementView):
    """List all rules."""

    actions = {"GET": Action.READ_ALERTS}

    @described(answer=[_RULE])
    def get(self, request: Request) -> Response:
        rules = list(AlertRule.objects.order_by("pk"))
        names = told_holder_ids((rule.holder_type, rule.holder_id) for rule in rules)
        return Response([rule_object(rule, names) for rule in rules])


class AlertList(ManagementView):
    """List what was told, the newest first."""

    actions = {"GET": Action.READ_ALERTS}

    @described(
        query=AlertQuery,
        answer={"alerts": [_ALERT], "total": 1, "page": 1, "page_size": 50, "total_pages": 1},
    )
    def get(self, request: Request) -> Response:
        query = self.query(AlertQuery)
        page = page_of(_alerts(query), number=query["page"], size=query["page_size"])
        names = told_holder_ids((alert.holder_type, alert.holder_id) for alert in page.rows)
        return Response(
            {
                "alerts": [alert_object(alert, names) for alert in page.rows],
                "total": page.total,
                "page": page.number,
                "page_size": page.size,
                "total_pages": page.pages,
            }
        )


def _alerts(query: dict[str, Any]) -> QuerySet[Alert]:
    chosen = {name: query[name] for name in ("kind", "holder_type", "holder_id") if name in query}
    if "holder_id" in chosen:
        try:
            chosen["holder_id"] = kept_holder_id(chosen.get("holder_type", ""), chosen["holder_id"])
        except ValidationError:
            return Alert.objects.none()
    return Alert.objects.filter(**chosen).order_by("-raised_at", "-id")


def _answer(rule: AlertRule) -> dict[str, Any]:
    return rule_object(rule, told_holder_ids([(rule.holder_type, rule.holder_id)]))


def rule_object(rule: AlertRule, names: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return a rule. `names`: of `told_holder_ids`. Its Slack address is never told."""
    return {
        "rule_id": rule.pk,
        "name": rule.name,
        "kind": rule.kind,
        "threshold": rule.threshold,
        "unit": rule.unit,
        "minimum_usd": rule.minimum_usd,
        "holder_type": rule.holder_type or None,
        "holder_id": names[rule.holder_type, rule.holder_id] or None,
        "model": rule.model or None,
        "webhooks": rule.to_webhooks,
        "slack": rule.to_slack,
        "email": rule.to_email,
        "emails": rule.emails,
        "has_slack_url": bool(rule.sealed_slack_url),
        "endpoint_id": rule.endpoint_id,
        "active": rule.is_active,
        "source": rule.source,
        "checked_at": rule.checked_at,
    }


def alert_object(alert: Alert, names: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return what was told. `names`: of `told_holder_ids`. Makes no query."""
    return {
        "id": str(alert.pk),
        "rule_id": alert.rule_id,
        "rule": alert.rule_name,
        "kind": alert.kind,
        "event": alert.event_type,
        "event_id": wire_id(alert.event_id) if alert.event_id else None,
        "holder_type": alert.holder_type,
        "holder_id": names[alert.holder_type, alert.holder_id],
        "model": alert.scope or None,
        "threshold": Decimal(alert.threshold),
        "limit": alert.limit,
        "spent": alert.spent,
        "period_starts_at": alert.starts_at,
        "message": alert.message,
        "raised_at": alert.raised_at,
    }


urlpatterns = [
    path("alert/rule/new", NewAlertRule.as_view()),
    path("alert/rule/update", UpdateAlertRule.as_view()),
    path("alert/rule/delete", DeleteAlertRule.as_view()),
    path("alert/rule/list", AlertRuleList.as_view()),
    path("alert/list", AlertList.as_view()),
]
