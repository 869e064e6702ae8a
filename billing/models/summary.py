"""
Summaries: the daily rollups of days that are over, added up further, so that long reports read little.

A row is of a **span**: one day, four, sixteen, or a month (`billing/summaries.py`). Only
spans that have a `ClosedSpan` are read; whoever books into a day opens its spans again,
in the same transaction.
"""

from django.db import models

from billing.models.daily_spend import SUMS
from billing.models.ledger_model import LedgerModel
from customers.money import UsdField


class ClosedSpan(models.Model):
    """A span whose summaries are those of its days. `id` says which: `summaries.Span`."""

    id = models.IntegerField(primary_key=True)
    day = models.DateField()  # the first
    last_day = models.DateField()
    closed_at = models.DateTimeField()

    class Meta:
        verbose_name = "closed span"

    def __str__(self) -> str:
        return f"{self.day} to {self.last_day}"


class Summary(LedgerModel):
    """What one group of a span's calls adds up to. Columns are named and mean as in `DailySums`."""

    id = models.BigAutoField(primary_key=True)
    span = models.IntegerField()
    day = models.DateField()  # the span's first

    class Meta:
        abstract = True
        indexes = [
            # The rows of the spans that a report is made of.
            models.Index(fields=["span"], name="%(class)s_span")
        ]

    def __str__(self) -> str:
        return f"{self.day}, span {self.span}"


# A month of calls may be more than an integer holds: here all sums are big.
for _name in SUMS:
    Summary.add_to_class(_name, UsdField() if _name in ("cost", "charge") else models.BigIntegerField())


class SummaryByModel(Summary):
    """By what was called, and with which program."""

    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    deployment_id = models.BigIntegerField()
    dialect = models.CharField(max_length=30)
    client_tool = models.CharField(max_length=40)


class SummaryByKey(Summary):
    """By key and what was called with it."""

    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    dialect = models.CharField(max_length=30)

    class Meta(Summary.Meta):
        indexes = [
            *Summary.Meta.indexes,
            # Figures of chosen keys.
            models.Index(fields=["key_id", "span"], name="summary_key"),
        ]


class SummaryByUser(Summary):
    """By user and what was called in whose name."""

    user_id = models.CharField(max_length=255)
    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    upstream_model = models.CharField(max_length=255)
    client_tool = models.CharField(max_length=40)

    class Meta(Summary.Meta):
        indexes = [
            *Summary.Meta.indexes,
            # Figures of chosen users.
            models.Index(fields=["user_id", "span"], name="summary_user"),
        ]


class SummaryByTagsAndModel(Summary):
    """By set of tags and what was called."""

    tag_set_id = models.UUIDField()
    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    dialect = models.CharField(max_length=30)
    client_tool = models.CharField(max_length=40)


class SummaryByTagsAndUser(Summary):
    """By set of tags, key and user."""

    tag_set_id = models.UUIDField()
    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)
    user_id = models.CharField(max_length=255)

    class Meta(Summary.Meta):
        indexes = [
            *Summary.Meta.indexes,
            # Figures of chosen tags.
            models.Index(fields=["tag_set_id", "span"], name="summary_tags_user"),
        ]


class SummaryWithoutCustomer(Summary):
    """By everything, whoever the customer is. Most of the others are made of it."""

    tag_set_id = models.UUIDField()
    user_id = models.CharField(max_length=255)
    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    deployment_id = models.BigIntegerField()
    dialect = models.CharField(max_length=30)
    client_tool = models.CharField(max_length=40)

    class Meta(Summary.Meta):
        indexes = [
            *Summary.Meta.indexes,
            # What is asked of one key, one user, or one set of tags.
            models.Index(fields=["key_id", "span"], name="summary_all_key"),
            models.Index(fields=["user_id", "span"], name="summary_all_user"),
            models.Index(fields=["tag_set_id", "span"], name="summary_all_tags"),
        ]


class SummaryByCustomer(Summary):
    """By customer alone."""

    customer_id = models.CharField(max_length=255)

    class Meta(Summary.Meta):
        indexes = [
            # The customers that spent most: with all of what they are put in order by.
            models.Index(
                fields=["span"],
                include=["customer_id", "cost", "charge", "calls", "failed_calls"],
                name="summary_customer_order",
            ),
            # Figures of chosen customers.
            models.Index(fields=["customer_id", "span"], name="summary_customer"),
        ]
