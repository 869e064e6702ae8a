"""What all rows of the ledger have in common: no form can write them back."""

from typing import Any

from django.db import models


class WrittenByTheLedger(TypeError):
    """A row of the ledger was saved again."""


class LedgerModel(models.Model):
    """A row that the ledger alone changes, by statements that add to what is there.

    `save()` would write every column as it was once read: sums would go back in time
    (H11). So a row that exists refuses to be saved.
    """

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise WrittenByTheLedger(f"{self._meta.verbose_name} is written by the ledger alone")
        super().save(*args, **kwargs)
