"""The audit log: who changed what, when, from where. Entries in words: `changes.py`."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesRadioFilter, DropdownFilter, RangeDateFilter, TextFilter

from customers.admin.changes import action_badge, differences_table, kinds, object_link, summary, who
from customers.admin.common import LedgerAdmin
from customers.admin.display import moment
from customers.admin.paging import CappedAdminMixin
from customers.models import AuditLog
from customers.text import is_clean_text
from customers.words import EMPTY


class KindFilter(DropdownFilter):
    title, parameter_name = "what was changed", "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(kinds().items())

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        kind = self.value()
        return queryset.filter(kind=kind) if kind else queryset


class ViaFilter(DropdownFilter):
    title, parameter_name = "way", "via"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(via, via) for via in ("admin", "api", "command", "config", "system")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        via = self.value()
        return queryset.filter(via=via) if via else queryset


class WhoFilter(TextFilter):
    """Finds what somebody changed, by name, user id, or on whose behalf."""

    title, parameter_name = "who, exactly", "who"

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        text = (self.value() or "").strip()
        if not text:
            return queryset
        if not is_clean_text(text):
            return queryset.none()
        return queryset.filter(Q(actor=text) | Q(user_id=text) | Q(changed_by=text))


@admin.register(AuditLog)
class AuditLogAdmin(CappedAdminMixin, LedgerAdmin):
    empty_list = (
        "Every change of a customer, key, team, user, tag, budget, price, upstream or deployment is noted "
        "here with whoever made it: in this admin, through the API, by a command or from config.yaml."
    )
    plural = "changes"  # below the list; the sidebar says “audit log”
    list_display = ("time", "actor_text", "way", "action_label", "what", "change_text")
    list_display_links = ("time",)
    list_filter = (KindFilter, ("action", ChoicesRadioFilter), ViaFilter, WhoFilter, ("at", RangeDateFilter))
    search_fields = ("object_id",)
    search_help_text = "Id of what was changed, exactly"
    ordering = ("-at", "-id")
    sortable_by = ()
    fieldsets = (
        (
            None,
            {"fields": ("when", "actor_text", "way", "from_address", "action_label", "what", "object_id")},
        ),
    )
    readonly_fields = ("when", "actor_text", "way", "from_address", "action_label", "what")
    change_form_outer_after_template = "admin/audit_differences.html"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        if not search_term:
            return queryset, False
        # The index leads with the kind: naming all of them lets it be used.
        found = queryset.filter(kind__in=list(kinds()), object_id=search_term.strip())
        return found if is_clean_text(search_term) else queryset.none(), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        entry = self.get_object(request, object_id)
        context = {} if entry is None else {"differences": differences_table(entry)}
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    @admin.display(description="time, UTC")
    def time(self, entry: AuditLog) -> str:
        return moment(entry.at)

    @admin.display(description="time, UTC")
    def when(self, entry: AuditLog) -> str:
        return moment(entry.at)

    @admin.display(description="who")
    def actor_text(self, entry: AuditLog) -> str:
        return format_html('<span class="break-all">{}</span>', who(entry))

    @admin.display(description="by way of")
    def way(self, entry: AuditLog) -> str:
        return entry.via

    @admin.display(description="from")
    def from_address(self, entry: AuditLog) -> str:
        return entry.address or EMPTY

    @admin.display(description="did")
    def action_label(self, entry: AuditLog) -> str:
        return action_badge(entry)

    @admin.display(description="what")
    def what(self, entry: AuditLog) -> str:
        return format_html('<span class="break-all">{}</span>', object_link(entry))

    @admin.display(description="change")
    def change_text(self, entry: AuditLog) -> str:
        return format_html('<span class="spend-change">{}</span>', summary(entry))
