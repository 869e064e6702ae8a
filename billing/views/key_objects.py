"""What a virtual key looks like in the answers of the API, and its limits (contract 5.3)."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone

from billing.budgets.status import Spending, spending_of
from billing.models import HolderType
from billing.views.budgets import budget_object, windows_object
from customers.allowed_routes import routes_of
from customers.models import Budget, User, VirtualKey
from customers.money import from_nano

_EXTRAS: Mapping[str, Any] = {
    "organization_id": None,
    "project_id": None,
    "agent_id": None,
    "config": {},
    "permissions": {},
    "allowed_cache_controls": [],
    "guardrails": None,
    "enforced_params": None,
}


def key_object(key: VirtualKey, spending: Spending, *, at: datetime) -> dict[str, Any]:
    """Return a key in the contract's shape, without its hash; additive fields below. Makes no query.

    Limits of its own are shown on the key; those of a tier also as `litellm_budget_table`.
    """
    tier = None if key.budget is None or key.budget.is_private else key.budget
    return {
        "key_name": key.display_name,
        "key_alias": key.alias,
        "spend": spending.spend,
        "expires": key.expires_at,
        "models": key.allowed_models,
        "aliases": key.model_aliases,
        "user_id": key.user_id,
        "team_id": key.team_id,
        # LiteLLM keeps a key's tags there.
        "metadata": {**key.metadata, "tags": key.tags} if key.tags else key.metadata,
        **limits_object(key.budget, at=at),
        "budget_reset_at": spending.budget_reset_at,
        "budget_id": None if tier is None else tier.pk,
        "litellm_budget_table": None if tier is None else budget_object(tier, at=at),
        "allowed_routes": routes_of(key),
        "model_spend": {},
        "soft_budget_cooldown": False,
        "tags": key.tags or None,
        "blocked": key.blocked,
        "created_by": key.created_by or None,
        "updated_by": key.updated_by or None,
        "created_at": key.created_at,
        "updated_at": key.updated_at,
        "status": status_of(key, at=at),
        "last_active": spending.total.last_call_at if spending.total else None,
        "total_spend": spending.spend,
        "key_type": key.key_type,
        "end_user_budget_id": key.customer_budget_id,
        **_EXTRAS,
        **key.extras,
        # Ours.
        "budget_period": spending.period,
        **spending.usage,
        "payer_policy": key.payer_policy,
        "customer_id": key.customer_id,
    }


def limits_object(budget: Budget | None, *, at: datetime | None = None) -> dict[str, Any]:
    """Return what a budget limits as the fields of its holder; without a budget all are null.

    at: now; whose periods' ends are told of further windows.
    Limits by model as LiteLLM has them: budgets and rates in fields of their own.
    """
    by_model = {} if budget is None else budget.model_limits()
    return {
        "max_budget": budget.max_budget if budget else None,
        "soft_budget": budget.soft_budget if budget else None,
        "budget_duration": (budget.budget_duration or None) if budget else None,
        "max_parallel_requests": budget.max_parallel_requests if budget else None,
        "tpm_limit": budget.tpm_limit if budget else None,
        "rpm_limit": budget.rpm_limit if budget else None,
        "model_max_budget": {
            model: {
                "budget_limit": from_nano(limit.limit_nano),
                "time_period": None if limit.duration is None else str(limit.duration),
            }
            for model, limit in by_model.items()
            if limit.limit_nano is not None
        },
        "budget_limits": None if budget is None else windows_object(budget, at=at or timezone.now()),
        "model_rpm_limit": _rates({model: limit.rpm_limit for model, limit in by_model.items()}),
        "model_tpm_limit": _rates({model: limit.tpm_limit for model, limit in by_model.items()}),
        "mode": budget.mode if budget else None,
        "temp_budget_increase": budget.temp_budget_increase if budget else None,
        "temp_budget_expiry": budget.temp_budget_expiry if budget else None,
    }


def _rates(by_model: Mapping[str, int | None]) -> dict[str, int] | None:
    return {model: rate for model, rate in by_model.items() if rate is not None} or None


def status_of(key: VirtualKey, *, at: datetime) -> str:
    if key.deleted_at:
        return "deleted"
    if key.blocked:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= at else "active"


def key_objects(
    keys: Iterable[VirtualKey], *, at: datetime, has_hash: bool = True, has_user: bool = False
) -> list[dict[str, Any]]:
    """Return keys with what they spent. Two queries; the keys bring their relations along.

    has_hash: with `token`; has_user: with `user`.
    """
    listed = list(keys)
    spent = spending_of(HolderType.KEY, [(str(key.pk), key.budget) for key in listed], at=at)
    rows = []
    for key in listed:
        row = key_object(key, spent[str(key.pk)], at=at)
        if has_hash:
            row = {"token": key.token_hash, **row}
        if has_user:
            row["user"] = None if key.user is None else _user_object(key.user)
        rows.append(row)
    return rows


def _user_object(user: User) -> dict[str, Any]:
    return {
        "user_id": user.pk,
        "user_alias": user.alias or None,
        "user_email": user.email or None,
        "user_role": user.role,
    }
