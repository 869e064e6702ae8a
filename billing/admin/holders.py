"""
Customers, keys, teams, users and tags, with what each has spent, ever and of its budget.

The pages are declared in `customers/admin/`, which knows nothing of money; here
they gain columns from `SpendTotal` and the holder's latest calls. A customer's
spend is its charge (what it pays), everyone else's is the cost (what the provider
bills). The totals are joined by subqueries, which the database evaluates for the
rows of the page only.
"""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import F, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from billing.admin.budgeted import LOG_FILTERS, BudgetedMixin
from billing.admin.calls import calls_table
from billing.admin.naming import UuidText
from billing.budgets.bars import Holder
from billing.models import HolderType, SpendLog, SpendTotal
from billing.models.spend_total import team_member_id
from customers.admin.customer import CustomerAdmin
from customers.admin.display import link_to, moment
from customers.admin.key import VirtualKeyAdmin
from customers.admin.paging import CappedChangeList
from customers.admin.tag import TagAdmin
from customers.admin.team import TeamAdmin
from customers.admin.user import UserAdmin
from customers.models import Customer, GatewayLimits, Tag, Team, User, VirtualKey
from customers.money import UsdField
from customers.words import EMPTY, count, usd

RECENT_CALLS = 20


class SpendMixin(BudgetedMixin):
    """The columns, the totals, the budget and the latest calls of one type of holder."""

    amount = "cost"
    holder_id: Any = OuterRef("pk")
    logs_column = ""  # the column of `SpendLog` that an index leads with; empty: no latest calls on the page
    change_form_outer_before_template = "admin/holder_totals.html"
    change_form_outer_after_template = "admin/holder_calls.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        totals = SpendTotal.objects.filter(holder_type=self.holder_type, holder_id=self.holder_id)
        return (
            super()  # type: ignore[misc]
            .get_queryset(request)
            .annotate(
                total_spend=Coalesce(
                    Subquery(totals.values(self.amount)), Value(0, UsdField()), output_field=UsdField()
                ),
                total_calls=Coalesce(Subquery(totals.values("calls")), 0),
                total_last_call_at=Subquery(totals.values("last_call_at")),
            )
        )

    @admin.display(description="spend, USD", ordering="total_spend")
    def spend(self, holder: Any) -> str:
        return usd(holder.total_spend)

    @admin.display(description="calls", ordering="total_calls")
    def calls(self, holder: Any) -> str:
        return count(holder.total_calls)

    @admin.display(description="last seen, UTC", ordering=F("total_last_call_at").asc(nulls_first=True))
    def last_seen(self, holder: Any) -> str:
        return moment(holder.total_last_call_at)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        holder = self.get_object(request, unquote(object_id))  # type: ignore[attr-defined]
        spent = {} if holder is None else self._spent_context(request, holder)
        return super().change_view(request, object_id, form_url, {**spent, **(extra_context or {})})  # type: ignore[misc]

    def _spent_context(self, request: HttpRequest, holder: Any) -> dict[str, Any]:
        holder_id = str(holder.pk)
        total = SpendTotal.objects.filter(holder_type=self.holder_type, holder_id=holder_id).first()
        context = {"total_cards": _cards(total, self.amount), **self.budget_context(request, holder)}
        if request.user.has_perm("billing.view_spendlog"):
            address = reverse("admin:billing_spendlog_changelist")
            if self.holder_type == HolderType.CUSTOMER:
                context["usage_url"] = f"{reverse('usage:customer')}?{urlencode({'customer': holder_id})}"
            context["logs_url"] = f"{address}?{urlencode({LOG_FILTERS[self.holder_type]: holder_id})}"
            if self.logs_column:
                logs = SpendLog.objects.filter(**{self.logs_column: holder.pk}).select_related("key")
                context["recent_calls"] = calls_table(logs.order_by("-pk")[:RECENT_CALLS])
        return context


def _cards(total: SpendTotal | None, amount: str) -> list[dict[str, str]]:
    """Return each figure on a holder's page."""
    if total is None:
        return []
    cards = [
        ("Spend, all time", usd(getattr(total, amount))),
        ("Calls", count(total.calls)),
        ("Failed or refused", count(total.failed_calls)),
        ("Prompt tokens", count(total.prompt_tokens)),
        ("Completion tokens", count(total.completion_tokens)),
        ("Last seen, UTC", moment(total.last_call_at)),
    ]
    if total.unpriced_calls:
        cards.insert(2, ("Unpriced calls, not in the spend", count(total.unpriced_calls)))
    return [{"label": label, "text": text} for label, text in cards]


def _ordered_by(part: Any) -> tuple[str, bool]:
    """Return (name, is it descending) of one part of an ordering, text or expression."""
    if isinstance(part, str):
        return part.lstrip("-"), part.startswith("-")
    return part.expression.name, part.descending


class CustomerChangeList(CappedChangeList):
    """Sorts by spend what is sorted by it: the totals.

    Optimization: sorting customers by a subquery looks up the total of each, which is
    a second and more for 100,000. Those who never called come last, in either order.
    """

    _columns = {"total_spend": "charge", "total_calls": "calls", "total_last_call_at": "last_call_at"}

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        name, is_descending = _ordered_by(self.get_ordering(request, self.queryset)[0])
        if name in self._columns:
            self.result_list = self._page_by_total(f"{'-' if is_descending else ''}{self._columns[name]}")

    def _page_by_total(self, order: str) -> list[Customer]:
        size = self.list_per_page
        start = (self.page_num - 1) * size
        customers = self.queryset.order_by()
        totals = SpendTotal.objects.filter(holder_type=HolderType.CUSTOMER)
        sorted_ids = totals.filter(holder_id__in=customers.values("pk")).order_by(order, "-holder_id")
        ids = list(sorted_ids.values_list("holder_id", flat=True)[start : start + size])
        rows = customers.in_bulk(ids)
        page = [rows[pk] for pk in ids if pk in rows]
        if len(ids) < size:
            never_called = customers.exclude(pk__in=totals.values("holder_id")).order_by("-pk")
            skipped = 0 if ids else start - sorted_ids.count()
            page += never_called[skipped : skipped + size - len(ids)]
        return page


@admin.register(Customer)
class CustomerSpendAdmin(SpendMixin, CustomerAdmin):
    changelist = CustomerChangeList
    holder_type = HolderType.CUSTOMER
    amount = "charge"
    logs_column = "customer_id"
    list_display = (
        "customer_id", "alias", "spend", "budget_now", "calls", "last_seen", "is_blocked", "created",
    )  # fmt: skip
    list_select_related = ("budget",)

    @admin.display(description="spend, USD", ordering="total_spend")
    def spend_and_why(self, customer: Any) -> str:
        """Write the spend, and lead to what it is made of."""
        url = f"{reverse('usage:customer')}?{urlencode({'customer': customer.pk})}"
        return format_html(
            '<a class="text-link" href="{}" title="Usage of {}">{}</a>',
            url,
            customer,
            usd(customer.total_spend),
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        columns = super().get_list_display(request)
        if not request.user.has_perm("billing.view_spendlog"):
            return columns
        return tuple("spend_and_why" if name == "spend" else name for name in columns)

    def listed_holders(self, rows: list[Customer]) -> list[Holder]:
        """A customer without a budget has the gateway's default."""
        limits = GatewayLimits.objects.select_related("customer_budget").first()
        default = limits.customer_budget if limits else None
        return [
            Holder(self.holder_type, row.pk, str(row), row.budget or default, row.budget is None)
            for row in rows
        ]


@admin.register(VirtualKey)
class VirtualKeySpendAdmin(SpendMixin, VirtualKeyAdmin):
    holder_type = HolderType.KEY
    holder_id = UuidText(OuterRef("pk"))
    logs_column = "key_id"
    list_display = (
        "name", "display_name", "team", "user", "payer", "paying_customer",
        "spend", "budget_now", "last_used", "is_blocked", "expires",
    )  # fmt: skip
    list_select_related = (*VirtualKeyAdmin.list_select_related, "budget")

    @admin.display(description="customer")
    def paying_customer(self, key: VirtualKey) -> str:
        return link_to(Customer, key.customer_id) if key.customer_id else EMPTY

    @admin.display(description="last used, UTC", ordering=F("total_last_call_at").asc(nulls_first=True))
    def last_used(self, key: Any) -> str:
        return moment(key.total_last_call_at)


@admin.register(Team)
class TeamSpendAdmin(SpendMixin, TeamAdmin):
    holder_type = HolderType.TEAM
    logs_column = "team_id"
    list_display = (
        "name", "id", "members", "keys", "spend", "budget_now", "calls", "last_seen", "is_blocked",
    )  # fmt: skip
    list_select_related = ("budget",)

    def holders(self, row: Team) -> list[Holder]:
        """Show the team's budget, and below it those of its members who have one."""
        members = row.memberships.exclude(budget=None).select_related("budget", "user").order_by("pk")
        return super().holders(row) + [
            Holder(
                HolderType.TEAM_MEMBER,
                team_member_id(row.pk, member.user_id),
                str(member.user),
                member.budget,
            )
            for member in members
        ]


@admin.register(User)
class UserSpendAdmin(SpendMixin, UserAdmin):
    holder_type = HolderType.USER
    list_display = (
        "username", "alias", "email", "role", "is_staff", "is_active", "spend", "budget_now", "calls",
        "last_seen",
    )  # fmt: skip
    list_select_related = ("budget",)


@admin.register(Tag)
class TagSpendAdmin(SpendMixin, TagAdmin):
    holder_type = HolderType.TAG
    list_display = ("name", "description", "spend", "budget_now", "calls", "last_seen")
