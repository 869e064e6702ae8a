"""Customers: /customer/* and, the same, /end_user/* (contract 5.1)."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ValidationError

from billing.books.adjustments import initial_spend
from billing.budgets.status import Spending, prepare_periods, spending_of
from billing.models import HolderType
from billing.views import examples
from billing.views.budgets import budget_object
from customers.api import Action, ManagementView
from customers.api.errors import BadRequest, NotFound
from customers.api.schema import described
from customers.filtersets import CustomerFilter
from customers.models import Customer
from customers.serializers.customers import (
    CustomerFields,
    CustomerIds,
    CustomerListQuery,
    CustomerQuery,
    NewCustomer,
)
from customers.services.customers import (
    block_customers,
    create_customer,
    is_served,
    remove_customers,
    unblock_customers,
    update_customer,
)
from customers.text import is_clean_id

__all__ = ["budget_object", "customer_object", "urlpatterns"]

MOST_UNPAGED = 10_000
MOST_COUNTED = 100_000
MOST_FOUND = 10_000  # counting what a search finds looks at each customer
_PAGE_SIZE = 50


class NewCustomerView(ManagementView):
    """Make a customer, with limits of its own or a shared budget."""

    actions = {"POST": Action.WRITE_CUSTOMERS}

    @described(
        body=NewCustomer,
        answer=examples.CUSTOMER,
        example={"user_id": "acme-042", "alias": "Acme Ltd", "max_budget": 50, "budget_duration": "1mo"},
    )
    def post(self, request: Request) -> Response:
        given = self.body(NewCustomer)
        _check_default_model(given)
        customer = create_customer(given)
        # Behind the row: the ledger, too, makes the customer before its total.
        initial_spend(customer_id=customer.pk, amount=given.get("spend") or Decimal(0), at=timezone.now())
        prepare_periods(HolderType.CUSTOMER, customer.pk, customer.budget)
        return Response(_one(customer))


class UpdateCustomer(ManagementView):
    """Change what is sent of a customer; what is not sent stays."""

    actions = {"POST": Action.WRITE_CUSTOMERS}

    @described(
        body=CustomerFields,
        answer=examples.CUSTOMER,
        example={"user_id": "acme-042", "rpm_limit": 60},
    )
    def post(self, request: Request) -> Response:
        given = self.body(CustomerFields)
        _check_default_model(given)
        customer = update_customer(given)
        prepare_periods(HolderType.CUSTOMER, customer.pk, customer.budget)
        return Response(_one(customer))


class CustomerInfo(ManagementView):
    """Tell what a customer is and has spent."""

    actions = {"GET": Action.READ_CUSTOMERS}

    @described(query=CustomerQuery, answer=examples.CUSTOMER)
    def get(self, request: Request) -> Response:
        customer_id = self.query(CustomerQuery)["end_user_id"]
        customer = None
        if is_clean_id(customer_id):
            listed = Customer.objects.listed().select_related("budget", "rate_card")
            customer = listed.filter(pk=customer_id).first()
        if customer is None:
            raise NotFound(f"no customer with id {customer_id}", param="end_user_id")
        return Response(_one(customer))


class DeleteCustomers(ManagementView):
    """Delete customers, all that are named or none. Their ids, spend and blocks stay."""

    actions = {"POST": Action.WRITE_CUSTOMERS}

    @described(
        body=CustomerIds,
        answer={"deleted_customers": 1, "message": "1 customer was deleted; their spend is kept."},
        example={"user_ids": ["acme-042"]},
    )
    def post(self, request: Request) -> Response:
        number = remove_customers(self.body(CustomerIds)["user_ids"], at=timezone.now())
        noun = "customer was" if number == 1 else "customers were"
        return Response(
            {"deleted_customers": number, "message": f"{number} {noun} deleted; their spend is kept."}
        )


class BlockCustomers(ManagementView):
    """Block customers; their calls are refused from now on. Unknown ids become blocked customers."""

    actions = {"POST": Action.WRITE_CUSTOMERS}

    @described(
        body=CustomerIds,
        answer={"blocked_users": [examples.CUSTOMER]},
        example={"user_ids": ["acme-042"]},
    )
    def post(self, request: Request) -> Response:
        return Response({"blocked_users": _all(block_customers(self.body(CustomerIds)["user_ids"]))})


class UnblockCustomers(ManagementView):
    """Unblock customers, all that are named or none."""

    actions = {"POST": Action.WRITE_CUSTOMERS}

    @described(
        body=CustomerIds,
        answer={"blocked_users": [], "unblocked_users": [examples.CUSTOMER]},
        example={"user_ids": ["acme-042"]},
    )
    def post(self, request: Request) -> Response:
        unblocked = unblock_customers(self.body(CustomerIds)["user_ids"])
        # LiteLLM's list has those that are still blocked: of those that were named, none.
        return Response({"blocked_users": [], "unblocked_users": _all(unblocked)})


class CustomerList(ManagementView):
    """List customers by their ids; with `page` or `page_size` one page of them."""

    actions = {"GET": Action.READ_CUSTOMERS}
    refusal_status = 401

    @described(query=CustomerListQuery, answer=[examples.CUSTOMER])
    def get(self, request: Request) -> Response:
        asked = self.query(CustomerListQuery)
        found = CustomerFilter(data=asked, queryset=Customer.objects.listed()).qs
        if "page" in asked or "page_size" in asked:
            number, size = asked.get("page", 1), asked.get("page_size", _PAGE_SIZE)
            if asked.get("search"):
                _check_depth(number, size)
                return _page(found, number=number, size=size, most=MOST_FOUND)
            return _page(found, number=number, size=size, most=MOST_COUNTED)
        customers = _in_order(found, 0, MOST_UNPAGED + 1)
        if len(customers) > MOST_UNPAGED:
            raise BadRequest(
                f"There are more than {MOST_UNPAGED:,} customers: ask for pages, with ?page=1&page_size=100.",
                param="page",
            )
        return Response(_all(customers), headers={"x-total-count": str(len(customers))})


def _check_depth(number: int, size: int) -> None:
    """Raises: BadRequest for a page of a search where nobody looks: reading on would only get slower."""
    if (number - 1) * size >= MOST_FOUND:
        raise BadRequest(
            f"A search shows its first {MOST_FOUND:,} customers, and this page is beyond: narrow the search.",
            param="page",
        )


def _page(found: QuerySet, *, number: int, size: int, most: int) -> Response:
    """Return one page, and how many there are in headers. Counts to `most`: then it says so."""
    start = (number - 1) * size
    customers = _in_order(found, start, start + size)
    if 0 < len(customers) < size or (not customers and number == 1):
        counted = start + len(customers)  # this is the last page
    else:
        counted = found.order_by().values("pk")[: most + 1].count()
    total = min(counted, most)
    headers = {"x-total-count": str(total), "x-total-pages": str(-(-total // size))}
    if counted > most:
        headers["x-total-is-at-least"] = "true"
    return Response(_all(customers), headers=headers)


def _in_order(found: QuerySet, start: int, end: int) -> list[Customer]:
    # Optimization: the ids alone are read from an index, however deep the page is; the rows come after.
    ids = found.order_by("pk").values("pk")[start:end]
    return list(Customer.objects.filter(pk__in=ids).select_related("budget", "rate_card").order_by("pk"))


def _check_default_model(given: dict[str, Any]) -> None:
    """Raises: a 422 where no deployment serves the model."""
    model = given.get("default_model")
    if model and not is_served(model):
        message = f"No model {model} is served here; GET /v1/models lists those that are."
        raise ValidationError({"default_model": [message]}, code="value_error")


# -- what they look like -----------------------------------------------------------------


def _one(customer: Customer) -> dict[str, Any]:
    return _all([customer])[0]


def _all(customers: Iterable[Customer]) -> list[dict[str, Any]]:
    """Return customers with what they spent. Two queries, however many there are."""
    at = timezone.now()
    listed = list(customers)
    spent = spending_of(HolderType.CUSTOMER, [(each.pk, each.budget) for each in listed], at=at)
    return [customer_object(each, spent[each.pk], at=at) for each in listed]


def customer_object(customer: Customer, spending: Spending, *, at: datetime) -> dict[str, Any]:
    """Return a customer: the contract's fields, and below them ours. Makes no query."""
    total = spending.total
    return {
        "user_id": customer.pk,
        "blocked": customer.blocked,
        "alias": customer.alias or None,
        "spend": spending.spend,
        "allowed_model_region": customer.allowed_model_region or None,
        "default_model": customer.default_model or None,
        "models": customer.allowed_models,
        "budget_id": customer.budget_id,
        "object_permission_id": None,
        "object_permission": None,
        "litellm_budget_table": budget_object(customer.budget, at=at) if customer.budget else None,
        "budget_period": spending.period,
        **spending.usage,
        "total_spend": spending.spend,
        "total_cost": spending.cost,
        "total_tokens": total.prompt_tokens + total.completion_tokens if total else 0,
        "requests": total.calls if total else 0,
        "failed_requests": total.failed_calls if total else 0,
        "unpriced_requests": total.unpriced_calls if total else 0,
        "last_seen_at": total.last_call_at if total else None,
        "rate_card": customer.rate_card.name if customer.rate_card else None,
        "metadata": customer.metadata,
        "created_at": customer.created_at,
        "updated_at": customer.updated_at,
    }


_ROUTES = {
    "new": NewCustomerView,
    "info": CustomerInfo,
    "update": UpdateCustomer,
    "delete": DeleteCustomers,
    "block": BlockCustomers,
    "unblock": UnblockCustomers,
    "list": CustomerList,
}
urlpatterns = [
    path(f"{noun}/{name}", view.as_view())
    for noun in ("customer", "end_user")
    for name, view in _ROUTES.items()
]
