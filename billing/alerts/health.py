"""Whether alerts are looked after: what readiness and the admin say."""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Max

from billing.models import Alert, AlertRule

_LATE = timedelta(minutes=10)  # beat checks every minute


def alert_health(*, at: datetime) -> dict[str, Any]:
    """Return {"status", "rules", "last_check_at", "alerts_in_a_day"}. Three queries.

    status: `checked`; `not checked` where rules that the clock brings were not looked at for
    ten minutes: the worker or its beat is not running; `off` without any rule.
    """
    rules = AlertRule.objects.filter(is_active=True)
    by_clock = rules.exclude(kind=AlertRule.Kind.BUDGET)
    last = by_clock.aggregate(last=Max("checked_at"))["last"]
    is_late = last is None or at - last > _LATE
    count = rules.count()
    return {
        "status": "off" if not count else "not checked" if by_clock.exists() and is_late else "checked",
        "rules": count,
        "last_check_at": last,
        "alerts_in_a_day": Alert.objects.filter(raised_at__gt=at - timedelta(days=1)).count(),
    }


def forget_old_alerts(*, at: datetime, keep: timedelta) -> int:
    """Delete alerts about periods that are over for so long. Returns: how many.

    By their raising and not by their period's end: one of all time would be told again.
    """
    old = Alert.objects.filter(raised_at__lt=at - keep).exclude(window="all")
    return old.delete()[0]
