"""The spend log: one row per call, written once by the ledger, never changed."""

import uuid

from django.conf import settings
from django.db import models

from billing.models.attributed import AttributedQuerySet, loose_foreign_key
from billing.usage import Usage
from customers.ids import first_uuid7_at
from customers.money import UsdField


class SpendLogQuerySet(AttributedQuerySet):
    def started_between(self, start, end) -> "SpendLogQuerySet":
        """Return calls admitted in [start, end), by the primary key (and so by partition)."""
        logs = self
        if start is not None:
            logs = logs.filter(pk__gte=first_uuid7_at(start))
        if end is not None:
            logs = logs.filter(pk__lt=first_uuid7_at(end))
        return logs


class SpendLog(models.Model):
    """One call: who made it, what it used, what it cost, how that is known.

    `id` is a UUIDv7 of `started_at` (the instant of admission, which decides day
    and month); on PostgreSQL the table is partitioned by month on it. `cost` is
    what the provider bills, `charge` what the customer pays; both are null while
    the model has no price ("unpriced"), which is not the same as 0.
    """

    class Status(models.TextChoices):
        SUCCESS = "success", "success"
        FAILURE = "failure", "failure"
        REFUSED = "refused", "refused"
        INTERRUPTED = "interrupted", "interrupted"
        NOT_SENT = "not_sent", "not sent"
        QUARANTINED = "quarantined", "quarantined"

    class UsageSource(models.TextChoices):
        PROVIDER = "provider", "provider: the provider's own figures"
        PARTIAL = "partial", "partial: the stream ended early; what was seen"
        ESTIMATED = "estimated", "estimated: no figures were received"
        CACHE = "cache", "cache: answered without the provider"
        NONE = "none", "none: nothing was used"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    dialect = models.CharField(max_length=30)
    streamed = models.BooleanField(default=False)
    status = models.CharField(max_length=12, choices=Status)
    http_status = models.PositiveSmallIntegerField(null=True)
    error_type = models.CharField(max_length=60, blank=True)
    error_message = models.CharField(max_length=500, blank=True)

    customer = loose_foreign_key("customers.Customer", "spend_logs")
    key = loose_foreign_key("customers.VirtualKey", "spend_logs")
    team = loose_foreign_key("customers.Team", "spend_logs")
    user = loose_foreign_key(settings.AUTH_USER_MODEL, "spend_logs")
    tags = models.JSONField(default=list)
    session_id = models.CharField(max_length=255, blank=True)
    user_agent = models.CharField(max_length=255, blank=True)
    client_tool = models.CharField(max_length=40, blank=True)
    client_call_id = models.CharField(max_length=255, blank=True)
    client_left = models.BooleanField(default=False)

    model = models.CharField(max_length=255, blank=True)
    # No loose foreign key: the ledger knows nothing of the proxy's tables.
    deployment_id = models.BigIntegerField(null=True)
    upstream = models.CharField(max_length=100, blank=True)
    provider = models.CharField(max_length=100, blank=True)
    upstream_model = models.CharField(max_length=255, blank=True)
    response_id = models.CharField(max_length=255, blank=True)
    service_tier = models.CharField(max_length=30, blank=True)
    attempts = models.JSONField(default=list)

    usage_source = models.CharField(max_length=10, choices=UsageSource)
    input_uncached = models.BigIntegerField(default=0)
    cache_read = models.BigIntegerField(default=0)
    cache_write_5m = models.BigIntegerField(default=0)
    cache_write_1h = models.BigIntegerField(default=0)
    output_text = models.BigIntegerField(default=0)
    reasoning = models.BigIntegerField(default=0)
    input_audio = models.BigIntegerField(default=0)
    output_audio = models.BigIntegerField(default=0)
    input_image = models.BigIntegerField(default=0)
    output_image = models.BigIntegerField(default=0)
    web_searches = models.BigIntegerField(default=0)
    # Units beside tokens, and what else the cost cannot be worked out again without; null: none of it.
    units = models.JSONField(null=True, blank=True)
    price = loose_foreign_key("billing.Price", "spend_logs")
    cost = UsdField("cost, USD", null=True)
    charge = UsdField("charge, USD", null=True)

    latency_ms = models.PositiveIntegerField(default=0)
    first_token_ms = models.PositiveIntegerField("time to first token, ms", null=True)
    metadata = models.JSONField(default=dict)
    request_body = models.TextField(blank=True)
    response_body = models.TextField(blank=True)

    objects = SpendLogQuerySet.as_manager()

    class Meta:
        verbose_name = "spend log"
        verbose_name_plural = "logs"
        indexes = [
            # The Logs page filtered by one holder, newest first.
            models.Index(fields=["customer", "-id"], name="spendlog_customer"),
            models.Index(fields=["key", "-id"], name="spendlog_key"),
            models.Index(fields=["team", "-id"], name="spendlog_team"),
            models.Index(fields=["model", "-id"], name="spendlog_model"),
            # Failures and refusals are rare; without this their filter reads the whole log.
            models.Index(
                fields=["status", "-id"], name="spendlog_status", condition=~models.Q(status="success")
            ),
            # The API's lists of one user and of one session; most calls have neither.
            models.Index(
                fields=["user", "-id"], name="spendlog_user", condition=models.Q(user__isnull=False)
            ),
            models.Index(
                fields=["session_id", "-id"], name="spendlog_session", condition=models.Q(session_id__gt="")
            ),
            # A call found by the id that the provider, or the client, gave it.
            models.Index(
                fields=["response_id"], name="spendlog_response", condition=models.Q(response_id__gt="")
            ),
            models.Index(
                fields=["client_call_id"],
                name="spendlog_client_call",
                condition=models.Q(client_call_id__gt=""),
            ),
            # Calls to be priced: few, and looked for by model.
            models.Index(
                fields=["provider", "upstream_model", "id"],
                name="spendlog_unpriced",
                condition=models.Q(cost__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def usage(self) -> Usage:
        return Usage(*(getattr(self, bucket) for bucket in Usage._fields))

    @property
    def usage_state(self) -> str:
        """Return `unpriced` where the cost is not known, else where the usage comes from."""
        return "unpriced" if self.cost is None else self.usage_source
