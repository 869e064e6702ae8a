"""What days would have cost at other prices: `manage.py what_if --month M [--source S] [--instead A=B]`."""

from datetime import date, timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.management.asking import WithExamples, add_days, days_of, month
from billing.management.tables import printable
from billing.prices.what_if import Answer, BadQuestion, Question, answer
from customers.api.json import write_exact
from customers.money import from_nano
from customers.words import EMPTY, count, usd

_SHOWN = 30
_EXAMPLES = """examples:
  manage.py what_if --month 2026-03                        at the prices of today
  manage.py what_if --month 2026-03 --source genai_prices  at those of one source
  manage.py what_if --days 30 --instead openai/gpt-4o=anthropic/claude-sonnet-4-5
"""


class Command(WithExamples):
    examples = _EXAMPLES
    help = (
        "What calls of some days would have cost at the prices of today, from the rollups. Nothing is "
        "written. Long prompts make the answer a range; service tiers and units are not in rollups."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--month", type=month, metavar="MONTH", help="such as 2026-03, instead of days")
        add_days(parser)
        parser.add_argument("--source", default="", help="genai_prices, cost_map or admin")
        parser.add_argument(
            "--instead", action="append", default=[], metavar="A=B",
            help="price calls of provider/model A as those of provider/model B",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="JSON, with exact decimals as numbers")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        first, last = _month(options["month"]) if options["month"] else days_of(options, now=now)
        instead = dict(_pair(text) for text in options["instead"])
        try:
            found = answer(Question(first, last, options["source"], instead), at=now)
        except BadQuestion as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(
                write_exact(
                    {
                        "first_day": first.isoformat(),
                        "last_day": last.isoformat(),
                        "total": _object(found.total),
                        "calls_without_price": found.unpriced_calls,
                        "by_model": [_object(each) for each in found.by_model],
                        "by_customer": [_object(each) for each in found.by_customer],
                    }
                )
            )
            return
        self.stdout.write(f"{first} to {last}: {_told(found.total)}")
        if found.unpriced_calls:
            self.stdout.write(f"{count(found.unpriced_calls)} calls have no price there and are in no sum")
        for title, lines in (("by model", found.by_model), ("by customer", found.by_customer)):
            self.stdout.write(f"\n{title}")
            for each in lines[:_SHOWN]:
                name = f"{each.provider}/{each.model}" if each.provider else each.customer_id
                self.stdout.write(f"  {printable(name or 'unattributed')}  {_told(each)}")
            if len(lines) > _SHOWN:
                self.stdout.write(f"  and {count(len(lines) - _SHOWN)} more")


def _month(first: date) -> tuple[date, date]:
    return first, (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def _pair(text: str) -> tuple[tuple[str, str], tuple[str, str]]:
    one, _, other = text.partition("=")
    pairs = [name.strip().partition("/") for name in (one, other)]
    if not all(provider and model for provider, _, model in pairs):
        raise CommandError(f"--instead {text!r}: write provider/model=provider/model.")
    return (pairs[0][0], pairs[0][2]), (pairs[1][0], pairs[1][2])


def _told(each: Answer) -> str:
    would = _range(each.least_nano, each.most_nano)
    more = " and units, if any" if each.has_units else ""
    difference = _range(each.least_difference, each.most_difference)
    return f"{usd(from_nano(each.cost_nano))} → {would}{more} (difference {difference})"


def _range(least: int | None, most: int | None) -> str:
    if least is None or most is None:
        return EMPTY
    low, high = usd(from_nano(least)), usd(from_nano(most))
    return low if low == high else f"{low} to {high}"


def _object(each: Answer) -> dict[str, Any]:
    def amount(nano: int | None) -> Any:
        return None if nano is None else from_nano(nano)

    return {
        "customer": each.customer_id or None,
        "provider": each.provider or None,
        "model": each.model or None,
        "requests": each.calls,
        "cost_usd": amount(each.cost_nano),
        "least_usd": amount(each.least_nano),
        "most_usd": amount(each.most_nano),
        "least_difference_usd": amount(each.least_difference),
        "most_difference_usd": amount(each.most_difference),
        "has_units": each.has_units,
    }
