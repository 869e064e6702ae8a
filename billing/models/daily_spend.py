"""
Daily rollups: what reports, charts and exports read instead of the log.

Written in the transaction that books the calls (`billing/booking/rollups.py`). A day is one of
the reporting time zone. Where a call has no customer, team, …, the column is empty; the
nil UUID is the master key's, or says that there are no tags; 0 is no deployment: so that
a row has one natural key.
"""

import uuid

from django.db import models
from django.db.models import Q

from billing.models.ledger_model import LedgerModel
from billing.usage import BUCKETS, Usage
from customers.money import UsdField

MASTER_KEY = NO_TAGS = uuid.UUID(int=0)
NO_DEPLOYMENT = 0

# Upper bounds, in milliseconds, each included; one bucket more takes what is slower than the last.
LATENCY_BOUNDS_MS = (
    50, 100, 200, 350, 500, 750, 1000, 1500, 2500, 4000, 6500, 10_000, 20_000, 40_000, 90_000,
)  # fmt: skip
LATENCY_BUCKETS = tuple(f"latency_{number}" for number in range(len(LATENCY_BOUNDS_MS) + 1))
COUNTS = ("calls", "failed_calls", "unpriced_calls", "estimated_calls", "cache_hits")
SUMS = ("cost", "charge", *COUNTS, *BUCKETS, "latency_ms_sum", *LATENCY_BUCKETS)

OVERVIEW_DIMENSIONS = (
    "day", "key_id", "team_id", "model", "provider", "upstream_model", "deployment_id", "dialect",
    "client_tool",
)  # fmt: skip
TAG_DIMENSIONS = (*OVERVIEW_DIMENSIONS, "tag_set_id")
DIMENSIONS = (*TAG_DIMENSIONS, "customer_id", "user_id")


class DailySums(LedgerModel):
    """What one group of a day's calls adds up to. A refused call and one that failed are calls, too.

    `id` begins with the digits of the day, the rest is a hash of the other dimensions:
    rows of a range of days are a range of ids, and an upsert has one short key.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    day = models.DateField()
    key_id = models.UUIDField()
    team_id = models.CharField(max_length=255)
    model = models.CharField(max_length=255)  # the public name, as the client wrote it
    provider = models.CharField(max_length=100)
    upstream_model = models.CharField(max_length=255)
    deployment_id = models.BigIntegerField()
    dialect = models.CharField(max_length=30)
    client_tool = models.CharField(max_length=40)

    cost = UsdField("cost, USD")
    charge = UsdField("charge, USD")
    calls = models.IntegerField()
    failed_calls = models.IntegerField()
    unpriced_calls = models.IntegerField()
    estimated_calls = models.IntegerField()  # usage source `partial` or `estimated`
    cache_hits = models.IntegerField()
    input_uncached = models.BigIntegerField()
    cache_read = models.BigIntegerField()
    cache_write_5m = models.BigIntegerField()
    cache_write_1h = models.BigIntegerField()
    output_text = models.BigIntegerField()
    reasoning = models.BigIntegerField()
    input_audio = models.BigIntegerField()
    output_audio = models.BigIntegerField()
    input_image = models.BigIntegerField()
    output_image = models.BigIntegerField()
    web_searches = models.BigIntegerField()

    # How long the successful calls took: their sum, and how many fall into which bucket.
    latency_ms_sum = models.BigIntegerField()
    latency_0 = models.IntegerField()
    latency_1 = models.IntegerField()
    latency_2 = models.IntegerField()
    latency_3 = models.IntegerField()
    latency_4 = models.IntegerField()
    latency_5 = models.IntegerField()
    latency_6 = models.IntegerField()
    latency_7 = models.IntegerField()
    latency_8 = models.IntegerField()
    latency_9 = models.IntegerField()
    latency_10 = models.IntegerField()
    latency_11 = models.IntegerField()
    latency_12 = models.IntegerField()
    latency_13 = models.IntegerField()
    latency_14 = models.IntegerField()
    latency_15 = models.IntegerField()

    class Meta:
        abstract = True

    @property
    def usage(self) -> Usage:
        return Usage(*(getattr(self, bucket) for bucket in BUCKETS))


class DailyOverview(DailySums):
    """The smallest rollup: whoever the customer and the user are, whatever the tags."""

    class Meta:
        verbose_name = "daily overview"

    def __str__(self) -> str:
        return f"{self.day} {self.model}"


class TagSet(models.Model):
    """The tags of a call, in their order; `id` is a hash of them.

    Rollups name the set, not the tags: a call is in one row, so that sums over several
    tags count it once, and three tags cost no more than one.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tags = models.JSONField()

    class Meta:
        verbose_name = "set of tags"

    def __str__(self) -> str:
        return ", ".join(self.tags)


class TagSetMember(models.Model):
    """One tag of a set: what reports about tags join."""

    tag_set = models.ForeignKey(TagSet, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    tag = models.CharField(max_length=511)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tag_set", "tag"], name="tag_set_member_once")]
        indexes = [
            # Which sets have a chosen tag.
            models.Index(fields=["tag"], name="tag_set_member_tag")
        ]

    def __str__(self) -> str:
        return self.tag


class DailySpend(DailySums):
    """By everything: also by customer, user and set of tags."""

    tag_set_id = models.UUIDField()
    customer_id = models.CharField(max_length=255)
    user_id = models.CharField(max_length=255)

    class Meta:
        verbose_name = "daily spend"
        indexes = [
            # Reports about chosen customers.
            models.Index(fields=["customer_id", "day"], name="daily_spend_customer"),
            # Reports about chosen users; most installations have calls of none.
            models.Index(fields=["user_id", "day"], name="daily_spend_user", condition=~Q(user_id="")),
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.customer_id} {self.model}"


class ReconcileRun(models.Model):
    """One comparison of the logs with everything that is derived from them."""

    started_at = models.DateTimeField()
    seconds = models.FloatField()
    rows_compared = models.BigIntegerField()
    differences = models.IntegerField()
    repaired = models.BooleanField(default=False)
    kept_since = models.DateField(null=True)  # older logs were removed: sealed balances stand for them
    # The first of them: [{"table": …, "row": …, "column": …, "off_by": …}]
    examples = models.JSONField(default=list)

    class Meta:
        verbose_name = "reconciliation"

    def __str__(self) -> str:
        return f"{self.started_at:%Y-%m-%d %H:%M}: {self.differences} differences"
