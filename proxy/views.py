"""
The proxied routes: one short view each, and the straight line they share.

    authenticate → read → identify → admit → start the call → answer

A view owns nothing: the call is a task of its own (`calls.py`) that settles whatever
happens here. Errors are answered in the caller's dialect.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from billing.booking.records import Closed, Opened
from customers.text import clean_line
from proxy import admission, gateway
from proxy.callers import Caller
from proxy.dialects import (
    anthropic_count_tokens,
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
)
from proxy.dialects.base import Ask, Dialect
from proxy.errors import GatewayError, MethodNotAllowed, NotFound
from proxy.headers import VERSION_HEADER, Headers
from proxy.identification import Attribution
from proxy.responses import StreamedAnswer, WholeAnswer
from proxy.tiers import UNLIMITED


def _route(dialect: Any) -> Callable[..., Awaitable[HttpResponseBase]]:
    """Return the view that serves POSTs in `dialect`."""

    async def view(request: HttpRequest, model: str | None = None) -> HttpResponseBase:
        return await serve(request, dialect, model)

    return view


chat_completions = _route(openai_chat)
completions = _route(openai_completions)
embeddings = _route(openai_embeddings)
responses = _route(openai_responses)
messages = _route(anthropic_messages)
count_tokens = _route(anthropic_count_tokens)


async def serve(request: HttpRequest, dialect: Dialect, model: str | None) -> HttpResponseBase:
    """Serve one call in `dialect`. model: named by the path, where it is."""
    running = gateway.running()
    call_id, call_id_text, now_us = running.new_call_id()
    caller: Caller | None = None
    opened = Opened(call_id, now_us, dialect.NAME, "", False)
    try:
        _require_post(request)
        caller = await running.authenticator.authenticate(request.headers)
        admission.check_route(caller, request.path, admission.CALLS)
        ask = dialect.read_call(await read_body(request), model)
        if caller.model_aliases:
            ask = admission.by_real_name(ask, caller)
        origin = running.identifier.attribute(request.headers, ask.said, caller)
        ask = admission.by_default_model(running, ask, origin.customer_id)
        opened = _opened(call_id, now_us, dialect, ask, caller, origin, running.limits.stores_prompts)
        targets = admission.admit(running, dialect, ask, caller, origin)
        limits = admission.limits_of(running, ask, caller, origin, now_us) if dialect.BILLABLE else UNLIMITED
    except GatewayError as error:
        if caller is not None and dialect.BILLABLE:
            _book_refusal(running, opened, caller, error, now_us)
        return WholeAnswer.of_error(dialect, error, call_id_text)
    call = running.start_call(
        dialect, ask, opened, call_id_text, targets, limits, raw_headers(request), query_of(request)
    )
    head = await call.head
    if head.channel is not None:
        return StreamedAnswer(head.status, head.headers, head.channel)
    return WholeAnswer(head.status, head.headers, head.body)


async def models(request: HttpRequest) -> HttpResponse:
    """GET /v1/models: the models that the key may use; Anthropic's shape for its SDK."""
    dialect, caller, names = await _visible_models(request)
    if isinstance(caller, WholeAnswer):
        return caller
    if dialect is anthropic_messages:
        data = [_anthropic_model(name) for name in names]
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return _json({"data": data, "has_more": False, **ends})
    return _json({"object": "list", "data": [_openai_model(name) for name in names]})


async def one_model(request: HttpRequest, name: str) -> HttpResponse:
    """GET /v1/models/{id}."""
    dialect, caller, names = await _visible_models(request)
    if isinstance(caller, WholeAnswer):
        return caller
    real_name = caller.model_aliases.get(name, name)
    is_served = name in names or (
        bool(gateway.running().catalog.targets(real_name)) and admission.may_use(caller, name)
    )
    if not is_served:
        error = NotFound(
            f"The model {clean_line(name)!r} does not exist here, or this key may not use it.", param="model"
        )
        return WholeAnswer.of_error(dialect, error, gateway.running().new_call_id()[1])
    return _json(_anthropic_model(name) if dialect is anthropic_messages else _openai_model(name))


async def _visible_models(request: HttpRequest) -> tuple[Any, Any, list[str]]:
    """Return (dialect, caller, model names); the caller is an error answer where there is none."""
    running = gateway.running()
    dialect = anthropic_messages if "anthropic-version" in request.headers else openai_chat
    try:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("Use GET on this route.", headers={"allow": "GET"})
        caller = await running.authenticator.authenticate(request.headers)
        admission.check_route(caller, request.path, admission.MODELS)
    except GatewayError as error:
        return dialect, WholeAnswer.of_error(dialect, error, running.new_call_id()[1]), []
    return dialect, caller, admission.visible_models(running, caller)


def _openai_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1677610602, "owned_by": "openai"}


def _anthropic_model(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2023-02-28T18:56:42Z"}


def _json(body: dict[str, Any]) -> WholeAnswer:
    return WholeAnswer(
        200, [(b"content-type", b"application/json"), VERSION_HEADER], msgspec.json.encode(body)
    )


def _require_post(request: HttpRequest) -> None:
    if request.method != "POST":
        raise MethodNotAllowed(f"Use POST on this route, not {request.method}.", headers={"allow": "POST"})


async def read_body(request: HttpRequest) -> bytes:
    """Return the body: read here on the lean handler, there already under Django's own."""
    read = getattr(request, "read_body", None)
    return request.body if read is None else await read()


def query_of(request: HttpRequest) -> str:
    """Return the query string as ASCII: what is not, is no query of a provider's API."""
    scope = getattr(request, "scope", None)
    raw: bytes = scope.get("query_string", b"") if scope else request.META.get("QUERY_STRING", "").encode()
    return raw.decode("ascii", "ignore") if raw else ""


def raw_headers(request: HttpRequest) -> Headers:
    raw = getattr(request, "raw_headers", None)
    if raw is not None:
        return raw
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()
    ]


def _opened(
    call_id: bytes,
    now_us: int,
    dialect: Dialect,
    ask: Ask,
    caller: Caller,
    origin: Attribution,
    stores_prompts: bool,
) -> Opened:
    return Opened(
        call_id,
        now_us,
        dialect.NAME,
        clean_line(ask.model),
        ask.streamed,
        caller.key_id,
        caller.team_id,
        origin.user_id,
        origin.customer_id,
        origin.tags,
        origin.user_agent,
        origin.client_tool,
        origin.session_id,
        origin.client_call_id,
        origin.metadata,
        ask.body.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        if stores_prompts
        else "",
    )


def _book_refusal(
    running: gateway.Gateway, opened: Opened, caller: Caller, error: GatewayError, now_us: int
) -> None:
    """Leave a row of a call that was refused: who, why, for nothing."""
    opened.key_id, opened.team_id = caller.key_id, caller.team_id
    opened.user_id = opened.user_id or caller.user_id
    closed = Closed(
        opened.call_id, now_us, "refused", int(error.status), error.type, clean_line(error.message, 500)
    )
    running.append(opened, closed)
