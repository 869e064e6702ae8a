"""
Budgets as the hot path sees them: a tier per holder, and what they ask of one call.

A call is limited by everybody behind it, in this order: team member, key, team, tags,
user, customer, gateway; the first that it does not fit under is the one that a refusal
names. A customer without a budget of its own has the one its key gives to customers,
else the gateway's default, from its very first call on.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from django.core.exceptions import ValidationError

from billing.budgets.holds import Claim
from billing.budgets.periods import PeriodKey
from billing.bulk import microseconds
from billing.models.spend_total import GATEWAY_ID, MASTER_KEY_ID, HolderType, team_member_id
from customers.budget_windows import BudgetWindow
from customers.durations import CurrentPeriods, Duration
from customers.model_limits import ModelLimit
from customers.models import Budget
from customers.money import to_nano
from proxy.rate_limits.rules import Rule, rules_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_REMEMBERED = 20_000

# Our holders by LiteLLM's names of scopes (contract 8.5).
_SCOPES = {
    HolderType.GATEWAY.value: "gateway",
    HolderType.KEY.value: "api_key",
    HolderType.TEAM.value: "team",
    HolderType.TEAM_MEMBER.value: "team_member",
    HolderType.USER.value: "user",
    HolderType.CUSTOMER.value: "end_user",
    HolderType.TAG.value: "tag",
}
_KEY, _TEAM, _TEAM_MEMBER = HolderType.KEY.value, HolderType.TEAM.value, HolderType.TEAM_MEMBER.value
_USER, _CUSTOMER, _TAG = HolderType.USER.value, HolderType.CUSTOMER.value, HolderType.TAG.value


class Tier(msgspec.Struct, frozen=True, eq=False):
    """A budget, read once. Compared by identity: each change of the budget makes another."""

    budget_id: str
    limit_nano: int | None = None
    raised_nano: int = 0  # added to the limit for calls that start before `raised_until_us`
    raised_until_us: int = 0
    duration: Duration | None = None
    is_strict: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel_requests: int | None = None
    models: dict[str, ModelLimit] = {}
    windows: tuple[BudgetWindow, ...] = ()  # besides the limit in `duration`


def tier_of(budget: Budget | None) -> Tier | None:
    """Return what a budget limits; None where that is nothing. Makes no query."""
    if budget is None:
        return None
    tier = Tier(
        budget.pk,
        None if budget.max_budget is None else to_nano(budget.max_budget),
        *_increase(budget),
        _read(budget, budget.duration, None),
        budget.mode == Budget.Mode.STRICT,
        budget.rpm_limit,
        budget.tpm_limit,
        budget.max_parallel_requests,
        _read(budget, budget.model_limits, {}),
        tuple(_read(budget, budget.windows, [])),
    )
    limits = (tier.limit_nano, tier.requests_per_minute, tier.tokens_per_minute, tier.parallel_requests)
    return tier if tier.models or tier.windows or any(limit is not None for limit in limits) else None


def _increase(budget: Budget) -> tuple[int, int]:
    """Return (nano-dollars, until when in Unix microseconds) of a temporary increase; zeros: none."""
    if budget.temp_budget_increase is None or budget.temp_budget_expiry is None:
        return 0, 0
    return to_nano(budget.temp_budget_increase), microseconds(budget.temp_budget_expiry)


def _read(budget: Budget, read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except (ValueError, ValidationError) as error:
        # Written past the forms. Without its duration a budget limits for all time: too tight, not too wide.
        logger.error("budget %s cannot be read as it is: %s", budget.pk, error)
        return otherwise


class Holder(NamedTuple):
    """Somebody behind a call who has a tier."""

    type: str
    id: str
    label: str  # what people know it by
    tier: Tier
    token: str = ""  # of a key: the hash of its secret, its id in the API


class CallLimits(NamedTuple):
    """All that limits one call."""

    rules: tuple[Rule, ...] = ()
    claims: tuple[Claim, ...] = ()
    labels: tuple[str, ...] = ()  # one for each claim
    is_strict: bool = False
    key_token: str = ""  # of the key among those who limit the call


UNLIMITED = CallLimits()


class Tiers(msgspec.Struct, frozen=True):
    """The tiers of everybody but keys, teams and customers: these are kept with their callers.

    A snapshot: the refresher swaps it whole.
    """

    gateway: Tier | None = None
    customer: Tier | None = None  # of customers that have no other
    users: dict[str, Tier] = {}
    # By (team id, user id): the member's own, else what the team gives its members.
    members: dict[tuple[str, str], Tier] = {}
    tags: dict[str, Tier] = {}


class Behind(msgspec.Struct, frozen=True, gc=False):
    """Who is behind a call, and the tiers that came with its key and its customer."""

    key_id: str | None = None  # None: the master key
    key_label: str = "master key"
    key_tier: Tier | None = None
    key_token: str = ""
    team_id: str | None = None
    team_tier: Tier | None = None
    user_id: str | None = None
    customer_id: str | None = None
    customer_tier: Tier | None = None  # its own, else the key's for its customers
    tags: Iterable[str] = ()


def holders(tiers: Tiers, behind: Behind, *, user_pays_in_team: bool) -> Iterator[Holder]:
    """Yield who limits a call, in the order of enforcement.

    user_pays_in_team: whether a user's own budget counts for calls with a team's key.
    """
    team_id, user_id = behind.team_id, behind.user_id
    if tiers.members and team_id and user_id and (tier := tiers.members.get((team_id, user_id))):
        yield Holder(_TEAM_MEMBER, team_member_id(team_id, user_id), f"{user_id} in {team_id}", tier)
    if behind.key_tier:
        key_id = behind.key_id or MASTER_KEY_ID
        yield Holder(_KEY, key_id, behind.key_label, behind.key_tier, behind.key_token)
    if behind.team_tier and team_id:
        yield Holder(_TEAM, team_id, team_id, behind.team_tier)
    if tiers.tags:
        for tag in dict.fromkeys(behind.tags):  # one claim each
            if tier := tiers.tags.get(tag):
                yield Holder(_TAG, tag, tag, tier)
    if tiers.users and user_id and (user_pays_in_team or not team_id) and (tier := tiers.users.get(user_id)):
        yield Holder(_USER, user_id, user_id, tier)
    if behind.customer_id and (tier := behind.customer_tier or tiers.customer):
        yield Holder(_CUSTOMER, behind.customer_id, behind.customer_id, tier)
    if tiers.gateway:
        yield Holder(HolderType.GATEWAY.value, GATEWAY_ID, "", tiers.gateway)


class LimitsOfHolders:
    """Works out what holders ask of a call, and remembers it while their periods last."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._periods = CurrentPeriods(zone)
        self._known: dict[tuple[tuple[Holder, ...], str], tuple[CallLimits, int, float]] = {}

    def find(self, who: Iterable[Holder], model: str, started_us: int) -> CallLimits:
        """Return what a call for `model` has to fit under."""
        holders = tuple(who)
        if not holders:
            return UNLIMITED
        # Optimization: the same few holders come with most calls; working it out takes 5 µs for each.
        key = (holders, model)
        known = self._known.get(key)
        if known is not None and known[1] <= started_us < known[2]:
            return known[0]
        limits, since_us, until_us = _limits_of(holders, model, started_us, self._periods)
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[key] = (limits, since_us, until_us)
        return limits


def _limits_of(
    who: Iterable[Holder], model: str, started_us: int, periods: CurrentPeriods
) -> tuple[CallLimits, int, float]:
    """Return (the limits, from when and until when they are these, in Unix microseconds)."""
    rules: list[Rule] = []
    claims: list[Claim] = []
    labels: list[str] = []
    is_strict = False
    key_token = ""
    since_us, until_us = 0, float("inf")
    for holder in who:
        tier = holder.tier
        scope = _SCOPES[holder.type]
        rule_holder = "" if holder.type == HolderType.GATEWAY else holder.id
        label = holder.label if holder.label != rule_holder else ""
        key_token = key_token or holder.token
        rules += rules_of(
            scope,
            rule_holder,
            requests_per_minute=tier.requests_per_minute,
            tokens_per_minute=tier.tokens_per_minute,
            parallel_requests=tier.parallel_requests,
            label=label,
        )
        limit_nano = tier.limit_nano
        if limit_nano is not None and tier.raised_nano:
            if started_us < tier.raised_until_us:
                limit_nano += tier.raised_nano
                until_us = min(until_us, tier.raised_until_us)
            else:
                since_us = max(since_us, tier.raised_until_us)
        allowances = [("", limit_nano, tier.duration)]
        allowances += [("", window.limit_nano, window.duration) for window in tier.windows]
        if (by_model := tier.models.get(model)) is not None:
            allowances.append((model, by_model.limit_nano, by_model.duration))
            rules += rules_of(
                "model_per_" + scope.removeprefix("api_"),
                f"{rule_holder}\n{model}",
                requests_per_minute=by_model.rpm_limit,
                tokens_per_minute=by_model.tpm_limit,
                label=model,
            )
        for scope_model, limit_nano, duration in allowances:
            if limit_nano is not None:
                period = periods.at(duration, started_us)
                key = PeriodKey(
                    holder.type, holder.id, scope_model, period.window, period.starts_at, period.ends_at
                )
                claims.append(Claim(key, limit_nano))
                labels.append(holder.label)
                since_us, until_us = max(since_us, period.starts_us), min(until_us, period.ends_us)
                is_strict = is_strict or tier.is_strict
    if not rules and not claims:
        return UNLIMITED, since_us, until_us
    return CallLimits(tuple(rules), tuple(claims), tuple(labels), is_strict, key_token), since_us, until_us
