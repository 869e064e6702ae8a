"""
Entries of the audit log in words: what changed, from what to what, who did it.

They are listed by `audit.py`, and on each row's page “History” by `common.py`. What a
secret was is in no entry.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.urls import NoReverseMatch
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator, capfirst

from customers.admin.display import badge, link_to, moment
from customers.models import AuditLog
from customers.models.change import audited_models
from customers.money import UsdField
from customers.words import EMPTY, usd

_ACTION_KINDS = {"created": "success", "updated": "info", "deleted": "danger"}
_SHOWN_IN_LIST = 3  # changed fields
_NOT_IN_LIST = ("id", "name", "created_at", "created_by", "date_joined")  # told by the other columns
_LONGEST_IN_LIST = 60  # characters of a value
_HIDDEN = "(hidden)"
HISTORY = 200  # entries on a row's own page


class Difference(NamedTuple):
    """One field that an entry tells of, written for people."""

    name: str  # the column's
    field: str
    before: str
    after: str


@lru_cache(maxsize=1)
def kinds() -> dict[str, str]:
    """Return what is recorded: a model's label → what it is called."""
    found = {model._meta.label_lower: capfirst(str(model._meta.verbose_name)) for model in audited_models()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def differences(entry: AuditLog) -> list[Difference]:
    """Return the fields that an entry tells of; of a new or deleted row those that hold anything."""
    model = _model(entry.kind)
    # In the order of the model's fields: the database keeps none.
    columns = [field.attname for field in model._meta.concrete_fields] if model is not None else []
    names = dict.fromkeys([*columns, *sorted({*entry.before, *entry.after})])
    found = []
    for name in names:
        field = _field(model, name)
        before, after = (_written(field, said.get(name)) for said in (entry.before, entry.after))
        if before != EMPTY or after != EMPTY:
            if before == after == _HIDDEN:
                before, after = _HIDDEN, "(changed; not shown)"
            found.append(Difference(name, _label(field, name), before, after))
    return found


def summary(entry: AuditLog) -> str:
    """Return an entry's changes in a line: “max budget, USD: $5.00 → $6.00”."""
    if not entry.object_id:
        fields = ", ".join(entry.after.get("fields", []))
        return f"{entry.after.get('rows', 0):,} rows{': ' if fields else ''}{fields}"
    if entry.action == AuditLog.Action.DELETED:
        return EMPTY
    said = []
    found = [each for each in differences(entry) if each.name not in _NOT_IN_LIST]
    for _, field, before, after in found[:_SHOWN_IN_LIST]:
        is_new = entry.action == AuditLog.Action.CREATED
        said.append(f"{field}: {'' if is_new else f'{_short(before)} → '}{_short(after)}")
    if len(found) > _SHOWN_IN_LIST:
        said.append(f"and {len(found) - _SHOWN_IN_LIST} more")
    return "; ".join(said) or EMPTY


def who(entry: AuditLog) -> str:
    """Return who made a change: the name, and on whose behalf."""
    name = entry.actor or entry.user_id or "(not logged in)"
    return f"{name}, for {entry.changed_by}" if entry.changed_by else name


def object_link(entry: AuditLog) -> SafeString | str:
    """Write “customer acme”, linked to its page; of what was deleted its name alone."""
    kind = kinds().get(entry.kind, entry.kind)
    if not entry.object_id:
        return f"{kind}, several"
    text = entry.name or entry.object_id
    model = _model(entry.kind)
    if model is None or entry.action == AuditLog.Action.DELETED:
        return f"{kind} {text}"
    try:
        return format_html("{} {}", kind, link_to(model, entry.object_id, text))
    except NoReverseMatch:  # it has no page: a membership
        return f"{kind} {text}"


def _model(kind: str) -> type[models.Model] | None:
    try:
        return apps.get_model(kind)
    except (LookupError, ValueError):
        return None


def _field(model: type[models.Model] | None, name: str) -> models.Field | None:
    """Return the field behind a column: `budget_id` is `budget`."""
    if model is None:
        return None
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, models.Field) else None


def _label(field: models.Field | None, name: str) -> str:
    return str(field.verbose_name) if field is not None else name.replace("_", " ")


def _written(field: models.Field | None, value: Any) -> str:
    """Write a value as the entry has it: JSON."""
    if value in (None, "", [], {}):
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(field, UsdField):
        try:
            return usd(Decimal(str(value)))
        except InvalidOperation:
            return str(value)
    if isinstance(field, models.DateTimeField):
        return _instant(str(value))
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if field is not None and field.choices:
        return str(dict(field.flatchoices).get(value, value))
    return str(value)


def _instant(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return text


def _short(text: str) -> str:
    return Truncator(text).chars(_LONGEST_IN_LIST)


def action_badge(entry: AuditLog) -> str:
    return badge(entry.get_action_display(), _ACTION_KINDS.get(entry.action, ""))


# -- as tables of the theme's component --------------------------------------------------


def differences_table(entry: AuditLog) -> dict[str, Any]:
    """Return each field that an entry tells of."""
    found = differences(entry)
    if entry.action == AuditLog.Action.UPDATED and entry.object_id:
        return {"headers": ["field", "before", "after"], "rows": [_cells(*each[1:]) for each in found]}
    is_gone = entry.action == AuditLog.Action.DELETED
    rows = [_cells(each.field, each.before if is_gone else each.after) for each in found]
    return {"headers": ["field", "value"], "rows": rows}


def _cells(*texts: str) -> list[SafeString]:
    return [format_html('<span class="spend-change">{}</span>', text) for text in texts]


def history_of(row: models.Model) -> dict[str, Any]:
    """Return the changes of one row, the newest first."""
    entries = AuditLog.objects.filter(kind=row._meta.label_lower, object_id=str(row.pk)).order_by("-id")
    return history_table(entries[:HISTORY])


def history_table(entries: Iterable[AuditLog]) -> dict[str, Any]:
    return {
        "headers": ["time, UTC", "who", "by way of", "did", "change"],
        "rows": [
            [
                moment(entry.at),
                who(entry),
                entry.via,
                action_badge(entry),
                format_html('<span class="spend-change">{}</span>', summary(entry)),
            ]
            for entry in entries
        ],
    }
