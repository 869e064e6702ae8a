"""
What the clock brings: a day's spend, projections, spikes, upstreams and endpoints that fail.

Beat has `check_rules` run every minute. Each rule reads its sums, and tells what the
constraint on `Alert` lets it tell: twice at a time does no harm. A rule that fails is
logged, and does not keep the others from being checked.
"""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction
from django.db.models import (
    Count,
    Exists,
    ExpressionWrapper,
    F,
    FloatField,
    Max,
    OuterRef,
    Q,
    QuerySet,
    Value,
)

from billing.alerts import words
from billing.alerts.budgets import holders_with_soft_budgets_alone, period_of_budget
from billing.alerts.crossing import of_period, soft_findings
from billing.alerts.raising import Finding, raise_alerts
from billing.budgets.forecast import PACE_DAYS, Pace, forecast, pace_of_days
from billing.budgets.periods import PeriodKey, ensure_periods
from billing.models import (
    Alert,
    AlertRule,
    BudgetPeriod,
    Delivery,
    DeliveryLane,
    HolderType,
    SpendLog,
    WebhookEndpoint,
)
from billing.models.delivery import Channel, lane_of
from billing.models.spend_total import GATEWAY_ID
from billing.reporting import reports
from billing.reporting.reports import Filters

logger = logging.getLogger(__name__)

Kind = AlertRule.Kind

BASELINE_DAYS = 7
FAILING_MINUTES = 5
FAILING_CALLS = 5  # fewer failures are no outage
_READ_CALLS = 20_000  # of the latest, to tell whether an upstream fails
_MOST_PROJECTIONS = 500  # looked at closely at a time; the next minute takes the next ones
_ENDPOINT_FAILURES = 5  # in a row
_ENDPOINT_SILENCE = timedelta(minutes=15)
_ONE_DAY, _ONE_HOUR = timedelta(days=1), timedelta(hours=1)
_LOOK_BACK = timedelta(days=30)  # who had no call in them is new


def check_rules(*, at: datetime) -> int:
    """Check every active rule that the clock brings, and tell. Returns: how many alerts are new."""
    told = 0
    for rule in AlertRule.objects.filter(is_active=True, kind__in=list(_CHECKS)).order_by("pk"):
        try:
            findings = list(_CHECKS[Kind(rule.kind)](rule, at))
            with transaction.atomic(), connection.cursor() as cursor:
                told += len(raise_alerts(cursor, findings, at=at))
        except Exception:
            logger.exception("the alert rule %d could not be checked", rule.pk)
            continue
        # Past the change log and the audit log: nobody edited it.
        QuerySet(AlertRule).filter(pk=rule.pk).update(checked_at=at)
    return told


# -- days ----------------------------------------------------------------------------


def _zone() -> ZoneInfo:
    return ZoneInfo(settings.REPORTING_TIME_ZONE)


def today(at: datetime) -> date:
    return at.astimezone(_zone()).date()


def start_of(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=_zone()).astimezone(UTC)


def _day_text(day: date) -> str:
    return f"{day.isoformat()} ({settings.REPORTING_TIME_ZONE})"


def _of_day(
    rule: AlertRule,
    holder: tuple[str, str],
    day: date,
    spent: Decimal,
    more: dict[str, Any],
    *,
    scope: str = "",
) -> Finding:
    starts_at = start_of(day)
    threshold = rule.threshold if rule.threshold is not None else Decimal(0)
    return Finding(
        rule, *holder, scope, "day", starts_at, start_of(day + _ONE_DAY), 0, threshold, Decimal(0), spent,
        {**more, "day": day.isoformat()},
    )  # fmt: skip


def _filters(holder_type: str, holder_id: str, first: date, last: date) -> Filters:
    """Return what chooses the calls of a holder, or of all holders of its type: "" is each."""
    field = _FILTERS.get(holder_type)
    chosen: dict[str, Any] = {field: [holder_id]} if field and holder_id else {}
    return Filters(start=first, end=last, **chosen)


# By type of holder: the field of `Filters`; each is also a dimension of reports.
_FILTERS = {
    HolderType.CUSTOMER.value: "customers",
    HolderType.KEY.value: "keys",
    HolderType.TEAM.value: "teams",
    HolderType.USER.value: "users",
    HolderType.TAG.value: "tags",
}


def _spent_by_holder(
    rule: AlertRule, first: date, last: date, *, least: Decimal
) -> dict[tuple[str, str], Decimal]:
    """Return what each holder of the rule spent on these days, both included, from `least` on."""
    holder_type = rule.holder_type or HolderType.GATEWAY.value
    filters = _filters(holder_type, rule.holder_id, first, last)
    if holder_type == HolderType.GATEWAY:
        total = reports.totals(filters).cost
        return {(holder_type, GATEWAY_ID): total} if total >= least else {}
    found = {}
    for name, amounts in reports.amounts(filters, holder_type).items():  # type: ignore[arg-type]
        spent = amounts.charge if holder_type == HolderType.CUSTOMER else amounts.cost
        # A call that carries the chosen tag may carry others, too.
        if name and spent >= least and rule.holder_id in ("", name):
            found[holder_type, name] = spent
    return found


def daily_spend(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    threshold, day = Decimal(rule.threshold or 0), today(at)
    for holder, spent in _spent_by_holder(rule, day, day, least=threshold).items():
        sentence = partial(words.daily_spend_sentence, spent=spent, threshold=threshold, day=_day_text(day))
        yield _of_day(rule, holder, day, spent, {"sentence": sentence})


def model_usage(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    threshold, day = Decimal(rule.threshold or 0), today(at)
    figures = reports.totals(Filters(start=day, end=day, models=[rule.model]))
    amounts = {
        AlertRule.Unit.USD: figures.cost,
        AlertRule.Unit.CALLS: Decimal(figures.calls),
        AlertRule.Unit.TOKENS: Decimal(figures.usage.prompt_tokens + figures.usage.completion_tokens),
    }
    amount = amounts[AlertRule.Unit(rule.unit)]
    if amount >= threshold:
        sentence = words.usage_sentence(
            rule.model, amount=amount, threshold=threshold, unit=rule.unit, day=_day_text(day)
        )
        more = {"sentence": sentence, "usage": amount, "usage_unit": rule.unit}
        yield _of_day(rule, ("model", rule.model), day, figures.cost, more, scope=rule.model)


def spend_spike(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    """Yield holders whose day is a multiple of the mean of the seven days before.

    Those who never spent before are new, not a spike.
    """
    times, day = Decimal(rule.threshold or 0), today(at)
    spent_today = _spent_by_holder(rule, day, day, least=Decimal(rule.minimum_usd or 0))
    if not spent_today:
        return
    before = _spent_by_holder(rule, day - BASELINE_DAYS * _ONE_DAY, day - _ONE_DAY, least=Decimal(0))
    for holder, spent in spent_today.items():
        usual = before.get(holder, Decimal(0)) / BASELINE_DAYS
        if usual > 0 and spent > usual * times:
            sentence = partial(
                words.spike_sentence, spent=spent, usual=usual, times=times, day=_day_text(day)
            )
            yield _of_day(
                rule, holder, day, spent, {"sentence": sentence, "usual_spend": usual.quantize(_NANO)}
            )


_NANO = Decimal(1).scaleb(-9)


def unpriced_models(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    day = today(at)
    for group in reports.grouped(Filters(start=day, end=day), ("provider", "upstream_model")):
        calls = group.tally.unpriced_calls
        if not calls:
            continue
        provider, model = group.names[0] or "unknown", group.names[1] or "unknown"
        sentence = words.unpriced_sentence(model, provider, calls=calls, day=_day_text(day))
        more = {"sentence": sentence, "provider": provider, "unpriced_calls": calls, "model": model}
        yield _of_day(rule, ("model", f"{provider}/{model}"[:511]), day, Decimal(0), more, scope=model)


# -- budgets -------------------------------------------------------------------------


def projected_exceed(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    """Yield running periods that will be over their limit before they end, at the pace of late."""
    for period in _worth_projecting(rule, at):
        limit = Decimal(period.last_limit or 0)
        said = forecast(
            spent=period.spent + Decimal(period.provisional),
            limit=limit,
            counts_from=period.counts_from,
            ends_at=period.ends_at,
            at=at,
            recent=_recent_pace(period, at),
        )
        if said is None or said.at_end is None or said.exceeds_at is None or period.ends_at is None:
            continue
        on = said.exceeds_on(settings.BUDGET_TIME_ZONE)
        assert on is not None  # there is an instant
        sentence = partial(
            words.projected_sentence, holder_type=period.holder_type, spent=period.spent, limit=limit,
            projected=said.at_end, on=on.isoformat(), ends_at=period.ends_at,
        )  # fmt: skip
        more = {
            "sentence": sentence,
            "projected_spend": said.at_end,
            "projected_exceeded_date": on.isoformat(),
        }
        yield of_period(rule, period, Decimal(1), limit, more)


def _worth_projecting(rule: AlertRule, at: datetime) -> Iterator[BudgetPeriod]:
    """Yield running periods that are ahead of a steady pace, or half of it, and were not told yet."""
    running = BudgetPeriod.objects.filter(
        counts_from__lte=at, ends_at__gt=at, last_limit__gt=0, scope=rule.model or ""
    )
    if rule.holder_type:
        running = running.filter(holder_type=rule.holder_type)
    if rule.holder_id:
        running = running.filter(holder_id=rule.holder_id)
    told = Alert.objects.filter(
        rule=rule, holder_type=OuterRef("holder_type"), holder_id=OuterRef("holder_id"),
        scope=OuterRef("scope"), window=OuterRef("window"), starts_at=OuterRef("starts_at"),
        generation=OuterRef("generation"), limit=OuterRef("last_limit"),
    )  # fmt: skip
    left = _MOST_PROJECTIONS
    # A few windows have all the rows: how much of each is over is the same for its holders.
    for bounds in running.order_by().values("counts_from", "ends_at").distinct():
        begun, ends_at = bounds["counts_from"], bounds["ends_at"]
        assert ends_at is not None  # by the filter
        over = (at - begun) / (ends_at - begun)
        steady = ExpressionWrapper(F("last_limit") * Value(over / 2, FloatField()), FloatField())
        rows = running.filter(**bounds).filter(~Exists(told))
        for amount, of in (
            ("spent_charge", Q(holder_type=HolderType.CUSTOMER)),
            ("spent_cost", ~Q(holder_type=HolderType.CUSTOMER)),
        ):
            ahead = Q(**{f"{amount}__lt": F("last_limit"), f"{amount}__gte": steady})
            found = list(rows.filter(of, ahead).order_by("-pk")[:left])
            left -= len(found)
            yield from found


def _recent_pace(period: BudgetPeriod, at: datetime) -> Pace | None:
    """Return the pace of a holder's last days; None: that of the period itself will do."""
    if period.scope or period.holder_type == HolderType.TEAM_MEMBER:
        return None
    day = today(at)
    first = day - (PACE_DAYS - 1) * _ONE_DAY
    rows = reports.by_day(_filters(period.holder_type, period.holder_id, first, day))
    is_charged = period.holder_type == HolderType.CUSTOMER
    by_day = {row.day: row.figures.charge if is_charged else row.figures.cost for row in rows}
    before = _filters(period.holder_type, period.holder_id, first - _LOOK_BACK, first - _ONE_DAY)
    was_active = reports.totals(before).calls > 0
    return pace_of_days(by_day, today=day, starts_at=start_of(day), active_before=was_active)


def soft_budgets_alone(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    """Yield holders above a soft budget that stands alone: no call is held on it, so no call finds out."""
    keys = [
        PeriodKey(*holder, "", period.window, period.starts_at, period.ends_at)
        for holder, budget in holders_with_soft_budgets_alone()
        if rule.concerns(*holder)
        for period in [period_of_budget(budget, at)]
    ]
    if not keys:
        return
    ids = [row.id for rows in ensure_periods(keys).values() for row in rows[:1]]
    for finding in soft_findings(list(BudgetPeriod.objects.filter(pk__in=ids)), at=at):
        if finding.rule.pk == rule.pk:
            yield finding


# -- what fails ----------------------------------------------------------------------


def failing_upstreams(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    """Yield upstreams of which too large a share of the last minutes' calls failed."""
    share = Decimal(rule.threshold or 1)
    # Not twice where an outage goes over the full hour, which the constraint goes by.
    told = Alert.objects.filter(rule=rule, raised_at__gt=at - _ONE_HOUR).values_list("holder_id", flat=True)
    ids = (
        SpendLog.objects.started_between(at - timedelta(minutes=FAILING_MINUTES), at)
        .order_by("-pk")
        .values_list("pk", flat=True)[:_READ_CALLS]
    )
    latest = SpendLog.objects.filter(pk__in=list(ids)).exclude(upstream__in=["", *told])
    failed = Q(status=SpendLog.Status.FAILURE) & (
        Q(http_status__gte=500) | Q(http_status=429) | Q(http_status=None)
    )
    rows = latest.values("upstream").annotate(
        calls=Count("pk"), failures=Count("pk", filter=failed), error=Max("error_message", filter=failed)
    )
    for row in rows.order_by("upstream"):
        calls, failures = row["calls"], row["failures"]
        if failures >= FAILING_CALLS and failures >= calls * share:
            sentence = words.upstream_sentence(
                row["upstream"],
                failed=failures,
                calls=calls,
                minutes=FAILING_MINUTES,
                error=row["error"] or "",
            )
            more = {"sentence": sentence, "failed_calls": failures, "calls": calls}
            yield _of_hour(rule, ("upstream", row["upstream"]), at, share, more)


def failing_endpoints(rule: AlertRule, at: datetime) -> Iterator[Finding]:
    """Yield webhook endpoints that have failed for a quarter of an hour, and those that were disabled."""
    for endpoint in WebhookEndpoint.objects.filter(is_active=True).order_by("pk"):
        name = lane_of(Channel.WEBHOOK, endpoint.pk)
        lane = DeliveryLane.objects.filter(
            pk=name, failures_in_a_row__gte=_ENDPOINT_FAILURES, failing_since__lte=at - _ENDPOINT_SILENCE
        ).first()
        if lane is None or lane.failing_since is None:
            continue
        waiting = (
            Delivery.objects.filter(lane=name, next_attempt_at__isnull=False).order_by()[:100_000].count()
        )
        sentence = words.endpoint_sentence(
            str(endpoint), failures=lane.failures_in_a_row, since=lane.failing_since, waiting=waiting
        )
        more = {"sentence": sentence, "failures": lane.failures_in_a_row, "waiting": waiting}
        # One alert for one time of failing, however long.
        yield Finding(
            rule, "endpoint", str(endpoint.pk), "", "failing", lane.failing_since, None, 0, Decimal(0),
            Decimal(0), Decimal(0), more,
        )  # fmt: skip


def _of_hour(
    rule: AlertRule, holder: tuple[str, str], at: datetime, threshold: Decimal, more: dict[str, Any]
) -> Finding:
    starts_at = at.replace(minute=0, second=0, microsecond=0)
    ends_at = starts_at + _ONE_HOUR
    return Finding(rule, *holder, "", "hour", starts_at, ends_at, 0, threshold, Decimal(0), Decimal(0), more)


_CHECKS: dict[Kind, Callable[[AlertRule, datetime], Iterator[Finding]]] = {
    Kind.SOFT_BUDGET: soft_budgets_alone,
    Kind.PROJECTED_EXCEED: projected_exceed,
    Kind.DAILY_SPEND: daily_spend,
    Kind.MODEL_USAGE: model_usage,
    Kind.SPEND_SPIKE: spend_spike,
    Kind.UNPRICED_MODEL: unpriced_models,
    Kind.UPSTREAM_FAILING: failing_upstreams,
    Kind.ENDPOINT_FAILING: failing_endpoints,
}
