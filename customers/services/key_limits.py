"""
What a key may have: how long it lives, the gateway's upper bounds, its limits.

`settings.KEY_UPPER_BOUNDS` ({"max_budget": …, "duration": "90d", …}) is what a key has where
its request says nothing or null; more than that is refused (contract 12, decision 7).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from customers.durations import parse_duration
from customers.models import Budget
from customers.refusals import Refused
from customers.services.budgets import LIMIT_FIELDS, find_budget
from customers.services.defaults import enforceable_limits

NEVER = "-1"
# A key lives for as long as it is said, by the clock; only budgets follow the calendar.
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "mo": 30 * 86_400}
_DURATIONS = ("duration", "budget_duration")
_RATES = {"model_rpm_limit": "rpm_limit", "model_tpm_limit": "tpm_limit"}


def lifetime(duration: str, *, param: str) -> timedelta:
    """Return how long `30d` is; a month is 30 days. Raises: Refused."""
    try:
        number, unit = parse_duration(duration)
    except ValueError as error:
        raise Refused(f"{param}: {error}", param=param) from None
    return timedelta(seconds=number * _SECONDS[unit])


def expiry_of(duration: str | None, *, at: datetime) -> datetime | None:
    """Return when a key of this duration, given at `at`, ends; None: never. Raises: Refused."""
    if not duration or duration == NEVER:
        return None
    return at + lifetime(duration, param="duration")


# -- upper bounds ----------------------------------------------------------------------


def within_bounds(given: Mapping[str, Any], *, is_new: bool) -> dict[str, Any]:
    """Return the fields, with the upper bound for each that says no limit.

    A key that is changed keeps what is not given. Raises: Refused where more is given;
    also by a tier, which has to be within the bounds as it is.
    """
    bounds: Mapping[str, Any] = getattr(settings, "KEY_UPPER_BOUNDS", {})
    tier = find_budget(given["budget_id"]) if bounds and given.get("budget_id") is not None else None
    detaches = "budget_id" in given and tier is None
    bounded = dict(given)
    for name, bound in bounds.items():
        if tier is not None and name in LIMIT_FIELDS:
            _check_bound(name, getattr(tier, name), bound, of=f"The budget {tier.pk}")
        elif is_new or name in given or (detaches and name in LIMIT_FIELDS):
            value = given.get(name)
            if value is None or value == "":
                bounded[name] = bound
            else:
                _check_bound(name, value, bound, of="This key")
    return bounded


def _check_bound(name: str, value: Any, bound: Any, *, of: str) -> None:
    is_unlimited = value is None or value == "" or (name == "duration" and value == NEVER)
    if is_unlimited or _size(name, value) > _size(name, bound):
        has = "no limit of" if is_unlimited else f"{value} as"
        raise Refused(f"{of} has {has} {name}; here a key has at most {bound}.", param=name)


def _size(name: str, value: Any) -> Any:
    return lifetime(value, param=name) if name in _DURATIONS else value


# -- limits ----------------------------------------------------------------------------


def limits_in(given: Mapping[str, Any], budget: Budget | None) -> dict[str, Any]:
    """Return what a request says of limits, as `budget_of_holder` takes it.

    budget: what the key has now. Budgets and rates by model are fields of their own here and
    one column of a budget: what is given of one leaves the others alone. Raises: Refused.
    """
    fields = dict(given)
    if "model_max_budget" in fields:
        current = budget.model_max_budget if budget else {}
        for field, rate in _RATES.items():
            fields.setdefault(field, {**_rates(current, rate), **_rates(fields["model_max_budget"], rate)})
    limits = enforceable_limits(budget, fields)
    for name in LIMIT_FIELDS:
        if name in limits and (limits[name] in ("", {}, [])):
            limits[name] = None  # no limit: nothing that would need a budget
    return limits


def _rates(by_model: Mapping[str, Any] | None, rate: str) -> dict[str, Any]:
    """Return the rates by model that an object of limits by model has."""
    entries = (by_model or {}).items()
    return {model: entry[rate] for model, entry in entries if isinstance(entry, dict) and rate in entry}
