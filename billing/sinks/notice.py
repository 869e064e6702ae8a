"""An event as people read it: a title, a sentence, a few facts, a link. For Slack and e-mail alike."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from billing.models import Event
from billing.reporting.words import MINUS, plural, short_usd
from customers.words import count, usd

_TITLES = {
    "threshold_crossed": ("Low", "Budget nearly used up"),
    "budget_crossed": ("High", "Budget used up"),
    "soft_budget_crossed": ("Medium", "Soft budget spent"),
    "projected_limit_exceeded": ("Medium", "Budget will be exceeded"),
    "daily_spend_crossed": ("Medium", "Much spent today"),
    "model_usage_crossed": ("Low", "Much used today"),
    "spend_anomaly": ("High", "Spend spike"),
    "failed_tracking_spend": ("High", "Model without a price"),
    "upstream_failing": ("High", "Upstream failing"),
    "webhook_endpoint_failing": ("High", "Webhook endpoint failing"),
    "spend_report": ("Low", "Spend report"),
}
_PERIODS = "period_ends_at"


class Listed(NamedTuple):
    """One list of a report. rows: (name, spend, change, calls) of those who spent most."""

    title: str
    rows: list[tuple[str, str, str, str]]


class Notice(NamedTuple):
    """What there is to read. level: Low, Medium or High; facts: (label, text)."""

    title: str
    level: str
    message: str
    facts: list[tuple[str, str]]
    url: str
    lists: list[Listed] = []


def notice_of(event: Event) -> Notice:
    body = event.body
    level, title = _TITLES.get(event.type, ("Low", event.type.replace("_", " ").capitalize()))
    report = body.get("report")
    if report:
        return Notice(
            f"{title}: {report['first_day']} to {report['last_day']}",
            level,
            str(body.get("event_message", "")),
            _report_facts(report),
            str(body.get("admin_url") or ""),
            [
                Listed("Customers", _rows(report["customers"])),
                Listed("Models", _rows(report["models"])),
                Listed("Teams", _rows(report["teams"])),
            ],
        )
    who = str(
        body.get("customer_id") or body.get("key_alias") or body.get("team_alias") or body.get("tag") or ""
    )
    return Notice(
        f"{title}: {who}" if who else title,
        level,
        str(body.get("event_message", "")),
        list(_facts(body)),
        str(body.get("admin_url") or ""),
    )


def _facts(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known, in the order of interest."""
    amounts: tuple[tuple[str, str, Callable[[Decimal], str]], ...] = (
        ("Spent", "spend", usd),
        ("Budget", "max_budget", usd),
        ("Soft budget", "soft_budget", usd),
        ("At the end of the period", "projected_spend", short_usd),
        ("Usual, a day", "usual_spend", short_usd),
    )
    texts = (
        ("Customer", "customer_id"),
        ("Key", "key_alias"),
        ("Team", "team_alias"),
        ("User", "user_email"),
        ("Tag", "tag"),
        ("Model", "model"),
        ("Used up on", "projected_exceeded_date"),
        ("Day", "day"),
        ("Rule", "alert_rule"),
    )
    found = [
        (label, write(Decimal(body[name])))
        for label, name, write in amounts
        if isinstance(body.get(name), Decimal | int)
    ]
    if body.get(_PERIODS) and body.get("max_budget") is not None:
        found.append(("Period ends", str(body[_PERIODS])[:16].replace("T", " ") + " UTC"))
    return found + [(label, str(body[name])) for label, name in texts if body.get(name)]


def _report_facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Spend", usd(Decimal(report["spend"]))),
        ("Before", usd(Decimal(report["previous_spend"]))),
        ("Change", str(report["change"])),
        ("Calls", count(report["calls"])),
        ("Failed or refused", count(report["failed_calls"])),
    ]
    if report["unpriced_calls"]:
        facts.append(("Without a price", count(report["unpriced_calls"])))
    return facts


def _rows(rows: list[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [
        (
            str(row.get("alias") or row["name"]),
            short_usd(Decimal(row["spend"])),
            str(row["change"]).replace(MINUS, "-"),
            plural(row["calls"], "call"),
        )
        for row in rows
    ]
