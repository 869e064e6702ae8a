"""The customer: the end user who is billed."""

from django.db import models

from customers.models.budget import Budget
from customers.models.change import TrackedModel, TrackedQuerySet


class CustomerQuerySet(TrackedQuerySet):
    def listed(self) -> "CustomerQuerySet":
        """Return customers that were not deleted."""
        return self.filter(deleted_at=None)

    def exceptional(self) -> "CustomerQuerySet":
        """Return the few customers the hot path must know by name: blocked, or limited by themselves."""
        return self.filter(models.Q(blocked=True) | models.Q(budget__isnull=False))


class Customer(TrackedModel):
    """One end user. Made by the ledger on its first priced call, or by staff before.

    The id is the one that callers send, so it never changes: renaming sets the
    alias. Deleting keeps the row (`deleted_at`), its totals and its block, so
    that a call in flight cannot bring it back unblocked. Spend lives in
    `billing.SpendTotal`: a form that saves this row must not move it.
    """

    id = models.CharField("customer id", primary_key=True, max_length=255)
    alias = models.CharField("name", max_length=255, blank=True)
    blocked = models.BooleanField(default=False)
    budget = models.ForeignKey(
        Budget, null=True, blank=True, on_delete=models.PROTECT, related_name="customers"
    )
    # The default is the database's too: the ledger makes customers without a word on it.
    allowed_models = models.JSONField(
        "allowed models", default=list, db_default=models.Value([], models.JSONField()), blank=True
    )
    allowed_model_region = models.CharField(max_length=10, blank=True)
    default_model = models.CharField(max_length=255, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = CustomerQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        indexes = [
            # The workers' refresher reads the exceptions at start.
            models.Index(
                fields=["id"],
                name="customer_exceptions",
                condition=models.Q(blocked=True) | models.Q(budget__isnull=False),
            ),
            models.Index(fields=["alias"], name="customer_alias"),  # the admin's search
            models.Index(fields=["-created_at"], name="customer_created"),  # the admin's list
        ]

    def __str__(self) -> str:
        return self.alias or self.id
