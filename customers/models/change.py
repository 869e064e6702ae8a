"""
The change log: how a worker learns, within a second, what staff edited.

Every row the hot path keeps in memory is a `TrackedModel`: saving or deleting it
appends a `Change` in the same transaction. Revisions are drawn from one counter
row, whose lock is held until commit, so they become visible in order: a reader
who has seen revision 7 will never be shown a 6 that committed late. The counter comes
before the row itself: of two who each write several rows, one waits for the other, and
never in a circle.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from django.apps import apps
from django.db import models, transaction
from django.db.models import F

from customers.models.audit_log import AuditLog, record_audit, record_bulk_audit, values_of

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


def draw_revision() -> int:
    """Return the next revision. In a transaction: locks the counter until it ends."""
    if not ChangeCounter.objects.filter(pk=1).update(value=F("value") + 1):
        ChangeCounter.objects.get_or_create(pk=1)
        ChangeCounter.objects.filter(pk=1).update(value=F("value") + 1)
    return ChangeCounter.objects.values_list("value", flat=True).get(pk=1)


def record_changes(kind: str, object_ids: Iterable[Any], *, revision: int | None = None) -> None:
    """Append changes of `kind`. revision: what was drawn before the rows were written; None: the next."""
    ids = [str(object_id) for object_id in object_ids]
    if not ids:
        return
    if revision is None:
        with transaction.atomic():
            return record_changes(kind, ids, revision=draw_revision())
    if len(ids) > MAX_LISTED:
        ids = [""]
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
            before = self._listed()
            revision = draw_revision() if before else None
            count = super().update(**kwargs)
            record_changes(self._kind, before, revision=revision)
            if len(before) > MAX_LISTED:
                record_bulk_audit(self.model, AuditLog.Action.UPDATED, count, list(kwargs))
            elif before:
                written = self.model._base_manager.using(self.db).filter(pk__in=list(before))
                record_audit(self.model, before, values_of(self.model, written))
        return count

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        with transaction.atomic(using=self.db):
            before = self._listed()
            revision = draw_revision() if before else None
            result = super().delete()
            record_changes(self._kind, before, revision=revision)
            if len(before) > MAX_LISTED:
                record_bulk_audit(self.model, AuditLog.Action.DELETED, result[0], [])
            else:
                record_audit(self.model, before, {})
        return result

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        objs = list(objs)
        with transaction.atomic(using=self.db):
            revision = draw_revision() if objs else None
            created = super().bulk_create(objs, *args, **kwargs)
            record_changes(
                self._kind, ["" if obj.pk is None else obj.pk for obj in created], revision=revision
            )
            if len(created) > MAX_LISTED:
                record_bulk_audit(self.model, AuditLog.Action.CREATED, len(created), [])
            elif created:
                written = self.model._base_manager.using(self.db).filter(pk__in=[obj.pk for obj in created])
                record_audit(self.model, {}, values_of(self.model, written))
        return created

    def _listed(self) -> dict[Any, dict[str, Any]]:
        """Return the rows as they are, by primary key; one too many where there are too many."""
        rows = self.model._base_manager.using(self.db).filter(pk__in=self.order_by().values("pk"))
        return values_of(self.model, rows, at_most=MAX_LISTED + 1)


def audited_models() -> list[type[models.Model]]:
    """Return the models whose changes are in the audit log: the tracked ones, and those that say so."""
    return [
        model
        for model in apps.get_models()
        if issubclass(model, TrackedModel) or getattr(model, "is_audited", False)
    ]


class TrackedModel(models.Model):
    """A row that workers keep a copy of: each write of it appends a `Change`, and tells the audit log."""

    # Fields whose values the audit log does not tell.
    audit_hidden: ClassVar[tuple[str, ...]] = ()

    objects = TrackedQuerySet.as_manager()

    class Meta:
        abstract = True
        base_manager_name = "objects"  # `budget.customers.add(…)` updates through the base manager

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            revision = draw_revision()
            before = {} if self._state.adding else self._told()
            super().save(*args, **kwargs)
            record_changes(self._meta.label_lower, [self.pk], revision=revision)
            record_audit(type(self), before, self._told())

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic():
            revision = draw_revision()
            object_id, before = self.pk, self._told()
            result = super().delete(*args, **kwargs)
            record_changes(self._meta.label_lower, [object_id], revision=revision)
            record_audit(type(self), before, {})
        return result

    def _told(self) -> dict[Any, dict[str, Any]]:
        return values_of(type(self), type(self)._base_manager.filter(pk=self.pk))
