"""
What each role may read and write through the API: one table, enforced by `ManagementView`.

    ALL    every row
    TEAMS  the teams that the caller administers, and their keys and members
    OWN    the caller's own: its user, its user's keys, the teams its user is on

A role that is not named in a line may not do it at all. Whoever administers a team has
the column `TEAM_ADMIN` besides that of the role. What else is asked of who writes keys is
in `key_owners.py`. A test compares docs/access.md with this table.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Q

from customers.api.callers import ApiCaller
from customers.models import Team, TeamMembership, User, VirtualKey


class Action(enum.Enum):
    """What a call does."""

    READ_CUSTOMERS = "read customers"
    WRITE_CUSTOMERS = "write customers"
    READ_BUDGETS = "read budgets"
    WRITE_BUDGETS = "write budgets"
    READ_KEYS = "read keys"
    WRITE_KEYS = "make, change, block and delete keys"
    READ_TEAMS = "read teams"
    WRITE_TEAMS = "change a team and its members"
    MANAGE_TEAMS = "make, block and delete teams"
    READ_USERS = "read users"
    WRITE_USERS = "make, change and delete users"
    READ_TAGS = "read tags"
    WRITE_TAGS = "write tags"
    READ_MODELS = "read models"
    WRITE_MODELS = "write models"
    READ_SPEND = "read spend"
    READ_ALL_SPEND = "read everybody's spend"
    READ_ALERTS = "read alerts and their rules"
    WRITE_ALERTS = "make, change and delete alert rules"
    MANAGE_WEBHOOKS = "make, change, test and replay webhooks"
    MANAGE_GATEWAY = "test services, read the audit log"


class Scope(enum.Enum):
    ALL = "all"
    TEAMS = "own teams"
    OWN = "own"


ADMIN, VIEWER = User.Role.PROXY_ADMIN.value, User.Role.PROXY_ADMIN_VIEWER.value
USER, USER_VIEWER = User.Role.INTERNAL_USER.value, User.Role.INTERNAL_USER_VIEWER.value
TEAM_ADMIN = "team_admin"
ROLES = (ADMIN, VIEWER, USER, USER_VIEWER, TEAM_ADMIN)

_WRITE = {ADMIN: Scope.ALL}
_READ = {ADMIN: Scope.ALL, VIEWER: Scope.ALL}
_READ_OWN = {**_READ, USER: Scope.OWN, USER_VIEWER: Scope.OWN, TEAM_ADMIN: Scope.TEAMS}

ACCESS: Mapping[Action, Mapping[str, Scope]] = {
    Action.READ_CUSTOMERS: _READ,
    Action.WRITE_CUSTOMERS: _WRITE,
    Action.READ_BUDGETS: _READ,
    Action.WRITE_BUDGETS: _WRITE,
    Action.READ_KEYS: _READ_OWN,
    Action.WRITE_KEYS: {ADMIN: Scope.ALL, USER: Scope.OWN, TEAM_ADMIN: Scope.TEAMS},
    Action.READ_TEAMS: _READ_OWN,
    Action.WRITE_TEAMS: {ADMIN: Scope.ALL, TEAM_ADMIN: Scope.TEAMS},
    Action.MANAGE_TEAMS: _WRITE,
    Action.READ_USERS: _READ_OWN,
    Action.WRITE_USERS: _WRITE,
    Action.READ_TAGS: _READ,
    Action.WRITE_TAGS: _WRITE,
    Action.READ_MODELS: {**_READ, USER: Scope.OWN, USER_VIEWER: Scope.OWN},
    Action.WRITE_MODELS: _WRITE,
    Action.READ_SPEND: _READ_OWN,
    Action.READ_ALL_SPEND: _READ,
    Action.READ_ALERTS: _READ,
    Action.WRITE_ALERTS: _WRITE,
    Action.MANAGE_WEBHOOKS: _WRITE,
    Action.MANAGE_GATEWAY: _READ,
}


@dataclass(frozen=True)
class Reach:
    """Which rows a caller reaches with an action: all, or those of these users, teams and this key."""

    is_all: bool = False
    user_id: str | None = None
    key_id: object | None = None
    team_ids: frozenset[str] = frozenset()

    @property
    def is_nothing(self) -> bool:
        return not (self.is_all or self.user_id or self.key_id or self.team_ids)

    def keys(self) -> Q:
        """Return the condition on `VirtualKey`."""
        if self.is_all:
            return Q()
        return Q(pk=self.key_id) | Q(user_id=self.user_id, user__isnull=False) | Q(team_id__in=self.team_ids)

    def teams(self) -> Q:
        """Return the condition on `Team`."""
        return Q() if self.is_all else Q(pk__in=self.team_ids)

    def users(self) -> Q:
        """Return the condition on `User`."""
        if self.is_all:
            return Q()
        members = TeamMembership.objects.filter(team_id__in=self.team_ids).values("user_id")
        return Q(pk=self.user_id) | Q(pk__in=members)

    def has_key(self, key: VirtualKey) -> bool:
        own = self.user_id is not None and key.user_id == self.user_id
        return self.is_all or own or key.pk == self.key_id or key.team_id in self.team_ids

    def has_team(self, team: Team | str) -> bool:
        return self.is_all or (team if isinstance(team, str) else team.pk) in self.team_ids

    def has_user(self, user_id: str) -> bool:
        """Tell whether this is the caller itself, or the caller reaches everybody. Makes no query."""
        return self.is_all or (self.user_id is not None and user_id == self.user_id)


def reach_of(caller: ApiCaller, action: Action) -> Reach:
    """Return what the caller reaches with `action`; nothing where it may not do it at all."""
    row = ACCESS[action]
    scope = row.get(caller.role)
    if scope is Scope.ALL:
        return Reach(is_all=True)
    teams = caller.administered_team_ids if row.get(TEAM_ADMIN) is Scope.TEAMS else frozenset()
    if scope is not Scope.OWN:
        return Reach(team_ids=teams)
    assert caller.key is not None  # the master key reaches all
    if action is Action.READ_TEAMS:
        own_team = {caller.key.team_id} if caller.key.team_id and caller.user_id is None else set()
        teams = teams | caller.team_ids | own_team
    return Reach(user_id=caller.user_id, key_id=caller.key.pk, team_ids=teams)
