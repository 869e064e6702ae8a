"""Links and read tokens that are handed out: each shows the usage of one customer to whoever has it."""

import uuid

from django.core.validators import RegexValidator
from django.db import models

from customers.models.change import TrackedModel
from customers.models.customer import Customer


class HandoutLink(TrackedModel):
    """A link to a read-only page about one customer, or a token that reads the same as JSON.

    The row holds no secret: what is handed out is its id, signed (`services/handout_links.py`).
    It is never deleted: to take a link back sets `revoked_at`.
    """

    class Kind(models.TextChoices):
        PAGE = "page", "page"
        READ_TOKEN = "read_token", "read token"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="handout_links")
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.PAGE)
    title = models.CharField(max_length=100, blank=True)
    colour = models.CharField(
        max_length=7, blank=True, validators=[RegexValidator("^#[0-9a-f]{6}$", "Write a colour as #0b6e9e.")]
    )
    shows_keys = models.BooleanField("names keys", default=False)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "hand-out link"
        indexes = [
            # The list of one customer's links.
            models.Index(fields=["customer", "-created_at"], name="handout_link_customer"),
        ]

    def __str__(self) -> str:
        return self.title or f"{self.get_kind_display()} of {self.customer_id}"
