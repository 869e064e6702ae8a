"""Rows that say who is behind them: spend logs and their adjustments."""

from typing import Self

from django.db import connections, models
from django.db.models.expressions import RawSQL

from billing.models.spend_total import MASTER_KEY_ID, HolderType


class AttributedQuerySet(models.QuerySet):
    """Rows with `customer`, `key`, `team`, `user` and `tags`."""

    def with_tag(self, tag: str) -> Self:
        """Return rows that carry `tag`."""
        if connections[self.db].vendor == "postgresql":
            return self.filter(tags__contains=[tag])  # the log has a GIN index on tags
        table = self.model._meta.db_table
        return self.filter(
            RawSQL(
                f"EXISTS (SELECT 1 FROM json_each({table}.tags) WHERE json_each.value = %s)",  # noqa: S608
                [tag],
                output_field=models.BooleanField(),
            )
        )

    def of_holder(self, holder_type: str, holder_id: str) -> Self:
        """Return rows whose spend counts for the holder: the inverse of `holders`."""
        match HolderType(holder_type):
            case HolderType.GATEWAY:
                return self.all()
            case HolderType.KEY if holder_id == MASTER_KEY_ID:
                return self.filter(key_id__isnull=True)
            case HolderType.TEAM_MEMBER:
                team_id, _, user_id = holder_id.partition("\n")
                return self.filter(team_id=team_id, user_id=user_id)
            case HolderType.TAG:
                return self.with_tag(holder_id)
            case named:
                return self.filter(**{f"{named.value}_id": holder_id})


def loose_foreign_key(to: str, related_name: str) -> models.ForeignKey:
    """Return a reference without a database constraint.

    The ledger must be able to book whatever a journal holds, also for a key that
    was purged meanwhile; and no row of a partitioned log may hold up a delete.
    """
    return models.ForeignKey(
        to,
        null=True,
        blank=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name=related_name,
    )
