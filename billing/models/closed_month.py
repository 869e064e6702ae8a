"""Months whose figures stay as they are."""

from django.db import models

from customers.models import TrackedModel


class ClosedMonth(TrackedModel):
    """A month, in the reporting time zone, that was closed: no sum of its days moves any more."""

    month = models.DateField(primary_key=True)  # its first day
    closed_at = models.DateTimeField()
    closed_by = models.CharField(max_length=255, blank=True)
    note = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name = "closed month"

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"
