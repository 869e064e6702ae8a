"""
The OpenAPI document: what the views declare, made into OpenAPI 3.1 by drf-spectacular.

A handler says what it takes and answers:

    @described(body=NewCustomer, answer=CUSTOMER)
    def post(self, request): ...

An answer is described by an example, from which its schema is read. Errors, headers and
groups are the same for all and come from here.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, TypeVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from drf_spectacular.generators import SchemaGenerator
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
    "webhook": "Webhooks",
    "events": "Webhooks",
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
_FAILED_TEST = {
    "type": "object",
    "required": ["status", "message", "results"],
    "properties": {
        "status": {"const": "failure"},
        "message": {"type": "string"},
        "results": {"type": "array", "items": {"type": "object"}},
    },
}
_SHARED = {"Error": _ERROR, "DetailError": _DETAIL, "Problems": _PROBLEMS}
_ERROR_REF, _DETAIL_REF, _PROBLEMS_REF = ({"$ref": f"#/components/schemas/{name}"} for name in _SHARED)
_REFUSALS = {
    400: "What is asked for cannot be done; the message says what to do.",
    401: "No key, or one that is not known, blocked or expired.",
    403: "This key's role, or its allowed routes, do not allow it.",
    404: "What the request names is not there, or not for this key.",
    413: "The body is larger than this gateway takes.",
    409: "Another call did the same at the same time, or the Idempotency-Key was used for another request.",
    503: "The database cannot be reached; try again later.",
}
_DETAILED = (400, 404, 409)  # those told in the envelope that the view names


def _answer(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}, "description": description}


_EITHER = {"anyOf": [_DETAIL_REF, _ERROR_REF]}
_SHARED_ANSWERS = {
    **{f"Error{status}": _answer(_ERROR_REF, said) for status, said in _REFUSALS.items()},
    **{f"Detail{status}": _answer(_EITHER, _REFUSALS[status]) for status in _DETAILED},
    "Problems422": _answer(_PROBLEMS_REF, "The request has not the shape that it must have."),
    "Tested422": _answer(
        {"anyOf": [_PROBLEMS_REF, _DETAIL_REF, _FAILED_TEST]},
        "The request has not the shape that it must have; or what it asks for is not configured; "
        "or the test that it posted did not arrive.",
    ),
}


def described(
    *,
    answer: Any,
    also: Sequence[Any] = (),
    body: type[Serializer] | None = None,
    query: type[Serializer] | None = None,
    example: Mapping[str, Any] | None = None,
    summary: str | None = None,
    media_type: str = "application/json",
) -> Callable[[_Handler], _Handler]:
    """Declare a handler's request and answer.

    answer: an example of it, whose shape is the schema; also: examples of other shapes that it
    may have; example: of the body.
    """
    examples = [OpenApiExample("Example", value=_plain(example), request_only=True)] if example else None
    answers = [answer, *also]
    schemas = [schema_of(each) for each in answers]
    return extend_schema(
        request=body,
        parameters=[query] if query else None,
        responses={
            (200, media_type): OpenApiResponse(
                response={"anyOf": schemas} if also else schemas[0],
                description="Done.",
                examples=[
                    OpenApiExample(f"Answer {number}", value=_plain(each), response_only=True)
                    for number, each in enumerate(answers, 1)
                ],
            )
        },
        examples=examples,
        summary=summary,
    )


def schema_of(example: Any) -> dict[str, Any]:
    """Return the JSON Schema of answers like `example`: what is inside may be null, numbers have any size.

    A null inside may become anything; a mapping may have other names, too.
    """
    if example is None:
        return {"type": "null"}
    schema = _inner(example)
    return {**schema, "type": schema["type"][0]}


def _inner(example: Any) -> dict[str, Any]:
    if isinstance(example, Mapping):
        properties = {name: _inner(value) for name, value in example.items()}
        return {"type": ["object", "null"], "properties": properties}
    if isinstance(example, list | tuple):
        return {"type": ["array", "null"], "items": _inner(example[0]) if example else {}}
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

    def map_parsers(self) -> list[str]:
        return ["application/json"]  # any is read as that: curl's `-d` calls it a form

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
        for status in _REFUSALS:
            kind = "Detail" if is_detail and status in _DETAILED else "Error"
            bodies.setdefault(str(status), {"$ref": f"#/components/responses/{kind}{status}"})
        told = "Tested" if getattr(self.view, "posts_a_test", False) else "Problems"
        bodies.setdefault("422", {"$ref": f"#/components/responses/{told}422"})
        return bodies


def group_of(path: str) -> str:
    parts = [part for part in path.split("/") if part and part not in _VERSIONS]
    return GROUPS.get(parts[0], _OTHERS) if parts else _OTHERS


def only_ours(endpoints: Iterable[tuple[str, str, str, Any]], **_: Any) -> list[tuple[str, str, str, Any]]:
    """Leave out what is not for programs: the document itself."""
    return [each for each in endpoints if each[0] not in ("/openapi.json", "/docs")]


# -- routes that are no views of DRF --------------------------------------------------------


class _ByHand(NamedTuple):
    """A route that is written here by hand.

    body: an example of it, None: the route is read with GET; answers: by status, what it says and
    the schema.
    """

    path: str
    summary: str
    description: str
    group: str
    body: Mapping[str, Any] | None = None
    answers: Mapping[str, tuple[str, dict[str, Any]]] = {}
    has_key: bool = True


_OBJECT = {"type": "object"}
_MESSAGES = [{"role": "user", "content": "Hello"}]
_CHAT = {"model": "demo", "messages": _MESSAGES}
_PROXIED_GROUP = "Proxied calls"
_PASSED_ON = (
    "Passed on as it is; also without `/v1`. The provider's documentation says what else the body may have. "
    "The answer carries what it cost in `x-litellm-response-cost`."
)
_WITH_MODEL_IN_PATH = (
    f"{_PASSED_ON} Older clients name the model in the path: `/engines/{{model}}/…` and "
    "`/openai/deployments/{model}/…` instead of `/v1/…`."
)
_FROM_PROVIDER: dict[str, tuple[str, dict[str, Any]]] = {
    "200": ("The provider's answer.", {}),
    "default": ("An error, in the form of the route's own API.", {}),
}
_OF_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "200": ("Done.", _OBJECT),
    "default": ("An error, as OpenAI tells it.", {}),
}
_ALIVE = {"200": ("The process is alive.", {"type": "string"})}
_BY_HAND = (
    _ByHand("/v1/chat/completions", "OpenAI chat, plain or streamed", _WITH_MODEL_IN_PATH, _PROXIED_GROUP,
            {**_CHAT, "user": "acme-042"}, _FROM_PROVIDER),
    _ByHand("/v1/completions", "OpenAI text completion", _WITH_MODEL_IN_PATH, _PROXIED_GROUP,
            {"model": "demo", "prompt": "Hello"}, _FROM_PROVIDER),
    _ByHand("/v1/embeddings", "OpenAI embeddings", _WITH_MODEL_IN_PATH, _PROXIED_GROUP,
            {"model": "demo", "input": "Hello"}, _FROM_PROVIDER),
    _ByHand("/v1/responses", "OpenAI responses", _PASSED_ON, _PROXIED_GROUP,
            {"model": "demo", "input": "Hello"}, _FROM_PROVIDER),
    _ByHand("/v1/messages", "Anthropic messages", _PASSED_ON, _PROXIED_GROUP,
            {**_CHAT, "max_tokens": 100}, _FROM_PROVIDER),
    _ByHand("/v1/messages/count_tokens", "Anthropic token count", _PASSED_ON, _PROXIED_GROUP,
            _CHAT, _FROM_PROVIDER),
    _ByHand("/v1/models", "Models that this key may call", "Also without `/v1`.", _PROXIED_GROUP,
            answers=_OF_MODELS),
    _ByHand("/v1/models/{name}", "One model that this key may call", "Also without `/v1`.", _PROXIED_GROUP,
            answers=_OF_MODELS),
    _ByHand("/public/litellm_model_cost_map", "Every price in force",
            "In the form of LiteLLM's price file, by the model's name. No key is asked for.", "Models",
            answers={"200": ("The prices.", {"type": "object", "additionalProperties": _OBJECT}),
                     "304": ("As it was when the `ETag` was sent that If-None-Match names.", {})},
            has_key=False),
    _ByHand("/routes", "Every route and its methods", "As LiteLLM lists them. No key is asked for.", _OTHERS,
            answers={"200": ("The routes.", _OBJECT)}, has_key=False),
    _ByHand("/test", "Whether requests arrive", "Tells the path. No key is asked for.", _OTHERS,
            answers={"200": ("They do.", _OBJECT)}, has_key=False),
    _ByHand("/health/liveliness", "Whether the process is alive", "Asks nothing of anybody.", _OTHERS,
            answers=_ALIVE, has_key=False),
    _ByHand("/health/liveness", "Whether the process is alive", "Asks nothing of anybody.", _OTHERS,
            answers=_ALIVE, has_key=False),
    _ByHand("/health/readiness", "Whether calls can be taken and booked",
            "Asks the database and the broker.", _OTHERS,
            answers={"200": ("They can.", _OBJECT), "503": ("They cannot; the answer says why.", _OBJECT)},
            has_key=False),
)  # fmt: skip


def with_routes_by_hand(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """Add the routes that are no views of DRF, how a key is sent, and the groups in their order."""
    for route in _BY_HAND:
        result["paths"][route.path] = {"get" if route.body is None else "post": _operation(route)}
    components = result.setdefault("components", {})
    components.setdefault("schemas", {}).update(_SHARED)
    components["responses"] = _SHARED_ANSWERS
    schemes = components.setdefault("securitySchemes", {})
    schemes.clear()
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "A virtual key, or the master key."}
    schemes["read_token"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "A read token of one customer, made on its page in the admin.",
    }
    used = {tag for path in result["paths"].values() for each in path.values() for tag in each["tags"]}
    order = [_PROXIED_GROUP, *dict.fromkeys(GROUPS.values()), _OTHERS]
    result["tags"] = [{"name": name} for name in order if name in used]
    return _without_marks(result)


def _without_marks(value: Any) -> Any:
    """Return `value` without what drf-spectacular notes for itself."""
    if isinstance(value, dict):
        return {name: _without_marks(item) for name, item in value.items() if name != "x-spec-enum-id"}
    return [_without_marks(item) for item in value] if isinstance(value, list) else value


def _operation(route: _ByHand) -> dict[str, Any]:
    parts = route.path.strip("/").split("/")
    operation: dict[str, Any] = {
        "operationId": "_".join(part.strip("{}") for part in parts)
        + ("_get" if route.body is None else "_post"),
        "summary": route.summary,
        "description": route.description,
        "tags": [route.group],
        "security": [{"key": []}] if route.has_key else [],
        "responses": {
            status: {"description": said} if status == "304" else _answer(schema, said)
            for status, (said, schema) in route.answers.items()
        },
    }
    parameters = [
        {"name": part.strip("{}"), "in": "path", "required": True, "schema": {"type": "string"}}
        for part in parts
        if part.startswith("{")
    ]
    if route.body is not None:
        parameters += [
            {"name": "x-litellm-customer-id", "in": "header", "schema": {"type": "string"},
             "description": "The customer that the call is booked to."},
            {"name": "x-litellm-tags", "in": "header", "schema": {"type": "string"},
             "description": "Tags, separated by commas."},
        ]  # fmt: skip
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _OBJECT, "example": route.body}},
        }
    return {**operation, "parameters": parameters} if parameters else operation


@cache
def document() -> bytes:
    """Return the document as JSON. It takes a second to make, and is the same until the next start."""
    return json.dumps(SchemaGenerator().get_schema(public=True), ensure_ascii=False).encode()


@cache
def _routes() -> list[dict[str, Any]]:
    methods = ("get", "post", "put", "patch", "delete")
    listed = []
    for path, operations in json.loads(document())["paths"].items():
        described = {method: operations[method]["operationId"] for method in methods if method in operations}
        name = next(iter(described.values()))
        listed.append(
            {"path": path, "methods": [each.upper() for each in described], "name": name, "endpoint": name}
        )
    return listed


def routes(request: HttpRequest) -> HttpResponse:
    """GET /routes: every route and its methods, as LiteLLM lists them."""
    return JsonResponse({"routes": _routes()})


def openapi(request: HttpRequest) -> HttpResponse:
    """GET /openapi.json."""
    return HttpResponse(document(), content_type="application/json")
