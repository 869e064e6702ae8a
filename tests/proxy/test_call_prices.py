"""A call's price from end to end: service tier, units, discount, margin; in the record and to the client."""

from decimal import Decimal

import msgspec
from django.test import SimpleTestCase

from billing.models import Price
from customers.money import from_nano
from proxy.catalog import build_catalog
from proxy.models import Deployment, Upstream
from tests.proxy.playing import DONE, WORDS, Provider, event, playing

USAGE = {
    "prompt_tokens": 1_000,
    "completion_tokens": 200,
    "total_tokens": 1_200,
    "prompt_tokens_details": {"cached_tokens": 100, "cached_tokens_details": {"audio_tokens": 40}},
}
FLEX = (900 * Decimal(1) + 60 * Decimal("0.25") + 40 * Decimal("0.4") + 200 * Decimal(4)) / 1_000_000
STANDARD = (900 * Decimal(2) + 60 * Decimal("0.25") + 40 * Decimal("0.4") + 200 * Decimal(8)) / 1_000_000


def answer(**more) -> bytes:
    return msgspec.json.encode({"id": "chatcmpl-1", "choices": [], "usage": USAGE, **more})


def catalog(provider: str = "openai", *, price: bool = True):
    rates = {
        "input_per_mtok_usd": Decimal(2), "cache_read_per_mtok_usd": Decimal("0.25"),
        "output_per_mtok_usd": Decimal(8), "unit_rates": {"cache_read_audio": "0.4"},
        "service_tiers": {"flex": {"input_per_mtok_usd": "1", "output_per_mtok_usd": "4"}},
    }  # fmt: skip
    upstream = Upstream(pk=1, name="one", provider=provider, openai_base_url="https://one.test/v1")
    row = Price(pk=5, provider=provider, model="gpt-4o", source=Price.Source.COST_MAP, **rates)
    return build_catalog([Deployment(pk=10, model_name="gpt-4o", upstream=upstream)], [row] if price else [])


class CallPriceTests(SimpleTestCase):
    async def closed(self, provider: Provider, *, catalog=catalog, body=None, stream=False, **settings):
        """Return (the last record, the head, what the client got)."""
        async with playing(self, one=provider, **settings) as play:
            play.gateway.refresher.catalog = catalog()
            head, got = await play.whole(play.start(stream=stream, **(body or {})))
            return play.the_closed(), head, got

    async def test_the_tier_that_served_counts_and_units_are_kept(self):
        closed, head, _ = await self.closed(Provider([answer(service_tier="flex")]))

        self.assertEqual((from_nano(closed.cost_nano), closed.service_tier), (FLEX, "flex"))
        self.assertEqual(closed.units, {"cache_read_audio": 40})
        self.assertEqual(Decimal(dict(head.headers)[b"x-litellm-response-cost"].decode()), FLEX)

    async def test_what_was_asked_for_counts_where_the_answer_does_not_say(self):
        closed, *_ = await self.closed(Provider([answer()]), body={"service_tier": "flex"})
        other, *_ = await self.closed(
            Provider([answer(service_tier="default")]), body={"service_tier": "flex"}
        )

        self.assertEqual((from_nano(closed.cost_nano), closed.service_tier), (FLEX, "flex"))
        self.assertEqual((from_nano(other.cost_nano), other.service_tier), (STANDARD, "default"))

    async def test_a_stream_says_the_same_cost_as_its_record(self):
        last = event({"id": "chatcmpl-1", "choices": [], "usage": USAGE, "service_tier": "flex"})
        provider = Provider.streaming([*WORDS, last, DONE])

        closed, _, got = await self.closed(
            provider, stream=True, body={"stream_options": {"include_usage": True}},
            INCLUDE_COST_IN_STREAMING_USAGE=True, COST_DISCOUNTS=["openai:0.5"],
        )  # fmt: skip

        self.assertEqual(from_nano(closed.cost_nano), FLEX / 2)
        self.assertIn(f'"cost":{FLEX / 2:f}'.rstrip("0").encode(), got)

    async def test_a_margin_is_in_the_charge_and_not_in_the_cost(self):
        closed, *_ = await self.closed(
            Provider([answer()]), COST_DISCOUNTS=["openai:0.1"], COST_MARGINS=["global:0.2+0.001"]
        )

        cost = STANDARD * Decimal("0.9")
        self.assertEqual(from_nano(closed.cost_nano), cost)
        self.assertEqual(from_nano(closed.charge_nano), cost * Decimal("1.2") + Decimal("0.001"))
        self.assertEqual(
            closed.units,
            {"cache_read_audio": 40, "discount_ppm": 100_000, "margin_ppm": 200_000, "margin_nano": 10**6},
        )

    async def test_a_router_s_own_cost_is_taken_for_a_model_that_nobody_lists(self):
        told = answer(usage={**USAGE, "cost": 0.000731205})

        closed, *_ = await self.closed(Provider([told]), catalog=lambda: catalog("openrouter", price=False))
        unlisted, *_ = await self.closed(Provider([told]), catalog=lambda: catalog(price=False))

        self.assertEqual(from_nano(closed.cost_nano), Decimal("0.000731205"))
        self.assertIsNone(unlisted.cost_nano)  # of a provider that does not tell costs

    async def test_a_failed_call_has_no_margin(self):
        closed, *_ = await self.closed(
            Provider([b'{"error": {"message": "no"}}'], status=400), COST_MARGINS=["global:0.2+0.001"]
        )

        self.assertEqual((closed.cost_nano, closed.charge_nano, closed.units), (0, 0, None))
