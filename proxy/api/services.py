"""What the API does to models: make, change, delete. In the caller's transaction."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from billing.models import Price
from billing.models.price import PRICING_FIELDS
from customers.api.errors import BadRequest, NotFound
from customers.text import is_clean_id
from proxy.configuration.entries import Entry, UpstreamEntry
from proxy.configuration.plan import SOURCE as CONFIG
from proxy.configuration.providers import PROVIDERS, split_model
from proxy.configuration.rates import is_rate
from proxy.credentials import resolve
from proxy.litellm_params import (
    OF_UPSTREAM,
    ListedPrices,
    address_of,
    completed,
    params_of,
    priced_model,
    provider_name,
    rates_of,
    read_model,
)
from proxy.models import Deployment, Upstream

SOURCE = "api"
_ADDRESS = frozenset(("api_base", "base_url"))
_URLS = ("openai_base_url", "anthropic_base_url")


def model_id(deployment: Deployment) -> str:
    """Return what the API knows a deployment by."""
    return deployment.public_id or str(deployment.pk)


def find_model(named: str) -> Deployment | None:
    """Return the deployment with this id."""
    if not is_clean_id(named):
        return None
    deployments = Deployment.objects.select_related("upstream", "price")
    found = deployments.filter(public_id=named).first()
    if found is None and named.isascii() and named.isdecimal() and len(named) < 19:
        found = deployments.filter(pk=int(named), public_id=None).first()
    return found


def create_model(given: Mapping[str, Any], *, at: datetime) -> tuple[Deployment, list[str]]:
    """Make a deployment, its upstream unless there is one, its price. Returns it and warnings.

    Raises: BadRequest, ValidationError.
    """
    entry, warnings = read_model(given["model_name"], given["litellm_params"], given.get("model_info") or {})
    if entry.public_id is not None and find_model(entry.public_id) is not None:
        raise BadRequest(
            f"a model with the id {entry.public_id} exists already: change it with POST /model/update",
            param="model_info.id",
        )
    deployment = Deployment(public_id=entry.public_id or str(uuid.uuid4()), source=SOURCE)
    deployment.upstream = _upstream(_fields(entry.upstream))
    _set(deployment, entry)
    deployment.price, told = _price(deployment, entry, at=at)
    _check(deployment)
    deployment.save()
    return deployment, warnings + told


def update_model(
    deployment: Deployment, given: Mapping[str, Any], *, at: datetime
) -> tuple[Deployment, list[str]]:
    """Change what is given of a model; null takes away. Raises: BadRequest, ValidationError."""
    _refuse_configured(deployment)
    params, info = given.get("litellm_params") or {}, given.get("model_info") or {}
    rates = {
        **_new_rates(deployment, info, at=at),
        **{name: params[name] for name in params if is_rate(name)},
    }
    entry, warnings = read_model(
        given.get("model_name") or deployment.model_name,
        _present({**_current(deployment, params), **params, **rates}),
        _present({**deployment.model_info, **_without_rates(info), "id": model_id(deployment)}),
    )
    before = deployment.upstream
    if "model" in params or OF_UPSTREAM & set(params):
        deployment.upstream = _moved(deployment, entry, params)
    _set(deployment, entry)
    if rates:
        deployment.price, told = _price(deployment, entry, at=at)
        warnings += told
    _check(deployment)
    deployment.save(
        update_fields=[
            "model_name", "upstream", "upstream_model", "priority", "weight", "base_model", "model_info",
            "extras", "price", "updated_at",
        ]
    )  # fmt: skip
    if deployment.upstream_id != before.pk:
        _forget_unused(before)
    return deployment, warnings


def delete_model(named: str) -> None:
    """Delete a model; logs and the prices that they name stay. Raises: BadRequest."""
    deployment = find_model(named)
    if deployment is None:
        raise BadRequest(f"no model with the id {named}: GET /model/info lists them", param="id")
    _refuse_configured(deployment)
    upstream = deployment.upstream
    deployment.delete()
    _forget_unused(upstream)


def model_or_404(named: str) -> Deployment:
    deployment = find_model(named)
    if deployment is None:
        raise NotFound(f"no model with the id {named}: GET /model/info lists them", param="model_info.id")
    return deployment


def _refuse_configured(deployment: Deployment) -> None:
    if deployment.source == CONFIG:
        raise BadRequest(
            f"The model {deployment.model_name} comes from config.yaml: change it there, and start again.",
            param="model_info.id",
        )


def _new_rates(deployment: Deployment, info: Mapping[str, Any], *, at: datetime) -> dict[str, Any]:
    """Return the rates in `info` that say something new: who sends back what GET told sets no price by it."""
    given = {name: value for name, value in info.items() if is_rate(name)}
    if not given or deployment.price is not None:
        return given
    provider, model = priced_model(deployment)
    listed = ListedPrices([(provider, model)], at=at).find(provider, model).price
    shown = {} if listed is None else rates_of(listed)
    return {name: value for name, value in given.items() if shown.get(name) != value}


def _without_rates(info: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in info.items() if not is_rate(name)}


def _present(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}


def _current(deployment: Deployment, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model says now, for what a request leaves out. Nothing secret is in it."""
    current = params_of(deployment, with_address=False)
    upstream = deployment.upstream
    if provider_name(upstream.provider) not in PROVIDERS:  # made by hand: read as what it speaks
        speaks = "openai" if upstream.openai_base_url else "anthropic"
        current["model"] = f"{speaks}/{deployment.upstream_model or deployment.model_name}"
    address = address_of(upstream)
    if address and not _ADDRESS & set(params) and not _names_another_provider(upstream, params):
        current["api_base"] = address
    return current


# -- upstreams --------------------------------------------------------------------------


def _fields(entry: UpstreamEntry) -> dict[str, Any]:
    return {
        "provider": entry.provider,
        "openai_base_url": entry.openai_base_url,
        "anthropic_base_url": entry.anthropic_base_url,
        "credential": entry.credential,
        "headers": dict(entry.headers),
        "read_timeout_s": entry.read_timeout_s,
    }


def _moved(deployment: Deployment, entry: Entry, params: Mapping[str, Any]) -> Upstream:
    """Return the upstream of a model whose provider, address, credential or headers were sent."""
    current = deployment.upstream
    fields = _fields(entry.upstream)
    if not _names_another_provider(current, params):
        fields["provider"] = current.provider
        kept = {name: getattr(current, name) for name in _URLS}
        if not _ADDRESS & set(params):
            fields |= kept
        elif (
            "api_key" not in params and current.credential and kept != {name: fields[name] for name in _URLS}
        ):
            raise BadRequest(
                "Send api_key with a new api_base: the key that is kept is not sent to another address.",
                param="litellm_params.api_key",
            )
        if "api_key" not in params:
            fields["credential"] = current.credential
        if "extra_headers" not in params and "organization" not in params:
            fields["headers"] = current.headers
        if "timeout" not in params:
            fields["read_timeout_s"] = current.read_timeout_s
    if all(getattr(current, name) == value for name, value in fields.items()):
        return current
    if current.source == SOURCE and current.deployments.count() == 1:
        for name, value in fields.items():
            setattr(current, name, value)
        current.full_clean()
        current.save(update_fields=[*fields, "updated_at"])
        return current
    return _upstream(fields)


def _names_another_provider(current: Upstream, params: Mapping[str, Any]) -> bool:
    model, custom = params.get("model"), params.get("custom_llm_provider")
    if not isinstance(model or "", str) or not isinstance(custom or "", str):
        return False  # refused when it is read
    name, _ = split_model(model or "", custom)
    provider = PROVIDERS.get(name or "")
    return provider is not None and provider.slug != current.provider


def _upstream(fields: dict[str, Any]) -> Upstream:
    """Return the upstream with this address, credential and headers; a new one where there is none."""
    for row in Upstream.objects.exclude(source=CONFIG).filter(provider=fields["provider"], is_active=True):
        if all(_is_same(name, getattr(row, name), value) for name, value in fields.items()):
            return row
    upstream = Upstream(name=_free_name(fields["provider"]), source=SOURCE, **fields)
    upstream.full_clean()
    upstream.save()
    return upstream


def _is_same(name: str, one: Any, other: Any) -> bool:
    """Compare two values of a field; an address may be a reference to the environment."""
    if name in _URLS:
        return resolve(one).rstrip("/") == resolve(other).rstrip("/")
    return one == other


def _free_name(provider: str) -> str:
    taken = set(Upstream.objects.values_list("name", flat=True))
    names = (provider if number == 1 else f"{provider} {number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _forget_unused(upstream: Upstream) -> None:
    """Delete an upstream that the API made, and that no deployment has any more."""
    if upstream.source == SOURCE and not upstream.deployments.exists():
        upstream.delete()


# -- deployments ------------------------------------------------------------------------


def _set(deployment: Deployment, entry: Entry) -> None:
    deployment.model_name = entry.model_name
    deployment.upstream_model = entry.upstream_model
    deployment.priority, deployment.weight = entry.priority, entry.weight
    deployment.base_model = entry.base_model
    deployment.model_info, deployment.extras = entry.model_info, entry.extras


def _check(deployment: Deployment) -> None:
    deployment.full_clean(exclude=["upstream", "price"])


def _price(deployment: Deployment, entry: Entry, *, at: datetime) -> tuple[Price | None, list[str]]:
    """Return (the model's own price, warnings). One with other rates is a new row: logs name the old one."""
    if entry.rates.is_empty:
        return None, []
    provider, model = priced_model(deployment)
    listed = ListedPrices([(provider, model)], at=at).find(provider, model).price
    rates, warnings = completed(entry.rates, listed, has_output=entry.has_output)
    price = Price(
        provider=provider,
        model=model,
        source=Price.Source.DEPLOYMENT,
        effective_from=at,
        **entry.rates.nested,
        **rates,
    )
    price.full_clean()
    known = deployment.price
    compared = ("provider", "model", *PRICING_FIELDS)
    if known is not None and all(getattr(known, name) == getattr(price, name) for name in compared):
        return known, warnings
    price.save()
    return price, warnings
