"""
Read a LiteLLM cost map, from a file or a URL, into unsaved `Price` rows.

A map is one JSON object: model name → its rates, in USD per token. What is taken are the
models that calls of ours can be for (chat, completion, responses, embedding), by their
rates per token, per request and per web search, with long-context tiers. Rates of service
tiers, batches, seconds, characters, pixels and off-peak hours have no place in `Price`: an
entry that has no other rate is left out, not taken as free.

Nothing is written here: `billing/price_sync.py`. Source: LiteLLM 1.109.
"""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from billing.litellm_rates import ABOVE, PER_TOKEN, apiece, is_rate, per_million
from billing.models import Price
from customers.money import plain_usd
from customers.text import is_clean_id

PUBLISHED = "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
MOST_BYTES = 32 * 1024 * 1024  # the published one has 3 MB
_TIMEOUT = httpx.Timeout(30, connect=10)
_MODES = ("chat", "completion", "responses", "embedding", None)
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
    provider = _SLUGS.get(theirs) or _SECOND_SLUGS.get(theirs, theirs)
    # `in` a tuple compares, where a set would have to hash whatever is written there.
    if entry.get("mode") not in _MODES or not is_clean_id(provider) or len(provider) > _LONGEST_PROVIDER:
        return None
    if not is_clean_id(model):
        return None
    base, tiers = _tiered(entry) if entry.get("tiered_pricing") else _plain(entry)
    if not {"input_per_mtok_usd", "output_per_mtok_usd", "per_request_usd"} & base.keys():
        return None
    if not any(base.values()) and _costs_otherwise(entry):
        return None
    return Price(
        provider=provider,
        model=model,
        source=Price.Source.COST_MAP,
        long_context_tiers=[
            {"above_prompt_tokens": above, **{field: plain_usd(rate) for field, rate in tiers[above].items()}}
            for above in sorted(tiers)
        ],
        **base,
    )


def _plain(entry: Mapping[str, Any]) -> tuple[dict[str, Decimal], dict[int, dict[str, Decimal]]]:
    """Return the base rates, and those above numbers of prompt tokens."""
    base: dict[str, Decimal] = _apiece(entry)
    tiers: dict[int, dict[str, Decimal]] = {}
    for name, value in entry.items():
        above = ABOVE.fullmatch(name)
        field = PER_TOKEN.get(above["rate"] if above else name)
        if field is None or value is None:
            continue
        rates = tiers.setdefault(int(above["thousands"]) * 1000, {}) if above else base
        rates[field] = per_million(_number(value))
    return base, tiers


def _tiered(entry: Mapping[str, Any]) -> tuple[dict[str, Decimal], dict[int, dict[str, Decimal]]]:
    """Return the rates of `tiered_pricing`, which stand in for all others per token."""
    base: dict[str, Decimal] = {}
    tiers: dict[int, dict[str, Decimal]] = {}
    for tier in entry["tiered_pricing"]:
        above = int(_number(tier["range"][0]))
        rates = {PER_TOKEN[name]: per_million(_number(tier[name])) for name in tier if name in PER_TOKEN}
        tiers[above] = rates
    base = tiers.pop(0)
    if any(rates.keys() != base.keys() for rates in tiers.values()):
        raise ValueError("a rate that a tier leaves out would stay the base rate")
    return {**_apiece(entry), **base}, tiers


def _apiece(entry: Mapping[str, Any]) -> dict[str, Decimal]:
    found = {}
    if entry.get("input_cost_per_request") is not None:
        found["per_request_usd"] = apiece(_number(entry["input_cost_per_request"]))
    search = entry.get("search_context_cost_per_query")
    if isinstance(search, dict) and search.get("search_context_size_medium") is not None:
        found["per_web_search_usd"] = apiece(_number(search["search_context_size_medium"]))
    return found


def _costs_otherwise(entry: Mapping[str, Any]) -> bool:
    """Tell whether an entry has a rate that is none of ours: without it the model is not free."""
    return any(
        is_rate(name) and isinstance(value, int | Decimal) and value > 0
        for name, value in entry.items()
        if name not in PER_TOKEN
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
