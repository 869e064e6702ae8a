"""Remove the logs of months that are over, keeping what they add up to: `manage.py apply_retention`."""

from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing.books.reconciliation import AlreadyRepairing
from billing.books.retention import NotSealable, calls_of, check_sealable, due_months, seal_month
from billing.management.asking import month


class Command(BaseCommand):
    help = (
        "Remove the logs of months that are over, the oldest first. What their calls add up to stays: "
        "totals, budgets and every report are as before, and `reconcile` goes on proving them. The rows "
        "themselves are gone for good: make a backup first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--keep",
            type=int,
            metavar="N",
            help="whole months to keep besides this one (LOG_RETENTION_MONTHS)",
        )
        which.add_argument("--month", type=month, metavar="2026-03", help="this month alone")
        parser.add_argument("--dry-run", action="store_true", help="say what would be removed")

    def handle(self, *args: Any, **options: Any) -> None:
        at = timezone.now()
        months = [options["month"]] if options["month"] else _due(options["keep"], at)
        if not months:
            self.stdout.write("Nothing to remove.")
        for each in months:
            if options["dry_run"]:
                self._tell(each, at)
            else:
                self._seal(each, at)

    def _tell(self, month: date, at: datetime) -> None:
        try:
            check_sealable(month, at=at)
        except NotSealable as error:
            self.stdout.write(f"{month:%Y-%m}: would stay: {error}")
        else:
            self.stdout.write(f"{month:%Y-%m}: would remove {calls_of(month):,} calls")

    def _seal(self, month: date, at: datetime) -> None:
        def progress(what: str, done: int, rows: int) -> None:
            self.stdout.write(f"{what} {done:,} of {rows:,}")

        try:
            sealed = seal_month(month, at=at, progress=progress)
        except NotSealable as error:
            raise CommandError(f"{month:%Y-%m} and later stay: {error}") from None
        except AlreadyRepairing:
            raise CommandError("a repair, or another removal, is running; wait until it is done") from None
        kept = f", {sealed.kept:,} that may still be corrected stay" if sealed.kept else ""
        self.stdout.write(
            f"{month:%Y-%m}: {sealed.calls:,} calls are sealed, their rows removed{kept} "
            f"({sealed.seconds:.1f} s, the log locked for {sealed.locked_seconds:.2f} s)"
        )


def _due(keep: int | None, at: datetime) -> list[date]:
    keep = settings.LOG_RETENTION_MONTHS if keep is None else keep
    if keep < 1:
        raise CommandError("logs are kept for ever: set LOG_RETENTION_MONTHS, or name --keep or --month")
    return due_months(keep=keep, at=at)
