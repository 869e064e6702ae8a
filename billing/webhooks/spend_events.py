"""
`spend_tracked`: one event for every priced call that has a customer.

LiteLLM's body (contract 7.2), with every key, and in addition `id`, `timestamp`,
`sequence`, `request_id` and `total_spend`: the customer's all-time spend, this call
included. A receiver that missed something can go by the highest `sequence` it has seen.

Amounts are what the customer is charged, in USD, as exact decimal numbers. `max_budget`
is the limit that counts for the customer: its own budget's, else that of the call's key
for its customers, else the gateway's.
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from django.conf import settings

from billing.booking.records import CallRecords
from billing.bulk import among, instant, prepared
from billing.models import SpendLog
from billing.models.event import ID_PREFIX
from billing.reporting.log_reading import MASTER_KEY_NAME
from billing.webhooks.events import (
    Target,
    Written,
    current_receivers,
    customer_group,
    draw_sequences,
    insert,
    target_of,
)
from customers.ids import uuid7_bytes, uuid7_text
from customers.models import GatewayLimits, Team, User, VirtualKey
from customers.money import NANO_PER_USD, to_nano

SPEND_TRACKED = "spend_tracked"
_SPENT_NOTHING = frozenset({SpendLog.Status.FAILURE, SpendLog.Status.REFUSED, SpendLog.Status.NOT_SENT})
_KEEP_NAMES_SECONDS = 2.0
_encode = msgspec.json.Encoder().encode
_NULL = msgspec.Raw(b"null")


def track_spend(cursor: Any, calls: Iterable[CallRecords]) -> None:
    """Write the events of calls that are being booked, behind their totals. In the ledger's transaction.

    Locks the event counter. Where nobody wants to be told, nothing is written.
    """
    targets = _TargetsOf()
    told = [call for call in calls if _counts(call) and targets.is_told(_customer(call))]
    if not told:
        return
    standings = _standings(cursor, sorted({_customer(call) for call in told}))
    totals = {customer_id: standing.total for customer_id, standing in standings.items()}
    for call in told:  # the totals have all of these calls: go back before the first
        totals[_customer(call)] -= call.closed.charge_nano or 0
    names = _names.of(told)
    at = datetime.now(UTC)
    milliseconds, timestamp = int(at.timestamp() * 1000), instant(at).replace(" ", "T") + "Z"
    events, group = [], customer_group()
    for sequence, call in enumerate(told, draw_sequences(cursor, len(told))):
        customer_id, event_id = _customer(call), uuid7_bytes(milliseconds).hex()
        totals[customer_id] += call.closed.charge_nano or 0
        body = _body(call, standings[customer_id], names)
        body["id"] = ID_PREFIX + event_id
        body["timestamp"] = timestamp
        body["sequence"] = sequence
        body["request_id"] = call.closed.response_id or uuid7_text(call.opened.call_id)
        body["total_spend"] = _usd(totals[customer_id])
        text = _encode(body).decode()
        events.append(
            Written(event_id, sequence, SPEND_TRACKED, group, customer_id, text, targets[customer_id])
        )
    insert(cursor, events, at=at)


def _customer(call: CallRecords) -> str:
    return call.opened.customer_id or ""


def _counts(call: CallRecords) -> bool:
    """Tell whether a call is told of: priced, and it spent something or went well."""
    closed = call.closed
    if not call.opened.customer_id or closed.cost_nano is None or closed.charge_nano is None:
        return False
    return bool(closed.cost_nano) or closed.status not in _SPENT_NOTHING


class _TargetsOf(dict[str, Sequence[Target]]):
    """Where the events of each customer go. One batch's; Optimization: asked once per customer."""

    def __init__(self) -> None:
        super().__init__()
        self._receivers = [(each, target_of(each)) for each in current_receivers()]
        self._always = settings.SPEND_EVENTS == "always"

    def __missing__(self, customer_id: str) -> Sequence[Target]:
        self[customer_id] = found = [
            target for each, target in self._receivers if each.wants(SPEND_TRACKED, customer_id)
        ]
        return found

    def is_told(self, customer_id: str) -> bool:
        return self._always or bool(self._receivers and self[customer_id])


def _body(call: CallRecords, standing: "_Standing", names: "_Names") -> dict[str, Any]:
    opened, closed = call.opened, call.closed
    key = names.keys.get(opened.key_id) or _NO_KEY
    limit = standing.limit or key.limit or names.limit
    spend = _usd(closed.charge_nano or 0)
    return {
        "spend": spend,
        "max_budget": limit.most,
        "soft_budget": limit.soft,
        "token": key.token,
        "customer_id": opened.customer_id,
        "user_id": opened.user_id or None,
        "team_id": opened.team_id or None,
        "team_alias": names.teams.get(opened.team_id or "") or None,
        "organization_id": None,
        "user_email": names.users.get(opened.user_id or "") or None,
        "key_alias": key.alias,
        "projected_exceeded_date": None,
        "projected_spend": None,
        "event": SPEND_TRACKED,
        "event_group": customer_group(),
        "event_message": (
            f"Customer spend tracked. Customer={opened.customer_id}, spend={bytes(spend).decode()}"
        ),
    }


def _usd(nano: int) -> msgspec.Raw:
    """Return nano-dollars as a JSON number of USD. Optimization: a fifth of the way by `Decimal`."""
    whole, part = divmod(abs(nano), NANO_PER_USD)
    text = f"{whole}.{part:09d}".rstrip("0") if part else str(whole)
    return msgspec.Raw(f"-{text}" if nano < 0 else text)


# -- what a customer has, and what things are called -------------------------------------


class _Limit(NamedTuple):
    """A budget's amounts, as JSON."""

    most: msgspec.Raw
    soft: msgspec.Raw


_NO_LIMIT = _Limit(_NULL, _NULL)


class _Standing(NamedTuple):
    """A customer's all-time charge, in nano-dollars, and its own budget's amounts."""

    total: int
    limit: _Limit | None


def _standings(cursor: Any, customer_ids: Sequence[str]) -> dict[str, _Standing]:
    asked = among("total.holder_id", "text", customer_ids)
    rows = prepared(
        cursor,
        "SELECT total.holder_id, total.charge, customer.budget_id, budget.max_budget, budget.soft_budget "
        "FROM billing_spendtotal AS total "
        "LEFT JOIN customers_customer AS customer ON customer.id = total.holder_id "
        "LEFT JOIN customers_budget AS budget ON budget.id = customer.budget_id "
        f"WHERE total.holder_type = 'customer' AND {asked.sql}",
        asked.parameters,
    ).fetchall()
    return {
        customer_id: _Standing(total, None if budget_id is None else _limit(most, soft))
        for customer_id, total, budget_id, most, soft in rows
    }


def _limit(most: int | None, soft: int | None) -> _Limit:
    return _Limit(*(_NULL if nano is None else _usd(nano) for nano in (most, soft)))


class _Key(NamedTuple):
    token: str | None
    alias: str | None
    limit: _Limit | None  # of its customers


_NO_KEY = _Key(MASTER_KEY_NAME, None, None)


class _Names:
    """What keys, teams and users are called: kept for two seconds, read for those who call."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self.keys: dict[bytes | None, _Key] = {}
        self.teams: dict[str, str] = {}
        self.users: dict[str, str] = {}
        self.limit = _NO_LIMIT  # of customers that nothing else limits

    def of(self, calls: Sequence[CallRecords]) -> "_Names":
        """Return the names that these calls need. No query where they are known."""
        if time.monotonic() - self._read_at > _KEEP_NAMES_SECONDS:
            self.__init__()  # type: ignore[misc]
            self._read_at = time.monotonic()
            self._read_default()
        self._read_keys({call.opened.key_id for call in calls} - self.keys.keys())
        _read(self.teams, Team, "alias", {call.opened.team_id for call in calls})
        _read(self.users, User, "email", {call.opened.user_id for call in calls})
        return self

    def _read_default(self) -> None:
        budget = GatewayLimits.objects.filter(pk=1).values_list(
            "customer_budget__max_budget", "customer_budget__soft_budget"
        )
        for most, soft in budget:
            self.limit = _limit(_nano(most), _nano(soft))

    def _read_keys(self, missing: Iterable[bytes | None]) -> None:
        ids = [uuid.UUID(bytes=key_id) for key_id in missing if key_id is not None]
        if not ids:
            return
        for key_id in ids:  # those that were purged are not asked for again
            self.keys[key_id.bytes] = _Key(str(key_id), None, None)
        keys = VirtualKey.objects.filter(pk__in=ids).select_related("customer_budget")
        for key in keys:
            budget = key.customer_budget
            limit = None if budget is None else _limit(_nano(budget.max_budget), _nano(budget.soft_budget))
            self.keys[key.pk.bytes] = _Key(key.token_hash, key.alias or None, limit)


def _read(known: dict[str, str], model: Any, field: str, asked: set[str | None]) -> None:
    missing = [row_id for row_id in asked if row_id and row_id not in known]
    if missing:
        known.update(dict.fromkeys(missing, ""))
        known.update(model.objects.filter(pk__in=missing).values_list("pk", field))


def _nano(amount: Any) -> int | None:
    return None if amount is None else to_nano(amount)


_names = _Names()
