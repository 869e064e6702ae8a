"""The proxied routes, each with and without /v1. The lean handler serves them."""

from typing import Any

from django.urls import URLPattern, path

from proxy import views

# The first path segments that `spendproject/asgi.py` sends here.
FIRST_SEGMENTS = frozenset(
    {"v1", "chat", "completions", "embeddings", "responses", "messages", "models", "engines", "openai"}
)
# Of those, what belongs to the API: /v1/model/info; models themselves are at /v1/models.
NOT_PROXIED = "v1/model/"


def _both(route: str, view: Any) -> list[URLPattern]:
    return [path(f"v1/{route}", view), path(route, view)]


def _with_model_in_path(route: str, view: Any) -> list[URLPattern]:
    """The older spellings that name the model in the path (Azure's SDK, OpenAI's engines)."""
    return [
        path(f"engines/<str:model>/{route}", view),
        path(f"openai/deployments/<str:model>/{route}", view),
    ]


urlpatterns = [
    *_both("chat/completions", views.chat_completions),
    *_both("completions", views.completions),
    *_both("embeddings", views.embeddings),
    *_both("responses", views.responses),
    *_both("messages", views.messages),
    *_both("messages/count_tokens", views.count_tokens),
    *_both("models", views.models),
    *_both("models/<path:name>", views.one_model),
    *_with_model_in_path("chat/completions", views.chat_completions),
    *_with_model_in_path("completions", views.completions),
    *_with_model_in_path("embeddings", views.embeddings),
]
