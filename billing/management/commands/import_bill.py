"""Compare a provider's bill with what was booked: `manage.py import_bill FILE [--json]`."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.bill_import.comparing import (
    LARGEST_GAPS,
    BadBill,
    Compared,
    Comparison,
    KnownBill,
    as_json,
    compare_bill,
    import_bill,
)
from billing.management.asking import WithExamples
from billing.management.tables import printable
from billing.reporting.words import percent
from customers.api.json import write_exact
from customers.money import from_nano
from customers.words import count, usd

_MOST_BYTES = 256 * 1024 * 1024
_EXAMPLES = """examples:
  manage.py import_bill cost.csv           OpenAI's or Anthropic's export of costs, or of usage
  manage.py import_bill cost.csv --json    the same for programs
"""


class Command(WithExamples):
    examples = _EXAMPLES
    help = (
        "Import a CSV export of OpenAI's or Anthropic's costs or usage and show, by day and model, what was "
        "billed beside what was booked. The same file is imported once. Only sums are kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE")
        parser.add_argument("--json", action="store_true", help="JSON, with exact decimals as numbers")

    def handle(self, *args: Any, **options: Any) -> None:
        path = Path(options["file"])
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise CommandError("The file is too large: export fewer days at once.")
            data = path.read_bytes()
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
        try:
            bill = import_bill(data, file_name=path.name, at=timezone.now(), by="manage.py")
        except KnownBill as known:
            bill = known.bill
        except BadBill as error:
            raise CommandError(str(error)) from None
        found = compare_bill(bill)
        if options["json"]:
            self.stdout.write(write_exact(as_json(bill, found)))
        else:
            self._tell(f"{bill} ({bill.form})", found)

    def _tell(self, what: str, found: Comparison) -> None:
        self.stdout.write(what)
        total = found.total
        booked, billed = total.shared
        covered = percent(booked, billed)
        of = (
            usd(from_nano(total.billed_nano)) if total.billed_nano is not None else f"{_tokens(total)} tokens"
        )
        self.stdout.write(f"{covered} of {of} are booked")
        self.stdout.write(f"\nlargest gaps, of {count(len(found.lines))} lines")
        for line in found.lines[:LARGEST_GAPS]:
            self.stdout.write(f"  {line.day}  {printable(line.model or 'all models')}  {_amounts(line)}")


def _amounts(line: Compared) -> str:
    if line.billed_nano is None:
        return f"{_tokens(line)} tokens billed, {count(line.booked_tokens)} booked"
    billed, booked = usd(from_nano(line.billed_nano)), usd(from_nano(line.booked_nano))
    return f"{billed} billed, {booked} booked, gap {usd(from_nano(line.gap_nano))}"


def _tokens(line: Compared) -> str:
    return count(line.billed_tokens or 0)
