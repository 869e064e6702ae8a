"""
Which headers go upstream, and which come back.

Upstream go those that providers define and nothing else: never the caller's key, no
cookie, none of the caller's own infrastructure. Back come the provider's headers
under `llm_provider-…`, the useful ones under their own names too, and ours
(contract 4). Names and values are bytes, as ASGI has them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import httpx

from spendproject import __version__

Headers = list[tuple[bytes, bytes]]

_GO_UPSTREAM = frozenset(
    b"accept accept-language content-type http-referer idempotency-key user-agent x-app x-title".split()
)
_GO_UPSTREAM_PREFIXES = (b"anthropic-", b"openai-", b"x-stainless-")

# A body is relayed in other pieces than it came in; the rest belongs to one hop.
_ONE_HOP = frozenset(
    b"connection content-length date keep-alive proxy-authenticate server set-cookie "
    b"strict-transport-security te trailer transfer-encoding upgrade alt-svc content-encoding "
    b"content-type".split()
)
_COME_BACK = frozenset(b"request-id x-request-id retry-after retry-after-ms x-should-retry".split())
_COME_BACK_PREFIXES = (b"x-ratelimit-", b"anthropic-", b"openai-")

# Optimization: the same dozen names come with every call; each is judged once.
_upstream_verdicts: dict[bytes, bool] = {}
_answer_verdicts: dict[bytes, tuple[bytes | None, bool]] = {}
_MAX_VERDICTS = 4096

VERSION_HEADER = (b"x-litellm-version", __version__.encode())


class UpstreamHeaders(NamedTuple):
    """The headers of a request to a provider: as httpx has them, and as they go over the wire."""

    parsed: httpx.Headers
    block: bytes

    @classmethod
    def of(cls, headers: Headers) -> "UpstreamHeaders":
        return cls(httpx.Headers(headers), block(headers))


def block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as HTTP/1.1 writes them; a line break within one would begin another, so it goes."""
    return b"".join(b"%b: %b\r\n" % (_one_line(name), _one_line(value)) for name, value in headers)


def _one_line(text: bytes) -> bytes:
    return text.replace(b"\r", b" ").replace(b"\n", b" ")


def for_upstream(caller_headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the caller's headers that a provider may see. Their names arrive in lower case."""
    kept: Headers = []
    for pair in caller_headers:
        verdict = _upstream_verdicts.get(pair[0])
        if verdict is None:
            name = pair[0]
            verdict = name in _GO_UPSTREAM or name.startswith(_GO_UPSTREAM_PREFIXES)
            if len(_upstream_verdicts) > _MAX_VERDICTS:
                _upstream_verdicts.clear()
            _upstream_verdicts[name] = verdict
        if verdict:
            kept.append(pair)
    return kept


def from_upstream(answer_headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return a provider's headers as the caller gets them."""
    kept: Headers = []
    for name, value in answer_headers:
        verdict = _answer_verdicts.get(name)
        if verdict is None:
            verdict = _answer_verdict(name.lower())
            if len(_answer_verdicts) > _MAX_VERDICTS:
                _answer_verdicts.clear()
            _answer_verdicts[name] = verdict
        prefixed, comes_back = verdict
        if prefixed is not None:
            kept.append((prefixed, value))
            if comes_back:
                kept.append((name, value))
    return kept


def _answer_verdict(name: bytes) -> tuple[bytes | None, bool]:
    """Return (the name under `llm_provider-`, or None to drop it; whether it also keeps its own name)."""
    if name in _ONE_HOP:
        return None, False
    return b"llm_provider-" + name, name in _COME_BACK or name.startswith(_COME_BACK_PREFIXES)


def value_of(wanted: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the first value of a header; empty where it is not there. Names are in lower case."""
    for name, value in headers:
        if name == wanted:
            return value
    return b""


def safe(value: str) -> bytes:
    """Return text as a header value: line breaks cannot get in, other scripts are UTF-8."""
    return value.replace("\r", " ").replace("\n", " ").encode("utf-8")
