"""
The change log: how a worker learns, within a second, what staff edited.

Every row the hot path keeps in memory is a `TrackedModel`: saving or deleting it
appends a `Change` in the same transaction. Revisions are drawn from one counter
row, whose lock is held until commit, so they become visible in order: a reader
who has seen revision 7 will never be shown a 6 that committed late.
"""

from collections.abc import Iterable
from typing import Any

from django.db import models, transaction
from django.db.models import F

MAX_LISTED = 1000


class ChangeCounter(models.Model):
    """The one row that orders all changes."""

    value = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="change_counter_single_row")]

    def __str__(self) -> str:
        return f"revision {self.value}"


class Change(models.Model):
    """One tracked row was written; `object_id` is empty when a whole kind may have changed."""

    revision = models.BigIntegerField(db_index=True)  # read by every worker's refresher, once a second
    kind = models.CharField(max_length=40)
    object_id = models.CharField(max_length=255)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.revision}: {self.kind} {self.object_id or '(all)'}"


def record_changes(kind: str, object_ids: Iterable[Any]) -> None:
    """Append changes of `kind`. Locks the counter until the surrounding transaction ends."""
    ids = [str(object_id) for object_id in object_ids]
    if not ids:
        return
    if len(ids) > MAX_LISTED:
        ids = [""]
    with transaction.atomic():
        if not ChangeCounter.objects.filter(pk=1).update(value=F("value") + 1):
            ChangeCounter.objects.get_or_create(pk=1)
            ChangeCounter.objects.filter(pk=1).update(value=F("value") + 1)
        revision = ChangeCounter.objects.values_list("value", flat=True).get(pk=1)
        Change.objects.bulk_create(
            [Change(revision=revision, kind=kind, object_id=object_id) for object_id in ids]
        )


class TrackedQuerySet(models.QuerySet):
    """A queryset whose bulk writes are changes too."""

    @property
    def _kind(self) -> str:
        return self.model._meta.label_lower

    def update(self, **kwargs: Any) -> int:
        with transaction.atomic(using=self.db):
            changed = list(self.values_list("pk", flat=True)[: MAX_LISTED + 1])
            count = super().update(**kwargs)
            record_changes(self._kind, changed)
        return count

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        with transaction.atomic(using=self.db):
            changed = list(self.values_list("pk", flat=True)[: MAX_LISTED + 1])
            result = super().delete()
            record_changes(self._kind, changed)
        return result

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        with transaction.atomic(using=self.db):
            created = super().bulk_create(objs, *args, **kwargs)
            record_changes(self._kind, ["" if obj.pk is None else obj.pk for obj in created])
        return created


class TrackedModel(models.Model):
    """A row that workers keep a copy of: each write of it appends a `Change`."""

    objects = TrackedQuerySet.as_manager()

    class Meta:
        abstract = True
        base_manager_name = "objects"  # `budget.customers.add(…)` updates through the base manager

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            super().save(*args, **kwargs)
            record_changes(self._meta.label_lower, [self.pk])

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic():
            object_id = self.pk
            result = super().delete(*args, **kwargs)
            record_changes(self._meta.label_lower, [object_id])
        return result
