"""
The filters of the Logs page. All of them narrow each other, and all are in the address.

How many calls a page may look at, where no index helps a filter, is in `keyset.py`. Times are UTC.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from django import forms
from django.contrib.admin import ListFilter
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import capfirst
from unfold.contrib.filters.admin import DropdownFilter, RangeDateFilter, TextFilter
from unfold.utils import parse_date_str
from unfold.widgets import INPUT_CLASSES

from billing.models import SpendLog
from customers.text import is_clean_id

_LARGEST_USD, _USD_PLACES = Decimal(1_000_000), 9
_LARGEST_MS = 2_147_483_647  # what the column holds


# -- texts ---------------------------------------------------------------------------


class ExactTextFilter(TextFilter):
    """Finds the rows with exactly this text. Never lists the texts there are: that would read the table."""

    column = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> tuple:
        return ()

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        text = (self.value() or "").strip()
        if not text:
            return queryset
        return self.find(queryset, text) if is_clean_id(text) else queryset.none()

    def find(self, queryset: QuerySet, text: str) -> QuerySet:
        return queryset.filter(**{self.column: text})


class CustomerFilter(ExactTextFilter):
    title, parameter_name, column = "customer id, exactly", "customer", "customer_id"


class UserFilter(ExactTextFilter):
    title, parameter_name, column = "user id, exactly", "user", "user_id"


class ModelFilter(ExactTextFilter):
    title, parameter_name, column = "model, exactly", "model", "model"


class ClientToolFilter(ExactTextFilter):
    title, parameter_name, column = "client tool, exactly", "client_tool", "client_tool"


class SessionFilter(ExactTextFilter):
    title, parameter_name = "session id, exactly", "session"

    def find(self, queryset: QuerySet, text: str) -> QuerySet:
        # The index leaves out calls without a session: SQLite uses it only where it is told so.
        return queryset.filter(session_id=text, session_id__gt="")


class TagFilter(ExactTextFilter):
    title, parameter_name = "tag, exactly", "tag"

    def find(self, queryset: QuerySet, text: str) -> QuerySet:
        return queryset.with_tag(text)  # type: ignore[attr-defined]


# -- choices -------------------------------------------------------------------------


class StatusFilter(DropdownFilter):
    title, parameter_name = "status", "status__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, str(label)) for value, label in SpendLog.Status.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        status = self.value()
        if not status:
            return queryset
        found = queryset.filter(status=status)
        if status == SpendLog.Status.SUCCESS:
            return found
        # The index leaves out what succeeded: SQLite uses it only where it is told so.
        return found.filter(~Q(status=SpendLog.Status.SUCCESS))


class UsageFilter(DropdownFilter):
    """Where the figures come from; `unpriced` is a state of its own."""

    title, parameter_name = "source of usage", "usage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unpriced", "unpriced"), *((value, value) for value in SpendLog.UsageSource.values)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        state = self.value()
        if state == "unpriced":
            return queryset.filter(cost=None)
        return queryset.filter(usage_source=state, cost__isnull=False) if state else queryset


# -- times ---------------------------------------------------------------------------


class Period(NamedTuple):
    """A stretch of time that moves with the clock."""

    name: str
    label: str
    length: timedelta
    days_back: int | None = None  # whole days in UTC, so long before today; None: up to this instant


PERIODS = (
    Period("1h", "last hour", timedelta(hours=1)),
    Period("24h", "last 24 hours", timedelta(hours=24)),
    Period("today", "today", timedelta(days=1), 0),
    Period("yesterday", "yesterday", timedelta(days=1), 1),
    Period("7d", "last 7 days", timedelta(days=7)),
    Period("30d", "last 30 days", timedelta(days=30)),
)


class PeriodFilter(DropdownFilter):
    """The dates that one asks for most."""

    title, parameter_name = "period, UTC", "period"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(period.name, period.label) for period in PERIODS]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        period = next((each for each in PERIODS if each.name == self.value()), None)
        if period is None:
            return queryset.none() if self.value() else queryset
        return queryset.started_between(*bounds(period, at=timezone.now()))  # type: ignore[attr-defined]


def bounds(period: Period, *, at: datetime) -> tuple[datetime, datetime | None]:
    """Return (start, end) of a period; the end is excluded, None: there is none."""
    if period.days_back is None:
        return at - period.length, None
    midnight = datetime.combine(at.astimezone(UTC), time.min, tzinfo=UTC)
    start = midnight - timedelta(days=period.days_back)
    return start, start + period.length


class StartedFilter(RangeDateFilter):
    """Whole days in UTC, both included, read by the primary key.

    Links from budget periods give instants instead, the end excluded: a period is not
    made of days.
    """

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        start, end = self._instant("_from"), self._instant("_to", timedelta(days=1))
        return queryset.started_between(start, end)  # type: ignore[attr-defined]

    def _instant(self, suffix: str, after_day: timedelta = timedelta()) -> datetime | None:
        text = str(self.used_parameters.get(f"{self.parameter_name}{suffix}", ""))
        day = parse_date_str(text)
        if day is not None:
            return datetime.combine(day, time.min, tzinfo=UTC) + after_day
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            return None
        return instant if instant.tzinfo else None


# -- amounts -------------------------------------------------------------------------


class AmountFilter(ListFilter):
    """From the least to the most of an amount, both included. What is no amount finds nothing and is told."""

    template = "unfold/filters/filters_numeric_range.html"
    column = ""
    field: type[forms.Field] = forms.DecimalField
    limits: dict[str, Any] = {}  # the options of the field

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self.names:
            if values := params.pop(name, None):
                self.used_parameters[name] = values[-1].strip()
        self.form = self._form()

    @property
    def errors(self) -> list[str]:
        return [str(message) for messages in self.form.errors.values() for message in messages]

    @property
    def names(self) -> tuple[str, str]:
        return f"{self.column}_min", f"{self.column}_max"

    def expected_parameters(self) -> list[str | None]:
        return list(self.names)

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        yield {"form": self.form}

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.used_parameters:
            return queryset
        if not self.form.is_valid():
            return queryset.none()
        least, most = (self.form.cleaned_data[name] for name in self.names)
        if least is not None:
            queryset = queryset.filter(**{f"{self.column}__gte": least})
        if most is not None:
            queryset = queryset.filter(**{f"{self.column}__lte": most})
        return queryset

    def _form(self) -> forms.Form:
        form = _RangeForm(self.used_parameters)
        for name, word in zip(self.names, ("least", "most"), strict=True):
            label = f"{capfirst(self.title)}, the {word}"
            attributes = {"class": " ".join(INPUT_CLASSES), "placeholder": word, "aria-label": label}
            form.fields[name] = self.field(
                required=False,
                widget=forms.TextInput(attrs={**attributes, "inputmode": "decimal"}),
                error_messages={
                    "invalid": f"{label}: write a number.",
                    "min_value": f"{label}: write 0 or more.",
                    "max_value": f"{label}: write at most %(limit_value)s.",
                    "max_decimal_places": f"{label}: write at most %(max)s decimal places.",
                },
                **self.limits,
            )
        return form


class _RangeForm(forms.Form):
    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        least, most = (given.get(name) for name in self.fields)
        if least is not None and most is not None and least > most:
            name = next(iter(self.fields))
            self.add_error(name, f"The least, {least}, is more than the most, {most}: swap them.")
        return given


class CostFilter(AmountFilter):
    """Unpriced calls have no cost, and are in no range."""

    title, column = "cost in USD", "cost"
    limits = {"min_value": 0, "max_value": _LARGEST_USD, "decimal_places": _USD_PLACES}


class LatencyFilter(AmountFilter):
    title, column, field = "latency in ms", "latency_ms", forms.IntegerField
    limits = {"min_value": 0, "max_value": _LARGEST_MS}
