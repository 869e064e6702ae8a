"""Celery tasks of billing: edges that call one service each and are safe to run twice."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import shared_task
from django.core.management import call_command

from billing.models import JournalCheckpoint, ReconcileRun
from billing.partitions import ensure_partitions
from billing.price_sync import sync_if_automatic
from billing.reconciliation import compare, record
from customers.api.idempotency import forget_answers
from customers.models import Change

logger = logging.getLogger(__name__)

# A worker polls changes twice a second; one that slept for a day starts afresh anyway.
_KEEP_CHANGES = timedelta(days=7)
# Longer than journals are kept, so that a late one is still known to be booked (J5).
_KEEP_CHECKPOINTS = timedelta(days=365)
_KEEP_RECONCILE_RUNS = timedelta(days=365)


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
def reconcile(**_: Any) -> None:
    """Compare every sum with the log, and keep the result for the pages that say so."""
    now = datetime.now(UTC)
    found = compare(at=now)
    record(found, repaired=False)
    if found.differences:
        logger.error("%d rows differ from the log: run manage.py reconcile", found.differences)
    ReconcileRun.objects.filter(started_at__lt=now - _KEEP_RECONCILE_RUNS).delete()


@shared_task(ignore_result=True)
def sync_prices(**_: Any) -> None:
    """Follow the cost map, where `manage.py sync_prices --auto on` said so."""
    sync_if_automatic(at=datetime.now(UTC))
