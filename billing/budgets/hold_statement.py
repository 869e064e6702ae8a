"""
The one statement that admits a batch of calls where together they fit. PostgreSQL only.

Nearly every batch does fit: one way to the database and back then locks, decides and
writes the same rows, in the same order, as the transaction of `holds.admit`, which
decides all that this cannot. Parameters are in PostgreSQL's binary form, as its
documentation of `array_send` and of each type's send function has it: writing and
reading numbers as text was half of what a hold cost.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple

from billing.budgets.holds import HOLD_COLUMNS, Ask, Granted, attribution_json
from billing.budgets.periods import KnownPeriod

Answer = list[tuple[bool, int, int, int]]  # fits?, period's id, its spent cost and charge; of each period

_SUM_COLUMNS = (
    ("bigint", "id"),
    ("bigint", "held"),
    ("bigint", "least"),
    ("timestamptz", "ends_at"),
    ("boolean", "is_charged"),
)


def _arrays(first: int, columns: Sequence[tuple[str, str]]) -> str:
    arrays = ", ".join(f"${number}::{type_}[]" for number, (type_, _) in enumerate(columns, first))
    return f"unnest({arrays}) AS given({', '.join(name for _, name in columns)})"


_HOLD_NAMES = ", ".join(name for _, name in HOLD_COLUMNS)
_SPENT = "CASE WHEN given.is_charged THEN locked.spent_charge ELSE locked.spent_cost END + locked.provisional"
ADMIT_TOGETHER = f"""
WITH given AS MATERIALIZED (SELECT * FROM {_arrays(1, _SUM_COLUMNS)}),
locked AS MATERIALIZED (
    SELECT id, ends_at, spent_cost, spent_charge, held, provisional FROM billing_budgetperiod
    WHERE id = ANY($1) ORDER BY id FOR UPDATE
),
fits AS MATERIALIZED (
    SELECT count(*) = cardinality($1) AS all_of_them FROM locked JOIN given ON given.id = locked.id
    WHERE locked.ends_at IS NOT DISTINCT FROM given.ends_at
    AND {_SPENT} + locked.held + given.held <= given.least AND {_SPENT} < given.least
),
moved AS (
    UPDATE billing_budgetperiod AS period SET held = period.held + given.held, last_limit = given.least
    FROM given, fits WHERE fits.all_of_them AND period.id = given.id
),
made AS (
    INSERT INTO billing_hold ({_HOLD_NAMES}, lease_expires_at)
    SELECT {_HOLD_NAMES}, clock_timestamp() + make_interval(secs => $6)
    FROM {_arrays(7, HOLD_COLUMNS)}, fits WHERE fits.all_of_them
)
SELECT fits.all_of_them, locked.id, locked.spent_cost, locked.spent_charge FROM fits, locked
"""


class Together(NamedTuple):
    """Asks that are admitted by `ADMIT_TOGETHER`, all of them, or not by it."""

    asks: Sequence[Ask]
    rows: Sequence[Sequence[KnownPeriod]]
    parameters: list[bytes]  # in binary form

    @classmethod
    def of(
        cls, asks: Sequence[Ask], rows: Sequence[Sequence[KnownPeriod]], lease_s: float
    ) -> "Together | None":
        """Return None where the statement does not do: what a call is granted depends on its budgets."""
        sums: dict[int, list[Any]] = {}  # period id → amount, limit, end, whether it counts the charge
        call_ids, period_ids, amounts, journals, starts = [], [], [], [], []
        attributions: list[bytes | None] = []
        for ask, found in zip(asks, rows, strict=True):
            if ask.max_units:
                return None
            amount, journal, start = ask.amount_nano, ask.journal_id.bytes, _instant(ask.started_us)
            attribution: bytes | None = b"\x01" + attribution_json(ask.attribution)
            for claim, row in zip(ask.claims, found, strict=True):
                known = sums.get(row.id)
                if known is None:
                    end = None if row.ends_us == _FOREVER else _instant(int(row.ends_us))
                    sums[row.id] = [amount, claim.limit_nano, end, claim.period.is_charged]
                else:
                    known[0] += amount
                    known[1] = min(known[1], claim.limit_nano)
                call_ids.append(ask.call_id)
                period_ids.append(row.id)
                amounts.append(amount)
                journals.append(journal)
                starts.append(start)
                attributions.append(attribution)
                attribution = None  # with the first of its limits
        if not sums:
            return None
        held, least, ends, charged = zip(*sums.values(), strict=True)
        parameters = [
            _bigints([*sums]),
            _bigints(held),
            _bigints(least),
            _array(_TIMESTAMPTZ, ends),
            _array(_BOOLEAN, [b"\x01" if each else b"\x00" for each in charged]),
            _double(lease_s),
            _array(_UUID, call_ids),
            _bigints(period_ids),
            _bigints(amounts),
            _array(_UUID, journals),
            _array(_TIMESTAMPTZ, starts),
            _array(_JSONB, attributions),
        ]
        return cls(asks, rows, parameters)

    def decisions(self, answer: Answer) -> list[Granted]:
        """Return what became of the asks; nothing where they did not fit."""
        if not answer or not answer[0][0]:
            return []
        spent = {period_id: (cost, charge) for _, period_id, cost, charge in answer}
        return [
            Granted(
                ask.amount_nano,
                0,
                tuple(
                    [
                        spent[row.id][1 if claim.period.is_charged else 0]
                        for claim, row in zip(ask.claims, found, strict=True)
                    ]
                ),
            )
            for ask, found in zip(self.asks, self.rows, strict=True)
        ]


# -- binary form -------------------------------------------------------------------------

# Numbers of types, from PostgreSQL's pg_type.dat. They never change.
_BOOLEAN, _BIGINT, _TIMESTAMPTZ, _UUID, _JSONB = 16, 20, 1184, 2950, 3802
_FOREVER = float("inf")
_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000

_array_head = Struct("!iiIii").pack  # dimensions, has nulls, type, length, first index
_length = Struct("!i").pack
_bigint_element = Struct("!iq").pack
_bigint = Struct("!q").pack
_double = Struct("!d").pack
_NULL = _length(-1)
_LENGTHS = [_length(length) for length in range(4096)]


def _instant(us: int) -> bytes:
    return _bigint(us - _EPOCH_US)


def _bigints(values: Sequence[int]) -> bytes:
    elements = b"".join([_bigint_element(8, value) for value in values])
    return _array_head(1, 0, _BIGINT, len(values), 1) + elements


def _array(type_: int, values: Sequence[bytes | None]) -> bytes:
    """Return an array of elements that are in their type's own binary form."""
    parts = [_array_head(1, None in values, type_, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            length = len(value)
            parts.append(_LENGTHS[length] if length < 4096 else _length(length))
            parts.append(value)
    return b"".join(parts)
