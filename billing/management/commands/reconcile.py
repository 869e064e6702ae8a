"""Prove that every sum is what the log says, or make it so: `manage.py reconcile [--repair] [--json]`."""

import sys
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing.reconciliation import AlreadyRepairing, Comparison, compare, record, repair


class Command(BaseCommand):
    help = (
        "Compare spend logs and adjustments with totals, budget periods and daily rollups, in one snapshot. "
        "Exits with 1 where they differ."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--repair",
            action="store_true",
            help="add what is missing, then compare again; calls go on meanwhile",
        )
        parser.add_argument("--json", action="store_true", help="write the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["repair"]:
            self._repair(quietly=options["json"])
        found = compare(at=timezone.now())
        record(found, repaired=options["repair"])
        self.stdout.write(_as_json(found) if options["json"] else _as_text(found))
        if found.differences:
            sys.exit(1)

    def _repair(self, *, quietly: bool) -> None:
        def progress(table: str, done: int, rows: int) -> None:
            if not quietly:
                self.stdout.write(f"{table}: repaired {done:,} of {rows:,} rows")

        try:
            repair(at=timezone.now(), progress=progress)
        except AlreadyRepairing:
            raise CommandError("another repair is running; wait until it is done") from None


def _as_json(found: Comparison) -> str:
    result = {
        "started_at": found.started_at,
        "seconds": round(found.seconds, 3),
        "rows_compared": found.rows_compared,
        "differences": found.differences,
        "differing_rows": found.differing,
        "examples": [example._asdict() for example in found.examples],
    }
    return msgspec.json.encode(result).decode()


def _as_text(found: Comparison) -> str:
    verdict = (
        f"{found.rows_compared:,} rows compared in {found.seconds:.1f} s: {found.differences:,} differences"
    )
    if not found.differences:
        return verdict
    lines = [f"  {rows:,} rows of {table}" for table, rows in found.differing.items() if rows]
    lines.append(f"\n{'table':<20} {'column':<18} {'off by':>24}  row")
    lines += [
        f"{example.table:<20} {example.column:<18} {example.off_by:>24}  {example.row}"
        for example in found.examples
    ]
    return "\n".join([verdict, *lines, "\nRun with --repair to make the sums what the log says."])
