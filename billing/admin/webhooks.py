"""Webhook endpoints, to be made, tested and rotated; deliveries and events, to be read and replayed."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import action

from billing.models import Channel, Delivery, DeliveryLane, Event, WebhookEndpoint
from billing.models.delivery import lane_of
from billing.models.event import from_wire_id
from billing.webhooks import deliveries
from billing.webhooks.endpoints import delete_endpoint, post_test_event, rotate_secret, update_endpoint
from billing.webhooks.events import forget_receivers
from billing.webhooks.wakeups import wake_deliverer
from customers.admin.common import GatewayAdmin, LedgerAdmin
from customers.admin.display import badge, link_to, moment
from customers.admin.paging import CappedAdminMixin
from customers.api.json import write_exact
from customers.models import Customer
from customers.words import EMPTY, count

_STATES = {
    Delivery.State.DELIVERED: "success",
    Delivery.State.FAILED: "danger",
    Delivery.State.DUE: "warning",
    Delivery.State.LEASED: "info",
}


class AskingMixin:
    """For actions of one row that ask before they do something."""

    admin_site: Any
    opts: Any

    def ask(self, request: HttpRequest, row: models.Model, **texts: str) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "opts": self.opts, "original": row, **texts}
        return TemplateResponse(request, "admin/webhook_confirm.html", context)

    def back_to(self, row: models.Model) -> HttpResponse:
        return HttpResponseRedirect(
            reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[row.pk])
        )


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(AskingMixin, GatewayAdmin):
    empty_list = (
        "An endpoint is told of every call that was paid for, and of budgets that were crossed. "
        "Add one here, or set WEBHOOK_URL."
    )
    list_display = ("label", "address", "events", "state_badge", "waiting", "last_success")
    list_display_links = ("label",)
    ordering = ("pk",)
    sortable_by = ()
    lines_fields = ("event_types", "customer_ids")
    help_texts = {
        "event_types": "Such as spend_tracked, budget_crossed. None: all.",
        "customer_ids": "Only events about these customers. None: about anybody.",
    }
    fieldsets = (
        (None, {"fields": ("name", "url", "is_active")}),
        ("What it is told", {"fields": ("event_types", "customer_ids", "max_concurrency")}),
    )
    actions_detail = ("send_test", "new_secret", "replay_failed")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return self.fieldsets
        how = ("How it goes", {"fields": ("state", "waiting", "last_success", "secret_state", "log")})
        return (*self.fieldsets, how)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = ("state", "waiting", "last_success", "secret_state", "log")
        return (*super().get_readonly_fields(request, obj), *fields)

    # -- making and changing -----------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: Any, form: Form, change: bool) -> None:
        if change:
            if obj.is_active and obj.disabled_reason:
                update_endpoint(obj, is_active=True)
            super().save_model(request, obj, form, change)
        else:
            # The secret travels on this object to `response_add`, and ends there.
            obj.secret = obj.make_secret()
            super().save_model(request, obj, form, change)
        forget_receivers()

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        return self._secret_page(request, obj, obj.secret, title="Endpoint created")

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if kwargs.get("add"):  # whatever is made next, the secret comes first
            context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def delete_model(self, request: HttpRequest, obj: WebhookEndpoint) -> None:
        delete_endpoint(obj)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet) -> None:
        for endpoint in queryset:
            delete_endpoint(endpoint)

    # -- actions -----------------------------------------------------------------------

    @action(description="Send a test", url_path="test", icon="send", permissions=["change"])
    def send_test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = self._changeable(request, object_id)
        if request.method != "POST":
            return self.ask(
                request, endpoint, title="Send a test", question=f"Post a test event to {endpoint}?",
                explanation="It says that a budget was crossed, of nobody, and test: true. Posted at once.",
            )  # fmt: skip
        outcome = post_test_event(endpoint).outcome
        if outcome.ok:
            messages.success(request, f"The test arrived: the receiver answered {outcome.status}.")
        else:
            why = outcome.error or f"the receiver answered {outcome.status}."
            messages.error(request, f"The test did not arrive: {why}")
        return self.back_to(endpoint)

    @action(description="New secret", url_path="secret", icon="autorenew", permissions=["change"])
    def new_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = self._changeable(request, object_id)
        if request.method != "POST":
            return self.ask(
                request, endpoint, title="Make a new secret", question=f"Give {endpoint} a new secret?",
                explanation="For 24 hours posts carry both signatures, the present one's and the new one's.",
            )  # fmt: skip
        secret = rotate_secret(endpoint, at=timezone.now())
        self.log_change(request, endpoint, "Gave it a new secret.")
        return self._secret_page(request, endpoint, secret, title="New secret")

    @action(description="Replay what failed", url_path="replay", icon="replay", permissions=["change"])
    def replay_failed(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = self._changeable(request, object_id)
        if request.method != "POST":
            return self.ask(
                request, endpoint, title="Replay", question=f"Deliver again what failed at {endpoint}?",
                explanation="All that was given up and is still kept is due at once, under the same ids.",
            )  # fmt: skip
        replayed = deliveries.replay(deliveries.failed(endpoint_id=endpoint.pk), at=timezone.now())
        wake_deliverer()
        more = " There is more: do it again." if replayed >= deliveries.MOST_REPLAYED else ""
        messages.success(request, f"{count(replayed)} deliveries are due again.{more}")
        return self.back_to(endpoint)

    def _changeable(self, request: HttpRequest, object_id: str) -> WebhookEndpoint:
        endpoint = self.get_object(request, object_id)
        if endpoint is None:
            raise Http404
        if not self.has_change_permission(request, endpoint):
            raise PermissionDenied
        return endpoint

    def _secret_page(
        self, request: HttpRequest, endpoint: WebhookEndpoint, secret: str, *, title: str
    ) -> HttpResponse:
        """Show a secret, in the answer to the POST itself: the admin's answers are kept by no cache."""
        context = {"title": title, "opts": self.opts, "original": endpoint, "secret": secret}
        return TemplateResponse(
            request, "admin/webhook_secret.html", {**self.admin_site.each_context(request), **context}
        )

    # -- columns -----------------------------------------------------------------------

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Read how it goes with a page's lanes at once."""
        changelist = super().get_changelist_instance(request)
        rows = list(changelist.result_list)
        lanes = DeliveryLane.objects.in_bulk([lane_of(Channel.WEBHOOK, row.pk) for row in rows])
        for row in rows:
            row.lane = lanes.get(lane_of(Channel.WEBHOOK, row.pk))
        changelist.result_list = rows
        return changelist

    @admin.display(description="endpoint")
    def label(self, endpoint: WebhookEndpoint) -> str:
        return str(endpoint)

    @admin.display(description="told of")
    def events(self, endpoint: WebhookEndpoint) -> str:
        told = ", ".join(endpoint.event_types) or "everything"
        return f"{told}, of {len(endpoint.customer_ids)} customers" if endpoint.customer_ids else told

    @admin.display(description="URL")
    def address(self, endpoint: WebhookEndpoint) -> str:
        return format_html('<span class="break-all">{}</span>', endpoint.url)

    @admin.display(description="state")
    def state_badge(self, endpoint: Any) -> SafeString:
        if not endpoint.is_active:
            return badge("off")
        lane = _lane(endpoint)
        is_failing = lane is not None and lane.failing_since is not None
        return badge("failing", "danger") if is_failing else badge("active", "success")

    @admin.display(description="state")
    def state(self, endpoint: Any) -> SafeString | str:
        """Return the badge with what there is to say about it."""
        label, lane = self.state_badge(endpoint), _lane(endpoint)
        if not endpoint.is_active:
            return format_html("{} {}", label, endpoint.disabled_reason)
        if lane is not None and lane.failing_since is not None:
            return format_html("{} since {} UTC", label, moment(lane.failing_since))
        return label

    @admin.display(description="waiting")
    def waiting(self, endpoint: WebhookEndpoint) -> str:
        waiting = deliveries.count_waiting(lane_of(Channel.WEBHOOK, endpoint.pk))
        return f"{count(waiting)} or more" if waiting >= deliveries.MOST_COUNTED else count(waiting)

    @admin.display(description="last success, UTC")
    def last_success(self, endpoint: WebhookEndpoint) -> str:
        lane = _lane(endpoint)
        return moment(lane.last_success_at) if lane is not None else EMPTY

    @admin.display(description="secret")
    def secret_state(self, endpoint: WebhookEndpoint) -> str:
        until = endpoint.previous_secret_until
        if until is not None and until > timezone.now():
            return format_html("kept sealed; the one before it signs too until {} UTC", moment(until))
        return "kept sealed, never shown again"

    @admin.display(description="log")
    def log(self, endpoint: WebhookEndpoint) -> str:
        url = reverse("admin:billing_delivery_changelist")
        return format_html(
            '<a class="text-link" href="{}?lane={}">Deliveries</a>',
            url,
            lane_of(Channel.WEBHOOK, endpoint.pk),
        )


def _lane(endpoint: Any) -> DeliveryLane | None:
    if not hasattr(endpoint, "lane"):
        endpoint.lane = DeliveryLane.objects.filter(pk=lane_of(Channel.WEBHOOK, endpoint.pk)).first()
    return endpoint.lane


@admin.register(Delivery)
class DeliveryAdmin(AskingMixin, CappedAdminMixin, LedgerAdmin):
    empty_list = "Each event for each receiver, and how telling it went. Nothing was to be told yet."
    list_display = ("since_text", "event_type", "about", "to", "state_badge", "attempts", "answer")
    list_display_links = ("since_text",)
    list_filter = (("state", ChoicesRadioFilter), ("channel", ChoicesRadioFilter))
    list_select_related = ("event", "endpoint")
    search_fields = ("event__id",)
    search_help_text = "Id of the event, evt_…"
    ordering = ("-pk",)
    sortable_by = ()
    change_form_outer_after_template = "admin/delivery_request.html"
    actions_detail = ("replay",)
    fieldsets = (
        (None, {"fields": ("event_id_text", "event_type", "about", "to", "state_badge", "attempts")}),
        ("Last attempt", {"fields": ("tried", "last_status", "last_answer", "last_error", "next_text")}),
    )
    readonly_fields = (
        "event_id_text", "event_type", "about", "to", "state_badge", "tried", "next_text", "since_text",
    )  # fmt: skip

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        return lookup == "lane" or super().lookup_allowed(lookup, value, request)

    def get_search_results(self, request: HttpRequest, queryset: models.QuerySet, search_term: str) -> Any:
        if not search_term:
            return queryset, False
        event_id = from_wire_id(search_term.strip())
        return (queryset.none() if event_id is None else queryset.filter(event_id=event_id)), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        delivery = self.get_object(request, object_id)
        context = {} if delivery is None else {"failures": _failures(delivery), "posted": _posted(delivery)}
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    @action(description="Deliver again", url_path="replay", icon="replay", permissions=["replay"])
    def replay(self, request: HttpRequest, object_id: str) -> HttpResponse:
        delivery = self.get_object(request, object_id)
        if delivery is None:
            raise Http404
        if not self.has_replay_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return self.ask(
                request, delivery, title="Deliver again", question="Deliver this event again?",
                explanation="It is due at once, under the same id: a receiver that has it already can tell.",
            )  # fmt: skip
        if deliveries.replay(Delivery.objects.filter(pk=delivery.pk), at=timezone.now()):
            wake_deliverer()
            messages.success(request, "It is due again.")
        else:
            messages.warning(request, "It is still on its way.")
        return self.back_to(delivery)

    def has_replay_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("billing.change_webhookendpoint")

    @admin.display(description="since, UTC")
    def since_text(self, delivery: Delivery) -> str:
        return moment(delivery.since)

    @admin.display(description="event")
    def event_type(self, delivery: Delivery) -> str:
        return delivery.event.type

    @admin.display(description="event id")
    def event_id_text(self, delivery: Delivery) -> str:
        return delivery.event.wire_id

    @admin.display(description="about")
    def about(self, delivery: Delivery) -> str:
        customer_id = delivery.event.customer_id
        return link_to(Customer, customer_id) if customer_id else delivery.event.group

    @admin.display(description="to")
    def to(self, delivery: Delivery) -> str:
        if delivery.target:
            return delivery.target
        if delivery.endpoint_id is None:
            return delivery.get_channel_display()
        try:
            return link_to(WebhookEndpoint, delivery.endpoint_id, str(delivery.endpoint))
        except WebhookEndpoint.DoesNotExist:
            return "a deleted endpoint"

    @admin.display(description="state")
    def state_badge(self, delivery: Delivery) -> SafeString:
        return badge(delivery.get_state_display(), _STATES[Delivery.State(delivery.state)])

    @admin.display(description="answer")
    def answer(self, delivery: Delivery) -> str:
        said = (delivery.last_error or delivery.last_answer)[:80]
        return " ".join(str(part) for part in (delivery.last_status, said) if part) or EMPTY

    @admin.display(description="tried, UTC")
    def tried(self, delivery: Delivery) -> str:
        return moment(delivery.last_attempt_at)

    @admin.display(description="next attempt, UTC")
    def next_text(self, delivery: Delivery) -> str:
        return moment(delivery.next_attempt_at)


def _failures(delivery: Delivery) -> dict[str, Any]:
    return {
        "headers": ["at, UTC", "status", "error", "took, ms"],
        "rows": [
            [
                str(each.get("at", ""))[:19].replace("T", " "),
                str(each.get("status") or EMPTY),
                each.get("error") or EMPTY,
                str(each.get("ms", EMPTY)),
            ]
            for each in delivery.failures
        ],
    }


def _posted(delivery: Delivery) -> str:
    headers = {"content-type": "application/json", "webhook-id": delivery.event.wire_id}
    if delivery.last_attempt_at is not None:
        headers["webhook-timestamp"] = str(int(delivery.last_attempt_at.timestamp()))
    body = ",\n".join(
        f"  {write_exact(name)}: {write_exact(value)}" for name, value in delivery.event.body.items()
    )
    return "\n".join([*(f"{name}: {value}" for name, value in headers.items()), "", "{", body, "}"])


@admin.register(Event)
class EventAdmin(CappedAdminMixin, LedgerAdmin):
    empty_list = "What others are told of, in order. It is written while there is somebody to be told."
    list_display = ("sequence", "at", "type", "about")
    list_display_links = ("sequence",)
    search_fields = ("customer_id__exact",)
    search_help_text = "Customer id, exactly"
    ordering = ("-sequence",)
    sortable_by = ()
    fieldsets = ((None, {"fields": ("sequence", "at", "type", "group", "about", "text")}),)
    readonly_fields = ("at", "about")

    @admin.display(description="at, UTC")
    def at(self, event: Event) -> str:
        return moment(event.created_at)

    @admin.display(description="about")
    def about(self, event: Event) -> str:
        return link_to(Customer, event.customer_id) if event.customer_id else event.group
