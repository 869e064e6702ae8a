"""What is done to alert rules: make, change, delete. In the caller's transaction."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from billing.alerts.holders import kept_holder_id
from billing.alerts.rules import forget_rules
from billing.alerts.secrets import sealed_url
from billing.alerts.words import percent, subject_of
from billing.models import AlertRule, WebhookEndpoint
from customers.money import plain_usd
from customers.refusals import Missing
from customers.words import count, usd

# The API's name → the model's, and what null stands for.
_FIELDS: dict[str, tuple[str, Any]] = {
    "name": ("name", ""),
    "kind": ("kind", ""),
    "threshold": ("threshold", None),
    "unit": ("unit", AlertRule.Unit.CALLS),
    "minimum_usd": ("minimum_usd", None),
    "holder_type": ("holder_type", ""),
    "holder_id": ("holder_id", ""),
    "model": ("model", ""),
    "webhooks": ("to_webhooks", True),
    "slack": ("to_slack", True),
    "email": ("to_email", True),
    "emails": ("emails", []),
    "active": ("is_active", True),
}


def find_rule(rule_id: int) -> AlertRule:
    """Raises: Missing."""
    rule = AlertRule.objects.filter(pk=rule_id).first()
    if rule is None:
        raise Missing(f"no alert rule {rule_id}: GET /alert/rule/list has all", param="rule_id")
    return rule


def create_rule(given: Mapping[str, Any]) -> AlertRule:
    """Make a rule. Raises: ValidationError, Missing."""
    rule = AlertRule()
    return _saved(rule, given)


def update_rule(given: Mapping[str, Any]) -> AlertRule:
    """Change what is given of a rule. Raises: ValidationError, Missing."""
    return _saved(find_rule(given["rule_id"]), given)


def delete_rule(rule_id: int) -> None:
    """Delete a rule; what it told stays. Raises: Missing."""
    find_rule(rule_id).delete()
    transaction.on_commit(forget_rules)


def _saved(rule: AlertRule, given: Mapping[str, Any]) -> AlertRule:
    for name, (field, none) in _FIELDS.items():
        if name in given:
            value = given[name]
            setattr(rule, field, none if value is None else value)
    if "holder_type" in given or "holder_id" in given:
        rule.holder_id = kept_holder_id(rule.holder_type, rule.holder_id)
    if "slack_url" in given:
        set_slack_url(rule, given["slack_url"] or "")
    if "endpoint_id" in given:
        rule.endpoint = _endpoint(given["endpoint_id"])
    if not rule.name and rule.kind:
        rule.name = default_name(rule)
    rule.full_clean()
    rule.save()
    transaction.on_commit(forget_rules)
    return rule


def set_slack_url(rule: AlertRule, url: str) -> None:
    """Give a rule the address of its own Slack channel; empty takes it away. Raises: ValidationError."""
    try:
        rule.sealed_slack_url = sealed_url(url)
    except ValueError as error:
        raise ValidationError({"slack_url": str(error)}) from None


def _endpoint(endpoint_id: int | None) -> WebhookEndpoint | None:
    if endpoint_id is None:
        return None
    endpoint = WebhookEndpoint.objects.filter(pk=endpoint_id).first()
    if endpoint is None:
        raise Missing(f"no webhook endpoint {endpoint_id}", param="endpoint_id")
    return endpoint


def default_name(rule: AlertRule) -> str:
    """Return what a rule is called that nobody gave a name."""
    whose = rule.model or rule.holder_type
    if rule.holder_id and not rule.model:
        whose = subject_of(rule.holder_type, rule.holder_id).label
    of = f": {whose}" if whose else ""
    text = f"{AlertRule.Kind(rule.kind).label}{of}" if rule.kind in AlertRule.Kind.values else "Alert"
    return f"{text[:1].upper()}{text[1:]}"[:255]


def threshold_text(rule: AlertRule) -> str:
    """Write a rule's threshold with its unit: `80 %`, `$50.00 a day`, `1,000 calls a day`, `3 times`."""
    threshold = rule.threshold
    if threshold is None:
        return ""
    match rule.kind:
        case AlertRule.Kind.BUDGET | AlertRule.Kind.UPSTREAM_FAILING:
            return percent(Decimal(threshold))
        case AlertRule.Kind.DAILY_SPEND:
            return f"{usd(threshold)} a day"
        case AlertRule.Kind.MODEL_USAGE if rule.unit == AlertRule.Unit.USD:
            return f"{usd(threshold)} a day"
        case AlertRule.Kind.MODEL_USAGE:
            return f"{count(int(threshold))} {rule.unit} a day"
        case _:
            return f"{plain_usd(threshold)} times"
