"""
What the API answers, by example: the OpenAPI document shows these, and reads each answer's shape from them.

One constant for each object function of this package; null stands for what may be anything.
`tests/customers/test_openapi.py` compares each with what its function returns.
"""

from decimal import Decimal
from typing import Any

_HASH = "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"
_MADE = "2026-02-03T09:12:44.120000Z"
_PERIOD_ENDS = "2026-03-01T00:00:00Z"
_WINDOWS = [{"budget_duration": "1d", "max_budget": 5, "reset_at": "2026-02-04T00:00:00Z"}]
_USAGE: dict[str, Any] = {
    "model_max_budget_usage": {"gpt-4o": {"current_spend": 1, "budget_limit": 5, "time_period": "1d"}},
    "budget_limits_usage": {
        "1d": {"current_spend": Decimal("0.5"), "max_budget": 5, "reset_at": "2026-02-04T00:00:00Z"}
    },
}
_CALLS = {"requests": 12, "failed_requests": 1, "unpriced_requests": 0, "total_tokens": 21_000}

PERIOD: dict[str, Any] = {
    "starts_at": "2026-02-01T00:00:00Z",
    "ends_at": _PERIOD_ENDS,
    "limit": 50,
    "spent": Decimal("1.2345"),
    "held": Decimal("0.002"),
    "provisional": 0,
    "remaining": Decimal("48.7635"),
}

BUDGET: dict[str, Any] = {
    "budget_id": "gold",
    "max_budget": 100,
    "soft_budget": 80,
    "max_parallel_requests": None,
    "tpm_limit": 100_000,
    "rpm_limit": 300,
    "model_max_budget": {"gpt-4o": {"max_budget": 20, "budget_duration": "1d"}},
    "budget_limits": _WINDOWS,
    "budget_duration": "30d",
    "budget_reset_at": _PERIOD_ENDS,
    "created_at": _MADE,
    "created_by": "default_user_id",
    "updated_at": _MADE,
    "updated_by": "default_user_id",
    "tpd_limit": None,
    "allowed_models": [],
    "temp_budget_increase": None,
    "temp_budget_expiry": None,
    "mode": "standard",
    "is_private": False,
}
BUDGET_SETTING: dict[str, Any] = {
    "field_name": "max_budget",
    "field_type": "Float",
    "field_description": "USD that each holder may spend in a period; empty: no limit.",
    "field_value": None,
    "stored_in_db": True,
    "field_default_value": None,
}
_OF_ITS_ROW = ("created_by", "updated_at", "updated_by", "is_private")
BUDGET_TABLE: dict[str, Any] = {name: value for name, value in BUDGET.items() if name not in _OF_ITS_ROW}

# What keys, teams and users are limited to, flat.
_LIMITS: dict[str, Any] = {
    "max_budget": 50,
    "soft_budget": None,
    "budget_duration": "1mo",
    "max_parallel_requests": None,
    "tpm_limit": None,
    "rpm_limit": 60,
    "model_max_budget": {"gpt-4o": {"budget_limit": 5, "time_period": "1d"}},
    "budget_limits": _WINDOWS,
    "model_rpm_limit": {"gpt-4o": 30},
    "model_tpm_limit": None,
    "mode": "standard",
    "temp_budget_increase": None,
    "temp_budget_expiry": None,
    "budget_reset_at": _PERIOD_ENDS,
    "budget_id": None,
    "litellm_budget_table": None,
}

CUSTOMER: dict[str, Any] = {
    "user_id": "acme-042",
    "blocked": False,
    "alias": "Acme Ltd",
    "spend": Decimal("1.2345"),
    "allowed_model_region": None,
    "default_model": None,
    "models": ["gpt-4o-mini"],
    "budget_id": "gold",
    "object_permission_id": None,
    "object_permission": None,
    "litellm_budget_table": BUDGET_TABLE,
    "budget_period": PERIOD,
    **_USAGE,
    "total_spend": Decimal("1.2345"),
    "total_cost": Decimal("1.1"),
    **_CALLS,
    "last_seen_at": "2026-02-03T09:12:45.830000Z",
    "rate_card": "resellers",
    "metadata": {},
    "created_at": _MADE,
    "updated_at": _MADE,
}

TAG: dict[str, Any] = {
    "name": "engineering",
    "description": "Cost centre 4711",
    "models": [],
    "model_info": {},
    "created_at": _MADE,
    "updated_at": _MADE,
    "created_by": "default_user_id",
    "budget_id": "gold",
    "litellm_budget_table": BUDGET_TABLE,
    "spend": Decimal("1.2345"),
    "budget_reset_at": _PERIOD_ENDS,
    "budget_period": PERIOD,
    **_USAGE,
    **_CALLS,
    "last_seen_at": "2026-02-03T09:12:45.830000Z",
}

KEY_OWNER: dict[str, Any] = {
    "user_id": "u-17",
    "user_alias": None,
    "user_email": "kim@example.com",
    "user_role": "internal_user",
}
KEY_INFO: dict[str, Any] = {
    "key_name": "sk-...00xQ",
    "key_alias": "acme-prod",
    "spend": Decimal("1.2345"),
    "expires": "2026-05-04T09:12:44.120000Z",
    "models": ["gpt-4o-mini"],
    "aliases": {"fast": "gpt-4o-mini"},
    "user_id": "u-17",
    "team_id": "t-sales",
    "metadata": {},
    **_LIMITS,
    "allowed_routes": ["llm_api_routes"],
    "model_spend": {},
    "soft_budget_cooldown": False,
    "tags": ["engineering"],
    "blocked": False,
    "created_by": "default_user_id",
    "updated_by": "default_user_id",
    "created_at": _MADE,
    "updated_at": _MADE,
    "status": "active",
    "last_active": "2026-02-03T09:12:45.830000Z",
    "total_spend": Decimal("1.2345"),
    "key_type": "default",
    "end_user_budget_id": None,
    "organization_id": None,
    "project_id": None,
    "agent_id": None,
    "config": None,
    "permissions": None,
    "allowed_cache_controls": None,
    "guardrails": None,
    "enforced_params": None,
    "budget_period": PERIOD,
    **_USAGE,
    "payer_policy": "trusted",
    "customer_id": None,
}
KEY: dict[str, Any] = {"token": _HASH, **KEY_INFO}
MADE_KEY: dict[str, Any] = {
    "key": "sk-EXAMPLE0000000000000xQ",
    "token_id": _HASH,
    "duration": "90d",
    **KEY,
}
CHANGED_KEY: dict[str, Any] = {"key": "sk-EXAMPLE0000000000000xQ", **KEY}
KEY_RESULTS: dict[str, Any] = {
    "total_requested": 2,
    "successful_updates": [{"key": "sk-EXAMPLE0000000000000xQ", "key_info": KEY}],
    "failed_updates": [{"key": "sk-other", "key_info": None, "failed_reason": "There is no such key."}],
}
RESET_KEY: dict[str, Any] = {
    "key_hash": _HASH,
    "spend": 0,
    "previous_spend": Decimal("1.2345"),
    "max_budget": 50,
    "budget_reset_at": _PERIOD_ENDS,
    "total_spend": Decimal("1.2345"),
}
# In the answers about teams and users.
KEY_ROW: dict[str, Any] = {**KEY, "team_alias": "Sales"}

_MEMBER = {"user_id": "u-17", "user_email": "kim@example.com"}
TEAM: dict[str, Any] = {
    "team_id": "t-sales",
    "team_alias": "Sales",
    "organization_id": None,
    "admins": [],
    "members": [],
    "members_with_roles": [{"role": "admin", **_MEMBER}],
    "metadata": {},
    **_LIMITS,
    "budget_period": PERIOD,
    **_USAGE,
    "models": [],
    "blocked": False,
    "spend": Decimal("12.5"),
    "model_id": None,
    "litellm_model_table": None,
    "team_member_budget_table": BUDGET_TABLE,
    "created_at": _MADE,
    "updated_at": _MADE,
    "model_aliases": {"fast": "gpt-4o-mini"},
    "tags": ["engineering"],
    "team_member_permissions": ["/key/info", "/key/health"],
    "requests": 12,
    "created_by": "default_user_id",
    "updated_by": "default_user_id",
}
MEMBERSHIP: dict[str, Any] = {
    "user_id": "u-17",
    "team_id": "t-sales",
    "budget_id": None,
    "spend": Decimal("3.1"),
    "total_spend": Decimal("3.1"),
    "litellm_budget_table": BUDGET_TABLE,
    "budget_period": PERIOD,
    **_USAGE,
    "role": "admin",
    "has_budget_of_its_own": True,
}
TEAM_WITH_NEW_MEMBERS: dict[str, Any] = {
    **TEAM,
    "updated_users": [_MEMBER],
    "updated_team_memberships": [MEMBERSHIP],
}
TEAM_INFO: dict[str, Any] = {
    "team_id": "t-sales",
    "team_info": TEAM,
    "keys": [KEY_ROW],
    "team_memberships": [MEMBERSHIP],
}
CHANGED_MEMBER: dict[str, Any] = {
    "team_id": "t-sales",
    **_MEMBER,
    "max_budget_in_team": 5,
    "role": "user",
    "tpm_limit": None,
    "rpm_limit": 30,
    "budget_duration": "1mo",
}
RESET_MEMBER: dict[str, Any] = {
    "team_id": "t-sales",
    "user_id": "u-17",
    "spend": 0,
    "previous_spend": Decimal("3.1"),
    "max_budget": 5,
    "budget_reset_at": _PERIOD_ENDS,
}
PERMISSIONS: dict[str, Any] = {
    "team_id": "t-sales",
    "team_member_permissions": ["/key/info", "/key/health"],
    "all_available_permissions": ["/key/info", "/key/health", "/key/generate"],
}

USER: dict[str, Any] = {
    "user_id": "u-17",
    "user_alias": "Kim",
    "user_email": "kim@example.com",
    "user_role": "internal_user",
    "teams": ["t-sales"],
    "organizations": None,
    **_LIMITS,
    "budget_period": PERIOD,
    **_USAGE,
    "spend": Decimal("4.2"),
    "models": [],
    "metadata": {},
    "model_spend": {},
    "sso_user_id": None,
    "created_at": _MADE,
    "updated_at": _MADE,
    "requests": 12,
    "is_active": True,
    "created_by": "default_user_id",
    "updated_by": "default_user_id",
}
NEW_USER: dict[str, Any] = {**MADE_KEY, **USER}
USER_INFO: dict[str, Any] = {"user_id": "u-17", "user_info": USER, "keys": [KEY_ROW], "teams": [TEAM]}
USER_RESULTS: dict[str, Any] = {
    "results": [{**_MEMBER, "success": True, "error": None, "updated_user": USER}],
    "total_requested": 1,
    "successful_updates": 1,
    "failed_updates": 0,
}

AUDIT_ENTRY: dict[str, Any] = {
    "id": "4711",
    "updated_at": _MADE,
    "changed_by": "default_user_id",
    "changed_by_api_key": None,
    "action": "updated",
    "table_name": "LiteLLM_TeamTable",
    "object_id": "t-sales",
    "before_value": {"alias": "Sale"},
    "updated_values": {"alias": "Sales"},
    "object_type": "customers.team",
    "object_name": "Sales",
    "via": "api",
    "user_id": None,
    "actor": "master key",
    "on_behalf_of": None,
    "address": "192.0.2.7",
}
