"""What the API takes of the audit log."""

from rest_framework import serializers

from customers.api.fields import Id
from customers.api.paging import page_fields
from customers.models import AuditLog


class AuditQuery(serializers.Serializer):
    """GET /audit."""

    object_type = Id(
        required=False,
        help_text="customer, key, team, user, tag, budget, price, model, … or LiteLLM's table.",
    )
    object_id = Id(required=False, help_text="Id of what was changed; of a key its hash, too.")
    action = serializers.ChoiceField(choices=AuditLog.Action.choices, required=False)
    changed_by = Id(required=False, help_text="Who, or on whose behalf, exactly.")
    start_date = serializers.DateField(required=False)
    end_date = serializers.DateField(required=False)
    page, page_size = page_fields(size=50, largest=500).values()
