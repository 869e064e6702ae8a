"""The Logs page: every call, newest first; and one call with the arithmetic of its cost."""

import uuid
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from unfold.contrib.filters.admin import (
    AutocompleteSelectFilter,
    BooleanRadioFilter,
    ChoicesDropdownFilter,
    DropdownFilter,
    RangeDateFilter,
    TextFilter,
)
from unfold.utils import parse_date_str
from unfold.views import ChangeList

from billing.admin.calls import (
    cost_text,
    customer_text,
    key_text,
    latency_text,
    status_badge,
    tokens_text,
    usage_badge,
)
from billing.admin.explanation import explain
from billing.admin.keyset import KeysetChangeList
from billing.admin.refusal import explain_refusal
from billing.models import SpendLog
from customers.admin.common import LedgerAdmin
from customers.admin.display import badge, link_to, moment
from customers.models import Team, User
from customers.text import is_clean_id
from customers.words import EMPTY, usd


class ExactTextFilter(TextFilter):
    """Finds the rows with exactly this text. Never lists the texts there are: that would read the table."""

    column = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> tuple:
        return ()

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        text = (self.value() or "").strip()
        if not text:
            return queryset
        return self.find(queryset, text) if is_clean_id(text) else queryset.none()

    def find(self, queryset: QuerySet, text: str) -> QuerySet:
        return queryset.filter(**{self.column: text})


class CustomerFilter(ExactTextFilter):
    title, parameter_name, column = "customer id, exactly", "customer", "customer_id"


class UserFilter(ExactTextFilter):
    title, parameter_name, column = "user id, exactly", "user", "user_id"


class ModelFilter(ExactTextFilter):
    title, parameter_name, column = "model, exactly", "model", "model"


class ClientToolFilter(ExactTextFilter):
    title, parameter_name, column = "client tool, exactly", "client_tool", "client_tool"


class TagFilter(ExactTextFilter):
    title, parameter_name = "tag, exactly", "tag"

    def find(self, queryset: QuerySet, text: str) -> QuerySet:
        return queryset.with_tag(text)  # type: ignore[attr-defined]


class UsageFilter(DropdownFilter):
    """Where the figures come from; `unpriced` is a state of its own."""

    title, parameter_name = "source of usage", "usage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unpriced", "unpriced"), *((value, value) for value in SpendLog.UsageSource.values)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        state = self.value()
        if state == "unpriced":
            return queryset.filter(cost=None)
        return queryset.filter(usage_source=state, cost__isnull=False) if state else queryset


class StartedFilter(RangeDateFilter):
    """Whole days in UTC, both included, read by the primary key.

    Links from budget periods give instants instead, the end excluded: a period is not
    made of days.
    """

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        start, end = self._instant("_from"), self._instant("_to", timedelta(days=1))
        return queryset.started_between(start, end)  # type: ignore[attr-defined]

    def _instant(self, suffix: str, after_day: timedelta = timedelta()) -> datetime | None:
        text = str(self.used_parameters.get(f"{self.parameter_name}{suffix}", ""))
        day = parse_date_str(text)
        if day is not None:
            return datetime.combine(day, time.min, tzinfo=UTC) + after_day
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            return None
        return instant if instant.tzinfo else None


@admin.register(SpendLog)
class SpendLogAdmin(LedgerAdmin):
    empty_list = (
        "Every call through the gateway is a row here, within a second of its end: who called, what it used, "
        "what it cost. The overview shows the first call to try."
    )
    list_display = (
        "time", "customer_id_link", "key_link", "model", "status_label", "tokens", "cost_usd", "usage_label",
        "latency", "client_tool",
    )  # fmt: skip
    list_select_related = ("key",)
    list_filter = (
        CustomerFilter,
        ("key", AutocompleteSelectFilter),
        ("team", AutocompleteSelectFilter),
        UserFilter,
        ModelFilter,
        TagFilter,
        ClientToolFilter,
        ("status", ChoicesDropdownFilter),
        UsageFilter,
        ("started_at", StartedFilter),
        ("streamed", BooleanRadioFilter),
    )
    list_before_template = "admin/logs_look_back.html"
    sortable_by = ()
    show_full_result_count = False
    search_fields = ("id",)
    search_help_text = "Call id (x-litellm-call-id)"
    change_form_outer_before_template = "admin/refusal.html"
    change_form_outer_after_template = "admin/log_details.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return KeysetChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(pk=uuid.UUID(search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> SpendLog | None:
        try:
            uuid.UUID(object_id)
        except ValueError:
            return None
        logs = SpendLog.objects.select_related("key", "team", "user", "price")
        return logs.filter(pk=object_id).first()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        log = self.get_object(request, object_id)
        context = (
            {}
            if log is None
            else {
                "explanation": explain(log),
                "refusal": explain_refusal(log),
                "attempts": _attempts_table(log),
            }
        )
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    # -- one call: what is known, in groups ------------------------------------------

    def get_fieldsets(self, request: HttpRequest, obj: SpendLog | None = None) -> list:
        groups = [
            ("Who", ["customer_id_link", "key_link", "team_link", "user_link", "session_id", "tag_labels",
                     "client_tool", "user_agent", "client_call_id", "metadata"]),
            ("What", ["model", "dialect", "streamed", "provider", "upstream", "upstream_model",
                      "deployment_id", "service_tier", "response_id", "id"]),
            ("How it went", ["status_label", "http_status", "error_type", "error_message", "started", "ended",
                             "latency", "first_token_ms", "client_left"]),
            ("What it cost", ["cost_usd", "charge_usd", "usage_label", "tokens"]),
            ("Bodies", ["request_body", "response_body"]),
        ]  # fmt: skip
        known = [(title, [name for name in names if _is_known(obj, name)]) for title, names in groups]
        return [(title, {"fields": names}) for title, names in known if names]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return tuple(name for _, options in self.get_fieldsets(request, obj) for name in options["fields"])

    # -- columns and fields ------------------------------------------------------------

    @admin.display(description="time, UTC")
    def time(self, log: SpendLog) -> str:
        return moment(log.started_at)

    @admin.display(description="started, UTC")
    def started(self, log: SpendLog) -> str:
        return moment(log.started_at)

    @admin.display(description="ended, UTC")
    def ended(self, log: SpendLog) -> str:
        return moment(log.ended_at)

    @admin.display(description="customer")
    def customer_id_link(self, log: SpendLog) -> str:
        return customer_text(log)

    @admin.display(description="key")
    def key_link(self, log: SpendLog) -> str:
        return key_text(log)

    @admin.display(description="team")
    def team_link(self, log: SpendLog) -> str:
        return link_to(Team, log.team_id, str(log.team or log.team_id)) if log.team_id else EMPTY

    @admin.display(description="user")
    def user_link(self, log: SpendLog) -> str:
        return link_to(User, log.user_id, str(log.user or log.user_id)) if log.user_id else EMPTY

    @admin.display(description="tags")
    def tag_labels(self, log: SpendLog) -> str:
        return format_html("".join(["{} "] * len(log.tags)), *(badge(str(tag)) for tag in log.tags))

    @admin.display(description="status")
    def status_label(self, log: SpendLog) -> str:
        return status_badge(log)

    @admin.display(description="tokens in / out")
    def tokens(self, log: SpendLog) -> str:
        return tokens_text(log)

    @admin.display(description="cost, USD")
    def cost_usd(self, log: SpendLog) -> str:
        return cost_text(log)

    @admin.display(description="charge, USD")
    def charge_usd(self, log: SpendLog) -> str:
        return "unpriced" if log.charge is None else usd(log.charge)

    @admin.display(description="usage")
    def usage_label(self, log: SpendLog) -> str:
        return usage_badge(log)

    @admin.display(description="latency")
    def latency(self, log: SpendLog) -> str:
        return latency_text(log)


_COLUMN_OF_FIELD = {"team_link": "team_id", "user_link": "user_id", "tag_labels": "tags"}


def _is_known(log: SpendLog | None, name: str) -> bool:
    """Tell whether a field has something to show."""
    return getattr(log, _COLUMN_OF_FIELD.get(name, name), True) not in (None, "", [], {})


def _attempts_table(log: SpendLog) -> dict[str, Any] | None:
    """Return the attempts, or None where there were none. They are the gateway's own JSON."""
    rows = [
        [
            number,
            attempt.get("upstream") or EMPTY,
            attempt.get("deployment_id") or EMPTY,
            attempt.get("status") or EMPTY,
            attempt.get("error") or EMPTY,
        ]
        for number, attempt in enumerate(log.attempts, start=1)
        if isinstance(attempt, dict)
    ]
    return (
        {"headers": ["attempt", "upstream", "deployment", "HTTP status", "error"], "rows": rows}
        if rows
        else None
    )
