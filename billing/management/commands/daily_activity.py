"""What was spent on each day, by model and key: `manage.py daily_activity [--days 30] [--json | --csv]`."""

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from billing.management.asking import WithExamples, add_days, add_filters, add_forms, filters_of, whole
from billing.management.reporting import by_day_model_key, document, told, unattributed
from billing.management.tables import as_csv, as_json, records
from billing.reporting.reports import one_instant

_LIMIT, _MOST = 10, 100_000
_EXAMPLES = """examples:
  manage.py daily_activity                        the last 30 days
  manage.py daily_activity --days 7 --team red    one team's week
  manage.py daily_activity --key web --csv > web.csv
"""


class Command(WithExamples):
    examples = _EXAMPLES
    help = "Show what was spent on each day, and on what: by model and key. Days without calls are left out."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--limit",
            metavar="N",
            default=_LIMIT,
            help=f"so many lines below a day; the rest is one ({_LIMIT})",
        )
        add_days(parser)
        add_filters(parser)
        add_forms(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        filters = filters_of(options, now=timezone.now())
        limit = whole(options["limit"], "--limit", most=_MOST)
        with one_instant():
            sheet = by_day_model_key(filters, limit=limit)
            free = unattributed(filters)
        if options["json"]:
            self.stdout.write(as_json(document(filters, sheet, free, records(sheet))))
        elif options["csv"]:
            self.stdout.write(as_csv(records(sheet)), ending="")
        else:
            self.stdout.write(
                told("Daily activity", filters, sheet, free, self.stdout, has_colour=not options["no_color"])
            )
