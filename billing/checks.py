"""System checks: a wrong setting is a message with a hint, not a stack trace at midnight."""

import zoneinfo
from typing import Any

from django.conf import settings
from django.core.checks import Error, register


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
