"""
By which names the price of a model may be listed, and which service tiers there are.

A call names a model as its provider does; prices list it under one of several names. Tried
in this order, the first that has a row wins (docs/prices.md):

    as it is                          gpt-4o-2024-08-06
    its canonical name                gpt-4o (as the genai-prices package matches names)
    without its provider in front     openai/gpt-4o → gpt-4o
    with `-` for the `@` of a date    claude-sonnet-4-5@20250929 → claude-sonnet-4-5-20250929
    without region and maker          us.anthropic.claude-… → anthropic.claude-… → claude-…
    without version and date          …-20250929-v1:0, …-2024-08-06, …-latest → …
    a row that ends in *              the longest beginning (`PriceBook`)

`:free` of OpenRouter is another model at another price, so it is never cut off. Text only:
no query here.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

WILDCARD = "*"
_FREE = ":free"

_REGIONS = r"(?:us-gov|us|eu|apac|ap|au|jp|ca|sa|me|af|il|global)\."
_REGION = re.compile(rf"^{_REGIONS}(?=[a-z0-9]+\.)")  # Bedrock's inference profiles
_MAKER = re.compile(r"^(?:anthropic|amazon|meta|mistral|cohere|deepseek|openai|qwen|ai21)\.(?=.)")
_VERSION = re.compile(r"-v\d+(?::\d+)?$|(?<=\D):\d+$")  # Bedrock's -v1:0
_DATE = re.compile(r"[-@](?:20\d{2}-[01]\d-[0-3]\d|20\d{2}[01]\d[0-3]\d)$")
_LATEST = re.compile(r"[-@](?:latest|default)$")
_ROUTE = re.compile(r":(?:nitro|floor|exacto)$")  # OpenRouter: how it is routed, at the model's price
_AT_DATE = re.compile(r"@(?=20\d{6}$)")

# What providers call a service tier → ours, where it is not the same in lower case.
# LiteLLM 1.109 takes Gemini's BATCH traffic for flex; `fast` is OpenAI's newer word for priority.
_SERVICE_TIERS = {
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "FLEX": "flex",
    "BATCH": "flex",
    "fast": "priority",
    "batches": "batch",
}
_STANDARD = frozenset(
    ("", "auto", "default", "standard", "standard_only", "on_demand", "provisioned_throughput", "scale")
)


@lru_cache(maxsize=256)
def service_tier_of(said: str) -> str:
    """Return the service tier that a provider's word stands for; empty: the standard one."""
    tier = _SERVICE_TIERS.get(said) or said.lower()
    return "" if tier in _STANDARD else tier


def names_of(
    provider: str, model: str, *, canonical_model: Callable[[str, str], str | None] | None = None
) -> list[str]:
    """Return the other names by which the model's price may be listed, the first to try first."""
    shortened = list(_shortened(provider, model))
    found = [*shortened]
    if canonical_model is not None:
        first, last = canonical_model(provider, model), None
        if shortened:
            last = canonical_model(provider, shortened[-1])
        found = [*([first] if first else []), *shortened, *([last] if last else [])]
    if model.endswith(_FREE):
        found = [name for name in found if name.endswith(_FREE)]
    return [name for name in dict.fromkeys(found) if name != model]


def _shortened(provider: str, model: str) -> Iterator[str]:
    name = model
    for cut in (
        lambda name: name.removeprefix(f"{provider}/"),
        lambda name: _AT_DATE.sub("-", name),
        lambda name: _ROUTE.sub("", name),
        lambda name: _REGION.sub("", name),
        lambda name: _VERSION.sub("", name),
        lambda name: _DATE.sub("", name),
        lambda name: _LATEST.sub("", name),
    ):
        shorter = cut(name)
        if shorter and shorter != name:
            name = shorter
            yield name
    without_maker = _MAKER.sub("", name)
    if without_maker and without_maker != name:
        yield without_maker
