"""Prices from the genai-prices package: loaded, updated, found by canonical names."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest import mock

from django.test import SimpleTestCase, TestCase
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
)

from billing.models import Price
from billing.prices.pricing import PriceBook, resolve
from billing.prices.sources import canonical_model, genai_prices_rows, load_genai_prices
from billing.usage import Usage
from customers.models import Change
from customers.money import from_nano

M = 1_000_000
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = datetime(2026, 6, 1, tzinfo=UTC)


@contextmanager
def packaged(*models: ModelInfo):
    """Have the package list these models of one provider, and nothing else."""
    provider = mock.Mock(id="openai", models=list(models))
    with mock.patch("billing.prices.sources.data", mock.Mock(providers=[provider])):
        yield


def listed(model: str = "gpt-4o", prices=None, **rates) -> ModelInfo:
    if prices is None:
        prices = ModelPrice(**{name: Decimal(rate) for name, rate in rates.items()})
    return ModelInfo(id=model, match=ClauseEquals(model), prices=prices)


class RowTests(SimpleTestCase):
    def rows(self, *models) -> list[Price]:
        with packaged(*models):
            return list(genai_prices_rows())

    def test_their_words_become_ours(self):
        [row] = self.rows(
            listed(
                input_mtok="2.5", cache_read_mtok="1.25", cache_write_mtok="3", output_mtok="10",
                input_audio_mtok="40", cache_audio_read_mtok="2.5", output_audio_mtok="80",
                requests_kcount="5", web_searches_kcount="10",
            )
        )  # fmt: skip

        self.assertEqual((row.provider, row.model, row.source), ("openai", "gpt-4o", "genai_prices"))
        self.assertEqual((row.input_per_mtok_usd, row.output_per_mtok_usd), (Decimal("2.5"), Decimal(10)))
        self.assertEqual(
            (row.cache_read_per_mtok_usd, row.cache_write_5m_per_mtok_usd), (Decimal("1.25"), Decimal(3))
        )
        self.assertEqual(
            (row.input_audio_per_mtok_usd, row.output_audio_per_mtok_usd), (Decimal(40), Decimal(80))
        )
        self.assertEqual(row.per_request_usd, Decimal(5) / 1000)
        self.assertEqual(row.per_web_search_usd, Decimal(10) / 1000)
        self.assertIsNone(row.reasoning_per_mtok_usd)

    def test_tiers_come_with_their_thresholds(self):
        tiered = ModelPrice(
            input_mtok=TieredPrices(base=Decimal(3), tiers=[Tier(start=200_000, price=Decimal(6))]),
            output_mtok=TieredPrices(base=Decimal(15), tiers=[Tier(start=200_000, price=Decimal("22.5"))]),
        )

        [row] = self.rows(listed(prices=tiered))

        price = resolve(row)
        at, above = (usd(price, Usage(input_uncached=n, output_text=1_000)) for n in (200_000, 200_001))
        self.assertEqual(at, (3 * Decimal(200_000) + 15 * 1_000) / M)
        self.assertEqual(above, (6 * Decimal(200_001) + Decimal("22.5") * 1_000) / M)

    def test_dated_prices_become_dated_rows(self):
        start = SECOND.date()
        prices = [
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(2))),
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1)), constraint=StartDateConstraint(start)),
        ]

        rows = self.rows(listed(prices=prices))

        self.assertEqual(
            [(row.effective_from, row.input_per_mtok_usd) for row in rows], [(None, 2), (SECOND, 1)]
        )

    def test_every_row_of_the_package_can_be_priced(self):
        rows = list(genai_prices_rows())

        self.assertGreater(len(rows), 500)
        for row in rows:
            name = f"{row.provider}/{row.model}"
            self.assertGreaterEqual(resolve(row).cost_nano(Usage(input_uncached=M, output_text=M)), 0, name)
            for tier in row.long_context_tiers:
                for rate in tier.values():
                    self.assertEqual(Decimal(rate), round(Decimal(rate), 9), name)


class LoadingTests(TestCase):
    def test_the_whole_package_is_loaded_once(self):
        count = load_genai_prices(at=FIRST)
        again = load_genai_prices(at=SECOND)

        self.assertGreater(count, 500)
        self.assertEqual(Price.objects.count(), count)
        self.assertEqual(again, 0)

    def test_a_rate_that_changed_adds_a_row_from_that_day_on(self):
        with packaged(listed(input_mtok="2.5", output_mtok="10")):
            load_genai_prices(at=FIRST)
        [before] = Price.objects.all()

        with packaged(listed(input_mtok="2", output_mtok="10")):
            count = load_genai_prices(at=SECOND)
            again = load_genai_prices(at=SECOND + timedelta(days=1))

        book = PriceBook(Price.objects.all())
        found = [
            book.find("openai", "gpt-4o", at_s=(SECOND + timedelta(seconds=s)).timestamp()) for s in (-1, 0)
        ]
        usage = Usage(input_uncached=1_000, output_text=100)
        self.assertEqual((count, again), (1, 0))
        self.assertEqual(usd(found[0], usage), Decimal("2.5") * 1_000 / M + Decimal(10) * 100 / M)
        self.assertEqual(usd(found[1], usage), Decimal(2) * 1_000 / M + Decimal(10) * 100 / M)
        self.assertEqual(Price.objects.get(pk=before.pk).input_per_mtok_usd, Decimal("2.5"))

    def test_a_rate_that_changes_back_adds_a_row_again(self):
        for day, rate in ((FIRST, "2.5"), (SECOND, "2"), (SECOND + timedelta(days=9), "2.5")):
            with packaged(listed(input_mtok=rate)):
                self.assertEqual(load_genai_prices(at=day), 1)

        self.assertEqual(Price.objects.count(), 3)

    def test_a_rate_that_is_dropped_is_a_change_too(self):
        with packaged(listed(input_mtok="2.5", cache_read_mtok="1")):
            load_genai_prices(at=FIRST)

        with packaged(listed(input_mtok="2.5")):
            self.assertEqual(load_genai_prices(at=SECOND), 1)

        self.assertIsNone(Price.objects.latest("id").cache_read_per_mtok_usd)

    def test_a_new_tier_is_a_change_too(self):
        with packaged(listed(input_mtok="3")):
            load_genai_prices(at=FIRST)
        tiered = ModelPrice(
            input_mtok=TieredPrices(base=Decimal(3), tiers=[Tier(start=10, price=Decimal(6))])
        )

        for expected in (1, 0):
            with packaged(listed(prices=tiered)):
                self.assertEqual(load_genai_prices(at=SECOND), expected)

    def test_a_model_that_is_new_counts_for_all_time(self):
        with packaged(listed(input_mtok="2.5")):
            load_genai_prices(at=FIRST)

        with packaged(listed(input_mtok="2.5"), listed("gpt-5", input_mtok="1")):
            self.assertEqual(load_genai_prices(at=SECOND), 1)

        self.assertIsNone(Price.objects.get(model="gpt-5").effective_from)

    def test_what_staff_entered_is_not_touched(self):
        mine = Price.objects.create(provider="openai", model="gpt-4o", input_per_mtok_usd=Decimal(9))

        with packaged(listed(input_mtok="2.5")):
            load_genai_prices(at=FIRST)

        mine.refresh_from_db()
        self.assertEqual((mine.input_per_mtok_usd, mine.source), (Decimal(9), "admin"))
        self.assertEqual(Price.objects.count(), 2)

    def test_the_workers_hear_of_it(self):
        with packaged(listed(input_mtok="2.5")):
            load_genai_prices(at=FIRST)

        self.assertEqual(Change.objects.get().kind, "billing.price")


class CanonicalTests(SimpleTestCase):
    def test_dated_and_aliased_names_lead_to_the_listed_one(self):
        self.assertEqual(canonical_model("openai", "gpt-4o-2024-08-06"), "gpt-4o")
        self.assertEqual(canonical_model("openai", "GPT-4o"), "gpt-4o")
        self.assertEqual(canonical_model("openai", "gpt-4o"), "gpt-4o")

    def test_what_nobody_lists_has_no_canonical_name(self):
        self.assertIsNone(canonical_model("openai", "no-such-model"))
        self.assertIsNone(canonical_model("no-such-provider", "gpt-4o"))
        self.assertIsNone(canonical_model("", ""))


def usd(price, usage: Usage) -> Decimal:
    return from_nano(price.cost_nano(usage))
