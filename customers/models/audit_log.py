"""The audit log: who changed what, when, from where, before and after."""

import re
from collections.abc import Sequence
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from customers.actors import current_actor

_USER_OF_ADDRESS = re.compile("://[^/?#@]*@")
_UNTOLD = ("updated_at", "updated_by", "last_login")  # they follow from the entry itself


class AuditLog(models.Model):
    """One change of one row that staff manage. Written in the transaction that changes it; never changed.

    `before` and `after` hold the fields that differ: of a new row `after` holds all, of
    a deleted one `before`. Secrets are hidden. A bulk change of very many rows is one
    entry without `object_id`.
    """

    class Action(models.TextChoices):
        CREATED = "created", "created"
        UPDATED = "updated", "updated"
        DELETED = "deleted", "deleted"

    at = models.DateTimeField(auto_now_add=True)
    action = models.CharField(max_length=10, choices=Action)
    kind = models.CharField(max_length=40)  # the model's label: customers.virtualkey
    object_id = models.CharField(max_length=255, blank=True)
    name = models.CharField(max_length=255, blank=True)  # what people knew it by then
    via = models.CharField(max_length=10)
    user_id = models.CharField(max_length=255, blank=True)
    actor = models.CharField(max_length=255, blank=True)
    changed_by = models.CharField(max_length=255, blank=True)
    address = models.CharField(max_length=64, blank=True)
    before = models.JSONField(default=dict, encoder=DjangoJSONEncoder)
    after = models.JSONField(default=dict, encoder=DjangoJSONEncoder)

    class Meta:
        verbose_name = "change"
        verbose_name_plural = "audit log"
        indexes = [
            models.Index(fields=["-at", "-id"], name="audit_log_newest"),  # the admin's list
            models.Index(fields=["kind", "object_id", "-id"], name="audit_log_object"),  # one row's history
            # Who changed something: three columns may say it, and PostgreSQL reads all three indexes.
            models.Index(fields=["actor", "-id"], name="audit_log_actor"),
            models.Index(fields=["user_id", "-id"], name="audit_log_user"),
            models.Index(fields=["changed_by", "-id"], name="audit_log_changed_by"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.object_id} {self.action}"


Values = dict[str, Any]


def values_of(
    model: type[models.Model], queryset: models.QuerySet, *, at_most: int | None = None
) -> dict[Any, Values]:
    """Return what the audit log may tell of rows, by primary key. One query."""
    names = [
        field.attname
        for field in model._meta.concrete_fields
        if field.name not in _UNTOLD and not field.generated
    ]
    rows = queryset.order_by().values("pk", *names)[:at_most]
    return {values.pop("pk"): values for values in rows}


def record_audit(model: type[models.Model], before: dict[Any, Values], after: dict[Any, Values]) -> None:
    """Write an entry for each row that differs, in one statement."""
    entries = []
    for pk in dict.fromkeys([*before, *after]):
        old, new = before.get(pk), after.get(pk)
        entry = _entry(model, pk, old, new)
        if entry is not None:
            entries.append(entry)
    AuditLog.objects.bulk_create(entries)


def record_bulk_audit(model: type[models.Model], action: str, count: int, fields: Sequence[str]) -> None:
    """Write the one entry of a change of more rows than are listed one by one."""
    told = {"rows": count, "fields": sorted(fields)}
    AuditLog.objects.create(
        action=action, kind=model._meta.label_lower, after=told, **_who(current_actor()._asdict())
    )


def _entry(model: type[models.Model], pk: Any, old: Values | None, new: Values | None) -> AuditLog | None:
    hidden = set(getattr(model, "audit_hidden", ()))
    if old is None:
        action, told_old, told_new = AuditLog.Action.CREATED, {}, new or {}
    elif new is None:
        action, told_old, told_new = AuditLog.Action.DELETED, old, {}
    else:
        changed = [name for name in new if new[name] != old.get(name)]
        if not changed:
            return None
        action = AuditLog.Action.UPDATED
        told_old = {name: old.get(name) for name in changed}
        told_new = {name: new[name] for name in changed}
    known = new or old or {}
    return AuditLog(
        action=action,
        kind=model._meta.label_lower,
        object_id=str(pk)[:255],
        name=str(known.get("alias") or known.get("name") or known.get("model_name") or "")[:255],
        before=_told(told_old, hidden),
        after=_told(told_new, hidden),
        **_who(current_actor()._asdict()),
    )


def _told(values: Values, hidden: set[str]) -> Values:
    return {
        name: "(hidden)" if name in hidden and value else _without_password(value)
        for name, value in values.items()
    }


def _without_password(value: Any) -> Any:
    """Return an address without its `user:password@`."""
    return _USER_OF_ADDRESS.sub("://(hidden)@", value) if isinstance(value, str) else value


def _who(actor: dict[str, Any]) -> dict[str, Any]:
    actor["actor"] = actor.pop("name")
    return {name: value[:64] if name == "address" else value[:255] for name, value in actor.items()}
