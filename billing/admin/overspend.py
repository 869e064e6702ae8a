"""How far periods went over their limits: the figure that says whether budgets hold."""

from decimal import Decimal
from typing import NamedTuple

from django.db.models import Case, Count, ExpressionWrapper, F, Max, Q, QuerySet, Sum, When

from billing.models import BudgetPeriod, HolderType
from customers.money import UsdField
from customers.words import count, usd

COUNTED_PERIODS = 100_000  # the latest; some 50 ms

SPENT = Case(
    When(holder_type=HolderType.CUSTOMER, then=F("spent_charge")),
    default=F("spent_cost"),
    output_field=UsdField(),
)


class Overspend(NamedTuple):
    """The largest overspend of a period and the sum of all, USD, and how many periods had one."""

    largest: Decimal
    total: Decimal
    periods: int
    is_partial: bool  # there are more periods than were read

    def __str__(self) -> str:
        if not self.periods:
            return "no period went over its limit"
        number = "1 period" if self.periods == 1 else f"{count(self.periods)} periods"
        of = f" of the latest {count(COUNTED_PERIODS)}" if self.is_partial else ""
        return f"max {usd(self.largest)}, sum {usd(self.total)}, in {number}{of}"


def overspend_of(periods: QuerySet[BudgetPeriod]) -> Overspend:
    """Add up the latest `COUNTED_PERIODS` of `periods`. One query."""
    over = ExpressionWrapper(SPENT - F("last_limit"), UsdField())
    is_over = Q(over__gt=0)
    sums = (
        periods.annotate(over=over)
        .order_by("-pk")[:COUNTED_PERIODS]
        .aggregate(
            largest=Max("over", filter=is_over),
            total=Sum("over", filter=is_over),
            periods=Count("pk", filter=is_over),
            read=Count("pk"),
        )
    )
    return Overspend(
        sums["largest"] or Decimal(0),
        sums["total"] or Decimal(0),
        sums["periods"],
        is_partial=sums["read"] == COUNTED_PERIODS,
    )
