"""What the API takes of virtual keys (contract 5.3)."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from customers.api.fields import FreeObject, Id, Names, Usd
from customers.api.paging import page_fields
from customers.models import VirtualKey
from customers.serializers.limits import LimitFields
from customers.text import is_clean_id

MOST_KEYS = 500  # in one request: it is one transaction
_LONGEST_NAME = 1000  # of what is sent as a key's name: a longer one is none
# LiteLLM keeps these in a key's metadata, and takes them from there too.
_IN_METADATA = ("tags", "model_rpm_limit", "model_tpm_limit")
SORTS = (
    "created_at",
    "updated_at",
    "key_alias",
    "key_name",
    "user_id",
    "team_id",
    "expires",
    "spend",
    "max_budget",
)
STATUSES = ("active", "expired", "revoked", "deleted")


class KeyName(serializers.CharField):
    """A key by its secret (`sk-…`) or by the hash of that (64 hex digits)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"max_length": _LONGEST_NAME, **kwargs})


@extend_schema_field({})
class FreeValue(FreeObject):
    """Any JSON of the caller's own, bounded as an object of its own is."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value({"value": data})["value"]


class ModelAliases(serializers.DictField):
    """Names for models: {"fast": "gpt-4o-mini"}."""

    child = Id()

    def to_internal_value(self, data: Any) -> dict[str, str]:
        aliases = super().to_internal_value(data)
        if len(aliases) > 1000 or not all(map(is_clean_id, aliases)):
            raise serializers.ValidationError(
                "Write at most 1000 names of 1 to 255 printable characters.", code="value_error"
            )
        return aliases


class KeyFields(LimitFields):
    """What a key has. Null is what a new key has where nothing is said."""

    key_alias = Id(required=False, allow_null=True, allow_blank=True, help_text="Its name; unique.")
    duration = serializers.CharField(
        max_length=20,
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="It ends this long from now: 30d, 12h, … A month is 30 days. -1 or null: never.",
    )
    key_type = serializers.ChoiceField(VirtualKey.KeyType.choices, required=False, allow_null=True)
    allowed_routes = Names(
        required=False,
        allow_null=True,
        help_text="Paths (/customer/info, /spend/*), llm_api_routes, management_routes, info_routes; "
        "empty: what its type allows.",
    )
    models = Names(required=False, allow_null=True, help_text="Those it may call; empty: all.")
    aliases = ModelAliases(required=False, allow_null=True, help_text='{"fast": "gpt-4o-mini"}')
    user_id = Id(required=False, allow_null=True)
    team_id = Id(required=False, allow_null=True)
    tags = Names(required=False, allow_null=True, max_length=64, help_text="Put on each of its calls.")
    metadata = FreeObject(required=False, allow_null=True)
    blocked = serializers.BooleanField(required=False, allow_null=True)
    payer_policy = serializers.ChoiceField(
        VirtualKey.PayerPolicy.choices,
        required=False,
        allow_null=True,
        help_text="trusted: its calls name their customer; fixed: they are always of customer_id.",
    )
    customer_id = Id(required=False, allow_null=True, help_text="Who pays, where payer_policy is fixed.")
    end_user_budget_id = Id(
        required=False, allow_null=True, help_text="Limits its customers that have no budget of their own."
    )
    mode = serializers.ChoiceField(
        ("standard", "strict"), required=False, allow_null=True, help_text="Of its own budget: what is held."
    )
    temp_budget_increase = Usd(
        required=False, allow_null=True, help_text="USD added to max_budget until temp_budget_expiry."
    )
    temp_budget_expiry = serializers.DateTimeField(required=False, allow_null=True)
    # Kept, returned, and without effect.
    organization_id = Id(required=False, allow_null=True)
    project_id = Id(required=False, allow_null=True)
    agent_id = Id(required=False, allow_null=True)
    config = FreeValue(required=False, allow_null=True)
    permissions = FreeValue(required=False, allow_null=True)
    router_settings = FreeValue(required=False, allow_null=True)
    object_permission = FreeValue(required=False, allow_null=True)
    access_group_ids = FreeValue(required=False, allow_null=True)
    allowed_cache_controls = FreeValue(required=False, allow_null=True)
    allowed_passthrough_routes = FreeValue(required=False, allow_null=True)
    guardrails = FreeValue(required=False, allow_null=True)
    policies = FreeValue(required=False, allow_null=True)
    prompts = FreeValue(required=False, allow_null=True)
    enforced_params = FreeValue(required=False, allow_null=True)
    budget_fallbacks = FreeValue(required=False, allow_null=True)
    rpm_limit_type = FreeValue(required=False, allow_null=True)
    tpm_limit_type = FreeValue(required=False, allow_null=True)
    send_invite_email = FreeValue(required=False, allow_null=True)
    auto_rotate = FreeValue(required=False, allow_null=True)
    rotation_interval = FreeValue(required=False, allow_null=True)

    def to_internal_value(self, data: Any) -> Any:
        metadata = data.get("metadata") if isinstance(data, dict) else None
        if isinstance(metadata, dict):
            lifted = {name: metadata[name] for name in _IN_METADATA if name in metadata}
            kept = {name: value for name, value in metadata.items() if name not in lifted}
            data = {**lifted, **data, "metadata": kept}
        return super().to_internal_value(data)


class NewKey(KeyFields):
    key = serializers.CharField(
        max_length=_LONGEST_NAME,
        required=False,
        allow_null=True,
        trim_whitespace=False,
        help_text="A secret of your own: sk- and at least 13 more characters.",
    )
    spend = Usd(required=False, allow_null=True, help_text="USD that it spent before it came here.")


class ChangedKey(KeyFields):
    key = KeyName(required=False, allow_null=True, help_text="Which key; or name it by its key_alias.")


class RegeneratedKey(KeyFields):
    key = KeyName(required=False, allow_null=True, help_text="Which key, where the path does not say.")
    new_key = serializers.CharField(
        max_length=_LONGEST_NAME, required=False, allow_null=True, trim_whitespace=False
    )
    grace_period = serializers.CharField(
        max_length=20,
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="How long the old secret goes on working: 24h. Missing: it stops at once.",
    )


class NamedInChange(KeyFields):
    key = KeyName()


class ChangedKeys(serializers.Serializer):
    keys = NamedInChange(many=True, allow_empty=False)


class NamedKey(serializers.Serializer):
    key = KeyName()


class KeyQuery(serializers.Serializer):
    key = KeyName(required=False, help_text="Missing: the key that asks.")


class NamedKeys(serializers.Serializer):
    keys = serializers.ListField(child=KeyName(), max_length=MOST_KEYS)


class DeletedKeys(serializers.Serializer):
    keys = serializers.ListField(child=KeyName(), required=False, allow_null=True, max_length=MOST_KEYS)
    key_aliases = Names(required=False, allow_null=True, max_length=MOST_KEYS)


class ResetKeySpend(serializers.Serializer):
    reset_to = Usd(help_text="0: the period under way counts from zero.")


class KeyPageQuery(serializers.Serializer):
    """Which keys /key/list returns, and in which order."""

    page, size = page_fields(size=10, name="size").values()
    user_id = Id(required=False)
    team_id = Id(required=False)
    organization_id = Id(required=False)
    project_id = Id(required=False)
    key_hash = KeyName(required=False)
    key_alias = Id(required=False)
    search = Id(required=False, help_text="A part of the alias, or the last characters of the key.")
    status = serializers.ChoiceField(
        STATUSES, required=False, help_text="Missing: all that were not deleted."
    )
    include_team_keys = serializers.BooleanField(
        default=False, help_text="With user_id: also the keys of the teams that the user is on."
    )
    include_created_by_keys = serializers.BooleanField(
        default=False, help_text="With user_id: also the keys that the user made."
    )
    return_full_object = serializers.BooleanField(default=False, help_text="Rows instead of hashes.")
    expand = serializers.ListField(
        child=serializers.ChoiceField(("user",)), required=False, help_text="user: each key with its user."
    )
    sort_by = serializers.ChoiceField(SORTS, default="created_at")
    sort_order = serializers.ChoiceField(("asc", "desc"), default="desc")


class AliasPageQuery(serializers.Serializer):
    page, size = page_fields(size=50, name="size").values()
    search = Id(required=False, help_text="A part of the alias.")
