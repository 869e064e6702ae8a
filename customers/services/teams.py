"""What is done to teams and their members: make, change, block, delete; join, change, leave."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.forms.models import model_to_dict

from customers.actors import current_actor
from customers.models import Budget, Team, TeamMembership, VirtualKey
from customers.models.team import MEMBER_PERMISSIONS, new_team_id
from customers.refusals import Refused
from customers.services.budgets import LIMIT_FIELDS, budget_of_holder, plan_budget
from customers.services.defaults import enforceable_limits, with_defaults
from customers.services.keys import delete_keys
from customers.services.many_users import NewUsers
from customers.services.users import end_memberships
from customers.text import is_clean_id

# The API's names of what a team has, and ours; None is the empty value.
_FIELDS: Mapping[str, tuple[str, Any]] = {
    "team_alias": ("alias", ""),
    "models": ("allowed_models", []),
    "model_aliases": ("model_aliases", {}),
    "tags": ("tags", []),
    "metadata": ("metadata", {}),
    "blocked": ("blocked", False),
    "team_member_permissions": ("member_permissions", []),
}
_MEMBER_LIMITS = {
    "team_member_budget": "max_budget",
    "team_member_budget_duration": "budget_duration",
    "team_member_rpm_limit": "rpm_limit",
    "team_member_tpm_limit": "tpm_limit",
}
# LiteLLM's fields that have no effect here.
EXTRAS = (
    "organization_id",
    "team_member_key_duration",
    "default_team_member_models",
    "object_permission",
    "guardrails",
)


class NewMember(NamedTuple):
    """Who joins a team: a user's id, or an e-mail."""

    user_id: str | None = None
    email: str | None = None
    role: str = TeamMembership.Role.USER

    def __str__(self) -> str:
        return str(self.user_id or self.email)


# -- teams -------------------------------------------------------------------------------


@transaction.atomic
def create_team(*, given: Mapping[str, Any]) -> Team:
    """Make a team without members. given: fields by the API's names.

    Raises: Refused, Missing, ValidationError.
    """
    given = with_defaults(getattr(settings, "TEAM_DEFAULTS", {}), given)
    team_id = given.get("team_id") or new_team_id()
    taken = Team.objects.filter(pk=team_id).only("deleted_at").first()
    if taken is not None:
        was = "was deleted, and keeps its id: choose another" if taken.deleted_at else "exists already"
        raise Refused(f"team {team_id} {was}", param="team_id")
    who = current_actor().id
    team = Team(pk=team_id, created_by=who, updated_by=who)
    _set(team, given)
    team.save(force_insert=True)
    return team


@transaction.atomic
def update_team(*, team: Team, given: Mapping[str, Any]) -> Team:
    """Change those fields of a team that are given. Raises: Refused, Missing, ValidationError."""
    changed = _set(team, given)
    team.updated_by = current_actor().id
    team.save(update_fields=[*changed, "budget", "member_budget", "updated_by", "updated_at"])
    return team


def set_teams_blocked(*, ids: Iterable[str], blocked: bool) -> int:
    """Block or unblock teams with all their keys. Returns how many changed."""
    return Team.objects.filter(pk__in=list(ids)).exclude(blocked=blocked).update(blocked=blocked)


@transaction.atomic
def delete_teams(*, ids: Iterable[str], at: datetime) -> int:
    """Retire teams: their keys are deleted, their members leave, history stays. Returns how many changed."""
    teams = Team.objects.filter(pk__in=list(ids), deleted_at=None)
    wanted = list(teams.values_list("pk", flat=True))
    keys = VirtualKey.objects.listed().filter(team_id__in=wanted)
    delete_keys(ids=list(keys.order_by("pk").values_list("pk", flat=True)), at=at)
    end_memberships(TeamMembership.objects.filter(team_id__in=wanted))
    return Team.objects.filter(pk__in=wanted, deleted_at=None).update(deleted_at=at, blocked=True)


def add_models(*, team: Team, models: Sequence[str]) -> Team:
    """Let a team's keys call these models too. A team that may call all is confined to them by it."""
    return update_team(team=team, given={"models": list(dict.fromkeys([*team.allowed_models, *models]))})


def remove_models(*, team: Team, models: Sequence[str]) -> Team:
    """Take models away. Raises: Refused where none would be left, which would mean: all."""
    left = [model for model in team.allowed_models if model not in models]
    if not left:
        raise Refused(
            "None would be left, and a team without a list may call every model. "
            "Block the team, or give it other models first.",
            param="models",
        )
    return update_team(team=team, given={"models": left})


def _set(team: Team, given: Mapping[str, Any]) -> list[str]:
    """Set what is given, checked. Returns the names of our plain fields that were set."""
    _check_permissions(given.get("team_member_permissions") or ())
    changed = []
    for name, (field, empty) in _FIELDS.items():
        if name in given:
            setattr(team, field, empty if given[name] is None else given[name])
            changed.append(field)
    tags = (given.get("metadata") or {}).get("tags")
    if "tags" not in given and tags is not None:
        team.tags = _checked_tags(tags)
        changed.append("tags")
    extras = {name: given[name] for name in EXTRAS if name in given}
    if extras:
        team.extras = {**team.extras, **extras}
        changed.append("extras")
    team.full_clean(exclude=["budget", "member_budget"], validate_unique=False, validate_constraints=False)
    team.budget = budget_of_holder(team.budget, enforceable_limits(team.budget, given))
    if team.budget is not None and not given.keys().isdisjoint(("budget_id", "soft_budget", "max_budget")):
        _check_soft_budget(team.budget)
    of_members = {ours: given[name] for name, ours in _MEMBER_LIMITS.items() if name in given}
    team.member_budget = budget_of_holder(team.member_budget, of_members)
    return changed


def _check_soft_budget(budget: Budget) -> None:
    if budget.soft_budget is None or budget.max_budget is None:
        return
    if budget.soft_budget >= budget.max_budget:
        raise Refused(
            f"A team's soft_budget ({budget.soft_budget}) must be less than its max_budget "
            f"({budget.max_budget}), or it would warn of nothing.",
            param="soft_budget",
        )


def _check_permissions(permissions: Sequence[str]) -> None:
    for permission in permissions:
        if permission not in MEMBER_PERMISSIONS:
            raise Refused(
                f"{permission} cannot be permitted to members. These can: {', '.join(MEMBER_PERMISSIONS)}.",
                param="team_member_permissions",
            )


def _checked_tags(tags: Any) -> list[str]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and is_clean_id(tag) for tag in tags):
        raise Refused("metadata.tags is a list of names of 1 to 255 printable characters.", param="metadata")
    return tags


# -- members -----------------------------------------------------------------------------


@transaction.atomic
def add_members(
    *, team: Team, members: Sequence[NewMember], limits: Mapping[str, Any] | None = None
) -> list[TeamMembership]:
    """Have users join a team, all or none. Who is not known yet is made, without a password.

    limits: of each of them on this team, by the names of `LIMIT_FIELDS`. However many they
    are, it is a handful of statements.
    Raises: Refused, also for who is on the team already; Missing, ValidationError.
    """
    users = NewUsers(
        ids=[member.user_id for member in members if member.user_id],
        emails=[member.email for member in members if member.email],
    )
    named = [users.find_or_draft(user_id=member.user_id, email=member.email) for member in members]
    on_team = set(
        TeamMembership.objects.filter(team=team, user__in=[user.pk for user in named]).values_list(
            "user_id", flat=True
        )
    )
    added = []
    for member, user in zip(members, named, strict=True):
        if user.pk in on_team:
            raise Refused(
                f"User {user.pk} is on team {team.pk} already: change it with POST /team/member_update.",
                type="team_member_already_in_team",
                param="user_id" if member.user_id else "user_email",
            )
        on_team.add(user.pk)
        budget, _ = plan_budget(None, limits or {})
        added.append(TeamMembership(team=team, user=user, role=member.role, budget=budget))
    users.write()
    own = [member.budget for member in added if member.budget and member.budget._state.adding]
    Budget.objects.bulk_create(own)
    return TeamMembership.objects.bulk_create(added)


@transaction.atomic
def update_member(*, membership: TeamMembership, given: Mapping[str, Any]) -> TeamMembership:
    """Change a member's role, or its limits on the team, where they are given.

    A member that had the team's limits for members keeps those of them that are not
    given. One whose own limits are all taken away has the team's again.
    """
    if given.get("role") is not None:
        membership.role = given["role"]
    limits = {name: given[name] for name in LIMIT_FIELDS if name in given}
    former = None
    if limits:
        of_team = membership.team.member_budget
        if membership.budget is None and of_team is not None:
            limits = {**model_to_dict(of_team, fields=LIMIT_FIELDS), **limits}
        membership.budget = budget_of_holder(membership.budget, limits)
        if membership.budget is not None and membership.budget.is_private and not _limits(membership.budget):
            former, membership.budget = membership.budget, None
    membership.save(update_fields=["role", "budget"])
    if former is not None:
        former.delete()
    return membership


def _limits(budget: Budget) -> bool:
    """Tell whether a budget limits or warns of anything."""
    amounts = (
        budget.max_budget,
        budget.soft_budget,
        budget.rpm_limit,
        budget.tpm_limit,
        budget.max_parallel_requests,
    )
    return bool(budget.model_max_budget or budget.budget_limits) or any(
        amount is not None for amount in amounts
    )


@transaction.atomic
def remove_member(*, membership: TeamMembership, at: datetime) -> None:
    """Have a user leave a team; the keys that it has for that team are deleted."""
    keys = VirtualKey.objects.listed().filter(team_id=membership.team_id, user_id=membership.user_id)
    delete_keys(ids=list(keys.order_by("pk").values_list("pk", flat=True)), at=at)
    end_memberships(TeamMembership.objects.filter(pk=membership.pk))
