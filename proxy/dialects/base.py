"""What every dialect reads and returns, and how bodies are decoded and edited."""

import re
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec

from billing.usage import NO_USAGE, Usage
from proxy.errors import BadCall
from proxy.identification import Said


class Ask(NamedTuple):
    """What the gateway needs to know of a call's body."""

    model: str
    body_model: str | None  # the model in the body; a path may name another
    streamed: bool
    body: bytes
    said: Said
    max_output_tokens: int | None = None
    adds_usage: bool = False  # we ask for the usage event that the client did not ask for
    choices: int = 1  # how many answers the provider generates, and bills
    service_tier: str = ""  # what is asked for; what the answer says of it counts first
    search_size: str = ""  # of a web search's context, where the call says: low, medium, high


_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class CacheControl(
    msgspec.Struct, rename={"no_cache": "no-cache", "no_store": "no-store", "max_age": "s-maxage"}
):
    """What a call's field `cache` may say (`response_cache.py`); other names in it are ignored."""

    no_cache: bool | None = None
    no_store: bool | None = None
    ttl: _Seconds | None = None
    max_age: _Seconds | None = None
    namespace: str | None = None


class Answer(NamedTuple):
    """What the gateway needs to know of a whole answer; `usage` is None where it does not say."""

    usage: Usage | None
    response_id: str = ""
    service_tier: str = ""
    units: dict[str, int] | None = None  # beside the tokens (`billing/usage.py`)


class Meter:
    """Reads a streamed answer as it passes. Counts what is seen, for the case that the end is not."""

    def __init__(self) -> None:
        self.usage: Usage | None = None  # the provider's own, once it has said so
        self.seen = NO_USAGE  # what the provider has said so far, e.g. the input side
        self.response_id = ""
        self.service_tier = ""
        self.units: dict[str, int] | None = None  # with `usage`
        self.deltas = 0
        self.characters = 0
        self.is_complete = False  # the stream's own end was seen
        self.failed = False  # the provider reported an error inside the stream

    def takes(self, chunk: bytes) -> bool:
        """Read a chunk that its bytes tell to be one event with a piece of text; else return False.

        What is counted here only estimates use: a quote inside the text cuts it short.
        """
        return False

    def _takes_named(self, chunk: bytes, beginning: bytes, text: bytes) -> bool:
        """Do `takes` for events with a name: `beginning` starts the event, `text` its piece of text."""
        if not chunk.startswith(beginning) or chunk.count(b"\n") != 3 or not chunk.endswith(b"\n\n"):
            return False
        start = chunk.find(text) + len(text)
        if start < len(text):
            return False
        self.deltas += 1
        self.characters += max(1, chunk.find(b'"', start) - start)
        return True

    def feed(self, data: bytes) -> bool:
        """Read one event's data. Returns: True where it carries nothing but the usage."""
        raise NotImplementedError


class Dialect(Protocol):
    """The names each dialect module has."""

    NAME: str
    UPSTREAM_PATH: str
    BILLABLE: bool
    HAS_OUTPUT: bool
    Meter: type[Meter]

    def base_url(self, target: Any) -> str: ...
    def credential_headers(self, target: Any) -> list[tuple[bytes, bytes]]: ...
    def output_limit_field(self, target: Any) -> str: ...
    def unbounded(self, body: bytes) -> list[str]: ...
    def read_call(self, body: bytes, model: str | None = None) -> Ask: ...
    def read_answer(self, data: bytes) -> Answer: ...
    def error_body(self, error: Any, call_id: str) -> bytes: ...
    def stream_error(self, error: Any, call_id: str) -> bytes: ...
    def edited(
        self,
        body: bytes,
        *,
        model: str | None,
        include_usage: bool,
        said: Said,
        output_limit: tuple[str, int] | None = None,
    ) -> bytes: ...


# What decoding may raise: endless nesting is no error of msgspec's.
UNREADABLE = (msgspec.MsgspecError, RecursionError)


class UnreadableAnswer(ValueError):
    """A provider's answer is not what its dialect promises."""


_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder()

# Read by the gateway, unknown to providers: some refuse a call that carries them.
_OURS = ("tags", "litellm_metadata", "cache")
_OURS_IN_METADATA = ("tags", "spend_logs_metadata")


def decode(decoder: msgspec.json.Decoder, body: bytes) -> Any:
    """Return the typed fields of `body`. Raises: BadCall that says what is wrong where."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadCall(f"The body is not UTF-8 (at byte {error.start}).") from None
    except msgspec.ValidationError as error:
        raise BadCall(f"The body is not usable: {error}.") from None
    except msgspec.DecodeError as error:
        raise BadCall(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise BadCall("The body is nested too deeply.") from None


def model_of(in_body: Any, in_path: str | None) -> str:
    """Return the model that is asked for. Raises: BadCall."""
    model = in_path or in_body
    if not model:
        raise BadCall("The body names no model.", param="model")
    return model


def edited(
    body: bytes,
    *,
    model: str | None,
    include_usage: bool,
    said: Said,
    output_limit: tuple[str, int] | None = None,
) -> bytes:
    """Return `body` for upstream: other fields keep their bytes.

    model: the upstream's name, or None where it is the one in the body.
    output_limit: (field, tokens) that a strict budget sets where the call names none.
    """
    strips = _needs_stripping(said)
    if model is None and not include_usage and not strips and output_limit is None:
        return body
    fields = _raw_fields.decode(body)
    if output_limit is not None:
        fields[output_limit[0]] = msgspec.Raw(b"%d" % output_limit[1])
    if model is not None:
        fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    if include_usage:
        options = _any.decode(fields["stream_options"]) if "stream_options" in fields else None
        fields["stream_options"] = msgspec.Raw(
            msgspec.json.encode({**(options or {}), "include_usage": True})
        )
    if strips:
        for name in _OURS:
            fields.pop(name, None)
        metadata = said.metadata
        if isinstance(metadata, dict) and any(name in metadata for name in _OURS_IN_METADATA):
            kept = {name: value for name, value in metadata.items() if name not in _OURS_IN_METADATA}
            if kept:
                fields["metadata"] = msgspec.Raw(msgspec.json.encode(kept))
            else:
                fields.pop("metadata", None)
    return msgspec.json.encode(fields)


def _needs_stripping(said: Said) -> bool:
    metadata = said.metadata
    return (
        said.tags is not None
        or said.litellm_metadata is not None
        or said.cache is not None
        or (isinstance(metadata, dict) and ("tags" in metadata or "spend_logs_metadata" in metadata))
    )


def search_size(body: bytes) -> str:
    """Return how much context a call's web searches are to have; empty: it does not say."""
    if b'"search_context_size"' not in body:
        return ""
    found = _SEARCH_SIZE.search(body)  # inside a text its quotes would be escaped
    return found[1].decode() if found else ""


_SEARCH_SIZE = re.compile(rb'"search_context_size"\s*:\s*"(low|medium|high)"')


def short(value: Any) -> str:
    """Return a short text that a body may have in a field; empty for anything else."""
    return value if isinstance(value, str) and len(value) <= _LONGEST_WORD else ""


_LONGEST_WORD = 30


# No provider takes more; and what such a number of tokens costs can still be added up.
_MOST = 2**31 - 1


def positive(*values: Any) -> int | None:
    """Return the first value that is a positive whole number, at most 2 147 483 647."""
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return min(value, _MOST)
    return None
