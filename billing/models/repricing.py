"""A run of re-pricing: which calls, who asked for it, how far it is."""

from django.db import models

from customers.money import UsdField


class Repricing(models.Model):
    """Calls of one model, priced again by the price book as it is, from the first call to the last.

    Each call's difference is an `Adjustment`. `position` is the last call that is done: a
    run that was interrupted goes on behind it.
    """

    provider = models.CharField(max_length=100)
    model = models.CharField(max_length=255)  # as it was sent upstream
    starts_at = models.DateTimeField(null=True)  # calls that started in [starts_at, ends_at)
    ends_at = models.DateTimeField()
    only_unpriced = models.BooleanField(default=True)
    actor = models.CharField(max_length=255)
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    position = models.UUIDField(null=True)
    calls = models.BigIntegerField(default=0)  # that were looked at
    changed_calls = models.BigIntegerField(default=0)
    cost = UsdField("cost, USD", default=0)  # what the adjustments add up to
    charge = UsdField("charge, USD", default=0)

    class Meta:
        verbose_name = "re-pricing"

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"
