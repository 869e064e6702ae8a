"""
Who a budget limits: those attached to it, and the customers it is the default of.

Customers of a key whose `customer_budget` it is are those that its latest calls name:
nothing else says who they are.
"""

from typing import Any, NamedTuple

from django.db.models import Case, Count, F, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce, Concat

from billing.admin.naming import UuidText
from billing.models import HolderType, SpendLog, SpendTotal
from billing.models.spend_total import GATEWAY_ID
from customers.models import Budget, Customer, GatewayLimits, Tag, Team, TeamMembership, User, VirtualKey
from customers.money import UsdField

KEY_CALLS_READ = 10_000

SPEND = Case(
    When(holder_type=HolderType.CUSTOMER, then=F("charge")), default=F("cost"), output_field=UsdField()
)


class _Attaching(NamedTuple):
    holder_type: HolderType
    rows: QuerySet  # of a model with `budget`
    id: Any  # the holder's id, as an expression


_MEMBER_ID = Concat(F("team_id"), Value("\n"), F("user_id"))
_ATTACHING = (
    _Attaching(HolderType.CUSTOMER, Customer.objects.listed(), F("pk")),
    _Attaching(HolderType.KEY, VirtualKey.objects.listed(), UuidText(F("pk"))),
    _Attaching(HolderType.TEAM, Team.objects.filter(deleted_at=None), F("pk")),
    _Attaching(HolderType.TEAM_MEMBER, TeamMembership.objects.all(), _MEMBER_ID),
    _Attaching(HolderType.USER, User.objects.all(), F("pk")),
    _Attaching(HolderType.TAG, Tag.objects.all(), F("pk")),
    _Attaching(HolderType.GATEWAY, GatewayLimits.objects.all(), Value(GATEWAY_ID)),
)
# (name, rows, their column, what several and what one of them is called)
_DEFAULTING = (
    (
        "key_default",
        VirtualKey.objects.listed(),
        "customer_budget",
        "customers of {} keys",
        "customers of 1 key",
    ),
    ("gateway_default", GatewayLimits.objects.all(), "customer_budget", "", "customers without another"),
    (
        "team_default",
        Team.objects.filter(deleted_at=None),
        "member_budget",
        "members of {} teams",
        "members of 1 team",
    ),
)


def with_holder_counts(budgets: QuerySet) -> QuerySet:
    """Add how many of each type are attached, for `holders_text`."""
    counts = {f"{each.holder_type}_holders": _count(each.rows, "budget") for each in _ATTACHING}
    counts |= {f"{name}_holders": _count(rows, column) for name, rows, column, _, _ in _DEFAULTING}
    return budgets.annotate(**counts)


def _count(rows: QuerySet, column: str) -> Coalesce:
    counted = rows.filter(**{column: OuterRef("pk")}).order_by().values(column).annotate(number=Count("pk"))
    return Coalesce(Subquery(counted.values("number")), 0)


def holders_text(budget: Any) -> str:
    """Write “12 customers, 1 key” from what `with_holder_counts` added; empty where nobody is attached."""
    said = []
    for each in _ATTACHING:
        number = getattr(budget, f"{each.holder_type}_holders")
        if number and each.holder_type == HolderType.GATEWAY:
            said.append("the gateway")
        elif number:
            said.append(f"{number:,} {each.holder_type.label}{'' if number == 1 else 's'}")
    for name, _, _, several, one in _DEFAULTING:
        number = getattr(budget, f"{name}_holders")
        if number:
            said.append(one if number == 1 else several.format(f"{number:,}"))
    return ", ".join(said)


def is_held(budget: Budget) -> bool:
    """Tell whether the budget limits anybody."""
    return any(each.rows.filter(budget=budget).exists() for each in _ATTACHING) or any(
        rows.filter(**{column: budget}).exists() for _, rows, column, _, _ in _DEFAULTING
    )


def of_holders(budget: Budget) -> Q:
    """Return a condition on rows with `holder_type` and `holder_id`: they belong to who it limits.

    A few queries find which kinds there are, so that the condition is no longer than it must be.
    """
    condition = Q(pk__in=[])
    for each in _ATTACHING:
        attached = each.rows.filter(budget=budget)
        if attached.exists():
            ids = attached.order_by().annotate(holder=each.id).values("holder")
            condition |= Q(holder_type=each.holder_type, holder_id__in=ids)
    members = TeamMembership.objects.filter(
        budget=None, team__member_budget=budget, team__deleted_at=None, user__is_active=True
    )
    if members.exists():
        ids = members.order_by().annotate(holder=_MEMBER_ID).values("holder")
        condition |= Q(holder_type=HolderType.TEAM_MEMBER, holder_id__in=ids)
    defaulting = Customer.objects.listed().filter(budget=None)
    if GatewayLimits.objects.filter(customer_budget=budget).exists():
        condition |= Q(holder_type=HolderType.CUSTOMER, holder_id__in=defaulting.values("pk"))
    keys = list(VirtualKey.objects.listed().filter(customer_budget=budget).values_list("pk", flat=True))
    if keys:
        calls = SpendLog.objects.filter(key_id__in=keys).order_by("-pk")[:KEY_CALLS_READ]
        ids = defaulting.filter(pk__in=calls.values("customer_id")).values("pk")
        condition |= Q(holder_type=HolderType.CUSTOMER, holder_id__in=ids)
    return condition


def biggest(budget: Budget, most: int) -> list[tuple[str, str]]:
    """Return (type, id) of the holders that ever spent the most, at most `most`."""
    totals = SpendTotal.objects.filter(of_holders(budget)).order_by(SPEND.desc(), "-pk")
    return list(totals.values_list("holder_type", "holder_id")[:most])
