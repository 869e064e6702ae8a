"""
Switch what calls cost on or off: `python -m bench.switches budget|webhooks on|off`.

In the gateway's environment. `budget`: the whole gateway has one, so every call holds on
the same row of the database. `webhooks`: a receiver wants the event of every call.
"""

import os
import sys
from decimal import Decimal


def budget(is_on: bool) -> None:
    from customers.models import Budget, GatewayLimits

    limits = GatewayLimits.current()
    hot, _ = Budget.objects.get_or_create(
        pk="hot", defaults={"max_budget": Decimal(1_000_000), "budget_duration": "1mo"}
    )
    limits.budget = hot if is_on else None
    limits.save()


def webhooks(is_on: bool) -> None:
    from billing.models import WebhookEndpoint
    from billing.webhooks.endpoints import create_endpoint, update_endpoint

    endpoint = WebhookEndpoint.objects.first()
    if endpoint is None:
        endpoint, _ = create_endpoint(url="https://receiver.example/hook")
    update_endpoint(endpoint, is_active=is_on)


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
    django.setup()
    {"budget": budget, "webhooks": webhooks}[sys.argv[1]](sys.argv[2] == "on")
