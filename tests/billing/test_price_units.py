"""Units beside tokens, service tiers, names of models and terms: the parts of a price that few calls meet."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from django.conf import settings
from django.core.exceptions import ValidationError
from django.test import SimpleTestCase, TestCase, override_settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billing.checks import terms_of_providers
from billing.models import Price
from billing.models.price import PRICING_FIELDS, RATE_FIELDS
from billing.prices import cost_map
from billing.prices.litellm_rates import Sheet, names_of_rates, place_of
from billing.prices.model_names import names_of, service_tier_of
from billing.prices.pricing import PriceBook, charge_of, cost_of, explain_cost, resolve
from billing.prices.sources import genai_prices_rows
from billing.prices.terms import Margin, Terms, billed_units, read_terms
from billing.usage import BUCKETS, DISCOUNT, MARGIN, MARGIN_FIXED, REPORTED_COST, UNITS, Usage, unit_of
from customers.money import from_nano

M = 1_000_000
AT_S = 1_763_800_000


def row(**fields) -> Price:
    return Price(**{"pk": 1, "provider": "openai", "model": "m", **fields})


def priced(**fields) -> Price:
    return row(**{"input_per_mtok_usd": Decimal(1), **fields})


def usd(price: Price, usage: Usage = Usage(), units=None, service_tier: str = "") -> Decimal | None:  # noqa: B008
    nano = cost_of(resolve(price), usage, units, service_tier)
    return None if nano is None else from_nano(nano)


class UnitTests(SimpleTestCase):
    def test_each_unit_is_priced_by_what_its_rate_is_for(self):
        for name, unit in UNITS.items():
            if unit.part_of is not None:
                continue
            with self.subTest(unit=name):
                cost = usd(row(unit_rates={name: "0.75"}), units={name: 2_000})

                self.assertEqual(cost, Decimal("0.75") * 2_000 / unit.per)

    def test_a_part_of_a_bucket_is_taken_out_of_it(self):
        price = row(
            input_per_mtok_usd=Decimal(3),
            cache_read_per_mtok_usd=Decimal(1),
            unit_rates={"cache_read_audio": "5"},
        )

        cost = usd(price, Usage(input_uncached=10, cache_read=100), {"cache_read_audio": 40})

        self.assertEqual(cost, Decimal(3 * 10 + 1 * 60 + 5 * 40) / M)

    def test_a_part_without_a_rate_of_its_own_stays_in_its_bucket(self):
        cost = usd(row(input_per_mtok_usd=Decimal(3)), Usage(input_uncached=100), {"input_video": 40})

        self.assertEqual(cost, Decimal(3) * 100 / M)

    def test_two_parts_are_never_more_than_their_bucket(self):
        price = row(
            cache_read_per_mtok_usd=Decimal(1), unit_rates={"cache_read_audio": "5", "cache_read_image": "7"}
        )

        cost = usd(price, Usage(cache_read=100), {"cache_read_audio": 80, "cache_read_image": 80})

        self.assertEqual(cost, Decimal(5 * 80 + 7 * 20) / M)

    def test_a_kind_has_its_own_rate_or_that_of_the_unit(self):
        price = row(unit_rates={"output_images": "0.04", "output_images:1024x1792": "0.08"})

        self.assertEqual(usd(price, units={"output_images:1024x1792": 2}), 2 * Decimal("0.08"))
        self.assertEqual(usd(price, units={"output_images:512x512": 2}), 2 * Decimal("0.04"))

    def test_a_search_costs_by_the_size_of_its_context(self):
        price = row(
            input_per_mtok_usd=Decimal(1), per_web_search_usd=Decimal("0.010"),
            unit_rates={"web_searches:low": "0.006", "web_searches:high": "0.014"},
        )  # fmt: skip
        three = Usage(web_searches=3)

        costs = [usd(price, three, {f"web_searches:{size}": 3}) for size in ("low", "medium", "high")]

        self.assertEqual(costs, [3 * Decimal(rate) for rate in ("0.006", "0.010", "0.014")])

    def test_what_was_measured_and_has_no_rate_leaves_the_call_unpriced(self):
        tokens_alone = row(input_per_mtok_usd=Decimal(1), output_per_mtok_usd=Decimal(1))
        seconds_alone = row(unit_rates={"input_audio_ms": "0.0001"})

        self.assertIsNone(usd(tokens_alone, units={"input_audio_ms": 5_000}))
        self.assertIsNone(usd(tokens_alone, units={"output_images:1K": 1}))
        self.assertIsNone(usd(seconds_alone, Usage(input_uncached=5)))
        self.assertIsNone(usd(seconds_alone, units={"pages": 1}))
        self.assertEqual(
            usd(seconds_alone, Usage(input_uncached=5), {"input_audio_ms": 5_000}), Decimal("0.0005")
        )

    def test_a_price_by_the_second_is_not_a_free_one(self):
        self.assertFalse(resolve(row(unit_rates={"input_audio_ms": "0.0001"})).is_free)
        self.assertTrue(resolve(row(unit_rates={"input_audio_ms": "0"})).is_free)

    def test_what_staff_enter_is_checked_and_kept_in_one_form(self):
        price = row(
            unit_rates={"pages": 0.004, "input_audio_ms": "1e-4"},
            service_tiers={"flex": {"input_per_mtok_usd": 1.5, "long_context_tiers": [
                {"above_prompt_tokens": "20", "input_per_mtok_usd": 4}, {"above_prompt_tokens": 10},
            ]}, "geo:us": {"multiplier": 1.1}},
        )  # fmt: skip

        price.clean()

        self.assertEqual(list(price.unit_rates), ["input_audio_ms", "pages"])
        tiers = price.service_tiers["flex"]["long_context_tiers"]
        self.assertEqual([tier["above_prompt_tokens"] for tier in tiers], [10, 20])
        self.assertEqual(price.service_tiers["geo:us"], {"multiplier": "1.1"})
        for field, wrong in (
            ("unit_rates", {"furlongs": 1}),
            ("unit_rates", {"pages": -1}),
            ("unit_rates", {"pages": "0.0000000001"}),
            ("unit_rates", ["pages"]),
            ("service_tiers", {"flex": 5}),
            ("service_tiers", {"flex": {"long_context_tiers": [{}]}}),
            ("service_tiers", {"geo:us": {"multiplier": "x"}}),
        ):
            with self.subTest(field=field, wrong=wrong), self.assertRaises(ValidationError):
                row(input_per_mtok_usd=Decimal(1), **{field: wrong}).clean()

    def test_a_star_stands_at_the_end_of_a_model_alone(self):
        row(model="claude-*", input_per_mtok_usd=Decimal(1)).clean()
        with self.assertRaises(ValidationError):
            row(model="*-mini", input_per_mtok_usd=Decimal(1)).clean()


class ServiceTierTests(SimpleTestCase):
    PRICE = {
        "input_per_mtok_usd": Decimal(4),
        "cache_read_per_mtok_usd": Decimal(1),
        "output_per_mtok_usd": Decimal(8),
        "long_context_tiers": [{"above_prompt_tokens": 100, "input_per_mtok_usd": "6"}],
        "service_tiers": {
            "flex": {"input_per_mtok_usd": "2"},
            "priority": {
                "input_per_mtok_usd": "10",
                "output_per_mtok_usd": "20",
                "long_context_tiers": [{"above_prompt_tokens": 50, "output_per_mtok_usd": "30"}],
            },
        },
    }

    def rates(self, service_tier: str, prompt: int) -> tuple[int, ...]:
        """Return the rates of input, cache read and output in USD per million tokens."""
        rates = resolve(row(**self.PRICE)).rates_for(Usage(input_uncached=prompt), None, service_tier)
        return tuple(rates.per_mtok[i] // 10**9 for i in (0, 1, 4))

    def test_each_rate_is_the_tiers_or_else_the_standard_one_of_that_length(self):
        self.assertEqual([self.rates("", n) for n in (100, 101)], [(4, 1, 8), (6, 1, 8)])
        self.assertEqual([self.rates("flex", n) for n in (100, 101)], [(2, 1, 8), (6, 1, 8)])
        self.assertEqual(
            [self.rates("priority", n) for n in (50, 51, 100, 101)],
            [(10, 1, 20), (10, 1, 30), (10, 1, 30), (6, 1, 30)],
        )

    def test_a_batch_is_half_price_where_nothing_else_is_said(self):
        self.assertEqual(
            usd(row(**self.PRICE), Usage(1, 2, output_text=4), None, "batch"), Decimal(2 + 1 + 16) / M
        )
        self.assertEqual([self.rates("batch", n) for n in (100, 101)], [(2, 0, 4), (3, 0, 4)])

    def test_words_of_providers_for_the_same_tier(self):
        for said, tier in (
            ("default", ""), ("auto", ""), ("standard", ""), ("on_demand", ""), ("STANDARD", ""), ("", ""),
            ("flex", "flex"), ("FLEX", "flex"), ("ON_DEMAND_FLEX", "flex"), ("priority", "priority"),
            ("fast", "priority"), ("ON_DEMAND_PRIORITY", "priority"), ("batch", "batch"), ("BATCH", "flex"),
            ("ultrafast", "ultrafast"),
        ):  # fmt: skip
            with self.subTest(said=said):
                self.assertEqual(service_tier_of(said), tier)

    def test_a_multiplier_is_of_token_rates_alone(self):
        price = row(
            input_per_mtok_usd=Decimal(5), per_web_search_usd=Decimal("0.01"),
            service_tiers={"geo:us": {"multiplier": "1.1"}, "speed:fast": {"multiplier": "2"}},
        )  # fmt: skip
        usage = Usage(input_uncached=M, web_searches=1)

        costs = [
            usd(price, usage, units)
            for units in (None, {"geo:us": 1}, {"speed:fast": 1}, {"geo:us": 1, "speed:fast": 1})
        ]

        self.assertEqual(costs, [Decimal(x) + Decimal("0.01") for x in ("5", "5.5", "10", "11")])

    def test_an_estimate_is_of_the_tier_that_is_asked_for(self):
        price = resolve(row(**self.PRICE))

        self.assertEqual(price.estimate_nano(10, 1, "priority"), (10 * 10 + 20) * 1_000)
        self.assertEqual(price.estimate_nano(10, 1), (4 * 10 + 8) * 1_000)


class NameTests(SimpleTestCase):
    def found(self, provider: str, model: str, *listed: str) -> str | None:
        rows = [priced(pk=n, provider=provider, model=name) for n, name in enumerate(listed, 1)]
        price = PriceBook(rows).find(provider, model, at_s=AT_S)
        return None if price is None else price.model

    def test_the_names_of_a_model(self):
        for provider, model, listed in (
            ("openai", "gpt-4o-2024-08-06", "gpt-4o"),
            ("openai", "openai/gpt-4o", "gpt-4o"),
            ("anthropic", "claude-sonnet-4-5-20250930", "claude-sonnet-4-5"),
            ("anthropic", "claude-sonnet-4-5@20250929", "claude-sonnet-4-5-20250929"),
            ("anthropic", "claude-sonnet-4-5@20250930", "claude-sonnet-4-5"),
            ("anthropic", "claude-3-5-haiku-latest", "claude-3-5-haiku"),
            ("aws", "eu.anthropic.claude-x-20250929-v1:0", "anthropic.claude-x-20250929-v1:0"),
            ("aws", "eu.anthropic.claude-x-20250929-v1:0", "claude-x"),
            ("aws", "anthropic.claude-x-20250929-v1:0", "anthropic.claude-x"),
            ("openrouter", "openai/gpt-4o:nitro", "openai/gpt-4o"),
        ):
            with self.subTest(model=model, listed=listed):
                self.assertEqual(self.found(provider, model, listed), listed)

    def test_the_nearest_name_wins(self):
        listed = ("gpt-4o", "gpt-4o-2024-08-06", "gpt-*", "*")

        self.assertEqual(self.found("openai", "gpt-4o-2024-08-06", *listed), "gpt-4o-2024-08-06")
        self.assertEqual(self.found("openai", "gpt-4o-2024-11-20", *listed), "gpt-4o")
        self.assertEqual(self.found("openai", "gpt-9", *listed), "gpt-*")
        self.assertEqual(self.found("openai", "o9", *listed), "*")
        self.assertIsNone(self.found("openai", "o9", "gpt-4o"))

    def test_a_free_model_never_has_the_price_of_the_paid_one(self):
        self.assertIsNone(self.found("openrouter", "x/y:free", "x/y"))
        self.assertEqual(self.found("openrouter", "x/y:free", "x/y", "x/y:free"), "x/y:free")
        self.assertEqual(names_of("openrouter", "x/y:free", canonical_model=lambda *_: "x/y"), [])

    def test_a_name_whose_rows_are_all_of_the_future_falls_back(self):
        later = datetime.fromtimestamp(AT_S, UTC) + timedelta(days=1)
        rows = [priced(pk=1, model="m-2024-08-06", effective_from=later), priced(pk=2, model="m")]

        self.assertEqual(PriceBook(rows).find("openai", "m-2024-08-06", at_s=AT_S).price_id, 2)

    def test_a_wildcard_is_no_model_of_the_provider(self):
        self.assertEqual(PriceBook([priced(model="gpt-*")]).models, {})


class ListedTests(TestCase):
    def test_the_rows_that_a_book_may_need_are_read(self):
        for model in ("gpt-4o", "gpt-*", "other"):
            Price.objects.create(provider="openai", model=model)
        Price.objects.create(provider="azure", model="gpt-4o")
        Price.objects.create(provider="openai", model="gpt-4o", source=Price.Source.DEPLOYMENT)

        rows = Price.objects.listed_for([("openai", "gpt-4o-2024-08-06")])

        self.assertEqual(
            {(price.provider, price.model) for price in rows}, {("openai", "gpt-4o"), ("openai", "gpt-*")}
        )


class TermsTests(SimpleTestCase):
    TERMS = read_terms(["openai:0.05", "gemini:0.1"], ["global:0.2", "openai:0.1+0.0005"])

    def test_settings_are_read(self):
        self.assertEqual(self.TERMS.discounts, {"openai": 50_000, "google": 100_000})
        self.assertEqual(
            self.TERMS.margins, {"global": Margin(200_000, 0), "openai": Margin(100_000, 500_000)}
        )
        for wrong in ("openai", "openai:x", "openai:-1", "openai:0.0000001", "openai:NaN", "openai:2"):
            with self.subTest(wrong=wrong), self.assertRaises(ValueError):
                read_terms([wrong], [])
        with self.assertRaises(ValueError):
            read_terms([], ["openai:0.1+x"])

    def test_they_are_noted_by_provider(self):
        self.assertEqual(self.TERMS.of("anthropic"), {MARGIN: 200_000})
        self.assertEqual(self.TERMS.of("openai"), {DISCOUNT: 50_000, MARGIN: 100_000, MARGIN_FIXED: 500_000})
        self.assertIsNone(Terms().of("openai"))

    def test_first_the_discount_then_the_margin(self):
        price = row(input_per_mtok_usd=Decimal(10))
        units = self.TERMS.of("openai")

        cost = cost_of(resolve(price), Usage(input_uncached=1_000), units)

        self.assertEqual(from_nano(cost), Decimal("0.01") * Decimal("0.95"))
        self.assertEqual(
            from_nano(charge_of(cost, units)), Decimal("0.0095") * Decimal("1.1") + Decimal("0.0005")
        )

    def test_an_unknown_cost_has_an_unknown_charge(self):
        self.assertIsNone(charge_of(None, self.TERMS.of("openai")))

    def test_a_reported_cost_counts_where_it_is_known_better(self):
        told = {REPORTED_COST: 5}
        listed, staffs = resolve(row(source=Price.Source.COST_MAP)), resolve(row(source=Price.Source.ADMIN))

        taken = [
            billed_units(told, provider=provider, price=price, terms=Terms())
            for provider, price in (
                ("openrouter", None), ("openrouter", listed), ("openrouter", staffs), ("openai", listed),
            )
        ]  # fmt: skip

        self.assertEqual(taken, [told, told, None, None])
        self.assertEqual(cost_of(None, Usage(input_uncached=10), told), 5)

    @override_settings(COST_DISCOUNTS=["openai:5 percent"])
    def test_a_wrong_setting_is_told_at_the_start(self):
        [error] = terms_of_providers(None)

        self.assertEqual(error.id, "billing.E006")

    def test_the_settings_are_there(self):
        self.assertEqual((settings.COST_DISCOUNTS, settings.COST_MARGINS), ([], []))


class PlaceTests(SimpleTestCase):
    def test_names_of_rates_lead_to_their_places(self):
        for name, mode, expected in (
            ("input_cost_per_token_above_200k_tokens_priority", None,
             ("input_per_mtok_usd", 200_000, "priority")),
            ("cache_creation_input_token_cost_above_1hr_above_200k_tokens", None,
             ("cache_write_1h_per_mtok_usd", 200_000, "")),
            ("cache_read_input_audio_token_cost_flex", None, ("cache_read_audio", None, "flex")),
            ("output_cost_per_image_2K", None, ("output_images:2K", None, "")),
            ("output_cost_per_second_1080p", "video_generation", ("output_video_ms:1080p", None, "")),
            ("input_cost_per_second", "audio_transcription", ("input_audio_ms", None, "")),
            ("ocr_cost_per_page_batches", None, ("pages", None, "batch")),
        ):  # fmt: skip
            with self.subTest(name=name):
                place = place_of(name, mode)
                self.assertEqual((place.name, place.above, place.service_tier), expected)
        for name in (
            "input_cost_per_second",
            "cache_creation_input_token_cost_above_12hr",
            "off_peak_pricing",
        ):
            self.assertIsNone(place_of(name, "chat"))

    def test_there_and_back_says_the_same(self):
        said = {
            "input_cost_per_token": "2.5e-06", "output_cost_per_token": "1e-05",
            "input_cost_per_token_above_200k_tokens": "5e-06", "input_cost_per_token_flex": "1.25e-06",
            "output_cost_per_token_above_200k_tokens_flex": "7e-06", "output_cost_per_image": "0.04",
            "output_cost_per_image_2K": "0.08", "ocr_cost_per_page": "0.004",
            "input_cost_per_request": "0.001", "input_cost_per_character": "1.5e-05",
            "file_search_cost_per_1k_calls": "2.5",
        }  # fmt: skip
        sheet = Sheet()
        for name, rate in said.items():
            sheet.put(place_of(name), Decimal(rate))
        sheet.put_searches({"low": Decimal("0.01"), "medium": Decimal("0.02"), "high": Decimal("0.02")})
        sheet.put_multiplier("us", Decimal("1.1"))
        price = row(**sheet.fields())

        back = names_of_rates("openai", {name: getattr(price, name) for name in PRICING_FIELDS})

        searches = back.pop("search_context_cost_per_query")
        self.assertEqual([searches[f"search_context_size_{size}"] for size in ("low", "high")],
                         [Decimal("0.01"), Decimal("0.02")])  # fmt: skip
        self.assertEqual(back.pop("provider_specific_entry"), {"us": Decimal("1.1")})
        self.assertEqual(back, {name: Decimal(rate) for name, rate in said.items()})

    def test_long_context_begins_at_the_threshold_for_xai_and_behind_it_for_others(self):
        entries = {
            f"{provider}/m": {
                "litellm_provider": provider, "mode": "chat", "input_cost_per_token": 1e-06,
                "output_cost_per_token": 0, "input_cost_per_token_above_200k_tokens": 2e-06,
            }
            for provider in ("xai", "gemini")
        }  # fmt: skip
        above = {
            price.provider: price.long_context_tiers[0]["above_prompt_tokens"]
            for price in cost_map.parse(json.dumps(entries).encode(), "here").prices
        }

        self.assertEqual(above, {"x-ai": 199_999, "google": 200_000})

    def test_the_packages_service_tiers_are_read(self):
        rows = {(each.provider, each.model): each for each in genai_prices_rows()}

        tiers = rows["openai", "gpt-5"].service_tiers
        self.assertEqual({"batch", "flex", "priority"}, set(tiers))
        self.assertEqual(tiers["flex"]["input_per_mtok_usd"], "0.625")
        for price in rows.values():
            price.clean()


_rate_texts = st.integers(0, 10**11).map(lambda nano: f"{Decimal(nano).scaleb(-9):f}")
_unit_names = st.sampled_from([*UNITS, "web_searches:high", "output_images:1K", "geo:us", "speed:fast"])
_units = st.dictionaries(_unit_names, st.integers(0, 10**6), max_size=4)
_tiers = st.sampled_from(["", "default", "flex", "priority", "batch"])
_part = st.fixed_dictionaries({}, optional=dict.fromkeys(RATE_FIELDS, _rate_texts))
_unit_rates = st.dictionaries(
    _unit_names.filter(lambda name: unit_of(name) is not None), _rate_texts, max_size=4
)
_prices = st.builds(
    lambda base, units, flex, batch, above, discount: (
        row(
            **{name: Decimal(rate) for name, rate in base.items()},
            unit_rates=units,
            long_context_tiers=[{"above_prompt_tokens": 1_000, **above}],
            service_tiers={"flex": flex, "batch": batch, "geo:us": {"multiplier": "1.1"}},
        ),
        discount,
    ),
    _part, _unit_rates, _part, _part, _part, st.integers(0, 10**6),
)  # fmt: skip
_tokens = st.one_of(st.integers(0, 20), st.integers(0, 10**6))
_usages = st.builds(Usage, *[_tokens] * (len(BUCKETS) - 1), st.integers(0, 50))


class PropertyTests(SimpleTestCase):
    @hypothesis_settings(max_examples=200, deadline=None, database=None)
    @given(made=_prices, usage=_usages, units=_units, tier=_tiers)
    def test_the_lines_add_up_to_the_cost_and_the_cost_is_never_negative(self, made, usage, units, tier):
        price, discount = made
        resolved = resolve(price)
        units = {**units, DISCOUNT: discount}

        lines = resolved.explain(usage, units, tier)

        cost = resolved.cost_nano(usage, units, tier)
        self.assertGreaterEqual(cost, 0)
        self.assertEqual(sum(line.cost_nano for line in lines), cost)
        before = sum(
            Fraction(line.rate_usd) * line.quantity / line.per for line in lines if line.bucket != DISCOUNT
        )
        self.assertEqual(cost, round(before * (10**6 - discount) / 10**6 * 10**9))

    @hypothesis_settings(max_examples=200, deadline=None, database=None)
    @given(made=_prices, usage=_usages, units=_units, tier=_tiers)
    def test_every_token_stands_in_one_line(self, made, usage, units, tier):
        lines = resolve(made[0]).explain(usage, units, tier)

        counted = dict.fromkeys(BUCKETS, 0)
        for line in lines:
            unit = unit_of(line.bucket)
            bucket = unit.part_of if unit and unit.part_of else line.bucket
            if bucket in counted:
                counted[bucket] += line.quantity
        self.assertEqual(counted, usage._asdict())

    @hypothesis_settings(max_examples=200, deadline=None, database=None)
    @given(
        made=_prices, usage=_usages, tier=_tiers, bucket=st.sampled_from(BUCKETS), more=st.integers(1, 1000)
    )
    def test_more_of_anything_never_costs_less(self, made, usage, tier, bucket, more):
        price, _ = made
        price.long_context_tiers = []  # above a threshold other rates count, lower ones too
        resolved = resolve(price)
        larger = usage._replace(**{bucket: getattr(usage, bucket) + more})

        self.assertGreaterEqual(resolved.cost_nano(larger, None, tier), resolved.cost_nano(usage, None, tier))

    @hypothesis_settings(max_examples=100, deadline=None, database=None)
    @given(made=_prices, usage=_usages, units=_units, tier=_tiers)
    def test_a_call_has_a_cost_and_lines_or_neither(self, made, usage, units, tier):
        price = resolve(made[0])

        cost, lines = cost_of(price, usage, units, tier), explain_cost(price, usage, units, tier)

        if cost is None:
            self.assertEqual(lines, [])
        else:
            self.assertEqual(sum(line.cost_nano for line in lines), cost)
