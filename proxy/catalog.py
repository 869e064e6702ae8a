"""
The catalog: every deployment and price, as one immutable snapshot.

Built from the database by the refresher's thread and swapped in whole; the event
loop only reads it. Which deployment a call gets is in `routing.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import httpx

from billing.models import Price
from billing.prices.pricing import PriceBook, ResolvedPrice, resolve
from billing.prices.sources import canonical_model
from proxy.credentials import ENVIRONMENT_PREFIX
from proxy.credentials import resolve as resolve_reference
from proxy.headers import UpstreamHeaders
from proxy.models import Deployment, Upstream

_MAX_URLS = 1000
_MAX_RENAMED = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One deployment, ready to be called."""

    deployment_id: int
    model_name: str
    upstream: str
    provider: str
    upstream_model: str  # empty: the name that was asked for
    base_model: str
    openai_base_url: str
    anthropic_base_url: str
    credential: str = field(repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    priority: int
    weight: int
    price: ResolvedPrice | None  # the override, if there is one
    connect_timeout_s: float
    read_timeout_s: float
    model_id: str = ""  # what the API and the answers' headers call the deployment
    region: str = ""  # lower case; empty: nobody said
    # Optimization: URLs are parsed once per snapshot and path, not once per call.
    urls: dict[str, tuple[httpx.URL, str]] = field(default_factory=dict)
    request_headers: dict[tuple, UpstreamHeaders] = field(default_factory=dict, repr=False)
    answer_headers: dict[tuple[str, str], list[tuple[bytes, bytes]]] = field(default_factory=dict)

    def url(self, base: str, path: str, query: str = "") -> tuple[httpx.URL, str]:
        """Return where a call goes, parsed and as text.

        query: the caller's, passed on (Claude Code sends `beta=true`).
        """
        key = f"{base}{path}?{query}" if query else base + path
        url = self.urls.get(key)
        if url is None:
            if len(self.urls) > _MAX_URLS:
                self.urls.clear()
            parsed = httpx.URL(key)
            url = self.urls[key] = (parsed, str(parsed))
        return url


@dataclass(frozen=True, slots=True)
class Catalog:
    """All targets by public model name, and the price book."""

    prices: PriceBook
    exact: dict[str, tuple[Target, ...]]
    wildcards: tuple[tuple[str, tuple[Target, ...]], ...]  # (beginning, targets), the longest first
    without_credential: dict[str, str]  # model name → what is missing, for a helpful refusal
    # Targets of a wildcard that has another name upstream, by the model that was asked for.
    renamed: dict[str, tuple[Target, ...]] = field(default_factory=dict, repr=False)

    def targets(self, model: str) -> tuple[Target, ...]:
        """Return the deployments that serve `model`, or none."""
        found = self.exact.get(model)
        if found is not None:
            return found
        for start, targets in self.wildcards:
            if model.startswith(start):
                return self._renamed(model, start, targets)
        return ()

    def _renamed(self, model: str, start: str, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        """Return a wildcard's targets under the upstream's name: `openai/*` may be its `*`."""
        if not any(target.upstream_model for target in targets):
            return targets
        found = self.renamed.get(model)
        if found is None:
            if len(self.renamed) > _MAX_RENAMED:  # callers choose the names
                self.renamed.clear()
            found = self.renamed[model] = tuple(_named(target, start, model) for target in targets)
        return found

    def price_of(self, target: Target, model: str, *, at_s: float) -> ResolvedPrice | None:
        """Return what `target` charges for `model` (the upstream's name) at Unix time `at_s`."""
        if target.price is not None:
            return target.price
        return self.prices.find(target.provider, target.base_model or model, at_s=at_s)

    def missing_credential(self, model: str) -> str | None:
        """Say which credential keeps `model` from being served, if one does."""
        for name, missing in self.without_credential.items():
            if name == model or (name.endswith("*") and model.startswith(name[:-1])):
                return missing
        return None

    def model_names(self) -> list[str]:
        """Return every public name; those behind a `*` as far as the price book knows them."""
        names = set(self.exact)
        for start, targets in self.wildcards:
            for provider, pattern in {(target.provider, target.upstream_model) for target in targets}:
                upstream_start = pattern.removesuffix("*") if pattern else start
                known = self.prices.models.get(provider, ())
                names.update(
                    start + model[len(upstream_start) :]
                    for model in known
                    if model.startswith(upstream_start)
                )
        return sorted(names)


EMPTY_CATALOG = Catalog(PriceBook([]), {}, (), {})


def load_catalog() -> Catalog:
    """Read the snapshot from the database. Three queries; not for the event loop."""
    deployments = Deployment.objects.filter(is_active=True, upstream__is_active=True).select_related(
        "upstream", "price"
    )
    return build_catalog(deployments, Price.objects.all())


def build_catalog(deployments: Iterable[Deployment], prices: Iterable[Price]) -> Catalog:
    exact: dict[str, list[Target]] = {}
    wildcards: dict[str, list[Target]] = {}
    without_credential: dict[str, str] = {}
    for deployment in deployments:
        missing = _missing_credential(deployment.upstream)
        if missing:
            without_credential[deployment.model_name] = missing
            continue
        target = _target(deployment)
        if deployment.model_name.endswith("*"):
            wildcards.setdefault(deployment.model_name[:-1], []).append(target)
        else:
            exact.setdefault(deployment.model_name, []).append(target)
    return Catalog(
        prices=PriceBook(prices, canonical_model=canonical_model),
        exact={name: _by_priority(targets) for name, targets in exact.items()},
        wildcards=tuple(
            (start, _by_priority(wildcards[start])) for start in sorted(wildcards, key=len, reverse=True)
        ),
        without_credential=without_credential,
    )


def _missing_credential(upstream: Upstream) -> str | None:
    if upstream.credential.startswith(ENVIRONMENT_PREFIX) and not resolve_reference(upstream.credential):
        name = upstream.credential.removeprefix(ENVIRONMENT_PREFIX)
        return f"upstream {upstream.name!r} needs {name} in the environment"
    return None


def _target(deployment: Deployment) -> Target:
    upstream = deployment.upstream
    return Target(
        deployment_id=deployment.pk,
        model_id=deployment.public_id or str(deployment.pk),
        region=upstream.region.lower(),
        model_name=deployment.model_name,
        upstream=upstream.name,
        provider=upstream.provider,
        upstream_model=deployment.upstream_model,
        base_model=deployment.base_model,
        openai_base_url=resolve_reference(upstream.openai_base_url).rstrip("/"),
        anthropic_base_url=_without_version(resolve_reference(upstream.anthropic_base_url)),
        credential=resolve_reference(upstream.credential),
        headers=tuple(
            (
                str(name).lower().encode("latin-1", "ignore"),
                resolve_reference(str(value)).encode("latin-1", "ignore"),
            )
            for name, value in upstream.headers.items()
        ),
        priority=deployment.priority,
        weight=deployment.weight,
        price=resolve(deployment.price) if deployment.price else None,
        connect_timeout_s=upstream.connect_timeout_s,
        read_timeout_s=upstream.read_timeout_s,
    )


def _named(target: Target, start: str, model: str) -> Target:
    """Return the target of a wildcard that begins with `start` as it serves `model`."""
    if not target.upstream_model:
        return target
    return replace(target, upstream_model=target.upstream_model.removesuffix("*") + model[len(start) :])


def _without_version(url: str) -> str:
    """Return an Anthropic base URL without `/v1`, which the routes add."""
    return url.rstrip("/").removesuffix("/v1")


def _by_priority(targets: list[Target]) -> tuple[Target, ...]:
    return tuple(sorted(targets, key=lambda target: target.priority))
