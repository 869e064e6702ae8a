"""System checks of the proxy: what must be right before it may serve."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from redis.connection import parse_url


@register(Tags.security, deploy=True)  # `manage.py serve` runs the deployment checks
def secrets_are_set(app_configs: Any, **kwargs: Any) -> list[Error]:
    errors = []
    if settings.SECRET_KEY == settings.UNSET_SECRET_KEY:
        errors.append(
            Error(
                "There is no SECRET_KEY: sessions and stored credentials would be open.",
                hint="Run `python manage.py bootstrap`, or set SECRET_KEY to 50 random characters.",
                id="proxy.E004",
            )
        )
    if not settings.MASTER_KEY:
        errors.append(
            Error(
                "There is no master key; the gateway does not start open.",
                hint="Run `python manage.py bootstrap`, or set MASTER_KEY (or LITELLM_MASTER_KEY) to sk-….",
                id="proxy.E001",
            )
        )
    elif not settings.MASTER_KEY.startswith("sk-") or len(settings.MASTER_KEY) < 7:
        errors.append(
            Error(
                "MASTER_KEY does not look like a key.",
                hint="A key starts with sk-, e.g. sk-1234 for a try-out; better, 22 random characters.",
                id="proxy.E002",
            )
        )
    return errors


@register(Tags.database)
def one_process_on_sqlite(app_configs: Any, **kwargs: Any) -> list[Error]:
    if settings.WEB_WORKERS > 1 and "sqlite" in settings.DATABASES["default"]["ENGINE"]:
        return [
            Error(
                f"WEB_WORKERS={settings.WEB_WORKERS}, but SQLite serves one web process.",
                hint="Set WEB_WORKERS=1, or DATABASE_URL=postgres://….",
                id="proxy.E003",
            )
        ]
    return []


@register
def rate_limits_are_shared(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if not settings.REDIS_URL:
        if settings.WEB_WORKERS == 1:
            return []
        return [
            Warning(
                f"Without REDIS_URL each of the {settings.WEB_WORKERS} web processes enforces its own share "
                "of every rate limit.",
                hint="Set REDIS_URL=redis://…, or WEB_WORKERS=1.",
                id="proxy.W001",
            )
        ]
    try:
        parse_url(settings.REDIS_URL)
    except ValueError:
        return [
            Error(
                "REDIS_URL cannot be used.",
                hint="Write redis://[user:password@]host:port/number, rediss://… or unix://path.",
                id="proxy.E005",
            )
        ]
    return []


@register
def response_cache_has_a_store(app_configs: Any, **kwargs: Any) -> list[Error]:
    if settings.RESPONSE_CACHE == "redis" and not settings.REDIS_URL:
        return [
            Error(
                "RESPONSE_CACHE=redis, but there is no REDIS_URL to keep answers at.",
                hint="Set REDIS_URL=redis://…, or RESPONSE_CACHE=simple to keep them in memory.",
                id="proxy.E006",
            )
        ]
    return []
