"""From when to when a report is, which key it is about, and how keys are named in it. For the views alone."""

import uuid
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils import timezone

from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting.log_reading import MASTER_KEY_NAME, day_of
from customers.api.errors import BadRequest
from customers.models import VirtualKey


class Days(TypedDict):
    """The first and the last day of a report."""

    start: date
    end: date


def today() -> date:
    """Return the day that it is in the reporting time zone."""
    return timezone.now().astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date()


def days_of(given: Mapping[str, Any], *, longest: int | None = None) -> Days:
    """Return a report's `start` and `end`. Raises: BadRequest."""
    for name in ("start_date", "end_date"):
        if not given.get(name):
            raise BadRequest(f"Say from which day to which: {name}=YYYY-MM-DD.", param=name)
    start, end = day_of(given["start_date"], "start_date"), day_of(given["end_date"], "end_date")
    if start > end:
        raise BadRequest("start_date is after end_date: swap them.", param="start_date")
    if longest is not None and (end - start).days >= longest:
        raise BadRequest(f"Ask for at most {longest} days at a time.", param="end_date")
    return {"start": start, "end": end}


def last_days(number: int) -> Days:
    """Return the last `number` days, today included."""
    end = today()
    return {"start": end - timedelta(days=number - 1), "end": end}


def day_or(text: str | None, param: str, default: date) -> date:
    """Return the day of a date or an instant that LiteLLM's pages send. Raises: BadRequest."""
    return day_of(_date_part(text), param) if text else default


def _date_part(text: str) -> str:
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        return text  # whose fault `day_of` tells


def names_of(text: str | None) -> list[str] | None:
    """Return the names of a list with commas; None where it is empty."""
    names = [name.strip() for name in (text or "").split(",")]
    return [name for name in names if name] or None


class KeyNames(NamedTuple):
    """How one key is told."""

    hash: str
    alias: str | None
    display_name: str | None
    team_id: str | None
    user_id: str | None


def key_names(ids: Iterable[str]) -> dict[str, KeyNames]:
    """Return how each of these keys is told; one that was purged by its id. One query."""
    wanted = set(ids)
    found = {id_: KeyNames(id_, None, None, None, None) for id_ in wanted}
    if MASTER_KEY_ID in wanted:
        found[MASTER_KEY_ID] = KeyNames(MASTER_KEY_NAME, None, None, None, None)
    rows = VirtualKey.objects.filter(pk__in=[uuid.UUID(id_) for id_ in wanted - {MASTER_KEY_ID}])
    for pk, hash_, alias, shown, team, user in rows.values_list(
        "pk", "token_hash", "alias", "display_name", "team_id", "user_id"
    ):
        found[str(pk)] = KeyNames(hash_, alias or None, shown or None, team, user)
    return found
