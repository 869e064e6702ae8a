"""
The API's common parts: authentication by key, error envelopes, exact JSON.

The same keys as on the proxied routes, read from the same headers. Errors come in
LiteLLM's envelope (contract 1.4); money is written as an exact decimal number.
"""

import hmac
from decimal import Decimal
from typing import Any

import msgspec
from django.conf import settings
from django.http import Http404
from django.utils import timezone
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from customers.keys import hash_secret
from customers.models import User, VirtualKey
from customers.money import plain_usd
from customers.request_keys import MalformedKey, read_secret


class ApiError(Exception):
    """An error answer in LiteLLM's envelope."""

    def __init__(self, message: str, *, status: int, type: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.type, self.param = status, type, param


class ApiCaller:
    """Who calls the API: the master key, or a virtual key with its user."""

    is_authenticated = True

    def __init__(self, key: VirtualKey | None) -> None:
        self.key = key

    @property
    def is_proxy_admin(self) -> bool:
        user = self.key.user if self.key else None
        return self.key is None or (user is not None and user.role == User.Role.PROXY_ADMIN)


class KeyAuthentication(BaseAuthentication):
    """Recognises the master key and virtual keys."""

    def authenticate(self, request: Request) -> tuple[ApiCaller, None]:
        try:
            secret = read_secret(request.headers.get)
        except MalformedKey:
            raise _refused("Malformed API Key passed in. Send it as `Authorization: Bearer sk-…`.") from None
        if not secret:
            raise _refused("No api key passed in. Send it as `Authorization: Bearer sk-…`.")
        token_hash = hash_secret(secret)
        if hmac.compare_digest(token_hash, hash_secret(settings.MASTER_KEY)):
            return ApiCaller(None), None
        key = VirtualKey.objects.listed().select_related("user", "team").filter(token_hash=token_hash).first()
        if key is None:
            raise ApiError(
                "Invalid proxy server token: this key is not known here.",
                status=401,
                type="token_not_found_in_db",
                param="key",
            )
        if key.blocked or (key.team and key.team.blocked):
            raise _refused("Key is blocked, or its team is.")
        if key.expires_at and key.expires_at <= timezone.now():
            raise ApiError("Authentication Error - Expired Key.", status=401, type="expired_key")
        return ApiCaller(key), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _refused(message: str) -> ApiError:
    return ApiError(message, status=401, type="auth_error")


class IsProxyAdmin(BasePermission):
    """The master key, or the key of a proxy admin."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not (isinstance(request.user, ApiCaller) and request.user.is_proxy_admin):
            raise ApiError("Only proxy admins may call this route.", status=403, type="auth_error")
        return True


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return every error of the API in LiteLLM's envelope."""
    if isinstance(error, ApiError):
        return _envelope(str(error), error.status, error.type, error.param)
    if isinstance(error, Http404):
        return _envelope("Not found.", 404, "not_found", None)
    if isinstance(error, exceptions.APIException):
        message = str(error.detail)  # a plain text: DRF's own is a class that JSON does not know
        kind = "invalid_request_error" if error.status_code < 500 else "internal_server_error"
        return _envelope(message, error.status_code, kind, None)
    return None


def _envelope(message: str, code: int, type_: str, param: str | None) -> Response:
    error = {"message": message, "type": type_, "param": param, "code": str(code)}
    return Response({"error": error}, status=code)


class ExactJSONRenderer(BaseRenderer):
    """JSON in which a Decimal is a plain number with all its digits: 0.001112."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:
        if data is None:
            return b"null"
        return msgspec.json.encode(_exact(data))


def _exact(value: Any) -> Any:
    if isinstance(value, Decimal):
        return msgspec.Raw(plain_usd(value).encode())
    if isinstance(value, dict):
        return {str(key): _exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    return value
