"""
Providers that model_list may name: `provider/model`, as LiteLLM writes it.

Only those that are called with a key, in OpenAI's or Anthropic's form. An upstream's
own address in the file wins over the one here.

Source: LiteLLM's provider list (1.109) and the providers' own documentation.
"""

from typing import NamedTuple

from proxy.demo import DEMO_BASE_URL


class Provider(NamedTuple):
    """A provider as the file names it.

    slug: whose prices apply, as in `Price.provider`.
    base_url: empty: the file has to say where it is.
    variables: where the key is looked for that the file does not give; none: no key is needed.
    """

    slug: str
    base_url: str = ""
    variables: tuple[str, ...] = ()
    anthropic: bool = False  # speaks Anthropic's form, not OpenAI's
    path: str = ""  # what its own addresses lack: /v1
    url_variables: tuple[str, ...] = ()  # where the providers' own SDKs look for the address


def _openai(slug: str, base_url: str, *variables: str) -> Provider:
    return Provider(slug, base_url, variables)


# fmt: off
PROVIDERS: dict[str, Provider] = {
    "openai": Provider(
        "openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",),
        url_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    ),
    "anthropic": Provider(
        "anthropic", "https://api.anthropic.com", ("ANTHROPIC_API_KEY",), anthropic=True,
        url_variables=("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
    ),
    "azure": Provider("azure", "", ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"), path="/openai/v1"),
    "cerebras": _openai("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "cohere": _openai("cohere", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY", "CO_API_KEY"),
    "custom_openai": Provider("openai"),
    "deepinfra": _openai("deepinfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": _openai("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "demo": Provider("demo", f"{DEMO_BASE_URL}/v1"),
    "fireworks_ai": _openai(
        "fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"
    ),
    "gemini": _openai(
        "google", "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY", "GOOGLE_API_KEY",
    ),
    "groq": _openai("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "hosted_vllm": Provider("hosted_vllm"),
    "litellm_proxy": Provider("litellm_proxy"),
    "lm_studio": Provider("lm_studio"),
    "mistral": _openai("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": _openai("moonshotai", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nvidia_nim": _openai(
        "nvidia_nim", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"
    ),
    "ollama": Provider("ollama", "http://localhost:11434", path="/v1"),
    "openai_like": Provider("openai"),
    "openrouter": _openai("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": _openai(
        "perplexity", "https://api.perplexity.ai", "PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"
    ),
    "sambanova": _openai("sambanova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "together_ai": _openai(
        "together", "https://api.together.xyz/v1",
        "TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY",
    ),
    "voyage": _openai("voyageai", "https://api.voyageai.com/v1", "VOYAGE_API_KEY"),
    "xai": _openai("x-ai", "https://api.x.ai/v1", "XAI_API_KEY"),
}
# fmt: on
PROVIDERS["ollama_chat"] = PROVIDERS["ollama"]
PROVIDERS["cohere_chat"] = PROVIDERS["cohere"]
PROVIDERS["text-completion-openai"] = PROVIDERS["openai"]
PROVIDERS["azure_ai"] = PROVIDERS["azure"]

# Where an address of the file's lacks the path: its host ends so, or anywhere for Ollama.
AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")

# A bare name, without `provider/`, by its beginning.
_BARE = {
    "openai": ("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-", "codex-"),
    "anthropic": ("claude-",),
    "deepseek": ("deepseek-",),
    "xai": ("grok-",),
}


def split_model(model: str, custom_provider: str | None) -> tuple[str | None, str]:
    """Return (the provider's name in the file, its model); None where the model does not tell."""
    start, slash, rest = model.partition("/")
    if custom_provider:
        return custom_provider, rest if slash and start == custom_provider else model
    if slash:
        return start, rest
    return next((name for name, starts in _BARE.items() if model.startswith(starts)), None), model
