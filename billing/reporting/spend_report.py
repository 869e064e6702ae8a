"""
The spend report of a week or a month: what it cost, who and what it went to, against the one before.

Made from the rollups, days of REPORTING_TIME_ZONE. It is an alert like any other: rules of
the kinds `weekly_report` and `monthly_report` say who gets it, and the constraint on
`Alert` lets each period's be sent once. Periods are those of budgets: weeks begin on
Mondays, months on the 1st.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from billing.alerts.raising import Finding, raise_alerts
from billing.models import AlertRule, HolderType
from billing.models.spend_total import GATEWAY_ID
from billing.reporting import reports
from billing.reporting.reports import Filters
from billing.reporting.words import change, plural, short_usd
from customers.durations import Duration, Period, parse_duration, period_of
from customers.models import Team

Kind = AlertRule.Kind

LISTED = 5  # of customers, models and teams
# The last calls of a period are booked, and journals of workers that died are adopted.
_BOOKED_BY = timedelta(hours=1)
# A report that could not be sent for so long is not sent any more: an upgrade sends no old ones.
_STALE = {Kind.WEEKLY_REPORT: timedelta(days=3), Kind.MONTHLY_REPORT: timedelta(days=7)}


class Days(NamedTuple):
    """The days [first, last], both included."""

    first: date
    last: date


def send_due_reports(*, at: datetime) -> int:
    """Send each rule's report about the period that ended last, if it was not sent. Returns: how many."""
    sent = 0
    for rule in AlertRule.objects.filter(is_active=True, kind__in=list(_STALE)).order_by("pk"):
        findings = list(_due(rule, at))
        with transaction.atomic(), connection.cursor() as cursor:
            sent += len(raise_alerts(cursor, findings, at=at))
        QuerySet(AlertRule).filter(pk=rule.pk).update(checked_at=at)
    return sent


def _due(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    zone = ZoneInfo(settings.REPORTING_TIME_ZONE)
    duration = duration_of(rule)
    running = period_of(duration, at, zone)
    ended = period_of(duration, running.starts_at - timedelta(seconds=1), zone)
    if not running.starts_at + _BOOKED_BY <= at < running.starts_at + _STALE[Kind(rule.kind)]:
        return
    if rule.alerts.filter(window=ended.window, starts_at=ended.starts_at).exists():
        return
    before = period_of(duration, ended.starts_at - timedelta(seconds=1), zone)
    report = report_of(_days(ended, zone), _days(before, zone))
    if not report["calls"]:
        return  # nothing happened: nobody wants to read that
    message = (
        f"Spend Report: {short_usd(report['spend'])} from {report['first_day']} to {report['last_day']} "
        f"({report['change']} against the period before), {plural(report['calls'], 'call')}."
    )
    yield Finding(
        rule, HolderType.GATEWAY.value, GATEWAY_ID, "", ended.window, ended.starts_at, ended.ends_at, 0,
        Decimal(0), Decimal(0), report["spend"], {"sentence": message, "report": report},
    )  # fmt: skip


def duration_of(rule: AlertRule) -> Duration:
    """Return how long the periods of a rule's report are."""
    if rule.kind == Kind.MONTHLY_REPORT:
        return Duration(1, "mo")
    return parse_duration(settings.SPEND_REPORT_FREQUENCY)


def _days(period: Period, zone: ZoneInfo) -> Days:
    assert period.ends_at is not None  # of a duration
    last = period.ends_at - timedelta(seconds=1)
    return Days(period.starts_at.astimezone(zone).date(), last.astimezone(zone).date())


def report_of(days: Days, before: Days) -> dict[str, Any]:
    """Return the figures of a report. Amounts are `Decimal`: customers' what they are charged."""
    now, earlier = reports.totals(_filters(days)), reports.totals(_filters(before))
    return {
        "first_day": days.first.isoformat(),
        "last_day": days.last.isoformat(),
        "time_zone": settings.REPORTING_TIME_ZONE,
        "spend": now.cost,
        "charge": now.charge,
        "previous_spend": earlier.cost,
        "change": change(now.cost, earlier.cost),
        "calls": now.calls,
        "failed_calls": now.failed_calls,
        "unpriced_calls": now.unpriced_calls,
        "customers": _largest("customer", days, before),
        "models": _largest("model", days, before),
        "teams": _with_aliases(_largest("team", days, before)),
    }


def _filters(days: Days, **chosen: Any) -> Filters:
    return Filters(start=days.first, end=days.last, **chosen)


_CHOSEN = {"customer": "customers", "model": "models", "team": "teams"}


def _largest(
    dimension: Literal["customer", "model", "team"], days: Days, before: Days
) -> list[dict[str, Any]]:
    """Return those who spent most, with what they had spent before."""
    # One more: the calls of no customer, or of no team, are a row, too.
    rows = [row for row in reports.by(_filters(days), dimension, limit=LISTED + 1) if row.name][:LISTED]
    earlier = _filters(before, **{_CHOSEN[dimension]: [row.name for row in rows]})
    spent = {row.name: row.figures.spend for row in reports.by(earlier, dimension)} if rows else {}
    return [
        {
            "name": row.name,
            "spend": row.figures.spend,
            "previous_spend": spent.get(row.name, Decimal(0)),
            "change": change(row.figures.spend, spent.get(row.name, Decimal(0))),
            "calls": row.figures.calls,
        }
        for row in rows
    ]


def _with_aliases(teams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = Team.objects.filter(pk__in=[team["name"] for team in teams]).exclude(alias="")
    aliases = dict(rows.values_list("pk", "alias"))
    return [{**team, "alias": aliases.get(team["name"])} for team in teams]
