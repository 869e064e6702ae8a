"""
What has to change so that the database says what config.yaml says; and changing it.

Rows from the file are marked `source="config"`; they are the file's: what was edited in
them by hand is set back. Rows made by hand are left alone. What is gone from the file is
deactivated, never deleted: logs name it.

`make_plan` compares and writes nothing; `apply` does both in one transaction, behind the
lock of the installation's row, so that two starts at once do not make rows twice.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction

from billing.models import AlertRule, Installation, Price, WebhookEndpoint
from billing.models.price import RATE_FIELDS
from customers.actors import Actor, acting
from customers.models import Budget, GatewayLimits, Tag
from customers.money import plain_usd
from customers.text import MAX_ID_LENGTH
from proxy.configuration.alerts import wanted_rows
from proxy.configuration.entries import Entry, UpstreamEntry, read_entries
from proxy.credentials import ENVIRONMENT_PREFIX
from proxy.litellm_params import ListedPrices, completed
from proxy.models import Deployment, Upstream
from spendproject.config_file import BadConfig, Config

SOURCE = "config"
GATEWAY_BUDGET = "config-gateway"
CUSTOMER_BUDGET = "config-customers"
TAG_BUDGETS = "config-tag-"  # and the tag
_SECRET_FIELDS = ("credential", "headers", "sealed_slack_url", "url")


@dataclass
class Change:
    """One row that is to be written. `sign`: + made, ~ changed, - deactivated."""

    sign: str
    what: str
    row: models.Model
    fields: dict[str, tuple[str, str]] = field(default_factory=dict)  # name → (old, new), fit to be shown

    def save(self) -> None:
        """Write a new row, or what differs: an edit of another field at this moment stays."""
        if self.row._state.adding:
            self.row.save()
        else:
            self.row.save(update_fields=[*self.fields, "updated_at"])

    def __str__(self) -> str:
        if self.sign == "-":
            return f"- {self.what}"
        told = ", ".join(f"{name} {old} → {new}" for name, (old, new) in self.fields.items())
        return f"{self.sign} {self.what}" + (f": {told}" if told else "")


@dataclass
class Plan:
    """All changes, in the order in which they are written."""

    changes: list[Change]
    warnings: list[str]


def apply(config: Config, *, at: datetime) -> Plan:
    """Have the database say what the file says. Returns what was changed. Raises: BadConfig."""
    with acting(Actor("config", name="config.yaml")), transaction.atomic():
        # Not the change counter: who saves a row has that row locked before the counter.
        Installation.objects.select_for_update(no_key=True).filter(pk=1).first()
        plan = make_plan(config, at=at)
        for change in plan.changes:
            change.save()
    return plan


def make_plan(config: Config, *, at: datetime, is_empty: bool = False) -> Plan:
    """Compare the file with the database. Writes nothing. Raises: BadConfig.

    is_empty: there are no tables yet, so nothing is asked.
    """
    entries, warnings = read_entries(config)
    return _Planner(config, at, has_tables=not is_empty).plan(entries, warnings)


class _Planner:
    def __init__(self, config: Config, at: datetime, *, has_tables: bool) -> None:
        self._config = config
        self._at = at
        self._has_tables = has_tables
        self._changes: list[Change] = []
        self._problems: list[str] = []
        self._warnings: list[str] = []

    def plan(self, entries: list[Entry], warnings: list[str]) -> Plan:
        self._warnings += warnings
        upstreams = self._plan_upstreams(entries)
        self._plan_deployments(entries, upstreams)
        self._plan_limits()
        self._plan_tags()
        self._plan_alerts()
        if self._problems:
            raise BadConfig(self._config.path, self._problems)
        return Plan(self._changes, self._warnings)

    def _rows(self, model: type[models.Model], **filters: Any) -> list[Any]:
        if not self._has_tables:
            return []
        return list(model._default_manager.filter(**filters).order_by("pk"))

    # -- upstreams -------------------------------------------------------------------

    def _plan_upstreams(self, entries: list[Entry]) -> dict[UpstreamEntry, Upstream]:
        """Return the row of each upstream of the file, saved or to be."""
        rows = self._rows(Upstream)
        names = {row.name for row in rows}
        unmatched = [row for row in rows if row.source == SOURCE]
        wanted = list(dict.fromkeys(entry.upstream for entry in entries))
        found: dict[UpstreamEntry, Upstream] = {}
        # One that differs in its credential alone is the same account with a new key.
        for same in (_is_same_upstream, _is_same_address):
            for upstream in wanted:
                if upstream in found:
                    continue
                row = next((row for row in unmatched if same(row, upstream)), None)
                if row is not None:
                    unmatched.remove(row)
                    found[upstream] = row
        for upstream in wanted:
            row = found.get(upstream)
            if row is None:
                row = found[upstream] = Upstream(name=_free_name(upstream.provider, names), source=SOURCE)
                names.add(row.name)
            self._set(row, f"upstream {row.name}", {**_upstream_fields(upstream), "is_active": True})
        self._deactivate(unmatched, "upstream")
        return found

    # -- deployments -------------------------------------------------------------------

    def _plan_deployments(self, entries: list[Entry], upstreams: dict[UpstreamEntry, Upstream]) -> None:
        rows = [] if not self._has_tables else list(Deployment.objects.select_related("price", "upstream"))
        by_hand = {row.public_id: row for row in rows if row.source != SOURCE and row.public_id}
        unmatched = sorted((row for row in rows if row.source == SOURCE), key=lambda row: row.pk)
        found = dict(_matched(entries, unmatched, upstreams))
        for number, entry in enumerate(entries):
            if entry.public_id in by_hand:
                self._problems.append(
                    f"{entry.place}: a deployment that was not made from the file has the id "
                    f"{entry.public_id!r} already; write another one"
                )
                continue
            row = found.get(number) or Deployment(source=SOURCE)
            self._plan_deployment(row, entry, upstreams[entry.upstream])
        self._deactivate([row for row in unmatched if row not in found.values()], "deployment")

    def _plan_deployment(self, row: Deployment, entry: Entry, upstream: Upstream) -> None:
        fields = {
            "model_name": entry.model_name,
            "upstream": upstream,
            "upstream_model": entry.upstream_model,
            "priority": entry.priority,
            "weight": entry.weight,
            "base_model": entry.base_model,
            "public_id": entry.public_id,
            "model_info": entry.model_info,
            "extras": entry.extras,
            "price": self._price(row, entry, upstream),
            "is_active": True,
        }
        self._set(row, f"deployment {entry.model_name} at {upstream.name}", fields)

    def _price(self, row: Deployment, entry: Entry, upstream: Upstream) -> Price | None:
        """Return the entry's own price: the row that is there, a new one, or none. None is ever edited."""
        if entry.rates.is_empty:
            return None
        model = entry.base_model or entry.upstream_model or entry.model_name
        said, warnings = completed(
            entry.rates, self._listed(upstream.provider, model), has_output=entry.has_output
        )
        self._warnings += [f"{entry.place}: {warning}" for warning in warnings]
        rates = {name: said.get(name) for name in RATE_FIELDS}
        known = row.price if row.price_id else None
        if (
            known is not None
            and (known.provider, known.model) == (upstream.provider, model)
            and all(getattr(known, name) == said for name, said in entry.rates.nested.items())
            and all(getattr(known, name) == rate for name, rate in rates.items())
        ):
            return known
        price = Price(
            provider=upstream.provider, model=model, source=Price.Source.DEPLOYMENT,
            **entry.rates.nested, **rates,
        )  # fmt: skip
        what = f"price of {entry.model_name}"
        self._check(price, what, exclude=[])
        self._changes.append(Change("+", f"{what}: {_told_rates(rates)}", price))
        return price

    def _listed(self, provider: str, model: str) -> Price | None:
        if not self._has_tables:
            return None
        return ListedPrices([(provider, model)], at=self._at).find(provider, model).price

    # -- the gateway's limits ------------------------------------------------------------

    def _plan_limits(self) -> None:
        limits = next(iter(self._rows(GatewayLimits)), None) or GatewayLimits(pk=1)
        of_gateway = self._gateway_budget()
        fields: dict[str, Any] = {}
        if of_gateway is not None:
            fields["budget"] = self._budget(GATEWAY_BUDGET, of_gateway)
        elif limits.budget_id == GATEWAY_BUDGET:
            fields["budget"] = None
        fields |= self._customer_budget(limits)
        if fields:
            self._set(limits, "limits of the gateway", fields)

    def _gateway_budget(self) -> dict[str, Any] | None:
        """Return the fields of the gateway's budget; None where the file says nothing of it."""
        said = self._config.values
        rates = said.get("general_settings.rate_limits", {})
        fields = {
            "max_budget": said.get("litellm_settings.max_budget"),
            "rpm_limit": rates.get("rpm_limit"),
            "tpm_limit": rates.get("tpm_limit"),
            "max_parallel_requests": said.get("general_settings.global_max_parallel_requests"),
        }
        duration = said.get("litellm_settings.budget_duration")
        if all(value is None for value in fields.values()):
            if duration is not None:
                self._warnings.append("litellm_settings.budget_duration has no effect without max_budget")
            return None
        return {**fields, "budget_duration": duration or ""}

    def _customer_budget(self, limits: GatewayLimits) -> dict[str, Any]:
        said = self._config.values
        named = said.get("litellm_settings.max_end_user_budget_id")
        amount = said.get("litellm_settings.max_end_user_budget")
        if named is not None:
            if amount is not None:
                self._warnings.append("litellm_settings.max_end_user_budget: max_end_user_budget_id wins")
            budget = next(iter(self._rows(Budget, pk=named)), None)
            if budget is not None:
                return {"customer_budget": budget}
            self._warnings.append(
                f"litellm_settings.max_end_user_budget_id: there is no budget {named!r}, it limits nobody; "
                "make it in the admin or with POST /budget/new, and start again"
            )
            return {}
        if amount is not None:
            fields = {"max_budget": amount, "budget_duration": ""}
            return {"customer_budget": self._budget(CUSTOMER_BUDGET, fields)}
        return {"customer_budget": None} if limits.customer_budget_id == CUSTOMER_BUDGET else {}

    # -- tags with budgets -----------------------------------------------------------------

    def _plan_alerts(self) -> None:
        rows = self._rows(AlertRule, source=SOURCE)
        rules, used = self._config.alerts.rules, set()
        try:
            for wanted in wanted_rows(rules, rows, self._rows(WebhookEndpoint)):
                self._set(wanted.row, wanted.what, wanted.fields)
                used.add(wanted.row.pk)
        except ValueError as error:
            self._problems.append(f"alerts: {error}")
        self._deactivate([row for row in rows if row.pk not in used], "alert rule")
        if any(rule.emails for rule in rules) and not settings.EMAIL_IS_CONFIGURED:
            self._warnings.append("alerts by e-mail are sent once EMAIL_URL, or SMTP_HOST, is set")

    def _plan_tags(self) -> None:
        wanted = self._config.values.get("litellm_settings.tag_budget_config", {})
        known = {row.pk: row for row in self._rows(Tag)}
        for name, fields in wanted.items():
            tag = known.get(name) or Tag(pk=name)
            budget_id = _tag_budget_id(name)
            if tag.budget_id not in (None, budget_id):
                self._warnings.append(
                    f"litellm_settings.tag_budget_config: tag {name!r} has the budget {tag.budget_id!r}, "
                    "which was given by hand, and keeps it; take it away in the admin to have the file's"
                )
                continue
            self._set(tag, f"tag {name}", {"budget": self._budget(budget_id, fields)})
        for name, tag in known.items():
            if name not in wanted and tag.budget_id == _tag_budget_id(name):
                self._set(tag, f"tag {name}", {"budget": None})

    def _budget(self, budget_id: str, fields: dict[str, Any]) -> Budget:
        budget = next(iter(self._rows(Budget, pk=budget_id)), None) or Budget(pk=budget_id)
        self._set(budget, f"budget {budget_id}", fields)
        return budget

    # -- rows -----------------------------------------------------------------------

    def _set(self, row: models.Model, what: str, fields: dict[str, Any]) -> None:
        """Give the row these values, and note what that changes."""
        told = {}
        for name, value in fields.items():
            old = getattr(row, name, None)  # a new row has no upstream yet
            if _differs(row, name, old, value):
                told[name] = (_shown(name, old), _shown(name, value))
            setattr(row, name, value)
        is_new = row._state.adding
        if not told and not is_new:
            return
        relations = [relation.name for relation in row._meta.concrete_fields if relation.is_relation]
        self._check(row, what, exclude=relations)
        self._changes.append(Change("+" if is_new else "~", what, row, {} if is_new else told))

    def _check(self, row: models.Model, what: str, *, exclude: list[str]) -> None:
        try:
            row.full_clean(
                exclude=exclude, validate_unique=self._has_tables, validate_constraints=self._has_tables
            )
        except ValidationError as error:
            self._problems.append(f"{what}: {' '.join(error.messages)}")

    def _deactivate(self, rows: Iterable[Any], kind: str) -> None:
        for row in rows:
            if row.is_active:
                row.is_active = False
                told = {"is_active": ("True", "False")}
                self._changes.append(Change("-", f"{kind} {row}, which the file no longer has", row, told))


def _tag_budget_id(tag: str) -> str:
    """Return the id of a tag's budget: with the tag in it, or where that is too long its hash."""
    budget_id = f"{TAG_BUDGETS}{tag}"
    if len(budget_id) <= MAX_ID_LENGTH:
        return budget_id
    return f"{TAG_BUDGETS}{hashlib.sha256(tag.encode()).hexdigest()}"


def _matched(
    entries: list[Entry], rows: list[Deployment], upstreams: dict[UpstreamEntry, Upstream]
) -> Iterator[tuple[int, Deployment]]:
    """Yield (number of the entry, its row): by id, else by name, upstream and model."""
    left = list(rows)
    ids = {row.public_id: row for row in rows if row.public_id}
    matched = set()
    for number, entry in enumerate(entries):
        row = ids.get(entry.public_id) if entry.public_id else None
        if row is not None:
            left.remove(row)
            matched.add(number)
            yield number, row
    wanted_ids = {entry.public_id for entry in entries}
    for number, entry in enumerate(entries):
        if number in matched:
            continue
        upstream = upstreams[entry.upstream]
        row = next(
            (
                row
                for row in left
                if (row.model_name, row.upstream_model) == (entry.model_name, entry.upstream_model)
                and row.upstream_id == upstream.pk
                and row.public_id not in wanted_ids - {None}
            ),
            None,
        )
        if row is not None:
            left.remove(row)
            yield number, row


def _upstream_fields(upstream: UpstreamEntry) -> dict[str, Any]:
    return {
        "provider": upstream.provider,
        "openai_base_url": upstream.openai_base_url,
        "anthropic_base_url": upstream.anthropic_base_url,
        "credential": upstream.credential,
        "headers": dict(upstream.headers),
        "read_timeout_s": upstream.read_timeout_s,
    }


def _is_same_upstream(row: Upstream, upstream: UpstreamEntry) -> bool:
    return all(getattr(row, name) == value for name, value in _upstream_fields(upstream).items())


def _is_same_address(row: Upstream, upstream: UpstreamEntry) -> bool:
    names = ("provider", "openai_base_url", "anthropic_base_url")
    return all(getattr(row, name) == getattr(upstream, name) for name in names)


def _free_name(provider: str, taken: set[str]) -> str:
    number = 1
    while (name := f"{provider} (config{'' if number == 1 else f' {number}'})") in taken:
        number += 1
    return name


def _differs(row: models.Model, name: str, old: Any, new: Any) -> bool:
    if isinstance(old, models.Model) or isinstance(new, models.Model):
        return old is not new and (old is None or new is None or old.pk is None or old.pk != new.pk)
    return row._state.adding or old != new


def _shown(name: str, value: Any) -> str:
    """Return a value for people to read; what is secret is not shown."""
    if name in _SECRET_FIELDS:
        if isinstance(value, str) and value.startswith(ENVIRONMENT_PREFIX):
            return value
        return "(hidden)" if value else "none"
    if name.endswith("_base_url") and "@" in str(value):
        return f"{urlsplit(value).scheme}://(hidden)@{urlsplit(value).hostname}"
    return "none" if value is None or value == "" else str(value)


def _told_rates(rates: dict[str, Any]) -> str:
    told = [
        f"{name.removesuffix('_usd').replace('_per_mtok', '').replace('_', ' ')} {plain_usd(rate)}"
        for name, rate in rates.items()
        if rate is not None
    ]
    return ", ".join(told) + " USD per million tokens" if told else "tiers only"
