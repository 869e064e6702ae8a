"""Requests about users (contract 5.5)."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from customers.api.fields import FreeObject, Id, Names, Usd
from customers.api.paging import page_fields
from customers.models import TeamMembership, User
from customers.serializers.keys import ModelAliases
from customers.serializers.limits import LimitFields

MOST_CHANGED = 500  # users in one request: it is one transaction


class _TeamOfUser(serializers.Serializer):
    team_id = Id()
    user_role = serializers.ChoiceField(
        TeamMembership.Role.choices, default=TeamMembership.Role.USER, help_text="On the team."
    )
    max_budget_in_team = Usd(required=False, allow_null=True)


@extend_schema_field({"type": "array", "items": {"type": ["string", "object"]}})
class _Teams(serializers.Field):
    """Teams by their ids, or as objects with a role and a budget."""

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        if not isinstance(data, list):
            raise serializers.ValidationError("Write a list of team ids.", code="not_a_list")
        listed = [team if isinstance(team, dict) else {"team_id": team} for team in data]
        teams: serializers.ListSerializer = serializers.ListSerializer(
            child=_TeamOfUser(), data=listed, max_length=MOST_CHANGED
        )
        teams.is_valid(raise_exception=True)
        return teams.validated_data

    def to_representation(self, value: Any) -> Any:
        return value


class UserFields(LimitFields):
    """What a user has."""

    user_id = Id(required=False, allow_null=True)
    user_email = serializers.EmailField(max_length=254, required=False, allow_null=True, allow_blank=True)
    user_alias = Id(required=False, allow_null=True, allow_blank=True, help_text="Its name.")
    user_role = serializers.ChoiceField(User.Role.choices, required=False, allow_null=True)
    models = Names(
        required=False,
        allow_null=True,
        help_text="Those its keys may call, but for its teams' keys; empty: all.",
    )
    metadata = FreeObject(required=False, allow_null=True)
    # Kept, returned, and without effect.
    organizations = Names(required=False, allow_null=True)
    sso_user_id = Id(required=False, allow_null=True)
    permissions = FreeObject(required=False, allow_null=True)
    object_permission = FreeObject(required=False, allow_null=True)
    guardrails = Names(required=False, allow_null=True)


class NewUser(UserFields):
    teams = _Teams(required=False, allow_null=True, help_text="Those it joins.")
    spend = Usd(required=False, allow_null=True, help_text="What it spent before it came here, USD.")
    auto_create_key = serializers.BooleanField(default=True, help_text="Whether it gets a key at once.")
    key_alias = Id(required=False, allow_null=True, help_text="The name of that key.")
    duration = serializers.CharField(
        max_length=20, required=False, allow_null=True, help_text="How long that key lives: 30d."
    )
    aliases = ModelAliases(required=False, allow_null=True, help_text="The model aliases of that key.")


class ChangedUser(UserFields):
    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs.get("user_id") and not attrs.get("user_email"):
            raise serializers.ValidationError("Give user_id or user_email.", code="value_error")
        return attrs


class ChangedUsers(serializers.Serializer):
    """Changes of several users: of each its own, or the same of all."""

    users: serializers.ListSerializer = serializers.ListSerializer(
        child=ChangedUser(), required=False, allow_null=True, max_length=MOST_CHANGED
    )
    all_users = serializers.BooleanField(default=False)
    user_updates = UserFields(required=False, allow_null=True, help_text="With all_users: what changes.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["all_users"] == bool(attrs.get("users")):
            raise serializers.ValidationError(
                "Give either users, or all_users with user_updates.", code="value_error"
            )
        updates = attrs.get("user_updates") or {}
        if attrs["all_users"] and not updates:
            raise serializers.ValidationError("Give user_updates with all_users.", code="value_error")
        for name in ("user_id", "user_email"):
            if name in updates:
                raise serializers.ValidationError(
                    f"{name} belongs to one user: it cannot change for all.", code="value_error"
                )
        return attrs


class DeletedUsers(serializers.Serializer):
    user_ids = Names(allow_empty=False)


class UserQuery(serializers.Serializer):
    user_id = Id(required=False, help_text="Missing: the caller's own.")


class UserPageQuery(serializers.Serializer):
    """Which users `/user/list` returns, and in which order."""

    locals().update(page_fields(size=25))
    role = serializers.ChoiceField(User.Role.choices, required=False)
    user_ids = serializers.CharField(max_length=10_000, required=False, help_text="Separated by commas.")
    user_email = serializers.CharField(max_length=254, required=False, help_text="A part of it.")
    team = Id(required=False)
    search = Id(required=False, help_text="A part of the id, the e-mail or the name.")
    sort_by = serializers.ChoiceField(
        (
            "user_id",
            "user_email",
            "user_alias",
            "user_role",
            "spend",
            "max_budget",
            "created_at",
            "updated_at",
        ),
        default="created_at",
    )
    sort_order = serializers.ChoiceField(("asc", "desc"), default="desc")
