"""
The golden payloads: what providers answered, and what it costs, worked out by hand.

`golden/*.json` has them by dialect or provider. A case is an answer (or the events of a stream)
in the shape that the provider documents, the `working` of its cost as arithmetic in USD, and
the `cost` that comes of it to the nano-dollar. Rates in the working are USD per million tokens.
Prices are in `golden/prices.json`: an excerpt of the cost map of LiteLLM 1.109.1 (MIT licence)
in its form, and rows of ours for what it does not list. Answers are read by the dialects
themselves.
"""

import ast
import json
import operator
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from billing.models import Price
from billing.prices import cost_map
from billing.prices.pricing import PriceBook, ResolvedPrice, cost_of
from billing.prices.sources import canonical_model
from billing.prices.terms import Terms, billed_units, with_search_size
from billing.usage import Usage
from proxy.dialects import (
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
)

FOLDER = Path(__file__).with_name("golden")
AT_S = 1_763_800_000  # any instant: the rows count for all time
DIALECTS = {
    dialect.NAME: dialect
    for dialect in (anthropic_messages, openai_chat, openai_completions, openai_embeddings, openai_responses)
}
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class Read(NamedTuple):
    """What a call is priced by."""

    usage: Usage
    units: dict[str, int] | None
    service_tier: str


@lru_cache(maxsize=1)
def cases() -> list[dict[str, Any]]:
    """Return all cases, each with the file that it is from."""
    return [
        {"file": path.stem, **case}
        for path in sorted(FOLDER.glob("*.json"))
        if path.stem != "prices"
        for case in json.loads(path.read_text("utf-8"))["cases"]
    ]


def prices() -> list[Price]:
    """Return the unsaved rows."""
    return cost_map.parse((FOLDER / "prices.json").read_bytes(), "prices.json").prices


def book(rows: list[Price]) -> PriceBook:
    return PriceBook(rows, canonical_model=canonical_model)


def price_of(case: dict[str, Any], prices: PriceBook) -> ResolvedPrice | None:
    return prices.find(case["provider"], case["model"], at_s=AT_S)


def read(case: dict[str, Any], price: ResolvedPrice | None) -> Read:
    """Read a case as a call does."""
    if case["dialect"] is None:
        return Read(Usage(**case["usage"]), case["units"] or None, case["service_tier"])
    dialect = DIALECTS[case["dialect"]]
    if "answer" in case:
        answer = dialect.read_answer(_encoded(case["answer"]))
        usage, units, service_tier = answer.usage, answer.units, answer.service_tier
    else:
        meter = dialect.Meter()
        for event in case["stream"]:
            meter.feed(event.encode() if isinstance(event, str) else _encoded(event))
        usage, units, service_tier = meter.usage, meter.units, meter.service_tier
    if "request" in case:
        ask = dialect.read_call(_encoded(case["request"]))
        service_tier = service_tier or ask.service_tier
        units = with_search_size(units, usage, ask.search_size)
    units = billed_units(units, provider=case["provider"], price=price, terms=Terms())
    return Read(usage, units, service_tier)


def nano_of(case: dict[str, Any], prices: PriceBook) -> int | None:
    """Return what the gateway takes the case to cost."""
    price = price_of(case, prices)
    return cost_of(price, *read(case, price))


def worked_out(case: dict[str, Any]) -> Fraction:
    """Return the exact value of the working, in USD."""
    working = case["working"]

    def value(node: ast.AST) -> Fraction:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if not isinstance(node, ast.Constant):
            raise ValueError(f"{working} is no plain arithmetic")
        return Fraction(ast.get_source_segment(working, node) or "")

    return value(ast.parse(working, mode="eval").body)


def nano(text: str) -> int:
    return int(Decimal(text).scaleb(9))


def _encoded(body: Any) -> bytes:
    return json.dumps(body).encode()
