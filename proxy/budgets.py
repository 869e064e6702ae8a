"""
What a call asks of its budgets, and what it is told when they refuse.

`standard` holds what the call will probably cost: its input by size, and the model's
usual output, at most `max_tokens`. `strict` holds the most that it can cost: a token is
at least a byte, the answer is as long as it may be; where the call sets no limit it is
given what the budget still buys, and what nobody can bound is refused by name (H6). Of
several deployments the dearest counts (H9). Amounts are nano-dollars, rounded up.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from billing.budgets.holds import Claim, Granted, Refused
from billing.models.spend_total import HolderType
from billing.prices.pricing import ResolvedPrice
from billing.prices.rate_cards import Card
from customers.money import from_nano, plain_usd
from customers.text import clean_line
from proxy.catalog import Target
from proxy.dialects.base import Ask, Dialect
from proxy.errors import BudgetExceeded, NotUnderStrictBudget, UnpricedUnderBudget
from proxy.tiers import CallLimits

if TYPE_CHECKING:
    from proxy.gateway import Gateway

_PER_MTOK = 1_000_000
# What providers add around a call's own text: a few tokens per message, which its JSON
# outweighs, and some hundreds that explain tools to the model.
_ADDED_TOKENS = 64
_ADDED_FOR_TOOLS = 1_024
_LEAST_OUTPUT_TOKENS = 16  # the least that OpenAI's responses accept as a limit


class Amount(NamedTuple):
    """What a call asks to have held: an amount, and so much for each token of output it is granted."""

    nano: int
    token_nano: int = 0
    least_tokens: int = 0
    most_tokens: int = 0


def amount_of(
    gateway: "Gateway",
    dialect: Dialect,
    ask: Ask,
    targets: tuple[Target, ...],
    limits: CallLimits,
    *,
    at_s: float,
    card: Card | None = None,
) -> Amount | None:
    """Return what to hold for a call; None where it is free.

    card: the customer's rate card. One amount is held on all budgets: the larger of what the
    call may cost and what it may be charged.

    Raises: NotUnderStrictBudget, UnpricedUnderBudget.
    """
    prices = [_price(gateway, target, target.upstream_model or ask.model, at_s) for target in targets]
    own = [_own_price(card, target, ask.model, at_s) for target in targets]
    if all(price.is_free for price in prices) and all(price is None or price.is_free for price in own):
        return None
    decide = _worst if limits.is_strict else _usual
    amount = decide(gateway, dialect, ask, targets, prices)
    if card is None:
        return _charged(gateway, targets, amount)
    if None in own:
        amount = _times(amount, _PER_MTOK + max(0, card.margin_ppm))
    if any(own):
        charged = [each or price for each, price in zip(own, prices, strict=True)]
        amount = _larger(amount, decide(gateway, dialect, ask, targets, charged))
    return amount


def _own_price(card: Card | None, target: Target, model: str, at_s: float) -> ResolvedPrice | None:
    if card is None:
        return None
    return card.own_price(target.provider, target.base_model or target.upstream_model or model, at_s=at_s)


def _times(amount: Amount, ppm: int) -> Amount:
    return amount._replace(nano=_up(amount.nano * ppm), token_nano=_up(amount.token_nano * ppm))


def _larger(one: Amount, other: Amount) -> Amount:
    return one._replace(nano=max(one.nano, other.nano), token_nano=max(one.token_nano, other.token_nano))


def _charged(gateway: "Gateway", targets: tuple[Target, ...], amount: Amount) -> Amount:
    """Return the amount with the largest margin that its charge may have: customers' budgets pay that."""
    margins = [gateway.terms.margin_of(target.provider) for target in targets]
    ppm, nano = (max(column) for column in zip(*margins, strict=True))
    if not ppm and not nano:
        return amount
    amount = _times(amount, _PER_MTOK + ppm)
    return amount._replace(nano=amount.nano + nano)


def _price(gateway: "Gateway", target: Target, model: str, at_s: float) -> ResolvedPrice:
    price = gateway.catalog.price_of(target, model, at_s=at_s)
    if price is not None:
        return price
    settings = gateway.limits
    if settings.holds_unpriced and (dearest := gateway.catalog.prices.dearest(target.provider, at_s=at_s)):
        return dearest
    raise UnpricedUnderBudget(
        f"The model {clean_line(model)!r} has no price at {target.provider!r}, so no budget can tell "
        "whether it allows the call. Ask whoever manages the gateway to add the price.",
        status=settings.budget_status,
    )


def _usual(
    gateway: "Gateway", dialect: Dialect, ask: Ask, targets: tuple[Target, ...], prices: list[ResolvedPrice]
) -> Amount:
    most = 0
    for target, price in zip(targets, prices, strict=True):
        model = target.upstream_model or ask.model
        tokens, _ = gateway.estimator.before(
            model, body_bytes=len(ask.body), max_output_tokens=ask.max_output_tokens
        )
        output = usual_output(gateway, dialect, ask, target) * ask.choices
        most = max(most, price.estimate_nano(tokens, output, ask.service_tier))
    return Amount(most)


def usual_output(gateway: "Gateway", dialect: Dialect, ask: Ask, target: Target) -> int:
    """Return how many tokens one answer usually has: of a model that is new, as many as it may have (H8)."""
    if not dialect.HAS_OUTPUT:
        return 0
    usual = gateway.refresher.typical_outputs.get(target.upstream_model or ask.model)
    if usual is None:
        return ask.max_output_tokens or gateway.limits.max_output_tokens
    return min(usual, ask.max_output_tokens) if ask.max_output_tokens else usual


def _worst(
    gateway: "Gateway", dialect: Dialect, ask: Ask, targets: tuple[Target, ...], prices: list[ResolvedPrice]
) -> Amount:
    unbounded = dialect.unbounded(ask.body)
    cap = gateway.limits.unbounded_feature_tokens
    if unbounded and not cap:
        raise NotUnderStrictBudget(
            f"The call is under a strict budget, and nobody can tell beforehand what this may cost: "
            f"{', '.join(unbounded)}. Leave it out, or ask whoever manages the gateway "
            "for a standard budget.",
            status=gateway.limits.budget_status,
            param=unbounded[0].partition(":")[0],
        )
    has_tools = b'"tools"' in ask.body
    tokens = len(ask.body) + (_ADDED_FOR_TOOLS if has_tools else _ADDED_TOKENS) + cap * len(unbounded)
    writes_cache = dialect.NAME != "anthropic_messages" or b'"cache_control"' in ask.body
    rates = [price.worst_rates(tokens, writes_cache=writes_cache) for price in prices]
    input_rate, output_rate, per_request = (max(column) for column in zip(*rates, strict=True))
    fixed = _up(tokens * input_rate) + per_request
    if not dialect.HAS_OUTPUT:
        return Amount(fixed)
    if ask.max_output_tokens:
        return Amount(fixed + _up(ask.max_output_tokens * ask.choices * output_rate))
    return Amount(
        fixed, _up(ask.choices * output_rate), _LEAST_OUTPUT_TOKENS, gateway.limits.max_output_tokens
    )


def _up(millionths: int) -> int:
    return -(-millionths // _PER_MTOK)


# -- what the caller is told -----------------------------------------------------------------


def refusal(refused: Refused, limits: CallLimits, *, status: int) -> BudgetExceeded:
    """Return the refusal, in the words that LiteLLM's clients match on (contract 8.4)."""
    claim = refused.claim
    label = limits.labels[limits.claims.index(claim)]
    spent, limit = _usd(refused.spent_nano + refused.provisional_nano), _usd(claim.limit_nano)
    message = _headline(claim, label, spent, limit)
    if refused.spent_nano + refused.provisional_nano < claim.limit_nano:
        held, asked = _usd(refused.held_nano), _usd(refused.asked_nano)
        message += f" Calls under way hold {held} USD, and this call may cost {asked} USD."
    ends_at = claim.period.ends_at
    resets_at = _instant(ends_at) if ends_at else None
    if resets_at:
        message += f" The budget starts again at {resets_at}."
    error = BudgetExceeded(message, status=status)
    figures = {
        "limit": claim.limit_nano,
        "spent": refused.spent_nano,
        "held": refused.held_nano,
        "provisional": refused.provisional_nano,
        "hold": refused.asked_nano,
    }
    who = {"scope": claim.period.holder_type, "id": claim.period.holder_id.replace("\n", "/")}
    if claim.period.scope:
        who["model"] = claim.period.scope
    error.details = {
        **who,
        **({"id": limits.key_token} if limits.key_token and who["scope"] == HolderType.KEY else {}),
        **{name: msgspec.Raw(_usd(nano).encode()) for name, nano in figures.items()},
        "resets_at": resets_at,
    }
    error.refusal = {
        **who,
        **{name: _usd(nano) for name, nano in figures.items()},
        "mode": "strict" if limits.is_strict else "standard",
        "resets_at": resets_at,
    }
    return error


def _headline(claim: Claim, label: str, spent: str, limit: str) -> str:
    label = clean_line(label)
    if claim.period.scope:
        owner = f"{claim.period.holder_type.replace('_', ' ')} {label}".strip()
        return (
            f"ExceededBudget: {owner} has exceeded budget for model={clean_line(claim.period.scope)}: "
            f"has spent {spent} of {limit} USD."
        )
    match claim.period.holder_type:
        case HolderType.CUSTOMER:
            return f"ExceededBudget: End User={label} has spent {spent} of {limit} USD."
        case HolderType.USER:
            return f"ExceededBudget: User={label} has spent {spent} of {limit} USD."
        case HolderType.TEAM:
            who = f" Team={label}"
        case HolderType.TAG:
            who = f" Tag={label}"
        case HolderType.TEAM_MEMBER:
            who = f" Team member={label}"
        case HolderType.KEY:
            who = f" Key={label}"
        case _:
            who = " Gateway"
    return f"Budget has been exceeded!{who} Current cost: {spent}, Max budget: {limit}."


def _usd(nano: int) -> str:
    return plain_usd(from_nano(nano))


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- what the caller is told when it is admitted ------------------------------------------------

_HEADER_OF = {
    HolderType.TEAM_MEMBER.value: b"team-member",
    HolderType.KEY.value: b"key",
    HolderType.TEAM.value: b"team",
    HolderType.USER.value: b"user",
    HolderType.CUSTOMER.value: b"customer",
    HolderType.GATEWAY.value: b"gateway",
}


def headers(
    granted: Granted, limits: CallLimits, cost_nano: int, charge_nano: int
) -> list[tuple[bytes, bytes]]:
    """Return what is spent and left of the call's budgets, this call included (contract 4).

    cost_nano, charge_nano: 0 while a stream's cost is not known yet. Tags and limits by model have none.
    Of a holder's several windows, the one with the least left.
    """
    tightest: dict[bytes, tuple[int, int, int]] = {}
    for claim, spent_before in zip(limits.claims, granted.spent_nano, strict=True):
        name = _HEADER_OF.get(claim.period.holder_type)
        if name is None or claim.period.scope:
            continue
        spent = spent_before + (charge_nano if claim.period.is_charged else cost_nano)
        left = max(0, claim.limit_nano - spent)
        if name not in tightest or left < tightest[name][2]:
            tightest[name] = spent, claim.limit_nano, left
    return [
        (b"x-litellm-%b-%b" % (name, what), _usd(nano).encode())
        for name, amounts in tightest.items()
        for what, nano in zip((b"spend", b"max-budget", b"remaining-budget"), amounts, strict=True)
    ]


def only_holds_are_in_the_way(refused: Refused) -> bool:
    """Tell whether the call would pass if those under way cost nothing."""
    return refused.spent_nano + refused.provisional_nano + refused.asked_nano <= refused.claim.limit_nano
