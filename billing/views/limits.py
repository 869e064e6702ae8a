"""What a team's, a member's and a user's budget look like in the answers of the API (contract 5)."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from billing.budgets.status import Spending
from billing.views.budgets import budget_object
from billing.views.key_objects import key_objects, limits_object
from customers.models import Budget


def holder_limits(budget: Budget | None, spending: Spending) -> dict[str, Any]:
    """Return a holder's limits, flat; a tier that others may share also by its id and as a table.

    `budget_reset_at` is the end of the period under way.
    """
    is_tier = budget is not None and not budget.is_private
    return {
        **limits_object(budget),
        "budget_reset_at": spending.budget_reset_at,
        "budget_id": budget.pk if budget and is_tier else None,
        "litellm_budget_table": budget_object(budget) if budget and is_tier else None,
        "budget_period": spending.period,
        **spending.usage,
    }


def key_rows(keys: QuerySet, *, at: datetime) -> list[dict[str, Any]]:
    """Return keys as they stand in the answers about teams and users. Three queries, however many."""
    listed = list(keys.select_related("budget", "team", "user").order_by("created_at", "pk"))
    aliases = {key.token_hash: (key.team.alias or None) if key.team else None for key in listed}
    return [{**row, "team_alias": aliases[row["token"]]} for row in key_objects(listed, at=at)]
