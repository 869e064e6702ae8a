"""
What the reporting commands are asked for: days, filters and form, out of their options.

Whatever is wrong is one sentence that says what to do (`CommandError`, exit code 1).
"""

import uuid
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.db.models import Q

from billing.models import HolderType, SpendTotal
from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting.reports import Filters
from customers.models import Customer, Tag, Team, User, VirtualKey
from customers.text import is_clean_id

MOST_DAYS = 3660
DEFAULT_DAYS = 30
_NONE = ""  # how reports name the calls without any

# Option → what it is in `Filters`, whose spend it is, and its rows.
_HOLDERS: dict[str, tuple[str, HolderType, Any]] = {
    "customer": ("customers", HolderType.CUSTOMER, Customer),
    "team": ("teams", HolderType.TEAM, Team),
    "user": ("users", HolderType.USER, User),
    "tag": ("tags", HolderType.TAG, Tag),
}


class _Formatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of options, and examples that keep their lines."""


class WithExamples(BaseCommand):
    """A command whose `--help` ends with examples."""

    examples = ""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, epilog=self.examples, formatter_class=_Formatter, **kwargs
        )


def month(text: str) -> date:
    """Return the first day of a month written as `2026-03`. Raises: ArgumentTypeError."""
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no month: write it as 2026-03") from None


def add_days(parser: CommandParser) -> None:
    days = parser.add_argument_group(
        "days", f"in {settings.REPORTING_TIME_ZONE}; the last 30 if none are said"
    )
    days.add_argument(
        "--from", dest="start", metavar="DATE", help="first day: YYYY-MM-DD, today or yesterday"
    )
    days.add_argument("--to", dest="end", metavar="DATE", help="last day, included; today if not said")
    days.add_argument("--days", metavar="N", help="so many days up to --to, instead of --from")


def add_filters(parser: CommandParser) -> None:
    filters = parser.add_argument_group(
        "filters", "say one several times for any of these; '' for calls without"
    )
    filters.add_argument("--customer", action="append", metavar="ID")
    filters.add_argument("--key", action="append", metavar="KEY", help="its name, its id, or master")
    filters.add_argument("--team", action="append", metavar="ID")
    filters.add_argument("--user", action="append", metavar="ID", help="an internal user")
    filters.add_argument("--tag", action="append", metavar="TAG")
    filters.add_argument("--model", action="append", metavar="NAME", help="as callers name it")


def add_forms(parser: CommandParser) -> None:
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="JSON, with exact decimals as numbers")
    forms.add_argument("--csv", action="store_true", help="CSV for spreadsheets")


# -- days --------------------------------------------------------------------------------


def days_of(options: Mapping[str, Any], *, now: datetime) -> tuple[date, date]:
    """Return the first and the last day that are asked for. Raises: CommandError."""
    today = now.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date()
    start, end, number = (options.get(name) for name in ("start", "end", "days"))
    if start is not None and number is not None:
        raise CommandError("Say --from or --days, not both.")
    last = today if end is None else _day(end, "--to", today)
    if start is not None:
        first = _day(start, "--from", today)
    else:
        try:
            first = last - timedelta(days=_days(number) - 1)
        except OverflowError:
            raise CommandError("--to is too early for so many days: say --from.") from None
    if first > last:
        raise CommandError(f"--from {first} is after --to {last}: swap them.")
    return first, last


def _day(text: str, option: str, today: date) -> date:
    words = {"today": today, "yesterday": today - timedelta(days=1)}
    if text in words:
        return words[text]
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=ZoneInfo("UTC")).date()
    except ValueError:
        raise CommandError(f"{option} {text!r} is no day: write YYYY-MM-DD, today or yesterday.") from None
    if day == date.max:
        raise CommandError(f"{option} {text!r} is too late: reports end before {date.max}.")
    return day


def _days(text: str | int | None) -> int:
    if text is None:
        return DEFAULT_DAYS
    return whole(text, "--days", most=MOST_DAYS)


def whole(text: str | int, option: str, *, most: int) -> int:
    """Return a number of at least 1. Raises: CommandError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise CommandError(f"{option} {text!r}: write a whole number from 1 to {most:,}.")
    return number


# -- filters -----------------------------------------------------------------------------


def filters_of(options: Mapping[str, Any], *, now: datetime) -> Filters:
    """Return what is asked for. A few queries: who does not exist is told. Raises: CommandError."""
    start, end = days_of(options, now=now)
    chosen: dict[str, Any] = {}
    for option, (name, holder_type, _) in _HOLDERS.items():
        if given := options.get(option):
            for holder_id in given:
                require(option, holder_type, holder_id)
            chosen[name] = given
    if keys := options.get("key"):
        chosen["keys"] = [key_id(text) for text in keys]
    if models := options.get("model"):
        chosen["models"] = models
    return Filters(start=start, end=end, **chosen)


def require(option: str, holder_type: HolderType, holder_id: str) -> None:
    """Refuse whoever has neither a row nor spend. Raises: CommandError."""
    if holder_id == _NONE:
        return
    rows = _HOLDERS[option][2].objects.filter(pk=holder_id)
    if not is_clean_id(holder_id) or not (rows.exists() or _has_spend(holder_type, holder_id)):
        raise CommandError(
            f"There is no {option} {holder_id!r}. See who has spend: manage.py spend --by {option}"
        )


def key_id(text: str) -> str:
    """Return a key's id by its name, its id or `master`. Raises: CommandError."""
    if text == MASTER_KEY_ID:
        return text
    if text.startswith("sk-"):
        raise CommandError("Name the key, not its secret, which would stay in the shell's history.")
    try:
        by_id = Q(pk=uuid.UUID(text))
    except ValueError:
        by_id = Q(pk=None)
    found = VirtualKey.objects.filter(by_id | Q(alias=text)).first() if is_clean_id(text) else None
    if found is not None:
        return str(found.pk)
    if by_id != Q(pk=None) and _has_spend(HolderType.KEY, str(uuid.UUID(text))):
        return str(uuid.UUID(text))  # a key that was purged
    raise CommandError(f"There is no key {text!r}. See which have spend: manage.py spend --by key")


def _has_spend(holder_type: HolderType, holder_id: str) -> bool:
    return SpendTotal.objects.filter(holder_type=holder_type, holder_id=holder_id).exists()
