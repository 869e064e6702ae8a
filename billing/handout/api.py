"""
JSON for read tokens: a customer's own program reads its own usage, and nothing else.

    GET /customer/usage.json     spend and usage of some days: in all, by day, by model
    GET /customer/budget.json    its limits on spend, with a forecast

A read token is no virtual key: it calls no model, and no other route takes it.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, ClassVar, cast
from zoneinfo import ZoneInfo

from django.conf import settings
from django.urls import path
from django.utils import timezone
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.budgets.customer_limits import Limit, Outlook
from billing.handout.told import Standing, Told, standing_told, today_at, usage_told
from billing.reporting.reports import Figures
from customers.api.errors import AccessError, BadRequest, Envelope
from customers.api.json import AlwaysFirst, ExactJSONParser, ExactJSONRenderer
from customers.api.schema import ManagementSchema, described
from customers.models import HandoutLink
from customers.services.handout_links import HandoutOver, UnknownHandout, find_handout_link

MOST_DAYS = 366
_FIRST, _LAST = date(2000, 1, 1), date(2999, 12, 31)


class ReadTokenAuthentication(BaseAuthentication):
    """Recognises a read token, sent as `Authorization: Bearer sk-read-…`."""

    def authenticate(self, request: Request) -> tuple[HandoutLink, None]:
        scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _refused("No read token passed in. Send it as `Authorization: Bearer sk-read-…`.")
        try:
            link = find_handout_link(token.strip(), kind=HandoutLink.Kind.READ_TOKEN, at=timezone.now())
        except UnknownHandout:
            raise _refused("This is no read token of this gateway. Keys are not taken here.") from None
        except HandoutOver:
            raise _refused("This read token has expired, or was taken back. Ask for another one.") from None
        return link, None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _refused(message: str) -> AccessError:
    return AccessError(message, status=401, type="auth_error")


class ReadTokenSchema(ManagementSchema):
    """How these routes are described: they take a read token, and no key."""

    def get_auth(self) -> list[dict[str, list]]:
        return [{"read_token": []}]


class DaysQuery(serializers.Serializer):
    """Which days. Days are those of the reporting time zone, both included."""

    start_date = serializers.DateField(
        required=False, help_text="The first day; without it, the 1st of the last day's month."
    )
    end_date = serializers.DateField(required=False, help_text="The last day; without it, today.")


class ReadTokenView(APIView):
    """A route for read tokens: it reads, and about the token's own customer alone."""

    authentication_classes = (ReadTokenAuthentication,)
    permission_classes = ()
    parser_classes = (ExactJSONParser,)
    renderer_classes = (ExactJSONRenderer,)
    content_negotiation_class = AlwaysFirst
    schema = ReadTokenSchema()
    envelope: ClassVar[Envelope] = Envelope.ERROR
    actions: ClassVar[Mapping[str, str]] = {"GET": "read the usage of its customer"}

    @property
    def link(self) -> HandoutLink:
        return cast(HandoutLink, self.request.user)

    def finalize_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(*args, **kwargs)
        response["Cache-Control"] = "private, no-store"
        return response


METRICS = {
    "spend": 1.25, "api_requests": 12, "successful_requests": 11, "failed_requests": 1,
    "unpriced_requests": 0, "prompt_tokens": 5200, "completion_tokens": 900, "total_tokens": 6100,
}  # fmt: skip
USAGE = {
    "customer_id": "acme-042", "alias": "Acme Ltd", "currency": "USD", "time_zone": "UTC",
    "start_date": "2026-03-01", "end_date": "2026-03-31", "total": METRICS,
    "days": [{"date": "2026-03-02", **METRICS}], "models": [{"model": "gpt-4o", **METRICS}],
    "keys": [{"key_alias": "production", **METRICS}],
}  # fmt: skip
BUDGET = {
    "customer_id": "acme-042", "currency": "USD",
    "budgets": [
        {
            "model": "gpt-4o", "budget_duration": "1mo", "max_budget": 50, "spent": 12.5, "held": 0.25,
            "provisional": 0, "remaining": 37.25, "starts_at": "2026-03-01T00:00:00Z",
            "ends_at": "2026-04-01T00:00:00Z",
            "forecast": {"per_day": 1.25, "at_end": 38.75, "exceeds_on": "2026-03-30"},
        }
    ],
    "rate_limits": [{"rpm_limit": 60, "tpm_limit": 100000, "max_parallel_requests": 4}],
}  # fmt: skip


class CustomerUsage(ReadTokenView):
    """Tell the usage of the read token's customer."""

    @described(query=DaysQuery, answer=USAGE)
    def get(self, request: Request) -> Response:
        start, end = _days(request, today_at(timezone.now()))
        return Response(_usage(self.link, usage_told(self.link, start, end)))


class CustomerBudget(ReadTokenView):
    """Tell the limits of the read token's customer, and what they will come to."""

    @described(answer=BUDGET)
    def get(self, request: Request) -> Response:
        return Response(_standing(self.link, standing_told(self.link.customer, at=timezone.now())))


def _days(request: Request, today: date) -> tuple[date, date]:
    query = DaysQuery(data=request.query_params)
    try:
        query.is_valid(raise_exception=True)
    except serializers.ValidationError as error:
        error.location = "query"  # type: ignore[attr-defined]  # told by the 422's `loc`
        raise
    end = query.validated_data.get("end_date") or today
    start = query.validated_data.get("start_date") or end.replace(day=1)
    if not _FIRST <= start <= end <= _LAST:
        raise BadRequest("start_date is after end_date, or no day of this millennium.", param="start_date")
    if end - start >= timedelta(days=MOST_DAYS):
        raise BadRequest(f"Ask for at most {MOST_DAYS} days at once.", param="start_date")
    return start, end


def _usage(link: HandoutLink, told: Told) -> dict[str, Any]:
    return {
        "customer_id": link.customer_id,
        "alias": link.customer.alias or None,
        "currency": "USD",
        "time_zone": settings.REPORTING_TIME_ZONE,
        "start_date": told.start,
        "end_date": told.end,
        "total": _metrics(told.total),
        "days": [{"date": day, **_metrics(figures)} for day, figures in told.days.items()],
        "models": [{"model": row.name, **_metrics(row.figures)} for row in told.models],
        "keys": None
        if told.keys is None
        else [{"key_alias": row.name, **_metrics(row.figures)} for row in told.keys],
    }


def _metrics(figures: Figures) -> dict[str, Any]:
    return {
        "spend": figures.charge,
        "api_requests": figures.calls,
        "successful_requests": figures.successful_calls,
        "failed_requests": figures.failed_calls,
        "unpriced_requests": figures.unpriced_calls,
        "prompt_tokens": figures.usage.prompt_tokens,
        "completion_tokens": figures.usage.completion_tokens,
        "total_tokens": figures.usage.total_tokens,
    }


def _standing(link: HandoutLink, standing: Standing) -> dict[str, Any]:
    return {
        "customer_id": link.customer_id,
        "currency": "USD",
        "budgets": [_budget(outlook) for outlook in standing.outlooks],
        "rate_limits": [rates for limit in standing.limits if (rates := _rates(limit))],
    }


def _budget(outlook: Outlook) -> dict[str, Any]:
    bar, found = outlook.bar, outlook.forecast
    duration = None if bar.ends_at is None else bar.duration
    return {
        "model": bar.period.scope or None,
        "budget_duration": duration,
        "max_budget": bar.limit,
        "spent": bar.spent,
        "held": bar.held,
        "provisional": bar.provisional,
        "remaining": bar.left,
        "starts_at": bar.counts_from if bar.begins else None,
        "ends_at": bar.ends_at,
        "forecast": None
        if found is None
        else {
            "per_day": found.per_day,
            "at_end": found.at_end,
            "exceeds_on": found.exceeds_on(ZoneInfo(bar.zone)),
        },
    }


def _rates(limit: Limit) -> dict[str, int | None] | None:
    budget = limit.budget
    rates = {
        "rpm_limit": budget.rpm_limit,
        "tpm_limit": budget.tpm_limit,
        "max_parallel_requests": budget.max_parallel_requests,
    }
    return rates if any(rate is not None for rate in rates.values()) else None


urlpatterns = [
    path("customer/usage.json", CustomerUsage.as_view()),
    path("customer/budget.json", CustomerBudget.as_view()),
]
