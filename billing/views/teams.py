"""
Teams: contract 5.4. Their members are in `team_members.py`, what they look like in `team_objects.py`.

Whoever administers a team changes its members, their limits, its name and its metadata.
What the team itself may spend and call is for proxy admins.
"""

from collections.abc import Mapping
from typing import Any

from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.budgets.status import prepare_periods
from billing.models import HolderType
from billing.views import examples
from billing.views.limits import key_rows
from billing.views.team_objects import (
    members_of,
    membership_objects,
    seen_keys,
    seen_teams,
    sees_spend,
    team_objects,
)
from billing.views.team_view import TeamView, new_members
from customers.api import Action
from customers.api.errors import AccessError, BadRequest, NotFound
from customers.api.paging import page_of
from customers.api.schema import described
from customers.filtersets import TeamFilter
from customers.models import Team, TeamMembership
from customers.models.team import MEMBER_PERMISSIONS
from customers.serializers import teams as shapes
from customers.services import teams as services

MOST_LISTED = 1_000  # teams in the list without pages
# What whoever administers a team may change of it.
_OF_TEAM_ADMINS = {
    "team_id", "team_alias", "metadata", "team_member_budget", "team_member_budget_duration",
    "team_member_rpm_limit", "team_member_tpm_limit", "team_member_permissions",
}  # fmt: skip


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


def permissions_answer(team: Team) -> Response:
    return Response(
        {
            "team_id": team.pk,
            "team_member_permissions": team.member_permissions,
            "all_available_permissions": list(MEMBER_PERMISSIONS),
        }
    )


urlpatterns = [
    path("team/new", NewTeam.as_view()),
    path("team/update", UpdateTeam.as_view()),
    path("team/delete", DeleteTeams.as_view()),
    path("team/info", TeamInfo.as_view()),
    path("team/list", ListTeams.as_view()),
    path("v2/team/list", PageOfTeams.as_view()),
    path("team/block", SetBlocked.as_view(blocked=True)),
    path("team/unblock", SetBlocked.as_view(blocked=False)),
    path("team/model/add", AddModels.as_view()),
    path("team/model/delete", RemoveModels.as_view()),
    path("team/permissions_list", Permissions.as_view()),
    path("team/permissions_update", UpdatePermissions.as_view()),
    path("team/available", AvailableTeams.as_view()),
    path("team/<str:team_id>", PatchTeam.as_view()),
]
