"""The catalog: which deployments serve a name, at which price, and what is missing."""

import os
from datetime import UTC, datetime
from decimal import Decimal
from unittest import mock

from django.test import SimpleTestCase, TestCase

from billing.models import Price
from billing.usage import Usage
from proxy.catalog import build_catalog, load_catalog
from proxy.models import Deployment, Upstream

NOW_S = datetime(2026, 7, 15, tzinfo=UTC).timestamp()


def make_upstream(**fields) -> Upstream:
    given = {
        "pk": 1,
        "name": "openai",
        "provider": "openai",
        "openai_base_url": "https://api.test/v1",
        **fields,
    }
    return Upstream(**given)


def make_deployment(
    number: int, model_name: str, *, upstream: Upstream | None = None, **fields
) -> Deployment:
    return Deployment(pk=number, model_name=model_name, upstream=upstream or make_upstream(), **fields)


def make_price(model: str, usd: str, **fields) -> Price:
    return Price(
        **{"pk": 1, "provider": "openai", "model": model, "input_per_mtok_usd": Decimal(usd), **fields}
    )


def served(catalog, model: str) -> list[int]:
    return [target.deployment_id for target in catalog.targets(model)]


class NameTests(SimpleTestCase):
    def test_a_name_finds_all_its_deployments_by_priority(self):
        catalog = build_catalog(
            [
                make_deployment(1, "gpt-4o", priority=1),
                make_deployment(2, "gpt-4o"),
                make_deployment(3, "other"),
            ],
            [],
        )

        self.assertEqual(served(catalog, "gpt-4o"), [2, 1])
        self.assertEqual(served(catalog, "gpt-4o-mini"), [])

    def test_a_wildcard_serves_every_name_with_its_beginning(self):
        catalog = build_catalog([make_deployment(1, "gpt-*")], [])

        self.assertEqual(
            [served(catalog, name) for name in ("gpt-4o", "gpt-", "gp", "xgpt-4o")], [[1], [1], [], []]
        )

    def test_the_longest_wildcard_counts_and_an_exact_name_before_it(self):
        deployments = [
            make_deployment(1, "*"),
            make_deployment(2, "gpt-*"),
            make_deployment(3, "gpt-4*"),
            make_deployment(4, "gpt-4o"),
        ]
        for order in (deployments, deployments[::-1]):
            catalog = build_catalog(order, [])

            found = [served(catalog, name) for name in ("claude", "gpt-3.5", "gpt-4o-mini", "gpt-4o")]

            self.assertEqual(found, [[1], [2], [3], [4]])

    def test_wildcards_are_listed_as_far_as_prices_know_them(self):
        prices = [
            make_price("gpt-4o", "1"),
            make_price("o3", "1"),
            make_price("gpt-x", "1", provider="azure"),
        ]
        catalog = build_catalog([make_deployment(1, "gpt-*"), make_deployment(2, "my-model")], prices)

        self.assertEqual(catalog.model_names(), ["gpt-4o", "my-model"])


class CredentialTests(SimpleTestCase):
    def test_a_deployment_without_its_credential_is_not_served_and_says_why(self):
        upstream = make_upstream(credential="os.environ/NO_SUCH_KEY")
        catalog = build_catalog(
            [make_deployment(1, "gpt-4o", upstream=upstream), make_deployment(2, "o3*", upstream=upstream)],
            [],
        )

        self.assertEqual(served(catalog, "gpt-4o"), [])
        for name in ("gpt-4o", "o3-mini"):
            self.assertIn("NO_SUCH_KEY", catalog.missing_credential(name))
        self.assertIsNone(catalog.missing_credential("other"))

    def test_another_one_of_that_name_serves_it(self):
        poor = make_upstream(pk=2, name="poor", credential="os.environ/NO_SUCH_KEY")
        catalog = build_catalog(
            [make_deployment(1, "gpt-4o", upstream=poor), make_deployment(2, "gpt-4o")], []
        )

        self.assertEqual(served(catalog, "gpt-4o"), [2])

    def test_references_to_the_environment_are_followed(self):
        upstream = make_upstream(credential="os.environ/A_KEY", openai_base_url="os.environ/A_URL")
        with mock.patch.dict(os.environ, {"A_KEY": "sk-found", "A_URL": "https://found.test/v1/"}):
            [target] = build_catalog([make_deployment(1, "gpt-4o", upstream=upstream)], []).targets("gpt-4o")

        self.assertEqual((target.credential, target.openai_base_url), ("sk-found", "https://found.test/v1"))

    def test_an_upstream_that_needs_none_is_served(self):
        catalog = build_catalog([make_deployment(1, "llama", upstream=make_upstream(credential=""))], [])

        self.assertEqual(served(catalog, "llama"), [1])

    def test_an_anthropic_url_may_be_given_with_or_without_its_version(self):
        for url in ("https://a.test", "https://a.test/", "https://a.test/v1", "https://a.test/v1/"):
            upstream = make_upstream(anthropic_base_url=url)
            [target] = build_catalog([make_deployment(1, "c", upstream=upstream)], []).targets("c")

            self.assertEqual(target.anthropic_base_url, "https://a.test")

    def test_a_target_shows_its_credential_to_nobody(self):
        upstream = make_upstream(credential="sk-very-secret", headers={"x-key": "header-secret"})
        catalog = build_catalog([make_deployment(1, "gpt-4o", upstream=upstream)], [])

        for shown in (repr(catalog), repr(catalog.targets("gpt-4o")[0]), repr(upstream), str(upstream)):
            self.assertNotIn("secret", shown)


class PriceTests(SimpleTestCase):
    def cost(self, catalog, model: str, asked: str | None = None) -> int | None:
        """Return what a million input tokens cost, in USD."""
        [target] = catalog.targets(model)
        price = catalog.price_of(target, asked or model, at_s=NOW_S)
        return price and price.cost_nano(Usage(input_uncached=1_000_000)) // 10**9

    def test_the_price_is_the_provider_s_of_the_upstream_model(self):
        catalog = build_catalog(
            [make_deployment(1, "gpt-*")], [make_price("gpt-4o", "2"), make_price("gpt-5", "7")]
        )

        self.assertEqual((self.cost(catalog, "gpt-4o"), self.cost(catalog, "gpt-5")), (2, 7))
        self.assertIsNone(self.cost(catalog, "gpt-unheard-of"))

    def test_an_override_goes_before_it(self):
        override = make_price("mine", "9", source=Price.Source.DEPLOYMENT)
        catalog = build_catalog(
            [make_deployment(1, "gpt-4o", price=override)], [make_price("gpt-4o", "2"), override]
        )

        self.assertEqual(self.cost(catalog, "gpt-4o"), 9)

    def test_a_base_model_names_the_price_where_the_name_does_not(self):
        catalog = build_catalog(
            [make_deployment(1, "prod-7", base_model="gpt-4o")], [make_price("gpt-4o", "2")]
        )

        self.assertEqual(self.cost(catalog, "prod-7"), 2)

    def test_a_dated_name_is_priced_as_its_model(self):
        catalog = build_catalog([make_deployment(1, "gpt-*")], [make_price("gpt-4o", "2")])

        self.assertEqual(self.cost(catalog, "gpt-4o-2024-08-06"), 2)


class LoadingTests(TestCase):
    def test_it_reads_what_is_active_in_three_queries_or_less(self):
        on = Upstream.objects.create(name="on", provider="openai", openai_base_url="https://on.test/v1")
        off = Upstream.objects.create(
            name="off", provider="openai", openai_base_url="https://off.test/v1", is_active=False
        )
        price = Price.objects.create(provider="openai", model="m", input_per_mtok_usd=Decimal(1))
        Deployment.objects.create(model_name="served", upstream=on, price=price)
        Deployment.objects.create(model_name="switched-off", upstream=on, is_active=False)
        Deployment.objects.create(model_name="of-a-dead-upstream", upstream=off)

        with self.assertNumQueries(2):
            catalog = load_catalog()

        self.assertEqual(list(catalog.exact), ["served"])
