"""Alert rules, to be made and changed; alerts, with how telling went, to be read."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Max, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesRadioFilter

from billing.alerts.editing import set_slack_url, threshold_text
from billing.alerts.holders import kept_holder_id
from billing.alerts.rules import forget_rules
from billing.alerts.secrets import shown_url
from billing.models import Alert, AlertRule, Delivery, HolderType
from customers.admin.common import GatewayAdmin, LedgerAdmin
from customers.admin.display import badge, link_to, moment
from customers.admin.fields import PlainUsdField, SecretField
from customers.admin.paging import CappedAdminMixin
from customers.models import Customer, Tag, Team, User, VirtualKey
from customers.sealing import CannotUnseal
from customers.words import EMPTY, usd

_STATES = {
    Delivery.State.DELIVERED: "success",
    Delivery.State.FAILED: "danger",
    Delivery.State.DUE: "warning",
    Delivery.State.LEASED: "warning",
}
_HOLDER_MODELS: dict[str, type[models.Model]] = {
    HolderType.CUSTOMER: Customer,
    HolderType.KEY: VirtualKey,
    HolderType.TEAM: Team,
    HolderType.USER: User,
    HolderType.TAG: Tag,
}


class AlertRuleForm(forms.ModelForm):
    slack_url = SecretField(
        label="Also to this Slack channel",
        max_length=500,
        help_text="Address of an incoming webhook; it is kept sealed and never shown. Blank: as it is.",
    )
    forget_slack_url = forms.BooleanField(label="Forget that channel", required=False)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        try:
            cleaned["holder_id"] = kept_holder_id(
                cleaned.get("holder_type", ""), cleaned.get("holder_id", "")
            )
        except ValidationError as error:
            self.add_error("holder_id", error.message_dict["holder_id"][0])
        if cleaned.get("forget_slack_url"):
            self.instance.sealed_slack_url = ""
        elif cleaned.get("slack_url"):
            try:
                set_slack_url(self.instance, cleaned["slack_url"])
            except ValidationError as error:
                self.add_error("slack_url", error.message_dict["slack_url"][0])
        return cleaned


@admin.register(AlertRule)
class AlertRuleAdmin(GatewayAdmin):
    form = AlertRuleForm
    empty_list = "A rule says what to be told of, such as 80 % of a budget, and by which channels."
    list_display = ("name", "kind", "threshold_column", "whose", "receivers", "state", "last_told")
    list_filter = (("kind", ChoicesRadioFilter), ("source", ChoicesRadioFilter))
    search_fields = ("name__icontains", "holder_id__exact", "model__exact")
    search_help_text = "Part of the name, or a holder's id or a model exactly"
    ordering = ("pk",)
    lines_fields = ("emails",)
    fieldsets = (
        (None, {"fields": ("name", "kind", "threshold", "is_active")}),
        ("About whom", {"fields": ("holder_type", "holder_id", "model", "unit", "minimum_usd")}),
        ("Who is told", {"fields": ("to_webhooks", "to_slack", "to_email")}),
        ("Who else", {"fields": ("emails", "slack_url", "forget_slack_url", "endpoint")}),
    )
    help_texts = {
        "threshold": "Of a budget its share: 0.8 for 80 %. Of a day's spend USD, of a model's usage calls, "
        "tokens or USD a day, of a spike how many times the usual, of an upstream the share of failures. "
        "Soft budgets, projections, models without a price and reports have none.",
        "holder_type": "Empty: every holder of a budget; of a day's spend, the gateway's.",
        "holder_id": "The id of the customer, team, user or tag; the hash of a key; of a member team/user. "
        "Empty: each one.",
        "model": "The public name. A budget: only its limits of this model.",
        "unit": "What a model's usage is counted in.",
        "minimum_usd": "Of a spike: days with less spend are passed over.",
    }

    def formfield_for_dbfield(
        self, db_field: models.Field, request: HttpRequest, **kwargs: Any
    ) -> forms.Field | None:
        if db_field.name == "threshold":
            kwargs["form_class"] = PlainUsdField  # 0.8, not 0.800000000
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return (
            super()
            .get_queryset(request)
            .select_related("endpoint")
            .annotate(told_at=Max("alerts__raised_at"))
        )

    def save_model(self, request: HttpRequest, obj: AlertRule, form: Any, change: bool) -> None:
        if change:
            fields = {"slack_url": "sealed_slack_url", "forget_slack_url": "sealed_slack_url"}
            form.changed_data = sorted({fields.get(name, name) for name in form.changed_data})
        super().save_model(request, obj, form, change)
        forget_rules()

    @admin.display(description="threshold", ordering="threshold")
    def threshold_column(self, rule: AlertRule) -> str:
        return threshold_text(rule) or EMPTY

    @admin.display(description="whose")
    def whose(self, rule: AlertRule) -> str:
        who = f"{rule.get_holder_type_display()} {rule.holder_id}".strip() if rule.holder_type else ""
        return " · ".join(part for part in (who, rule.model) if part) or "everybody"

    @admin.display(description="who is told")
    def receivers(self, rule: AlertRule) -> str:
        told = [
            name
            for name, is_told in (
                ("webhooks", rule.to_webhooks), ("Slack", rule.to_slack), ("e-mail", rule.to_email),
            )
            if is_told
        ]  # fmt: skip
        own = [*rule.emails]
        if rule.sealed_slack_url:
            own.append(_slack_host(rule))
        if rule.endpoint:
            own.append(str(rule.endpoint))
        return ", ".join([*told, *own]) or "nobody: listed only"

    @admin.display(description="state", ordering="is_active")
    def state(self, rule: AlertRule) -> SafeString:
        return badge("active", "success") if rule.is_active else badge("off")

    @admin.display(description="last told, UTC", ordering="told_at")
    def last_told(self, rule: Any) -> str:
        return moment(rule.told_at)


def _slack_host(rule: AlertRule) -> str:
    try:
        return shown_url(rule.sealed_slack_url)
    except CannotUnseal:
        return "a Slack channel that cannot be read: enter it again"


@admin.register(Alert)
class AlertAdmin(CappedAdminMixin, LedgerAdmin):
    empty_list = "What alert rules told, and whether it arrived. Nothing was told yet."
    list_display = ("raised", "event_type", "who", "message", "arrived")
    list_display_links = ("raised",)
    list_filter = (("kind", ChoicesRadioFilter),)
    search_fields = ("holder_id__exact",)
    search_help_text = "Holder id, exactly"
    ordering = ("-raised_at", "-pk")
    sortable_by = ()
    change_form_outer_after_template = "admin/alert_deliveries.html"
    fieldsets = (
        (None, {"fields": ("message", "rule_name", "event_type", "raised")}),
        ("About", {"fields": ("who", "scope", "spent_usd", "limit_usd", "threshold", "begins")}),
    )
    readonly_fields = ("raised", "who", "spent_usd", "limit_usd", "begins")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Read the deliveries of a page's alerts at once."""
        changelist = super().get_changelist_instance(request)
        rows = list(changelist.result_list)
        states = _states([row.event_id for row in rows])
        for row in rows:
            row.delivery_states = states.get(row.event_id, [])
        changelist.result_list = rows
        return changelist

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        alert = self.get_object(request, object_id)
        table = _deliveries_table(alert) if alert is not None else None
        return super().change_view(
            request, object_id, form_url, {"deliveries": table, **(extra_context or {})}
        )

    @admin.display(description="told, UTC")
    def raised(self, alert: Alert) -> str:
        return moment(alert.raised_at)

    @admin.display(description="who")
    def who(self, alert: Alert) -> str:
        name = alert.holder_id.replace("\n", " · ")
        model = _HOLDER_MODELS.get(alert.holder_type)
        if model is None or alert.holder_id == "master":
            return (
                alert.holder_type
                if alert.holder_type == HolderType.GATEWAY
                else f"{alert.holder_type} {name}"
            )
        return link_to(model, alert.holder_id, f"{alert.holder_type.replace('_', ' ')} {name}")

    @admin.display(description="arrived")
    def arrived(self, alert: Any) -> str | SafeString:
        states = alert.delivery_states
        if not states:
            return EMPTY
        failed, done = states.count(Delivery.State.FAILED), states.count(Delivery.State.DELIVERED)
        if failed:
            return badge(f"{failed} of {len(states)} failed", "danger")
        if done < len(states):
            return badge(f"{len(states) - done} of {len(states)} waiting", "warning")
        return badge("all" if done > 1 else "yes", "success")

    @admin.display(description="spent")
    def spent_usd(self, alert: Alert) -> str:
        return usd(alert.spent)

    @admin.display(description="limit")
    def limit_usd(self, alert: Alert) -> str:
        return usd(alert.limit) if alert.limit else EMPTY

    @admin.display(description="period began, UTC")
    def begins(self, alert: Alert) -> str:
        return moment(alert.starts_at)


def _states(event_ids: list[Any]) -> dict[Any, list[str]]:
    found: dict[Any, list[str]] = {}
    rows = Delivery.objects.filter(event_id__in=[each for each in event_ids if each])
    for event_id, state in rows.values_list("event_id", "state"):
        found.setdefault(event_id, []).append(state)
    return found


def _deliveries_table(alert: Alert) -> dict[str, Any]:
    told = Delivery.objects.all() if alert.event_id else Delivery.objects.none()
    rows = told.filter(event=alert.event_id).select_related("endpoint").order_by("pk")
    return {
        "headers": ["by", "to", "state", "attempts", "last attempt, UTC", "answer"],
        "rows": [
            [
                row.get_channel_display(),
                row.target or (str(row.endpoint) if row.endpoint else EMPTY),
                badge(row.get_state_display(), _STATES[Delivery.State(row.state)]),
                str(row.attempts),
                moment(row.last_attempt_at),
                (row.last_error or row.last_answer)[:200] or EMPTY,
            ]
            for row in rows
        ],
    }
