"""What is done to keys, customers, teams, users, tags and budgets. Each service owns its transaction."""

from customers.services.customers import delete_customers, set_customers_blocked
from customers.services.keys import create_key, delete_keys, rotate_key, set_keys_blocked
from customers.services.teams import delete_teams, set_teams_blocked

__all__ = [
    "create_key",
    "delete_customers",
    "delete_keys",
    "delete_teams",
    "rotate_key",
    "set_customers_blocked",
    "set_keys_blocked",
    "set_teams_blocked",
]
