"""
What a call used, in one vocabulary of disjoint buckets.

Every token lands in exactly one bucket, so no token can be billed twice (M1);
"prompt tokens" and the like are derived. Each dialect maps its provider's words to
these in `proxy/dialects/`. Counts are tokens unless the name says otherwise.
"""

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
NO_USAGE = Usage()
