"""
A process that books calls of the holders it is told, as a recorder does: for `test_alerts.py`.

    python -m tests.chaos.support.crossing <batches> <cost in nano-dollars> <holder> …

It says `ready`, waits for a line, books, and says `done`.
"""

import sys
import uuid


def main(batches: int, cost_nano: int, customers: list[str]) -> None:
    import django

    django.setup()
    from django.db import connection

    from billing.booking.ledger import Booking, book
    from billing.budgets.periods import retried
    from tests.billing.making import START, Position, make_call

    connection.ensure_connection()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(batches):
        calls = [
            make_call(customer_id=customer, closed={"cost_nano": cost_nano, "charge_nano": cost_nano})
            for customer in customers
        ]
        booking = Booking(uuid.uuid4(), calls, START, Position(1, 1))
        retried(lambda booking=booking: book(booking))
    connection.close()
    print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
