"""Which rows the API's lists return: one class for each noun."""

from typing import Any

import django_filters
from django.db.models import Q, QuerySet
from django.utils import timezone

from customers.keys import named_hash
from customers.models import Customer, Team, TeamMembership, User, VirtualKey


def _exact(field_name: str) -> django_filters.CharFilter:
    return django_filters.CharFilter(field_name=field_name, lookup_expr="exact", strip=False)


class CustomerFilter(django_filters.FilterSet):
    """Customers."""

    search = django_filters.CharFilter(method="matching", strip=False)

    class Meta:
        model = Customer
        fields = ()

    def matching(self, queryset: QuerySet, name: str, value: str) -> QuerySet:
        """Return customers with `value` in their id or their name, in any case."""
        return queryset.matching(value)  # type: ignore[attr-defined]


class KeyFilter(django_filters.FilterSet):
    """Keys. Those that were deleted are only shown where `status` asks for them.

    `include_team_keys` and `include_created_by_keys` widen `user_id`.
    """

    user_id = django_filters.CharFilter(method="of_user", strip=False)
    team_id = _exact("team_id")
    organization_id = _exact("extras__organization_id")
    project_id = _exact("extras__project_id")
    key_hash = django_filters.CharFilter(method="of_hash", strip=False)
    key_alias = _exact("alias")
    search = django_filters.CharFilter(method="called", strip=False)
    status = django_filters.CharFilter(method="in_state")

    class Meta:
        model = VirtualKey
        fields = ()

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        if self.form.cleaned_data["status"] != "deleted":
            queryset = queryset.filter(deleted_at=None)
        return super().filter_queryset(queryset)

    def of_user(self, queryset: QuerySet, name: str, value: str) -> QuerySet:
        wanted = Q(user_id=value)
        if self.data.get("include_created_by_keys"):
            wanted |= Q(created_by=value)
        if self.data.get("include_team_keys"):
            teams = TeamMembership.objects.filter(user_id=value).values("team_id")
            wanted |= Q(team_id__in=teams)
        return queryset.filter(wanted)

    def of_hash(self, queryset: QuerySet, name: str, value: str) -> QuerySet:
        return queryset.filter(token_hash=named_hash(value) or "")

    def called(self, queryset: QuerySet, name: str, value: str) -> QuerySet:
        return queryset.filter(Q(alias__icontains=value) | Q(display_name__endswith=value))

    def in_state(self, queryset: QuerySet, name: str, value: str) -> QuerySet:
        now = timezone.now()
        states: dict[str, Any] = {
            "deleted": Q(deleted_at__isnull=False),
            "revoked": Q(blocked=True),
            "expired": Q(blocked=False, expires_at__lte=now),
            "active": Q(blocked=False) & (Q(expires_at=None) | Q(expires_at__gt=now)),
        }
        return queryset.filter(states[value])


class TeamFilter(django_filters.FilterSet):
    """Teams."""

    user_id = _exact("memberships__user")
    organization_id = _exact("extras__organization_id")
    team_id = _exact("pk")
    team_alias = django_filters.CharFilter("alias", lookup_expr="icontains", strip=False)

    class Meta:
        model = Team
        fields = ()


class UserFilter(django_filters.FilterSet):
    """Users. `user_ids` are separated by commas; `search` is a part of the id, the e-mail or the name."""

    role = _exact("role")
    user_ids = django_filters.CharFilter(method="of_ids", strip=False)
    user_email = django_filters.CharFilter("email", lookup_expr="icontains", strip=False)
    team = _exact("team_memberships__team")
    search = django_filters.CharFilter(method="called", strip=False)

    class Meta:
        model = User
        fields = ()

    def of_ids(self, users: QuerySet, name: str, value: str) -> QuerySet:
        return users.filter(pk__in=[user_id.strip() for user_id in value.split(",")])

    def called(self, users: QuerySet, name: str, value: str) -> QuerySet:
        return users.filter(Q(pk__icontains=value) | Q(email__icontains=value) | Q(alias__icontains=value))
