"""The internal user: who owns keys, and who logs into the admin."""

import uuid
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models
from django.db.models.functions import Lower

from customers.models.budget import Budget
from customers.models.change import TrackedModel, TrackedQuerySet


def new_user_id() -> str:
    return str(uuid.uuid4())


class UserQuerySet(TrackedQuerySet):
    def listed(self) -> "UserQuerySet":
        """Return users who were not deleted."""
        return self.filter(deleted_at=None)

    def with_emails(self, emails: Iterable[str]) -> "UserQuerySet":
        """Return users with one of these e-mails, in any case, each annotated with `lowered_email`."""
        lowered = [Lower(models.Value(email)) for email in emails]
        return self.annotate(lowered_email=Lower("email")).filter(lowered_email__in=lowered)


class TrackedUserManager(UserManager.from_queryset(UserQuerySet)):  # type: ignore[misc]
    """Django's user manager over our queryset."""


class User(TrackedModel, AbstractUser):
    """A platform user. Not a customer: customers are billed, users work here.

    Deleting keeps the row (`deleted_at`), so that its logs and totals keep their name.
    """

    audit_hidden = ("password",)

    class Role(models.TextChoices):
        PROXY_ADMIN = "proxy_admin", "proxy admin"
        PROXY_ADMIN_VIEWER = "proxy_admin_viewer", "proxy admin viewer"
        INTERNAL_USER = "internal_user", "internal user"
        INTERNAL_USER_VIEWER = "internal_user_viewer", "internal user viewer"

    id = models.CharField("user id", primary_key=True, max_length=255, default=new_user_id)
    alias = models.CharField("name", max_length=255, blank=True)
    role = models.CharField(max_length=30, choices=Role, default=Role.INTERNAL_USER)
    allowed_models = models.JSONField("allowed models", default=list, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    extras = models.JSONField(default=dict, blank=True, editable=False)  # as `VirtualKey.extras`
    budget = models.ForeignKey(Budget, null=True, blank=True, on_delete=models.PROTECT, related_name="users")
    created_by = models.CharField(max_length=255, blank=True, editable=False)
    updated_by = models.CharField(max_length=255, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = TrackedUserManager()  # type: ignore[misc]

    class Meta(TrackedModel.Meta):
        constraints = [
            models.UniqueConstraint(
                Lower("email"),
                condition=~models.Q(email=""),
                name="user_email_in_any_case",
                violation_error_message="A user with this e-mail exists already.",
            ),
        ]

    def __str__(self) -> str:
        return self.alias or self.email or self.username or self.id

    def save(self, *args: Any, **kwargs: Any) -> None:
        # A log-in is no change that the hot path must hear of.
        if kwargs.get("update_fields") == ["last_login"]:
            models.Model.save(self, *args, **kwargs)
        else:
            super().save(*args, **kwargs)
