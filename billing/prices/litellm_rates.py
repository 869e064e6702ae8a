"""
LiteLLM's names of rates, in USD per token or apiece, → where `Price` keeps them.

Used where config.yaml gives rates of a model, and where a whole cost map is read
(`billing/prices/cost_map.py`). A name is a rate, then perhaps a number of prompt tokens, then perhaps
a service tier: `input_cost_per_token_above_200k_tokens_priority`. Arithmetic and names only.

Without a place: rates by the hour of the day, storage by the day, computer use, twelve hours
of cache, the time that a rented server ran.

Source: LiteLLM 1.109, model_prices_and_context_window.json.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from customers.money import plain_usd

PER_TOKEN = {
    "input_cost_per_token": "input_per_mtok_usd",
    "output_cost_per_token": "output_per_mtok_usd",
    "output_cost_per_reasoning_token": "reasoning_per_mtok_usd",
    "cache_read_input_token_cost": "cache_read_per_mtok_usd",
    "input_cost_per_token_cache_hit": "cache_read_per_mtok_usd",
    "cache_creation_input_token_cost": "cache_write_5m_per_mtok_usd",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_per_mtok_usd",
    "input_cost_per_audio_token": "input_audio_per_mtok_usd",
    "output_cost_per_audio_token": "output_audio_per_mtok_usd",
    "input_cost_per_image_token": "input_image_per_mtok_usd",
    "output_cost_per_image_token": "output_image_per_mtok_usd",
}
PER_REQUEST = "input_cost_per_request"
SEARCHES = "search_context_cost_per_query"
SEARCH_SIZES = ("low", "medium", "high")
MULTIPLIERS = "provider_specific_entry"
SERVICE_TIERS = {  # how a name ends → the tier
    "batches": "batch", "flex": "flex", "priority": "priority", "balanced": "balanced",
    "ultrafast": "ultrafast", "decisions": "decisions",
}  # fmt: skip
_FLAGS = {"fast": "speed:fast", "us": "geo:us"}  # theirs → ours

_MILLION = 1_000_000
# Their rate of a unit → (ours, how many of theirs ours is for).
_UNITS: dict[str, tuple[str, Decimal | int]] = {
    "cache_read_input_audio_token_cost": ("cache_read_audio", _MILLION),
    "cache_read_input_image_token_cost": ("cache_read_image", _MILLION),
    "input_cost_per_video_token": ("input_video", _MILLION),
    "output_cost_per_video_token": ("output_video", _MILLION),
    "citation_cost_per_token": ("citation_tokens", _MILLION),
    "input_cost_per_character": ("input_characters", _MILLION),
    "output_cost_per_character": ("output_characters", _MILLION),
    "input_cost_per_image": ("input_images", 1),
    "output_cost_per_image": ("output_images", 1),
    "input_cost_per_pixel": ("output_pixels", _MILLION),
    "output_cost_per_pixel": ("output_pixels", _MILLION),
    "input_cost_per_audio_per_second": ("input_audio_ms", 1),
    "input_cost_per_video_per_second": ("input_video_ms", 1),
    "output_cost_per_video_per_second": ("output_video_ms", 1),
    "input_cost_per_query": ("queries", 1),
    "ocr_cost_per_page": ("pages", 1),
    "annotation_cost_per_page": ("annotated_pages", 1),
    "google_maps_grounding_cost_per_query": ("map_searches", 1),
    "file_search_cost_per_1k_calls": ("file_searches", Decimal("0.001")),
    "code_interpreter_cost_per_session": ("code_sessions", 1),
}
# Seconds of what: that depends on what the model is for. A chat model's are those of a rented server.
_SECONDS = {
    ("audio_transcription", "input_cost_per_second"): "input_audio_ms",
    ("audio_transcription", "output_cost_per_second"): "input_audio_ms",
    ("audio_speech", "output_cost_per_second"): "output_audio_ms",
    ("video_generation", "output_cost_per_second"): "output_video_ms",
}
_KINDS = re.compile(r"(?P<rate>output_cost_per_(?:image|second))_(?P<kind>[0-9][0-9A-Za-z.x]{0,15})")
_SERVICE_TIER = re.compile(rf"(?P<rate>.+)_(?P<tier>{'|'.join(SERVICE_TIERS)})")
ABOVE = re.compile(r"(?P<rate>.+)_above_(?P<thousands>[1-9][0-9]{0,5})k_tokens")
_NANO = Decimal("0.000000001")  # what a rate field keeps
_LARGEST = Decimal(10) ** 9
_INCLUSIVE = ("x-ai", "xai")  # whose long-context rates begin at the threshold, not behind it


class Place(NamedTuple):
    """Where a rate is kept: a field of `Price`, or a unit; above how many prompt tokens; in which tier."""

    name: str
    is_unit: bool
    times: Decimal | int  # their rate times this is ours
    above: int | None = None
    service_tier: str = ""


def is_rate(name: str) -> bool:
    return "cost_per" in name or "_cost" in name or name == "tiered_pricing"


def place_of(name: str, mode: str | None = None) -> Place | None:
    """Return where the rate is kept; None: nowhere. mode: what the model is for, as LiteLLM says it."""
    tier = _SERVICE_TIER.fullmatch(name)
    service_tier = SERVICE_TIERS[tier["tier"]] if tier else ""
    name = tier["rate"] if tier else name
    threshold = ABOVE.fullmatch(name)
    above = int(threshold["thousands"]) * 1000 if threshold else None
    name = threshold["rate"] if threshold else name
    if name in PER_TOKEN:
        return Place(PER_TOKEN[name], False, _MILLION, above, service_tier)
    if name == PER_REQUEST:
        return Place("per_request_usd", False, 1, above, service_tier)
    kind = _KINDS.fullmatch(name)
    known_as = kind["rate"] if kind else name
    unit = _SECONDS.get((mode or "", known_as))
    found: tuple[str, Decimal | int] | None = (unit, 1) if unit else _UNITS.get(known_as)
    if found is None:
        return None
    suffix = f":{kind['kind']}" if kind else ""
    return Place(found[0] + suffix, True, found[1], above, service_tier)


def threshold_of(provider: str, tokens: int) -> int:
    """Return the most prompt tokens that a call may have without the rates "above" so many."""
    return tokens - 1 if provider in _INCLUSIVE else tokens


class Sheet:
    """The rates of one model as they come in, laid out as `Price` keeps them."""

    def __init__(self, *, write: Callable[[Decimal], str] = plain_usd) -> None:
        """write: how a rate is written where it is kept as text."""
        self.base: dict[str, Decimal] = {}
        self.units: dict[str, Decimal] = {}
        self._above: dict[int, Sheet] = {}
        self._services: dict[str, Sheet] = {}
        self._multiplier: Decimal | None = None
        self._write = write

    def put(self, place: Place, rate: Decimal) -> None:
        """Take a rate of theirs, in USD per token or apiece. Raises: ValueError."""
        sheet = self.service_tier(place.service_tier).above(place.above)
        ours = apiece(rate * place.times)
        (sheet.units if place.is_unit else sheet.base)[place.name] = ours

    def put_searches(self, by_size: Mapping[str, Decimal]) -> None:
        """Take the rates of a web search: by the size of its context where they differ."""
        medium = by_size.get("medium", next(iter(by_size.values()), None))
        if medium is None:
            return
        self.base["per_web_search_usd"] = apiece(medium)
        for size, rate in by_size.items():
            if rate != medium:
                self.units[f"web_searches:{size}"] = apiece(rate)

    def put_multiplier(self, theirs: str, factor: Decimal) -> None:
        if (flag := _FLAGS.get(theirs)) is not None:
            self.service_tier(flag)._multiplier = apiece(factor)

    def above(self, prompt_tokens: int | None) -> "Sheet":
        """Return the part for prompts of more tokens; None: the sheet itself."""
        if prompt_tokens is None:
            return self
        return self._above.setdefault(prompt_tokens, Sheet(write=self._write))

    def service_tier(self, name: str) -> "Sheet":
        """Return the part for a service tier; empty: the sheet itself."""
        return self._services.setdefault(name, Sheet(write=self._write)) if name else self

    @property
    def is_empty(self) -> bool:
        return not (self.base or self.units or self._above or self._services)

    @property
    def costs_something(self) -> bool:
        parts = [*self._above.values(), *self._services.values()]
        return any(self.base.values()) or any(self.units.values()) or any(p.costs_something for p in parts)

    def unit_rates(self) -> dict[str, str]:
        return {name: self._write(self.units[name]) for name in sorted(self.units)}

    def tiers(self) -> list[dict[str, Any]]:
        return [{"above_prompt_tokens": above, **self._above[above]._part()} for above in sorted(self._above)]

    def service_tiers(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name in sorted(self._services):
            sheet = self._services[name]
            found[name] = sheet._part()
            if sheet._above:
                found[name]["long_context_tiers"] = sheet.tiers()
            if sheet._multiplier is not None:
                found[name]["multiplier"] = self._write(sheet._multiplier)
        return found

    def fields(self) -> dict[str, Any]:
        """Return the fields of `Price`."""
        return {
            **self.base,
            "long_context_tiers": self.tiers(),
            "unit_rates": self.unit_rates(),
            "service_tiers": self.service_tiers(),
        }

    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = {name: self._write(rate) for name, rate in self.base.items()}
        return {**part, "unit_rates": self.unit_rates()} if self.units else part


# -- the way back ------------------------------------------------------------------------

_NAMES = {ours: theirs for theirs, ours in reversed(PER_TOKEN.items())}
_UNIT_NAMES = {ours: (theirs, times) for theirs, (ours, times) in reversed(_UNITS.items())} | {
    "input_audio_ms": ("input_cost_per_second", 1),
    "output_audio_ms": ("output_cost_per_second", 1),
    "output_video_ms": ("output_cost_per_second", 1),
}
_ENDINGS = {tier: f"_{ending}" for ending, tier in SERVICE_TIERS.items()}
_SEARCHES_OF = "web_searches:"


def names_of_rates(provider: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `Price` in LiteLLM's names: rates that it gives, none that stand in for others."""
    found: dict[str, Any] = _named(fields, "")
    for tier in fields.get("long_context_tiers") or ():
        found |= _named(tier, _above(provider, tier["above_prompt_tokens"]))
    multipliers = {}
    for name, part in (fields.get("service_tiers") or {}).items():
        if "multiplier" in part:
            known_as = {flag: theirs for theirs, flag in _FLAGS.items()}
            multipliers[known_as.get(name, name)] = Decimal(part["multiplier"])
        ending = _ENDINGS.get(name)
        if ending is None:
            continue  # a tier that LiteLLM has no name for
        found |= _named(part, ending)
        for tier in part.get("long_context_tiers", ()):
            found |= _named(tier, _above(provider, tier["above_prompt_tokens"]) + ending)
    if multipliers:
        found[MULTIPLIERS] = multipliers
    return found | _searches(fields)


def _named(part: Mapping[str, Any], ending: str) -> dict[str, Any]:
    found = {
        f"{theirs}{ending}": Decimal(part[ours]).scaleb(-6)  # exact
        for ours, theirs in _NAMES.items()
        if part.get(ours) is not None
    }
    if part.get("per_request_usd") is not None:
        found[f"{PER_REQUEST}{ending}"] = Decimal(part["per_request_usd"])
    for name, rate in (part.get("unit_rates") or {}).items():
        unit, _, kind = name.partition(":")
        if unit in _UNIT_NAMES:
            theirs, times = _UNIT_NAMES[unit]
            found[f"{theirs}{f'_{kind}' if kind else ''}{ending}"] = Decimal(rate) / times
    return found


def _searches(fields: Mapping[str, Any]) -> dict[str, Any]:
    usual = fields.get("per_web_search_usd")
    if usual is None:
        return {}
    units = fields.get("unit_rates") or {}
    rates = {size: units.get(f"{_SEARCHES_OF}{size}", usual) for size in SEARCH_SIZES}
    return {SEARCHES: {f"search_context_size_{size}": Decimal(rate) for size, rate in rates.items()}}


def _above(provider: str, tokens: int) -> str:
    tokens += provider in _INCLUSIVE
    return f"_above_{tokens // 1000}k_tokens" if tokens % 1000 == 0 else f"_above_{tokens}_tokens"


def apiece(rate: Decimal) -> Decimal:
    """Return a rate as a field of `Price` keeps it. Raises: ValueError."""
    if not 0 <= rate < _LARGEST:
        raise ValueError("write a rate in USD of at least 0, per token or apiece")
    return rate.quantize(_NANO)
