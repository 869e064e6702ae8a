"""
The unpriced queue and the pages that lead from it to a price, and to what that changes.

    queue → set a price → look: what would change → start

A price that is set here is a row like all others, entered by staff. Looking writes nothing.
"""

from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode

from billing import tasks
from billing.admin.naming import holder_link, key_names
from billing.admin.price import PriceForm
from billing.models import Price
from billing.models.price import RATE_FIELDS
from billing.prices import repricing
from billing.prices.repricing import Diff, Selection
from billing.prices.unpriced import Unpriced, nearest_price, queue
from customers.admin.display import moment
from customers.money import from_nano
from customers.words import EMPTY, count, usd

LOOKED_AT = 20_000  # calls: a few seconds; the run goes on to the end
SHOWN_LINES = 100
RUN_SECONDS = 3.0  # in the request; the worker goes on behind it


def queue_view(request: HttpRequest) -> HttpResponse:
    """List the models that have calls without a price."""
    if not request.user.has_perm("billing.view_spendlog"):
        raise PermissionDenied
    waiting = queue()
    context = {
        **admin.site.each_context(request),
        "title": "Unpriced calls",
        "models": len(waiting),
        "calls": sum(each.calls for each in waiting),
        "table": _queue_table(waiting),
        "running": repricing.unfinished(),
    }
    return TemplateResponse(request, "admin/unpriced.html", context)


def _queue_table(waiting: list[Unpriced]) -> dict[str, Any]:
    logs = reverse("admin:billing_spendlog_changelist")
    return {
        "headers": [
            "provider", "model", "calls", "first seen, UTC", "last seen, UTC", "tokens in", "tokens out",
            "held, USD", "",
        ],
        "rows": [
            [
                each.provider,
                format_html(
                    '<a class="text-link break-all" href="{}?{}">{}</a>',
                    logs,
                    urlencode({"usage": "unpriced"}),
                    each.model or EMPTY,
                ),
                _calls(each),
                moment(each.first_at),
                moment(each.last_at),
                count(each.input_tokens),
                count(each.output_tokens),
                usd(each.provisional),
                _links(each) if each.calls_with_rows else "",
            ]
            for each in waiting
        ],
    }  # fmt: skip


def _calls(each: Unpriced) -> str:
    gone = each.calls - each.calls_with_rows
    if gone <= 0:
        return count(each.calls)
    return f"{count(each.calls)}; of {count(gone)} the rows were removed"


def _links(each: Unpriced) -> str:
    named = urlencode({"provider": each.provider, "model": each.model})
    return format_html(
        '<a class="text-link" href="{}?{}">Set a price</a> · '
        '<a class="text-link" href="{}?{}">Price again</a>',
        reverse("admin:billing_repricing_price"), named,
        reverse("admin:billing_repricing_look"), named,
    )  # fmt: skip


# -- a price -------------------------------------------------------------------------------

_SHOWN_RATES = (*RATE_FIELDS[:6], "per_request_usd")


class QuickPriceForm(PriceForm):
    """The rates that most models have; all others are on the form of prices."""

    class Meta:
        model = Price
        fields = ("provider", "model", "effective_from", *_SHOWN_RATES)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if not any(cleaned.get(name) is not None for name in _SHOWN_RATES):
            raise ValidationError("Give at least one rate; 0 is a price too.")
        return cleaned


def price_view(request: HttpRequest) -> HttpResponse:
    """Set the price of a model, then look at what it changes."""
    if not request.user.has_perm("billing.add_price"):
        raise PermissionDenied
    named = {name: request.GET.get(name, "") for name in ("provider", "model")}
    near = nearest_price(**named)
    if request.method == "POST":
        form = QuickPriceForm(request.POST)
        if form.is_valid():
            price = form.save(commit=False)
            price.source = Price.Source.ADMIN
            price.save()
            messages.success(request, f"The price of {price} is in force within two seconds.")
            found = urlencode({"provider": price.provider, "model": named["model"] or price.model})
            return HttpResponseRedirect(f"{reverse('admin:billing_repricing_look')}?{found}")
    else:
        rates = {name: getattr(near, name) for name in _SHOWN_RATES} if near else {}
        form = QuickPriceForm(initial={**named, **{name: _plain(rate) for name, rate in rates.items()}})
    context = {
        **admin.site.each_context(request),
        "title": f"Price of {named['provider']}/{named['model']}",
        "form": form,
        "near": near,
        "all_rates_url": f"{reverse('admin:billing_price_add')}?{urlencode(named)}",
    }
    return TemplateResponse(request, "admin/unpriced_price.html", context)


def _plain(rate: Any) -> str:
    return "" if rate is None else f"{rate.normalize():f}"


# -- what it changes -----------------------------------------------------------------------


class LookForm(forms.Form):
    """Which calls are priced again. Days: of the reporting time zone."""

    provider = forms.CharField(max_length=100)
    model = forms.CharField(max_length=255, label="Model, as it was sent upstream")
    start = forms.DateField(
        required=False, label="From", widget=forms.DateInput(attrs={"type": "date"}), help_text="Empty: all"
    )
    end = forms.DateField(
        required=False,
        label="To, included",
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="Empty: now",
    )
    all_calls = forms.BooleanField(required=False, label="Also calls that have a price, by the one of now")

    def selection(self, *, at: datetime) -> Selection:
        given = self.cleaned_data
        ends_at = _midnight(given["end"] + timedelta(days=1)) if given["end"] else at
        return Selection(
            given["provider"],
            given["model"],
            _midnight(given["start"]) if given["start"] else None,
            min(ends_at, at),
            not given["all_calls"],
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), ZoneInfo(settings.REPORTING_TIME_ZONE))


def look_view(request: HttpRequest) -> HttpResponse:
    """Show what pricing calls again would change; on confirmation begin."""
    if not request.user.has_perm("billing.add_repricing"):
        raise PermissionDenied
    at = timezone.now()
    form = LookForm(request.POST if request.method == "POST" else request.GET or None)
    if not form.is_valid():
        if request.method == "POST":
            return HttpResponseBadRequest("This selection of calls cannot be read.")
        return _looked(request, form, None)
    selection = form.selection(at=at)
    if request.method == "POST":
        return _begin(request, selection, at)
    return _looked(request, form, repricing.diff(selection, at=at, most=LOOKED_AT))


def _begin(request: HttpRequest, selection: Selection, at: datetime) -> HttpResponse:
    note = request.POST.get("note", "").strip()[:500]
    made = repricing.start(selection, actor=request.user.get_username(), note=note, at=at)
    if not repricing.run(made, seconds=RUN_SECONDS):
        tasks.reprice.delay_on_commit()  # else the beat finds it within a minute
    return HttpResponseRedirect(reverse("admin:billing_repricing_change", args=[made.pk]))


def _looked(request: HttpRequest, form: LookForm, found: Diff | None) -> HttpResponse:
    context = {
        **admin.site.each_context(request),
        "title": "Price calls again",
        "form": form,
        "found": found,
        "most": LOOKED_AT,
        "shown_lines": SHOWN_LINES,
        "fields": [(name, form[name].value() or "") for name in form.fields],
    }
    if found is not None:
        context |= {
            "cost": _signed(found.cost_nano),
            "charge": _signed(found.charge_nano),
            "has_charge": found.cost_nano != found.charge_nano,
            "lines": _lines_table(found),
            "over": _over_table(found),
        }
    return TemplateResponse(request, "admin/repricing_look.html", context)


def _signed(nano: int) -> str:
    return f"{'+' if nano > 0 else ''}{usd(from_nano(nano))}"


def _lines_table(found: Diff) -> dict[str, Any]:
    return {
        "headers": ["customer", "month", "calls", "cost", "charge"],
        "rows": [
            [
                line.customer_id or "unattributed",
                f"{line.month:%Y-%m}",
                count(line.calls),
                _signed(line.cost_nano),
                _signed(line.charge_nano),
            ]
            for line in found.lines[:SHOWN_LINES]
        ],
    }


def _over_table(found: Diff) -> dict[str, Any]:
    holders = [(each.period.holder_type, each.period.holder_id) for each in found.over[:SHOWN_LINES]]
    names = key_names(holders)
    return {
        "headers": ["budget of", "model", "limit", "spent now", "spent then"],
        "rows": [
            [
                holder_link(*holder, names),
                each.period.scope or "all",
                usd(each.period.last_limit),
                usd(each.period.spent),
                usd(from_nano(each.spent_nano)),
            ]
            for holder, each in zip(holders, found.over, strict=False)
        ],
    }
