"""What a new row has where the request says nothing: the operator's defaults, from settings."""

from collections.abc import Mapping
from typing import Any

from customers.models import Budget
from customers.refusals import Refused
from customers.services.budgets import LIMIT_FIELDS

_UNENFORCED = {
    "tpd_limit": "Tokens a day are not limited here: use tpm_limit, or max_budget with budget_duration 1d.",
}


def with_defaults(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with what it lacks.

    Limits come from one side: a request that names a tier gets no default limits, and one
    with limits of its own no default tier.
    """
    filled = dict(defaults)
    if given.get("budget_id") is not None:
        for name in (*LIMIT_FIELDS, "model_rpm_limit", "model_tpm_limit"):
            filled.pop(name, None)
    elif any(given.get(name) is not None for name in LIMIT_FIELDS):
        filled.pop("budget_id", None)
    return {**filled, **given}


def enforceable_limits(current: Budget | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with its rates by model in `model_max_budget`, where budgets keep them.

    Raises: Refused for a limit that would not be enforced: better refused than believed.
    """
    for name, advice in _UNENFORCED.items():
        if given.get(name):
            raise Refused(advice, param=name)
    limits = dict(given)
    by_model = limits.get("model_max_budget", current.model_max_budget if current else None) or {}
    merged = {model: dict(entry) if isinstance(entry, dict) else entry for model, entry in by_model.items()}
    for field, rate in (("model_rpm_limit", "rpm_limit"), ("model_tpm_limit", "tpm_limit")):
        if field in limits:
            _set_rates(merged, rate, limits.pop(field) or {})
            limits["model_max_budget"] = merged
    return limits


def _set_rates(by_model: dict[str, Any], rate: str, rates: Mapping[str, Any]) -> None:
    for model in list(by_model):
        if isinstance(by_model[model], dict):
            by_model[model].pop(rate, None)
            if not by_model[model]:
                del by_model[model]
    for model, limit in rates.items():
        entry = by_model.setdefault(model, {})
        if isinstance(entry, dict):
            entry[rate] = limit
