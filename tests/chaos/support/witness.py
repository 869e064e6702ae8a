"""
A witness inside the database: what triggers saw of periods, outside the product.

Sampling misses what lasts milliseconds; a trigger misses nothing, and what it saw of one
period is in the order in which the row's lock was passed on. Amounts are whole nano-dollars.
"""

import uuid
from typing import Any, NamedTuple

from django.db import connection

from tests.gateway import GatewayProcess

_NUMBER = {"postgresql": "BIGSERIAL PRIMARY KEY", "sqlite": "INTEGER PRIMARY KEY"}
_WRITE_DOWN = (
    "INSERT INTO seen (is_admission, period_id, spent, held, provisional) "
    "SELECT {is_admission}, id, spent_charge, held, provisional FROM billing_budgetperiod WHERE id = {id};"
)
# What is written down at which event: (trigger, table, event, statements).
_TRIGGERS = (
    ("seen_new", "billing_budgetperiod", "INSERT", _WRITE_DOWN.format(is_admission=0, id="NEW.id")),
    ("seen_move", "billing_budgetperiod", "UPDATE", _WRITE_DOWN.format(is_admission=0, id="NEW.id")),
    # The admission has added it to the period's `held` before, and nobody else can have written since.
    (
        "seen_hold",
        "billing_hold",
        "INSERT",
        _WRITE_DOWN.format(is_admission=1, id="NEW.period_id")
        + " INSERT INTO seen_call (call_id, journal_id) VALUES (NEW.call_id, NEW.journal_id);",
    ),
)


class State(NamedTuple):
    """How a customer's period stood after one of its writes."""

    is_admission: bool
    spent: int
    held: int
    provisional: int

    @property
    def taken(self) -> int:
        return self.spent + self.held + self.provisional


class Witness:
    """What was seen since `install`, which comes before the gateway starts."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway

    def install(self) -> "Witness":
        with self._gateway.orm(), connection.cursor() as cursor:
            cursor.execute(
                f"CREATE TABLE seen (number {_NUMBER[connection.vendor]}, is_admission INTEGER, "
                "period_id BIGINT, spent BIGINT, held BIGINT, provisional BIGINT)"
            )
            uuid_type = "uuid" if connection.vendor == "postgresql" else "CHAR(32)"
            cursor.execute(f"CREATE TABLE seen_call (call_id {uuid_type}, journal_id {uuid_type})")
            for trigger in _TRIGGERS:
                _add_trigger(cursor, *trigger)
        return self

    def states(self, period_id: int) -> list[State]:
        """Return how a customer's period stood, write by write."""
        with self._gateway.orm(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT is_admission, spent, held, provisional FROM seen WHERE period_id = %s "
                "ORDER BY number",
                [period_id],
            )
            return [State(bool(is_admission), *figures) for is_admission, *figures in cursor.fetchall()]

    def journals(self) -> dict[uuid.UUID, str]:
        """Return the journal of each call that ever held something, by the call's id."""
        with self._gateway.orm(), connection.cursor() as cursor:
            cursor.execute("SELECT call_id, journal_id FROM seen_call")
            return {
                uuid.UUID(str(call_id)): str(uuid.UUID(str(journal)))
                for call_id, journal in cursor.fetchall()
            }


def _add_trigger(cursor: Any, name: str, table: str, event: str, statements: str) -> None:
    if connection.vendor == "postgresql":
        cursor.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {statements} RETURN NULL; END $$"
        )
        body = f"EXECUTE FUNCTION {name}()"
    else:
        body = f"BEGIN {statements} END"
    cursor.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {body}")
