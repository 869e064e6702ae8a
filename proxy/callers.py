"""
Who may call: an in-process copy of keys, teams and customers, kept fresh by changes.

Keys are loaded when first seen and reloaded when anything that shapes them changes;
of the customers only the exceptions (blocked, own budget, own models) are kept, and of all others
whose budgets count (users, team members, tags, the gateway) just those. The refresher
(`refresher.py`) reads the change log twice a second. While the database is away,
what is known stays known for the setting's hard life; a key that is not known is
then "come back later" (503), never "invalid" (401): see C5.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from datetime import UTC, datetime
from functools import partial

import msgspec
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.db.models import Q
from django.utils import timezone

from billing.prices.rate_cards import Card, load_rate_cards
from customers.allowed_routes import routes_of
from customers.models import Customer, GatewayLimits, Tag, TeamMembership, User, VirtualKey
from proxy.errors import DatabaseAway
from proxy.tiers import Tier, Tiers, tier_of

_MAX_KEYS = 100_000
_MAX_UNKNOWN = 10_000
_LOAD_SECONDS = 5.0


class Caller(msgspec.Struct, frozen=True):
    """A key as the hot path sees it, with what its team and its user add."""

    is_master: bool = False
    key_id: bytes | None = None
    key_name: str = "master key"
    key_token: str = ""  # the hash of its secret: its id in the API
    team_id: str | None = None
    user_id: str | None = None
    key_models: frozenset[str] = frozenset()  # empty: all
    team_models: frozenset[str] = frozenset()
    user_models: frozenset[str] = frozenset()  # of a key that is on no team
    model_aliases: dict[str, str] = {}  # the key's and, behind them, the team's
    routes: tuple[str, ...] = ()  # paths and groups that the key is confined to; empty: it is not
    tags: tuple[str, ...] = ()
    blocked: bool = False
    team_blocked: bool = False
    user_is_active: bool = True
    expires_at_s: float | None = None
    secret_until_s: float | None = None  # of a secret that was replaced: the end of its grace
    fixed_customer_id: str | None = None
    tier: Tier | None = None
    team_tier: Tier | None = None
    customer_tier: Tier | None = None  # of its customers that have none of their own


MASTER = Caller(is_master=True)


class CustomerRule(msgspec.Struct, frozen=True):
    """What is particular about one customer."""

    blocked: bool = False
    tier: Tier | None = None
    models: frozenset[str] = frozenset()  # empty: all
    region: str = ""  # its calls go to upstreams of this region alone
    default_model: str = ""  # for a model that the region does not have
    rate_card_id: int | None = None


class Callers:
    """Known keys by the hash of their secret, and the exceptional customers."""

    def __init__(self, executor: Executor, *, hard_life_s: float) -> None:
        self._executor = executor
        self._hard_life_s = hard_life_s
        self._keys: dict[str, Caller] = {}
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Caller | None]] = {}  # being looked up; the event loop's
        self._reloads = 0
        self._mutex = threading.Lock()  # guards the count against a key that is being remembered
        self.customer_rules: dict[str, CustomerRule] = {}
        self.rate_cards: dict[int, Card] = {}
        self.tiers = Tiers()
        self.fresh_at = time.monotonic()

    def known(self, token_hash: str) -> Caller | None:
        """Return the caller if its key is in memory. Raises: DatabaseAway when that memory is too old."""
        if time.monotonic() - self.fresh_at > self._hard_life_s:
            raise DatabaseAway("The gateway's database has been unreachable for too long; try again later.")
        return self._keys.get(token_hash)

    async def find(self, token_hash: str) -> Caller | None:
        """Return the caller of a key that is not in memory yet, or None where there is no such key.

        Hundreds of calls with a new key ask once. Raises: DatabaseAway.
        """
        while token_hash not in self._unknown:
            asked = self._asked.get(token_hash)
            if asked is None:
                asked = self._asked[token_hash] = asyncio.ensure_future(self._load(token_hash))
                asked.add_done_callback(partial(self._forget_asked, token_hash))
                return await asyncio.shield(asked)
            caller = await asyncio.shield(asked)
            if caller is not None:
                return caller
            # That question may be older than the key: ask again.
        return None

    def _forget_asked(self, token_hash: str, asked: asyncio.Future) -> None:
        self._asked.pop(token_hash, None)
        if not asked.cancelled():
            asked.exception()  # whoever waited for it may have left

    async def _load(self, token_hash: str) -> Caller | None:
        """Look a key up in a thread. Raises: DatabaseAway."""
        loop = asyncio.get_running_loop()
        reloads = self._reloads
        load = loop.run_in_executor(self._executor, _in_thread(load_callers), [token_hash])
        try:
            found = await asyncio.wait_for(load, _LOAD_SECONDS)
        except (DatabaseError, TimeoutError) as error:
            raise DatabaseAway("The gateway's database cannot be reached; try again later.") from error
        caller = found.get(token_hash)
        with self._mutex:
            if self._reloads == reloads:
                self._remember(token_hash, caller)
            # else: keys changed while it was read, and the reload could not know of this one.
        return caller

    def _remember(self, token_hash: str, caller: Caller | None) -> None:
        if caller is None:
            self._unknown[token_hash] = None
            if len(self._unknown) > _MAX_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        if len(self._keys) >= _MAX_KEYS:
            self._keys.pop(next(iter(self._keys)))
        self._keys[token_hash] = caller

    def card_of(self, customer_id: str) -> Card | None:
        """Return the customer's rate card, if it has one."""
        rule = self.customer_rules.get(customer_id)
        if rule is None or rule.rate_card_id is None:
            return None
        return self.rate_cards.get(rule.rate_card_id)

    # -- called by the refresher's thread: each swaps or replaces whole values ---------

    def reload_keys(self) -> None:
        """Read every known key again, and forget which were unknown."""
        with self._mutex:
            self._reloads += 1
            known = list(self._keys)
        fresh: dict[str, Caller] = {}
        for start in range(0, len(known), 1000):
            fresh.update(load_callers(known[start : start + 1000]))
        for token_hash in known:
            if token_hash in fresh:
                self._keys[token_hash] = fresh[token_hash]
            else:
                self._keys.pop(token_hash, None)
        self._unknown.clear()

    def reload_tiers(self) -> None:
        """Read again who else has a budget: the gateway, users, team members, tags."""
        limits = GatewayLimits.objects.select_related("budget", "customer_budget").first()
        users = User.objects.filter(budget__isnull=False).select_related("budget")
        limited = Q(budget__isnull=False) | Q(team__member_budget__isnull=False)
        members = TeamMembership.objects.filter(limited, team__deleted_at=None)
        members = members.select_related("budget", "team__member_budget")
        tags = Tag.objects.filter(budget__isnull=False).select_related("budget")
        self.tiers = Tiers(
            gateway=tier_of(limits.budget) if limits else None,
            customer=tier_of(limits.customer_budget) if limits else None,
            users={user.pk: tier for user in users if (tier := tier_of(user.budget))},
            members={
                (member.team_id, member.user_id): tier
                for member in members
                if (tier := tier_of(member.budget or member.team.member_budget))
            },
            tags={tag.pk: tier for tag in tags if (tier := tier_of(tag.budget))},
        )

    def reload_rate_cards(self) -> None:
        """Read all rate cards again, with their own prices."""
        self.rate_cards = load_rate_cards()

    def reload_customers_of_budgets(self, budget_ids: Iterable[str]) -> None:
        """Read the customers of these budgets again."""
        customers = Customer.objects.filter(budget_id__in=list(budget_ids))
        self.reload_customers(customers.values_list("pk", flat=True))

    def reload_customers(self, ids: Iterable[str] | None = None) -> None:
        """Read the exceptional customers again: those of `ids`, or all."""
        customers = Customer.objects.exceptional().select_related("budget")
        if ids is None:
            self.customer_rules = {customer.pk: _rule(customer) for customer in customers.iterator()}
            return
        ids = list(ids)
        found: dict[str, CustomerRule] = {}
        for start in range(0, len(ids), 1000):
            some = customers.filter(pk__in=ids[start : start + 1000])
            found.update({customer.pk: _rule(customer) for customer in some})
        for customer_id in ids:
            if customer_id in found:
                self.customer_rules[customer_id] = found[customer_id]
            else:
                self.customer_rules.pop(customer_id, None)


def load_callers(token_hashes: list[str]) -> dict[str, Caller]:
    """Read keys from the database. One query; not for the event loop.

    A secret that was replaced is found, too, until its grace is over.
    """
    now = timezone.now()
    replaced = Q(previous_token_hash__in=token_hashes, previous_valid_until__gt=now)
    keys = (
        VirtualKey.objects.listed()
        .filter(Q(token_hash__in=token_hashes) | replaced)
        .select_related("budget", "customer_budget", "team__budget", "user")
    )
    asked, found = set(token_hashes), {}
    for key in keys:
        if key.token_hash in asked:
            found[key.token_hash] = _caller(key)
        if key.previous_token_hash in asked and key.previous_valid_until and key.previous_valid_until > now:
            found[key.previous_token_hash] = _caller(key, secret_until=key.previous_valid_until)
    return found


def _caller(key: VirtualKey, *, secret_until: datetime | None = None) -> Caller:
    team, user = key.team, key.user
    is_fixed = key.payer_policy == VirtualKey.PayerPolicy.FIXED
    return Caller(
        key_id=key.pk.bytes,
        key_name=str(key),
        key_token=key.token_hash,
        team_id=key.team_id,
        user_id=key.user_id,
        key_models=frozenset(key.allowed_models),
        team_models=frozenset(team.allowed_models) if team else frozenset(),
        user_models=frozenset(user.allowed_models) if user and not team else frozenset(),
        model_aliases=_aliases({**(team.model_aliases if team else {}), **key.model_aliases}),
        routes=tuple(routes_of(key)),
        tags=tuple(dict.fromkeys([*key.tags, *(team.tags if team else [])])),
        blocked=key.blocked,
        team_blocked=bool(team and (team.blocked or team.deleted_at)),
        user_is_active=user is None or user.is_active,
        expires_at_s=key.expires_at.timestamp() if key.expires_at else None,
        secret_until_s=secret_until.timestamp() if secret_until else None,
        fixed_customer_id=key.customer_id if is_fixed else None,
        tier=tier_of(key.budget),
        team_tier=tier_of(team.budget) if team else None,
        customer_tier=tier_of(key.customer_budget),
    )


def _aliases(names: dict[str, object]) -> dict[str, str]:
    return {name: model for name, model in names.items() if isinstance(model, str)}


def _rule(customer: Customer) -> CustomerRule:
    return CustomerRule(
        blocked=customer.blocked,
        tier=tier_of(customer.budget),
        models=frozenset(customer.allowed_models),
        region=customer.allowed_model_region,
        default_model=customer.default_model,
        rate_card_id=customer.rate_card_id,
    )


def _in_thread(query: Callable) -> Callable:
    """Return `query` for a pool thread: its connection is checked before and not kept if broken."""

    def run(*args):
        close_old_connections()
        try:
            return query(*args)
        finally:
            close_old_connections()

    return run


def written(at_s: float) -> str:
    """Return a Unix time for a person."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
