"""Models: what may be called, at which price, through which upstream (contract 5.8)."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.cache import get_conditional_response
from django.views.decorators.http import require_safe
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Price
from billing.prices.pricing import PriceBook
from billing.prices.sources import canonical_model, context_windows
from customers.actors import current_actor
from customers.api import Action, ManagementView
from customers.api.errors import NotFound
from customers.api.json import exact
from customers.api.schema import described
from customers.models import AuditLog
from proxy.admission import may_use
from proxy.api.objects import (
    GROUP_EXAMPLE,
    MODEL_EXAMPLE,
    WRITTEN_EXAMPLE,
    cost_map_entry,
    group_object,
    model_info,
    model_object,
)
from proxy.api.serializers import (
    ChangedModel,
    DeletedModel,
    GroupQuery,
    ModelPageQuery,
    ModelQuery,
    NewModel,
    UpdatedModel,
)
from proxy.api.services import create_model, delete_model, model_id, model_or_404, update_model
from proxy.callers import MASTER, Caller, load_callers
from proxy.litellm_params import ListedPrices, priced_model, provider_name
from proxy.models import Deployment

_NEW_MODEL = {
    "model_name": "gpt-4o-mini",
    "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": "os.environ/OPENAI_API_KEY"},
}


class ModelView(ManagementView):
    """What all routes of models share: the deployments that the caller may call."""

    def served(self) -> list[Deployment]:
        """Return the deployments in the order of their names. Two queries where the caller is no admin."""
        deployments = (
            Deployment.objects.filter(is_active=True, upstream__is_active=True)
            .select_related("upstream", "price")
            .order_by("model_name", "priority", "pk")
        )
        if self.reach.is_all:
            return list(deployments)
        caller = self._as_called()
        return [deployment for deployment in deployments if _is_callable(deployment.model_name, caller)]

    def _as_called(self) -> Caller:
        """Return the caller as proxied routes see it: the same rule decides there."""
        key = self.caller.key
        if key is None:
            return MASTER
        return load_callers([key.token_hash])[key.token_hash]

    def written(self, deployment: Deployment, warnings: list[str]) -> dict[str, Any]:
        """Return the stored row, as /model/new and /model/update answer."""
        entries = AuditLog.objects.filter(kind=Deployment._meta.label_lower, object_id=str(deployment.pk))
        first = entries.order_by("id").first()
        prices = _prices([deployment], at=timezone.now())
        told = model_object(deployment, prices, for_admin=True)
        return {
            "model_id": model_id(deployment),
            "model_name": deployment.model_name,
            "litellm_params": told["litellm_params"],
            "model_info": told["model_info"],
            "created_at": deployment.created_at,
            "created_by": first.changed_by or first.user_id or first.actor if first else None,
            "updated_at": deployment.updated_at,
            "updated_by": current_actor().id,
            "warnings": warnings,
        }


class ModelInfo(ModelView):
    """List the models that the caller may call, with their prices."""

    actions = {"GET": Action.READ_MODELS}

    @described(query=ModelQuery, answer={"data": [MODEL_EXAMPLE]})
    def get(self, request: Request) -> Response:
        wanted = self.query(ModelQuery).get("litellm_model_id")
        deployments = self.served()
        if wanted:
            deployments = [deployment for deployment in deployments if model_id(deployment) == wanted]
            if not deployments:
                raise NotFound(f"no model with the id {wanted}", param="litellm_model_id")
        return Response({"data": _objects(deployments, for_admin=self.reach.is_all)})


class ModelInfoPages(ModelView):
    """List models in pages, with a search in their names."""

    actions = {"GET": Action.READ_MODELS}

    @described(
        query=ModelPageQuery,
        answer={"data": [MODEL_EXAMPLE], "total_count": 1, "current_page": 1, "total_pages": 1, "size": 50},
    )
    def get(self, request: Request) -> Response:
        query = self.query(ModelPageQuery)
        deployments = [deployment for deployment in self.served() if _is_asked_for(deployment, query)]
        if query["sortOrder"] == "desc":
            deployments.reverse()
        page, size = query["page"], query["size"]
        shown = deployments[(page - 1) * size : page * size]
        return Response(
            {
                "data": _objects(shown, for_admin=self.reach.is_all),
                "total_count": len(deployments),
                "current_page": page,
                "total_pages": -(-len(deployments) // size),
                "size": size,
            }
        )


class ModelGroupInfo(ModelView):
    """List the model names, each with what its deployments have in common."""

    actions = {"GET": Action.READ_MODELS}

    @described(query=GroupQuery, answer={"data": [GROUP_EXAMPLE]})
    def get(self, request: Request) -> Response:
        wanted = self.query(GroupQuery).get("model_group")
        deployments = [
            deployment for deployment in self.served() if not wanted or deployment.model_name == wanted
        ]
        prices = _prices(deployments, at=timezone.now())
        groups = groupby(deployments, key=lambda deployment: deployment.model_name)
        return Response(
            {
                "data": [
                    group_object(name, (model_info(member, prices, for_admin=False) for member in members))
                    for name, members in groups
                ]
            }
        )


class NewModelView(ModelView):
    """Have a model served: makes its upstream, unless there is one, and its price where rates are given."""

    actions = {"POST": Action.WRITE_MODELS}

    @described(body=NewModel, answer=WRITTEN_EXAMPLE, example=_NEW_MODEL)
    def post(self, request: Request) -> Response:
        deployment, warnings = create_model(self.body(NewModel), at=timezone.now())
        return Response(self.written(deployment, warnings))


class UpdateModel(ModelView):
    """Change a model, which `model_info.id` names; what is not sent stays."""

    actions = {"POST": Action.WRITE_MODELS}

    @described(
        body=UpdatedModel,
        answer=WRITTEN_EXAMPLE,
        example={"model_name": "fast", "model_info": {"id": "7"}},
    )
    def post(self, request: Request) -> Response:
        given = self.body(UpdatedModel)
        deployment, warnings = update_model(model_or_404(given["id"]), given, at=timezone.now())
        return Response(self.written(deployment, warnings))


class PatchModel(ModelView):
    """Change a model, which the path names; what is not sent stays."""

    actions = {"PATCH": Action.WRITE_MODELS}

    @described(body=ChangedModel, answer=WRITTEN_EXAMPLE, example={"model_name": "fast"})
    def patch(self, request: Request, named: str) -> Response:
        given = self.body(ChangedModel)
        deployment, warnings = update_model(model_or_404(named), given, at=timezone.now())
        return Response(self.written(deployment, warnings))


class DeleteModel(ModelView):
    """Stop serving a model. What was spent stays, and the prices that it was spent at."""

    actions = {"POST": Action.WRITE_MODELS}

    @described(
        body=DeletedModel,
        answer={"message": "Model: 7 deleted successfully"},
        example={"id": "7"},
    )
    def post(self, request: Request) -> Response:
        named = self.body(DeletedModel)["id"]
        delete_model(named)
        return Response({"message": f"Model: {named} deleted successfully"})


def _is_callable(model_name: str, caller: Caller) -> bool:
    """Tell whether a caller may call a name, or one of those behind its `*`."""
    if may_use(caller, model_name):
        return True
    start = model_name.removesuffix("*")
    named = caller.key_models | caller.team_models
    return start != model_name and any(name.startswith(start) and may_use(caller, name) for name in named)


def _is_asked_for(deployment: Deployment, query: dict[str, Any]) -> bool:
    return (
        query.get("search", "").lower() in deployment.model_name.lower()
        and query.get("model") in (None, deployment.model_name)
        and query.get("modelId") in (None, model_id(deployment))
    )


def _prices(deployments: Iterable[Deployment], *, at: datetime) -> ListedPrices:
    return ListedPrices([priced_model(deployment) for deployment in deployments], at=at)


def _objects(deployments: list[Deployment], *, for_admin: bool) -> list[dict[str, Any]]:
    prices = _prices(deployments, at=timezone.now())
    return [model_object(deployment, prices, for_admin=for_admin) for deployment in deployments]


# -- the cost map --------------------------------------------------------------------------

_COST_MAP_SECONDS = 300


class _CostMap(NamedTuple):
    """The cost map as it is answered, and what tells whether it still is."""

    made_of: tuple[Any, ...]
    body: bytes
    etag: str


_kept_cost_map: _CostMap | None = None


def _current_cost_map() -> _CostMap:
    """Return the cost map; made anew when prices were added, or one that is dated begins. Two queries."""
    global _kept_cost_map
    now = timezone.now()
    rows = Price.objects.exclude(source=Price.Source.DEPLOYMENT)
    begun = rows.exclude(effective_from__gt=now)
    # Rows are added, never edited.
    made_of = (begun.order_by("-pk").values_list("pk", flat=True).first(), begun.count())
    kept = _kept_cost_map
    if kept is None or kept.made_of != made_of:
        body = msgspec.json.encode(exact(_cost_map(rows, now.timestamp())))
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        kept = _kept_cost_map = _CostMap(made_of, body, etag)
    return kept


def _cost_map(rows: Iterable[Price], at_s: float) -> dict[str, Any]:
    by_id = {price.pk: price for price in rows}
    book = PriceBook(by_id.values(), canonical_model=canonical_model)
    found = {}
    for provider, models in sorted(book.models.items()):
        for model in sorted(models):
            price = book.find(provider, model, at_s=at_s)
            if price is not None:
                entry = cost_map_entry(by_id[price.price_id], context_windows().get((provider, model)))
                found[_map_name(provider, model)] = entry
    return found


def _map_name(provider: str, model: str) -> str:
    """Return a model's key in the map: bare for those that LiteLLM knows without their provider."""
    return model if provider in ("openai", "anthropic") else f"{provider_name(provider)}/{model}"


@require_safe
def cost_map(request: HttpRequest) -> HttpResponseBase:
    """GET /public/litellm_model_cost_map: every price in force, in LiteLLM's form. No key is asked for."""
    current = _current_cost_map()
    answer = HttpResponse(
        current.body,
        content_type="application/json",
        headers={"Cache-Control": f"public, max-age={_COST_MAP_SECONDS}", "ETag": current.etag},
    )
    return get_conditional_response(request, etag=current.etag, response=answer) or answer
