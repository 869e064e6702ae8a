"""How the admin writes things: times, badges, links. Everything is escaped."""

from datetime import UTC, datetime
from typing import Any

from django.contrib.admin.utils import quote
from django.db.models import Model
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from customers.words import EMPTY


def moment(at: datetime | None) -> str:
    """Write an instant in UTC, to the second."""
    if at is None:
        return EMPTY
    at = at.astimezone(UTC)
    return format_html(
        '<time datetime="{}" class="whitespace-nowrap">{}</time>',
        at.isoformat(),
        at.strftime("%Y-%m-%d %H:%M:%S"),
    )


def badge(text: str, kind: str = "") -> SafeString:
    """Return a small label. kind: success, info, warning, danger, or plain."""
    # The theme's template escapes the text; our class keeps its capitals, for a tag is data.
    context = {"text": text, "type": kind, "class": "spend-badge"}
    return mark_safe(render_to_string("unfold/helpers/label.html", context))  # noqa: S308


def blocked_badge(blocked: bool) -> str:
    return badge("blocked", "danger") if blocked else EMPTY


def link_to(model: type[Model], pk: Any, text: str | None = None) -> str:
    """Link to a row's page by its id alone: makes no query, and the row may be gone."""
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[quote(str(pk))])
    return format_html('<a class="text-link break-all" href="{}">{}</a>', url, text or str(pk))
