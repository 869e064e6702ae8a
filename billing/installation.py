"""Which installation this database is; made on first use."""

import uuid

from django.conf import settings

from billing.models import Installation


def installation_id() -> uuid.UUID:
    """Return the id that this installation's journals carry. One query."""
    row, _ = Installation.objects.get_or_create(
        pk=1, defaults={"reporting_time_zone": settings.REPORTING_TIME_ZONE}
    )
    return row.installation_id
