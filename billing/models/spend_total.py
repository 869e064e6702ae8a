"""All-time totals, one row per holder, written by the ledger alone."""

from collections.abc import Iterable

from django.db import models

from billing.models.ledger_model import LedgerModel
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


def holders(
    *,
    key_id: str | None,
    team_id: str | None,
    user_id: str | None,
    customer_id: str | None,
    tags: Iterable[str],
) -> list[tuple[str, str]]:
    """Return (type, id) of everyone a call's spend counts for. key_id: as `str(UUID)` writes it."""
    found = [(HolderType.GATEWAY.value, GATEWAY_ID), (HolderType.KEY.value, key_id or MASTER_KEY_ID)]
    if team_id:
        found.append((HolderType.TEAM.value, team_id))
        if user_id:
            found.append((HolderType.TEAM_MEMBER.value, team_member_id(team_id, user_id)))
    if user_id:
        found.append((HolderType.USER.value, user_id))
    if customer_id:
        found.append((HolderType.CUSTOMER.value, customer_id))
    found += [(HolderType.TAG.value, tag) for tag in tags]
    return found


class SpendTotal(LedgerModel):
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
