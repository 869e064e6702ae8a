"""
How the models do, and how many tokens a prompt has: GET /health, POST /utils/token_counter (contract 3.1).

Neither calls a provider: LiteLLM's /health sends a call to each model, which costs money. Ours
tells of the calls that there were.
"""

from typing import Any

import msgspec
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from customers.api import Action
from customers.api.errors import BadRequest
from customers.api.fields import Id
from customers.api.json import exact
from customers.api.schema import described
from proxy import gateway
from proxy.api.services import model_id
from proxy.api.views import ModelView
from proxy.litellm_params import params_of
from proxy.models import Deployment

_BYTES_PER_TOKEN = 4  # where nothing is known of a model
_ENDPOINT = {
    "model": "openai/gpt-4o-mini", "api_base": "https://api.openai.com/v1", "model_name": "gpt-4o-mini",
    "model_id": "7",
}  # fmt: skip


class HealthQuery(serializers.Serializer):
    """GET /health."""

    model = Id(required=False, help_text="Of this model alone, by the name that is called.")


class Health(ModelView):
    """Tell which deployments answered last time: no call is made, and none that was not called is ill.

    Of the web process that answers: each knows of its own calls.
    """

    actions = {"GET": Action.READ_MODELS}

    @described(
        query=HealthQuery,
        answer={
            "healthy_endpoints": [_ENDPOINT], "unhealthy_endpoints": [], "healthy_count": 1,
            "unhealthy_count": 0,
        },
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        wanted = self.query(HealthQuery).get("model")
        healthy, unhealthy = [], []
        for deployment in self.served():
            if wanted is not None and deployment.model_name != wanted:
                continue
            told, failed_s = self._told(deployment), _failed_s_ago(deployment)
            if failed_s is None:
                healthy.append(told)
            else:
                error = f"Its last call failed, {failed_s:.0f} s ago at {timezone.now():%Y-%m-%dT%H:%M:%SZ}."
                unhealthy.append({**told, "error": error})
        return Response(
            {
                "healthy_endpoints": healthy,
                "unhealthy_endpoints": unhealthy,
                "healthy_count": len(healthy),
                "unhealthy_count": len(unhealthy),
            }
        )

    def _told(self, deployment: Deployment) -> dict[str, Any]:
        params = params_of(deployment, with_address=self.reach.is_all)
        told: dict[str, Any] = {name: params[name] for name in ("model", "api_base") if name in params}
        return {**told, "model_name": deployment.model_name, "model_id": model_id(deployment)}


def _failed_s_ago(deployment: Deployment) -> float | None:
    try:
        return gateway.running().router.failed_s_ago(deployment.pk)
    except RuntimeError:  # no calls in this process: a command, a test
        return None


class TokenCount(serializers.Serializer):
    """POST /utils/token_counter."""

    model = Id()
    messages = serializers.ListField(required=False, allow_null=True, max_length=100_000)
    prompt = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, trim_whitespace=False, max_length=10_000_000
    )


class CountTokens(ModelView):
    """Estimate how many tokens a prompt has: by its size, and what the model's calls taught of that.

    `tokenizer_type` says that it is an estimate. /v1/messages/count_tokens asks the provider.
    """

    actions = {"POST": Action.READ_MODELS}
    reads_by_post = True

    @described(
        body=TokenCount,
        answer={
            "total_tokens": 12, "request_model": "gpt-4o-mini", "model_used": "gpt-4o-mini",
            "tokenizer_type": "estimate",
        },
        example={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
    )  # fmt: skip
    def post(self, request: Request) -> Response:
        given = self.body(TokenCount)
        asked = given.get("messages")
        if asked is None:
            asked = given.get("prompt")
        if asked is None:
            raise BadRequest("Send `messages`, or `prompt`.", param="messages")
        model = self._upstream_model(given["model"])
        size = len(msgspec.json.encode(exact(asked)))
        return Response(
            {
                "total_tokens": _tokens(model, size),
                "request_model": given["model"],
                "model_used": model,
                "tokenizer_type": "estimate",
            }
        )

    def _upstream_model(self, name: str) -> str:
        """Return what the provider calls the model, as the gateway's learning does; else the name itself."""
        for deployment in self.served():
            if deployment.model_name == name:
                return deployment.upstream_model or name
        return name


def _tokens(model: str, size: int) -> int:
    try:
        return gateway.running().estimator.before(model, body_bytes=size, max_output_tokens=None)[0]
    except RuntimeError:
        return max(1, size // _BYTES_PER_TOKEN)
