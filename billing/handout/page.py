"""
The page that is handed out: GET /hand-out/<token>/, for whoever has the link.

Read only, without a log-in, a cookie or a script. It may be shown in a frame of the sites
that HANDOUT_FRAME_ANCESTORS names, and of no other.
"""

import calendar
import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import path
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.views.decorators.http import require_safe

from billing.handout.told import Standing, Told, days_of, spend_by_day, standing_told, today_at, usage_told
from billing.reporting import words
from billing.reporting.drawings import burn_up, stack
from billing.reporting.reports import Figures, Row
from customers.models import HandoutLink
from customers.services.handout_links import HandoutOver, UnknownHandout, find_handout_link
from customers.words import count, usd

_MONTHS = 12
_COLOURS = 7  # models, each in a colour of its own
_MONTH = re.compile("(20[0-9]{2})-(0[1-9]|1[0-2])")
_UNKNOWN = (
    404,
    "This link is not known here",
    "It may have been cut when it was copied. Ask whoever gave it to you for the whole of it.",
)
_OVER = (
    410,
    "This link is no longer in force",
    "It has expired, or was taken back. Ask whoever gave it to you for another one.",
)
_NO_MONTH = (
    400,
    "There is no such month",
    "Write it as 2026-03, or leave it out: then it is the month under way.",
)


@require_safe
def handout_page(request: HttpRequest, token: str) -> HttpResponse:
    """Show a customer's usage of a month."""
    at = timezone.now()
    try:
        link = find_handout_link(token, kind=HandoutLink.Kind.PAGE, at=at)
    except UnknownHandout:
        return _problem(*_UNKNOWN)
    except HandoutOver:
        return _problem(*_OVER)
    today = today_at(at)
    month = _month_of(request.GET.get("month", ""), today)
    if month is None:
        return _problem(*_NO_MONTH)
    told = usage_told(link, month, min(_last_of(month), max(today, month)))
    standing = standing_told(link.customer, at=at)
    return _sealed("handout/page.html", _context(link, told, standing, month, at), colour=link.colour)


def _month_of(text: str, today: date) -> date | None:
    """Return the first of the month that is asked for; None where that is none."""
    if not text:
        return today.replace(day=1)
    found = _MONTH.fullmatch(text)
    return date(int(found[1]), int(found[2]), 1) if found else None


def _last_of(month: date) -> date:
    return month.replace(day=calendar.monthrange(month.year, month.month)[1])


def _problem(status: int, title: str, text: str) -> HttpResponse:
    return _sealed("handout/problem.html", {"title": title, "text": text}, status=status)


def _sealed(template: str, context: dict[str, Any], *, status: int = 200, colour: str = "") -> HttpResponse:
    """Answer with a page that tells nobody where it was read, is kept nowhere, and loads nothing else.

    The site's own policy would let it run scripts; here none may, and of styles those alone
    that we serve, besides the one that sets the link's colour.
    """
    nonce = get_random_string(24)
    html = render_to_string(template, {**context, "colour": colour, "nonce": nonce})
    response = HttpResponse(html, status=status)
    ancestors = settings.HANDOUT_FRAME_ANCESTORS
    framed_by = " ".join(ancestors) or "'none'"
    response["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'self' 'nonce-{nonce}'; img-src 'self'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors {framed_by}"
    )
    # X-Frame-Options knows no list of origins, and browsers that know frame-ancestors pass over it.
    response.xframe_options_exempt = bool(ancestors)
    response["Referrer-Policy"] = "no-referrer"
    response["Cache-Control"] = "private, no-store"
    response["X-Robots-Tag"] = "noindex, nofollow"
    return response


# -- what is shown ---------------------------------------------------------------------


def _context(link: HandoutLink, told: Told, standing: Standing, month: date, at: datetime) -> dict[str, Any]:
    total = told.total
    days, series = days_of(told), spend_by_day(told, _COLOURS)
    drawn = stack(days, series, title="{day}, {name}: ${amount}")
    return {
        "title": link.title or str(link.customer),
        "customer": link.customer,
        "month": month,
        "told": told,
        "total": total,
        "cards": [
            ("Spend, USD", words.short_usd(total.charge) + _mark(total), usd(total.charge)),
            ("Requests", words.short_count(total.calls), count(total.calls)),
            ("Tokens", words.short_count(total.usage.total_tokens), count(total.usage.total_tokens)),
            (
                "Answered",
                words.percent(total.successful_calls, total.calls),
                f"{count(total.successful_calls)} of {count(total.calls)}",
            ),
        ],
        "months": _months(month, today_at(at)),
        "limits": _limits(standing, at),
        "drawn": drawn,
        "top": words.short_usd(drawn.top),
        "legend": [
            {
                "colour": number,
                "name": name or "no model named",
                "amount": words.short_usd(sum(values, Decimal(0))),
            }
            for number, (name, values) in enumerate(series, 1)
        ],
        "series": [name or "no model named" for name, _ in series],
        "rows": [(day, [usd(values[number]) for _, values in series]) for number, day in enumerate(days)],
        "models": [_line(row, told) for row in told.models],
        "keys": None if told.keys is None else [_line(row, told) for row in told.keys],
        "zone": settings.REPORTING_TIME_ZONE,
        "at": at.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)),
        "expires_at": link.expires_at,
    }


def _mark(figures: Figures) -> str:
    return "*" if figures.unpriced_calls else ""


def _line(row: Row, told: Told) -> dict[str, str]:
    figures = row.figures
    return {
        "name": row.name or "none named",
        "spend": words.short_usd(figures.charge) + _mark(figures),
        "title": usd(figures.charge),
        "share": words.percent(figures.charge, told.total.charge),
        "requests": count(figures.calls),
        "input": count(figures.usage.prompt_tokens),
        "output": count(figures.usage.completion_tokens),
    }


def _months(chosen: date, today: date) -> list[dict[str, Any]]:
    months, first = [], today.replace(day=1)
    for _ in range(_MONTHS):
        months.append(
            {"query": f"?month={first:%Y-%m}", "label": f"{first:%b %Y}", "is_chosen": first == chosen}
        )
        first = (first - timedelta(days=1)).replace(day=1)
    return months


def _limits(standing: Standing, at: datetime) -> list[dict[str, Any]]:
    is_of_some = len(standing.limits) > 1
    shown = []
    for outlook in standing.outlooks:
        bar, found = outlook.bar, outlook.forecast
        day = found.exceeds_on(ZoneInfo(bar.zone)) if found is not None else None
        widths = {kind: float(width) for kind, width in bar.parts}
        parts, left = [], 0.0
        for kind, width in widths.items():
            parts.append({"kind": kind, "x": f"{left:.2f}", "width": f"{width:.2f}"})
            left += width
        shown.append(
            {
                "bar": bar,
                "is_of_some": is_of_some,
                "parts": parts,
                "spent": words.short_usd(bar.spent),
                "limit": words.short_usd(bar.limit),
                "left": words.short_usd(bar.left),
                # One drawing says enough: that of all models.
                "drawing": None if bar.period.scope else burn_up(outlook, at=at),
                "per_day": words.short_usd(found.per_day) if found is not None else "",
                "at_end": words.short_usd(found.at_end)
                if found is not None and found.at_end is not None
                else "",
                "exceeds_on": "" if day is None or bar.is_used_up else day.isoformat(),
            }
        )
    return shown


urlpatterns = [path("hand-out/<str:token>/", handout_page, name="handout-page")]
