"""
The alert rules of config.yaml: `budget_alerts` and `slack_alerts`, as rows of `AlertRule`.

Such a rule tells those whom the file names for it, and nobody else: the rules that are
there from the start tell everybody of 80 % and 100 %. A `webhook` of Slack's (or of
Discord's `…/slack`) gets messages to be read; any other one is a webhook endpoint, which
gets signed events.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.db.models import Model

from billing.alerts.editing import threshold_text
from billing.alerts.secrets import sealed_url, unsealed_url
from billing.models import AlertRule, HolderType, WebhookEndpoint
from customers.sealing import CannotUnseal
from spendproject.config_keys import AlertRule as Entry

# An endpoint of the file is told by its rules alone: no event has this name.
NO_EVENTS = ["(of its alert rules)"]
_ENDPOINT_NAME = "config.yaml: "

_KINDS = {
    "budget": AlertRule.Kind.BUDGET,
    "daily_spend": AlertRule.Kind.DAILY_SPEND,
    "model_usage": AlertRule.Kind.MODEL_USAGE,
}


class Wanted(NamedTuple):
    """A row as the file wants it."""

    row: Model
    what: str
    fields: dict[str, Any]


def wanted_rows(
    entries: Iterable[Entry], rules: Iterable[AlertRule], endpoints: Iterable[WebhookEndpoint]
) -> Iterator[Wanted]:
    """Yield the rows that the entries are, those that are there already and new ones, in order of writing.

    rules: the file's, of which each is used once; endpoints: all. Raises: ValueError, with
    what is wrong with an address.
    """
    unused = list(rules)
    known = {endpoint.url: endpoint for endpoint in endpoints if endpoint.name.startswith(_ENDPOINT_NAME)}
    for entry in entries:
        slack_url, endpoint = entry.slack_url, None
        if is_slack(entry.webhook):
            slack_url = entry.webhook
        elif entry.webhook:
            endpoint = known.get(entry.webhook)
            if endpoint is None:
                endpoint = known[entry.webhook] = WebhookEndpoint()
                endpoint.make_secret()
            yield Wanted(endpoint, "webhook endpoint of alerts", _endpoint_fields(entry.webhook))
        rule = _take(unused, entry, slack_url) or AlertRule(source=AlertRule.Source.CONFIG)
        fields = _rule_fields(entry, rule, slack_url, endpoint)
        yield Wanted(rule, f"alert rule {fields['name']}", fields)


def is_slack(url: str) -> bool:
    """Tell whether an address takes Slack's messages."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return host == "hooks.slack.com" or host.endswith(".slack.com") or parts.path.endswith("/slack")


def _endpoint_fields(url: str) -> dict[str, Any]:
    name = f"{_ENDPOINT_NAME}{urlsplit(url).hostname}"[:100]
    return {"name": name, "url": url, "event_types": NO_EVENTS, "is_active": True}


def _rule_fields(
    entry: Entry, rule: AlertRule, slack_url: str, endpoint: WebhookEndpoint | None
) -> dict[str, Any]:
    kind = _KINDS[entry.kind]
    holder_type = HolderType.GATEWAY.value if kind == AlertRule.Kind.DAILY_SPEND else ""
    shown = AlertRule(kind=kind, threshold=entry.threshold)
    of = "a budget" if kind == AlertRule.Kind.BUDGET else entry.model or "the gateway"
    return {
        "name": f"{threshold_text(shown)} of {of}"[:255],
        "kind": kind.value,
        "threshold": entry.threshold,
        "model": entry.model,
        "holder_type": holder_type,
        "emails": list(entry.emails),
        "sealed_slack_url": _same_or_sealed(rule, slack_url),
        "endpoint": endpoint,
        "to_webhooks": False,
        "to_slack": False,
        "to_email": False,
        "is_active": True,
    }


def _same_or_sealed(rule: AlertRule, url: str) -> str:
    """Return the address sealed: as it was where it is the same, for sealing differs each time."""
    return rule.sealed_slack_url if _slack_url(rule) == url else sealed_url(url)


def _slack_url(rule: AlertRule) -> str:
    try:
        return unsealed_url(rule.sealed_slack_url) if rule.sealed_slack_url else ""
    except CannotUnseal:
        return "?"


def _take(rules: list[AlertRule], entry: Entry, slack_url: str) -> AlertRule | None:
    """Take the row of an entry: one with the same receivers, else the same threshold, kind and model."""

    def is_alike(rule: AlertRule) -> bool:
        return (rule.kind, rule.threshold, rule.model) == (_KINDS[entry.kind], entry.threshold, entry.model)

    def is_same(rule: AlertRule) -> bool:
        return is_alike(rule) and (rule.emails, _slack_url(rule)) == ([*entry.emails], slack_url)

    for fits in (is_same, is_alike):
        found = next((rule for rule in rules if fits(rule)), None)
        if found is not None:
            rules.remove(found)
            return found
    return None
