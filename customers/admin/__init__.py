"""
The admin of who calls and what they may spend.

Classes here know nothing of money: this app imports no other. Those whose pages
show spend (customers, keys, teams, users, tags, budgets, the gateway's limits) are
registered, with it, in `billing/admin/`; groups, the log-in records and the audit log are
registered here.
"""

from customers.admin import audit, system

__all__ = ["audit", "system"]
