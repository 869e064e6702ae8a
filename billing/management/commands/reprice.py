"""Price calls again: `manage.py reprice --provider P --model M [--from DAY --to DAY] [--all] [--dry-run]`."""

from argparse import ArgumentTypeError
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.books.closed_months import MonthIsClosed
from billing.management.asking import WithExamples
from billing.management.tables import printable
from billing.prices import repricing
from billing.prices.repricing import Diff, Selection
from billing.prices.unpriced import queue
from customers.money import from_nano
from customers.words import count, usd

_SHOWN = 30
_EXAMPLES = """examples:
  manage.py reprice                                            which models have calls without a price
  manage.py reprice --provider openai --model gpt-9 --dry-run  what pricing them would change
  manage.py reprice --provider openai --model gpt-9            do it, or go on where it was interrupted
  manage.py reprice --provider openai --model gpt-9 --all --from 2026-03-01 --to 2026-03-31
                                                               also calls whose price was wrong
"""


class Command(WithExamples):
    examples = _EXAMPLES
    help = (
        "Price calls again by the price book as it is. Each difference is booked today, as an adjustment; "
        "log rows never change. Safe to run twice."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--provider", metavar="P", help="the provider's slug")
        parser.add_argument("--model", metavar="M", help="the model, as it was sent upstream")
        parser.add_argument(
            "--from", dest="start", type=_day, metavar="DAY", help="first day; all if not said"
        )
        parser.add_argument("--to", dest="end", type=_day, metavar="DAY", help="last day, included")
        parser.add_argument("--all", action="store_true", help="also calls that have a price")
        parser.add_argument("--note", default="", help="why, for the record")
        parser.add_argument("--dry-run", action="store_true", help="show what would change and write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["model"] and not options["provider"]:
            return self._tell_queue()
        if not options["model"] or not options["provider"]:
            raise CommandError("Say --provider and --model: see the list with manage.py reprice")
        at = timezone.now()
        end = _midnight(options["end"] + timedelta(days=1)) if options["end"] else at
        start = _midnight(options["start"]) if options["start"] else None
        selection = Selection(options["provider"], options["model"], start, min(end, at), not options["all"])
        if options["dry_run"]:
            self._tell(repricing.diff(selection, at=at))
            self.stdout.write("Nothing was written: --dry-run.")
            return None
        run = repricing.start(selection, actor="manage.py", note=options["note"], at=at)
        try:
            repricing.run(run)
        except MonthIsClosed as error:
            raise CommandError(str(error)) from None
        run.refresh_from_db()
        self.stdout.write(
            f"{count(run.changed_calls)} of {count(run.calls)} calls changed: cost {usd(run.cost)}, "
            f"charge {usd(run.charge)}. Prove it: manage.py reconcile"
        )
        return None

    def _tell_queue(self) -> None:
        waiting = queue()
        calls = sum(each.calls for each in waiting)
        self.stdout.write(f"{count(len(waiting))} models, {count(calls)} calls without a price")
        for each in waiting:
            self.stdout.write(
                f"  {printable(each.provider)}/{printable(each.model)}  {count(each.calls)} calls, "
                f"{count(each.input_tokens)} tokens in, {count(each.output_tokens)} out"
            )

    def _tell(self, found: Diff) -> None:
        self.stdout.write(
            f"{count(found.changed_calls)} of {count(found.calls)} calls would change: "
            f"cost {_signed(found.cost_nano)}, charge {_signed(found.charge_nano)}, "
            f"over {count(found.customers)} customers"
        )
        for line in found.lines[:_SHOWN]:
            self.stdout.write(
                f"  {line.month:%Y-%m}  {printable(line.customer_id or 'unattributed')}  "
                f"{count(line.calls)} calls  {_signed(line.charge_nano)}"
            )
        if len(found.lines) > _SHOWN:
            self.stdout.write(f"  and {count(len(found.lines) - _SHOWN)} more lines")
        for over in found.over:
            self.stdout.write(
                f"  over its limit of {usd(over.period.last_limit)}: {printable(str(over.period))}, "
                f"{usd(from_nano(over.spent_nano))} spent"
            )
        if found.unpriced:
            self.stdout.write(f"{count(found.unpriced)} calls would still have no price")
        if found.left_alone:
            self.stdout.write(f"{count(found.left_alone)} calls stay: a late journal told their usage")


def _signed(nano: int) -> str:
    return f"{'+' if nano > 0 else ''}{usd(from_nano(nano))}"


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no day: write YYYY-MM-DD") from None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), ZoneInfo(settings.REPORTING_TIME_ZONE))
