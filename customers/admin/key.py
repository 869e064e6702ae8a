"""
Virtual keys, without their spend: see `billing/admin/holders.py`.

A secret is shown in the answer to the form that made it, and nowhere else: it is
never stored, logged, or carried over a redirect by a cookie or the session.
"""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.forms import Form, ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, BooleanRadioFilter, ChoicesRadioFilter
from unfold.decorators import action

from customers.admin.common import BlockingMixin, DeletedFilter, RetiringAdmin
from customers.admin.display import badge, blocked_badge, moment
from customers.admin.paging import CappedAdminMixin
from customers.allowed_routes import validate_routes
from customers.models import VirtualKey
from customers.services import create_key, delete_keys, rotate_key, set_keys_blocked
from customers.text import is_clean_id


class VirtualKeyForm(ModelForm):
    """Checks what the model's fields alone cannot: lists and objects of names."""

    def clean_allowed_routes(self) -> list[str]:
        routes = self.cleaned_data["allowed_routes"]
        try:
            validate_routes(routes)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        return routes

    def clean_model_aliases(self) -> dict[str, str]:
        aliases = self.cleaned_data["model_aliases"]
        names = [*aliases, *aliases.values()]
        if not all(isinstance(name, str) and is_clean_id(name) for name in names):
            raise ValidationError('Write names of models: {"fast": "gpt-4o-mini"}.')
        return aliases


class VirtualKeyAdmin(BlockingMixin, CappedAdminMixin, RetiringAdmin):
    form = VirtualKeyForm
    lines_fields = ("allowed_models", "tags", "allowed_routes")
    help_texts = {
        "allowed_routes": "Paths (/customer/info, /spend/*), llm_api_routes, management_routes, info_routes. "
        "None: what its type allows.",
    }
    empty_list = (
        "A virtual key is what a program calls the gateway with, in place of a provider's key. "
        "Add one for each program; its secret is shown once."
    )
    retire = staticmethod(delete_keys)
    retire_note = "It stops working within two seconds. Its logs and totals stay."
    set_blocked = staticmethod(set_keys_blocked)
    list_filter = (
        ("blocked", BooleanRadioFilter),
        ("payer_policy", ChoicesRadioFilter),
        ("team", AutocompleteSelectFilter),
        DeletedFilter,
    )
    list_select_related: tuple[str, ...] = ("team", "user", "customer")
    # Not the secret itself: a search is part of an address, and addresses are logged.
    search_fields = ("alias__icontains", "display_name__endswith", "customer__id__exact")
    search_help_text = "Part of the name, last characters of the key, or a customer's id"
    ordering = ("-created_at",)
    autocomplete_fields = ("team", "user", "customer", "budget", "customer_budget")
    readonly_fields = ("display_name", "created_at")
    actions_detail = ("rotate",)
    fieldsets = (
        (None, {"fields": ("alias", "display_name", "team", "user", "blocked", "expires_at")}),
        ("Who pays", {"fields": ("payer_policy", "customer", "budget", "customer_budget")}),
        ("What it may call", {"fields": ("allowed_models", "model_aliases", "key_type", "allowed_routes")}),
        ("Labels", {"fields": ("tags", "metadata")}),
    )
    add_fieldsets = (
        (None, {"fields": ("alias", "team", "user", "expires_at")}),
        *fieldsets[1:],
    )  # fmt: skip

    def save_model(self, request: HttpRequest, obj: VirtualKey, form: Form, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            # The secret travels on this object to `response_add`, and ends there.
            key, obj.secret = create_key(id=obj.pk, **form.cleaned_data)  # type: ignore[attr-defined]
            obj.display_name, obj._state.adding = key.display_name, False

    def response_add(
        self, request: HttpRequest, obj: VirtualKey, post_url_continue: Any = None
    ) -> HttpResponse:
        return self._secret_page(request, obj, obj.secret, title="Key created")  # type: ignore[attr-defined]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if kwargs.get("add"):  # whatever is made next, the secret comes first
            context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    @action(description="New secret", url_path="rotate", icon="autorenew", permissions=["change"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.get_object(request, object_id)
        if key is None or key.deleted_at:
            raise Http404
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        if request.method == "POST":
            secret = rotate_key(key=key)
            self.log_change(request, key, "Gave it a new secret.")
            return self._secret_page(request, key, secret, title="New secret")
        return TemplateResponse(
            request,
            "admin/key_rotate.html",
            {
                **self.admin_site.each_context(request),
                "title": "New secret",
                "opts": self.opts,
                "original": key,
            },
        )

    def _secret_page(self, request: HttpRequest, key: VirtualKey, secret: str, *, title: str) -> HttpResponse:
        """Show a secret, in the answer to the POST itself: the admin's answers are kept by no cache."""
        return TemplateResponse(
            request,
            "admin/key_secret.html",
            {
                **self.admin_site.each_context(request),
                "title": title,
                "opts": self.opts,
                "original": key,
                "secret": secret,
            },
        )

    @admin.display(description="name", ordering="alias")
    def name(self, key: VirtualKey) -> str:
        return key.alias or "(no name)"

    @admin.display(description="blocked")
    def is_blocked(self, key: VirtualKey) -> str:
        return blocked_badge(key.blocked)

    @admin.display(description="expires, UTC", ordering="expires_at")
    def expires(self, key: VirtualKey) -> str:
        if key.expires_at and key.expires_at <= timezone.now():
            return badge("expired", "warning")
        return moment(key.expires_at)

    @admin.display(description="pays", ordering="payer_policy")
    def payer(self, key: VirtualKey) -> str:
        return key.payer_policy
