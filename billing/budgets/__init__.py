"""
Budgets that hold: what calls in flight may cost, what is spent, and what is left.

    holds.py            what a call may cost, set aside
    hold_desk.py        where the calls of a process get their holds
    hold_line.py        how the event loop asks PostgreSQL for them
    hold_statement.py   the one statement it asks with
    periods.py          rows of budget periods, made on first use
    settlement.py       what booked calls do to them
    leases.py           what becomes of holds whose worker is gone
    bars.py             limits joined with the periods under way, for pages
    status.py           the same, for the API
    customer_limits.py  one customer's limits in the order of enforcement
    forecast.py         what a period will come to
"""
