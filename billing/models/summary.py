"""
Summaries: the daily rollups of days that are over, added up further, so that long reports read little.

A row is of a **span**: one day, four, sixteen, or a month (`billing/booking/summaries.py`). Only
spans that have a `ClosedSpan` are read; whoever books into a day opens its spans again,
in the same transaction.
"""

from django.db import models

from billing.models.daily_spend import SUMS
from billing.models.ledger_model import LedgerModel
from billing.usage import TOKEN_BUCKETS
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
    """What one group of a span's calls adds up to. Columns are named and mean as in `DailySums`.

    Optimization: null is 0. Most sums of most rows are, and take no room then.
    """

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
    _is_money = _name in ("cost", "charge")
    Summary.add_to_class(_name, UsdField() if _is_money else models.BigIntegerField(null=True))


class SummaryByModel(Summary):
    """By what was called, and with which program."""

    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    deployment_id = models.BigIntegerField()
    dialect = models.CharField(max_length=30)
    client_tool = models.CharField(max_length=40)


class SummaryByTags(Summary):
    """By set of tags alone."""

    tag_set_id = models.UUIDField()

    class Meta(Summary.Meta):
        indexes = [
            *Summary.Meta.indexes,
            # Figures of chosen tags.
            models.Index(fields=["tag_set_id", "span"], name="summary_tags"),
        ]


class SummaryByUser(Summary):
    """By user, and the key and team in whose name the calls were made: hardly more rows than keys."""

    user_id = models.CharField(max_length=255)
    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)


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


class SummaryByTagsAndModel(Summary):
    """By set of tags and what was called."""

    tag_set_id = models.UUIDField()
    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    dialect = models.CharField(max_length=30)
    client_tool = models.CharField(max_length=40)


class SummaryByUserAndModel(Summary):
    """By user and what was called in whose name."""

    user_id = models.CharField(max_length=255)
    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    dialect = models.CharField(max_length=30)
    client_tool = models.CharField(max_length=40)

    class Meta(Summary.Meta):
        indexes = [
            *Summary.Meta.indexes,
            # Figures of chosen users.
            models.Index(fields=["user_id", "span"], name="summary_user"),
        ]


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
            # Names of customers in some order: with all of what they are put in order by.
            models.Index(
                fields=["span"],
                include=["customer_id", "cost", "charge", "calls", "failed_calls", *TOKEN_BUCKETS],
                name="summary_customer_order",
            ),
            # The customers that were charged most, without the others.
            models.Index(fields=["span", "charge"], name="summary_customer_most"),
            # Figures of chosen customers.
            models.Index(fields=["customer_id", "span"], name="summary_customer"),
        ]


class SummaryByCustomerAndModel(Summary):
    """By customer and what was called."""

    customer_id = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    dialect = models.CharField(max_length=30)

    class Meta(Summary.Meta):
        indexes = [
            # Customers of a model, with what they are put in order by.
            models.Index(
                fields=["span", "model"],
                include=["customer_id", "cost", "charge", "calls"],
                name="summary_customer_of_model",
            ),
            # Figures of chosen customers.
            models.Index(fields=["customer_id", "span"], name="summary_customer_model"),
        ]


class SummaryByCaller(Summary):
    """By customer and how it calls: with which key, in whose name, with which tags and program."""

    customer_id = models.CharField(max_length=255)
    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)
    user_id = models.CharField(max_length=255)
    tag_set_id = models.UUIDField()
    client_tool = models.CharField(max_length=40)

    class Meta(Summary.Meta):
        indexes = [
            # Customers of a key: also those of a team, a user, or tags.
            models.Index(fields=["span", "key_id"], name="summary_caller_key"),
            # Figures of chosen customers.
            models.Index(fields=["customer_id", "span"], name="summary_caller"),
        ]
