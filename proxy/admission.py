"""
What can refuse a call before it is sent, top to bottom, and what limits it.

Blocked keys and teams were refused with the key (`authentication.py`). Everything
here is decided from memory; what a limit says, the call finds out for itself
(`calls.py`), for that may take a moment in which its client may leave.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from customers.allowed_routes import INFO, LLM_API, is_allowed
from customers.ids import uuid7_text
from proxy.callers import Caller, CustomerRule
from proxy.catalog import Target
from proxy.dialects.base import Ask, Dialect
from proxy.errors import (
    BadCall,
    CustomerBlocked,
    CustomerMissing,
    CustomerModelNotAllowed,
    ModelNotAllowed,
    RouteNotAllowed,
    TeamModelNotAllowed,
    UnknownModel,
    UserModelNotAllowed,
)
from proxy.identification import Attribution
from proxy.tiers import Behind, CallLimits, holders

if TYPE_CHECKING:
    from proxy.gateway import Gateway

# LiteLLM's names for "no restriction of its own".
_ALL_MODELS = frozenset({"all-proxy-models", "all-team-models", "*"})


# To which groups of routes a path belongs (`customers/allowed_routes.py`).
CALLS, MODELS = (LLM_API,), (LLM_API, INFO)


def check_route(caller: Caller, path: str, groups: Collection[str]) -> None:
    """Refuse a key that is confined to other routes; /v1 or not is one route. Raises: RouteNotAllowed."""
    routes = caller.routes
    if not routes or is_allowed(routes, path, groups):
        return
    if not is_allowed(routes, path.removeprefix("/v1") if path.startswith("/v1/") else f"/v1{path}", groups):
        raise RouteNotAllowed(f"This key may not call {path[:200]}: it is confined to {', '.join(routes)}.")


def by_real_name(ask: Ask, caller: Caller) -> Ask:
    """Return the call with the model that its key, or its team, means by the name in it."""
    model = caller.model_aliases.get(ask.model)
    return ask if model is None else ask._replace(model=model)


def admit(
    gateway: "Gateway", dialect: Dialect, ask: Ask, caller: Caller, origin: Attribution
) -> tuple[Target, ...]:
    """Return the deployments that may serve the call.

    Raises: CustomerMissing, Forbidden, UnknownModel, BadCall.
    """
    customer_id = origin.customer_id
    if customer_id is None and gateway.limits.needs_customer and dialect.BILLABLE:
        raise CustomerMissing(
            "'user' param not passed in: every call here names its customer, in the body's `user` or the "
            "header x-litellm-customer-id."
        )
    rule = gateway.callers.customer_rules.get(customer_id) if customer_id is not None else None
    if rule is not None:
        _check_customer(customer_id, rule, ask.model)
    _check_models(caller, ask.model)
    targets = _targets(gateway, dialect, ask.model)
    if rule is None or not rule.region:
        return targets
    within = _within(targets, rule.region)
    if not within:
        raise CustomerModelNotAllowed(
            f"Calls of customer {customer_id!r} stay in the region {rule.region}, and the model "
            f"{ask.model[:200]!r} is not served from there."
        )
    return within


def limits_of(
    gateway: "Gateway", ask: Ask, caller: Caller, origin: Attribution, started_us: int
) -> CallLimits:
    """Return the rate limits and budgets that the call has to fit under."""
    callers = gateway.callers
    customer_id = origin.customer_id
    customer_tier = None
    if customer_id is not None:
        rule = callers.customer_rules.get(customer_id)
        customer_tier = (rule.tier if rule is not None else None) or caller.customer_tier
    behind = Behind(
        None if caller.key_id is None else uuid7_text(caller.key_id),
        caller.key_name,
        caller.tier,
        caller.key_token,
        caller.team_id,
        caller.team_tier,
        origin.user_id,
        customer_id,
        customer_tier,
        origin.tags,
    )
    who = holders(callers.tiers, behind, user_pays_in_team=gateway.limits.user_pays_in_team)
    return gateway.limits_of_holders.find(who, ask.model, started_us)


def may_use(caller: Caller, model: str) -> bool:
    """Tell whether the key, its team and its user allow `model`, or what they mean by that name."""
    model = caller.model_aliases.get(model, model)
    lists = (caller.key_models, caller.team_models, caller.user_models)
    return all(_is_allowed(allowed, model) for allowed in lists)


def visible_models(gateway: "Gateway", caller: Caller) -> list[str]:
    """Return the names that the caller may call models by."""
    served = gateway.catalog.model_names()
    known = set(served)
    aliases = [
        name
        for name, model in caller.model_aliases.items()
        if name not in known and gateway.catalog.targets(model)
    ]
    return [name for name in [*served, *aliases] if may_use(caller, name)]


def by_default_model(gateway: "Gateway", ask: Ask, customer_id: str | None) -> Ask:
    """Return the call with its customer's default model, if its region lacks the one that is asked for."""
    rule = gateway.callers.customer_rules.get(customer_id) if customer_id is not None else None
    if rule is None or not rule.default_model or not rule.region:
        return ask
    if _within(gateway.catalog.targets(ask.model), rule.region):
        return ask
    return ask._replace(model=rule.default_model)


def _within(targets: tuple[Target, ...], region: str) -> tuple[Target, ...]:
    """Return those whose upstream is in the region: `eu` is also `eu-west-1`."""
    return tuple(target for target in targets if target.region.startswith(region))


def _check_customer(customer_id: str | None, rule: CustomerRule, model: str) -> None:
    if rule.blocked:
        raise CustomerBlocked(
            f"Customer {customer_id!r} is blocked. Ask whoever manages the gateway to unblock it."
        )
    if rule.models and not _is_allowed(rule.models, model):
        raise CustomerModelNotAllowed(_not_allowed("customer", rule.models, model))


def _check_models(caller: Caller, model: str) -> None:
    for allowed, owner, error in (
        (caller.key_models, "key", ModelNotAllowed),
        (caller.team_models, "team", TeamModelNotAllowed),
        (caller.user_models, "user", UserModelNotAllowed),
    ):
        if allowed and not _is_allowed(allowed, model):
            raise error(_not_allowed(owner, allowed, model))


def _not_allowed(owner: str, allowed: frozenset[str], model: str) -> str:
    listed = ", ".join(sorted(allowed)[:20])
    return f"This {owner} may not use the model {model[:200]!r}. Allowed: {listed}."


def _is_allowed(allowed: frozenset[str], model: str) -> bool:
    if not allowed or model in allowed or allowed & _ALL_MODELS:
        return True
    return any(name.endswith("*") and model.startswith(name[:-1]) for name in allowed)


def _targets(gateway: "Gateway", dialect: Dialect, model: str) -> tuple[Target, ...]:
    targets = gateway.catalog.targets(model)
    speaking = tuple(target for target in targets if dialect.base_url(target))
    if speaking:
        return speaking
    route = dialect.UPSTREAM_PATH.removeprefix("/v1")
    if targets:
        raise BadCall(
            f"The model {model[:200]!r} is not served on /v1{route}: its upstream has no base URL for that."
        )
    missing = gateway.catalog.missing_credential(model)
    if missing:
        raise UnknownModel(f"/v1{route}: the model {model[:200]!r} is configured, but {missing}.")
    raise UnknownModel(
        f"/v1{route}: unknown model {model[:200]!r}. GET /v1/models lists those that are served."
    )
