"""What is done to customers: make, change, block, delete.

Their initial spend: `billing/books/adjustments.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.apps import apps

from customers.models import Customer, RateCard
from customers.refusals import Missing, Refused
from customers.services.budgets import budget_of_holder
from customers.services.defaults import enforceable_limits

# The API's names → ours, and what null and "" mean.
_FIELDS = {
    "alias": ("alias", ""),
    "models": ("allowed_models", []),
    "allowed_model_region": ("allowed_model_region", ""),
    "default_model": ("default_model", ""),
    "metadata": ("metadata", {}),
}


def create_customer(given: Mapping[str, Any]) -> Customer:
    """Make a customer, or bring back one that was deleted: with its spend, and blocked if it was.

    given: the API's fields. In the caller's transaction. Raises: Refused, Missing, ValidationError.
    """
    customer_id = given["user_id"]
    customer = Customer.objects.filter(pk=customer_id).first()
    if customer is not None and customer.deleted_at is None:
        raise Refused(
            f"a customer with id {customer_id} exists already: change it with POST /customer/update",
            param="user_id",
        )
    if customer is not None and given.get("spend"):
        raise Refused(
            f"The customer {customer_id} was here before, and what it spent goes on from there: "
            "leave out spend.",
            param="spend",
        )
    if customer is None:
        customer = Customer(pk=customer_id)
    customer.deleted_at = None
    _set(customer, {**dict.fromkeys([*_FIELDS, "rate_card"]), **given})
    customer.budget = budget_of_holder(None, enforceable_limits(None, given))
    if customer._state.adding:
        customer.save(force_insert=True)
    else:
        written = [name for name, _ in _FIELDS.values()]
        customer.save(update_fields=[*written, "rate_card", "blocked", "budget", "deleted_at", "updated_at"])
    return customer


def update_customer(given: Mapping[str, Any]) -> Customer:
    """Change what is given of a customer; null empties a field, or takes a limit away.

    In the caller's transaction. Raises: Refused, Missing, ValidationError.
    """
    listed = Customer.objects.listed().select_related("budget", "rate_card")
    customer = listed.filter(pk=given["user_id"]).first()
    if customer is None:
        raise Missing(f"no customer with id {given['user_id']}", param="user_id")
    changed = _set(customer, given)
    budget = budget_of_holder(customer.budget, enforceable_limits(customer.budget, given))
    if (budget and budget.pk) != customer.budget_id:
        changed.append("budget")
    customer.budget = budget
    customer.save(update_fields=[*changed, "updated_at"])
    return customer


def _set(customer: Customer, given: Mapping[str, Any]) -> list[str]:
    """Set the fields that are given, but for limits; return their names."""
    changed = []
    for name, (field, empty) in _FIELDS.items():
        if name in given:
            value = given[name]
            setattr(customer, field, type(empty)() if value is None else value)
            changed.append(field)
    if "rate_card" in given:
        customer.rate_card = _rate_card(given["rate_card"])
        changed.append("rate_card")
    if "blocked" in given:
        customer.blocked = given["blocked"]
        changed.append("blocked")
    return changed


def _rate_card(name: str | None) -> RateCard | None:
    """Raises: Missing."""
    if name is None:
        return None
    card = RateCard.objects.filter(name=name).first()
    if card is None:
        raise Missing(f"no rate card with the name {name}", param="rate_card")
    return card


def is_served(model: str) -> bool:
    """Tell whether a deployment serves `model` under its public name."""
    # By its name: the app `proxy` is above this one.
    deployments = apps.get_model("proxy.Deployment")._default_manager.filter(is_active=True)
    names = set(deployments.values_list("model_name", flat=True))
    return model in names or any(name.endswith("*") and model.startswith(name[:-1]) for name in names)


def block_customers(ids: Sequence[str]) -> list[Customer]:
    """Block customers and return them. Ids that are not known yet become customers, blocked ones.

    One that was deleted comes back: what is blocked is seen. In the caller's transaction.
    """
    wanted = list(dict.fromkeys(ids))
    known = Customer.objects.filter(pk__in=wanted)
    missing = set(wanted) - set(known.values_list("pk", flat=True))
    known.filter(deleted_at__isnull=False).update(blocked=True, deleted_at=None)
    known.filter(blocked=False).update(blocked=True)
    if missing:
        Customer.objects.bulk_create(
            [Customer(pk=customer_id, blocked=True) for customer_id in sorted(missing)]
        )
    return _in_order(wanted)


def unblock_customers(ids: Sequence[str]) -> list[Customer]:
    """Unblock customers and return them. Raises: Missing, with nothing done, where one is missing."""
    wanted = _all_listed(ids)
    set_customers_blocked(ids=wanted, blocked=False)
    return _in_order(wanted)


def remove_customers(ids: Sequence[str], *, at: datetime) -> int:
    """Delete customers; return how many. Raises: Missing, with nothing done, where one is missing."""
    return delete_customers(ids=_all_listed(ids), at=at)


def _all_listed(ids: Sequence[str]) -> list[str]:
    wanted = list(dict.fromkeys(ids))
    found = set(Customer.objects.listed().filter(pk__in=wanted).values_list("pk", flat=True))
    missing = [customer_id for customer_id in wanted if customer_id not in found]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise Missing(
            f"no customer with id {', '.join(missing[:10])}{more}: nothing was done", param="user_ids"
        )
    return wanted


def _in_order(ids: Sequence[str]) -> list[Customer]:
    found = Customer.objects.select_related("budget", "rate_card").in_bulk(ids)
    return [found[customer_id] for customer_id in ids]


def set_customers_blocked(*, ids: Iterable[str], blocked: bool) -> int:
    """Block or unblock customers. Returns how many changed."""
    return Customer.objects.listed().filter(pk__in=list(ids)).exclude(blocked=blocked).update(blocked=blocked)


def delete_customers(*, ids: Iterable[str], at: datetime) -> int:
    """Hide customers; id, totals and block stay reserved (H12). Returns how many changed."""
    return Customer.objects.listed().filter(pk__in=list(ids)).update(deleted_at=at)
