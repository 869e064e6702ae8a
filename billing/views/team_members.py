"""Who is on a team: members join, change and leave (contract 5.4)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.budgets.bars import allowances
from billing.budgets.periods import ensure_periods, start_afresh
from billing.budgets.status import prepare_periods, prepare_periods_of_many, spending_of
from billing.models import HolderType
from billing.views import examples
from billing.views.team_objects import holder_of, membership_objects, user_named
from billing.views.team_view import TeamView, new_members
from customers.api import Action
from customers.api.errors import BadRequest, NotFound
from customers.api.schema import described
from customers.models import Budget, TeamMembership
from customers.models.audit_log import record_audit
from customers.serializers import teams as shapes
from customers.services import teams as services
from customers.text import is_clean_id


class AddMembers(TeamView):
    """Have users join a team, all or none; who is not known yet is made."""

    actions = {"POST": Action.WRITE_TEAMS}

    @described(
        body=shapes.AddedMembers,
        answer=examples.TEAM_WITH_NEW_MEMBERS,
        example={
            "team_id": "t-sales",
            "member": {"role": "user", "user_id": "u-17"},
            "max_budget_in_team": 5,
        },
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.AddedMembers)
        team = self.team(given["team_id"])
        added = services.add_members(
            team=team, members=new_members(given["member"]), limits=_limits_in_team(given)
        )
        prepare_periods_of_many(
            HolderType.TEAM_MEMBER,
            [(holder_of(member)[1], member.budget or team.member_budget) for member in added],
        )
        return self.answer(
            team,
            updated_users=[user_named(member) for member in added],
            updated_team_memberships=membership_objects(added, at=timezone.now()),
        )


class UpdateMember(TeamView):
    """Change a member's role, or its limits on the team, where they are sent."""

    actions = {"POST": Action.WRITE_TEAMS}

    @described(
        body=shapes.ChangedMember,
        answer=examples.CHANGED_MEMBER,
        example={"team_id": "t-sales", "user_id": "u-17", "max_budget_in_team": 5},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.ChangedMember)
        team = self.team(given["team_id"])
        member = self.membership(team, given)
        services.update_member(membership=member, given={**given, **_limits_in_team(given)})
        budget = member.budget or team.member_budget
        prepare_periods(*holder_of(member), budget)
        return Response(
            {
                "team_id": team.pk,
                "user_id": member.user_id,
                "user_email": member.user.email or None,
                "max_budget_in_team": budget.max_budget if budget else None,
                "role": member.role,
                "tpm_limit": budget.tpm_limit if budget else None,
                "rpm_limit": budget.rpm_limit if budget else None,
                "budget_duration": (budget.budget_duration or None) if budget else None,
            }
        )


class DeleteMember(TeamView):
    """Have a user leave a team; the keys that it has for that team are deleted."""

    actions = {"POST": Action.WRITE_TEAMS}

    @described(
        body=shapes.NamedMember,
        answer=examples.TEAM,
        example={"team_id": "t-sales", "user_id": "u-17"},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.NamedMember)
        team = self.team(given["team_id"])
        services.remove_member(membership=self.membership(team, given), at=timezone.now())
        return self.answer(team)


class ResetMemberSpend(TeamView):
    """Have the periods under way of a member's budget count from zero, as of now."""

    actions = {"POST": Action.WRITE_TEAMS}

    @described(body=shapes.ResetSpend, answer=examples.RESET_MEMBER, example={"reset_to": 0})
    def post(self, request: Request, team_id: str, user_id: str) -> Response:
        team = self.team(team_id)
        if not is_clean_id(user_id):
            raise NotFound(f"no such user on team {team.pk}", param="user_id")
        member = self.membership(team, {"user_id": user_id})
        if self.body(shapes.ResetSpend)["reset_to"] != 0:
            raise BadRequest(
                "reset_to must be 0: a period can count from zero again, what was spent is never rewritten.",
                param="reset_to",
            )
        budget = member.budget or team.member_budget
        limits = allowances(budget)
        if budget is None or not limits:
            raise BadRequest(
                "This member has no budget of which spend could be reset: give it one with "
                "POST /team/member_update.",
                param="user_id",
            )
        at = timezone.now()
        periods = [limit.period(holder_of(member), at) for limit in limits]
        ensure_periods(periods)  # a budget that no call has met yet: its period is made of the log
        before = self._spent(member, budget, at)
        start_afresh(periods, at=at)
        record_audit(TeamMembership, {member.pk: {"spend": before}}, {member.pk: {"spend": 0}})
        return Response(
            {
                "team_id": team.pk,
                "user_id": member.user_id,
                "spend": 0,
                "previous_spend": before,
                "max_budget": budget.max_budget,
                "budget_reset_at": periods[0].ends_at,
            }
        )

    def _spent(self, member: TeamMembership, budget: Budget, at: datetime) -> Any:
        kind, member_id = holder_of(member)
        period = spending_of(kind, [(member_id, budget)], at=at)[member_id].period
        return period["spent"] if period else 0


def _limits_in_team(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a member's limits by the names that budgets have."""
    names = {"max_budget_in_team": "max_budget", "budget_duration": "budget_duration"}
    names |= {"tpm_limit": "tpm_limit", "rpm_limit": "rpm_limit"}
    return {ours: given[name] for name, ours in names.items() if name in given}


urlpatterns = [
    path("team/member_add", AddMembers.as_view()),
    path("team/member_update", UpdateMember.as_view()),
    path("team/member_delete", DeleteMember.as_view()),
    path("team/<path:team_id>/member/<path:user_id>/reset_spend", ResetMemberSpend.as_view()),
]
