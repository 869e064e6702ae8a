"""A team and who is on it."""

import uuid

from django.conf import settings
from django.db import models

from customers.models.budget import Budget
from customers.models.change import TrackedModel


def new_team_id() -> str:
    return str(uuid.uuid4())


# What a team may permit its members with their own keys of the team, as LiteLLM names it. The
# first two they always may.
MEMBER_PERMISSIONS = (
    "/key/info",
    "/key/health",
    "/key/generate",
    "/key/update",
    "/key/regenerate",
    "/key/delete",
    "/key/block",
)


class Team(TrackedModel):
    """A group of people and keys whose spend is counted together."""

    id = models.CharField("team id", primary_key=True, max_length=255, default=new_team_id)
    alias = models.CharField("name", max_length=255, blank=True)
    allowed_models = models.JSONField("allowed models", default=list, blank=True)
    model_aliases = models.JSONField(default=dict, blank=True)
    tags = models.JSONField(default=list, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    extras = models.JSONField(default=dict, blank=True, editable=False)  # as `VirtualKey.extras`
    member_permissions = models.JSONField(default=list, blank=True)
    blocked = models.BooleanField(default=False)
    budget = models.ForeignKey(Budget, null=True, blank=True, on_delete=models.PROTECT, related_name="teams")
    member_budget = models.ForeignKey(
        Budget,
        verbose_name="budget of its members",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="teams_defaulting_members",
        help_text="Limits each member that has no budget of its own on this team.",
    )
    created_by = models.CharField(max_length=255, blank=True, editable=False)
    updated_by = models.CharField(max_length=255, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    def __str__(self) -> str:
        return self.alias or self.id


class TeamMembership(TrackedModel):
    """One user on one team."""

    class Role(models.TextChoices):
        ADMIN = "admin", "admin"
        USER = "user", "user"

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="team_memberships"
    )
    role = models.CharField(max_length=10, choices=Role, default=Role.USER)
    budget = models.ForeignKey(
        Budget, null=True, blank=True, on_delete=models.PROTECT, related_name="team_memberships"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="team_membership_once")]

    def __str__(self) -> str:
        return f"{self.user_id} on {self.team_id}"
