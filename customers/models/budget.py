"""A budget: a reusable tier of limits that holders attach to."""

import uuid

from django.db import models

from customers.models.change import TrackedModel
from customers.money import UsdField


def new_budget_id() -> str:
    return str(uuid.uuid4())


class Budget(TrackedModel):
    """A tier of limits. What is spent of it lives in `billing.BudgetPeriod`, never here."""

    class Mode(models.TextChoices):
        STANDARD = "standard", "standard: hold the typical answer"
        STRICT = "strict", "strict: hold the worst case"

    id = models.CharField("budget id", primary_key=True, max_length=255, default=new_budget_id)
    max_budget = UsdField("max budget, USD", null=True, blank=True)
    soft_budget = UsdField("soft budget, USD", null=True, blank=True)
    budget_duration = models.CharField(max_length=20, blank=True)
    mode = models.CharField(max_length=10, choices=Mode, default=Mode.STANDARD)
    rpm_limit = models.PositiveBigIntegerField("requests per minute", null=True, blank=True)
    tpm_limit = models.PositiveBigIntegerField("tokens per minute", null=True, blank=True)
    max_parallel_requests = models.PositiveIntegerField(null=True, blank=True)
    model_max_budget = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(max_budget__gte=0), name="budget_max_not_negative"),
            models.CheckConstraint(condition=models.Q(soft_budget__gte=0), name="budget_soft_not_negative"),
        ]

    def __str__(self) -> str:
        return self.id
