"""The customer: the end user who is billed."""

from django.db import models
from django.db.models.functions import Concat, Left, Lower

from customers.models.budget import Budget
from customers.models.change import TrackedModel, TrackedQuerySet
from customers.models.rate_card import RateCard

# What the hot path must know of a customer: any of these.
_EXCEPTIONS = (
    models.Q(blocked=True)
    | models.Q(budget__isnull=False)
    | models.Q(rate_card__isnull=False)
    | ~models.Q(allowed_models=[])
    | ~models.Q(allowed_model_region="")
)
# An index takes entries of up to 2.7 kB: an id and this, at four bytes a character.
_SEARCHED = 400


class CustomerQuerySet(TrackedQuerySet):
    def listed(self) -> "CustomerQuerySet":
        """Return customers that were not deleted."""
        return self.filter(deleted_at=None)

    def exceptional(self) -> "CustomerQuerySet":
        """Return the few customers the hot path must know by name: blocked, limited, on a rate card."""
        return self.filter(_EXCEPTIONS)

    def matching(self, part: str) -> "CustomerQuerySet":
        """Return customers with `part` in their id or their name, in any case."""
        return self.filter(search_text__contains=Lower(models.Value(part)))

    def beginning_with(self, part: str) -> "CustomerQuerySet":
        """Return customers whose id or name begins with `part`, in any case.

        Optimization: for what is too short to be found inside by trigrams: beginnings are.
        """
        part = part.lower()
        return self.filter(
            models.Q(search_text__startswith=part) | models.Q(search_text__contains=f"\n{part}")
        )


class Customer(TrackedModel):
    """One end user. Made by the ledger on its first priced call, or by staff before.

    The id is the one that callers send, so it never changes: renaming sets the
    alias. Deleting keeps the row (`deleted_at`), its totals and its block, so
    that a call in flight cannot bring it back unblocked. Spend lives in
    `billing.SpendTotal`: a form that saves this row must not move it.
    """

    class Region(models.TextChoices):
        EU = "eu", "EU"
        US = "us", "US"

    id = models.CharField("customer id", primary_key=True, max_length=255)
    alias = models.CharField("name", max_length=255, blank=True)
    blocked = models.BooleanField(default=False)
    budget = models.ForeignKey(
        Budget, null=True, blank=True, on_delete=models.PROTECT, related_name="customers"
    )
    rate_card = models.ForeignKey(
        RateCard,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="customers",
        help_text="What it pays; none: what the providers bill.",
    )
    # The default is the database's too: the ledger makes customers without a word on it.
    allowed_models = models.JSONField(
        "allowed models", default=list, db_default=models.Value([], models.JSONField()), blank=True
    )
    allowed_model_region = models.CharField(
        "region",
        max_length=10,
        choices=Region,
        blank=True,
        help_text="Calls go to upstreams of this region alone.",
    )
    default_model = models.CharField(
        max_length=255, blank=True, help_text="Serves calls for a model that the region does not have."
    )
    metadata = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)
    # What a search looks through: read from an index that has the ids too, so that a page of
    # matches never reads the table. Kept by the database.
    search_text = models.GeneratedField(
        expression=Left(Lower(Concat("id", models.Value("\n"), "alias")), _SEARCHED),
        output_field=models.CharField(max_length=_SEARCHED),
        db_persist=True,
    )

    objects = CustomerQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        indexes = [
            # The workers' refresher reads the exceptions at start.
            models.Index(
                fields=["id"],
                name="customer_exceptions",
                condition=_EXCEPTIONS,
            ),
            # The list and the search, of the API and of the admin. Where PostgreSQL has pg_trgm, the
            # migration adds customer_search_trigrams: what is rare is then found without reading all.
            models.Index(
                fields=["id", "search_text"],
                name="customer_search",
                condition=models.Q(deleted_at=None),
            ),
            # The admin's list, as it comes and by name.
            models.Index(fields=["-created_at"], name="customer_created"),
            models.Index(fields=["alias"], name="customer_alias"),
        ]

    def __str__(self) -> str:
        return self.alias or self.id
