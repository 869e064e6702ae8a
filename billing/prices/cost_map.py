"""
Read a LiteLLM cost map, from a file or a URL, into unsaved `Price` rows.

A map is one JSON object: model name → its rates, in USD per token or apiece. Where each of
them goes is in `billing/prices/litellm_rates.py`. Some have no place in `Price`, such as those of
off-peak hours and of rented servers: an entry that has no other rate is left out, not taken as
free.

Nothing is written here: `billing/prices/sync.py`. Source: LiteLLM 1.109.
"""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from billing.models import Price
from billing.prices.litellm_rates import (
    MULTIPLIERS,
    PER_TOKEN,
    SEARCH_SIZES,
    SEARCHES,
    Sheet,
    is_rate,
    place_of,
    threshold_of,
)
from customers.text import is_clean_id

PUBLISHED = "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
MOST_BYTES = 32 * 1024 * 1024  # the published one has 3 MB
_TIMEOUT = httpx.Timeout(30, connect=10)
_TOKEN_MODES = ("chat", "completion", "responses", "embedding", None)
_MODES = (
    *_TOKEN_MODES, "audio_speech", "audio_transcription", "image_edit", "image_generation", "moderation",
    "ocr", "realtime", "rerank", "search", "video_generation",
)  # fmt: skip
_EXAMPLE = "sample_spec"  # the entry that documents the others
_LONGEST_PROVIDER = 100

# Their provider → ours, where the two have different names.
_SLUGS = {
    "bedrock": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "voyage": "voyageai",
    "xai": "x-ai",
}
# Another name of a provider that has entries under its own: those come first.
_SECOND_SLUGS = {
    "azure_ai": "azure",
    "bedrock_converse": "aws",
    "cohere_chat": "cohere",
    "text-completion-openai": "openai",
}


class BadCostMap(ValueError):
    """A cost map cannot be had, or cannot be read; the message says why and what to do."""


class CostMap(NamedTuple):
    """What a map says, in our words."""

    prices: list[Price]  # unsaved, without `effective_from`; one per provider and model
    left_out: int  # entries without a rate that we can apply
    wrong: list[str]  # names of entries with a rate that is none


def load(source: str) -> CostMap:
    """Return the cost map at a path or an http(s) address. Raises: BadCostMap."""
    return parse(fetch(source), shown(source))


def is_address(source: str) -> bool:
    return "://" in source


def shown(source: str) -> str:
    """Return where a map is from without what may be a secret: a name, a password, a query."""
    if not is_address(source):
        return source
    try:
        parts = urlsplit(source)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def has_secret(source: str) -> bool:
    """Tell whether an address says what `shown` leaves out."""
    if not is_address(source):
        return False
    try:
        parts = urlsplit(source)
    except ValueError:
        return False
    return bool(parts.username or parts.password or parts.query)


def fetch(source: str) -> bytes:
    """Return the bytes of a map. Raises: BadCostMap."""
    try:
        body = _download(source) if is_address(source) else _read(Path(source))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadCostMap(
            f"{shown(source)} cannot be had ({_reason(error)}). Check the address and the network, "
            "or give a file: --from FILE."
        ) from None
    except (OSError, ValueError) as error:
        raise BadCostMap(
            f"{shown(source)} cannot be read ({getattr(error, 'strerror', None) or error}). Check the path."
        ) from None
    if len(body) > MOST_BYTES:
        raise BadCostMap(
            f"{shown(source)} has more than {MOST_BYTES // 1024 // 1024} MB: that is no cost map. "
            "Check the address or path."
        )
    return body


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answers {error.response.status_code}"
    if isinstance(error, httpx.UnsupportedProtocol):
        return "only http and https are read"
    return type(error).__name__  # its text may tell the whole address


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _download(address: str) -> bytes:
    """Return what is there, or the beginning of what is too much."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol("http or https")
    body = bytearray()
    with (
        httpx.Client(timeout=_TIMEOUT, follow_redirects=True, max_redirects=3) as client,
        client.stream("GET", address) as response,
    ):
        response.raise_for_status()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                break
    return bytes(body)


# -- reading ---------------------------------------------------------------------------


def parse(body: bytes, where: str) -> CostMap:
    """Read a map. where: named in the message. Raises: BadCostMap."""
    try:
        said = json.loads(body, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError, ArithmeticError):
        raise BadCostMap(
            f"{where} is no JSON. A cost map is one JSON object, as LiteLLM publishes it."
        ) from None
    if not isinstance(said, dict):
        raise BadCostMap(f"{where} is no cost map: it should be one JSON object, model name → rates.")
    return _cost_map(said, where)


def _cost_map(said: Mapping[str, Any], where: str) -> CostMap:
    found: dict[tuple[str, str], Price] = {}
    left_out, wrong = 0, []
    for name, entry in _by_rank(said):
        try:
            price = _price(name, entry)
        except (ValueError, ArithmeticError, TypeError, KeyError, IndexError):
            wrong.append(name)
            continue
        if price is None:
            left_out += 1
        else:
            found.setdefault((price.provider, price.model), price)
    if not found:
        raise BadCostMap(f"{where} has no price: it should be one JSON object, model name → rates.")
    return CostMap([found[key] for key in sorted(found)], left_out, sorted(wrong))


def _by_rank(said: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the entries, those that win first where two are of one model: `provider/model` before `model`."""
    entries = [(name, entry) for name, entry in said.items() if name != _EXAMPLE and isinstance(entry, dict)]
    return sorted(
        entries, key=lambda pair: (_provider(pair[1]) in _SECOND_SLUGS, "/" not in pair[0], pair[0])
    )


def provider_slug(theirs: str) -> str:
    """Return our name of a provider of LiteLLM's."""
    return _SLUGS.get(theirs) or _SECOND_SLUGS.get(theirs, theirs)


def _provider(entry: Mapping[str, Any]) -> str:
    """Return the entry's provider, without the family that LiteLLM appends to some."""
    provider = entry.get("litellm_provider")
    if not isinstance(provider, str):
        return ""
    for of_families in ("vertex_ai", "fireworks_ai"):
        if provider.startswith(f"{of_families}-"):
            return of_families
    return provider


def _price(name: str, entry: Mapping[str, Any]) -> Price | None:
    """Return the entry's price; None where it has none for us. Raises: ValueError and the like."""
    theirs = _provider(entry)
    model = name.removeprefix(f"{theirs}/")
    provider = provider_slug(theirs)
    # `in` a tuple compares, where a set would have to hash whatever is written there.
    if entry.get("mode") not in _MODES or not is_clean_id(provider) or len(provider) > _LONGEST_PROVIDER:
        return None
    if not is_clean_id(model):
        return None
    tiered = entry.get("tiered_pricing")
    if tiered and "range" not in tiered[0]:
        return None  # by the number of results, which no answer tells
    sheet = _sheet(entry, provider)
    base = sheet.base
    is_by_token = {"input_per_mtok_usd", "output_per_mtok_usd", "per_request_usd"} & base.keys()
    has_tokens = entry.get("mode") in _TOKEN_MODES
    if not is_by_token and (has_tokens or not (base or sheet.units)):
        return None
    costs_something = any(base.values()) if has_tokens else sheet.costs_something
    if not costs_something and _costs_otherwise(entry):
        return None
    return Price(provider=provider, model=model, source=Price.Source.COST_MAP, **sheet.fields())


def _sheet(entry: Mapping[str, Any], provider: str) -> Sheet:
    """Return the entry's rates. Those of `tiered_pricing` stand in for all others per token."""
    sheet, mode = Sheet(), entry.get("mode")
    tiered = entry.get("tiered_pricing")
    for name, value in entry.items():
        place = place_of(name, mode)
        if place is None or value is None or (tiered and name in PER_TOKEN):
            continue
        if place.above is not None:
            place = place._replace(above=threshold_of(provider, place.above))
        if name == "input_cost_per_pixel" and entry.get("output_cost_per_pixel") is not None:
            continue  # what is made is what is paid for
        sheet.put(place, _number(value))
    for tier in tiered or ():
        _put_tier(sheet, tier, provider)
    if tiered and not _same_rates(sheet):
        raise ValueError("a rate that a tier leaves out would stay the base rate")
    _put_others(sheet, entry)
    return sheet


def _put_tier(sheet: Sheet, tier: Mapping[str, Any], provider: str) -> None:
    lowest = int(_number(tier["range"][0]))
    for name in tier:
        place = place_of(name)
        if place is not None:
            above = threshold_of(provider, lowest) if lowest else None
            sheet.put(place._replace(above=above), _number(tier[name]))


def _same_rates(sheet: Sheet) -> bool:
    given = sheet.base.keys()
    return bool(given) and all(given == tier.keys() - {"above_prompt_tokens"} for tier in sheet.tiers())


def _put_others(sheet: Sheet, entry: Mapping[str, Any]) -> None:
    searches = entry.get(SEARCHES)
    if isinstance(searches, dict):
        by_size = {size: searches.get(f"search_context_size_{size}") for size in SEARCH_SIZES}
        sheet.put_searches({size: _number(rate) for size, rate in by_size.items() if rate is not None})
    multipliers = entry.get(MULTIPLIERS)
    for theirs, factor in multipliers.items() if isinstance(multipliers, dict) else ():
        if isinstance(factor, int | Decimal):
            sheet.put_multiplier(theirs, Decimal(factor))


def _costs_otherwise(entry: Mapping[str, Any]) -> bool:
    """Tell whether an entry has a rate that is none of ours: without it the model is not free."""
    return any(
        is_rate(name) and isinstance(value, int | Decimal) and value > 0 for name, value in entry.items()
    )


def _number(value: Any) -> Decimal:
    """Return a number; people's own maps also write texts. Raises: ValueError, ArithmeticError."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("no number")
    number = Decimal(str(value).strip()) if isinstance(value, str) else Decimal(value)
    if not number.is_finite():
        raise ValueError("no number")
    return number


def _no_number(text: str) -> Decimal:
    raise ValueError(f"{text} is no rate")
