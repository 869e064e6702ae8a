"""Upstreams: provider accounts. A stored credential goes in here and never comes out."""

import os
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from customers.admin.common import GatewayAdmin
from customers.admin.display import badge
from customers.admin.fields import SecretField
from proxy.credentials import ENVIRONMENT_PREFIX
from proxy.models import Upstream


class UpstreamForm(forms.ModelForm):
    credential = SecretField(
        label="New credential",
        help_text="The provider's key, stored encrypted; or os.environ/NAME to read it from the environment. "
        "Left blank, what is set stays.",
    )
    forget_credential = forms.BooleanField(
        required=False, help_text="For a server that asks for none, such as a model on your own machine."
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        written, forget = cleaned.get("credential"), cleaned.get("forget_credential")
        if written and forget:
            self.add_error("forget_credential", "Either write a new credential or forget the old one.")
        if forget:
            self.changed_data.append("credential")
        elif not written:
            cleaned["credential"] = self.instance.credential
        return cleaned


@admin.register(Upstream)
class UpstreamAdmin(GatewayAdmin):
    form = UpstreamForm
    empty_list = (
        "An upstream is a provider account: where calls go, and with which credential. "
        "“manage.py bootstrap” makes those of OpenAI, Anthropic and the built-in demo."
    )
    list_display = (
        "name", "provider", "openai_base_url", "anthropic_base_url", "credential_state", "deployment_count",
        "is_active",
    )  # fmt: skip
    search_fields = ("name__icontains", "provider__icontains")
    search_help_text = "Name or provider"
    ordering = ("name",)
    readonly_fields = ("credential_state",)
    fieldsets = (
        (None, {"fields": ("name", "provider", "is_active")}),
        ("Where it is", {"fields": ("openai_base_url", "anthropic_base_url", "region")}),
        ("Credential", {"fields": ("credential_state", "credential", "forget_credential")}),
        ("Details", {"fields": ("headers", "connect_timeout_s", "read_timeout_s")}),
    )
    add_fieldsets = (
        *fieldsets[:2],
        ("Credential", {"fields": ("credential",)}),
        fieldsets[3],
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).annotate(deployments_made=Count("deployments"))

    @admin.display(description="credential")
    def credential_state(self, upstream: Upstream) -> str:
        """Say whether there is one and where it is kept; never what it is."""
        if not upstream.credential:
            return badge("not set")
        if not upstream.credential.startswith(ENVIRONMENT_PREFIX):
            return badge("set", "success")
        name = upstream.credential.removeprefix(ENVIRONMENT_PREFIX)
        if os.environ.get(name):
            return badge(f"from environment {name}", "success")
        return badge(f"from environment {name}, which is empty", "warning")

    @admin.display(description="deployments", ordering="deployments_made")
    def deployment_count(self, upstream: Any) -> int:
        return upstream.deployments_made
