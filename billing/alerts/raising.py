"""
One row per alert, by constraint, and the event that tells of it: both or neither.

In the transaction that found out. Whoever inserts the row tells; whoever meets a row that
is there already does nothing, however many processes find out at once. Rows are inserted
in the order of their key, behind all other locks but the outbox's (docs/locking.md).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings

from billing.alerts import words
from billing.alerts.secrets import slack_target
from billing.alerts.words import Subject
from billing.models import Alert, AlertRule
from billing.models.delivery import Channel, lane_of
from billing.webhooks.events import NewEvent, Target, current_receivers, insert_deliveries, write_events
from customers.ids import uuid7_at
from customers.money import plain_usd

Kind = AlertRule.Kind


class Finding(NamedTuple):
    """A rule that came true. What makes it one alert: all but `ends_at`, `spent` and `more`.

    more: what its event says besides. "sentence" is the message, or makes it of the `Subject`;
    rules about budgets need none.
    """

    rule: AlertRule
    holder_type: str
    holder_id: str
    scope: str
    window: str
    starts_at: datetime
    ends_at: datetime | None
    generation: int
    threshold: Decimal
    limit: Decimal
    spent: Decimal
    more: dict[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        return (
            self.rule.pk, self.holder_type, self.holder_id, self.scope, self.window, self.starts_at,
            self.generation, plain_usd(self.threshold), self.limit,
        )  # fmt: skip


def raise_alerts(cursor: Any, findings: Iterable[Finding], *, at: datetime) -> list[Alert]:
    """Tell of the findings that were not told yet. In the caller's transaction.

    Returns: the alerts that are new.
    """
    wanted = {finding.key: finding for finding in findings if _is_wanted(finding)}
    if not wanted:
        return []
    made = {alert.pk: (alert, wanted[key]) for key in sorted(wanted) for alert in [_alert(wanted[key], at)]}
    Alert.objects.bulk_create([alert for alert, _ in made.values()], ignore_conflicts=True)
    # Those of ours that are there now are new; in the place of the others stands an older one.
    new = [made[pk] for pk in Alert.objects.filter(pk__in=list(made)).values_list("pk", flat=True)]
    new.sort(key=lambda each: each[1].key)
    if new:
        _tell(cursor, new, at)
    return [alert for alert, _ in new]


def _is_wanted(finding: Finding) -> bool:
    rule = finding.rule
    return (
        rule.is_active
        and rule.concerns(finding.holder_type, finding.holder_id)
        and rule.model in ("", finding.scope)
        and (not settings.ALERT_TYPES or words.ALERT_TYPES[Kind(rule.kind)] in settings.ALERT_TYPES)
    )


def _alert(finding: Finding, at: datetime) -> Alert:
    rule = finding.rule
    return Alert(
        id=uuid7_at(int(at.timestamp() * 1000)),
        rule=rule,
        rule_name=rule.name,
        kind=rule.kind,
        holder_type=finding.holder_type,
        holder_id=finding.holder_id,
        scope=finding.scope,
        window=finding.window,
        starts_at=finding.starts_at,
        generation=finding.generation,
        threshold=plain_usd(finding.threshold),
        limit=finding.limit,
        spent=finding.spent,
        event_type=words.event_type(rule.kind, finding.threshold),
        message="",
        raised_at=at,
    )


# -- telling -------------------------------------------------------------------------


def _tell(cursor: Any, new: Sequence[tuple[Alert, Finding]], at: datetime) -> None:
    events = [_event(alert, finding) for alert, finding in new]
    ids = write_events(cursor, events, at=at)
    for (alert, _), event, event_id in zip(new, events, ids, strict=True):
        alert.event_id, alert.message = event_id, event.body["event_message"]
    alerts = [alert for alert, _ in new]
    Alert.objects.bulk_update(alerts, ["event_id", "message"])
    _deliver_to_rules(cursor, new, events, ids, at)


def _event(alert: Alert, finding: Finding) -> NewEvent:
    rule = finding.rule
    subject = words.subject_of(finding.holder_type, finding.holder_id)
    fields = dict(finding.more)
    sentence: Callable[[Subject], str] | str | None = fields.pop("sentence", None)
    refusal = fields.get("refusal")
    if refusal is not None:
        fields["refusal"] = words.told_refusal(refusal, subject)
    if isinstance(sentence, str):
        message = sentence
    elif sentence is not None:
        message = sentence(subject)
    elif rule.kind == Kind.SOFT_BUDGET:
        message = words.soft_sentence(subject, spent=finding.spent, soft=finding.limit)
    else:
        message = words.budget_sentence(
            subject, finding.holder_type, finding.scope, threshold=finding.threshold, spent=finding.spent,
            limit=finding.limit, ends_at=finding.ends_at, refusal=refusal,
        )  # fmt: skip
    about = {
        "spend": finding.spent,
        **fields,
        "alert_id": str(alert.pk),
        "alert_rule": rule.name,
        "holder_type": finding.holder_type,
        "threshold": finding.threshold,
        "period_starts_at": finding.starts_at.isoformat(),
        "period_ends_at": finding.ends_at.isoformat() if finding.ends_at else None,
    }
    if finding.scope:
        about["model"] = finding.scope
    body = words.body_of(rule.kind, finding.threshold, finding.holder_type, subject, message, about)
    return NewEvent(
        body["event"],
        body["event_group"],
        body["customer_id"] or "",
        body,
        emails=emails_of(rule),
        slack=rule.to_slack and is_on("slack"),
        webhook=rule.to_webhooks
        and is_on("webhook")
        and rule.kind not in (Kind.WEEKLY_REPORT, Kind.MONTHLY_REPORT),
    )


def is_on(channel: str) -> bool:
    """Tell whether the receivers of all rules are told by `channel`: ALERTING names some, or all are."""
    if settings.ALERTING and channel not in settings.ALERTING:
        return False
    return channel != "slack" or bool(settings.SLACK_WEBHOOK_URL)


def emails_of(rule: AlertRule) -> tuple[str, ...]:
    """Return whom a rule tells by e-mail: nobody, where no mail server is configured."""
    if not settings.EMAIL_IS_CONFIGURED:
        return ()
    shared = settings.ALERT_EMAILS if rule.to_email and is_on("email") else ()
    return tuple(dict.fromkeys([*rule.emails, *shared]))


def _deliver_to_rules(
    cursor: Any,
    new: Sequence[tuple[Alert, Finding]],
    events: Sequence[NewEvent],
    ids: Sequence[UUID],
    at: datetime,
) -> None:
    """Address events to receivers that a rule has for itself: its Slack channel, its endpoint."""
    wanted: list[tuple[str, Target]] = []
    for (_, finding), event, event_id in zip(new, events, ids, strict=True):
        rule = finding.rule
        if rule.sealed_slack_url:
            lane = lane_of(Channel.SLACK)
            wanted.append((event_id.hex, Target(Channel.SLACK.value, None, lane, slack_target(rule.pk))))
        if rule.endpoint_id is not None and not _is_told_anyway(rule.endpoint_id, event):
            lane = lane_of(Channel.WEBHOOK, rule.endpoint_id)
            wanted.append((event_id.hex, Target(Channel.WEBHOOK.value, rule.endpoint_id, lane)))
    insert_deliveries(cursor, wanted, at=at)


def _is_told_anyway(endpoint_id: int, event: NewEvent) -> bool:
    return event.webhook and any(
        receiver.endpoint_id == endpoint_id and receiver.wants(event.type, event.customer_id)
        for receiver in current_receivers()
    )
