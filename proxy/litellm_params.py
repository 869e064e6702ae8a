"""
LiteLLM's way of saying a model ↔ our rows: `litellm_params` and `model_info` of the API.

Reading is that of config.yaml (`proxy/configuration/entries.py`): one translation for both.
Here is the way back, prices included, and what the API takes that a file has no use for.
Rates are USD per token, exact decimals; ours are per million tokens.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from billing.models import Price
from billing.models.price import PRICING_FIELDS
from billing.prices.litellm_rates import names_of_rates
from billing.prices.pricing import PriceBook
from billing.prices.sources import canonical_model, context_windows
from customers.api.errors import BadRequest
from customers.money import plain_usd
from proxy.configuration.entries import Entry, read_entries
from proxy.configuration.providers import PROVIDERS
from proxy.configuration.rates import Rates, is_rate
from proxy.credentials import ENVIRONMENT_PREFIX
from proxy.demo import DEMO_SCHEME
from proxy.models import Deployment, Upstream
from spendproject.config_file import BadConfig, Config
from spendproject.config_keys import KEYS
from spendproject.strict_yaml import Path, spell

# Parameters that decide which upstream a deployment has.
OF_UPSTREAM = frozenset(
    ("custom_llm_provider", "api_key", "api_base", "base_url", "organization", "extra_headers", "timeout")
)
# Of model_info: told with a model, not kept with it.
_DERIVED = frozenset(
    (
        "id", "key", "db_model", "litellm_provider", "price_source", "price_id", "upstream", "created_at",
        "updated_at",
    )
)  # fmt: skip
# The gateway's own secrets: no reference to them goes to a provider.
_OWN_SECRETS = frozenset(
    ("SECRET_KEY", "MASTER_KEY", "LITELLM_MASTER_KEY", "DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL")
)

# Our rates → LiteLLM's names, per token.
_NAMES = {
    "input_per_mtok_usd": "input_cost_per_token",
    "output_per_mtok_usd": "output_cost_per_token",
    "reasoning_per_mtok_usd": "output_cost_per_reasoning_token",
    "cache_read_per_mtok_usd": "cache_read_input_token_cost",
    "cache_write_5m_per_mtok_usd": "cache_creation_input_token_cost",
    "cache_write_1h_per_mtok_usd": "cache_creation_input_token_cost_above_1hr",
    "input_audio_per_mtok_usd": "input_cost_per_audio_token",
    "output_audio_per_mtok_usd": "output_cost_per_audio_token",
    "input_image_per_mtok_usd": "input_cost_per_image_token",
    "output_image_per_mtok_usd": "output_cost_per_image_token",
}

# Our providers → LiteLLM's names, the first where several are one.
_PROVIDER_NAMES: dict[str, str] = {}
for _name, _provider in PROVIDERS.items():
    _PROVIDER_NAMES.setdefault(_provider.slug, _name)

# What a model is for, by what its name has; prices do not tell.
_MODES = (
    ("embedding", ("embed",)),
    ("rerank", ("rerank",)),
    ("audio_transcription", ("whisper", "transcribe")),
    ("audio_speech", ("tts",)),
    ("image_generation", ("dall-e", "gpt-image", "imagen")),
    ("moderation", ("moderation",)),
)


# -- reading ---------------------------------------------------------------------------


class _Request:
    """One model of a request, in the place of a file."""

    path = ""

    def __init__(self, said: dict[str, Any]) -> None:
        self.models = [said]

    def place(self, path: Path) -> str:
        return spell(path[2:]) or "the model"


def read_model(
    model_name: str, params: Mapping[str, Any], info: Mapping[str, Any]
) -> tuple[Entry, list[str]]:
    """Return (what is said of a model, warnings of what has no effect). Raises: BadRequest."""
    own = _own_secret(params)
    if own:
        raise BadRequest(
            f"litellm_params: {own} is a secret of the gateway itself; it is not sent to a provider.",
            param="litellm_params",
        )
    kept_info = {name: value for name, value in info.items() if name not in _DERIVED or name == "id"}
    said = {"model_name": model_name, "litellm_params": dict(params), "model_info": kept_info}
    try:
        entries, warnings = read_entries(cast(Config, _Request(said)))
    except BadConfig as error:
        raise BadRequest("; ".join(error.problems), param="litellm_params") from None
    if not entries:  # a provider that we cannot call
        raise BadRequest("; ".join(warnings), param="litellm_params.model")
    entry = entries[0]
    unknown = {name: value for name, value in params.items() if not _is_known(name) and value is not None}
    # Numbers are kept and given back. Texts are not: one may be a secret whose name we do not know.
    entry.extras.update(
        {
            name: float(value) if isinstance(value, Decimal) else value
            for name, value in unknown.items()
            if isinstance(value, bool | int | Decimal)
        }
    )
    without_effect = [*unknown, *(name for name in entry.extras if name not in unknown)]
    warnings += [f"litellm_params.{name}: has no effect here" for name in without_effect]
    return entry, warnings


def _own_secret(value: Any) -> str:
    """Return the name of a secret of ours that is referred to anywhere in `value`; empty: none."""
    if isinstance(value, Mapping | list):
        inner = value.values() if isinstance(value, Mapping) else value
        return next(filter(None, map(_own_secret, inner)), "")
    if isinstance(value, str) and value.startswith(ENVIRONMENT_PREFIX):
        name = value.removeprefix(ENVIRONMENT_PREFIX)
        return name if name in _OWN_SECRETS else ""
    return ""


def _is_known(name: str) -> bool:
    return f"model_list[].litellm_params.{name}" in KEYS or is_rate(name)


# -- the way back ------------------------------------------------------------------------


def provider_name(slug: str) -> str:
    """Return LiteLLM's name of one of our providers."""
    return _PROVIDER_NAMES.get(slug, slug)


def params_of(deployment: Deployment, *, with_address: bool) -> dict[str, Any]:
    """Return a deployment's `litellm_params`, without anything secret.

    with_address: also where its upstream is, which is nobody's business who only calls it.
    """
    upstream = deployment.upstream
    params: dict[str, Any] = {"model": f"{provider_name(upstream.provider)}/{upstream_model(deployment)}"}
    address = address_of(upstream)
    if with_address and address:
        params["api_base"] = without_user(address)
    if deployment.priority:
        params["order"] = deployment.priority
    if deployment.weight != 1:
        params["weight"] = deployment.weight
    if upstream.read_timeout_s != Upstream._meta.get_field("read_timeout_s").default:
        params["timeout"] = Decimal(str(upstream.read_timeout_s))
    if deployment.price is not None:
        params |= rates_of(deployment.price)
    return params | deployment.extras


def address_of(upstream: Upstream) -> str:
    """Return what LiteLLM calls api_base; empty for the built-in demo, which has no address."""
    provider = PROVIDERS.get(provider_name(upstream.provider))
    speaks_anthropic = provider is not None and provider.anthropic
    first, second = upstream.openai_base_url, upstream.anthropic_base_url
    address = (second or first) if speaks_anthropic else (first or second)
    return "" if address.startswith(DEMO_SCHEME) else address


def without_user(address: str) -> str:
    """Return an address without `user:password@`."""
    if "@" not in address:
        return address
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def upstream_model(deployment: Deployment) -> str:
    """Return the name that is sent upstream."""
    return deployment.upstream_model or deployment.model_name


def rates_of(price: Price) -> dict[str, Any]:
    """Return a price in LiteLLM's names: rates that it gives, none that stand in for others."""
    return names_of_rates(price.provider, {name: getattr(price, name) for name in PRICING_FIELDS})


def _of_million(rate: Decimal) -> Decimal:
    return rate.scaleb(-6)  # exact


def mode_of(model: str) -> str:
    """Return what a model is for, as far as its name tells: chat, embedding, …"""
    name = model.lower()
    return next((mode for mode, parts in _MODES if any(part in name for part in parts)), "chat")


# -- prices of deployments -----------------------------------------------------------------


class ModelPrice(NamedTuple):
    """What is known of a provider's model."""

    listed_as: str  # the name under which prices know it
    price: Price | None  # None: unpriced
    max_input_tokens: int | None


class ListedPrices:
    """Today's prices of some models, from one query."""

    def __init__(self, models: Iterable[tuple[str, str]], *, at: datetime) -> None:
        """models: (provider, model)."""
        names = {pair: canonical_model(*pair) for pair in models}
        prices = Price.objects.listed_for(names, canonical_model=canonical_model)
        self._rows = {price.pk: price for price in prices}
        self._book = PriceBook(self._rows.values(), canonical_model=canonical_model)
        self._names = names
        self._at_s = at.timestamp()

    def find(self, provider: str, model: str) -> ModelPrice:
        found = self._book.find(provider, model, at_s=self._at_s)
        price = None if found is None else self._rows[found.price_id]
        listed_as = price.model if price else self._names.get((provider, model)) or model
        return ModelPrice(listed_as, price, context_windows().get((provider, listed_as)))


def priced_model(deployment: Deployment) -> tuple[str, str]:
    """Return (provider, model) whose listed price applies to a deployment without one of its own."""
    return deployment.upstream.provider, deployment.base_model or upstream_model(deployment)


def completed(
    rates: Rates, listed: Price | None, *, has_output: bool
) -> tuple[dict[str, Decimal], list[str]]:
    """Return (rates, warnings), with the listed rate where only input or only output is given.

    Half a price would book the other half as free.
    """
    base, warnings = dict(rates.base), list[str]()
    if not (base or rates.tiers or rates.service_tiers) or "per_request_usd" in base:
        return base, warnings
    sides = ["input_per_mtok_usd", *(["output_per_mtok_usd"] if has_output else [])]
    for name in sides:
        if name in base:
            continue
        rate = None if listed is None else getattr(listed, name)
        if rate is not None:
            base[name] = rate
            warnings.append(
                f"{_NAMES[name]} is taken from the list, {plain_usd(rate)} USD per million tokens"
            )
        elif listed is None:  # listed without it: the model has no such tokens, as an embedding's output
            warnings.append(f"{_NAMES[name]} is not known, so these tokens count as free; give it, too")
    return base, warnings
