"""A budget: a reusable tier of limits that holders attach to."""

import json
import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.core.validators import MinValueValidator
from django.db import models

from customers.budget_windows import BudgetWindow, read_windows
from customers.durations import Duration, parse_duration
from customers.model_limits import ModelLimit, read_model_limits
from customers.models.change import TrackedModel
from customers.money import UsdField


def new_budget_id() -> str:
    return str(uuid.uuid4())


def validate_duration(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


class ExactDecoder(json.JSONDecoder):
    """Reads JSON's numbers with all their digits: an amount typed into a form is no float."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "parse_float": Decimal})


class Budget(TrackedModel):
    """A tier of limits. What is spent of it lives in `billing.BudgetPeriod`, never here.

    `soft_budget` only warns, so it may be above `max_budget`.
    """

    class Mode(models.TextChoices):
        STANDARD = "standard", "standard: hold the typical answer"
        STRICT = "strict", "strict: hold the worst case"

    id = models.CharField("budget id", primary_key=True, max_length=255, default=new_budget_id)
    max_budget = UsdField("max budget, USD", null=True, blank=True, validators=[MinValueValidator(0)])
    soft_budget = UsdField("soft budget, USD", null=True, blank=True, validators=[MinValueValidator(0)])
    budget_duration = models.CharField(
        max_length=20,
        blank=True,
        validators=[validate_duration],
        help_text="1d, 1w, 1mo, 12h, … or daily, weekly, monthly; empty: for all time.",
    )
    mode = models.CharField(max_length=10, choices=Mode, default=Mode.STANDARD)
    rpm_limit = models.PositiveBigIntegerField("requests per minute", null=True, blank=True)
    tpm_limit = models.PositiveBigIntegerField("tokens per minute", null=True, blank=True)
    max_parallel_requests = models.PositiveIntegerField(null=True, blank=True)
    model_max_budget = models.JSONField(
        "limits by model",
        default=dict,
        blank=True,
        encoder=DjangoJSONEncoder,
        decoder=ExactDecoder,
        help_text='Each optional: {"gpt-4o": {"budget_limit": "5", "time_period": "1d", "rpm_limit": 60, '
        '"tpm_limit": 100000}}.',
    )
    budget_limits = models.JSONField(
        "further windows",
        default=list,
        blank=True,
        encoder=DjangoJSONEncoder,
        decoder=ExactDecoder,
        help_text='Each limits besides those above: [{"budget_duration": "1d", "max_budget": "5"}].',
    )
    # Added to max_budget until then. The row stays as it was: nothing has to take it back.
    temp_budget_increase = UsdField(
        "temporary increase, USD", null=True, blank=True, validators=[MinValueValidator(0)]
    )
    temp_budget_expiry = models.DateTimeField("increase ends at", null=True, blank=True)
    # Made with one holder's own limits, for it alone: it goes with its holder, and is not offered to others.
    is_private = models.BooleanField(default=False, editable=False)
    created_by = models.CharField(max_length=255, blank=True, editable=False)
    updated_by = models.CharField(max_length=255, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(max_budget__gte=0), name="budget_max_not_negative"),
            models.CheckConstraint(condition=models.Q(soft_budget__gte=0), name="budget_soft_not_negative"),
        ]

    def __str__(self) -> str:
        return self.id

    def clean(self) -> None:
        try:
            limits = self.model_limits()
        except ValidationError as error:
            raise ValidationError({"model_max_budget": error}) from None
        self.model_max_budget = {model: limit.as_json() for model, limit in limits.items()}
        self._clean_windows()
        if (self.temp_budget_increase is None) != (self.temp_budget_expiry is None):
            message = "Give temp_budget_increase and temp_budget_expiry together, or neither."
            raise ValidationError({"temp_budget_increase": message})
        if self.max_budget is not None and self.temp_budget_increase is not None:
            try:
                UsdField().to_python(self.max_budget + self.temp_budget_increase)
            except ValidationError:
                message = "Together with max_budget this is more than can be kept."
                raise ValidationError({"temp_budget_increase": message}) from None

    def _clean_windows(self) -> None:
        try:
            windows = self.windows()
        except ValidationError as error:
            raise ValidationError({"budget_limits": error}) from None
        self.budget_limits = [window.as_json() for window in windows]
        try:
            duration = self.duration()
        except ValueError:
            return  # told of that field
        if self.max_budget is not None and any(window.duration == duration for window in windows):
            message = f"There are two limits for {duration}: max_budget is the one of budget_duration."
            raise ValidationError({"budget_limits": message})

    def duration(self) -> Duration | None:
        """Return the duration, None: for all time. Raises: ValueError on a row saved without `full_clean`."""
        return parse_duration(self.budget_duration) if self.budget_duration else None

    def limit_at(self, at: datetime) -> Decimal | None:
        """Return `max_budget` as it is in force, with the temporary increase; None: no limit."""
        if self.max_budget is None or self.temp_budget_increase is None or self.temp_budget_expiry is None:
            return self.max_budget
        return self.max_budget + (self.temp_budget_increase if at < self.temp_budget_expiry else 0)

    def windows(self) -> list[BudgetWindow]:
        """Return the further windows. Raises: ValidationError on a row saved without `full_clean`."""
        return read_windows(self.budget_limits)

    def model_limits(self) -> dict[str, ModelLimit]:
        """Return the limits by model name. Raises: ValidationError on a row saved without `full_clean`."""
        return read_model_limits(self.model_max_budget)
