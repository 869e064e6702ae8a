"""What is done to customers: block, delete."""

from collections.abc import Iterable
from datetime import datetime

from customers.models import Customer


def set_customers_blocked(*, ids: Iterable[str], blocked: bool) -> int:
    """Block or unblock customers. Returns how many changed."""
    return Customer.objects.listed().filter(pk__in=list(ids)).exclude(blocked=blocked).update(blocked=blocked)


def delete_customers(*, ids: Iterable[str], at: datetime) -> int:
    """Hide customers; id, totals and block stay reserved (H12). Returns how many changed."""
    return Customer.objects.listed().filter(pk__in=list(ids)).update(deleted_at=at)
