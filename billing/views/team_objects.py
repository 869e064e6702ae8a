"""What teams and their members look like in the answers of the API, and whose rows the caller may read."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Prefetch, QuerySet

from billing.budgets.status import Spending, spending_of
from billing.models import HolderType
from billing.models.spend_total import team_member_id
from billing.views.budgets import budget_object
from billing.views.limits import holder_limits
from customers.api import Action, ManagementView
from customers.api.access import reach_of
from customers.models import Team, TeamMembership, VirtualKey
from customers.services import teams as services


def team_objects(teams: Sequence[Team], *, at: datetime) -> list[dict[str, Any]]:
    """Return teams in the contract's shape. Of rows from `seen_teams`: two queries, however many."""
    spending = spending_of(HolderType.TEAM, [(team.pk, team.budget) for team in teams], at=at)
    return [_team_object(team, spending[team.pk]) for team in teams]


def _team_object(team: Team, spending: Spending) -> dict[str, Any]:
    limits = holder_limits(team.budget, spending)
    member_budget = team.member_budget
    return {
        "team_id": team.pk,
        "team_alias": team.alias or None,
        "organization_id": None,
        "admins": [],
        "members": [],
        "members_with_roles": [{"role": member.role, **user_named(member)} for member in members_of(team)],
        "metadata": team.metadata,
        **limits,
        "models": team.allowed_models,
        "blocked": team.blocked,
        "spend": spending.spend,
        "model_id": None,
        "litellm_model_table": None,
        "team_member_budget_table": budget_object(member_budget) if member_budget else None,
        "created_at": team.created_at,
        "updated_at": team.updated_at,
        "model_aliases": team.model_aliases,
        "tags": team.tags,
        "team_member_permissions": team.member_permissions,
        "requests": spending.total.calls if spending.total else 0,
        "created_by": team.created_by or None,
        "updated_by": team.updated_by or None,
        **{name: value for name, value in team.extras.items() if name in services.EXTRAS},
    }


def membership_objects(members: Iterable[TeamMembership], *, at: datetime) -> list[dict[str, Any]]:
    """Return memberships in the contract's shape, with the budget in force. Two queries."""
    listed = list(members)
    budgets = {holder_of(member)[1]: member.budget or member.team.member_budget for member in listed}
    spending = spending_of(HolderType.TEAM_MEMBER, budgets.items(), at=at)
    rows = []
    for member in listed:
        member_id = holder_of(member)[1]
        budget, spent = budgets[member_id], spending[member_id]
        rows.append(
            {
                "user_id": member.user_id,
                "team_id": member.team_id,
                "budget_id": budget.pk if budget else None,
                "spend": spent.spend,
                "total_spend": spent.spend,
                "litellm_budget_table": budget_object(budget) if budget else None,
                "budget_period": spent.period,
                **spent.usage,
                "role": member.role,
                "has_budget_of_its_own": member.budget_id is not None,
            }
        )
    return rows


def members_of(team: Team) -> Iterable[TeamMembership]:
    """Return the members in the order in which they joined, with their users. No query after `seen_teams`."""
    prefetched = getattr(team, "_prefetched_objects_cache", {})
    return team.memberships.all() if "memberships" in prefetched else _members().filter(team=team)


def sees_spend(view: ManagementView, member: TeamMembership) -> bool:
    """Tell whether the caller sees what this member spent: of everybody, of its team, or its own."""
    caller = view.caller
    return (
        view.reach.is_all
        or member.user_id == caller.user_id
        or member.team_id in caller.administered_team_ids
    )


def seen_keys(view: ManagementView) -> QuerySet:
    """Return the keys whose rows the caller may read, whatever the route is about."""
    return VirtualKey.objects.listed().filter(reach_of(view.caller, Action.READ_KEYS).keys())


def seen_teams(view: ManagementView) -> QuerySet:
    """Return the teams whose rows the caller may read, whatever the route is about."""
    return with_relations(Team.objects.filter(reach_of(view.caller, Action.READ_TEAMS).teams()))


def with_relations(teams: QuerySet) -> QuerySet:
    """Return those of the teams that were not deleted, with all that is written of them."""
    return (
        teams.filter(deleted_at=None)
        .select_related("budget", "member_budget")
        .prefetch_related(Prefetch("memberships", queryset=_members()))
    )


def _members() -> QuerySet:
    return TeamMembership.objects.select_related("user", "budget", "team__member_budget").order_by("pk")


def holder_of(member: TeamMembership) -> tuple[HolderType, str]:
    return HolderType.TEAM_MEMBER, team_member_id(member.team_id, member.user_id)


def user_named(member: TeamMembership) -> dict[str, Any]:
    return {"user_id": member.user_id, "user_email": member.user.email or None}
