"""The Logs page: every call, newest first; and one call with the arithmetic of its cost."""

import uuid
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import AutocompleteSelectFilter, BooleanRadioFilter
from unfold.views import ChangeList

from billing.admin.call_details import details_of
from billing.admin.calls import (
    cost_text,
    customer_text,
    first_call_url,
    key_text,
    latency_text,
    status_badge,
    tokens_text,
    usage_badge,
)
from billing.admin.keyset import KeysetChangeList, NewCalls
from billing.admin.log_filters import (
    PERIODS,
    AmountFilter,
    ClientToolFilter,
    CostFilter,
    CustomerFilter,
    LatencyFilter,
    ModelFilter,
    PeriodFilter,
    SessionFilter,
    StartedFilter,
    StatusFilter,
    TagFilter,
    UsageFilter,
    UserFilter,
)
from billing.admin.log_search import HELP, search_conditions
from billing.books.sealed import kept_since
from billing.models import SpendLog
from customers.admin.common import LedgerAdmin
from customers.admin.display import badge, link_to, moment
from customers.models import Team, User
from customers.words import EMPTY, usd


@admin.register(SpendLog)
class SpendLogAdmin(LedgerAdmin):
    empty_list = (
        "Every call through the gateway is a row here, within a second of its end: who called, what it used, "
        "what it cost."
    )
    empty_list_template = "admin/first_call.html"
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
        SessionFilter,
        StatusFilter,
        UsageFilter,
        PeriodFilter,
        ("started_at", StartedFilter),
        CostFilter,
        LatencyFilter,
        ("streamed", BooleanRadioFilter),
    )
    list_before_template = "admin/logs_before.html"
    sortable_by = ()
    show_full_result_count = False
    search_fields = ("id",)
    search_help_text = HELP
    change_form_outer_before_template = "admin/refusal.html"
    change_form_outer_after_template = "admin/log_details.html"

    class Media:
        css = {"all": ["spend/logs.css"]}
        js = ("spend/logs.js",)

    def get_urls(self) -> list[URLPattern]:
        return [
            path("live/", self.admin_site.admin_view(self.live_view), name="billing_spendlog_live"),
            path(
                "<uuid:call_id>/drawer/",
                self.admin_site.admin_view(self.drawer_view),
                name="billing_spendlog_drawer",
            ),
            *super().get_urls(),
        ]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        is_live = request.resolver_match and request.resolver_match.url_name == "billing_spendlog_live"
        return NewCalls if is_live else KeysetChangeList

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        cl = getattr(response, "context_data", {}).get("cl")
        if cl is not None:
            errors = [
                message
                for spec in cl.filter_specs
                if isinstance(spec, AmountFilter)
                for message in spec.errors
            ]
            live = cl.live and {**cl.live, "url": reverse("admin:billing_spendlog_live")}
            response.context_data |= {
                "periods": _period_links(cl),
                "chosen": _chosen_filters(cl),
                "filter_errors": errors,
                "live": None if errors else live,
                "kept_since": kept_since(),
            }
            cl.first_call_url = first_call_url()
        return response

    def live_view(self, request: HttpRequest) -> JsonResponse:
        """Answer live mode: which calls stand above the end of a page now.

        `{"booked": 7, "calls": ["0199…", …], "is_more": false}`; calls null: nothing was booked since.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            answer = self.get_changelist_instance(request).answer
        except IncorrectLookupParameters:
            return JsonResponse({"error": "No such filter."}, status=400)
        return JsonResponse(answer, headers={"Cache-Control": "no-store"})

    def drawer_view(self, request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
        """Answer one call in short, as a piece of a page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        log = self.get_object(request, str(call_id))
        if log is None:
            raise Http404("There is no such call.")
        context = {
            "original": log,
            "url": reverse("admin:billing_spendlog_change", args=[log.pk]),
            "status": status_badge(log),
            "usage": "" if log.usage_state == SpendLog.UsageSource.NONE else usage_badge(log),
            "facts": self._facts(log),
            **details_of(log),
        }
        return TemplateResponse(request, "admin/log_drawer.html", context)

    def search_conditions(self, text: str) -> list[Q]:
        """Return the conditions of a search; a call is found by any of them."""
        return search_conditions(text)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        return queryset, False  # the list asks once for each of `search_conditions`

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
        context = {} if log is None else details_of(log)
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

    def _facts(self, log: SpendLog) -> list[tuple[str, str]]:
        """Return (what, value) of what the drawer says of a call."""
        facts = [
            ("Customer", self.customer_id_link(log)),
            ("Key", self.key_link(log)),
            ("Team", self.team_link(log) if log.team_id else ""),
            ("User", self.user_link(log) if log.user_id else ""),
            ("Model", log.model),
            ("Upstream", " / ".join(filter(None, (log.upstream, log.upstream_model)))),
            ("Tokens in / out", self.tokens(log)),
            ("Cost", self.cost_usd(log)),
            ("Charge", self.charge_usd(log) if log.charge != log.cost else ""),
            ("Client", log.client_tool),
            ("Tags", self.tag_labels(log) if log.tags else ""),
            ("Session", log.session_id),
            ("Response id", log.response_id),
            ("Client call id", log.client_call_id),
            ("Call id", str(log.pk)),
        ]
        return [(what, value) for what, value in facts if value]

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


def _period_links(cl: KeysetChangeList) -> list[dict[str, Any]]:
    """Return a link for each period; every other filter stays."""
    chosen = cl.get_filters_params()
    dates = [name for name in chosen if name.startswith("started_at")]
    choices = [("", "Any time"), *((period.name, period.label.capitalize()) for period in PERIODS)]
    return [
        {
            "label": label,
            "url": cl.get_query_string({"period": name} if name else {}, remove=["period", "look", *dates]),
            "is_chosen": not dates and chosen.get("period", [""])[-1] == name,
        }
        for name, label in choices
    ]


def _chosen_filters(cl: KeysetChangeList) -> list[dict[str, str]]:
    """Return what the list is filtered by, each with the address without it."""
    params = cl.get_filters_params()
    chosen = []
    for spec in cl.filter_specs:
        values = {name: params[name][-1] for name in spec.expected_parameters() if name in params}
        if values:
            title = str(spec.title).partition(",")[0]
            text = _value_of(spec, values)
            chosen.append({"text": f"{title}: {text}", "url": cl.get_query_string(remove=[*values, "look"])})
    if cl.query:
        chosen.append({"text": f"search: {cl.query}", "url": cl.get_query_string(remove=["q", "look"])})
    return chosen


def _value_of(spec: Any, values: dict[str, str]) -> str:
    """Write what a filter asks for; a range has two ends, of which one may be open."""
    if not isinstance(spec, AmountFilter | StartedFilter):
        return ", ".join(values.values())
    least, most = (values.get(str(name)) for name in spec.expected_parameters())
    if least and most:
        return f"{least} to {most}"
    return f"from {least}" if least else f"up to {most}"
