"""
Health: is the process alive, and is it able to do its work?

Liveness asks nothing of anybody. Readiness asks the database and the broker, and
tells how much of the journal waits to be booked: calls are served without the
database, so a backlog is told, and fails readiness only when the disk does.
"""

import time
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from kombu import Connection

from billing.alerts.health import alert_health
from billing.webhooks import deliveries
from proxy import gateway
from spendproject import __version__

_BROKER_SECONDS = 2.0
_BROKER_TOLD_FOR_SECONDS = 10.0
_broker_told: tuple[float, str] = (float("-inf"), "")


def liveness(request: HttpRequest) -> JsonResponse:
    """GET /health/liveliness, /health/liveness: the text LiteLLM answers with."""
    return JsonResponse("I'm alive!", safe=False)


def readiness(request: HttpRequest) -> JsonResponse:
    """GET /health/readiness: 200 when calls can be taken and booked, else 503."""
    database = _database()
    report: dict[str, Any] = {
        "db": database,
        "database": connection.vendor,
        "broker": _broker(),
        "deliveries": _deliveries(),
        "version": __version__,
        "litellm_version": __version__,
    }
    is_ready = database == "connected"
    report["alerts"] = _alerts() if is_ready else "unknown"
    try:
        running = gateway.running()
    except RuntimeError:
        report["journal"] = None
    else:
        recorder = running.recorder
        report["journal"] = {
            "backlog_bytes": recorder.backlog_bytes,
            "booked_calls": recorder.booked_calls,
            "last_error": recorder.last_error,
        }
        report["budgets"] = running.hold_desk.last_error or "enforced"
        report["rate_limits"] = running.rate_limiter.degraded or "exact"
        cache = running.response_cache
        report["response_cache"] = "off" if cache is None else cache.state
        report["calls_under_way"] = len(running.calls)
        is_ready = is_ready and not running.is_draining
    report["status"] = "healthy" if is_ready else "unhealthy"
    return JsonResponse(report, status=200 if is_ready else 503)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "disconnected"
    return "connected"


def _alerts() -> str:
    """Return whether alert rules are looked after. Told, and no reason not to take calls."""
    try:
        return alert_health(at=timezone.now())["status"]
    except DatabaseError:
        return "unknown"


def _deliveries() -> dict[str, Any] | None:
    """Return how much waits to be told to others. Told, and no reason not to take calls."""
    try:
        return deliveries.readiness()
    except DatabaseError:
        return None


def _broker() -> str:
    """Return whether tasks can be queued; asked at most every ten seconds."""
    global _broker_told
    asked_at, told = _broker_told
    if time.monotonic() - asked_at < _BROKER_TOLD_FOR_SECONDS:
        return told
    try:
        with Connection(settings.CELERY_BROKER_URL, connect_timeout=_BROKER_SECONDS) as broker:
            broker.ensure_connection(max_retries=1, timeout=_BROKER_SECONDS)
        told = "connected"
    except Exception:
        told = "disconnected"
    _broker_told = (time.monotonic(), told)
    return told
