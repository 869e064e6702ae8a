"""The event: something that others are told of. Born in the transaction that makes it true."""

import uuid
from typing import Any

from django.db import models

from customers.api.json import read_exact

ID_PREFIX = "evt_"


class EventCounter(models.Model):
    """The one row that numbers all events. Locked until commit: numbers become visible in order (E2)."""

    value = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="event_counter_single_row")]

    def __str__(self) -> str:
        return f"event {self.value}"


class Event(models.Model):
    """One event, written by `billing.webhooks.events.write_events` alone, and never changed.

    `text` is exactly what is posted: its numbers have all their digits. A reader who has
    seen sequence 7 will never be shown a 6 that was committed later.
    """

    id = models.UUIDField(primary_key=True, editable=False)  # UUIDv7
    sequence = models.BigIntegerField(unique=True)  # what /events reads by
    type = models.CharField(max_length=40)
    group = models.CharField(max_length=20, db_column="event_group")
    customer_id = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField()
    text = models.TextField()

    class Meta:
        indexes = [
            # /events of one customer, and the admin's search.
            models.Index(
                fields=["customer_id", "sequence"],
                name="event_of_customer",
                condition=models.Q(customer_id__gt=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.wire_id}"

    @property
    def wire_id(self) -> str:
        return wire_id(self.id)

    @property
    def body(self) -> dict[str, Any]:
        """Return what is posted; amounts are `Decimal`."""
        return read_exact(self.text)


def wire_id(event_id: uuid.UUID) -> str:
    """Return an event's id as receivers see it: `evt_` and 32 hex digits."""
    return ID_PREFIX + event_id.hex


def from_wire_id(text: str) -> uuid.UUID | None:
    """Return the id that `text` writes, or None where it is none."""
    try:
        return uuid.UUID(hex=text.removeprefix(ID_PREFIX))
    except ValueError:
        return None
