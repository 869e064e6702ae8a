"""
The refresher: a thread that brings what staff edited into the event loop's memory.

Twice a second it reads the change log from the last revision it has seen; each kind
of change reloads what it touches. Revisions become visible in order
(`customers/models/change.py`), so none can be missed. A failing query is retried on
the next tick; what is in memory stays in force meanwhile (C5).
"""

import logging
import threading
import time
from collections.abc import Callable

from django.db import connection
from django.db.models import Max

from billing.models import TypicalOutput
from customers.models import Change
from proxy.callers import Callers
from proxy.catalog import EMPTY_CATALOG, Catalog, load_catalog

logger = logging.getLogger(__name__)

_BUDGET_KIND = "customers.budget"
_CUSTOMER_KIND = "customers.customer"
_KEY_KINDS = {"customers.virtualkey", "customers.team", "customers.user", _BUDGET_KIND}
_TIER_KINDS = {
    "customers.gatewaylimits", "customers.user", "customers.team", "customers.teammembership",
    "customers.tag", _BUDGET_KIND,
}  # fmt: skip
_CATALOG_KINDS = {"proxy.upstream", "proxy.deployment", "billing.price"}
_RATE_CARD_KINDS = {"customers.ratecard", "billing.price"}
_TYPICAL_SECONDS = 5.0  # how often the usual lengths of answers are read; they move slowly


class Refresher(threading.Thread):
    """Keeps `catalog` and `callers` fresh until stopped."""

    def __init__(self, callers: Callers, *, interval: float) -> None:
        super().__init__(name="refresher", daemon=True)
        self.callers = callers
        self.catalog: Catalog = EMPTY_CATALOG
        self._interval = interval
        self._revision = 0
        self._stop_event = threading.Event()
        self._is_failing = False
        self._typical_due = 0.0
        self.typical_outputs: dict[str, int] = {}  # upstream model → tokens

    def load(self) -> None:
        """Read everything. Call once before serving; raises what the database raises."""
        # The revision first: what changes while we read is read again by the first tick.
        self._revision = Change.objects.aggregate(last=Max("revision"))["last"] or 0
        self.catalog = load_catalog()
        self.callers.reload_rate_cards()
        self.callers.reload_customers()
        self.callers.reload_tiers()
        self._reload_typical_outputs()
        self.callers.fresh_at = time.monotonic()

    def run(self) -> None:
        while not self._stop_event.wait(self._interval):
            self._attempt(self._tick)
        connection.close()

    def stop(self) -> None:
        self._stop_event.set()
        self.join(timeout=5)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if not self._is_failing:
                logger.error("cannot read changes from the database: %s", error)
            self._is_failing = True
            connection.close()
            return
        if self._is_failing:
            logger.info("changes can be read again")
        self._is_failing = False

    def _tick(self) -> None:
        asked_at = time.monotonic()
        changes = list(
            Change.objects.filter(revision__gt=self._revision).values_list("revision", "kind", "object_id")
        )
        if changes:
            kinds = {kind for _, kind, _ in changes}
            if kinds & _CATALOG_KINDS:
                self.catalog = load_catalog()
            if kinds & _RATE_CARD_KINDS:
                self.callers.reload_rate_cards()  # before the customers that are on them
            if kinds & _KEY_KINDS:
                self.callers.reload_keys()
            if kinds & _TIER_KINDS:
                self.callers.reload_tiers()
            budgets = {object_id for _, kind, object_id in changes if kind == _BUDGET_KIND}
            customers = {object_id for _, kind, object_id in changes if kind == _CUSTOMER_KIND}
            if "" in budgets | customers:
                self.callers.reload_customers()
            else:
                if budgets:
                    self.callers.reload_customers_of_budgets(budgets)
                if customers:
                    self.callers.reload_customers(customers)
            self._revision = max(revision for revision, _, _ in changes)
        if asked_at >= self._typical_due:
            self._reload_typical_outputs()
        self.callers.fresh_at = asked_at

    def _reload_typical_outputs(self) -> None:
        self.typical_outputs = {
            typical.upstream_model: typical.tokens
            for typical in TypicalOutput.objects.all()
            if typical.tokens is not None
        }
        self._typical_due = time.monotonic() + _TYPICAL_SECONDS
