"""Which budget a holder has: its own, else what its team or the gateway gives to those without one."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings

from billing.models import BudgetPeriod, HolderType, SpendTotal
from billing.models.spend_total import GATEWAY_ID
from customers.durations import Period, period_of
from customers.models import Budget, Customer, GatewayLimits, Tag, Team, TeamMembership, User, VirtualKey

Holder = tuple[str, str]  # (type, id)


def soft_budgets(periods: Sequence[BudgetPeriod], *, at: datetime) -> dict[int, Budget]:
    """Return the budgets with a soft budget that `periods` are periods of, by the period's id.

    A query for each type of holder. A customer that has only the budget that a key gives to
    its customers has none here: one period is of many keys.
    """
    whole = [period for period in periods if not period.scope]
    budgets = budgets_of({(period.holder_type, period.holder_id) for period in whole})
    found = {}
    for period in whole:
        budget = budgets.get((period.holder_type, period.holder_id))
        if budget is not None and budget.soft_budget and period_of_budget(budget, at).window == period.window:
            found[period.pk] = budget
    return found


def period_of_budget(budget: Budget, at: datetime) -> Period:
    """Return the period of a budget that contains `at`."""
    try:
        duration = budget.duration()
    except ValueError:  # written past the forms: for all time, as on the hot path
        duration = None
    return period_of(duration, at, settings.BUDGET_TIME_ZONE)


_MODELS: dict[HolderType, Any] = {
    HolderType.CUSTOMER: Customer,
    HolderType.KEY: VirtualKey,
    HolderType.TEAM: Team,
    HolderType.USER: User,
    HolderType.TAG: Tag,
}


def budgets_of(holders: Iterable[Holder]) -> dict[Holder, Budget]:
    """Return the budget of each holder that has one."""
    ids: dict[str, list[str]] = {}
    for holder_type, holder_id in holders:
        ids.setdefault(holder_type, []).append(holder_id)
    found: dict[Holder, Budget] = {}
    for holder_type, of_type in ids.items():
        match HolderType(holder_type):
            case HolderType.GATEWAY:
                limits = _gateway_limits()
                found |= {(holder_type, GATEWAY_ID): limits.budget} if limits and limits.budget else {}
            case HolderType.TEAM_MEMBER:
                found |= _of_members(of_type)
            case HolderType.CUSTOMER:
                found |= _of_customers(of_type)
            case named:
                if named == HolderType.KEY:
                    of_type = [key_id for key_id in of_type if "-" in key_id]  # the master key has none
                rows = _MODELS[named].objects.filter(pk__in=of_type, budget__isnull=False)
                found |= {(holder_type, str(row.pk)): row.budget for row in rows.select_related("budget")}
    return found


def _gateway_limits() -> GatewayLimits | None:
    # Not `current`, which makes the row: that would take the change counter while calls are booked.
    return GatewayLimits.objects.select_related("budget", "customer_budget").first()


def _of_customers(ids: list[str]) -> dict[Holder, Budget]:
    rows = Customer.objects.filter(pk__in=ids, budget__isnull=False).select_related("budget")
    own = {(HolderType.CUSTOMER.value, row.pk): row.budget for row in rows if row.budget}
    limits = _gateway_limits()
    default = limits.customer_budget if limits else None
    others = {(HolderType.CUSTOMER.value, customer_id): default for customer_id in ids} if default else {}
    return others | own


def _of_members(ids: list[str]) -> dict[Holder, Budget]:
    found = {}
    pairs = [tuple(holder_id.split("\n", 1)) for holder_id in ids if "\n" in holder_id]
    members = TeamMembership.objects.filter(
        team_id__in={team for team, _ in pairs}, user_id__in={user for _, user in pairs}
    ).select_related("budget", "team__member_budget")
    for member in members:
        budget = member.budget or member.team.member_budget
        if budget is not None:
            found[HolderType.TEAM_MEMBER.value, f"{member.team_id}\n{member.user_id}"] = budget
    return found


def holders_with_soft_budgets_alone() -> Iterable[tuple[Holder, Budget]]:
    """Yield holders whose own budget only warns: no call is held on it, so nothing makes its periods.

    Those that ever spent as much; the others cannot be above it.
    """
    alone = Budget.objects.filter(soft_budget__gt=0, max_budget__isnull=True)
    if not alone.exists():
        return
    for holder_type, model in _MODELS.items():
        rows = model.objects.filter(budget__in=alone).select_related("budget")
        amount = "charge" if holder_type == HolderType.CUSTOMER else "cost"
        budgets = {str(row.pk): row.budget for row in rows.iterator(chunk_size=2000)}
        spent = SpendTotal.objects.filter(holder_type=holder_type, **{f"{amount}__gt": 0})
        for holder_id, total in spent.values_list("holder_id", amount).iterator(chunk_size=2000):
            budget = budgets.get(holder_id)
            if budget is not None and total >= budget.soft_budget:
                yield (holder_type.value, holder_id), budget
    limits = _gateway_limits()
    budget = limits.budget if limits else None
    if budget is not None and budget.max_budget is None and budget.soft_budget:
        yield (HolderType.GATEWAY.value, GATEWAY_ID), budget
