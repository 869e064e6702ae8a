"""What one user or customer spent: `manage.py user_spend --user-id ID | --customer-id ID [--days N]`."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.budgets.bars import Bar, Holder, bars_now
from billing.management.asking import WithExamples, add_days, add_forms, filters_of
from billing.management.reporting import by_dimension, document, told, unattributed
from billing.management.tables import as_csv, as_json, as_text, printable, records
from billing.models import HolderType, SpendTotal
from billing.reporting.reports import one_instant
from customers.models import Customer, User
from customers.words import count, usd

_EXAMPLES = """examples:
  manage.py user_spend --user-id alice              an internal user, the last 30 days
  manage.py user_spend --customer-id acme --days 7  a customer: what it is charged
"""


class Command(WithExamples):
    examples = _EXAMPLES
    help = "Show what one user or customer spent, by model and by day, all time, and of its budget."

    def add_arguments(self, parser: CommandParser) -> None:
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("--user-id", metavar="ID", help="an internal user, who owns keys")
        whose.add_argument("--customer-id", metavar="ID", help="a customer, who is billed")
        add_days(parser)
        add_forms(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        kind = HolderType.USER if options["user_id"] is not None else HolderType.CUSTOMER
        holder_id = options["user_id"] if kind == HolderType.USER else options["customer_id"]
        if not holder_id:
            raise CommandError(
                f"Say whose: --{kind.value}-id ID. See who has spend: manage.py spend --by {kind.value}"
            )
        filters = filters_of({**options, kind.value: [holder_id]}, now=now)
        with one_instant():
            models = by_dimension(filters, "model", limit=None)
            days = by_dimension(filters, "day", limit=None)
            free = unattributed(filters)
            total = SpendTotal.objects.filter(holder_type=kind, holder_id=holder_id).first()
            holder = _holder(kind, holder_id)
            bars = bars_now([holder], at=now)[holder.key]
        whose = {
            "type": kind.value,
            "id": holder_id,
            "name": holder.label,
            "all_time": _all_time(total, kind),
            "budget": [_limit(bar) for bar in bars],
        }
        if options["json"]:
            by_model = document(filters, models, free, records(models))
            by_model["by_model"] = by_model.pop("rows")
            del by_model["by"]
            self.stdout.write(as_json({**whose, **by_model, "by_day": records(days)}))
        elif options["csv"]:
            rows = [
                {"by": by, "name": row.pop(by), **row}
                for by, sheet in (("model", models), ("day", days))
                for row in records(sheet)
            ]
            self.stdout.write(as_csv(rows), ending="")
        else:
            has_colour = not options["no_color"]
            self.stdout.write("\n".join(_head(whose, bars)))
            self.stdout.write(
                told("Spend by model", filters, models, free, self.stdout, has_colour=has_colour)
            )
            if days.whole.calls:
                self.stdout.write("\nBy day\n")
                self.stdout.write(as_text(days, self.stdout, has_colour=has_colour))


def _head(whose: dict[str, Any], bars: Sequence[Bar]) -> list[str]:
    name = f" ({printable(whose['name'])})" if whose["name"] not in ("", whose["id"]) else ""
    ever = whose["all_time"]
    limits = [_limit_text(bar) for bar in bars] or ["none of its own"]
    return [
        f"{whose['type'].capitalize()} {printable(whose['id'])}{name}",
        f"All time  {usd(ever['spend_usd'])} in {count(ever['requests'])} requests",
        *(f"Budget    {limit}" for limit in limits),
        "",
    ]


def _holder(kind: HolderType, holder_id: str) -> Holder:
    """Return whose spend it is; one whose row is gone has its log alone."""
    rows: Any = User.objects if kind == HolderType.USER else Customer.objects
    row = rows.select_related("budget").filter(pk=holder_id).first()
    budget = row.budget if row else None
    is_default = kind == HolderType.CUSTOMER and budget is None
    return Holder(kind.value, holder_id, row.alias if row else "", budget, is_default)


def _all_time(total: SpendTotal | None, kind: HolderType) -> dict[str, Any]:
    if total is None:
        return {"spend_usd": Decimal(0), "requests": 0}
    return {"spend_usd": total.charge if kind == HolderType.CUSTOMER else total.cost, "requests": total.calls}


def _limit(bar: Bar) -> dict[str, Any]:
    return {
        "model": bar.period.scope or None,
        "duration": bar.duration,
        "limit_usd": bar.limit,
        "spent_usd": bar.spent,
        "held_usd": bar.held,
        "provisional_usd": bar.provisional,
        "left_usd": bar.left,
        "ends_at": bar.ends_at,
    }


def _limit_text(bar: Bar) -> str:
    scope = f" for {printable(bar.period.scope)}" if bar.period.scope else ""
    ends = f", until {bar.ends} ({bar.zone})" if bar.ends else ""
    return f"{bar.summary}, {bar.left_text} left{scope}; {bar.duration}{ends}"
