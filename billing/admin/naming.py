"""How holders are named and linked: by type and id alone, since a row may be gone."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import CharField, Func, Model
from django.urls import reverse
from django.utils.html import format_html

from billing.models import HolderType
from customers.admin.display import link_to
from customers.models import Customer, GatewayLimits, Tag, Team, User, VirtualKey

MODELS: dict[str, type[Model]] = {
    HolderType.CUSTOMER: Customer,
    HolderType.KEY: VirtualKey,
    HolderType.TEAM: Team,
    HolderType.USER: User,
    HolderType.TAG: Tag,
    HolderType.TEAM_MEMBER: Team,  # a member's budget is shown on the team's page
    HolderType.GATEWAY: GatewayLimits,
}


class UuidText(Func):
    """A UUID as the ledger writes it, with dashes; SQLite stores its 32 hex digits."""

    output_field = CharField()
    template = "CAST(%(expressions)s AS text)"

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        sql, params = compiler.compile(self.source_expressions[0])
        parts = " || '-' || ".join(
            f"substr({sql}, {start}, {size})" for start, size in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
        )
        return parts, [*params] * 5


def key_names(holders: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return names by id of the keys among `holders` (type, id): nobody knows a key by its id."""
    ids = [holder_id for holder_type, holder_id in holders if holder_type == HolderType.KEY]
    return {str(key.pk): str(key) for key in VirtualKey.objects.filter(pk__in=ids)} if ids else {}


def holder_link(holder_type: str, holder_id: str, names: Mapping[str, str] | None = None) -> str:
    """Write “customer acme”, linked to the page that shows its budget.

    names: by id, of those that are not known by their id.
    """
    kind = HolderType(holder_type)
    if kind == HolderType.GATEWAY:
        url = reverse("admin:customers_gatewaylimits_changelist")
        return format_html('<a class="text-link" href="{}">the gateway</a>', url)
    pk, _, member = holder_id.partition("\n")
    name = f"{member} in {pk}" if member else (names or {}).get(holder_id, holder_id)
    return format_html("<span>{} {}</span>", kind.label, link_to(MODELS[kind], pk, name))
