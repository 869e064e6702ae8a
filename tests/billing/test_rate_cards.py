"""Rate cards: what a customer pays is in every row, total, rollup and period, and its budget enforces it."""

from decimal import Decimal

from django.test import SimpleTestCase, TestCase

from billing.booking.records import interrupted
from billing.models import Price
from billing.prices.pricing import resolve
from billing.prices.rate_cards import Card, card_of, charge_nano, load_rate_cards
from billing.usage import Usage
from customers.models import AuditLog, Customer, RateCard
from tests.billing.making import NOON, make_opened, make_sent
from tests.customers.calling import ApiTestCase

USAGE = Usage(input_uncached=1_000, output_text=200)
COST = 6_000_000  # nano-dollars: 3 and 15 USD per million


def own_price(card: RateCard | None = None, **fields) -> Price:
    rates = {"input_per_mtok_usd": Decimal(5), "output_per_mtok_usd": Decimal(20), **fields}
    return Price(provider="openai", model="gpt-4o", source="deployment", rate_card=card, **rates)


class ChargeTests(SimpleTestCase):
    def test_a_multiplier_takes_the_place_of_the_margin(self):
        for multiplier, charge in (("1.2", 7_200_000), ("0.9", 5_400_000), ("0", 0), ("1", COST)):
            card = card_of(RateCard(multiplier=Decimal(multiplier)), ())
            units = card.noted({"margin_ppm": 500_000, "margin_nano": 7, "queries": 1}, None)
            self.assertEqual(charge_nano(COST, None, USAGE, units), charge, multiplier)
            self.assertEqual(units["queries"], 1)

    def test_it_is_rounded_once_half_even(self):
        units = Card(-500_000).noted(None, None)

        self.assertEqual([charge_nano(cost, None, USAGE, units) for cost in (1, 3, 5)], [0, 2, 2])

    def test_an_own_price_counts_instead_without_multiplier_or_discount(self):
        own = resolve(own_price())
        units = Card(200_000).noted({"discount_ppm": 100_000, "reported_cost_nano": 9}, own)

        self.assertNotIn("margin_ppm", units)
        self.assertEqual(charge_nano(COST, own, USAGE, units), 5 * 1_000_000 + 20 * 200_000)

    def test_an_own_price_that_says_nothing_of_what_was_used_does_not_count(self):
        own = resolve(own_price())
        units = {"input_audio_ms": 1_000}

        self.assertEqual(charge_nano(COST, own, Usage(), units), COST)

    def test_an_unpriced_call_has_no_charge(self):
        self.assertIsNone(charge_nano(None, resolve(own_price()), USAGE, None))

    def test_an_interrupted_call_is_charged_by_the_card_that_it_noted(self):
        opened = make_opened()
        sent = make_sent(opened, estimate_charge_nano=300_000_000, units={"margin_ppm": 200_000})

        closed = interrupted(opened, sent, at_us=opened.started_us)

        self.assertEqual((closed.cost_nano, closed.charge_nano), (250_000_000, 300_000_000))
        self.assertEqual(closed.units, {"margin_ppm": 200_000})

    def test_records_of_an_older_journal_are_charged_their_cost(self):
        opened = make_opened()

        closed = interrupted(opened, make_sent(opened), at_us=opened.started_us)

        self.assertEqual(closed.charge_nano, closed.cost_nano)


class CardTests(TestCase):
    def test_own_prices_are_dated_and_of_their_card_alone(self):
        one, other = RateCard.objects.create(name="one"), RateCard.objects.create(name="other")
        first = own_price(one)
        later = own_price(one, effective_from=NOON, input_per_mtok_usd=Decimal(4))
        first.save()
        later.save()

        cards = load_rate_cards()
        at_s = NOON.timestamp()

        self.assertEqual(cards[one.pk].own_price("openai", "gpt-4o", at_s=at_s - 1).price_id, first.pk)
        self.assertEqual(cards[one.pk].own_price("openai", "gpt-4o-2024-08-06", at_s=at_s).price_id, later.pk)
        self.assertIsNone(cards[other.pk].own_price("openai", "gpt-4o", at_s=at_s))
        self.assertIsNone(cards[one.pk].own_price("anthropic", "gpt-4o", at_s=at_s))

    def test_own_prices_are_in_no_price_list(self):
        card = RateCard.objects.create(name="one")
        own_price(card).save()

        self.assertFalse(Price.objects.listed_for([("openai", "gpt-4o")]).exists())


class ApiTests(ApiTestCase):
    def test_a_card_is_given_changed_shown_and_taken_away(self):
        RateCard.objects.create(name="resellers", multiplier=Decimal("0.9"))

        made = self.post("/customer/new", {"user_id": "acme", "rate_card": "resellers"})
        self.assertEqual(made["rate_card"], "resellers")
        self.post("/customer/update", {"user_id": "acme", "alias": "Acme"})
        self.assertEqual(Customer.objects.get().rate_card.name, "resellers")
        self.assertEqual(list(Customer.objects.exceptional()), [Customer.objects.get()])
        gone = self.post("/customer/update", {"user_id": "acme", "rate_card": None})

        self.assertIsNone(gone["rate_card"])
        self.assertTrue(AuditLog.objects.filter(kind="customers.customer").exists())

    def test_a_card_that_there_is_not_is_refused_by_name(self):
        response = self.send("POST", "/customer/new", {"user_id": "acme", "rate_card": "gold"})

        self.assertEqual(response.status_code, 404, response.content)
        self.assertIn("gold", response.json()["error"]["message"])
        self.assertFalse(Customer.objects.exists())
