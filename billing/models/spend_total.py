"""All-time totals, one row per holder, written by the ledger alone."""

from django.db import models

from customers.money import UsdField


class HolderType(models.TextChoices):
    """Whose spend is counted."""

    GATEWAY = "gateway", "gateway"
    TEAM = "team", "team"
    TEAM_MEMBER = "team_member", "team member"
    USER = "user", "user"
    KEY = "key", "key"
    CUSTOMER = "customer", "customer"
    TAG = "tag", "tag"


GATEWAY_ID = "gateway"
MASTER_KEY_ID = "master"  # the key holder's id of calls made with the master key


def team_member_id(team_id: str, user_id: str) -> str:
    """Return the holder id of one user on one team."""
    return f"{team_id}\n{user_id}"  # no id contains a line break


class SpendTotal(models.Model):
    """What one holder ever spent. In a table of its own, so that no form can write it back (H11)."""

    holder_type = models.CharField(max_length=12, choices=HolderType)
    holder_id = models.CharField(max_length=511)
    cost = UsdField("cost, USD", default=0)
    charge = UsdField("charge, USD", default=0)
    calls = models.BigIntegerField(default=0)
    failed_calls = models.BigIntegerField(default=0)
    unpriced_calls = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    last_call_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "spend total"
        constraints = [
            models.UniqueConstraint(fields=["holder_type", "holder_id"], name="spend_total_holder")
        ]

    def __str__(self) -> str:
        return f"{self.holder_type} {self.holder_id}"
