"""
Teams and their members: contract 5.4.

Whoever administers a team changes its members, their limits, its name and its metadata.
What the team itself may spend and call is for proxy admins.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.budget_bars import allowances
from billing.budget_status import Spending, prepare_periods, spending_of
from billing.models import HolderType
from billing.models.spend_total import team_member_id
from billing.periods import ensure_periods, start_afresh
from billing.views import examples
from billing.views.budgets import budget_object
from billing.views.limits import holder_limits, key_rows
from customers.api import Action, ManagementView
from customers.api.access import MEMBER_PERMISSIONS, reach_of
from customers.api.errors import AccessError, BadRequest, NotFound
from customers.api.paging import page_of
from customers.api.schema import described
from customers.filtersets import TeamFilter
from customers.models import Budget, Team, TeamMembership, VirtualKey
from customers.models.audit_log import record_audit
from customers.serializers import teams as shapes
from customers.services import teams as services
from customers.text import is_clean_id

MOST_LISTED = 1_000  # teams in the list without pages
# What whoever administers a team may change of it.
_OF_TEAM_ADMINS = {
    "team_id", "team_alias", "metadata", "team_member_budget", "team_member_budget_duration",
    "team_member_rpm_limit", "team_member_tpm_limit", "team_member_permissions",
}  # fmt: skip


class TeamView(ManagementView):
    """A route about one team, or several."""

    refusal_type = "team_member_permission_error"

    def team(self, team_id: str) -> Team:
        """Return a team within reach. Raises: NotFound; AccessError 403 for members without the right."""
        teams = Team.objects.select_related("budget", "member_budget").filter(deleted_at=None)
        found = teams.filter(self.reach.teams(), pk=team_id).first() if is_clean_id(team_id) else None
        if found is not None:
            return found
        if team_id in self.caller.team_ids:
            raise AccessError(
                f"Only an admin of team {team_id}, or a proxy admin, may do this.",
                status=403,
                type=self.refusal_type,
                param="team_id",
            )
        raise NotFound(f"no team with id {team_id}", param="team_id")

    def membership(self, team: Team, given: Mapping[str, Any]) -> TeamMembership:
        """Return the membership of who is named by id or e-mail. Raises: NotFound."""
        members = team.memberships.select_related("user", "budget", "team__member_budget")
        if given.get("user_id"):
            found, who = members.filter(user_id=given["user_id"]).first(), given["user_id"]
        else:
            found = members.filter(user__email__iexact=given["user_email"]).first()
            who = given["user_email"]
        if found is None:
            param = "user_id" if given.get("user_id") else "user_email"
            raise NotFound(f"{who} is not on team {team.pk}", param=param)
        return found

    def answer(self, team: Team, **added: Any) -> Response:
        """Return the team as it is now."""
        [row] = team_objects([team], at=timezone.now())
        return Response({**row, **added})


class NewTeam(TeamView):
    """Make a team."""

    actions = {"POST": Action.MANAGE_TEAMS}

    @described(
        body=shapes.NewTeam,
        answer=examples.TEAM,
        example={"team_id": "t-sales", "team_alias": "Sales", "max_budget": 200, "budget_duration": "1mo"},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.NewTeam)
        team = services.create_team(given=given)
        services.add_members(team=team, members=self._members(given))
        prepare_periods(HolderType.TEAM, team.pk, team.budget)
        return self.answer(team)

    def _members(self, given: Mapping[str, Any]) -> list[services.NewMember]:
        """Return who is on the new team: who the request names, and its maker as an admin."""
        admin = TeamMembership.Role.ADMIN
        members = new_members(given.get("members_with_roles") or ())
        named = {member.user_id for member in members}
        listed = [(user_id, admin) for user_id in given.get("admins") or ()]
        listed += [(user_id, TeamMembership.Role.USER) for user_id in given.get("members") or ()]
        if self.caller.key is not None and self.caller.key.user_id is not None:
            listed.append((self.caller.key.user_id, admin))
        for user_id, role in listed:
            if user_id not in named:
                named.add(user_id)
                members.append(services.NewMember(user_id=user_id, role=role))
        return members


class UpdateTeam(TeamView):
    """Change those fields of a team that are sent."""

    actions = {"POST": Action.WRITE_TEAMS}

    @described(
        body=shapes.ChangedTeam,
        answer={"team_id": "t-sales", "data": examples.TEAM},
        example={"team_id": "t-sales", "max_budget": 250},
    )
    def post(self, request: Request) -> Response:
        return self.update(self.body(shapes.ChangedTeam))

    def update(self, given: Mapping[str, Any]) -> Response:
        team = self.team(given["team_id"])
        self._check_fields(given)
        services.update_team(team=team, given=given)
        prepare_periods(HolderType.TEAM, team.pk, team.budget)
        [row] = team_objects([team], at=timezone.now())
        return Response({"team_id": team.pk, "data": row})

    def _check_fields(self, given: Mapping[str, Any]) -> None:
        if self.reach.is_all:
            return
        refused = sorted(given.keys() - _OF_TEAM_ADMINS)
        if "tags" in (given.get("metadata") or {}):
            refused.append("metadata.tags")
        if refused:
            raise AccessError(
                f"Only a proxy admin may change {', '.join(refused)} of a team.",
                status=403,
                type=self.refusal_type,
                param=refused[0],
            )


class PatchTeam(UpdateTeam):
    """Change those fields of the team in the path that are sent."""

    actions = {"PATCH": Action.WRITE_TEAMS}
    http_method_names = ["patch", "options"]

    @described(
        body=shapes.TeamFields,
        answer={"team_id": "t-sales", "data": examples.TEAM},
        example={"max_budget": 250},
    )
    def patch(self, request: Request, team_id: str) -> Response:
        self.team(team_id)  # not found, before what is wrong with the rest
        return self.update({**self.body(shapes.TeamFields), "team_id": team_id})


class AvailableTeams(TeamView):
    """Teams that anybody may join without being asked: there are none, members are added by admins."""

    actions = {"GET": Action.READ_TEAMS}

    @described(answer=[])
    def get(self, request: Request) -> Response:
        return Response([])


class DeleteTeams(TeamView):
    """Delete teams, all or none; their keys are deleted too, their logs stay."""

    actions = {"POST": Action.MANAGE_TEAMS}

    @described(
        body=shapes.DeletedTeams,
        answer={"deleted_teams": ["t-sales"]},
        example={"team_ids": ["t-sales"]},
    )
    def post(self, request: Request) -> Response:
        ids = self.body(shapes.DeletedTeams)["team_ids"]
        known = set(Team.objects.filter(pk__in=ids, deleted_at=None).values_list("pk", flat=True))
        for team_id in ids:
            if team_id not in known:
                raise NotFound(f"no team with id {team_id}; none was deleted", param="team_ids")
        services.delete_teams(ids=ids, at=timezone.now())
        return Response({"deleted_teams": ids})


class SetBlocked(TeamView):
    """Block or unblock a team with all its keys."""

    actions = {"POST": Action.MANAGE_TEAMS}
    blocked = True

    @described(body=shapes.NamedTeam, answer=examples.TEAM, example={"team_id": "t-sales"})
    def post(self, request: Request) -> Response:
        team = self.team(self.body(shapes.NamedTeam)["team_id"])
        services.set_teams_blocked(ids=[team.pk], blocked=self.blocked)
        team.refresh_from_db(fields=["blocked"])
        return self.answer(team)


class TeamInfo(TeamView):
    """One team, its members, and those of its keys that the caller may see."""

    actions = {"GET": Action.READ_TEAMS}

    @described(query=shapes.NamedTeam, answer=examples.TEAM_INFO)
    def get(self, request: Request) -> Response:
        team = self.team(self.query(shapes.NamedTeam)["team_id"])
        at = timezone.now()
        [row] = team_objects([team], at=at)
        keys = seen_keys(self).filter(team=team)
        return Response(
            {
                "team_id": team.pk,
                "team_info": row,
                "keys": key_rows(keys, at=at),
                "team_memberships": membership_objects(self.seen_members(team), at=at),
            }
        )

    def seen_members(self, team: Team) -> list[TeamMembership]:
        return [member for member in members_of(team) if sees_spend(self, member)]


class ListTeams(TeamView):
    """All teams within reach, each with its keys and members."""

    actions = {"GET": Action.READ_TEAMS}

    @described(
        query=shapes.TeamQuery,
        answer=[{**examples.TEAM, "team_memberships": [examples.MEMBERSHIP], "keys": [examples.KEY_ROW]}],
    )
    def get(self, request: Request) -> Response:
        chosen = TeamFilter(self.query(shapes.TeamQuery), seen_teams(self)).qs.order_by("created_at", "pk")
        teams = list(chosen[: MOST_LISTED + 1])
        if len(teams) > MOST_LISTED:
            raise BadRequest(f"There are more than {MOST_LISTED} teams: page through /v2/team/list.")
        at = timezone.now()
        by_team: dict[str, list[dict[str, Any]]] = {team.pk: [] for team in teams}
        for key in key_rows(seen_keys(self).filter(team__in=teams), at=at):
            by_team[key["team_id"]].append(key)
        members = [member for team in teams for member in members_of(team) if sees_spend(self, member)]
        memberships: dict[str, list[dict[str, Any]]] = {team.pk: [] for team in teams}
        for member in membership_objects(members, at=at):
            memberships[member["team_id"]].append(member)
        return Response(
            [
                {**row, "team_memberships": memberships[row["team_id"]], "keys": by_team[row["team_id"]]}
                for row in team_objects(teams, at=at)
            ]
        )


class PageOfTeams(TeamView):
    """A page of the teams within reach."""

    actions = {"GET": Action.READ_TEAMS}

    @described(
        query=shapes.TeamPageQuery,
        answer={"teams": [examples.TEAM], "total": 1, "page": 1, "page_size": 10, "total_pages": 1},
    )
    def get(self, request: Request) -> Response:
        asked = self.query(shapes.TeamPageQuery)
        field = {"team_id": "pk", "team_alias": "alias"}.get(asked["sort_by"], asked["sort_by"])
        sign = "-" if asked["sort_order"] == "desc" else ""
        chosen = TeamFilter(asked, seen_teams(self)).qs.order_by(f"{sign}{field}", "pk")
        page = page_of(chosen, number=asked["page"], size=asked["page_size"])
        return Response(
            {
                "teams": team_objects(page.rows, at=timezone.now()),
                "total": page.total,
                "page": page.number,
                "page_size": page.size,
                "total_pages": page.pages,
            }
        )


# -- members -----------------------------------------------------------------------------


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
        for member in added:
            prepare_periods(*_holder(member), member.budget or team.member_budget)
        return self.answer(
            team,
            updated_users=[_user_named(member) for member in added],
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
        prepare_periods(*_holder(member), budget)
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
        periods = [limit.period(_holder(member), at) for limit in limits]
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
        kind, member_id = _holder(member)
        period = spending_of(kind, [(member_id, budget)], at=at)[member_id].period
        return period["spent"] if period else 0


# -- models and permissions --------------------------------------------------------------


class AddModels(TeamView):
    """Let a team's keys call these models too."""

    actions = {"POST": Action.MANAGE_TEAMS}

    @described(
        body=shapes.TeamModels,
        answer=examples.TEAM,
        example={"team_id": "t-sales", "models": ["gpt-4o-mini"]},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.TeamModels)
        return self.answer(services.add_models(team=self.team(given["team_id"]), models=given["models"]))


class RemoveModels(TeamView):
    """Take models away from a team's keys."""

    actions = {"POST": Action.MANAGE_TEAMS}

    @described(
        body=shapes.TeamModels,
        answer=examples.TEAM,
        example={"team_id": "t-sales", "models": ["gpt-4o-mini"]},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.TeamModels)
        return self.answer(services.remove_models(team=self.team(given["team_id"]), models=given["models"]))


class Permissions(TeamView):
    """What a team permits its members."""

    actions = {"GET": Action.READ_TEAMS}

    @described(query=shapes.NamedTeam, answer=examples.PERMISSIONS)
    def get(self, request: Request) -> Response:
        return permissions_answer(self.team(self.query(shapes.NamedTeam)["team_id"]))


class UpdatePermissions(TeamView):
    """Say what a team permits its members."""

    actions = {"POST": Action.WRITE_TEAMS}

    @described(
        body=shapes.TeamPermissions,
        answer=examples.PERMISSIONS,
        example={"team_id": "t-sales", "team_member_permissions": ["/key/info"]},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.TeamPermissions)
        team = self.team(given["team_id"])
        permissions = {"team_member_permissions": given["team_member_permissions"]}
        return permissions_answer(services.update_team(team=team, given=permissions))


# -- what is written of them -------------------------------------------------------------


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
        "members_with_roles": [{"role": member.role, **_user_named(member)} for member in members_of(team)],
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
    budgets = {_holder(member)[1]: member.budget or member.team.member_budget for member in listed}
    spending = spending_of(HolderType.TEAM_MEMBER, budgets.items(), at=at)
    rows = []
    for member in listed:
        member_id = _holder(member)[1]
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
                "role": member.role,
                "has_budget_of_its_own": member.budget_id is not None,
            }
        )
    return rows


def members_of(team: Team) -> Iterable[TeamMembership]:
    """Return the members in the order in which they joined, with their users. No query after `seen_teams`."""
    prefetched = getattr(team, "_prefetched_objects_cache", {})
    return team.memberships.all() if "memberships" in prefetched else _members().filter(team=team)


def new_members(given: Iterable[Mapping[str, Any]]) -> list[services.NewMember]:
    return [
        services.NewMember(member.get("user_id"), member.get("user_email"), member["role"])
        for member in given
    ]


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
    return _with_relations(Team.objects.filter(reach_of(view.caller, Action.READ_TEAMS).teams()))


def permissions_answer(team: Team) -> Response:
    return Response(
        {
            "team_id": team.pk,
            "team_member_permissions": team.member_permissions,
            "all_available_permissions": list(MEMBER_PERMISSIONS),
        }
    )


def _with_relations(teams: QuerySet) -> QuerySet:
    """Return those of the teams that were not deleted, with all that is written of them."""
    return (
        teams.filter(deleted_at=None)
        .select_related("budget", "member_budget")
        .prefetch_related(Prefetch("memberships", queryset=_members()))
    )


def _members() -> QuerySet:
    return TeamMembership.objects.select_related("user", "budget", "team__member_budget").order_by("pk")


def _holder(member: TeamMembership) -> tuple[HolderType, str]:
    return HolderType.TEAM_MEMBER, team_member_id(member.team_id, member.user_id)


def _user_named(member: TeamMembership) -> dict[str, Any]:
    return {"user_id": member.user_id, "user_email": member.user.email or None}


def _limits_in_team(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a member's limits by the names that budgets have."""
    names = {"max_budget_in_team": "max_budget", "budget_duration": "budget_duration"}
    names |= {"tpm_limit": "tpm_limit", "rpm_limit": "rpm_limit"}
    return {ours: given[name] for name, ours in names.items() if name in given}


urlpatterns = [
    path("team/new", NewTeam.as_view()),
    path("team/update", UpdateTeam.as_view()),
    path("team/delete", DeleteTeams.as_view()),
    path("team/info", TeamInfo.as_view()),
    path("team/list", ListTeams.as_view()),
    path("v2/team/list", PageOfTeams.as_view()),
    path("team/member_add", AddMembers.as_view()),
    path("team/member_update", UpdateMember.as_view()),
    path("team/member_delete", DeleteMember.as_view()),
    path("team/block", SetBlocked.as_view(blocked=True)),
    path("team/unblock", SetBlocked.as_view(blocked=False)),
    path("team/model/add", AddModels.as_view()),
    path("team/model/delete", RemoveModels.as_view()),
    path("team/permissions_list", Permissions.as_view()),
    path("team/permissions_update", UpdatePermissions.as_view()),
    path("team/available", AvailableTeams.as_view()),
    path("team/<path:team_id>/member/<path:user_id>/reset_spend", ResetMemberSpend.as_view()),
    path("team/<str:team_id>", PatchTeam.as_view()),
]
