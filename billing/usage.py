"""
What a call used, in one vocabulary: disjoint buckets of tokens, and units beside them.

Every token lands in exactly one bucket, so no token can be billed twice (M1);
"prompt tokens" and the like are derived. Each dialect maps its provider's words to
these in `proxy/dialects/`. Counts are tokens unless the name says otherwise.

Units are what few calls have: seconds, characters, images, and parts of a bucket that
have a price of their own. They are one dict, name → whole number, which most calls leave
out. A name may say which kind after a colon: `web_searches:high`, `output_images:1024x1024`.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Usage(NamedTuple):
    """Token counts by bucket, and the units that are priced apiece."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output_text: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0
    input_image: int = 0
    output_image: int = 0
    web_searches: int = 0  # searches, not tokens

    @property
    def prompt_tokens(self) -> int:
        """All input, cached or not: what OpenAI calls prompt tokens, and what decides long-context prices."""
        return (
            self.input_uncached
            + self.cache_read
            + self.cache_write_5m
            + self.cache_write_1h
            + self.input_audio
            + self.input_image
        )

    @property
    def completion_tokens(self) -> int:
        return self.output_text + self.reasoning + self.output_audio + self.output_image

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


BUCKETS = Usage._fields
TOKEN_BUCKETS = tuple(bucket for bucket in BUCKETS if bucket != "web_searches")
NO_USAGE = Usage()

Units = Mapping[str, int]


class Unit(NamedTuple):
    """How a unit is counted and priced."""

    part_of: str | None  # the bucket that counts it too: it is taken out there where it has its own rate
    per: int  # its rate is for so many
    words: str  # for people: what is counted
    is_measured: bool = False  # a call of nothing else has no price where this has none


_PER_MILLION = 1_000_000
_PER_SECOND = 1_000  # milliseconds

UNITS = {
    "cache_read_audio": Unit("cache_read", _PER_MILLION, "tokens of audio read from the cache"),
    "cache_read_image": Unit("cache_read", _PER_MILLION, "tokens of images read from the cache"),
    "input_video": Unit("input_uncached", _PER_MILLION, "tokens of video sent"),
    "output_video": Unit("output_text", _PER_MILLION, "tokens of video made"),
    "web_searches": Unit("web_searches", 1, "web searches of one context size"),
    "citation_tokens": Unit(None, _PER_MILLION, "tokens of citations"),
    "input_audio_ms": Unit(None, _PER_SECOND, "milliseconds of audio sent", is_measured=True),
    "output_audio_ms": Unit(None, _PER_SECOND, "milliseconds of audio made", is_measured=True),
    "input_video_ms": Unit(None, _PER_SECOND, "milliseconds of video sent", is_measured=True),
    "output_video_ms": Unit(None, _PER_SECOND, "milliseconds of video made", is_measured=True),
    "input_characters": Unit(None, _PER_MILLION, "characters sent", is_measured=True),
    "output_characters": Unit(None, _PER_MILLION, "characters made", is_measured=True),
    "input_images": Unit(None, 1, "images sent", is_measured=True),
    "output_images": Unit(None, 1, "images made", is_measured=True),
    "output_pixels": Unit(None, _PER_MILLION, "pixels made", is_measured=True),
    "queries": Unit(None, 1, "search units", is_measured=True),
    "pages": Unit(None, 1, "pages read", is_measured=True),
    "annotated_pages": Unit(None, 1, "pages annotated", is_measured=True),
    "file_searches": Unit(None, 1, "file searches"),
    "code_sessions": Unit(None, 1, "code interpreter sessions"),
    "map_searches": Unit(None, 1, "map searches"),
}

# Kept beside the units of a call, because its cost cannot be worked out again without them.
REPORTED_COST = "reported_cost_nano"  # what the provider says that the call cost; it is taken as it is
DISCOUNT = "discount_ppm"  # millionths off the cost
MARGIN = "margin_ppm"  # millionths of the cost on top, in the charge
MARGIN_FIXED = "margin_nano"  # nano-dollars on top, in the charge
OWN_PRICE = "own_price_id"  # the row of the customer's rate card that the charge is worked out by
FAST = "speed:fast"
FLAGS = (FAST, "geo:us")  # 1 where the call had it: rates may be multiplied by it


def unit_of(name: str) -> Unit | None:
    """Return what a unit is, by its name without the kind; None: not a quantity."""
    return UNITS.get(name.partition(":")[0])
