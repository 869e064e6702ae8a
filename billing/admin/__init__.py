"""The admin of what calls cost: logs, prices, totals, budgets, and everyone whose spend is counted."""

from billing.admin import (
    alerts,
    bills,
    budget,
    gateway_limits,
    holders,
    ledgers,
    price,
    rate_card,
    repricing,
    spend_log,
    webhooks,
)

__all__ = [
    "alerts",
    "bills",
    "budget",
    "gateway_limits",
    "holders",
    "ledgers",
    "price",
    "rate_card",
    "repricing",
    "spend_log",
    "webhooks",
]
