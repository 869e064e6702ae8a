"""System checks: a wrong setting is a message with a hint, not a stack trace at midnight."""

import re
import zoneinfo
from typing import Any

from django.conf import settings
from django.core.checks import Error, Tags, Warning, register
from django.db import DatabaseError

from billing.alerts.words import ALERT_TYPES
from customers.durations import parse_duration

_ORIGIN = re.compile(r"https?://(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?")

_MOST_MONTHS = 1200


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


@register()
def terms_of_providers(app_configs: Any, **kwargs: Any) -> list[Error]:
    from billing.prices.terms import read_terms  # models are loaded later than this module

    try:
        read_terms(settings.COST_DISCOUNTS, settings.COST_MARGINS)
    except ValueError as error:
        return [
            Error(
                f"COST_DISCOUNTS or COST_MARGINS cannot be read: {error}.",
                hint="Write COST_DISCOUNTS=openai:0.05 and COST_MARGINS=global:0.1,openai:0.1+0.0005.",
                id="billing.E006",
            )
        ]
    return []


@register()
def alerting(app_configs: Any, **kwargs: Any) -> list[Error | Warning]:
    found: list[Error | Warning] = []
    try:
        parse_duration(settings.SPEND_REPORT_FREQUENCY)
    except ValueError as error:
        found.append(
            Error(f"SPEND_REPORT_FREQUENCY: {error}", hint="Write 7d, 14d or 1mo.", id="billing.E020")
        )
    unknown = sorted(set(settings.ALERTING) - {"webhook", "slack", "email"})
    if unknown:
        found.append(
            Warning(
                f"ALERTING names channels that there are not: {', '.join(unknown)}.",
                hint="There are webhook, slack and email.",
                id="billing.W020",
            )
        )
    unknown = sorted(set(settings.ALERT_TYPES) - {*ALERT_TYPES.values()})
    if unknown:
        found.append(
            Warning(
                f"ALERT_TYPES names kinds that there are not: {', '.join(unknown)}.",
                hint=f"There are {', '.join(sorted({*ALERT_TYPES.values()}))}.",
                id="billing.W022",
            )
        )
    if settings.ALERT_EMAILS and not settings.EMAIL_IS_CONFIGURED:
        found.append(
            Warning(
                "ALERT_EMAILS is set, but there is no mail server.",
                hint="Set EMAIL_URL, or SMTP_HOST.",
                id="billing.W021",
            )
        )
    return found


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


@register()
def log_retention(app_configs: Any, **kwargs: Any) -> list[Error]:
    """Refuse what is no number of months: what is removed by mistake is gone."""
    months = settings.LOG_RETENTION_MONTHS
    if isinstance(months, int) and 0 <= months <= _MOST_MONTHS:
        return []
    return [
        Error(
            f"LOG_RETENTION_MONTHS={months!r} is no number of months.",
            hint=f"Write how many whole months of logs are kept, up to {_MOST_MONTHS}; 0 keeps all.",
            id="billing.E011",
        )
    ]


@register()
def handout_frame_ancestors(app_configs: Any, **kwargs: Any) -> list[Error]:
    """Refuse what is no origin: it goes into a header as it is."""
    return [
        Error(
            f"HANDOUT_FRAME_ANCESTORS has {origin!r}, which is no origin.",
            hint="Write origins, separated by commas: https://app.example.com. A host may begin with *.",
            id="billing.E010",
        )
        for origin in settings.HANDOUT_FRAME_ANCESTORS
        if _ORIGIN.fullmatch(origin) is None
    ]


@register()
def webhook_settings(app_configs: Any, **kwargs: Any) -> list[Error]:
    """Refuse a secret that no receiver could check with, and networks that are none."""
    from billing.webhooks.egress import RefusedAddress, check_url, read_allowed
    from billing.webhooks.endpoints import is_secret  # models are loaded later than this module

    errors = []
    if settings.WEBHOOK_SECRET and not is_secret(settings.WEBHOOK_SECRET):
        errors.append(
            Error(
                "WEBHOOK_SECRET is no secret as Standard Webhooks has it.",
                hint="Write whsec_ and the base64 of at least 16 random bytes: openssl rand -base64 32.",
                id="billing.E020",
            )
        )
    try:
        read_allowed(tuple(settings.WEBHOOK_ALLOW_PRIVATE))
    except ValueError as error:
        errors.append(
            Error(
                f"WEBHOOK_ALLOW_PRIVATE: {error}.",
                hint="Write true, or networks, separated by commas: 10.0.0.0/8,127.0.0.0/8.",
                id="billing.E021",
            )
        )
        return errors
    if settings.WEBHOOK_URL:
        try:
            check_url(settings.WEBHOOK_URL)
        except RefusedAddress as error:
            errors.append(Error(f"WEBHOOK_URL: {error}", id="billing.E022"))
    return errors
