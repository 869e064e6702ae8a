"""
Holds: what calls in flight may cost, set aside in the budget periods that limit them.

    admit → renew, renew, … → settled by the recorder (settlement.py), or released

Each web process calls these from one thread of its own, for a few milliseconds' worth
of calls at a time; never from the event loop. No lock outlives a call of these
functions. What becomes of holds whose worker died is in `leases.py`. Amounts are
nano-dollars; leases run by the database's clock.
"""

import uuid
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction

from billing.booking.records import Opened, Sent
from billing.budgets.periods import (
    KnownPeriod,
    KnownPeriods,
    Moves,
    PeriodKey,
    end_us,
    ensure_periods,
    retried,
)
from billing.bulk import Given, among, database_time, for_update, given, prepared, timestamp, uuid_text
from customers.ids import uuid7_text

# A row that somebody else holds this long means that something is wrong: the caller
# refuses the calls (or not) by its setting, and stops asking for a moment (H10).
_LOCK_TIMEOUT = "1s"
_STATEMENT_TIMEOUT = "3s"
_IMPATIENT = "impatient_connection"  # attribute of Django's connection: which of psycopg's it was


# Of one call, 36 million USD: whatever its body asks for (`n`: 10^20), sums over a batch of such
# amounts stay within 64 bits.
MOST_NANO = 1 << 55


class Attribution(msgspec.Struct, omit_defaults=True, gc=False):
    """What is needed to book a call by its estimate: who called for what, and what it may have cost."""

    dialect: str
    model: str
    streamed: bool = False
    key_id: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    customer_id: str | None = None
    tags: list[str] = []
    client_tool: str = ""
    session_id: str = ""
    deployment_id: int | None = None
    upstream: str = ""
    provider: str = ""
    upstream_model: str = ""
    price_id: int | None = None
    estimated_input: int = 0
    estimated_output: int = 0
    estimate_nano: int | None = None  # None while the model has no price
    estimate_charge_nano: int | None = None  # of a customer on a rate card
    units: dict[str, int] | None = None  # what decides that charge

    @classmethod
    def of(cls, opened: Opened, expected: Sent) -> "Attribution":
        """Return that of a call that has not been sent yet. expected: what `sent` will probably say."""
        return cls(
            dialect=opened.dialect,
            model=opened.model,
            streamed=opened.streamed,
            key_id=None if opened.key_id is None else uuid7_text(opened.key_id),
            team_id=opened.team_id,
            user_id=opened.user_id,
            customer_id=opened.customer_id,
            tags=opened.tags,
            client_tool=opened.client_tool,
            session_id=opened.session_id,
            deployment_id=expected.deployment_id,
            upstream=expected.upstream,
            provider=expected.provider,
            upstream_model=expected.upstream_model,
            price_id=expected.price_id,
            estimated_input=expected.estimated_input,
            estimated_output=expected.estimated_output,
            estimate_nano=expected.estimate_nano,
            estimate_charge_nano=expected.estimate_charge_nano,
            units=expected.units,
        )

    def records(self, call_id: bytes, started_us: int) -> tuple[Opened, Sent]:
        """Return the records that the call would have left in its journal."""
        opened = Opened(
            call_id,
            started_us,
            self.dialect,
            self.model,
            self.streamed,
            None if self.key_id is None else uuid.UUID(self.key_id).bytes,
            self.team_id,
            self.user_id,
            self.customer_id,
            self.tags,
            client_tool=self.client_tool,
            session_id=self.session_id,
        )
        sent = Sent(
            call_id,
            self.deployment_id,
            self.upstream,
            self.provider,
            self.upstream_model,
            self.price_id,
            self.estimated_input,
            self.estimated_output,
            self.estimate_nano,
            self.estimate_charge_nano,
            self.units,
        )
        return opened, sent


class Claim(NamedTuple):
    """One limit that a call must fit under."""

    period: PeriodKey  # contains the call's start
    limit_nano: int


class Ask(msgspec.Struct, frozen=True, gc=False):
    """A call that asks to be admitted under all its claims, or under none.

    It holds `amount_nano`, and `unit_nano` for each of as many units as all claims still
    buy: at least `min_units`, at most `max_units`. That is how a missing `max_tokens` is
    set to what the budget buys (H6). A plain ask has no units.
    """

    call_id: bytes
    started_us: int
    journal_id: uuid.UUID
    claims: tuple[Claim, ...]  # in the order in which a refusal names them
    amount_nano: int
    attribution: Attribution
    unit_nano: int = 0
    min_units: int = 0
    max_units: int = 0

    @property
    def least_nano(self) -> int:
        return self.amount_nano + self.unit_nano * self.min_units


class Granted(NamedTuple):
    """The call may be sent: so much is held on each of its periods."""

    amount_nano: int
    units: int
    spent_nano: tuple[int, ...]  # of each claim's period, before this call


class Refused(NamedTuple):
    """The first of the call's claims that it does not fit under, and how things stand there."""

    claim: Claim
    spent_nano: int
    held_nano: int
    provisional_nano: int
    asked_nano: int


class Balance(msgspec.Struct, gc=False):
    """How a locked period stands, and what this transaction adds to it."""

    cost_nano: int
    charge_nano: int
    held_nano: int
    provisional_nano: int
    added_nano: int = 0
    limit_nano: int | None = None  # of the last call admitted here

    def spent_nano(self, claim: Claim) -> int:
        return self.charge_nano if claim.period.is_charged else self.cost_nano

    def room_nano(self, claim: Claim) -> int:
        """Return how much more may be held: negative where the limit was lowered or overspent."""
        taken = self.spent_nano(claim) + self.provisional_nano + self.held_nano + self.added_nano
        return claim.limit_nano - taken


class _Outdated(Exception):
    """A period was started afresh between the look-up of its row and the lock."""


# -- admission -------------------------------------------------------------------------


def admit(asks: Sequence[Ask], *, lease_s: float, known: KnownPeriods) -> list[Granted | Refused]:
    """Decide the asks in their order, each under all of its claims, and hold what was granted.

    One short transaction that locks nothing but the periods (H10); those used for the
    first time are made before it, in one of their own. A refusal writes nothing. What the
    event loop asks for itself is one statement instead (`hold_statement.py`).

    known: what this thread remembers of periods; it is brought up to date.
    Raises: any database error, with nothing held; but where the connection broke, the
    answer to the commit may have been lost: `release` the calls before asking again.
    """
    known.trim()
    while True:
        rows = _rows_of(asks, known)
        try:
            return retried(partial(_admit, asks, rows, lease_s))
        except _Outdated:
            known.forget(claim.period for ask in asks for claim in ask.claims)


def _rows_of(asks: Sequence[Ask], known: KnownPeriods) -> list[list[KnownPeriod]]:
    """Return the row of each claim of each ask. Raises: ValueError."""
    unknown = {
        claim.period
        for ask in asks
        for claim in ask.claims
        if known.find(claim.period, ask.started_us) is None
    }
    if unknown:
        known.learn(ensure_periods(unknown))
    rows = known_rows(asks, known)
    if rows is None:
        raise ValueError("a claim's period does not contain the start of its call")
    return rows


def known_rows(asks: Sequence[Ask], known: KnownPeriods) -> list[list[KnownPeriod]] | None:
    """Return the row of each claim of each ask; None where one has to be looked up. Makes no query."""
    rows = []
    for ask in asks:
        found = []
        for claim in ask.claims:
            row = known.find(claim.period, ask.started_us)
            if row is None:
                return None
            found.append(row)
        rows.append(found)
    return rows


HOLD_COLUMNS = (
    ("uuid", "call_id"),
    ("bigint", "period_id"),
    ("bigint", "amount"),
    ("uuid", "journal_id"),
    ("timestamptz", "started_at"),
    ("jsonb", "attribution"),
)


def _admit(
    asks: Sequence[Ask], rows: Sequence[Sequence[KnownPeriod]], lease_s: float
) -> list[Granted | Refused]:
    _be_impatient()
    with transaction.atomic(), connection.cursor() as cursor:
        balances = _locked_balances(cursor, {row.id: row for found in rows for row in found})
        decisions = [
            decide(ask, [balances[row.id] for row in found]) for ask, found in zip(asks, rows, strict=True)
        ]
        _write(cursor, balances, _holds_of(asks, rows, decisions), lease_s)
    return decisions


def _be_impatient() -> None:
    """Have this thread's connection wait for no lock for long."""
    if connection.vendor != "postgresql":
        return
    connection.ensure_connection()
    if getattr(connection, _IMPATIENT, None) is not connection.connection:
        # Optimization: once for each connection, not in each transaction.
        make_impatient(connection)
        setattr(connection, _IMPATIENT, connection.connection)


def make_impatient(connection: Any) -> None:
    """Have a connection of Django's wait for no lock for long: callers do wait (H10)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false), "
            # These plans never depend on the values, and making one takes longer than it runs.
            "set_config('plan_cache_mode', 'force_generic_plan', false)",
            [_LOCK_TIMEOUT, _STATEMENT_TIMEOUT],
        )


def _locked_balances(cursor: Any, rows: dict[int, KnownPeriod]) -> dict[int, Balance]:
    if not rows:
        return {}
    marks = ", ".join(["%s"] * len(rows))
    cursor.execute(
        "SELECT id, ends_at, spent_cost, spent_charge, held, provisional FROM billing_budgetperiod "
        f"WHERE id IN ({marks}) ORDER BY id {for_update()}",
        sorted(rows),
    )
    balances = {}
    for period_id, ends_at, cost, charge, held, provisional in cursor.fetchall():
        if end_us(ends_at) != rows[period_id].ends_us:
            raise _Outdated
        balances[period_id] = Balance(cost, charge, held, provisional)
    return balances


def decide(ask: Ask, balances: Sequence[Balance]) -> Granted | Refused:
    """Return what becomes of an ask, and add what it is granted to `balances`, one for each claim.

    A budget that is spent refuses also what costs nothing: at its limit a holder is
    blocked, as LiteLLM does it, and a limit of 0 blocks from the start.
    """
    units = ask.max_units
    for claim, balance in zip(ask.claims, balances, strict=True):
        room = balance.room_nano(claim)
        spent = balance.spent_nano(claim)
        if ask.least_nano > room or spent + balance.provisional_nano >= claim.limit_nano:
            held = balance.held_nano + balance.added_nano
            return Refused(claim, spent, held, balance.provisional_nano, ask.least_nano)
        if ask.unit_nano:
            units = min(units, (room - ask.amount_nano) // ask.unit_nano)
    amount = ask.amount_nano + ask.unit_nano * units
    spent_nano = []
    for claim, balance in zip(ask.claims, balances, strict=True):
        spent_nano.append(balance.spent_nano(claim))
        balance.added_nano += amount
        balance.limit_nano = claim.limit_nano
    return Granted(amount, units, tuple(spent_nano))


attribution_json = msgspec.json.Encoder().encode


def _holds_of(
    asks: Sequence[Ask], rows: Sequence[Sequence[KnownPeriod]], decisions: Sequence[Granted | Refused]
) -> list[tuple]:
    """Return the values of `HOLD_COLUMNS` for each hold that was granted."""
    holds = []
    for ask, found, decision in zip(asks, rows, decisions, strict=True):
        if isinstance(decision, Refused):
            continue
        call_id, journal_id = uuid_text(ask.call_id), ask.journal_id.hex
        started_at = timestamp(ask.started_us)
        attribution: str | None = attribution_json(ask.attribution).decode()
        for row in found:
            holds.append((call_id, row.id, decision.amount_nano, journal_id, started_at, attribution))
            attribution = None
    return holds


def _write(cursor: Any, balances: dict[int, Balance], holds: Sequence[tuple], lease_s: float) -> None:
    rows = [
        (period_id, balance.added_nano, balance.limit_nano)
        for period_id, balance in balances.items()
        if balance.limit_nano is not None
    ]
    if not rows:
        return
    moved = given((("bigint", "id"), ("bigint", "held"), ("bigint", "last_limit")), rows)
    update = (
        "UPDATE billing_budgetperiod AS period SET held = period.held + given.held, "
        f"last_limit = given.last_limit FROM {moved.sql} WHERE period.id = given.id"
    )
    held = given(HOLD_COLUMNS, holds)
    names = ", ".join(name for _, name in HOLD_COLUMNS)
    insert = (
        f"INSERT INTO billing_hold ({names}, lease_expires_at) "
        f"SELECT {names}, {database_time(lease_s)} FROM {held.sql}"
    )
    if connection.vendor == "postgresql":
        # Optimization: one way to the database and back, while others wait for these rows.
        cursor.execute(f"WITH moved AS ({update}) {insert}", [*moved.parameters, *held.parameters])
    else:
        cursor.execute(update, moved.parameters)
        cursor.execute(insert, held.parameters)


# -- release and renewal -----------------------------------------------------------------


class Returned(NamedTuple):
    """A hold that was taken away."""

    call: str  # its id, as the database writes it
    period_id: int
    amount_nano: int


def release(call_ids: Iterable[bytes]) -> int:
    """Give back the holds of calls that are known never to have been sent; return how many.

    Safe to do twice: only what is still held comes back.
    """
    condition = of_calls(call_ids)
    return retried(lambda: _release(condition.sql, condition.parameters))


def release_journal(journal_id: uuid.UUID) -> int:
    """Give back all that the calls of one journal hold; return how many holds."""
    return retried(lambda: _release("hold.journal_id = %s", [journal_id.hex]))


def _release(condition: str, parameters: list[Any]) -> int:
    moves = Moves()
    with transaction.atomic(), connection.cursor() as cursor:
        returned = take_holds(cursor, condition, parameters)
        for hold in returned:
            moves.add(hold.period_id, held=-hold.amount_nano)
        moves.write(cursor)
    return len(returned)


def of_calls(call_ids: Iterable[bytes]) -> Given:
    """Return the condition that a hold is of one of the calls."""
    return among("hold.call_id", "uuid", [uuid_text(call_id) for call_id in call_ids])


def take_holds(
    cursor: Any, condition: str, parameters: list[Any], *, provisional: bool = False
) -> list[Returned]:
    """Delete the holds on which `condition` is true and return them; the caller subtracts them.

    condition: SQL about `hold`. provisional: those without a lease, else those with one.
    """
    lease = "IS NULL" if provisional else "IS NOT NULL"
    statement = f"DELETE FROM billing_hold WHERE id IN ({_ids(condition, lease)}) RETURNING {_RETURNED}"
    return _returned(prepared(cursor, statement, parameters))


def leave_provisional(cursor: Any, condition: str, parameters: list[Any]) -> list[Returned]:
    """Take the lease from the holds on which `condition` is true, and return them (H7)."""
    cursor.execute(
        f"UPDATE billing_hold SET lease_expires_at = NULL WHERE id IN ({_ids(condition, 'IS NOT NULL')}) "
        f"RETURNING {_RETURNED}",
        parameters,
    )
    return _returned(cursor)


def _ids(condition: str, lease: str) -> str:
    # In the order of ids: two transactions that want some of the same rows wait, they do not cross.
    return (
        f"SELECT hold.id FROM billing_hold AS hold WHERE {condition} AND hold.lease_expires_at {lease} "
        f"ORDER BY hold.id {for_update()}"
    )


_RETURNED = "CAST(call_id AS text), period_id, amount"  # as text: making a UUID takes 2 µs


def _returned(cursor: Any) -> list[Returned]:
    return [Returned(*row) for row in cursor.fetchall()]


def renew(journal_id: uuid.UUID, *, lease_s: float, call_ids: Collection[bytes] | None = None) -> int:
    """Have the leases of a journal's calls end `lease_s` from now; return of how many holds.

    call_ids: the calls that live; None: all of the journal. Never waits: a hold that is
    being settled or booked right now is left alone.
    """
    condition, parameters = "hold.journal_id = %s", [journal_id.hex]
    if call_ids is not None:
        these = of_calls(call_ids)
        condition += f" AND {these.sql}"
        parameters += these.parameters
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE billing_hold SET lease_expires_at = {database_time(lease_s)} WHERE id IN ("
            f"SELECT hold.id FROM billing_hold AS hold WHERE {condition} "
            f"AND hold.lease_expires_at IS NOT NULL {for_update(skip_locked=True)})",
            parameters,
        )
        return cursor.rowcount
