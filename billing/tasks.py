"""Celery tasks of billing: edges that call one service each and are safe to run twice."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import shared_task
from celery.worker import state as worker_state
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from billing.alerts.health import forget_old_alerts
from billing.alerts.schedule import check_rules
from billing.booking import summaries
from billing.booking.partitions import ensure_partitions
from billing.books.reconciliation import AlreadyRepairing, compare, record
from billing.books.retention import NotSealable, due_months, seal_month
from billing.models import JournalCheckpoint, ReconcileRun
from billing.prices.repricing import run_unfinished
from billing.prices.sync import sync_if_automatic
from billing.reporting.spend_report import send_due_reports
from billing.sinks.registry import make_sinks
from billing.webhooks.deliverer import deliver as deliver_due
from billing.webhooks.deliveries import give_up_old, prune
from billing.webhooks.endpoints import follow_environment
from customers.api.idempotency import forget_answers
from customers.models import Change

logger = logging.getLogger(__name__)

# A worker polls changes twice a second; one that slept for a day starts afresh anyway.
_KEEP_CHANGES = timedelta(days=7)
# Longer than journals are kept, so that a late one is still known to be booked (J5): of a
# month whose logs were removed, nothing else says so. A row per start of a process.
_KEEP_CHECKPOINTS = timedelta(days=3650)
_KEEP_RECONCILE_RUNS = timedelta(days=365)
# A run of the deliverer: short enough that a worker which is to stop is not kept for long.
_DELIVER_SECONDS = 30.0
_LINGER_SECONDS = 5.0
_REPRICE_SECONDS = 50.0  # the next one begins a minute later


@shared_task(ignore_result=True)
def housekeeping(**_: Any) -> None:
    """Keep the tables that only grow in bounds, and next month's partition ready."""
    now = datetime.now(UTC)
    ensure_partitions(at=now)
    Change.objects.filter(at__lt=now - _KEEP_CHANGES).delete()
    JournalCheckpoint.objects.filter(finished=True, updated_at__lt=now - _KEEP_CHECKPOINTS).delete()
    forget_answers(at=now)
    call_command("clearsessions")


@shared_task(ignore_result=True)
def close_days(**_: Any) -> None:
    """Add up the days that are over, for long reports. Not on SQLite: its one writer has calls to book."""
    if connection.vendor == "postgresql":
        summaries.close_days(at=datetime.now(UTC))


@shared_task(ignore_result=True)
def reconcile(**_: Any) -> None:
    """Compare every sum with the log, and keep the result for the pages that say so."""
    now = datetime.now(UTC)
    found = compare(at=now)
    record(found, repaired=False)
    if found.differences:
        logger.error("%d rows differ from the log: run manage.py reconcile", found.differences)
    ReconcileRun.objects.filter(started_at__lt=now - _KEEP_RECONCILE_RUNS).delete()


@shared_task(ignore_result=True)
def apply_retention(**_: Any) -> None:
    """Remove the logs of months that are over for longer than LOG_RETENTION_MONTHS."""
    if not settings.LOG_RETENTION_MONTHS:
        return
    now = datetime.now(UTC)
    for month in due_months(keep=settings.LOG_RETENTION_MONTHS, at=now):
        try:
            seal_month(month, at=now, progress=lambda what, done, rows: None)
        except (NotSealable, AlreadyRepairing) as error:
            logger.error("the logs of %s and later stay: %s", f"{month:%Y-%m}", error)
            return


@shared_task(ignore_result=True)
def sync_prices(**_: Any) -> None:
    """Follow the cost map, where `manage.py sync_prices --auto on` said so."""
    sync_if_automatic(at=datetime.now(UTC))


@shared_task(ignore_result=True)
def reprice(**_: Any) -> None:
    """Go on with runs of re-pricing that are not finished."""
    run_unfinished(seconds=_REPRICE_SECONDS)


@shared_task(ignore_result=True)
def deliver(**_: Any) -> None:
    """Deliver what is due. Sent by the beat, which is what counts, and by whoever wrote an event."""
    follow_environment()
    deliver_due(
        sinks=make_sinks,
        seconds=_DELIVER_SECONDS,
        linger=_LINGER_SECONDS,
        should_stop=lambda: worker_state.should_stop is not None,
    )


@shared_task(ignore_result=True)
def tidy_events(**_: Any) -> None:
    """Give up what nobody takes, and forget events that are old."""
    now = datetime.now(UTC)
    give_up_old(at=now)
    prune(at=now)


@shared_task(ignore_result=True)
def check_alerts(**_: Any) -> None:
    """Tell of what the clock brings: days, projections, upstreams, reports."""
    now = datetime.now(UTC)
    check_rules(at=now)
    send_due_reports(at=now)
    forget_old_alerts(at=now, keep=timedelta(days=settings.ALERT_KEEP_DAYS))
