"""
model_list of config.yaml, read into entries: a public name, an upstream, its model, rates.

Nothing is looked up in the database here. A credential may be a reference,
`os.environ/NAME`, and is kept as that; without one in the file the provider's usual
variable is referred to, but only for the provider's own address: a key is not sent to
a place that the file names without it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

from customers.text import MAX_ID_LENGTH, is_clean_id
from proxy.configuration.providers import AZURE_HOSTS, PROVIDERS, Provider, split_model
from proxy.configuration.rates import Rates, is_rate, read_rates
from proxy.credentials import ENVIRONMENT_PREFIX, resolve
from proxy.demo import DEMO_BASE_URL, DEMO_SCHEME
from proxy.models.upstream import header_problem, validate_base_url
from spendproject.config_file import BadConfig, Config
from spendproject.config_keys import KEYS, metadata
from spendproject.strict_yaml import Path

# Parameters without effect that the management API gives back, all of them harmless.
_KEPT = ("rpm", "tpm", "tags", "stream_timeout", "api_version")
# What an upstream keeps as a reference.
_REFERENCES = ("litellm_params.api_key", "litellm_params.api_base", "litellm_params.base_url",
               "litellm_params.extra_headers")  # fmt: skip


@dataclass(frozen=True)
class UpstreamEntry:
    """A provider account. Equal ones are one upstream."""

    provider: str  # the slug of prices
    openai_base_url: str
    anthropic_base_url: str
    credential: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    read_timeout_s: float = 600.0


@dataclass(frozen=True)
class Entry:
    """One entry of model_list: a deployment."""

    place: str  # in the file, for messages
    model_name: str
    upstream: UpstreamEntry
    upstream_model: str
    priority: int
    weight: int
    base_model: str
    public_id: str | None
    model_info: dict[str, Any]
    extras: dict[str, Any]
    rates: Rates

    @property
    def has_output(self) -> bool:
        return self.model_info.get("mode") not in ("embedding", "rerank", "moderation")


def read_entries(config: Config) -> tuple[list[Entry], list[str]]:
    """Return (the entries, warnings). Raises: BadConfig with everything that is wrong."""
    reader = _Reader(config)
    for number, said in enumerate(config.models):
        reader.read(("model_list", number), said)
    if reader.problems:
        raise BadConfig(config.path, reader.problems)
    return reader.entries, reader.warnings


class _Reader:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._places: dict[str, str] = {}  # public id → where it was given
        self.entries: list[Entry] = []
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def read(self, path: Path, said: dict[str, Any]) -> None:
        """Read one entry; `config_file` made sure of its shape."""
        known = len(self.problems)
        params, info = said.get("litellm_params") or {}, said.get("model_info") or {}
        values = self._values(path, said, params, info)
        model_name = self._model_name(path, values.get("model_name"))
        if "litellm_params.model" not in values and len(self.problems) == known:
            self._problem((*path, "litellm_params"), "write model: provider/model below it")
        if len(self.problems) > known:
            return
        rates = read_rates(
            {**info, **params},
            _resolved,
            lambda name, what: self._problem((*path, "litellm_params", name), what),
        )
        found = self._upstream(path, values)
        if len(self.problems) > known or found is None:
            return
        upstream, model = found
        upstream_model = self._upstream_model(path, model_name, model)
        public_id = self._public_id(path, values.get("model_info.id"))
        if len(self.problems) > known:
            return
        base_model = values.get("model_info.base_model") or values.get("litellm_params.base_model") or ""
        self.warnings += [
            f"{self._config.place((*path, 'litellm_params', name))}: no such rate here yet; it is not counted"
            for name in rates.unsupported
        ]
        self.entries.append(
            Entry(
                place=self._config.place(path),
                model_name=model_name,
                upstream=upstream,
                upstream_model=upstream_model,
                priority=values.get("litellm_params.order", 0),
                weight=values.get("litellm_params.weight", 1),
                base_model=_without_provider(base_model),
                public_id=public_id,
                model_info=_plain({name: info[name] for name in info if name != "id" and not is_rate(name)}),
                extras=_plain({name: params[name] for name in _KEPT if params.get(name) is not None}),
                rates=rates,
            )
        )

    def _values(self, path: Path, said: dict[str, Any], params: Any, info: Any) -> dict[str, Any]:
        """Return what the table knows of the entry, read: `litellm_params.model` and the like."""
        values = {}
        parts: list[tuple[tuple[str, ...], Any]] = [((), said), (("litellm_params",), params)]
        parts.append((("model_info",), info))
        for start, part in parts:
            for name, value in part.items():
                known_as = ".".join((*start, name))
                key = KEYS.get(f"model_list[].{known_as}")
                if key is None or value is None:
                    continue
                try:
                    values[known_as] = key.read(value if known_as in _REFERENCES else _resolved(value))
                except ValueError as error:
                    self._problem((*path, *start, name), str(error))
        return values

    def _model_name(self, path: Path, name: str | None) -> str:
        if name is None:
            self._problem(path, "write model_name: the name that callers use")
            return ""
        if not is_clean_id(name) or "*" in name[:-1]:
            self._problem(
                (*path, "model_name"),
                f"write at most {MAX_ID_LENGTH} characters, a * only at the end",
            )
        return name

    def _public_id(self, path: Path, public_id: str | None) -> str | None:
        if public_id is None:
            return None
        if not is_clean_id(public_id):
            self._problem((*path, "model_info", "id"), f"write at most {MAX_ID_LENGTH} characters")
        elif public_id in self._places:
            self._problem(
                (*path, "model_info", "id"), f"{self._places[public_id]} has this id too; each needs its own"
            )
        self._places[public_id] = self._config.place(path)
        return public_id

    def _upstream(self, path: Path, values: dict[str, Any]) -> tuple[UpstreamEntry, str] | None:
        """Return (the upstream, its model); None with a warning where we cannot serve the entry."""
        model = values["litellm_params.model"]
        name, model = split_model(model, values.get("litellm_params.custom_llm_provider"))
        api_base = values.get("litellm_params.api_base") or values.get("litellm_params.base_url") or ""
        if name is None and api_base:
            name = "openai"
        provider = PROVIDERS.get(name or "")
        if provider is None:
            what = "no provider is named" if name is None else f"the provider {name!r} is not supported"
            place = self._config.place((*path, "litellm_params", "model"))
            self.warnings.append(
                f"{place}: {what}, so the entry is not served; write provider/model, or openai/… with an "
                "api_base that speaks OpenAI's form"
            )
            return None
        base_url = self._base_url(path, provider, name or "", api_base)
        credential = self._credential(path, provider, values.get("litellm_params.api_key"), bool(api_base))
        headers = self._headers(path, values)
        anthropic_url = base_url if provider.anthropic else ""
        if base_url == f"{DEMO_BASE_URL}/v1":
            anthropic_url = DEMO_BASE_URL
        timeout_s = values.get("litellm_params.timeout")
        upstream = UpstreamEntry(
            provider=provider.slug,
            openai_base_url="" if provider.anthropic else base_url,
            anthropic_base_url=anthropic_url,
            credential=credential,
            headers=headers,
            read_timeout_s=600.0 if timeout_s is None else float(timeout_s),
        )
        return upstream, model

    def _base_url(self, path: Path, provider: Provider, name: str, api_base: str) -> str:
        if not api_base and not provider.base_url:
            self._problem((*path, "litellm_params"), f"write api_base: where is this {name} server?")
            return ""
        variable = next((name for name in provider.url_variables if os.environ.get(name)), None)
        own = provider.base_url if variable is None else ENVIRONMENT_PREFIX + variable
        base_url = _with_path(provider, (api_base or own).rstrip("/"))
        try:
            if base_url.startswith(DEMO_SCHEME) and api_base:
                raise ValidationError("the demo is no address")
            validate_base_url(base_url)
        except ValidationError:
            self._problem(
                (*path, "litellm_params", "api_base"),
                "write an address such as https://api.openai.com/v1, or os.environ/NAME",
            )
        return base_url

    def _credential(self, path: Path, provider: Provider, api_key: str | None, has_api_base: bool) -> str:
        if api_key:
            if not api_key.isascii():
                self._problem((*path, "litellm_params", "api_key"), "a key has ASCII characters only")
            return "" if api_key.lower() == "none" else self._told_if_unset(path, api_key)
        if not provider.variables or (has_api_base and provider.base_url):
            return ""
        name = next((name for name in provider.variables if os.environ.get(name)), provider.variables[0])
        return self._told_if_unset(path, ENVIRONMENT_PREFIX + name)

    def _told_if_unset(self, path: Path, credential: str) -> str:
        if not resolve(credential):
            name = credential.removeprefix(ENVIRONMENT_PREFIX)
            self.warnings.append(
                f"{self._config.place(path)}: not served until {name} is set in the environment"
            )
        return credential

    def _headers(self, path: Path, values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        headers = {str(name): value for name, value in values.get("litellm_params.extra_headers", {}).items()}
        if organization := values.get("litellm_params.organization"):
            headers["OpenAI-Organization"] = organization
        for name, value in headers.items():
            if problem := header_problem(name, value):
                self._problem((*path, "litellm_params", "extra_headers"), problem)
        return tuple(sorted((name, str(value)) for name, value in headers.items()))

    def _upstream_model(self, path: Path, model_name: str, model: str) -> str:
        """Return what `Deployment.upstream_model` keeps: nothing where a * hands the name on as it is."""
        if model.endswith("*") != model_name.endswith("*"):
            self._problem(
                (*path, "litellm_params", "model"),
                "a * stands at the end of model_name and of model, or of neither",
            )
        elif "*" in model[:-1] or not model or not is_clean_id(model):
            self._problem(
                (*path, "litellm_params", "model"), "write provider/model; a * may only stand at the end"
            )
        return "" if model == model_name else model

    def _problem(self, path: Path, what: str) -> None:
        self.problems.append(f"{self._config.place(path)}: {what}")


def _with_path(provider: Provider, base_url: str) -> str:
    """Return the address with the path that the provider's own addresses are written without."""
    if provider.anthropic:
        return base_url.removesuffix("/messages").removesuffix("/v1")
    if not provider.path:
        return base_url.removesuffix("/chat/completions")
    # A reference is read now: what it stands for needs the path, which a reference cannot carry.
    address = resolve(base_url).rstrip("/")
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        return base_url
    lacks_path = not urlsplit(address).path and (provider.slug != "azure" or host.endswith(AZURE_HOSTS))
    return address + provider.path if lacks_path and host else base_url


def _without_provider(base_model: str) -> str:
    """Return `gpt-4o` of `azure/gpt-4o`: the provider is the upstream's."""
    start, slash, rest = base_model.partition("/")
    return rest if slash and start in PROVIDERS else base_model


def _resolved(value: Any) -> Any:
    """Return what a reference stands for. Raises: ValueError where it is not set."""
    if not isinstance(value, str) or not value.startswith(ENVIRONMENT_PREFIX):
        return value
    found = resolve(value)
    if not found:
        name = value.removeprefix(ENVIRONMENT_PREFIX)
        raise ValueError(
            f"{name} is not set; set it in the environment or the env file, or write the value here"
        )
    return found


def _plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON keeps them; these numbers are no money."""
    return metadata(dict(said))
