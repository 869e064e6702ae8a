"""
Handing out one customer's usage: make a link or a read token, see those in force, take them back.

What is handed out is shown in the answer to the form that made it, and nowhere else: it
is not kept.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST

from billing.admin.usage.parts import permitted
from billing.reporting import words
from customers.models import Customer, HandoutLink
from customers.services.handout_links import make_handout_link, revoke_handout_links

_LISTED = 100
_EXPIRIES = (
    (1, "in a day"), (7, "in a week"), (30, "in 30 days"), (90, "in 90 days"), (365, "in a year"),
)  # fmt: skip
_USUAL_DAYS = 30


@require_http_methods(["GET", "HEAD", "POST"])
def links_view(request: HttpRequest) -> HttpResponse:
    """List a customer's links, and make one."""
    customer = _customer(request, request.GET.get("customer", ""))
    at = timezone.now()
    made: dict[str, Any] = {}
    problems: list[str] = []
    if request.method == "POST":
        try:
            made = _make(request, customer, at)
        except ValidationError as error:
            problems = error.messages
        except ValueError as error:
            problems = [str(error)]
    links = customer.handout_links.order_by("-created_at", "-pk")[:_LISTED]
    context = {
        **admin.site.each_context(request),
        "title": "Hand out usage",
        "customer": customer,
        "page_url": f"{reverse('usage:customer')}?{urlencode({'customer': customer.pk})}",
        "revoke_url": reverse("usage:handout-revoke"),
        "made": made,
        "problems": problems,
        "given": request.POST if problems else {},
        "kinds": HandoutLink.Kind.choices,
        "expiries": _EXPIRIES,
        "usual_days": request.POST.get("days", "") if problems else str(_USUAL_DAYS),
        "links": [
            {"link": link, "state": _state(link, at), "is_in_force": _is_in_force(link, at)} for link in links
        ],
        "frame_ancestors": settings.HANDOUT_FRAME_ANCESTORS,
        "is_cut": len(links) == _LISTED,
    }
    response = TemplateResponse(
        request, "admin/usage/handout_links.html", context, status=400 if problems else 200
    )
    response["Cache-Control"] = "private, no-store"
    return response


@require_POST
def revoke_view(request: HttpRequest) -> HttpResponse:
    """Take back one link, or all that are in force."""
    customer = _customer(request, request.POST.get("customer", ""))
    wanted = request.POST.get("link", "")
    of_customer = HandoutLink.objects.filter(customer=customer)
    try:
        ids = [uuid.UUID(wanted)] if wanted else list(of_customer.values_list("pk", flat=True))
    except ValueError:
        raise Http404 from None
    number = revoke_handout_links(links=ids, customer_id=customer.pk, at=timezone.now())
    messages.success(request, f"{words.plural(number, 'link')} taken back: from now on refused.")
    return HttpResponseRedirect(f"{reverse('usage:handout-links')}?{urlencode({'customer': customer.pk})}")


def _customer(request: HttpRequest, customer_id: str) -> Customer:
    """Return whose usage it is. To give it away takes the permission to change the customer."""
    if not request.user.has_perm("customers.change_customer"):
        raise PermissionDenied
    customer = Customer.objects.listed().filter(pk=customer_id).first() if "\0" not in customer_id else None
    if customer is None:
        raise Http404
    return customer


def _make(request: HttpRequest, customer: Customer, at: datetime) -> dict[str, Any]:
    days = request.POST.get("days", "")
    if days not in {str(number) for number, _ in _EXPIRIES}:
        raise ValueError("Choose when it expires.")
    link, token = make_handout_link(
        customer=customer,
        kind=request.POST.get("kind", ""),
        title=request.POST.get("title", "").strip(),
        colour=request.POST.get("colour", "").strip().lower() if request.POST.get("has_colour") else "",
        shows_keys="shows_keys" in request.POST,
        expires_at=at + timedelta(days=int(days)),
        at=at,
    )
    site = settings.PUBLIC_URL.rstrip("/")
    if link.kind == HandoutLink.Kind.READ_TOKEN:
        call = f'curl -s {site}/customer/usage.json -H "Authorization: Bearer {token}"'
        return {"link": link, "handed_out": token, "call": call}
    url = site + reverse("handout-page", args=[token])
    frame = f'<iframe src="{url}" width="100%" height="900" title="Usage"></iframe>'  # shown, not drawn
    return {"link": link, "handed_out": url, "frame": frame}


def _is_in_force(link: HandoutLink, at: datetime) -> bool:
    return link.revoked_at is None and link.expires_at > at


def _state(link: HandoutLink, at: datetime) -> str:
    if link.revoked_at is not None:
        return "taken back"
    return "in force" if link.expires_at > at else "expired"


urlpatterns = [
    path("customer/links/", permitted(links_view), name="handout-links"),
    path("customer/links/revoke/", permitted(revoke_view), name="handout-revoke"),
]
