"""What the API takes of models (contract 5.8)."""

from typing import Any

from rest_framework import serializers

from customers.api.fields import FreeObject, Id
from customers.api.paging import page_fields


class Parameters(FreeObject):
    """An object of LiteLLM's: bounded like any, but its numbers stay exact, for some are prices."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        super().to_internal_value(data)
        return data


class NewModel(serializers.Serializer):
    """POST /model/new."""

    model_name = Id(help_text="What callers ask for; a * may stand at its end.")
    litellm_params = Parameters(
        help_text="model (provider/model), api_key, api_base, weight, order, timeout, extra_headers, rates."
    )
    model_info = Parameters(
        required=False, allow_null=True, help_text="id, base_model, mode, rates, and what else is to be kept."
    )


class ChangedModel(serializers.Serializer):
    """PATCH /model/{id}/update; POST /model/update has the id in `model_info`."""

    model_name = Id(required=False, allow_null=True)
    litellm_params = Parameters(required=False, allow_null=True, help_text="Those that change.")
    model_info = Parameters(required=False, allow_null=True, help_text="What changes; null takes away.")


class _ModelId(serializers.Serializer):
    id = Id()


class UpdatedModel(ChangedModel):
    """POST /model/update."""

    id = Id(required=False, help_text="The model's; or `model_info.id`. LiteLLM's own client sends it here.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "id" in attrs:
            return attrs
        named = _ModelId(data={"id": (attrs.get("model_info") or {}).get("id")})
        if not named.is_valid():
            raise serializers.ValidationError({"model_info": named.errors})
        return {**attrs, "id": named.validated_data["id"]}


class DeletedModel(_ModelId):
    """POST /model/delete."""


class ModelQuery(serializers.Serializer):
    """GET /model/info and /v1/model/info."""

    litellm_model_id = serializers.CharField(required=False, max_length=255)


_PAGES = page_fields(size=50, largest=1000, name="size")


class ModelPageQuery(serializers.Serializer):
    """GET /v2/model/info."""

    page, size = _PAGES.values()
    search = serializers.CharField(required=False, max_length=255, help_text="Part of the model's name.")
    model = serializers.CharField(required=False, max_length=255, help_text="The model's name, exactly.")
    modelId = serializers.CharField(required=False, max_length=255)
    sortOrder = serializers.ChoiceField(choices=("asc", "desc"), default="asc")


class GroupQuery(serializers.Serializer):
    """GET /model_group/info."""

    model_group = serializers.CharField(required=False, max_length=255)
