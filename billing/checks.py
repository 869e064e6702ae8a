"""System checks: a wrong setting is a message with a hint, not a stack trace at midnight."""

import zoneinfo
from typing import Any

from django.conf import settings
from django.core.checks import Error, Tags, register
from django.db import DatabaseError


@register()
def reporting_time_zone(app_configs: Any, **kwargs: Any) -> list[Error]:
    try:
        zoneinfo.ZoneInfo(settings.REPORTING_TIME_ZONE)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return [
            Error(
                f"REPORTING_TIME_ZONE={settings.REPORTING_TIME_ZONE!r} is no time zone.",
                hint="Write an IANA name such as UTC or Europe/Berlin.",
                id="billing.E001",
            )
        ]
    return []


@register(Tags.database)
def days_of_the_rollups(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[Error]:
    """Refuse another zone than the one whose days are counted: a day would be a part of two (M6).

    Asks the database, so it runs only where it is named: `serve`, `migrate`, `check --database default`.
    """
    from billing.installation import zone_of_the_rollups  # models are loaded later than this module

    if "default" not in (databases or ()):
        return []
    try:
        zone = zone_of_the_rollups()
    except DatabaseError:
        return []  # not there yet, or away: whoever needs it will say so
    if zone is None or zone == settings.REPORTING_TIME_ZONE:
        return []
    return [
        Error(
            f"REPORTING_TIME_ZONE={settings.REPORTING_TIME_ZONE!r}, but the days booked so far are those "
            f"of {zone!r}.",
            hint=f"Set REPORTING_TIME_ZONE={zone}: it is fixed once the first call is booked.",
            id="billing.E002",
        )
    ]
