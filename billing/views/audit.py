"""GET /audit: who changed what (LiteLLM's shape of it, and ours below)."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from billing.views import examples
from customers.api import Action, ManagementView
from customers.api.errors import BadRequest, NotFound
from customers.api.paging import page_of
from customers.api.schema import described
from customers.models import AuditLog, VirtualKey
from customers.models.change import audited_models
from customers.serializers.audit import AuditQuery

# What callers may say for a kind, besides its label and its model's name.
_WORDS = {"key": "virtualkey", "model": "deployment", "end_user": "customer", "team_member": "teammembership"}
_TABLES = {
    "customers.virtualkey": "LiteLLM_VerificationToken",
    "customers.team": "LiteLLM_TeamTable",
    "customers.teammembership": "LiteLLM_TeamMembership",
    "customers.user": "LiteLLM_UserTable",
    "customers.customer": "LiteLLM_EndUserTable",
    "customers.budget": "LiteLLM_BudgetTable",
    "customers.tag": "LiteLLM_TagTable",
    "proxy.deployment": "LiteLLM_ProxyModelTable",
}


class AuditLogs(ManagementView):
    """List changes, the newest first."""

    actions = {"GET": Action.MANAGE_GATEWAY}

    @described(
        query=AuditQuery,
        answer={
            "audit_logs": [examples.AUDIT_ENTRY],
            "total": 1,
            "page": 1,
            "page_size": 50,
            "total_pages": 1,
        },
    )
    def get(self, request: Request) -> Response:
        query = self.query(AuditQuery)
        page = page_of(_entries(query), number=query["page"], size=query["page_size"])
        return Response(
            {
                "audit_logs": [audit_object(entry) for entry in page.rows],
                "total": page.total,
                "page": page.number,
                "page_size": page.size,
                "total_pages": page.pages,
            }
        )


class AuditLogEntry(ManagementView):
    """Tell one change."""

    actions = {"GET": Action.MANAGE_GATEWAY}

    @described(answer=examples.AUDIT_ENTRY)
    def get(self, request: Request, entry_id: int) -> Response:
        entry = AuditLog.objects.filter(pk=entry_id).first() if entry_id < 2**63 else None
        if entry is None:
            raise NotFound(f"no entry {entry_id} in the audit log", param="id")
        return Response(audit_object(entry))


def _entries(query: dict[str, Any]) -> QuerySet[AuditLog]:
    entries = AuditLog.objects.order_by("-id")
    kinds = [_kind(query["object_type"])] if "object_type" in query else list(_kinds())
    if "object_id" in query:
        # The index leads with the kind: naming all of them lets it be used.
        entries = entries.filter(kind__in=kinds, object_id=_object_id(query["object_id"]))
    elif "object_type" in query:
        entries = entries.filter(kind=kinds[0])
    if "action" in query:
        entries = entries.filter(action=query["action"])
    if "changed_by" in query:
        who = query["changed_by"]
        entries = entries.filter(Q(changed_by=who) | Q(user_id=who) | Q(actor=who))
    if "start_date" in query:
        entries = entries.filter(at__gte=_midnight(query["start_date"]))
    if query.get("end_date", date.max) < date.max:
        entries = entries.filter(at__lt=_midnight(query["end_date"] + timedelta(days=1)))
    return entries


def _kinds() -> dict[str, str]:
    """Return what is recorded: label → the model's name in lower case."""
    return {model._meta.label_lower: str(model._meta.model_name) for model in audited_models()}


def _kind(said: str) -> str:
    by_table = {table.lower(): kind for kind, table in _TABLES.items()}
    name = _WORDS.get(said.lower(), said.lower())
    by_name = {model: kind for kind, model in _kinds().items()}
    kind = by_table.get(name) or by_name.get(name) or (name if name in _kinds() else None)
    if kind is None:
        raise BadRequest(
            f"There is no object_type {said}. Write one of {', '.join(sorted([*by_name, *_WORDS]))}.",
            param="object_type",
        )
    return kind


def _object_id(said: str) -> str:
    """Return an object's id as entries have it: other routes know a key by its hash."""
    if len(said) != 64:
        return said
    key = VirtualKey.objects.filter(token_hash=said).values_list("pk", flat=True).first()
    return said if key is None else str(key)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)


def audit_object(entry: AuditLog) -> dict[str, Any]:
    """Return an entry. Makes no query."""
    return {
        "id": str(entry.pk),
        "updated_at": entry.at,
        "changed_by": entry.changed_by or entry.user_id or entry.actor or None,
        "changed_by_api_key": None,  # keys are told by name, as `actor`
        "action": entry.action,
        "table_name": _TABLES.get(entry.kind, entry.kind),
        "object_id": entry.object_id or None,
        "before_value": entry.before or None,
        "updated_values": entry.after or None,
        "object_type": entry.kind,
        "object_name": entry.name or None,
        "via": entry.via,
        "user_id": entry.user_id or None,
        "actor": entry.actor or None,
        "on_behalf_of": entry.changed_by or None,
        "address": entry.address or None,
    }


urlpatterns = [
    path("audit", AuditLogs.as_view()),
    path("audit/<int:entry_id>", AuditLogEntry.as_view()),
]
