"""What changes upstreams and deployments as a whole: the first set-up."""

from decimal import Decimal

from django.conf import settings
from django.db import transaction

from billing.models import Price
from proxy.demo import DEMO_BASE_URL
from proxy.models import Deployment, Upstream

_DEMO_RATES = {"input_per_mtok_usd": Decimal(1), "output_per_mtok_usd": Decimal(2)}

# name → (provider's fields, the public names it serves). The base URLs can be set
# with the variables that the providers' own SDKs read.
_PROVIDERS = {
    "openai": (
        {"openai_base_url": "https://api.openai.com/v1", "credential": "os.environ/OPENAI_API_KEY"},
        ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        ("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "text-embedding-*", "codex-*"),
    ),
    "anthropic": (
        {"anthropic_base_url": "https://api.anthropic.com", "credential": "os.environ/ANTHROPIC_API_KEY"},
        ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
        ("claude-*",),
    ),
}


@transaction.atomic
def set_up_upstreams(environment: dict[str, str]) -> list[str]:
    """Make the upstreams that are missing; leave those that are there. Returns: names of the new ones."""
    made = []
    for name, (fields, url_variables, model_names) in _PROVIDERS.items():
        if Upstream.objects.filter(name=name).exists():
            continue
        url_field = next(field for field in fields if field.endswith("_base_url"))
        url = next((environment[variable] for variable in url_variables if environment.get(variable)), None)
        upstream = Upstream.objects.create(
            name=name, provider=name, **{**fields, **({url_field: url} if url else {})}
        )
        for model_name in model_names:
            Deployment.objects.create(model_name=model_name, upstream=upstream)
        made.append(name)
    if settings.DEMO_UPSTREAM and not Upstream.objects.filter(name="demo").exists():
        _set_up_demo()
        made.append("demo")
    return made


def _set_up_demo() -> None:
    # Prices stay when staff delete or rename the upstream.
    if not Price.objects.filter(provider="demo", model="demo").exists():
        Price.objects.create(provider="demo", model="demo", **_DEMO_RATES)
    upstream = Upstream.objects.create(
        name="demo",
        provider="demo",
        openai_base_url=f"{DEMO_BASE_URL}/v1",
        anthropic_base_url=DEMO_BASE_URL,
    )
    Deployment.objects.create(model_name="demo", upstream=upstream)
