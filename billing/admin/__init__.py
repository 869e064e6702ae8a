"""The admin of what calls cost: logs, prices, totals, budgets, and everyone whose spend is counted."""

from billing.admin import budget, gateway_limits, holders, ledgers, price, spend_log

__all__ = ["budget", "gateway_limits", "holders", "ledgers", "price", "spend_log"]
