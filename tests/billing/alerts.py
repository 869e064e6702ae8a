"""Alerts for the tests of billing: rules, and what was told."""

from typing import Any

from billing.alerts.crossing import forget_seen
from billing.alerts.rules import forget_rules
from billing.models import Alert, AlertRule, Event
from billing.webhooks.events import forget_receivers

Kind = AlertRule.Kind


def only_rule(kind: Kind, **fields: Any) -> AlertRule:
    """Make a rule, and switch all others off."""
    AlertRule.objects.update(is_active=False)
    return make_rule(kind, **fields)


def make_rule(kind: Kind, **fields: Any) -> AlertRule:
    rule = AlertRule.objects.create(**{"name": f"rule of {kind.value}", "kind": kind, **fields})
    forget_rules()
    return rule


def afresh() -> None:
    """Have this process know nothing of rules, alerts and endpoints of earlier tests."""
    forget_rules()
    forget_seen()
    forget_receivers()


def told() -> list[tuple[str, str, str]]:
    """Return (event, holder, threshold) of each alert, in the order of telling."""
    alerts = Alert.objects.order_by("raised_at", "holder_id", "threshold")
    return [(alert.event_type, alert.holder_id, alert.threshold) for alert in alerts]


def bodies() -> list[dict[str, Any]]:
    """Return the bodies of all events that alerts made, in their order."""
    ids = Alert.objects.values("event_id")
    return [event.body for event in Event.objects.filter(pk__in=ids).order_by("sequence")]
