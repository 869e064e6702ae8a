"""What was spent, by whom or for what: `manage.py spend [--by …] [--days N] [filters] [--json | --csv]`."""

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from billing.management.asking import WithExamples, add_days, add_filters, add_forms, filters_of, whole
from billing.management.reporting import by_dimension, document, told, unattributed
from billing.management.tables import as_csv, as_json, records
from billing.reporting.reports import one_instant

_BY = ("model", "key", "team", "user", "customer", "tag", "provider", "day")
_LIMIT, _MOST = 20, 100_000
_EXAMPLES = """examples:
  manage.py spend                                   the last 30 days, by model
  manage.py spend --by customer --days 7            who spent most this week
  manage.py spend --by tag --tag project:web-app    one project
  manage.py spend --by team --from 2026-01-01 --to 2026-03-31 --csv > q1.csv
  manage.py spend --by day --customer acme --json
"""


class Command(WithExamples):
    examples = _EXAMPLES
    help = "Show what was spent, with a share, requests and tokens for each name, and the total."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--by", choices=_BY, default="model", help="what a line is (model)")
        parser.add_argument(
            "--limit", metavar="N", help=f"so many lines; the rest is one ({_LIMIT}; days: all)"
        )
        add_days(parser)
        add_filters(parser)
        add_forms(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        filters = filters_of(options, now=timezone.now())
        by, limit = options["by"], options["limit"]
        if limit is not None:
            limit = whole(limit, "--limit", most=_MOST)
        elif by != "day":
            limit = _LIMIT
        with one_instant():
            sheet = by_dimension(filters, by, limit=limit)
            free = unattributed(filters)
        if options["json"]:
            self.stdout.write(as_json(document(filters, sheet, free, records(sheet))))
        elif options["csv"]:
            self.stdout.write(as_csv(records(sheet)), ending="")
        else:
            self.stdout.write(
                told(f"Spend by {by}", filters, sheet, free, self.stdout, has_colour=not options["no_color"])
            )
