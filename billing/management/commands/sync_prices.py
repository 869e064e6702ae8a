"""Follow a LiteLLM cost map: `manage.py sync_prices [--from URL|FILE] [--auto on|off] [--dry-run]`."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.management.asking import WithExamples
from billing.management.tables import printable
from billing.models import Price
from billing.models.price_sync import PriceSync
from billing.prices.cost_map import PUBLISHED, BadCostMap, CostMap, has_secret, is_address, load, shown
from billing.prices.sync import (
    Changed,
    Difference,
    automatic,
    compare_prices,
    next_run,
    rate_text,
    set_automatic,
    summary,
    sync_prices,
    takeovers,
)

_SHOWN = 20  # of each kind
_EXAMPLES = """examples:
  manage.py sync_prices --dry-run             what the published map would change
  manage.py sync_prices                       follow it
  manage.py sync_prices --from prices.json    a file instead: for a gateway without internet access
  manage.py sync_prices --auto on             from now on every night
"""


class Command(WithExamples):
    examples = _EXAMPLES
    help = (
        "Show what differs between a LiteLLM cost map and our prices, then add a dated price for each model "
        "that is new or changed. Past prices, and prices that staff entered, stay as they are."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--from",
            dest="source",
            metavar="URL|FILE",
            help="where the map is (the one that LiteLLM publishes)",
        )
        parser.add_argument(
            "--auto",
            choices=("on", "off"),
            help="read it every night from now on, from the same place; or stop",
        )
        parser.add_argument("--dry-run", action="store_true", help="show the differences and write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["auto"] == "off":
            if not options["dry_run"]:
                set_automatic(is_on=False)
            self._tell_switch(automatic())
            return
        kept = options["auto"] == "on"
        source = _lasting(options["source"] or automatic().source or PUBLISHED)
        if kept and has_secret(source):
            raise CommandError(
                "An address with a password or a query is not kept for every night: it may be a secret. "
                "Give one without, or a file."
            )
        try:
            cost_map = load(source)
        except BadCostMap as error:
            raise CommandError(str(error)) from None
        self._tell(source, cost_map, compare_prices(cost_map), at=now)
        if options["dry_run"]:
            self.stdout.write("Nothing was written: --dry-run.")
            return
        found = sync_prices(cost_map, at=now)
        self.stdout.write(f"{found.rows:,} prices added. Past prices stay as they were.")
        if kept:
            set_automatic(is_on=True, source="" if source == PUBLISHED else source)
        self._tell_switch(automatic())

    def _tell(self, source: str, cost_map: CostMap, found: Difference, *, at: datetime) -> None:
        self.stdout.write(f"{printable(shown(source))}: {len(cost_map.prices):,} prices; {summary(found)}")
        new = [f"{_name(price)}  {_main_rates(price)}" for price in found.new]
        self._list("new, USD per million tokens", new)
        self._list(
            "of these take over from a packaged price that is another", _diff(takeovers(found.new, at=at))
        )
        self._list("changed, USD per million tokens", _diff(found.changed))
        self._list("gone; their last price stays", [_name(price) for price in found.gone])
        if cost_map.left_out:
            self.stdout.write(
                f"{cost_map.left_out:,} entries left out: of other kinds of calls, or with no rate per token"
            )
        self._list("entries left out, with a rate that is no number of USD", map(printable, cost_map.wrong))

    def _list(self, what: str, lines: Any) -> None:
        listed = list(lines)
        if not listed:
            return
        self.stdout.write(f"\n{len(listed):,} {what}")
        for line in listed[:_SHOWN]:
            self.stdout.write(f"  {line}")
        if len(listed) > _SHOWN:
            self.stdout.write(f"  and {len(listed) - _SHOWN:,} more")
        self.stdout.write("")

    def _tell_switch(self, row: PriceSync) -> None:
        if not row.is_automatic:
            self.stdout.write("The nightly sync is off. Switch it on: manage.py sync_prices --auto on")
            return
        at = next_run(timezone.now())
        self.stdout.write(
            f"The nightly sync is on: next at {at:%Y-%m-%d %H:%M} UTC, from "
            f"{printable(shown(row.source or PUBLISHED))}. It needs the worker and beat to run."
        )


def _lasting(source: str) -> str:
    """Return a place that means the same from any folder."""
    if is_address(source) or "\0" in source:
        return source
    return str(Path(source).resolve())


def _name(price: Price) -> str:
    return printable(f"{price.provider}/{price.model}")


def _main_rates(price: Price) -> str:
    return f"{rate_text(price.input_per_mtok_usd)} in, {rate_text(price.output_per_mtok_usd)} out"


def _diff(changes: Iterable[Changed]) -> list[str]:
    return [f"{_name(change.after)}  {_rates(change)}" for change in changes]


def _rates(change: Changed) -> str:
    return ", ".join(
        f"{name.removesuffix('_usd')} {rate_text(before)} → {rate_text(after)}"
        for name, (before, after) in change.rates.items()
    )
