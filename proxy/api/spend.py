"""
What a call would cost: POST /spend/calculate and /cost/estimate (contract 6.5). Nothing is booked.

A model is one that the caller may call, by its public name and with the price of its first
deployment; or one of the price list, as `gpt-4o` or `openai/gpt-4o`.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from django.conf import settings
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Price
from billing.prices.pricing import PriceBook, ResolvedPrice, cost_of, resolve
from billing.prices.sources import canonical_model
from billing.prices.terms import billed_units, read_terms
from billing.usage import Usage
from customers.api import Action
from customers.api.errors import BadRequest
from customers.api.fields import Id, Whole
from customers.api.json import exact
from customers.api.schema import described
from customers.money import from_nano
from proxy.api.views import ModelView
from proxy.dialects import anthropic_messages, openai_chat, openai_responses
from proxy.dialects.base import Answer, UnreadableAnswer
from proxy.litellm_params import priced_model

_BYTES_PER_TOKEN = 4  # of what is asked, where nothing is known of a model
_MOST = 10**9  # tokens of a call, calls of a month
_FIRST_PROVIDERS = ("openai", "anthropic")  # of those that list a model by the same name
_OUTPUT = ("output_text", "reasoning", "output_audio", "output_image")


class SpendCalculation(serializers.Serializer):
    """POST /spend/calculate: messages of a model, or a whole answer."""

    model = Id(required=False, allow_null=True)
    messages = serializers.ListField(
        required=False, allow_null=True, max_length=100_000, help_text="What would be asked: input alone."
    )
    completion_response = serializers.DictField(
        required=False, allow_null=True, help_text="An answer with its usage, in any dialect."
    )


class CostEstimate(serializers.Serializer):
    """POST /cost/estimate."""

    model = Id()
    input_tokens = Whole(min_value=0, max_value=_MOST)
    output_tokens = Whole(min_value=0, max_value=_MOST)
    num_requests_per_day = Whole(required=False, allow_null=True, min_value=0, max_value=_MOST)
    num_requests_per_month = Whole(required=False, allow_null=True, min_value=0, max_value=_MOST)


class CostView(ModelView):
    """What both routes share."""

    actions = {"POST": Action.READ_MODELS}
    reads_by_post = True

    def price_of(self, model: str, *, at: datetime) -> ResolvedPrice:
        """Return what the model costs now. Raises: BadRequest where there is no price."""
        pairs = []
        for deployment in self.served():
            if deployment.model_name == model:
                if deployment.price is not None:
                    return resolve(deployment.price)
                pairs.append(priced_model(deployment))
        price = _listed(pairs or _spelled(model), at=at)
        if price is None:
            raise BadRequest(
                f"There is no price of {model}: add one in the admin, or name a model of /model/info.",
                param="model",
            )
        return price


class CalculateSpend(CostView):
    """Tell what an answer cost, or what messages would cost as input. Nothing is charged."""

    @described(
        body=SpendCalculation,
        answer={
            "cost": Decimal("0.0000012"), "is_estimated": True, "price_id": 4711,
            "price_source": "genai_prices", "priced_as": "openai/gpt-4o-mini", "service_tier": None,
        },
        example={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
    )  # fmt: skip
    def post(self, request: Request) -> Response:
        given, at = self.body(SpendCalculation), timezone.now()
        answer, messages = given.get("completion_response"), given.get("messages")
        if answer:
            said, model = _answer(answer), given.get("model") or answer.get("model")
        elif messages:
            size = len(msgspec.json.encode(exact(messages)))
            usage = Usage(input_uncached=max(1, size // _BYTES_PER_TOKEN))
            said, model = Answer(usage), given.get("model")
        else:
            raise BadRequest("Send `model` and `messages`, or `completion_response`.", param="messages")
        if not model or not isinstance(model, str):
            raise BadRequest("Say which model: model=gpt-4o-mini.", param="model")
        price = self.price_of(model, at=at)
        terms = read_terms(settings.COST_DISCOUNTS, settings.COST_MARGINS)
        units = billed_units(said.units, provider=price.provider, price=price, terms=terms)
        usage = said.usage or Usage()
        cost = cost_of(price, usage, units, said.service_tier)
        if cost is None:
            raise BadRequest(f"The price of {model} has no rate for what was used.", param="model")
        tiers = price.conditions(usage, units, said.service_tier).service_tiers
        return Response(
            {
                "cost": from_nano(cost),
                "is_estimated": not answer,
                "price_id": price.price_id,
                "price_source": price.source,
                "priced_as": f"{price.provider}/{price.model}",
                "service_tier": ", ".join(tiers) or None,
            }
        )


class EstimateCost(CostView):
    """Tell what so many calls of so many tokens cost, in a day and in a month."""

    @described(
        body=CostEstimate,
        answer={
            "model": "gpt-4o-mini", "input_tokens": 1000, "output_tokens": 200, "num_requests_per_day": 100,
            "num_requests_per_month": None, "cost_per_request": Decimal("0.00027"),
            "input_cost_per_request": Decimal("0.00015"), "output_cost_per_request": Decimal("0.00012"),
            "daily_cost": Decimal("0.027"), "monthly_cost": None,
        },
        example={
            "model": "gpt-4o-mini", "input_tokens": 1000, "output_tokens": 200, "num_requests_per_day": 100,
        },
    )  # fmt: skip
    def post(self, request: Request) -> Response:
        given = self.body(CostEstimate)
        price = self.price_of(given["model"], at=timezone.now())
        usage = Usage(input_uncached=given["input_tokens"], output_text=given["output_tokens"])
        cost = price.cost_nano(usage)
        output = sum(part.cost_nano for part in price.explain(usage) if part.bucket in _OUTPUT)
        daily, monthly = given.get("num_requests_per_day"), given.get("num_requests_per_month")
        return Response(
            {
                "model": given["model"],
                "input_tokens": given["input_tokens"],
                "output_tokens": given["output_tokens"],
                "num_requests_per_day": daily,
                "num_requests_per_month": monthly,
                "cost_per_request": from_nano(cost),
                "input_cost_per_request": from_nano(cost - output),
                "output_cost_per_request": from_nano(output),
                "daily_cost": None if daily is None else from_nano(cost * daily),
                "monthly_cost": None if monthly is None else from_nano(cost * monthly),
            }
        )


def _answer(answer: Mapping[str, Any]) -> Answer:
    """Return what an answer says it used. Raises: BadRequest."""
    said = answer.get("usage")
    if not isinstance(said, Mapping) or not said:
        raise BadRequest("completion_response has no `usage`.", param="completion_response")
    if any(isinstance(value, int | Decimal) and value < 0 for value in said.values()):
        raise BadRequest("completion_response: `usage` counts from 0 on.", param="completion_response")
    if "prompt_tokens" in said:
        read = openai_chat.read_answer
    else:
        read = (
            anthropic_messages.read_answer
            if answer.get("type") == "message"
            else openai_responses.read_answer
        )
    try:
        found = read(msgspec.json.encode(exact(dict(answer))))
    except UnreadableAnswer as error:
        raise BadRequest(f"completion_response: {error}", param="completion_response") from None
    if found.usage is None:
        raise BadRequest("completion_response has no `usage`.", param="completion_response")
    if max((*found.usage, *(found.units or {}).values())) > _MOST:
        raise BadRequest("completion_response: no call uses so much.", param="completion_response")
    return found


def _spelled(model: str) -> list[tuple[str, str]]:
    """Return (provider, model) of every entry of the price list that a name may mean."""
    provider, slash, rest = model.partition("/")
    named = Price.objects.exclude(source=Price.Source.DEPLOYMENT).filter(model=model)
    providers = set(named.values_list("provider", flat=True))
    first = [each for each in _FIRST_PROVIDERS if each in providers or canonical_model(each, model)]
    pairs = [(each, model) for each in (*first, *sorted(providers - {*first}))]
    return [(provider, rest), *pairs] if slash and rest else pairs


def _listed(pairs: list[tuple[str, str]], *, at: datetime) -> ResolvedPrice | None:
    """Return the price of the first of these that has one. One query."""
    rows = Price.objects.listed_for(pairs, canonical_model=canonical_model)
    book = PriceBook(rows, canonical_model=canonical_model)
    found = (book.find(provider, model, at_s=at.timestamp()) for provider, model in pairs)
    return next(filter(None, found), None)
