"""From usage to cost. Expected amounts are written as sums; rates are USD per million tokens."""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

from django.core.exceptions import ValidationError
from django.test import SimpleTestCase
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.models import Price
from billing.models.price import RATE_FIELDS
from billing.prices.pricing import PriceBook, ResolvedPrice, resolve
from billing.usage import BUCKETS, Usage
from customers.money import from_nano

M = 1_000_000
NANO = Decimal("0.000000001")
NOON_S = datetime(2026, 7, 15, 12, tzinfo=UTC).timestamp()


def make_price(*, tiers=(), **rates: str) -> ResolvedPrice:
    """Return a price; rates by the beginning of their names: `input="2.50"`."""
    return resolve(_row(long_context_tiers=list(tiers), **_named(rates)))


def _named(rates):
    names = {name.removesuffix("_per_mtok_usd").removesuffix("_usd"): name for name in RATE_FIELDS}
    return {names[name]: Decimal(rate) for name, rate in rates.items()}


def _row(**fields) -> Price:
    return Price(**{"pk": 1, "provider": "openai", "model": "gpt-4o", **fields})


def _listed(**fields) -> Price:
    return _row(**{"input_per_mtok_usd": Decimal(1), **fields})


def usd(nano: int) -> Decimal:
    return from_nano(nano)


class ArithmeticTests(SimpleTestCase):
    def test_input_and_output(self):
        price = make_price(input="2.50", output="10")

        cost = price.cost_nano(Usage(input_uncached=1_000, output_text=200))

        self.assertEqual(usd(cost), Decimal("2.50") * 1_000 / M + Decimal(10) * 200 / M)

    def test_the_example_of_the_contract(self):
        # claude-sonnet-4-5: contract 10.3
        price = make_price(
            input="3", cache_read="0.30", cache_write_5m="3.75", cache_write_1h="6", output="15"
        )
        usage = Usage(input_uncached=300, cache_write_5m=200, cache_read=1_000, output_text=220)

        cost = price.cost_nano(usage)

        expected = (3 * 300 + Decimal("0.30") * 1_000 + Decimal("3.75") * 200 + 15 * 220) / M
        self.assertEqual(usd(cost), expected)
        self.assertEqual(expected, Decimal("0.00525"))

    def test_every_bucket_has_a_rate_of_its_own(self):
        rates = {
            "input": "1", "cache_read": "2", "cache_write_5m": "3", "cache_write_1h": "5", "output": "7",
            "reasoning": "11", "input_audio": "13", "output_audio": "17", "input_image": "19",
            "output_image": "23", "per_web_search": "0.01", "per_request": "0.001",
        }  # fmt: skip
        price = make_price(**rates)
        of_bucket = dict(zip(BUCKETS, rates.values(), strict=False))

        for bucket in BUCKETS[:-1]:
            with self.subTest(bucket=bucket):
                cost = price.cost_nano(Usage(**{bucket: 1_000}))

                self.assertEqual(usd(cost), Decimal(of_bucket[bucket]) * 1_000 / M + Decimal("0.001"))
        searches = price.cost_nano(Usage(web_searches=3))
        self.assertEqual(usd(searches), 3 * Decimal("0.01") + Decimal("0.001"))

    def test_a_price_per_request_counts_once_also_without_tokens(self):
        price = make_price(per_request="0.005")

        self.assertEqual(usd(price.cost_nano(Usage())), Decimal("0.005"))
        self.assertEqual(usd(price.cost_nano(Usage(input_uncached=10**9))), Decimal("0.005"))

    def test_nothing_used_costs_nothing(self):
        self.assertEqual(make_price(input="3", output="15").cost_nano(Usage()), 0)

    def test_great_numbers_stay_exact(self):
        price = make_price(input="0.000000001", output="99999999999.999999999")

        cost = price.cost_nano(Usage(input_uncached=10**15, output_text=M))

        self.assertEqual(usd(cost), Decimal("0.000000001") * 10**15 / M + Decimal("99999999999.999999999"))


class RoundingTests(SimpleTestCase):
    """Once, half even, to the nano-dollar. A rate of 0.0005 USD per million is half a nano-dollar a token."""

    def test_half_a_nano_dollar_goes_to_the_even_one(self):
        price = make_price(input="0.0005")

        costs = [price.cost_nano(Usage(input_uncached=tokens)) for tokens in (1, 2, 3, 4, 5, 7)]

        self.assertEqual(costs, [0, 1, 2, 2, 2, 4])  # 0.5 → 0, 1.5 → 2, 2.5 → 2, 3.5 → 4

    def test_a_little_more_or_less_than_half_goes_to_the_nearest(self):
        self.assertEqual(make_price(input="0.000499999").cost_nano(Usage(input_uncached=1)), 0)
        self.assertEqual(make_price(input="0.000500001").cost_nano(Usage(input_uncached=1)), 1)

    def test_buckets_are_added_before_they_are_rounded(self):
        price = make_price(input="0.0004", output="0.0004", reasoning="0.0004")

        cost = price.cost_nano(Usage(input_uncached=1, output_text=1, reasoning=1))

        self.assertEqual(cost, 1)  # 0.4 + 0.4 + 0.4 = 1.2, not 0 + 0 + 0


class StandInTests(SimpleTestCase):
    def test_a_rate_that_is_not_given_is_stood_in_for(self):
        price = make_price(input="3", output="15")
        by_input = ("cache_read", "cache_write_5m", "cache_write_1h", "input_audio", "input_image")
        by_output = ("reasoning", "output_audio", "output_image")

        for buckets, rate in ((by_input, 3), (by_output, 15)):
            for bucket in buckets:
                with self.subTest(bucket=bucket):
                    self.assertEqual(
                        usd(price.cost_nano(Usage(**{bucket: 1_000}))), Decimal(rate) * 1_000 / M
                    )

    def test_an_hour_of_cache_is_stood_in_for_by_five_minutes(self):
        price = make_price(input="3", cache_write_5m="3.75")

        self.assertEqual(usd(price.cost_nano(Usage(cache_write_1h=1_000))), Decimal("3.75") * 1_000 / M)

    def test_an_explicit_zero_is_a_price(self):
        price = make_price(
            input="3", cache_read="0", cache_write_5m="0", output="15", reasoning="0", output_audio="0"
        )

        for bucket in ("cache_read", "cache_write_5m", "cache_write_1h", "reasoning", "output_audio"):
            with self.subTest(bucket=bucket):
                self.assertEqual(price.cost_nano(Usage(**{bucket: M})), 0)

    def test_searches_and_requests_have_no_stand_in(self):
        self.assertEqual(make_price(input="3", output="15").cost_nano(Usage(web_searches=5)), 0)


class TierTests(SimpleTestCase):
    TIER = {"above_prompt_tokens": 200_000, "input_per_mtok_usd": "6", "output_per_mtok_usd": "22.5"}

    def test_above_the_threshold_the_whole_call_has_the_higher_rate(self):
        price = make_price(input="3", output="15", tiers=[self.TIER])

        at = price.cost_nano(Usage(input_uncached=200_000, output_text=1_000))
        above = price.cost_nano(Usage(input_uncached=200_001, output_text=1_000))

        self.assertEqual(usd(at), (3 * Decimal(200_000) + 15 * 1_000) / M)
        self.assertEqual(usd(above), (6 * Decimal(200_001) + Decimal("22.5") * 1_000) / M)

    def test_all_prompt_tokens_decide_and_no_others(self):
        price = make_price(input="3", output="15", tiers=[self.TIER])
        prompt = (
            "input_uncached",
            "cache_read",
            "cache_write_5m",
            "cache_write_1h",
            "input_audio",
            "input_image",
        )

        for bucket in prompt:
            with self.subTest(bucket=bucket):
                usage = Usage(**{bucket: 200_001})
                self.assertEqual(usd(price.cost_nano(usage)), 6 * Decimal(200_001) / M)
        both = Usage(input_uncached=150_000, cache_read=50_001)
        self.assertEqual(usd(price.cost_nano(both)), 6 * Decimal(200_001) / M)
        output = Usage(output_text=10**9)
        self.assertEqual(usd(price.cost_nano(output)), 15 * Decimal(10**9) / M)

    def test_a_rate_that_a_tier_leaves_out_stays_the_base_rate(self):
        price = make_price(
            input="3",
            cache_read="0.30",
            output="15",
            tiers=[{"above_prompt_tokens": 10, "input_per_mtok_usd": "6"}],
        )

        cost = price.cost_nano(Usage(input_uncached=100, cache_read=100, output_text=100))

        self.assertEqual(usd(cost), (6 * 100 + Decimal("0.30") * 100 + 15 * 100) / M)

    def test_a_stand_in_follows_the_tier(self):
        price = make_price(input="3", output="15", tiers=[self.TIER])

        cost = price.cost_nano(Usage(cache_read=200_000, cache_write_1h=1, reasoning=10))

        self.assertEqual(usd(cost), (6 * Decimal(200_001) + Decimal("22.5") * 10) / M)

    def test_of_several_tiers_the_highest_that_is_crossed_counts(self):
        tiers = [
            {"above_prompt_tokens": above, "input_per_mtok_usd": rate}
            for above, rate in ((10, "2"), (20, "4"))
        ]
        price = make_price(input="1", tiers=tiers)

        costs = [usd(price.cost_nano(Usage(input_uncached=tokens))) for tokens in (10, 11, 20, 21)]

        self.assertEqual(
            costs, [Decimal(1) * 10 / M, Decimal(2) * 11 / M, Decimal(2) * 20 / M, Decimal(4) * 21 / M]
        )

    def test_tiers_are_sorted_and_checked_where_staff_enters_them(self):
        price = _row(
            input_per_mtok_usd=Decimal(1),
            long_context_tiers=[
                {"above_prompt_tokens": "20", "input_per_mtok_usd": 4},
                {"above_prompt_tokens": 10, "input_per_mtok_usd": "2"},
            ],
        )

        price.clean()

        self.assertEqual([tier["above_prompt_tokens"] for tier in price.long_context_tiers], [10, 20])
        for wrong in (
            [{}],
            [{"above_prompt_tokens": "many"}],
            ["x"],
            5,
            [{"above_prompt_tokens": 1, "input_per_mtok_usd": "x"}],
        ):
            price.long_context_tiers = wrong
            with self.assertRaises(ValidationError):
                price.clean()


class ExplainTests(SimpleTestCase):
    def test_each_line_is_quantity_times_rate(self):
        price = make_price(
            input="3", cache_read="0.30", output="15", per_web_search="0.01", per_request="0.002"
        )

        lines = price.explain(Usage(input_uncached=1_000, cache_read=500, output_text=200, web_searches=2))

        self.assertEqual(
            [(line.bucket, line.quantity, line.rate_usd, line.per, usd(line.cost_nano)) for line in lines],
            [
                ("input_uncached", 1_000, Decimal(3), M, Decimal(3) * 1_000 / M),
                ("cache_read", 500, Decimal("0.30"), M, Decimal("0.30") * 500 / M),
                ("output_text", 200, Decimal(15), M, Decimal(15) * 200 / M),
                ("web_searches", 2, Decimal("0.01"), 1, 2 * Decimal("0.01")),
                ("request", 1, Decimal("0.002"), 1, Decimal("0.002")),
            ],
        )

    def test_three_parts_of_less_than_half_show_the_one_that_they_cost(self):
        price = make_price(input="0.0004", output="0.0004", reasoning="0.0004")
        usage = Usage(input_uncached=1, output_text=1, reasoning=1)

        shown = [line.cost_nano for line in price.explain(usage)]

        self.assertEqual(sorted(shown), [0, 0, 1])


_rates = st.one_of(st.none(), st.integers(0, 10**12).map(lambda nano: Decimal(nano).scaleb(-9)))
_tokens = st.one_of(st.integers(0, 20), st.integers(0, 10**7))


@st.composite
def _prices(draw):
    rates = {name: draw(_rates) for name in RATE_FIELDS}
    tiers = [
        {
            "above_prompt_tokens": above,
            **{name: str(rate) for name in RATE_FIELDS if (rate := draw(_rates)) is not None},
        }
        for above in sorted(draw(st.sets(st.integers(0, 10**6), max_size=2)))
    ]
    return _row(long_context_tiers=tiers, **rates)


_usages = st.builds(Usage, *[_tokens] * (len(BUCKETS) - 1), st.integers(0, 50))


class PropertyTests(SimpleTestCase):
    @settings(max_examples=200, deadline=None, database=None)
    @given(price=_prices(), usage=_usages)
    def test_the_parts_of_an_explanation_add_up_to_the_cost(self, price, usage):
        resolved = resolve(price)

        lines = resolved.explain(usage)

        self.assertEqual(sum(line.cost_nano for line in lines), resolved.cost_nano(usage))
        for line in lines:
            exact = Fraction(line.rate_usd) * line.quantity / line.per * 10**9
            self.assertLess(abs(line.cost_nano - exact), 1)

    @settings(max_examples=200, deadline=None, database=None)
    @given(price=_prices(), usage=_usages)
    def test_the_cost_is_the_plain_sum_rounded_once(self, price, usage):
        cost = resolve(price).cost_nano(usage)

        self.assertGreaterEqual(cost, 0)
        self.assertEqual(cost, _by_the_book(price, usage))

    @settings(max_examples=100, deadline=None, database=None)
    @given(price=_prices(), usage=_usages, bucket=st.sampled_from(BUCKETS[:-1]))
    def test_a_token_is_billed_in_one_bucket_only(self, price, usage, bucket):
        price.long_context_tiers = []
        resolved = resolve(price)
        more = usage._replace(**{bucket: getattr(usage, bucket) + M})

        added = resolved.cost_nano(more) - resolved.cost_nano(usage)

        self.assertEqual(added, _rate_of(price, {}, bucket) * 10**9)

    @settings(max_examples=200, deadline=None, database=None)
    @given(price=_prices(), input_tokens=_tokens, output_tokens=_tokens)
    def test_the_short_cut_for_estimates_is_the_same_arithmetic(self, price, input_tokens, output_tokens):
        resolved = resolve(price)

        estimate = resolved.estimate_nano(input_tokens, output_tokens)

        self.assertEqual(
            estimate, resolved.cost_nano(Usage(input_uncached=input_tokens, output_text=output_tokens))
        )


def _by_the_book(price: Price, usage: Usage) -> int:
    """Work the cost out in decimals, as the documentation says it."""
    tier = {}
    for row in price.long_context_tiers:
        if usage.prompt_tokens > row["above_prompt_tokens"]:
            tier = row
    usd_exact = sum(
        (
            Fraction(_rate_of(price, tier, bucket)) * count / M
            for bucket, count in zip(BUCKETS[:-1], usage, strict=False)
        ),
        Fraction(0),
    )
    usd_exact += Fraction(_given(price, tier, "per_web_search_usd") or 0) * usage.web_searches
    usd_exact += Fraction(_given(price, tier, "per_request_usd") or 0)
    return round(usd_exact * 10**9)  # of a Fraction: half even


def _rate_of(price: Price, tier: dict, bucket: str) -> Decimal:
    by_input = ("cache_read", "cache_write_5m", "input_audio", "input_image")
    stand_ins = {
        **dict.fromkeys(by_input, "input_uncached"),
        **dict.fromkeys(("reasoning", "output_audio", "output_image"), "output_text"),
        "cache_write_1h": "cache_write_5m",
    }
    names = {"input_uncached": "input", "output_text": "output"}
    rate = _given(price, tier, f"{names.get(bucket, bucket)}_per_mtok_usd")
    if rate is not None:
        return rate
    return _rate_of(price, tier, stand_ins[bucket]) if bucket in stand_ins else Decimal(0)


def _given(price: Price, tier: dict, name: str) -> Decimal | None:
    return Decimal(tier[name]) if name in tier else getattr(price, name)


class PriceBookTests(SimpleTestCase):
    def test_the_latest_row_that_is_in_force_counts(self):
        day = timedelta(days=1)
        noon = datetime.fromtimestamp(NOON_S, UTC)
        rows = [
            _listed(pk=1, input_per_mtok_usd=Decimal(1)),
            _listed(pk=2, input_per_mtok_usd=Decimal(2), effective_from=noon - day),
            _listed(pk=3, input_per_mtok_usd=Decimal(3), effective_from=noon),
        ]
        book = PriceBook(rows)

        found = [book.find("openai", "gpt-4o", at_s=NOON_S + s).price_id for s in (-2 * 86_400, -1, 0, 1)]

        self.assertEqual(found, [1, 2, 3, 3])

    def test_what_staff_entered_goes_before_what_was_loaded(self):
        later = datetime.fromtimestamp(NOON_S, UTC)
        rows = [
            _listed(pk=1, source=Price.Source.ADMIN),
            _listed(pk=2, source=Price.Source.COST_MAP, effective_from=later),
            _listed(pk=3, source=Price.Source.GENAI_PRICES, effective_from=later),
        ]

        self.assertEqual(PriceBook(rows).find("openai", "gpt-4o", at_s=NOON_S).price_id, 1)
        self.assertEqual(PriceBook(rows[1:]).find("openai", "gpt-4o", at_s=NOON_S).price_id, 2)

    def test_staff_s_price_of_next_month_leaves_this_month_as_it_was(self):
        noon = datetime.fromtimestamp(NOON_S, UTC)
        rows = [
            _listed(pk=1, source=Price.Source.GENAI_PRICES),
            _listed(pk=2, source=Price.Source.ADMIN, effective_from=noon + timedelta(days=30)),
        ]

        self.assertEqual(PriceBook(rows).find("openai", "gpt-4o", at_s=NOON_S).price_id, 1)

    def test_the_override_of_a_deployment_is_no_price_for_others(self):
        book = PriceBook([_listed(source=Price.Source.DEPLOYMENT)])

        self.assertIsNone(book.find("openai", "gpt-4o", at_s=NOON_S))
        self.assertEqual(book.models, {})

    def test_a_row_without_a_rate_is_no_price_of_0(self):
        self.assertIsNone(PriceBook([_row()]).find("openai", "gpt-4o", at_s=NOON_S))

    def test_a_model_that_is_not_listed_has_no_price(self):
        book = PriceBook([_listed()])

        self.assertIsNone(book.find("openai", "gpt-5", at_s=NOON_S))
        self.assertIsNone(book.find("azure", "gpt-4o", at_s=NOON_S))

    def test_a_dated_name_is_found_under_its_canonical_one_and_asked_for_once(self):
        asked = []

        def canonical(provider, model):
            asked.append(model)
            return "gpt-4o" if model.startswith("gpt-4o-") else None

        book = PriceBook([_listed()], canonical_model=canonical)

        for _ in range(3):
            self.assertEqual(book.find("openai", "gpt-4o-2024-08-06", at_s=NOON_S).price_id, 1)
            self.assertIsNone(book.find("openai", "unheard-of", at_s=NOON_S))
        self.assertEqual(asked, ["gpt-4o-2024-08-06", "gpt-4o", "unheard-of"])

    def test_names_that_callers_make_up_do_not_fill_the_memory(self):
        book = PriceBook([_listed()], canonical_model=lambda provider, model: None)

        for i in range(10_100):
            book.find("openai", f"made-up-{i}", at_s=NOON_S)

        self.assertLess(len(book._names), 10_002)


class DecimalTests(SimpleTestCase):
    def test_half_even_means_the_same_as_in_decimal(self):
        price = make_price(input="0.0005")

        for tokens in range(200):
            exact = Decimal("0.0005") * tokens / M
            self.assertEqual(
                usd(price.cost_nano(Usage(input_uncached=tokens))), exact.quantize(NANO, ROUND_HALF_EVEN)
            )
