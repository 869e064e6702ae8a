"""
What limits one customer's calls right now, in the order of enforcement, and what comes of it.

    team member, key, team, tag, user, customer, gateway

The customer's own limit holds for each of its calls, and so does the gateway's. The others
are those of the keys, teams, users and tags that its calls came with, as reports tell. Read
only. Amounts are USD: a customer's are what it is charged, everybody else's the cost.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Q

from billing.budgets.bars import Bar, Holder, bars_of_each, with_calls
from billing.budgets.forecast import PACE_DAYS, Forecast, forecast, pace_of_days
from billing.models import HolderType
from billing.models.spend_total import GATEWAY_ID, MASTER_KEY_ID, team_member_id
from billing.reporting.reports import Filters, amounts_by_day, grouped
from customers.models import Budget, Customer, GatewayLimits, Tag, Team, TeamMembership, User, VirtualKey

MOST = 10  # keys, teams, users and tags each: those that the customer spent most with
_KNOWN_DAYS = 31  # looked at to tell a quiet week from a new customer
_MOST_DAYS = 366


class Limit(NamedTuple):
    """A budget that limits some or all of a customer's calls."""

    holder: Holder
    why: str  # which calls it limits, and by what right
    bars: list[Bar]  # its limits on spend; none where it limits rates alone

    @property
    def is_customers(self) -> bool:
        return self.holder.type == HolderType.CUSTOMER

    @property
    def budget(self) -> Budget:
        assert self.holder.budget is not None
        return self.holder.budget


class Behind(NamedTuple):
    """Who else is behind a customer's calls: those that it spent most with first."""

    keys: list[str]  # UUIDs; without the master key, which nothing limits
    teams: list[str]
    members: list[tuple[str, str]]  # (team, user)
    users: list[str]  # whose own budget counts
    tags: list[str]


def behind(customer_id: str, start: date, end: date, tags: Sequence[str]) -> Behind:
    """Return who is behind the calls of these days. tags: of these, from the report by tag. One query."""
    groups = grouped(Filters(start=start, end=end, customers=[customer_id]), ("key", "team", "user"))
    groups.sort(key=lambda group: (-group.tally.charge, group.names))
    names = [group.names for group in groups]
    user_pays_in_team = settings.APPLY_USER_BUDGET_TO_TEAM_KEYS
    return Behind(
        _first(key for key, _, _ in names if key != MASTER_KEY_ID),
        _first(team for _, team, _ in names if team),
        [*dict.fromkeys((team, user) for _, team, user in names if team and user)][:MOST],
        _first(user for _, team, user in names if user and (user_pays_in_team or not team)),
        [*tags][:MOST],
    )


def _first(names: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(names)][:MOST]


def limits_on(customer_id: str, customer: Customer | None, who: Behind, *, at: datetime) -> list[Limit]:
    """Return every limit, in the order of enforcement. At most eight queries.

    customer: with its budget; None: a row that is gone.
    """
    keys = _keys(who.keys)
    gateway = GatewayLimits.objects.select_related("budget", "customer_budget").first()
    found = [
        *_of_members(who.members),
        *((Holder(HolderType.KEY, str(key.pk), str(key), key.budget), "calls with this key") for key in keys),
        *_of_teams(who.teams),
        *_of_tags(who.tags),
        *_of_users(who.users),
        *_of_customer(customer_id, customer, keys, gateway),
    ]
    if gateway is not None:
        budget_of_all = Holder(HolderType.GATEWAY, GATEWAY_ID, "the gateway", gateway.budget)
        found.append((budget_of_all, "all calls of everybody together"))
    return _with_bars(found, at)


def own_limits(customer: Customer, keys: Sequence[str], *, at: datetime) -> list[Limit]:
    """Return the limits on the customer itself alone: nothing of anybody else. At most four queries.

    keys: what its calls came with; these may have a default for their customers.
    """
    found_keys = _keys(keys) if not _limits(customer.budget) else []
    gateway = GatewayLimits.objects.select_related("customer_budget").first()
    return _with_bars(_of_customer(customer.pk, customer, found_keys, gateway), at)


_Found = list[tuple[Holder, str]]


def _with_bars(found: Sequence[tuple[Holder, str]], at: datetime) -> list[Limit]:
    limiting = [(holder, why) for holder, why in found if _limits(holder.budget)]
    bars = bars_of_each([holder for holder, _ in limiting], at=at)
    counted = iter(with_calls([bar for of_holder in bars for bar in of_holder]))
    return [
        Limit(holder, why, [next(counted) for _ in of_holder])
        for (holder, why), of_holder in zip(limiting, bars, strict=True)
    ]


def _limits(budget: Budget | None) -> bool:
    """Tell whether a budget limits anything: one that does not leaves a call to the next default."""
    if budget is None:
        return False
    limits = (budget.max_budget, budget.rpm_limit, budget.tpm_limit, budget.max_parallel_requests)
    return bool(budget.model_max_budget or budget.budget_limits) or any(limit is not None for limit in limits)


def _keys(ids: Sequence[str]) -> list[VirtualKey]:
    found = VirtualKey.objects.listed().select_related("budget", "customer_budget").in_bulk(ids)
    by_id = {str(pk): key for pk, key in found.items()}
    return [by_id[id_] for id_ in ids if id_ in by_id]


def _of_members(pairs: Sequence[tuple[str, str]]) -> _Found:
    wanted = Q(pk__in=[])
    for team_id, user_id in pairs:
        wanted |= Q(team_id=team_id, user_id=user_id)
    members = TeamMembership.objects.filter(wanted, team__deleted_at=None)
    by_pair = {
        (member.team_id, member.user_id): member
        for member in members.select_related("budget", "team__member_budget")
    }
    return [
        (
            Holder(
                HolderType.TEAM_MEMBER, team_member_id(*pair), f"{pair[1]} in {pair[0]}",
                member.budget or member.team.member_budget,
            ),
            "calls of this member with a key of the team",
        )
        for pair in pairs
        if (member := by_pair.get(pair))
    ]  # fmt: skip


def _of_teams(ids: Sequence[str]) -> _Found:
    teams = Team.objects.filter(deleted_at=None).select_related("budget").in_bulk(ids)
    return [
        (Holder(HolderType.TEAM, id_, str(teams[id_]), teams[id_].budget), "calls with a key of this team")
        for id_ in ids
        if id_ in teams
    ]


def _of_tags(names: Sequence[str]) -> _Found:
    tags = Tag.objects.select_related("budget").in_bulk(names)
    return [
        (Holder(HolderType.TAG, name, name, tags[name].budget), "calls that carry this tag")
        for name in names
        if name in tags
    ]


def _of_users(ids: Sequence[str]) -> _Found:
    users = User.objects.select_related("budget").in_bulk(ids)
    return [
        (Holder(HolderType.USER, id_, str(users[id_]), users[id_].budget), "calls with a key of this user")
        for id_ in ids
        if id_ in users
    ]


def _of_customer(
    customer_id: str, customer: Customer | None, keys: Sequence[VirtualKey], gateway: GatewayLimits | None
) -> _Found:
    """Return the customer's own limit; else those that its keys give to customers, and the gateway's."""
    label = str(customer) if customer is not None else customer_id

    def holder(budget: Budget | None, *, is_default: bool = True) -> Holder:
        return Holder(HolderType.CUSTOMER, customer_id, label, budget, is_default)

    if customer is not None and _limits(customer.budget):
        return [(holder(customer.budget, is_default=False), "all its calls: its own budget")]
    defaulting = [key for key in keys if _limits(key.customer_budget)]
    found = [
        (holder(key.customer_budget), f"calls with the key {key}: its default for customers")
        for key in defaulting
    ]
    if gateway is not None:
        all_or_rest = "all other calls" if defaulting else "all its calls"
        default = "the gateway's default for customers"
        found.append((holder(gateway.customer_budget), f"{all_or_rest}: {default}"))
    return found


# -- what comes of it ------------------------------------------------------------------


class Outlook(NamedTuple):
    """One of the customer's limits with its forecast, and the spend of each day of the period."""

    bar: Bar
    forecast: Forecast | None  # None: too little is known
    # (day, spent until its end) for drawing; empty where days do not add up to the period: one that
    # is shorter, began within a day, or is cut by another zone than reports are.
    days: list[tuple[date, Decimal]]


def outlooks(customer_id: str, limits: Sequence[Limit], *, at: datetime) -> list[Outlook]:
    """Return the outlook of each of the customer's own limits on spend. One query."""
    bars = [bar for limit in limits if limit.is_customers for bar in limit.bars]
    zone = ZoneInfo(settings.REPORTING_TIME_ZONE)
    today = at.astimezone(zone).date()
    first = min(
        [today - timedelta(days=_KNOWN_DAYS), *(bar.counts_from.astimezone(zone).date() for bar in bars)]
    )
    start = max(first, today - timedelta(days=_MOST_DAYS))
    by_model = amounts_by_day(Filters(start=start, end=today, customers=[customer_id]), "model")
    of_all: dict[date, Decimal] = {}
    for days in by_model.values():
        for day, amounts in days.items():
            of_all[day] = of_all.get(day, Decimal(0)) + amounts.charge
    found = []
    for bar in bars:
        of_model = by_model.get(bar.period.scope, {})
        spent = {day: each.charge for day, each in of_model.items()} if bar.period.scope else of_all
        found.append(Outlook(bar, _forecast(bar, spent, today, at), _burnt(bar, spent, today, zone)))
    return found


def _forecast(bar: Bar, spent: Mapping[date, Decimal], today: date, at: datetime) -> Forecast | None:
    midnight = datetime.combine(today, time.min, tzinfo=ZoneInfo(settings.REPORTING_TIME_ZONE))
    week_before = today - timedelta(days=PACE_DAYS - 1)
    recent = pace_of_days(
        spent, today=today, starts_at=midnight, active_before=any(day < week_before for day in spent)
    )
    if recent is None:
        return None
    return forecast(
        spent=bar.spent + bar.provisional,
        limit=bar.limit,
        counts_from=bar.counts_from,
        ends_at=bar.ends_at,
        at=at,
        recent=recent,
    )


def _burnt(
    bar: Bar, spent: Mapping[date, Decimal], today: date, zone: ZoneInfo
) -> list[tuple[date, Decimal]]:
    starts_at = bar.counts_from.astimezone(zone)
    begins_with_a_day = starts_at.time() == time.min
    if bar.ends_at is None or not begins_with_a_day or bar.ends_at - bar.counts_from < timedelta(days=2):
        return []
    first, days, so_far = starts_at.date(), [], Decimal(0)
    if (today - first).days > _MOST_DAYS:
        return []
    for number in range((today - first).days + 1):
        day = first + timedelta(days=number)
        so_far += spent.get(day, Decimal(0))
        days.append((day, so_far))
    days[-1] = (today, bar.spent)  # a call's later correction counts on another day than the call
    return days
