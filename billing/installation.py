"""Which installation this database is, and what stays as it was when it was set up; made on first use."""

import uuid

from django.conf import settings

from billing.models import DailyOverview, Installation


def installation_id() -> uuid.UUID:
    """Return the id that this installation's journals carry. One query.

    The reporting time zone is the one of then: until the first call is booked, it follows
    the setting (system check billing.E002).
    """
    row, is_new = Installation.objects.get_or_create(
        pk=1, defaults={"reporting_time_zone": settings.REPORTING_TIME_ZONE}
    )
    if not is_new and row.reporting_time_zone != settings.REPORTING_TIME_ZONE and not _has_rollups():
        row.reporting_time_zone = settings.REPORTING_TIME_ZONE
        row.save(update_fields=["reporting_time_zone"])
    return row.installation_id


def zone_of_the_rollups() -> str | None:
    """Return the time zone that the days of the rollups are of; None while there is no row."""
    row = Installation.objects.filter(pk=1).first()
    return row.reporting_time_zone if row and _has_rollups() else None


def _has_rollups() -> bool:
    return DailyOverview.objects.exists()
