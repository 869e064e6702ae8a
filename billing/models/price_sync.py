"""Where the synced cost map comes from, and how it went."""

from django.db import models


class PriceSync(models.Model):
    """The one row about the cost map: whether it is read every night, from where, and how it went last."""

    is_audited = True  # whoever switches it; the nightly outcome is none of the audit log's

    is_automatic = models.BooleanField(default=False)
    source = models.CharField(max_length=2000, blank=True)  # a path or an address; empty: the published one
    checked_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=500, blank=True)  # of that time, in words

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="price_sync_single_row")]

    def __str__(self) -> str:
        return "every night" if self.is_automatic else "by hand"
