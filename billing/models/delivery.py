"""The webhook delivery: one event on its way to one receiver."""

from django.db import models

from billing.models.event import Event
from billing.models.webhook_endpoint import WebhookEndpoint


class Channel(models.TextChoices):
    """By what a receiver is told."""

    WEBHOOK = "webhook", "webhook"
    SLACK = "slack", "Slack"
    EMAIL = "email", "e-mail"


def lane_of(channel: str, endpoint_id: int | None = None) -> str:
    """Return the name of the lane that a delivery is in: what is slow there delays nobody elsewhere."""
    return channel if endpoint_id is None else f"{channel}:{endpoint_id}"


class Delivery(models.Model):
    """One event for one receiver. The row is the truth; Celery's messages only say: look now (E1).

    `next_attempt_at` is when the delivery is due, and while it is `leased`, until when
    its worker has it: after that anybody may take it. It is null when nothing is left to do.
    """

    class State(models.TextChoices):
        DUE = "due", "waiting"
        LEASED = "leased", "under way"
        DELIVERED = "delivered", "delivered"
        FAILED = "failed", "failed"

    # Neither reference is checked by the database: events and their deliveries are written and pruned
    # together, and an endpoint that is deleted this second must not make a booking fail.
    event = models.ForeignKey(
        Event, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="deliveries"
    )
    channel = models.CharField(max_length=8, choices=Channel)
    endpoint = models.ForeignKey(
        WebhookEndpoint, null=True, blank=True, on_delete=models.DO_NOTHING, db_constraint=False,
        db_index=False, related_name="deliveries",
    )  # fmt: skip
    target = models.CharField(max_length=320, blank=True)  # an e-mail address
    lane = models.CharField(max_length=40)  # `lane_of`
    state = models.CharField(max_length=10, choices=State, default=State.DUE)
    attempts = models.PositiveSmallIntegerField(default=0)
    # Since when it is tried: its birth, or the last replay.
    since = models.DateTimeField()
    next_attempt_at = models.DateTimeField(null=True)
    lease = models.UUIDField(null=True)  # whose it is while it is leased
    last_attempt_at = models.DateTimeField(null=True)
    last_status = models.PositiveSmallIntegerField(null=True)  # HTTP
    last_answer = models.TextField(blank=True)  # its beginning
    last_error = models.CharField(max_length=500, blank=True)
    # Attempts that failed, oldest first: {"at", "status", "error", "ms"}; bounded.
    failures = models.JSONField(default=list)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "webhook delivery"
        verbose_name_plural = "webhook deliveries"
        constraints = [
            models.UniqueConstraint(fields=["event", "lane", "target"], name="delivery_once"),
        ]
        indexes = [
            # What a lane has to do next.
            models.Index(
                fields=["lane", "next_attempt_at", "id"],
                name="delivery_open",
                condition=models.Q(next_attempt_at__isnull=False),
            ),
            # What failed: for the admin and for replays.
            models.Index(fields=["lane", "id"], name="delivery_failed", condition=models.Q(state="failed")),
        ]

    def __str__(self) -> str:
        return f"delivery {self.pk}"


class DeliveryLane(models.Model):
    """How it goes with one lane: who works it, whether it pauses, since when it fails.

    One worker at a time has a lane, so that a receiver never gets more posts at a time
    than its endpoint says.
    """

    name = models.CharField(primary_key=True, max_length=40)
    holder = models.UUIDField(null=True)
    held_until = models.DateTimeField(null=True)
    paused_until = models.DateTimeField(null=True)
    failures_in_a_row = models.PositiveIntegerField(default=0)
    failing_since = models.DateTimeField(null=True)
    last_success_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "delivery lane"

    def __str__(self) -> str:
        return self.name
