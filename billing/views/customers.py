"""GET /customer/info and /end_user/info: what a customer is and has spent (contract 5.1)."""

from decimal import Decimal
from typing import Any

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import HolderType, SpendTotal
from customers.api import Action, ApiError, ManagementView
from customers.models import Budget, Customer


class CustomerInfo(ManagementView):
    """One customer: the contract's fields, and below them ours."""

    actions = {"GET": Action.READ_CUSTOMERS}

    def get(self, request: Request) -> Response:
        customer_id = request.query_params.get("end_user_id")
        if not customer_id:
            raise ApiError(
                "Say which customer: ?end_user_id=…", status=422, type="validation_error", param="end_user_id"
            )
        customer = None
        if "\0" not in customer_id:  # PostgreSQL refuses it in text
            customer = Customer.objects.listed().select_related("budget").filter(pk=customer_id).first()
        if customer is None:
            raise ApiError(
                f"no customer with id {customer_id}", status=404, type="not_found", param="end_user_id"
            )
        total = SpendTotal.objects.filter(holder_type=HolderType.CUSTOMER, holder_id=customer.pk).first()
        return Response(customer_object(customer, total))


def customer_object(customer: Customer, total: SpendTotal | None) -> dict[str, Any]:
    """Return a customer in the contract's shape, with additive fields. Makes no query."""
    spend = total.charge if total else Decimal(0)
    return {
        "user_id": customer.pk,
        "blocked": customer.blocked,
        "alias": customer.alias or None,
        "spend": spend,
        "allowed_model_region": customer.allowed_model_region or None,
        "default_model": customer.default_model or None,
        "models": [],
        "budget_id": customer.budget_id,
        "object_permission_id": None,
        "object_permission": None,
        "litellm_budget_table": budget_object(customer.budget) if customer.budget else None,
        "total_spend": spend,
        "total_cost": total.cost if total else Decimal(0),
        "total_tokens": total.prompt_tokens + total.completion_tokens if total else 0,
        "requests": total.calls if total else 0,
        "failed_requests": total.failed_calls if total else 0,
        "unpriced_requests": total.unpriced_calls if total else 0,
        "last_seen_at": total.last_call_at if total else None,
        "metadata": customer.metadata,
        "created_at": customer.created_at,
        "updated_at": customer.updated_at,
    }


def budget_object(budget: Budget) -> dict[str, Any]:
    return {
        "budget_id": budget.pk,
        "soft_budget": budget.soft_budget,
        "max_budget": budget.max_budget,
        "max_parallel_requests": budget.max_parallel_requests,
        "tpm_limit": budget.tpm_limit,
        "rpm_limit": budget.rpm_limit,
        "model_max_budget": budget.model_max_budget or None,
        "budget_duration": budget.budget_duration or None,
        "budget_reset_at": None,
        "created_at": budget.created_at,
    }


urlpatterns = [
    path("customer/info", CustomerInfo.as_view()),
    path("end_user/info", CustomerInfo.as_view()),
]
