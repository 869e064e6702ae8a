"""
The OpenAPI document: what the views declare, made into OpenAPI 3.1 by drf-spectacular.

A handler says what it takes and answers:

    @described(body=NewCustomer, answer=CUSTOMER)
    def post(self, request): ...

An answer is described by an example, from which its schema is read. Errors, headers and
groups are the same for all and come from here.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.serializers import Serializer

from customers.api.errors import Envelope

_Handler = TypeVar("_Handler", bound=Callable)

# The first part of a path → the group it is listed in, in this order.
GROUPS = {
    "customer": "Customers",
    "end_user": "Customers",
    "budget": "Budgets",
    "key": "Keys",
    "team": "Teams",
    "user": "Users",
    "tag": "Tags",
    "model": "Models",
    "model_group": "Models",
    "public": "Models",
    "spend": "Spend",
    "global": "Spend",
    "cost": "Spend",
    "export": "Spend",
}
_OTHERS = "Gateway"
_VERSIONS = ("v1", "v2")
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "description": "The HTTP status, as text."},
            },
        }
    },
}
_DETAIL = {
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "object", "properties": {"error": {"type": "string"}}}},
}
_PROBLEMS = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "loc", "msg"],
                "properties": {
                    "type": {"type": "string"},
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                },
            },
        }
    },
}
_SHARED = {"Error": _ERROR, "DetailError": _DETAIL, "Problems": _PROBLEMS}
_ERROR_REF, _DETAIL_REF, _PROBLEMS_REF = ({"$ref": f"#/components/schemas/{name}"} for name in _SHARED)
_REFUSALS = {
    400: "What is asked for cannot be done; the message says what to do.",
    401: "No key, or one that is not known, blocked or expired.",
    403: "This key's role, or its allowed routes, do not allow it.",
    404: "What the request names is not there, or not for this key.",
    409: "Another call did the same at the same time, or the Idempotency-Key was used for another request.",
    503: "The database cannot be reached; try again later.",
}


def described(
    *,
    answer: Any,
    body: type[Serializer] | None = None,
    query: type[Serializer] | None = None,
    example: Mapping[str, Any] | None = None,
    summary: str | None = None,
    media_type: str = "application/json",
) -> Callable[[_Handler], _Handler]:
    """Declare a handler's request and answer.

    answer: an example of it, whose shape is the schema; example: of the body.
    """
    examples = [OpenApiExample("Example", value=_plain(example), request_only=True)] if example else None
    return extend_schema(
        request=body,
        parameters=[query] if query else None,
        responses={
            (200, media_type): OpenApiResponse(
                response=schema_of(answer),
                description="Done.",
                examples=[OpenApiExample("Example", value=_plain(answer), response_only=True)],
            )
        },
        examples=examples,
        summary=summary,
    )


def schema_of(example: Any) -> dict[str, Any]:
    """Return the JSON Schema of values like `example`: null may become anything, numbers have any size."""
    if isinstance(example, Mapping):
        return {"type": "object", "properties": {name: schema_of(value) for name, value in example.items()}}
    if isinstance(example, list | tuple):
        return {"type": "array", "items": schema_of(example[0]) if example else {}}
    if isinstance(example, bool):
        return {"type": ["boolean", "null"]}
    if isinstance(example, int | float | Decimal):
        return {"type": ["number", "null"]}
    return {"type": ["string", "null"]} if isinstance(example, str) else {}


def _plain(value: Any) -> Any:
    """Return an example with decimals as numbers, for the document's own encoder."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class ManagementSchema(AutoSchema):
    """How one operation is written."""

    def get_tags(self) -> list[str]:
        return [group_of(self.path)]

    def get_operation_id(self) -> str:
        return "_".join(part.strip("{}") for part in self.path.split("/") if part) + f"_{self.method.lower()}"

    def get_summary(self) -> str | None:
        told = super().get_summary()
        return told or (self.view.__doc__ or "").strip().splitlines()[0].rstrip(".")

    def get_auth(self) -> list[dict[str, list]]:
        return [{"key": []}] if self.view.authentication_classes else []

    def get_override_parameters(self) -> list[Any]:
        if self.method == "GET" or getattr(self.view, "reads_by_post", False):
            return []
        return [
            OpenApiParameter(
                "Idempotency-Key", str, OpenApiParameter.HEADER,
                description="The same call with the same key again is answered, not done again: for 24 h.",
            ),
            OpenApiParameter(
                "litellm-changed-by", str, OpenApiParameter.HEADER,
                description="On whose behalf this is done, for the audit log.",
            ),
        ]  # fmt: skip

    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        bodies = super()._get_response_bodies(direction)
        if not self.view.authentication_classes:
            return bodies
        is_detail = getattr(self.view, "envelope", None) is Envelope.DETAIL
        for status, description in _REFUSALS.items():
            in_detail = is_detail and status in (400, 404, 409)
            bodies.setdefault(
                str(status), _answer({"anyOf": [_DETAIL, _ERROR]} if in_detail else _ERROR, description)
            )
        bodies.setdefault("422", _answer(_PROBLEMS_REF, "The request has not the shape that it must have."))
        return bodies


def _answer(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}, "description": description}


def group_of(path: str) -> str:
    parts = [part for part in path.split("/") if part and part not in _VERSIONS]
    return GROUPS.get(parts[0], _OTHERS) if parts else _OTHERS


def only_ours(endpoints: Iterable[tuple[str, str, str, Any]], **_: Any) -> list[tuple[str, str, str, Any]]:
    """Leave out what is not for programs: the document itself."""
    return [each for each in endpoints if each[0] not in ("/openapi.json", "/docs")]


# -- proxied routes ---------------------------------------------------------------------


class _Proxied(NamedTuple):
    path: str
    summary: str
    body: dict[str, Any] | None
    group: str = "Proxied calls"


_MESSAGES = [{"role": "user", "content": "Hello"}]
_CHAT = {"model": "demo", "messages": _MESSAGES}
_PROXIED = (
    _Proxied("/v1/chat/completions", "OpenAI chat, plain or streamed", {**_CHAT, "user": "acme-042"}),
    _Proxied("/v1/completions", "OpenAI text completion", {"model": "demo", "prompt": "Hello"}),
    _Proxied("/v1/embeddings", "OpenAI embeddings", {"model": "demo", "input": "Hello"}),
    _Proxied("/v1/responses", "OpenAI responses", {"model": "demo", "input": "Hello"}),
    _Proxied("/v1/messages", "Anthropic messages", {**_CHAT, "max_tokens": 100}),
    _Proxied("/v1/messages/count_tokens", "Anthropic token count", _CHAT),
    _Proxied("/v1/models", "Models that this key may call", None),
)  # fmt: skip


def with_proxied_routes(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """Add the routes that are passed on to providers, and how a key is sent."""
    for route in _PROXIED:
        result["paths"][route.path] = {"get" if route.body is None else "post": _operation(route)}
    components = result.setdefault("components", {})
    components.setdefault("schemas", {}).update(_SHARED)
    schemes = components.setdefault("securitySchemes", {})
    schemes.clear()
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "A virtual key, or the master key."}
    used = {tag for path in result["paths"].values() for each in path.values() for tag in each["tags"]}
    order = ["Proxied calls", *dict.fromkeys(GROUPS.values()), _OTHERS]
    result["tags"] = [{"name": name} for name in order if name in used]
    return result


def _operation(route: _Proxied) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "proxied_" + route.path.strip("/").replace("/", "_"),
        "summary": route.summary,
        "description": "Passed on as it is; also without `/v1`. The provider's documentation says what else "
        "the body may have. The answer carries what it cost in `x-litellm-response-cost`.",
        "tags": [route.group],
        "security": [{"key": []}],
        "responses": {
            "200": {"description": "The provider's answer.", "content": {"application/json": {"schema": {}}}},
            "default": _answer({}, "An error, in the provider's own form."),
        },
    }
    if route.body is not None:
        operation["parameters"] = [
            {"name": "x-litellm-customer-id", "in": "header", "schema": {"type": "string"},
             "description": "The customer that the call is booked to."},
            {"name": "x-litellm-tags", "in": "header", "schema": {"type": "string"},
             "description": "Tags, separated by commas."},
        ]  # fmt: skip
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}, "example": route.body}},
        }
    return operation
