"""
Paging through the log by key: "older than this call", "newer than that one".

The table is never counted and no page is found by an offset. What a page may read is
bounded: an index has the calls of one filter in order; where others narrow them further,
the newest so many of these are looked at (a window), and the page says how far it looked.

Live mode asks again for what stands above the end of the first page, and compares ids.
A call is booked when it ends, with the id of its start: what is new may stand anywhere
on the page, also below calls that were shown. So no "later than the last one" is asked,
which would miss a long stream and a booking that commits late (E2).
"""

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.views import ChangeList

from billing.models import HolderType, SpendLog, SpendTotal
from billing.models.spend_total import GATEWAY_ID
from billing.reporting.log_reading import LOOKED_AT, LOOKED_AT_SCATTERED
from customers.text import is_clean_id

BEFORE, AFTER = "before", "after"
LOOK = "look"  # how many times further than usual a page looks
LOOKS = (1, 10, 100)
ABOVE, BOOKED = "above", "booked"  # of live mode: the page's end, and what was booked at that time
MOST_NEW = 100
_OWN = (BEFORE, AFTER, LOOK, ABOVE, BOOKED)
# What an index leads with, most selective first; its name, for people.
_LEADS = {
    "session": "session",
    "user": "user",
    "customer": "customer",
    "key__id__exact": "key",
    "status__exact": "status",
    "team__id__exact": "team",
    "model": "model",
}
_BOUNDS = ("period", "started_at_from")
_HOLDERS = {
    "customer": HolderType.CUSTOMER,
    "user": HolderType.USER,
    "key__id__exact": HolderType.KEY,
    "team__id__exact": HolderType.TEAM,
    "tag": HolderType.TAG,
}


class KeysetPages:
    """Stands where the list expects its paginator."""

    template_name = "admin/keyset_pagination.html"

    def __init__(self, *, per_page: int, newer_url: str | None, older_url: str | None) -> None:
        self.per_page, self.newer_url, self.older_url = per_page, newer_url, older_url


class Found(NamedTuple):
    """The ids of calls, and up to which they were looked for; edge None: all were."""

    ids: list[uuid.UUID]
    edge: uuid.UUID | None


class LookedBack(NamedTuple):
    """How far a page looked that is not full."""

    calls: int
    of: str  # what it is that each have so many; "": of all calls
    since: datetime
    further_url: str | None  # None: dates have to be set


class KeysetChangeList(ChangeList):
    """Rows by descending id; `?before=` and `?after=` name the row to go on from."""

    looked_back: LookedBack | None = None
    live: dict[str, Any] | None = None  # what the page's script needs for live mode: the first page has it

    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        # A form sends its empty fields too: those filter nothing.
        given = super().get_filters_params(params)
        return {name: values for name, values in given.items() if any(values) and name not in _OWN}

    def get_query_string(self, new_params: Any = None, remove: Any = None) -> str:
        given = {name for name in (new_params or {}) if new_params[name] is not None}
        return super().get_query_string(new_params, [*(remove or ()), *(set(_OWN) - {LOOK} - given)])

    def get_ordering(self, request: HttpRequest, queryset: QuerySet) -> list[str]:
        return ["-pk"]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet:
        """Return the calls that pass the filters; the search is one of `self.conditions`."""
        queryset = super().get_queryset(request, exclude_parameters)
        params = self.get_filters_params()
        active = [
            spec for spec in self.filter_specs if any(name in params for name in spec.expected_parameters())
        ]
        names = {spec.expected_parameters()[0]: spec for spec in active}
        # Most calls succeed: no index has them.
        is_success = params.get("status__exact") == [SpendLog.Status.SUCCESS.value]
        served = set(names) - ({"status__exact"} if is_success else set())
        lead = None if self.query else next((name for name in _LEADS if name in served), None)
        # What an index has in order: the window is counted in these.
        led = self.root_queryset.order_by("-pk")
        for name in (*_BOUNDS, lead):
            if name in names:
                led = names[name].queryset(request, led)
        self.led, self.led_by = led, lead
        self.conditions = self.model_admin.search_conditions(self.query) if self.query else [Q()]
        self.is_windowed = bool(set(names) - {lead, *_BOUNDS})
        look = request.GET.get(LOOK, "")
        self.look = int(look) if look in map(str, LOOKS) else 1
        return queryset

    @property
    def window(self) -> int:
        """Return how many calls of each condition a page looks at, at most."""
        is_scattered = self.led_by is not None or bool(self.query)
        calls = (LOOKED_AT_SCATTERED if is_scattered else LOOKED_AT) * self.look
        return max(1, calls // max(1, len(self.conditions)))

    def get_results(self, request: HttpRequest) -> None:
        size = self.list_per_page
        before, after = _cursor(request.GET.get(BEFORE)), _cursor(request.GET.get(AFTER))
        is_first = before is None and after is None
        # Read before the calls: what is booked in between is looked for again, and found to be shown.
        booked = self.booked() if is_first else 0
        if after is not None:
            found = self.older_to_newer(after, size + 1)
            ids, has_older = found.ids[:size][::-1], True
            newer = ids[0] if len(found.ids) > size else found.edge
        else:
            found = self.newest(size + 1, below=before)
            ids, has_older = found.ids[:size], len(found.ids) > size
            newer = ids[0] if ids and before is not None else None
            self._tell_how_far(found, is_full=has_older)
        self._show(self.rows(ids), newer=newer, older=ids[-1] if ids and has_older else None)
        if is_first:
            self._go_live(ids, ids[-1] if has_older else found.edge, booked)

    # -- which calls ---------------------------------------------------------------------

    def newest(self, limit: int, *, below: uuid.UUID | None = None, above: uuid.UUID | None = None) -> Found:
        """Return the newest calls, at most `limit` of them. A query for each condition, two with a window."""
        ids: set[uuid.UUID] = set()
        edges = []
        for condition in self.conditions:
            led, calls = self.led.filter(condition), self.queryset.filter(condition)
            if below is not None:
                led, calls = led.filter(pk__lt=below), calls.filter(pk__lt=below)
            if above is not None:
                led, calls = led.filter(pk__gt=above), calls.filter(pk__gt=above)
            if (edge := self._edge(led)) is not None:
                edges.append(edge)
                calls = calls.filter(pk__gt=edge)
            ids.update(calls.order_by("-pk").values_list("pk", flat=True)[:limit])
        return Found(sorted(ids, reverse=True)[:limit], max(edges, default=None))

    def older_to_newer(self, above: uuid.UUID, limit: int) -> Found:
        """Return the calls that follow one, the oldest of them first."""
        ids: set[uuid.UUID] = set()
        edges = []
        for condition in self.conditions:
            led = self.led.filter(condition).filter(pk__gt=above).order_by("pk")
            calls = self.queryset.filter(condition).filter(pk__gt=above).order_by("pk")
            if (edge := self._edge(led)) is not None:
                edges.append(edge)
                calls = calls.filter(pk__lt=edge)
            ids.update(calls.values_list("pk", flat=True)[:limit])
        return Found(sorted(ids)[:limit], min(edges, default=None))

    def _edge(self, led: QuerySet) -> uuid.UUID | None:
        """Return the first call, in the order of `led`, that is beyond the window; None: all are in it."""
        if not self.is_windowed:
            return None
        return next(iter(led.values_list("pk", flat=True)[self.window : self.window + 1]), None)

    def rows(self, ids: Iterable[uuid.UUID]) -> list[SpendLog]:
        """Return the calls with these ids, newest first. One query."""
        calls = self.apply_select_related(self.root_queryset.filter(pk__in=list(ids)))
        return list(calls.defer("request_body", "response_body").order_by("-pk"))

    def booked(self) -> int:
        """Return how many calls were ever booked for whom the list is filtered by, else of all.

        The ledger adds to it in the transaction that writes the calls: as long as it
        stands, there are no new ones, and the log need not be asked. One query.
        """
        params = self.get_filters_params()
        given = [(kind, params[name][-1].strip()) for name, kind in _HOLDERS.items() if name in params]
        # What cannot be an id finds nothing: no total is asked for.
        holder = next((each for each in given if is_clean_id(each[1])), (HolderType.GATEWAY, GATEWAY_ID))
        totals = SpendTotal.objects.filter(holder_type=holder[0], holder_id=holder[1])
        return next(iter(totals.values_list("calls", flat=True)[:1]), 0)

    # -- what the page shows ---------------------------------------------------------------

    def _show(self, rows: list[SpendLog], *, newer: uuid.UUID | None, older: uuid.UUID | None) -> None:
        self.result_list = rows
        self.result_count = self.full_result_count = len(rows)
        self.show_full_result_count = self.show_admin_actions = False
        self.can_show_all = self.multi_page = False
        self.paginator = KeysetPages(
            per_page=self.list_per_page,
            newer_url=self.get_query_string({AFTER: newer}) if newer else None,
            older_url=self.get_query_string({BEFORE: older}) if older else None,
        )

    def _tell_how_far(self, found: Found, *, is_full: bool) -> None:
        if is_full or found.edge is None:
            return
        further = next((times for times in LOOKS if times > self.look), None)
        self.looked_back = LookedBack(
            calls=self.window,
            of=_LEADS.get(self.led_by or "", "id that was searched" if self.query else ""),
            since=_started(found.edge),
            further_url=self.get_query_string({LOOK: further}) if further else None,
        )

    def _go_live(self, ids: list[uuid.UUID], end: uuid.UUID | None, booked: int) -> None:
        self.live = {
            "query": self.get_query_string({ABOVE: end or ""}),
            "booked": booked,
            "shown": [str(id_) for id_ in ids],
        }


class NewCalls(KeysetChangeList):
    """What live mode is answered: the ids above the end of a page, or None where nothing was booked since."""

    answer: dict[str, Any]

    def get_results(self, request: HttpRequest) -> None:
        self.result_list = []
        booked = self.booked()
        self.answer = {"booked": booked, "calls": None, "is_more": False}
        if str(booked) == request.GET.get(BOOKED):
            return
        above = _cursor(request.GET.get(ABOVE))
        most = self.list_per_page + MOST_NEW
        found = self.newest(most, above=above)
        self.answer["calls"] = [str(id_) for id_ in found.ids]
        self.answer["is_more"] = len(found.ids) == most or found.edge is not None


def _cursor(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None


def _started(call_id: uuid.UUID) -> datetime:
    return datetime.fromtimestamp((call_id.int >> 80) / 1000, UTC)
