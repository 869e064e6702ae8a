"""
What an alert says: the name of its event, one sentence for people, and the fields of its body.

The body has all keys of LiteLLM's webhook event, with nulls, and ours besides. Amounts
are USD. Names of events that LiteLLM lacks are ours: a day's spend, a model's usage, a
spike, what fails.

Source: LiteLLM 1.81, `litellm/proxy/_types.py`, `WebhookEvent`.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urljoin

from django.conf import settings
from django.urls import NoReverseMatch, reverse

from billing.models import AlertRule, HolderType
from billing.reporting.words import plural
from billing.webhooks.events import customer_group
from customers.models import Customer, Team, User, VirtualKey
from customers.money import plain_usd
from customers.words import count, usd

Kind = AlertRule.Kind

# Of whom an event is, in the words of webhooks. LiteLLM: the gateway is "proxy".
GROUPS = {HolderType.GATEWAY.value: "proxy"}
_OF_NOBODY = "proxy"

_EVENTS = {
    Kind.SOFT_BUDGET: "soft_budget_crossed",
    Kind.PROJECTED_EXCEED: "projected_limit_exceeded",
    Kind.DAILY_SPEND: "daily_spend_crossed",
    Kind.MODEL_USAGE: "model_usage_crossed",
    Kind.SPEND_SPIKE: "spend_anomaly",
    Kind.UNPRICED_MODEL: "failed_tracking_spend",
    Kind.UPSTREAM_FAILING: "upstream_failing",
    Kind.ENDPOINT_FAILING: "webhook_endpoint_failing",
    Kind.WEEKLY_REPORT: "spend_report",
    Kind.MONTHLY_REPORT: "spend_report",
}
EVENT_TYPES = ("threshold_crossed", "budget_crossed", *dict.fromkeys(_EVENTS.values()))

# LiteLLM's alert types, which ALERT_TYPES chooses from.
ALERT_TYPES = {
    Kind.BUDGET: "budget_alerts",
    Kind.SOFT_BUDGET: "budget_alerts",
    Kind.PROJECTED_EXCEED: "budget_alerts",
    Kind.DAILY_SPEND: "user_spend_thresholds",
    Kind.MODEL_USAGE: "user_spend_thresholds",
    Kind.SPEND_SPIKE: "user_spend_anomalies",
    Kind.UNPRICED_MODEL: "failed_tracking_spend",
    Kind.UPSTREAM_FAILING: "outage_alerts",
    Kind.ENDPOINT_FAILING: "outage_alerts",
    Kind.WEEKLY_REPORT: "spend_reports",
    Kind.MONTHLY_REPORT: "spend_reports",
}


class Subject(NamedTuple):
    """Whom an alert is about: what its event says of them."""

    label: str
    url: str = ""  # of the admin's page
    fields: Mapping[str, Any] = {}


def event_type(kind: str, threshold: Decimal) -> str:
    if kind == Kind.BUDGET:
        return "budget_crossed" if threshold >= 1 else "threshold_crossed"
    return _EVENTS[Kind(kind)]


def event_group(holder_type: str) -> str:
    if holder_type not in HolderType.values:
        return _OF_NOBODY
    if holder_type == HolderType.CUSTOMER:
        return customer_group()
    return GROUPS.get(holder_type, holder_type)


# -- who -----------------------------------------------------------------------------


def subject_of(holder_type: str, holder_id: str) -> Subject:
    """Return what is known of a holder. At most two queries."""
    match holder_type:
        case HolderType.CUSTOMER:
            alias = Customer.objects.filter(pk=holder_id).values_list("alias", flat=True).first()
            return Subject(
                _named(holder_id, alias), _page("customers_customer", holder_id), {"customer_id": holder_id}
            )
        case HolderType.KEY:
            return _key(holder_id)
        case HolderType.TEAM:
            team = _team(holder_id)
            return Subject(_named(team["team_alias"], holder_id), _page("customers_team", holder_id), team)
        case HolderType.USER:
            user = _user(holder_id)
            return Subject(_named(user["user_email"], holder_id), _page("customers_user", holder_id), user)
        case HolderType.TEAM_MEMBER:
            team_id, _, user_id = holder_id.partition("\n")
            team, user = _team(team_id), _user(user_id)
            label = f"{user['user_email'] or user_id} of team {team['team_alias'] or team_id}"
            return Subject(label, _page("customers_team", team_id), {**team, **user})
        case HolderType.TAG:
            return Subject(holder_id, _page("customers_tag", holder_id), {"tag": holder_id})
        case HolderType.GATEWAY:
            return Subject("the gateway", _admin("admin:index"))
        case "model":
            return Subject(holder_id, _admin("admin:billing_price_changelist"), {"model": holder_id})
        case _:
            return Subject(holder_id, _admin("admin:index"), {holder_type: holder_id})


def _named(name: str | None, other: str | None) -> str:
    """Return a name with the id, or the alias, behind it."""
    if not name:
        return other or ""
    return f"{name} ({other})" if other and other != name else name


def _key(holder_id: str) -> Subject:
    try:
        key = VirtualKey.objects.filter(pk=uuid.UUID(holder_id)).select_related("user", "team").first()
    except ValueError:
        key = None
    if key is None:
        return Subject("the master key" if holder_id == "master" else holder_id, _admin("admin:index"))
    return Subject(
        str(key),
        _page("customers_virtualkey", key.pk),
        {
            "token": key.token_hash,
            "key_alias": key.alias,
            "user_id": key.user_id,
            "user_email": (key.user.email or None) if key.user else None,
            "team_id": key.team_id,
            "team_alias": (key.team.alias or None) if key.team else None,
            "customer_id": key.customer_id,
        },
    )


def _team(team_id: str) -> dict[str, Any]:
    alias = Team.objects.filter(pk=team_id).values_list("alias", flat=True).first()
    return {"team_id": team_id, "team_alias": alias or None}


def _user(user_id: str) -> dict[str, Any]:
    email = User.objects.filter(pk=user_id).values_list("email", flat=True).first()
    return {"user_id": user_id, "user_email": email or None}


def _page(model: str, pk: Any) -> str:
    return _admin(f"admin:{model}_change", pk)


def _admin(name: str, *args: Any) -> str:
    try:
        return urljoin(settings.PUBLIC_URL.rstrip("/") + "/", reverse(name, args=args).lstrip("/"))
    except NoReverseMatch:
        return settings.PUBLIC_URL


# -- the sentence --------------------------------------------------------------------

_PREFIXES = {
    HolderType.GATEWAY.value: "Proxy Budget",
    HolderType.TEAM_MEMBER.value: "Team Member Budget",
}


def budget_prefix(holder_type: str) -> str:
    """Return how LiteLLM begins a message about a budget: `Key Budget`."""
    return _PREFIXES.get(holder_type, f"{holder_type.capitalize()} Budget")


def percent(share: Decimal) -> str:
    """Write a share: `80 %`, `87.5 %`."""
    return f"{plain_usd(share * 100)} %"


def moment_text(at: datetime | None) -> str:
    """Write an instant in the zone of budgets, as their pages do: `2026-08-01 00:00 UTC`."""
    if at is None:
        return ""
    local = at.astimezone(settings.BUDGET_TIME_ZONE)
    return f"{local:%Y-%m-%d %H:%M} {local.tzname()}"


def budget_sentence(
    who: Subject,
    holder_type: str,
    scope: str,
    *,
    threshold: Decimal,
    spent: Decimal,
    limit: Decimal,
    ends_at: datetime | None,
    refusal: Mapping[str, Any] | None,
) -> str:
    model = f" for {scope}" if scope else ""
    prefix = f"{budget_prefix(holder_type)}: "
    again = f" It starts again at {moment_text(ends_at)}." if ends_at else " It has no end."
    if refusal is not None and spent < limit * threshold:
        return (
            f"{prefix}a call of {who.label} was refused. {usd(spent)} of {usd(limit)}{model} are spent, "
            f"calls under way hold {_said(refusal, 'held')}, and this one may cost "
            f"{_said(refusal, 'hold')}.{again}"
        )
    said = f"{prefix}{who.label} has spent {usd(spent)} of {usd(limit)}{model}"
    if threshold < 1:
        return f"{said}, more than {percent(threshold)} of the budget.{again}"
    if threshold > 1:
        return f"{said}, more than {percent(threshold)} of the budget. Calls are refused.{again}"
    return f"{said}. The budget is used up, and calls are refused.{again}"


def _said(refusal: Mapping[str, Any], name: str) -> str:
    try:
        return usd(Decimal(refusal[name]))
    except (KeyError, ArithmeticError, TypeError):
        return "an unknown amount"


def told_refusal(refusal: Mapping[str, Any], who: Subject) -> dict[str, Any]:
    """Return a refusal as its caller was told it: amounts are numbers, a key's id is its hash."""
    told = dict(refusal)
    for name in ("limit", "spent", "held", "provisional", "hold"):
        with suppress(KeyError, ArithmeticError, TypeError, ValueError):
            told[name] = Decimal(told[name])
    if "token" in who.fields:
        told["id"] = who.fields["token"]
    return told


def soft_sentence(who: Subject, *, spent: Decimal, soft: Decimal) -> str:
    said = f"Soft Budget Crossed: {who.label} has spent {usd(spent)}, its soft budget is {usd(soft)}."
    return f"{said} Calls go on."


def projected_sentence(
    who: Subject,
    holder_type: str,
    *,
    spent: Decimal,
    limit: Decimal,
    projected: Decimal,
    on: str,
    ends_at: datetime,
) -> str:
    return (
        f"{budget_prefix(holder_type)}: at its pace of late {who.label} will have spent "
        f"{usd(_cents(projected))} by {moment_text(ends_at)}, and reach its budget of {usd(limit)} on {on}. "
        f"So far it has spent {usd(spent)}."
    )


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01")) if abs(amount) >= 1 else amount


def daily_spend_sentence(who: Subject, *, spent: Decimal, threshold: Decimal, day: str) -> str:
    return f"Daily Spend: {who.label} has spent {usd(spent)} on {day}, over {usd(threshold)}."


def usage_sentence(model: str, *, amount: Decimal, threshold: Decimal, unit: str, day: str) -> str:
    if unit == AlertRule.Unit.USD:
        used, over = f"{usd(amount)} were spent", usd(threshold)
    else:
        used, over = f"{count(int(amount))} {unit} were made", f"{count(int(threshold))} {unit}"
        used = used.replace("tokens were made", "tokens were used")
    return f"Model Usage: {used} with {model} on {day}, over {over}."


def spike_sentence(who: Subject, *, spent: Decimal, usual: Decimal, times: Decimal, day: str) -> str:
    return (
        f"Spend Spike: {who.label} has spent {usd(_cents(spent))} on {day}, more than {plain_usd(times)} "
        f"times the {usd(_cents(usual))} a day of the seven days before."
    )


def unpriced_sentence(model: str, provider: str, *, calls: int, day: str) -> str:
    return (
        f"Failed Tracking Spend: {plural(calls, 'call')} of {model} at {provider} on {day} "
        "without a cost, because the model has no price. Add one."
    )


def upstream_sentence(upstream: str, *, failed: int, calls: int, minutes: int, error: str) -> str:
    last = f" The last error: {error}" if error else ""
    of = f"{count(failed)} of {count(calls)} calls to {upstream}"
    return f"Upstream Failing: {of} failed in {minutes} minutes.{last}"


def endpoint_sentence(endpoint: str, *, failures: int, since: datetime, waiting: int) -> str:
    return (
        f"Webhook Endpoint Failing: {count(failures)} attempts in a row at {endpoint} have failed since "
        f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC; {count(waiting)} deliveries wait."
    )


# -- the body ------------------------------------------------------------------------


def body_of(
    kind: str, threshold: Decimal, holder_type: str, subject: Subject, message: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the event's body: LiteLLM's keys, all of them, and ours. Amounts: `Decimal`."""
    body: dict[str, Any] = {
        "spend": None,
        "max_budget": None,
        "soft_budget": None,
        "token": None,
        "customer_id": None,
        "user_id": None,
        "team_id": None,
        "team_alias": None,
        "organization_id": None,
        "user_email": None,
        "key_alias": None,
        "projected_exceeded_date": None,
        "projected_spend": None,
        "event_group": event_group(holder_type),
        "event": event_type(kind, threshold),
        "event_message": message,
    }
    return {**body, **subject.fields, **fields, "admin_url": subject.url}
