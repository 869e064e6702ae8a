"""Celery tasks of billing: edges that call one service each and are safe to run twice."""

from datetime import UTC, datetime, timedelta
from typing import Any

from celery import shared_task
from django.core.management import call_command

from billing.models import JournalCheckpoint
from billing.partitions import ensure_partitions
from customers.models import Change

# A worker polls changes twice a second; one that slept for a day starts afresh anyway.
_KEEP_CHANGES = timedelta(days=7)
# Longer than journals are kept, so that a late one is still known to be booked (J5).
_KEEP_CHECKPOINTS = timedelta(days=365)


@shared_task(ignore_result=True)
def housekeeping(**_: Any) -> None:
    """Keep the tables that only grow in bounds, and next month's partition ready."""
    now = datetime.now(UTC)
    ensure_partitions(at=now)
    Change.objects.filter(at__lt=now - _KEEP_CHANGES).delete()
    JournalCheckpoint.objects.filter(finished=True, updated_at__lt=now - _KEEP_CHECKPOINTS).delete()
    call_command("clearsessions")
