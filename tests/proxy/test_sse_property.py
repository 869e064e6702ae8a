"""
However a provider's stream is cut into pieces, the client gets the same bytes and we the same usage.

The streams are what `tests/provider` sends in each dialect, recorded here by asking its
dialect modules for their events.
"""

import itertools
import json
from decimal import Decimal
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from proxy.dialects import anthropic_messages, openai_chat, openai_completions, openai_responses
from proxy.relay import StreamRelay
from tests.provider.behaviour import Behaviour
from tests.provider.calls import Call
from tests.provider.dialects import anthropic_messages as fake_messages
from tests.provider.dialects import openai_chat as fake_chat
from tests.provider.dialects import openai_completions as fake_completions
from tests.provider.dialects import openai_responses as fake_responses

ODD_TEXT = "Zażółć 🦔 \u2028 \r\n\r\n data: [DONE]\n\n event: message_stop"


class Recording(NamedTuple):
    """One stream as a provider sends it."""

    name: str
    dialect: ModuleType
    events: list[bytes]
    usage: Usage


def _record(dialect: ModuleType, fake: ModuleType, name: str, **behaviour: Any) -> list[Recording]:
    """Return a stream's recordings with both kinds of line ends."""
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 50}
    request = {"model": "m", "messages": [{"content": "Hello"}], "prompt": "Hello", "input": "Hello"}
    cached = {} if fake is fake_completions else {"cached_tokens": 30, "cache_write_5m": 4}
    hours = {"cache_write_1h": 2} if fake is fake_messages else {}
    thought = {} if fake is fake_completions else {"reasoning_tokens": 3}
    numbers = {"input_tokens": 100, "output_tokens": 9, **cached, **hours, **thought}
    call = Call(fake, {**request, **options}, Behaviour(**{**numbers, "chunks": 4, **behaviour}))
    usage = Usage(
        input_uncached=call.input_uncached,
        cache_read=call.cache_read,
        cache_write_5m=call.cache_write_5m,
        cache_write_1h=call.cache_write_1h,
        output_text=call.output_tokens - call.reasoning_tokens,
        reasoning=call.reasoning_tokens,
    )
    events = [event for event, _ in fake.events(call)]
    with_cr = [event.replace(b"\n", b"\r\n") for event in events]
    return [
        Recording(f"{dialect.NAME}, {name}", dialect, events, usage),
        Recording(f"{dialect.NAME}, {name}, CRLF", dialect, with_cr, usage),
    ]


RECORDINGS = [
    recording
    for dialect, fake in (
        (openai_chat, fake_chat),
        (openai_completions, fake_completions),
        (openai_responses, fake_responses),
        (anthropic_messages, fake_messages),
    )
    for name, behaviour in (
        ("text", {}),
        ("odd text", {"text": ODD_TEXT}),
        ("usage in the last chunk", {"usage_in_last_chunk": True}),
        ("repeated usage", {"repeat_input_usage": True}),
        ("tool", {"tool_call": True}),
    )
    for recording in _record(dialect, fake, name, **behaviour)
]
each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)


def relayed(recording: Recording, pieces: list[bytes], **options: Any) -> tuple[bytes, StreamRelay]:
    """Return what the client gets of a stream that arrives in `pieces`, and the relay behind it."""
    relay = StreamRelay(recording.dialect.Meter(), **{"hides_usage": False, **options})
    return b"".join([*map(relay.feed, pieces), relay.finish()]), relay


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(ends)]


def is_usage_alone(event: bytes) -> bool:
    return b'"choices":[]' in event


places = st.lists(st.integers(min_value=0, max_value=1 << 20), max_size=40)


@each_recording
@settings(max_examples=40, deadline=None)
@given(places=places)
def test_a_stream_passes_unchanged_and_is_metered(recording: Recording, places: list[int]) -> None:
    stream = b"".join(recording.events)

    got, relay = relayed(recording, cut(stream, places))

    assert got == stream
    assert relay.meter.usage == recording.usage
    assert relay.meter.is_complete
    assert not relay.meter.failed


@each_recording
@settings(max_examples=40, deadline=None)
@given(places=places)
def test_only_the_usage_event_is_taken_out(recording: Recording, places: list[int]) -> None:
    expected = b"".join(event for event in recording.events if not is_usage_alone(event))

    got, relay = relayed(recording, cut(b"".join(recording.events), places), hides_usage=True)

    assert got == expected
    assert relay.meter.usage == recording.usage


@each_recording
@settings(max_examples=20, deadline=None)
@given(places=places)
def test_the_cost_is_put_into_the_usage_event_wherever_it_is_cut(
    recording: Recording, places: list[int]
) -> None:
    cost = Decimal("0.000123456")
    stream = b"".join(recording.events)

    got, relay = relayed(recording, cut(stream, places), cost_of=lambda usage: cost)

    whole, _ = relayed(recording, [stream], cost_of=lambda usage: cost)
    assert got == whole
    assert got.count(b'"cost":0.000123456') == 1
    assert relay.meter.usage == recording.usage


@each_recording
def test_byte_by_byte(recording: Recording) -> None:
    stream = b"".join(recording.events)

    got, relay = relayed(recording, [stream[i : i + 1] for i in range(len(stream))])

    assert (got, relay.meter.usage) == (stream, recording.usage)


@each_recording
@settings(max_examples=20, deadline=None)
@given(places=places, end=st.integers(min_value=0, max_value=1 << 20))
def test_the_beginning_of_a_stream_is_never_believed_to_be_all(
    recording: Recording, places: list[int], end: int
) -> None:
    stream = b"".join(recording.events)
    stream = stream[: end % len(stream)]

    got, relay = relayed(recording, cut(stream, places))
    _, at_once = relayed(recording, [stream])

    assert got == stream
    assert relay.meter.usage == at_once.meter.usage
    assert relay.meter.usage in (None, recording.usage)
    assert (relay.meter.deltas, relay.meter.characters) == (at_once.meter.deltas, at_once.meter.characters)


@settings(max_examples=150, deadline=None)
@given(
    junk=st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [b"\n\n", b"\r\n\r\n", b"\r\r", b"\r", b"\n", b": ping", b"data:", b"data: {", b"event: x"]
            ),
        ),
        max_size=30,
    ),
    places=places,
    hides_usage=st.booleans(),
)
def test_anything_at_all_passes(junk: list[bytes], places: list[int], hides_usage: bool) -> None:
    stream = b"".join(junk)
    for recording in RECORDINGS[::10]:
        got, _ = relayed(recording, cut(stream, places), hides_usage=hides_usage)

        assert got == stream


COUNTS = st.none() | st.integers(min_value=-(10**20), max_value=10**20)
COUNTED = [
    *("input_tokens", "output_tokens", "prompt_tokens", "completion_tokens", "cached_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "ephemeral_5m_input_tokens"),
    *("ephemeral_1h_input_tokens", "reasoning_tokens", "thinking_tokens", "web_search_requests"),
]
DETAILS = [
    *("prompt_tokens_details", "completion_tokens_details", "input_tokens_details"),
    *("output_tokens_details", "cache_creation", "server_tool_use"),
]
counts = st.dictionaries(st.sampled_from(COUNTED), COUNTS, max_size=6)


@settings(max_examples=150, deadline=None)
@given(usage=counts, details=st.dictionaries(st.sampled_from(DETAILS), counts, max_size=3))
def test_no_bucket_is_ever_negative_whatever_a_provider_says(
    usage: dict[str, Any], details: dict[str, Any]
) -> None:
    said = {"usage": {**usage, **details}}
    events = (
        {**said, "choices": []},
        {"type": "message_start", "message": said},
        {"type": "message_delta", **said},
        {"type": "response.completed", "response": said},
    )
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    for dialect in (openai_chat, openai_completions, openai_responses, anthropic_messages):
        relay = StreamRelay(dialect.Meter(), hides_usage=False)

        assert relay.feed(stream) == stream
        assert min(relay.meter.usage or relay.meter.seen) >= 0
        assert min(dialect.read_answer(json.dumps(said).encode()).usage or (0,)) >= 0


shapes = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["usage", "choices", "delta", "type", "message", "response", "id", "error"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(value=shapes)
def test_json_of_any_shape_breaks_no_meter(value: Any) -> None:
    event = b"data: " + json.dumps(value).encode() + b"\n\n"
    for dialect in (openai_chat, openai_completions, openai_responses, anthropic_messages):
        relay = StreamRelay(dialect.Meter(), hides_usage=False)

        assert relay.feed(event) == event
