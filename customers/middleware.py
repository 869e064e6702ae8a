"""Who changes things through the admin, for the audit log. The API says so itself (`api/views.py`)."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from customers.actors import Actor, acting

_READS = ("GET", "HEAD", "OPTIONS", "TRACE")


def acting_user(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Return a middleware that has whoever is logged in be the one who changes things."""

    def middleware(request: HttpRequest) -> HttpResponse:
        # Without a session nobody is logged in; who only reads is not looked up.
        if request.method in _READS or settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return get_response(request)
        with acting(_actor(request)):
            return get_response(request)

    return middleware


def _actor(request: HttpRequest) -> Actor:
    user = request.user
    address = request.META.get("REMOTE_ADDR") or ""
    if not user.is_authenticated:
        return Actor("admin", address=address)
    return Actor("admin", user_id=user.pk, name=user.get_username(), address=address)
