"""What the API takes of webhook endpoints, deliveries and events."""

from rest_framework import serializers

from customers.api.fields import Id, Names, Whole

_STATES = ("due", "leased", "delivered", "failed")


class WebhookFields(serializers.Serializer):
    """POST /webhook/new; for /webhook/update see below."""

    url = serializers.CharField(max_length=2000, help_text="Where events are posted: https://…")
    name = serializers.CharField(required=False, allow_blank=True, max_length=100)
    event_types = Names(required=False, help_text='["spend_tracked", "budget_crossed"]; empty: all.')
    customer_ids = Names(required=False, help_text="Only events about these customers; empty: about anybody.")
    is_active = serializers.BooleanField(required=False)
    max_concurrency = Whole(required=False, min_value=1, max_value=100, help_text="Posts at a time.")


class WebhookId(serializers.Serializer):
    """The endpoint that is meant."""

    webhook_id = Whole(min_value=1)


class WebhookChanges(WebhookFields, WebhookId):
    """POST /webhook/update. What is not sent stays."""

    url = serializers.CharField(required=False, max_length=2000)


class Rotation(WebhookId):
    """POST /webhook/rotate_secret."""

    overlap_hours = Whole(
        default=24, min_value=0, max_value=24 * 30, help_text="How long the secret before it signs too."
    )


class DeliveriesQuery(serializers.Serializer):
    """GET /webhook/deliveries."""

    webhook_id = Whole(required=False, min_value=1)
    state = serializers.ChoiceField(_STATES, required=False)
    event_id = Id(required=False)
    before = Whole(required=False, min_value=1, help_text="Older ones than this delivery: the next page.")
    limit = Whole(default=50, min_value=1, max_value=500)


class DeliveryId(serializers.Serializer):
    """GET /webhook/delivery."""

    delivery_id = Whole(min_value=1)


class Replay(serializers.Serializer):
    """POST /webhook/replay: one delivery, or all that failed, of one endpoint or of all."""

    delivery_id = Whole(required=False, min_value=1)
    webhook_id = Whole(required=False, min_value=1)
    since = serializers.DateTimeField(required=False, help_text="Of events since then.")


class EventsQuery(serializers.Serializer):
    """GET /events."""

    after = Whole(default=0, min_value=0, help_text="The highest `sequence` seen; 0: from the oldest on.")
    limit = Whole(default=100, min_value=1, max_value=1000)
    customer_id = Id(required=False)
    type = Id(required=False)


class ServiceQuery(serializers.Serializer):
    """GET /health/services."""

    service = serializers.CharField(max_length=40)
