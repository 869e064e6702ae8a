"""
How one call shall be answered: the fields of a request's top-level `"fake": {...}`.

A request's own fields lie over the defaults set by POST /__behave; null means unset.
An unknown field is answered with 400, so that a misspelt test cannot pass by chance.

`input_tokens` is what the dialect's own usage will say (`prompt_tokens` or
`input_tokens`): OpenAI's count includes cached tokens, Anthropic's leaves out cache
reads and writes. `output_tokens` includes `reasoning_tokens` in every dialect.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

FAILURES = (
    "status", "hang", "hang_after", "cut_after", "html", "half_json", "empty", "no_answer", "redirect",
)  # fmt: skip


@dataclass(slots=True, frozen=True)
class Behaviour:
    # Usage. Default: input from the prompt's length / 4, output 20 or the request's own maximum if less.
    input_tokens: int | None = None
    output_tokens: int | None = None
    obeys_maximum: bool = False  # output_tokens is cut to the request's own maximum, for each of `n` answers
    cached_tokens: int = 0
    cache_write_5m: int = 0  # OpenAI knows one kind of cache write: this one
    cache_write_1h: int = 0  # Anthropic only
    reasoning_tokens: int = 0
    web_search_requests: int = 0  # Anthropic only; reported, never billed
    no_usage: bool = False  # leave usage out of body or stream; billed all the same
    usage_in_last_chunk: bool = False  # OpenAI chat and completions: in the finish_reason chunk, always
    repeat_input_usage: bool = False  # Anthropic: message_delta repeats the input side, as newer servers do

    # Content.
    text: str | None = None
    big: int | None = None  # answer text of that many bytes
    chunks: int | None = None  # content deltas; default one per output token, at most 2000
    tool_call: Any = None  # true, or {"name": ..., "arguments": {...}}
    model_in_response: str | None = None  # billed is the model asked for
    response_id: str | None = None
    service_tier: str | None = None  # reported, never priced

    # Time and transport.
    delay_ms: float = 0  # before the response head
    chunk_delay_ms: float = 0  # between stream events
    crlf: bool = False  # CRLF line ends in the stream
    split: int = 0  # stream bytes in pieces of that size, across event borders
    gzip: bool = False  # content-encoding gzip, asked for or not

    # Failures. Unbilled: status, html, no_answer, redirect. See answers.py.
    status: int | None = None
    retry_after: int = 1  # seconds, sent with 429
    hang: bool = False  # never answer; a plain call is billed in full, a stream its input
    hang_after: int | None = None  # stream: silence after that many events, connection open
    cut_after: int | None = None  # stream: close without the terminating chunk after that many events
    html: bool | int = False  # a text/html page with 200, or with that status
    half_json: bool = False  # JSON cut in the middle; content-length fits
    empty: bool = False  # 200, no body
    no_answer: bool = False  # close without a byte
    redirect: bool | str = False  # 302, elsewhere or there
    fail_times: int = 0  # fail (as above, else with 500) that many first calls of `key`, then succeed

    # For the test's own book-keeping, copied to the bill.
    key: str = ""
    tag: str | None = None

    @property
    def is_billed(self) -> bool:
        return not (self.status or self.html or self.no_answer or self.redirect)

    @property
    def is_failing(self) -> bool:
        values = [getattr(self, name) for name in FAILURES]
        return any(value is not None and value is not False for value in values)  # cut_after 0 does fail

    def failing(self) -> "Behaviour":
        return self if self.is_failing else replace(self, status=500)

    def succeeding(self) -> "Behaviour":
        defaults = {field.name: field.default for field in fields(self)}
        return replace(self, **{name: defaults[name] for name in FAILURES})


def read_behaviour(defaults: dict[str, Any], own: Any) -> Behaviour:
    """Merge `own` over `defaults`; raises ValueError on anything but known fields."""
    if own is not None and not isinstance(own, dict):
        raise ValueError("fake must be an object")
    merged = {**defaults, **(own or {})}
    try:
        return Behaviour(**{name: value for name, value in merged.items() if value is not None})
    except TypeError as error:
        raise ValueError(f"fake: {error}") from None
