"""The admin of what calls cost: logs, prices, totals, and the pages of everyone whose spend is counted."""

from billing.admin import holders, ledgers, price, spend_log

__all__ = ["holders", "ledgers", "price", "spend_log"]
