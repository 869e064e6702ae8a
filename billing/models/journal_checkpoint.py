"""How far each journal is booked, and which installation journals belong to."""

import uuid

from django.db import models


class Installation(models.Model):
    """The one row that says which installation this database is.

    Journals carry its id: one that belongs to another database is left alone.
    """

    installation_id = models.UUIDField(default=uuid.uuid4)
    reporting_time_zone = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="installation_single_row")]

    def __str__(self) -> str:
        return str(self.installation_id)


class JournalCheckpoint(models.Model):
    """Up to where a journal's records are in the database.

    Moved in the same transaction as the rows it stands for, from the position it
    is known to have: of two recorders only one can book a stretch (J3).
    """

    journal_id = models.UUIDField(primary_key=True)
    segment = models.PositiveIntegerField(default=0)
    position = models.BigIntegerField(default=0)
    finished = models.BooleanField(default=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "journal checkpoint"

    def __str__(self) -> str:
        return f"{self.journal_id} {self.segment}:{self.position}"
