"""Fill the log with demo data: `manage.py seed_demo --rows 1000000 --customers 10000`."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing.books.closed_months import MonthIsClosed
from billing.books.reconciliation import AlreadyRepairing
from billing.demo.seeding import seed
from billing.models import SpendLog


class Command(BaseCommand):
    help = "Add made-up calls to the log, with totals and rollups. For trying out, not for production."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rows", type=int, default=100_000, help="how many calls (100,000)")
        parser.add_argument("--customers", type=int, default=1_000, help="of how many customers (1,000)")
        parser.add_argument("--days", type=int, default=90, help="over how many days before today (90)")
        parser.add_argument("--yes", action="store_true", help="also where the log has calls already")

    def handle(self, *args: Any, **options: Any) -> None:
        for name in ("rows", "customers", "days"):
            if options[name] < 1:
                raise CommandError(f"--{name} is at least 1")
        if not options["yes"] and SpendLog.objects.exists():
            raise CommandError(
                "The log has calls already, and what is added cannot be taken out again. "
                "Say --yes if this is no database that matters."
            )
        begun = time.monotonic()
        try:
            seed(
                rows=options["rows"],
                customers=options["customers"],
                days=options["days"],
                at=timezone.now(),
                progress=_Lines(self.stdout).tell,
            )
        except MonthIsClosed as error:
            raise CommandError(str(error)) from None
        except AlreadyRepairing:
            raise CommandError(
                "The log is written, but another repair is running: run manage.py reconcile --repair later."
            ) from None
        self.stdout.write(f"Done in {time.monotonic() - begun:.0f} s. Prove it: manage.py reconcile")


class _Lines:
    """Tells progress a line at a time: at most one a second, and the last of each thing."""

    def __init__(self, output: Any) -> None:
        self._output = output
        self._what, self._begun, self._told = "", 0.0, time.monotonic()

    def tell(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._begun, self._told = what, self._told, 0.0
        if done < of and now - self._told < 1:
            return
        self._told = now
        rate = done / max(now - self._begun, 0.001)
        self._output.write(f"{what}: {done:,} of {of:,} ({done / of:.0%}, {rate:,.0f} rows/s)")
