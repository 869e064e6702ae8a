"""What the routes of teams and of their members share."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.utils import timezone
from rest_framework.response import Response

from billing.views.team_objects import team_objects
from customers.api import ManagementView
from customers.api.errors import AccessError, NotFound
from customers.models import Team, TeamMembership
from customers.services import teams as services
from customers.text import is_clean_id


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


def new_members(given: Iterable[Mapping[str, Any]]) -> list[services.NewMember]:
    return [
        services.NewMember(member.get("user_id"), member.get("user_email"), member["role"])
        for member in given
    ]
