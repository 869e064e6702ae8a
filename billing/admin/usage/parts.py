"""
What all usage pages share: who may see them, what their figures leave out, the tokens by category.
"""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from billing.admin.usage.cards import Summary
from billing.admin.usage.filters import Asked
from billing.admin.usage.tables import logs_url
from billing.reporting import words
from billing.reporting.reports import by
from billing.usage import BUCKETS, Usage
from customers.words import count, usd

_BUCKET_LABELS = {
    "input_uncached": "Input",
    "cache_read": "Input, read from cache",
    "cache_write_5m": "Cache write, 5 min",
    "cache_write_1h": "Cache write, 1 h",
    "output_text": "Output",
    "reasoning": "Reasoning",
    "input_audio": "Audio in",
    "output_audio": "Audio out",
    "input_image": "Images in",
    "output_image": "Images out",
    "web_searches": "Web searches",
}
_MOST_MODELS = 50  # of the token categories


def permitted(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Have a view ask for a log-in, and for the permission to view the log."""

    def permitted(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if not request.user.has_perm("billing.view_spendlog"):
            raise PermissionDenied
        return view(request, **kwargs)

    return admin.site.admin_view(permitted)


def notes(asked: Asked, summary: Summary) -> list[dict[str, str]]:
    """Return what the figures leave out or guess. Said also where it is nothing: then one knows."""
    total = summary.total
    unpriced, estimated = total.unpriced_calls, total.estimated_calls
    share = words.percent(estimated, total.calls)
    return [
        {
            "label": "Unpriced",
            "text": f"* {words.plural(unpriced, 'call')} of models without a price: not in the spend."
            if unpriced
            else "none: every call has a cost.",
            "url": logs_url(asked, {}, unpriced=True) if unpriced else "",
            "link": "See them",
        },
        {
            "label": "Estimated",
            "text": f"{words.plural(estimated, 'call')} ({share}): the provider did "
            "not say what was used, so it was estimated from what was sent and received."
            if estimated
            else "none: providers told what was used.",
            "url": "",
            "link": "",
        },
    ]


def categories(asked: Asked, summary: Summary) -> dict[str, Any]:
    """Return the tokens by model and bucket, of the models that spent most: for comparison with a bill."""
    rows = by(asked.filters, "model", limit=_MOST_MODELS, order=summary.money)  # type: ignore[arg-type]
    total = summary.total
    used = [bucket for bucket in BUCKETS if getattr(total.usage, bucket)]
    return {
        "heads": [_BUCKET_LABELS[bucket] for bucket in used],
        "rows": [
            {
                "name": row.name or "no model named",
                "cells": _buckets(row.figures.usage, used),
                "spend": words.short_usd(summary.spend(row.figures))
                + ("*" if row.figures.unpriced_calls else ""),
                "title": usd(summary.spend(row.figures)),
                "logs_url": logs_url(asked, {"model": row.name}),
            }
            for row in rows
        ],
        "total": _buckets(total.usage, used),
        "spend": words.short_usd(summary.spend(total)) + ("*" if total.unpriced_calls else ""),
        "title": usd(summary.spend(total)),
        "is_cut": len(rows) == _MOST_MODELS,
    }


def _buckets(usage: Usage, used: list[str]) -> list[str]:
    return [count(getattr(usage, bucket)) for bucket in used]
