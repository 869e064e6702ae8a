"""
Give the whole gateway one budget, or take it away: `python -m bench.hot_budget on|off`.

In the gateway's environment. Every call then holds on the same row of the database.
"""

import os
import sys
from decimal import Decimal


def set_budget(is_on: bool) -> None:
    from customers.models import Budget, GatewayLimits

    limits = GatewayLimits.current()
    budget, _ = Budget.objects.get_or_create(
        pk="hot", defaults={"max_budget": Decimal(1_000_000), "budget_duration": "1mo"}
    )
    limits.budget = budget if is_on else None
    limits.save()


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
    django.setup()
    set_budget(sys.argv[1] == "on")
