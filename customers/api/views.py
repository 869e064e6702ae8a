"""The view that all views of the API derive from."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from customers.actors import acting
from customers.allowed_routes import INFO, MANAGEMENT, is_allowed
from customers.api.access import Action, Reach, reach_of
from customers.api.callers import ApiCaller, KeyAuthentication, caller_of
from customers.api.errors import AccessError, Envelope
from customers.api.idempotency import answered_once
from customers.api.json import AlwaysFirst, ExactJSONParser, ExactJSONRenderer
from customers.api.schema import ManagementSchema

_SAFE = ("GET", "HEAD", "OPTIONS")


class ManagementView(APIView):
    """A route of the API.

    Before the handler: the caller is recognised, and `self.reach` is what of the rows it
    reaches. What changes anything runs in one transaction, so nothing is ever half done;
    with an Idempotency-Key it happens once; and the audit log says who did it.
    """

    authentication_classes = (KeyAuthentication,)
    permission_classes = ()  # `initial` decides, by the table
    parser_classes = (ExactJSONParser,)
    renderer_classes = (ExactJSONRenderer,)
    content_negotiation_class = AlwaysFirst
    schema = ManagementSchema()

    # What each method does: {"GET": Action.READ_KEYS, "POST": Action.WRITE_KEYS}.
    actions: ClassVar[Mapping[str, Action]] = {}
    reads_by_post: ClassVar[bool] = False  # LiteLLM reads some things with POST: no change, no transaction
    envelope: ClassVar[Envelope] = Envelope.ERROR
    refusal_status: ClassVar[int] = 403  # of a role that may not; LiteLLM's routes differ
    refusal_type: ClassVar[str] = "auth_error"
    reach: Reach

    @property
    def caller(self) -> ApiCaller:
        return caller_of(self.request)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        method = (request.method or "").upper()
        if method not in self.actions:
            return  # DRF answers 405, or describes the route
        self._check_route(request, is_read=method in _SAFE or self.reads_by_post)
        self.reach = reach_of(self.caller, self.actions[method])
        if self.reach.is_nothing:
            raise AccessError(
                f"Role {self.caller.role} may not {self.actions[method].value} here. Ask a proxy admin.",
                status=self.refusal_status,
                type=self.refusal_type,
            )
        if method not in _SAFE and not self.reads_by_post:
            # DRF looks the handler up on the instance, after this.
            name = method.lower()
            setattr(self, name, partial(self._change, getattr(self, name)))

    def _check_route(self, request: Request, *, is_read: bool) -> None:
        groups = (INFO, MANAGEMENT) if is_read else (MANAGEMENT,)
        if not is_allowed(self.caller.allowed_routes, request.path, groups):
            raise AccessError(
                f"This key may not call {request.path}: it is confined to "
                f"{', '.join(self.caller.allowed_routes)}.",
                status=403,
                type="auth_error",
            )

    def _change(self, handler: Callable[..., Response], request: Request, *args: Any, **kwargs: Any) -> Any:
        with acting(self.caller.actor(request)), transaction.atomic():
            return answered_once(request, partial(handler, request, *args, **kwargs))

    # -- reading requests ---------------------------------------------------------------

    def body(self, serializer: type[Serializer]) -> dict[str, Any]:
        """Return the body's fields, checked; those that were not sent are missing. Raises: 422."""
        return _checked(serializer, self.request.data, "body")

    def query(self, serializer: type[Serializer]) -> dict[str, Any]:
        """Return the query's fields, checked. Raises: 422."""
        return _checked(serializer, self.request.query_params, "query")


def _checked(serializer: type[Serializer], data: Any, location: str) -> dict[str, Any]:
    made = serializer(data=data)
    try:
        made.is_valid(raise_exception=True)
    except Exception as error:
        error.location = location  # type: ignore[attr-defined]  # told by the 422's `loc`
        raise
    return made.validated_data
