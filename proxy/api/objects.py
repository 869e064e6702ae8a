"""How the API writes models: LiteLLM's shapes, with exact prices. No function here makes a query."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from billing.models import Price
from proxy.api.services import model_id
from proxy.configuration.plan import SOURCE as CONFIG
from proxy.litellm_params import ListedPrices, mode_of, params_of, priced_model, provider_name, rates_of
from proxy.models import Deployment

_SUPPORTS = ("supports_vision", "supports_function_calling", "supports_parallel_function_calling")


def model_object(deployment: Deployment, prices: ListedPrices, *, for_admin: bool) -> dict[str, Any]:
    """Return a model as /model/info has it."""
    return {
        "model_name": deployment.model_name,
        "litellm_params": params_of(deployment, with_address=for_admin),
        "model_info": model_info(deployment, prices, for_admin=for_admin),
    }


def model_info(deployment: Deployment, prices: ListedPrices, *, for_admin: bool) -> dict[str, Any]:
    provider, model = priced_model(deployment)
    known = prices.find(provider, model)
    price = deployment.price or known.price
    kept = deployment.model_info
    return {
        "id": model_id(deployment),
        "db_model": deployment.source != CONFIG,
        "key": known.listed_as,
        "mode": mode_of(model),
        "litellm_provider": provider_name(provider),
        "max_tokens": kept.get("max_output_tokens"),
        "max_input_tokens": known.max_input_tokens,
        "max_output_tokens": None,
        "input_cost_per_token": None,
        "output_cost_per_token": None,
        **(rates_of(price) if price else {}),
        "price_source": price.source if price else None,
        "price_id": price.pk if price else None,
        **({"upstream": deployment.upstream.name} if for_admin else {}),
        "created_at": deployment.created_at,
        "updated_at": deployment.updated_at,
        **kept,
        **({"base_model": deployment.base_model} if deployment.base_model else {}),
    }


def group_object(name: str, infos: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the deployments of one model name as /model_group/info has them: the dearest rate of each."""
    known = list(infos)
    return {
        "model_group": name,
        "providers": sorted({info["litellm_provider"] for info in known}),
        "max_input_tokens": _largest(known, "max_input_tokens"),
        "max_output_tokens": _largest(known, "max_output_tokens"),
        "input_cost_per_token": _largest(known, "input_cost_per_token"),
        "output_cost_per_token": _largest(known, "output_cost_per_token"),
        "mode": known[0]["mode"],
        "tpm": None,
        "rpm": None,
        **{name: any(info.get(name) is True for info in known) for name in _SUPPORTS},
    }


def _largest(infos: list[Mapping[str, Any]], name: str) -> Any:
    values = [info.get(name) for info in infos]
    return max((value for value in values if isinstance(value, int | float | Decimal)), default=None)


def cost_map_entry(price: Price, max_input_tokens: int | None) -> dict[str, Any]:
    """Return one entry of the cost map (contract 10.1)."""
    return {
        "litellm_provider": provider_name(price.provider),
        "mode": mode_of(price.model),
        **({"max_input_tokens": max_input_tokens} if max_input_tokens else {}),
        **rates_of(price),
        "price_source": price.source,
    }


# -- examples of them, for the OpenAPI document ---------------------------------------------

_INFO_EXAMPLE: dict[str, Any] = {
    "id": "7",
    "db_model": True,
    "key": "gpt-4o-mini",
    "mode": "chat",
    "litellm_provider": "openai",
    "max_tokens": 16384,
    "max_input_tokens": 128_000,
    "max_output_tokens": 16384,
    "input_cost_per_token": Decimal("0.00000015"),
    "output_cost_per_token": Decimal("0.0000006"),
    "cache_read_input_token_cost": Decimal("0.000000075"),
    "price_source": "genai-prices",
    "price_id": 4711,
    "upstream": "openai",
    "created_at": "2026-02-03T09:12:44.120000Z",
    "updated_at": "2026-02-03T09:12:44.120000Z",
}
MODEL_EXAMPLE: dict[str, Any] = {
    "model_name": "gpt-4o-mini",
    "litellm_params": {"model": "openai/gpt-4o-mini", "api_base": "https://api.openai.com/v1"},
    "model_info": _INFO_EXAMPLE,
}
WRITTEN_EXAMPLE: dict[str, Any] = {
    "model_id": "7",
    **MODEL_EXAMPLE,
    "created_at": "2026-02-03T09:12:44.120000Z",
    "created_by": "default_user_id",
    "updated_at": "2026-02-03T09:12:44.120000Z",
    "updated_by": "default_user_id",
    "warnings": ["No price for cache reads was given: the listed one is used."],
}
GROUP_EXAMPLE: dict[str, Any] = {
    "model_group": "gpt-4o-mini",
    "providers": ["openai"],
    "max_input_tokens": 128_000,
    "max_output_tokens": 16384,
    "input_cost_per_token": Decimal("0.00000015"),
    "output_cost_per_token": Decimal("0.0000006"),
    "mode": "chat",
    "tpm": None,
    "rpm": None,
    **dict.fromkeys(_SUPPORTS, True),
}
