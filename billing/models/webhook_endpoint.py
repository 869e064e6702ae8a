"""The webhook endpoint: a receiver that events are posted to, and the secret that signs them."""

import base64
import secrets
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import models

from billing.webhooks.egress import RefusedAddress, check_url
from customers.models import TrackedModel
from customers.sealing import CannotUnseal, seal, unseal

SECRET_PREFIX = "whsec_"  # noqa: S105  how Standard Webhooks begins a secret
OVERLAP = timedelta(hours=24)
_PURPOSE = "webhook-secret"
_SECRET_BYTES = 32
_MAX_CONCURRENCY = 100


class WebhookEndpoint(TrackedModel):
    """A receiver of events. Empty filters let everything through.

    Secrets are sealed, and shown only when they are made. After a rotation both sign
    until `previous_secret_until`. How posting to it goes is in `DeliveryLane`.
    """

    class Source(models.TextChoices):
        STAFF = "staff", "staff"
        ENVIRONMENT = "environment", "WEBHOOK_URL"

    audit_hidden = ("sealed_secret", "sealed_previous_secret")

    name = models.CharField(max_length=100, blank=True)
    url = models.CharField("URL", max_length=2000, help_text="Where events are posted: https://…")
    event_types = models.JSONField(
        "events", default=list, blank=True,
        help_text='Which events, e.g. ["spend_tracked", "budget_crossed"]. Empty: all.',
    )  # fmt: skip
    customer_ids = models.JSONField(
        "customers", default=list, blank=True,
        help_text='Only events about these customers, e.g. ["acme-042"]. Empty: about anybody.',
    )  # fmt: skip
    is_active = models.BooleanField("active", default=True)
    max_concurrency = models.PositiveSmallIntegerField(
        "posts at a time", default=16, help_text="How many posts the receiver gets at the same time, at most."
    )
    source = models.CharField(max_length=12, choices=Source, default=Source.STAFF, editable=False)
    sealed_secret = models.TextField(editable=False)
    sealed_previous_secret = models.TextField(blank=True, editable=False)
    previous_secret_until = models.DateTimeField(null=True, blank=True, editable=False)
    disabled_reason = models.CharField(max_length=200, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "webhook endpoint"
        constraints = [
            models.UniqueConstraint(
                fields=["source"],
                condition=models.Q(source="environment"),
                name="webhook_endpoint_one_of_environment",
            ),
            models.CheckConstraint(
                condition=models.Q(max_concurrency__gte=1, max_concurrency__lte=_MAX_CONCURRENCY),
                name="webhook_endpoint_concurrency",
                violation_error_message=f"Between 1 and {_MAX_CONCURRENCY} posts at a time.",
            ),
        ]

    def __str__(self) -> str:
        return self.name or urlsplit(self.url).hostname or "webhook endpoint"

    def clean(self) -> None:
        """Raises: ValidationError that says what is wrong with the URL or a filter."""
        problems: dict[str, str] = {}
        try:
            check_url(self.url)
        except RefusedAddress as error:
            problems["url"] = str(error)
        for name, words in (("event_types", "event names"), ("customer_ids", "customer ids")):
            if not _is_names(getattr(self, name)):
                problems[name] = f'Write a list of {words}: ["…", "…"].'
        if problems:
            raise ValidationError(problems)

    # -- secrets -------------------------------------------------------------------

    def make_secret(self) -> str:
        """Give the endpoint its first secret, and return it: to be shown once. Does not save."""
        secret = new_secret()
        self.set_secret(secret)
        return secret

    def set_secret(self, secret: str) -> None:
        self.sealed_secret = seal(secret.encode(), purpose=_PURPOSE).decode()

    def rotate_secret(self, *, at: datetime, overlap: timedelta = OVERLAP) -> str:
        """Take a new secret and return it; for `overlap` the one before it signs too. Does not save."""
        self.sealed_previous_secret = self.sealed_secret
        self.previous_secret_until = at + overlap
        return self.make_secret()

    def signing_secrets(self, *, at: datetime) -> list[str]:
        """Return the secrets that sign at `at`, the newest first.

        Raises: CannotUnseal, where SECRET_KEY was changed since.
        """
        sealed = [self.sealed_secret]
        if self.previous_secret_until is not None and at < self.previous_secret_until:
            sealed.append(self.sealed_previous_secret)
        return [unseal(each.encode(), purpose=_PURPOSE).decode() for each in sealed if each]

    def has_secret(self, secret: str) -> bool:
        try:
            kept = unseal(self.sealed_secret.encode(), purpose=_PURPOSE)
        except CannotUnseal:
            return False
        return secrets.compare_digest(kept, secret.encode())


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and 0 < len(name) <= 255 for name in value)
