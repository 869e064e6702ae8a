"""Teams and who is on them, without their spend: see `billing/admin/holders.py`."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import BooleanRadioFilter

from customers.admin.common import BlockingMixin, DeletedFilter, RetiringAdmin
from customers.admin.display import blocked_badge
from customers.models import Team, TeamMembership, VirtualKey
from customers.services import delete_teams, set_teams_blocked


class MembershipForm(forms.ModelForm):
    def clean(self) -> dict[str, Any]:
        """Refuse a second row for a user: Django leaves a constraint on the team to the database."""
        cleaned = super().clean() or self.cleaned_data
        others = TeamMembership.objects.filter(team=self.instance.team_id).exclude(pk=self.instance.pk)
        if others.filter(user=cleaned.get("user")).exists():
            raise ValidationError("This user is on the team already.")
        return cleaned


class MembershipInline(TabularInline):
    model = TeamMembership
    form = MembershipForm
    verbose_name = "member"
    extra = 0
    fields = ("user", "role", "budget")
    autocomplete_fields = ("user", "budget")


class TeamAdmin(BlockingMixin, RetiringAdmin):
    empty_list = (
        "A team is a group of people and keys whose spend is counted together. "
        "Make one, then add its members."
    )
    retire = staticmethod(delete_teams)
    retire_note = "Its keys stop working, and its members leave. Its logs, its totals and its id stay."
    set_blocked = staticmethod(set_teams_blocked)
    list_filter = (("blocked", BooleanRadioFilter), DeletedFilter)
    search_fields = ("id__startswith", "alias__icontains")
    search_help_text = "Beginning of the id, or part of the name"
    ordering = ("alias", "id")
    autocomplete_fields = ("budget", "member_budget")
    inlines = (MembershipInline,)
    fieldsets = (
        (None, {"fields": ("id", "alias", "blocked", "budget", "member_budget")}),
        ("What its keys may call", {"fields": ("allowed_models",)}),
        ("Labels", {"fields": ("tags", "metadata")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).annotate(
            member_count=_count(TeamMembership.objects.all()),
            key_count=_count(VirtualKey.objects.listed()),
        )  # fmt: skip

    @admin.display(description="name", ordering="alias")
    def name(self, team: Team) -> str:
        return str(team)

    @admin.display(description="members", ordering="member_count")
    def members(self, team: Team) -> int:
        return team.member_count  # type: ignore[attr-defined]

    @admin.display(description="keys", ordering="key_count")
    def keys(self, team: Team) -> int:
        return team.key_count  # type: ignore[attr-defined]

    @admin.display(description="blocked")
    def is_blocked(self, team: Team) -> str:
        return blocked_badge(team.blocked)


def _count(rows: QuerySet) -> Coalesce:
    """Return how many of `rows` belong to the team, as an expression."""
    counted = rows.filter(team=OuterRef("pk")).order_by().values("team").annotate(count=Count("pk"))
    return Coalesce(Subquery(counted.values("count")), 0)
