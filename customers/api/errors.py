"""
Error answers of the API: which envelope an error is told in (contract 1.4).

    {"error": {"message", "type", "param", "code"}}    authentication, and most routes
    {"detail": {"error": message}}                     routes that say so (`Envelope.DETAIL`)
    {"detail": [{"type", "loc", "msg"}]}, status 422   a request of the wrong shape, on every route
    {"type": "error", "error": {"type", "message"}}    /v1/messages alone: see `proxy/errors.py`
"""

import enum
import logging
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import DataError, IntegrityError, InterfaceError, OperationalError
from django.db.models import ProtectedError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from customers.refusals import Missing, NotPermitted, Refused, Taken

logger = logging.getLogger(__name__)

_STATUSES: tuple[tuple[type[Refused], int], ...] = ((NotPermitted, 403), (Missing, 404), (Taken, 409))


class Envelope(enum.Enum):
    """How a view tells its own errors."""

    ERROR = "error"
    DETAIL = "detail"


class ApiError(Exception):
    """An error answer. `is_of_access`: raised before the view's own work; always in the `error` envelope."""

    is_of_access = False

    def __init__(self, message: str, *, status: int, type: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.type, self.param = status, type, param


class AccessError(ApiError):
    """Who calls is not known, or may not do this."""

    is_of_access = True


class BadRequest(ApiError):
    """400: a request of the right shape that cannot be carried out. Say in `message` what to do."""

    def __init__(self, message: str, *, param: str | None = None, type: str = "bad_request") -> None:
        super().__init__(message, status=400, type=type, param=param)


class NotFound(ApiError):
    """404: what the request names is not there, or not for this caller."""

    def __init__(self, message: str, *, param: str | None = None, type: str = "not_found") -> None:
        super().__init__(message, status=404, type=type, param=param)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the answer to any error of a view."""
    envelope = getattr(context.get("view"), "envelope", Envelope.ERROR)
    if isinstance(error, exceptions.ValidationError):
        return Response({"detail": list(_problems(error.detail, _location(error)))}, status=422)
    if isinstance(error, ValidationError):
        error = _from_model(error)
    if isinstance(error, Refused):
        error = _from_service(error)
    if isinstance(error, Http404):
        error = NotFound("Not found.")
    if isinstance(error, PermissionDenied):
        error = AccessError("You may not do this.", status=403, type="auth_error")
    if isinstance(error, ProtectedError | IntegrityError | DataError | OperationalError | InterfaceError):
        error = _from_database(error)
    if isinstance(error, exceptions.APIException):
        kind = "invalid_request_error" if error.status_code < 500 else "internal_server_error"
        error = ApiError(str(error.detail), status=error.status_code, type=kind)
    if not isinstance(error, ApiError):
        return None
    if envelope is Envelope.DETAIL and not error.is_of_access:
        return Response({"detail": {"error": str(error)}}, status=error.status)
    told = {"message": str(error), "type": error.type, "param": error.param, "code": str(error.status)}
    return Response({"error": told}, status=error.status)


def _from_service(error: Refused) -> ApiError:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 400)
    return ApiError(str(error), status=status, type=error.type, param=error.param)


def _from_model(error: ValidationError) -> BadRequest:
    """Return what a model's own validation says as one message, with its first field as `param`."""
    if not hasattr(error, "error_dict"):
        return BadRequest(" ".join(error.messages))
    fields = {name: " ".join(messages) for name, messages in error.message_dict.items()}
    named = [message if name == "__all__" else f"{name}: {message}" for name, message in fields.items()]
    first = next(iter(fields))
    return BadRequest(" ".join(named), param=None if first == "__all__" else first)


def _from_database(error: Exception) -> ApiError:
    """Return what the database has against a change, for whoever asked for it; the log has the rest."""
    if isinstance(error, ProtectedError):
        kinds = sorted({str(row._meta.verbose_name_plural) for row in error.protected_objects})
        return BadRequest(f"This is still in use by {', '.join(kinds)}: detach it there first.")
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("the API cannot reach the database: %s", type(error).__name__)
        return AccessError(
            "The gateway's database cannot be reached; try again later.", status=503, type="no_db_connection"
        )
    logger.warning("the database refused a change: %s", type(error).__name__, exc_info=True)
    if isinstance(error, IntegrityError):
        return ApiError(
            "Another call changed the same at the same time. Look at what is there, and try again.",
            status=409,
            type="conflict",
        )
    return BadRequest("A value is larger than what can be kept.")


def _location(error: exceptions.ValidationError) -> str:
    """Return where the values came from: a serializer may say so (`of_query`)."""
    return getattr(error, "location", "body")


def _problems(detail: Any, *location: Any) -> Any:
    """Return each problem of a serializer as {"type", "loc", "msg"}."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            if name == "non_field_errors":
                yield from _problems(inner, *location)
            else:
                yield from _problems(inner, *location, name)
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            if isinstance(inner, dict | list):
                yield from _problems(inner, *location, index)
            else:
                yield from _problems(inner, *location)
    else:
        code = {"required": "missing"}.get(detail.code, detail.code or "value_error")
        yield {"type": code, "loc": list(location), "msg": str(detail)}
