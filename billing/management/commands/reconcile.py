"""Prove that every sum is what the log says, or make it so: `manage.py reconcile [--repair] [--json]`."""

import sys
from datetime import date
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing.books.reconciliation import AlreadyRepairing, Comparison, compare, record, repair
from billing.books.sealed import Days, days_of_month
from billing.management.asking import month


class Command(BaseCommand):
    help = (
        "Compare spend logs, adjustments and sealed balances with totals, budget periods and daily rollups, "
        "in one snapshot. Exits with 1 where they differ."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--repair",
            action="store_true",
            help="add what is missing, then compare again; calls go on meanwhile",
        )
        parser.add_argument(
            "--month",
            type=month,
            metavar="2026-03",
            help="only the days of this month, and the budget periods that lie in it; no all-time totals",
        )
        parser.add_argument("--json", action="store_true", help="write the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        days = days_of_month(options["month"]) if options["month"] else None
        if options["repair"]:
            self._repair(days, quietly=options["json"])
        found = compare(at=timezone.now(), days=days)
        if days is None:
            record(found, repaired=options["repair"])
        if options["json"]:
            self.stdout.write(_as_json(found, options["month"]))
        else:
            self.stdout.write(_as_text(found, repaired=options["repair"]))
        if found.differences:
            sys.exit(1)

    def _repair(self, days: Days | None, *, quietly: bool) -> None:
        def progress(what: str, done: int, rows: int) -> None:
            if not quietly:
                self.stdout.write(f"{what} {done:,} of {rows:,}")

        try:
            repair(at=timezone.now(), progress=progress, days=days)
        except AlreadyRepairing:
            raise CommandError("another repair is running; wait until it is done") from None


def _as_json(found: Comparison, of_month: date | None) -> str:
    result = {
        "started_at": found.started_at,
        "month": of_month and f"{of_month:%Y-%m}",
        "seconds": round(found.seconds, 3),
        "rows_compared": found.rows_compared,
        "differences": found.differences,
        "beyond_repair": found.lasting,
        "differing_rows": found.differing,
        "examples": [example._asdict() for example in found.examples],
        "kept_since": found.kept_since,
    }
    return msgspec.json.encode(result).decode()


def _as_text(found: Comparison, *, repaired: bool) -> str:
    verdict = (
        f"{found.rows_compared:,} rows compared in {found.seconds:.1f} s: {found.differences:,} differences"
    )
    if found.kept_since:
        verdict += f" (logs since {found.kept_since}, sealed balances before)"
    if not found.differences:
        return verdict
    lines = [f"  {rows:,} rows of {table}" for table, rows in found.differing.items() if rows]
    lines.append(f"\n{'table':<28} {'column':<18} {'off by':>24}  row")
    lines += [
        f"{example.table:<28} {example.column:<18} {example.off_by:>24}  {example.row}"
        for example in found.examples
    ]
    if found.lasting:
        lines.append(
            f"\n{found.lasting:,} rows are about days whose logs were removed: no repair can tell what they "
            "should be. Restore them from a backup."
        )
    if not repaired and found.lasting < found.differences:
        lines.append("\nRun with --repair to make the sums what the log says.")
    return "\n".join([verdict, *lines])
