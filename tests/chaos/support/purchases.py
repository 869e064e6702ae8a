"""
Calls whose price and largest cost a test knows, for customers under a budget of its own.

The model `dime` costs $0.10 a call, whatever is asked; `by-token` $1 for a million tokens
of output and nothing for input, so that a call's most is its `max_tokens`: a micro-dollar
each. Both speak OpenAI's and Anthropic's dialect. A purchase has a name, which is its `tag`
on the provider's bill and its `client_call_id` in the gateway's log; the name begins with
the customer's. Amounts are whole nano-dollars.
"""

import itertools
import random
import uuid
from decimal import Decimal
from typing import Any, NamedTuple

from tests.chaos.support import wire
from tests.gateway import GatewayProcess

DIME = 100_000_000
TOKEN = 1_000
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
_HELLO = [{"role": "user", "content": "Hello"}]
_RATES = {
    "dime": {"per_request_usd": Decimal("0.10")},
    "by-token": {"input_per_mtok_usd": Decimal(0), "output_per_mtok_usd": Decimal(1)},
}
_numbers = itertools.count(1)


class Purchase(NamedTuple):
    """One call. `most`: the most it can cost; None where the test does not need it."""

    name: str
    customer: str
    path: str
    body: dict[str, Any]
    most: int | None = None

    def request(self, key: str) -> bytes:
        credential = {"x-api-key": key} if self.path == MESSAGES else {"authorization": f"Bearer {key}"}
        who = {"x-litellm-customer-id": self.customer, "x-litellm-call-id": self.name}
        return wire.post(self.path, self.body, {**credential, **who})


def purchase(
    customer: str,
    model: str = "dime",
    *,
    path: str = CHAT,
    most: int | None = None,
    fake: dict[str, Any] | None = None,
    **body: Any,
) -> Purchase:
    """Return a call. fake: how the provider shall answer; body: further fields of the request."""
    name = f"{customer}:{next(_numbers)}"
    fields = {"model": model, "messages": _HELLO, "fake": {**(fake or {}), "tag": name}, **body}
    return Purchase(name, customer, path, fields, most)


def purchase_by_token(rng: random.Random, customer: str, *, tokens: int, **fake: Any) -> Purchase:
    """Return a call that uses 0.1 to 1.0 of its `max_tokens`, plain or streamed, in either dialect."""
    path = rng.choice((CHAT, MESSAGES))
    used = rng.randint(tokens // 10, tokens)
    answer = {"output_tokens": used, "chunks": rng.randrange(3, 12), **fake}
    body: dict[str, Any] = {"max_tokens": tokens}
    if rng.random() < 0.5:
        body["stream"] = True
    model = "by-token" if path == CHAT else "by-token-claude"
    return purchase(customer, model, path=path, most=tokens * TOKEN, fake=answer, **body)


def customer_of(name: str) -> str:
    return name.rpartition(":")[0]


# -- what a gateway must know of --------------------------------------------------------


def expect_short_answers(*upstream_models: str, tokens: int = 8) -> None:
    """Have the gateway believe, before it starts, that a thousand answers were that short."""
    from billing.models import TypicalOutput

    for model in upstream_models:
        TypicalOutput.objects.create(upstream_model=model, calls=1_000, output_tokens=1_000 * tokens)


def make_models(*, read_timeout_s: float = 600) -> None:
    """Add the deployments, before the gateway starts. read_timeout_s: of both upstreams."""
    from billing.models import Price
    from proxy.models import Deployment, Upstream

    Upstream.objects.update(read_timeout_s=read_timeout_s)
    for name, rates in _RATES.items():
        price = Price.objects.create(provider="openai", model=name, source=Price.Source.DEPLOYMENT, **rates)
        for suffix, upstream, upstream_model in (
            ("", "openai", "gpt-4o-mini"),
            ("-claude", "anthropic", "claude-haiku-4-5"),
        ):
            Deployment.objects.create(
                model_name=name + suffix,
                upstream=Upstream.objects.get(name=upstream),
                upstream_model=upstream_model,
                price=price,
            )


def make_budget(**fields: Any) -> Any:
    """Make a tier; amounts are text."""
    from customers.models import Budget

    budget = Budget(**{**fields, "max_budget": Decimal(fields["max_budget"])})
    budget.full_clean()
    budget.save()
    return budget


def key_for_customers(gateway: GatewayProcess, **fields: Any) -> str:
    """Return a key, each of whose customers has such a budget from its first call on: nothing to wait for."""
    budget = gateway.execute_orm(make_budget, **fields)
    return gateway.create_key(customer_budget=budget)[1]


def new_customer(what: str = "customer") -> str:
    return f"{what}-{uuid.uuid4().hex[:10]}"
