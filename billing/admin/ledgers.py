"""What the ledger keeps for itself: totals, how far each journal is booked, which months are sealed."""

from django.contrib import admin
from unfold.contrib.filters.admin import ChoicesRadioFilter

from billing.models import HolderType, JournalCheckpoint, SealedMonth, SpendTotal
from customers.admin.common import LedgerAdmin
from customers.admin.display import moment
from customers.admin.paging import CappedAdminMixin
from customers.words import count, usd


@admin.register(SpendTotal)
class SpendTotalAdmin(CappedAdminMixin, LedgerAdmin):
    empty_list = (
        "What each customer, key, team, user and tag ever spent. The ledger adds to it with every call."
    )
    list_display = (
        "holder", "holder_type", "cost_usd", "charge_usd", "calls_text", "failed", "unpriced", "prompt",
        "completion", "last_call",
    )  # fmt: skip
    list_filter = (("holder_type", ChoicesRadioFilter),)
    search_fields = ("holder_id__exact",)
    search_help_text = "Holder id, exactly"
    ordering = ("-pk",)
    sortable_by = ()  # no index follows these columns

    @admin.display(description="holder")
    def holder(self, total: SpendTotal) -> str:
        if total.holder_type == HolderType.TEAM_MEMBER:
            return " · ".join(total.holder_id.split("\n"))
        return total.holder_id

    @admin.display(description="cost, USD")
    def cost_usd(self, total: SpendTotal) -> str:
        return usd(total.cost)

    @admin.display(description="charge, USD")
    def charge_usd(self, total: SpendTotal) -> str:
        return usd(total.charge)

    @admin.display(description="calls")
    def calls_text(self, total: SpendTotal) -> str:
        return count(total.calls)

    @admin.display(description="failed")
    def failed(self, total: SpendTotal) -> str:
        return count(total.failed_calls)

    @admin.display(description="unpriced")
    def unpriced(self, total: SpendTotal) -> str:
        return count(total.unpriced_calls)

    @admin.display(description="prompt tokens")
    def prompt(self, total: SpendTotal) -> str:
        return count(total.prompt_tokens)

    @admin.display(description="completion tokens")
    def completion(self, total: SpendTotal) -> str:
        return count(total.completion_tokens)

    @admin.display(description="last call, UTC")
    def last_call(self, total: SpendTotal) -> str:
        return moment(total.last_call_at)


@admin.register(JournalCheckpoint)
class JournalCheckpointAdmin(LedgerAdmin):
    empty_list = (
        "Each web process writes a journal of its calls; a row says how far it is booked. "
        "The first call makes the first row."
    )
    list_display = ("journal_id", "segment", "position_text", "finished", "updated")
    ordering = ("-updated_at", "journal_id")
    sortable_by = ()

    @admin.display(description="position, bytes")
    def position_text(self, checkpoint: JournalCheckpoint) -> str:
        return count(checkpoint.position)

    @admin.display(description="updated, UTC")
    def updated(self, checkpoint: JournalCheckpoint) -> str:
        return moment(checkpoint.updated_at)


@admin.register(SealedMonth)
class SealedMonthAdmin(LedgerAdmin):
    empty_list = (
        "Months whose logs were removed, and what their calls added up to. Logs are kept for ever unless "
        "LOG_RETENTION_MONTHS says how long; totals, budgets and reports keep what the calls cost."
    )
    list_display = ("month_text", "calls_text", "cost_usd", "charge_usd", "sealed")
    ordering = ("-month",)
    sortable_by = ()

    @admin.display(description="month, UTC")
    def month_text(self, sealed: SealedMonth) -> str:
        return f"{sealed.month:%Y-%m}"

    @admin.display(description="calls")
    def calls_text(self, sealed: SealedMonth) -> str:
        return count(sealed.calls)

    @admin.display(description="cost, USD")
    def cost_usd(self, sealed: SealedMonth) -> str:
        return usd(sealed.cost)

    @admin.display(description="charge, USD")
    def charge_usd(self, sealed: SealedMonth) -> str:
        return usd(sealed.charge)

    @admin.display(description="sealed, UTC")
    def sealed(self, sealed: SealedMonth) -> str:
        return moment(sealed.sealed_at) if sealed.sealed_at else "under way, or interrupted"
