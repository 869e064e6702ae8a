"""The virtual key: what a program calls the gateway with."""

import uuid

from django.conf import settings
from django.db import models

from customers.models.budget import Budget
from customers.models.change import TrackedModel, TrackedQuerySet
from customers.models.customer import Customer
from customers.models.team import Team


class VirtualKeyQuerySet(TrackedQuerySet):
    def listed(self) -> "VirtualKeyQuerySet":
        """Return keys that were not deleted."""
        return self.filter(deleted_at=None)


class VirtualKey(TrackedModel):
    """A key issued to a program. The secret is shown once; only its SHA-256 is kept."""

    class PayerPolicy(models.TextChoices):
        TRUSTED = "trusted", "trusted: the call names its customer"
        FIXED = "fixed", "fixed: always this key's own customer"

    class KeyType(models.TextChoices):
        DEFAULT = "default", "default: all that its user may"
        LLM_API = "llm_api", "LLM API: proxied calls only"
        MANAGEMENT = "management", "management: the API only"
        READ_ONLY = "read_only", "read only: what the API shows"

    audit_hidden = ("token_hash", "previous_token_hash")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    # After a rotation with a grace period both secrets work until then.
    previous_token_hash = models.CharField(max_length=64, blank=True, editable=False, db_index=True)
    previous_valid_until = models.DateTimeField(null=True, blank=True, editable=False)
    display_name = models.CharField("key", max_length=12, editable=False)
    alias = models.CharField("name", max_length=255, unique=True, null=True, blank=True)
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.PROTECT, related_name="keys")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="keys"
    )
    payer_policy = models.CharField(max_length=10, choices=PayerPolicy, default=PayerPolicy.TRUSTED)
    customer = models.ForeignKey(
        Customer, null=True, blank=True, on_delete=models.PROTECT, related_name="keys"
    )
    key_type = models.CharField(max_length=12, choices=KeyType, default=KeyType.DEFAULT)
    # Paths, `/spend/*`, or groups (`customers.allowed_routes`); empty: what the type allows.
    allowed_routes = models.JSONField("allowed routes", default=list, blank=True)
    allowed_models = models.JSONField("allowed models", default=list, blank=True)
    model_aliases = models.JSONField(
        default=dict,
        blank=True,
        help_text='Names that this key may use for other models: {"fast": "gpt-4o-mini"}.',
    )
    tags = models.JSONField(default=list, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    # LiteLLM's fields that have no effect here: kept, so that the API returns what it was given.
    extras = models.JSONField(default=dict, blank=True, editable=False)
    blocked = models.BooleanField(default=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    budget = models.ForeignKey(Budget, null=True, blank=True, on_delete=models.PROTECT, related_name="keys")
    customer_budget = models.ForeignKey(
        Budget,
        verbose_name="budget of its customers",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="keys_defaulting_customers",
        help_text="Limits each customer of this key that has no budget of its own.",
    )
    created_by = models.CharField(max_length=255, blank=True, editable=False)
    updated_by = models.CharField(max_length=255, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = VirtualKeyQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        verbose_name = "virtual key"
        constraints = [
            models.CheckConstraint(
                condition=~models.Q(payer_policy="fixed") | models.Q(customer__isnull=False),
                name="virtual_key_fixed_payer_has_customer",
                violation_error_message="A key with the payer policy “fixed” needs a customer.",
            ),
        ]

    def __str__(self) -> str:
        return self.alias or self.display_name
