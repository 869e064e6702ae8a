"""
JSON in and out, exact: a number with a point is a `Decimal`, never a float.

In: bounded by the server's body limit; not a number, lone surrogates and NUL are refused,
so that no later step meets a text that the database cannot store.
"""

import datetime as dt
from decimal import Decimal
from typing import Any

import msgspec
from django.conf import settings
from rest_framework.exceptions import APIException, ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer

from customers.money import plain_usd

_decoder = msgspec.json.Decoder(float_hook=Decimal)


class BodyTooLarge(APIException):
    status_code = 413
    default_detail = "The body is larger than this gateway takes (MAX_BODY_MB)."


class ExactJSONParser(BaseParser):
    """Reads a JSON body, whatever its content type says: curl's `-d` calls it a form. Empty: {}."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        if len(body) > settings.MAX_BODY_BYTES:
            raise BodyTooLarge
        if not body.strip():
            return {}
        try:
            value = _decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeError, ArithmeticError) as error:
            raise ParseError(f"The body is not JSON: {error}") from None
        if b"\\u0000" in body and _has_nul(value):
            raise ParseError("The body has a NUL character (\\u0000), which no text may have.")
        return value


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


class ExactJSONRenderer(BaseRenderer):
    """JSON in which a Decimal is a plain number with all its digits: 0.001112."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:
        return b"null" if data is None else msgspec.json.encode(exact(data))


def read_exact(text: str | bytes) -> Any:
    """Return what our own JSON says; a number with a point is a `Decimal`."""
    return _decoder.decode(text)


def write_exact(value: Any) -> str:
    """Return `value` as `ExactJSONRenderer` writes it."""
    return msgspec.json.encode(exact(value)).decode()


class AlwaysFirst(BaseContentNegotiation):
    """Everything is read and answered in the view's first format, also where `Accept` asks for another."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Any, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def exact(value: Any) -> Any:
    """Return `value` for msgspec's encoder: decimals as they are, instants in UTC with a `Z`."""
    if isinstance(value, Decimal):
        return msgspec.Raw(plain_usd(value).encode())
    if isinstance(value, dict):
        return {str(key): exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    if isinstance(value, dt.datetime) and value.tzinfo:
        return value.astimezone(dt.UTC)
    return value
