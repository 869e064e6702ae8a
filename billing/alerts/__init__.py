"""
Alerts: who is told of what, exactly once.

    rules.py      the active rules, as the recorder sees them
    crossing.py   budgets that go over a threshold, found in the transaction that books
    schedule.py   what the clock brings: days, projections, upstreams; found by beat
    raising.py    one row per alert, by constraint, and the event that tells of it
    words.py      what the event says
    health.py     what readiness says

Delivering is the outbox's business (`billing/webhooks/deliveries.py`, `billing/sinks/`).
"""
