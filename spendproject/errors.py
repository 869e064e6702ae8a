"""
Errors that no view answers: a page in the admin, else what programs read.

The proxied routes have their own (`proxy/errors.py`), the API's views theirs
(`customers/api/errors.py`). None tells what broke: that is in the log.
"""

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views import defaults


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """400: a request that Django itself refuses, such as one of too many fields or for another host."""
    if _is_for_people(request):
        return defaults.bad_request(request, exception)
    return _error(
        400, "invalid_request_error", "The request cannot be read; compare it with GET /openapi.json."
    )


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _is_for_people(request):
        return defaults.permission_denied(request, exception)
    return _error(403, "permission_error", "You may not do this.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """404: there is no such route, or of the admin no such page."""
    if _is_for_people(request):
        return defaults.page_not_found(request, exception)
    if request.path.startswith("/organization/"):
        # As LiteLLM answers without a licence: its clients can live with that.
        return _error(
            403, "permission_error", "There are no organisations here: group keys and users in teams."
        )
    return _error(404, "not_found", "There is no such route; GET /openapi.json lists all that there are.")


def server_error(request: HttpRequest) -> HttpResponseBase:
    if _is_for_people(request):
        return defaults.server_error(request)
    return _error(
        500, "internal_server_error", "The gateway failed at this; its log says why. Nothing was changed."
    )


def _is_for_people(request: HttpRequest) -> bool:
    return request.path.startswith("/admin/")


def _error(status: int, kind: str, message: str) -> JsonResponse:
    told = {"message": message, "type": kind, "param": None, "code": str(status)}
    return JsonResponse({"error": told}, status=status)
