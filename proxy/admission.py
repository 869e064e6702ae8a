"""
What can refuse a call before it is sent, top to bottom, and what limits it.

Blocked keys and teams were refused with the key (`authentication.py`). Everything
here is decided from memory; what a limit says, the call finds out for itself
(`calls.py`), for that may take a moment in which its client may leave.
"""

from typing import TYPE_CHECKING

from customers.ids import uuid7_text
from proxy.callers import Caller
from proxy.catalog import Target
from proxy.dialects.base import Ask, Dialect
from proxy.errors import BadCall, CustomerBlocked, ModelNotAllowed, TeamModelNotAllowed, UnknownModel
from proxy.identification import Attribution
from proxy.tiers import Behind, CallLimits, holders

if TYPE_CHECKING:
    from proxy.gateway import Gateway

# LiteLLM's names for "no restriction of its own".
_ALL_MODELS = frozenset({"all-proxy-models", "all-team-models", "*"})


def admit(
    gateway: "Gateway", dialect: Dialect, ask: Ask, caller: Caller, origin: Attribution
) -> tuple[Target, ...]:
    """Return the deployments that may serve the call. Raises: Forbidden, UnknownModel, BadCall."""
    _check_customer(gateway, origin.customer_id)
    _check_models(caller, ask.model)
    return _targets(gateway, dialect, ask.model)


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
    """Tell whether the key and its team allow `model`."""
    return _is_allowed(caller.key_models, model) and _is_allowed(caller.team_models, model)


def _check_customer(gateway: "Gateway", customer_id: str | None) -> None:
    if customer_id is None:
        return
    rule = gateway.callers.customer_rules.get(customer_id)
    if rule is not None and rule.blocked:
        raise CustomerBlocked(
            f"Customer {customer_id!r} is blocked. Ask whoever manages the gateway to unblock it."
        )


def _check_models(caller: Caller, model: str) -> None:
    for allowed, owner, error in (
        (caller.key_models, "key", ModelNotAllowed),
        (caller.team_models, "team", TeamModelNotAllowed),
    ):
        if allowed and not _is_allowed(allowed, model):
            listed = ", ".join(sorted(allowed)[:20])
            raise error(f"This {owner} may not use the model {model[:200]!r}. Allowed: {listed}.")


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
