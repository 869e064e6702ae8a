"""Requests about teams and their members (contract 5.4)."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from customers.api.fields import FreeObject, Id, Names, Usd, Whole
from customers.api.paging import page_fields
from customers.models import TeamMembership
from customers.serializers.keys import ModelAliases
from customers.serializers.limits import LimitFields

MOST_MEMBERS = 500  # in one request: it is one transaction
_ORDERS = ("asc", "desc")


class Member(serializers.Serializer):
    """Somebody who joins a team: by id, or by e-mail. Who is not known yet is made."""

    role = serializers.ChoiceField(TeamMembership.Role.choices, default=TeamMembership.Role.USER)
    user_id = Id(required=False, allow_null=True)
    user_email = serializers.EmailField(max_length=254, required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs.get("user_id") and not attrs.get("user_email"):
            raise serializers.ValidationError("Give user_id or user_email.", code="value_error")
        return attrs


class TeamFields(LimitFields):
    """What a team has."""

    team_alias = Id(required=False, allow_null=True, allow_blank=True, help_text="Its name.")
    models = Names(required=False, allow_null=True, help_text="Those its keys may call; empty: all.")
    model_aliases = ModelAliases(required=False, allow_null=True, help_text='{"fast": "gpt-4o-mini"}')
    tags = Names(required=False, allow_null=True)
    metadata = FreeObject(required=False, allow_null=True)
    blocked = serializers.BooleanField(required=False, allow_null=True)
    team_member_budget = Usd(
        required=False, allow_null=True, help_text="max_budget of members without their own."
    )
    team_member_budget_duration = serializers.CharField(
        max_length=20, required=False, allow_null=True, allow_blank=True
    )
    team_member_rpm_limit = Whole(required=False, allow_null=True)
    team_member_tpm_limit = Whole(required=False, allow_null=True)
    team_member_permissions = Names(required=False, allow_null=True)
    # Kept, returned, and without effect.
    organization_id = Id(required=False, allow_null=True)
    team_member_key_duration = Id(required=False, allow_null=True)
    default_team_member_models = Names(required=False, allow_null=True)
    object_permission = FreeObject(required=False, allow_null=True)
    guardrails = Names(required=False, allow_null=True)


class NewTeam(TeamFields):
    team_id = Id(required=False, allow_null=True, help_text="Made where it is missing.")
    members_with_roles: serializers.ListSerializer = serializers.ListSerializer(
        child=Member(), required=False, allow_null=True, max_length=MOST_MEMBERS
    )
    admins = Names(required=False, allow_null=True, max_length=MOST_MEMBERS, help_text="User ids.")
    members = Names(required=False, allow_null=True, max_length=MOST_MEMBERS, help_text="User ids.")


class ChangedTeam(TeamFields):
    team_id = Id()


class NamedTeam(serializers.Serializer):
    team_id = Id()


class DeletedTeams(serializers.Serializer):
    team_ids = Names(allow_empty=False)


class TeamModels(serializers.Serializer):
    team_id = Id()
    models = Names(allow_empty=False)


class TeamPermissions(serializers.Serializer):
    team_id = Id()
    team_member_permissions = Names()


_MEMBER_REF = {"$ref": "#/components/schemas/Member"}


@extend_schema_field({"oneOf": [_MEMBER_REF, {"type": "array", "items": _MEMBER_REF}]})
class _OneOrMany(serializers.Field):
    """A member, or a list of members."""

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        listed = data if isinstance(data, list) else [data]
        members: serializers.ListSerializer = serializers.ListSerializer(
            child=Member(), data=listed, max_length=MOST_MEMBERS, allow_empty=False
        )
        members.is_valid(raise_exception=True)
        return members.validated_data

    def to_representation(self, value: Any) -> Any:
        return value


class _MemberLimits(serializers.Serializer):
    max_budget_in_team = Usd(required=False, allow_null=True, help_text="USD in each period.")
    budget_duration = serializers.CharField(max_length=20, required=False, allow_null=True, allow_blank=True)
    tpm_limit = Whole(required=False, allow_null=True)
    rpm_limit = Whole(required=False, allow_null=True)


class AddedMembers(_MemberLimits):
    team_id = Id()
    member = _OneOrMany(help_text="An object, or a list of them.")


class NamedMember(serializers.Serializer):
    team_id = Id()
    user_id = Id(required=False, allow_null=True)
    user_email = serializers.CharField(max_length=254, required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs.get("user_id") and not attrs.get("user_email"):
            raise serializers.ValidationError("Give user_id or user_email.", code="value_error")
        return attrs


class ChangedMember(_MemberLimits, NamedMember):
    role = serializers.ChoiceField(TeamMembership.Role.choices, required=False, allow_null=True)


class ResetSpend(serializers.Serializer):
    reset_to = Usd(help_text="0: the period under way counts from zero.")


class TeamQuery(serializers.Serializer):
    """Which teams `/team/list` returns."""

    user_id = Id(required=False)
    organization_id = Id(required=False)


class TeamPageQuery(TeamQuery):
    """Which teams `/v2/team/list` returns, and in which order."""

    locals().update(page_fields(size=10))
    team_id = Id(required=False)
    team_alias = Id(required=False, help_text="A part of the name.")
    sort_by = serializers.ChoiceField(
        ("team_id", "team_alias", "created_at", "updated_at"), default="created_at"
    )
    sort_order = serializers.ChoiceField(_ORDERS, default="desc")
