"""What config.yaml does to the database, and that its models serve calls."""

import io
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from unittest import mock

import httpx
import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from billing.installation import installation_id
from billing.models import Price
from customers.models import AuditLog, Budget, Change, GatewayLimits, Tag
from proxy.catalog import build_catalog, load_catalog
from proxy.configuration.entries import read_entries
from proxy.configuration.plan import apply, make_plan
from proxy.models import Deployment, Upstream
from spendproject.config_file import BadConfig
from tests.gateway import GatewayProcess
from tests.provider.process import PROJECT_ROOT
from tests.test_config_file import RATE_LIMITS, load

NOON = datetime(2026, 7, 15, 12, tzinfo=UTC)
KEYS = {
    "OPENAI_API_KEY": "sk-o",
    "XAI_API_KEY": "sk-x",
    "AZURE_API_KEY": "sk-az",
    "ANTHROPIC_API_KEY": "sk-an",
}
_ADDRESSES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE")

TWO_OF_ONE_NAME = """
model_list:
  - model_name: fast
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/OPENAI_API_KEY, weight: 3}
    model_info: {id: one}
  - model_name: fast
    litellm_params: {model: xai/grok-code-fast-1, order: 1, input_cost_per_token: 0.0000002,
                     output_cost_per_token: 1.5e-06}
"""


class EnvironmentMixin:
    """Credentials in the environment, and no addresses of somebody else's."""

    def setUp(self):
        super().setUp()
        patch = mock.patch.dict(os.environ, KEYS)
        patch.start()
        self.addCleanup(patch.stop)
        for name in _ADDRESSES:
            os.environ.pop(name, None)


class ConfigurationTestCase(EnvironmentMixin, TestCase):
    def apply(self, text: str) -> list[str]:
        """Apply a file with this text; return what was changed, a line for each row."""
        return [str(change) for change in apply(load(self, text), at=NOON).changes]

    def warnings(self, text: str) -> list[str]:
        return make_plan(load(self, text), at=NOON).warnings


def one_model(params: str, *, name: str = "m", info: str = "{}") -> str:
    return f"model_list: [{{model_name: '{name}', litellm_params: {{{params}}}, model_info: {info}}}]"


class ModelTests(ConfigurationTestCase):
    def test_an_entry_is_a_deployment_at_an_upstream(self):
        self.apply(TWO_OF_ONE_NAME)

        first, second = Deployment.objects.select_related("upstream", "price").order_by("pk")
        self.assertEqual(
            (
                first.model_name,
                first.upstream_model,
                first.weight,
                first.priority,
                first.public_id,
                first.price,
            ),
            ("fast", "gpt-4o-mini", 3, 0, "one", None),
        )
        self.assertEqual(
            (first.upstream.name, first.upstream.provider, first.upstream.openai_base_url),
            ("openai (config)", "openai", "https://api.openai.com/v1"),
        )
        self.assertEqual((second.upstream_model, second.weight, second.priority), ("grok-code-fast-1", 1, 1))
        self.assertEqual(
            (second.upstream.provider, second.upstream.credential), ("x-ai", "os.environ/XAI_API_KEY")
        )
        self.assertEqual({first.source, second.source, first.upstream.source}, {"config"})

    def test_rates_are_the_deployment_s_own_price(self):
        self.apply(TWO_OF_ONE_NAME)

        price = Deployment.objects.get(upstream__provider="x-ai").price
        self.assertEqual(price.source, Price.Source.DEPLOYMENT)
        self.assertEqual(price.input_per_mtok_usd, Decimal("0.0000002") * 1_000_000)
        self.assertEqual(price.output_per_mtok_usd, Decimal("0.0000015") * 1_000_000)

    def test_all_kinds_of_rates_are_read(self):
        self.apply(
            one_model(
                "model: openai/x, input_cost_per_token: '3e-06', output_cost_per_token: 1.5e-05, "
                "cache_read_input_token_cost: 3e-7, cache_creation_input_token_cost: 0.00000375, "
                "cache_creation_input_token_cost_above_1hr: 6e-06, output_cost_per_reasoning_token: 2e-05, "
                "input_cost_per_token_above_200k_tokens: 6e-06, "
                "output_cost_per_token_above_200k_tokens: 2.25e-05, input_cost_per_audio_token: 1e-05, "
                "search_context_cost_per_query: {search_context_size_medium: 0.01}",
                info="{output_cost_per_image_token: 0.00004}",
            )
        )

        price = Price.objects.get(source="deployment")
        self.assertEqual(
            {
                name: getattr(price, name)
                for name in (
                    "input_per_mtok_usd", "output_per_mtok_usd", "cache_read_per_mtok_usd",
                    "cache_write_5m_per_mtok_usd", "cache_write_1h_per_mtok_usd", "reasoning_per_mtok_usd",
                    "input_audio_per_mtok_usd", "output_image_per_mtok_usd", "per_web_search_usd",
                )
            },
            {
                "input_per_mtok_usd": Decimal(3),
                "output_per_mtok_usd": Decimal(15),
                "cache_read_per_mtok_usd": Decimal("0.3"),
                "cache_write_5m_per_mtok_usd": Decimal("3.75"),
                "cache_write_1h_per_mtok_usd": Decimal(6),
                "reasoning_per_mtok_usd": Decimal(20),
                "input_audio_per_mtok_usd": Decimal(10),
                "output_image_per_mtok_usd": Decimal(40),
                "per_web_search_usd": Decimal("0.01"),
            },
        )  # fmt: skip
        [tier] = price.long_context_tiers
        self.assertEqual(tier["above_prompt_tokens"], 200_000)
        self.assertEqual(Decimal(tier["input_per_mtok_usd"]), Decimal(6))
        self.assertEqual(Decimal(tier["output_per_mtok_usd"]), Decimal("22.5"))

    def test_half_a_price_is_filled_from_the_list_and_told(self):
        Price.objects.create(
            provider="openai", model="gpt-4o-mini", input_per_mtok_usd=9, output_per_mtok_usd="0.6"
        )
        text = one_model("model: openai/gpt-4o-mini, input_cost_per_token: 0.00000015")

        [warning] = self.warnings(text)
        self.apply(text)

        price = Price.objects.get(source="deployment")
        self.assertEqual(
            (price.input_per_mtok_usd, price.output_per_mtok_usd), (Decimal("0.15"), Decimal("0.6"))
        )
        self.assertIn("output_cost_per_token is taken from the list, 0.6 USD", warning)

    def test_half_a_price_that_nothing_fills_is_told(self):
        [warning] = self.warnings(one_model("model: openai/unheard-of, input_cost_per_token: 1e-06"))

        self.assertIn("these tokens count as free", warning)

    def test_an_embedding_needs_no_rate_of_output(self):
        text = one_model("model: openai/unheard-of, input_cost_per_token: 1e-06", info="{mode: embedding}")

        self.assertEqual(self.warnings(text), [])

    def test_a_rate_that_has_no_place_here_is_named(self):
        [warning] = self.warnings(one_model("model: openai/whisper-1, input_cost_per_second: 0.0001"))

        self.assertIn("input_cost_per_second", warning)

    def test_litellm_s_example_is_served_at_its_prices(self):
        Price.objects.create(
            provider="azure", model="gpt-4o-mini", input_per_mtok_usd=1, output_per_mtok_usd=2
        )
        self.apply(
            one_model(
                "model: azure/my-deployment, api_base: 'https://x.openai.azure.com/', "
                "api_version: '2024-02-01'",
                name="azure-gpt",
                info="{id: prod-mini, base_model: azure/gpt-4o-mini}",
            )
        )

        [target] = load_catalog().targets("azure-gpt")
        self.assertEqual(target.openai_base_url, "https://x.openai.azure.com/openai/v1")
        self.assertEqual((target.upstream_model, target.credential), ("my-deployment", "sk-az"))
        price = load_catalog().price_of(target, "my-deployment", at_s=NOON.timestamp())
        self.assertEqual(price.base.per_mtok[0], 1_000_000_000)

    def test_upstreams_are_told_apart_by_provider_address_and_credential(self):
        self.apply(
            "model_list:\n"
            "- {model_name: a, litellm_params: {model: openai/a, api_key: sk-1}}\n"
            "- {model_name: b, litellm_params: {model: openai/b, api_key: sk-1}}\n"
            "- {model_name: c, litellm_params: {model: openai/c, api_key: sk-2}}\n"
            "- {model_name: d, litellm_params: {model: openai/d, api_key: sk-1, api_base: 'http://h/v1'}}\n"
        )

        served = {row.model_name: row.upstream.name for row in Deployment.objects.select_related("upstream")}
        self.assertEqual(
            served,
            {
                "a": "openai (config)",
                "b": "openai (config)",
                "c": "openai (config 2)",
                "d": "openai (config 3)",
            },
        )

    def test_a_key_of_the_environment_goes_to_the_provider_s_own_address_only(self):
        self.apply(
            "model_list:\n"
            "- {model_name: a, litellm_params: {model: openai/a}}\n"
            "- {model_name: b, litellm_params: {model: openai/b, api_base: 'http://elsewhere/v1'}}\n"
        )

        credentials = dict(Upstream.objects.values_list("openai_base_url", "name"))
        by_url = {row.openai_base_url: row.credential for row in Upstream.objects.all()}
        self.assertEqual(len(credentials), 2)
        self.assertEqual(
            by_url, {"https://api.openai.com/v1": "os.environ/OPENAI_API_KEY", "http://elsewhere/v1": ""}
        )

    def test_references_stay_references(self):
        with mock.patch.dict(
            os.environ, {"MY_KEY": "sk-mine", "MY_BASE": "http://mine/v1", "MY_TEAM": "team"}
        ):
            self.apply(
                one_model(
                    "model: openai/x, api_key: os.environ/MY_KEY, api_base: os.environ/MY_BASE, "
                    "extra_headers: {X-Team: os.environ/MY_TEAM}"
                )
            )
            [target] = load_catalog().targets("m")

        upstream = Upstream.objects.get()
        self.assertEqual(
            (upstream.credential, upstream.openai_base_url, upstream.headers),
            ("os.environ/MY_KEY", "os.environ/MY_BASE", {"X-Team": "os.environ/MY_TEAM"}),
        )
        self.assertEqual((target.credential, target.openai_base_url), ("sk-mine", "http://mine/v1"))
        self.assertEqual(target.headers, ((b"x-team", b"team"),))

    def test_a_server_of_ones_own_is_found_where_it_is(self):
        for params, url in (
            ("model: ollama/llama3", "http://localhost:11434/v1"),
            ("model: ollama_chat/llama3, api_base: 'http://box:11434'", "http://box:11434/v1"),
            ("model: hosted_vllm/q, api_base: 'http://vllm:8000/v1/'", "http://vllm:8000/v1"),
            ("model: my-own, api_base: 'http://h:1/v1'", "http://h:1/v1"),
        ):
            with self.subTest(params):
                [entry], _ = read_entries(load(self, one_model(params)))

                self.assertEqual((entry.upstream.openai_base_url, entry.upstream.credential), (url, ""))

    def test_anthropic_is_called_in_its_own_form(self):
        [entry], _ = read_entries(load(self, one_model("model: claude-sonnet-4-5")))

        self.assertEqual(
            (entry.upstream.openai_base_url, entry.upstream.anthropic_base_url, entry.upstream.credential),
            ("", "https://api.anthropic.com", "os.environ/ANTHROPIC_API_KEY"),
        )

    def test_a_provider_that_cannot_be_called_is_named_and_the_rest_is_served(self):
        text = (
            "model_list:\n"
            "- model_name: a\n"
            "  litellm_params: {model: bedrock/anthropic.claude, aws_secret_access_key: hidden-word}\n"
            "- {model_name: b, litellm_params: {model: mystery}}\n"
            "- {model_name: c, litellm_params: {model: openai/c}}\n"
        )

        warnings = self.warnings(text)
        self.apply(text)

        self.assertEqual(list(Deployment.objects.values_list("model_name", flat=True)), ["c"])
        self.assertIn("'bedrock' is not supported", warnings[0])
        self.assertIn("no provider is named", warnings[1])
        self.assertNotIn("hidden-word", " ".join(warnings))

    def test_a_credential_that_is_not_set_is_told(self):
        [warning] = self.warnings(one_model("model: openai/x, api_key: os.environ/NOT_THERE"))

        self.assertIn("not served until NOT_THERE is set", warning)


class WildcardTests(EnvironmentMixin, TestCase):
    def test_a_wildcard_s_models_have_the_upstream_s_names(self):
        apply(load(self, one_model("model: openai/*", name="openai/*")), at=NOON)
        Price.objects.create(provider="openai", model="gpt-4o", input_per_mtok_usd=1)

        catalog = load_catalog()

        [target] = catalog.targets("openai/gpt-4o")
        self.assertEqual(target.upstream_model, "gpt-4o")
        self.assertEqual(catalog.targets("gpt-4o"), ())
        self.assertEqual(catalog.model_names(), ["openai/gpt-4o"])
        self.assertIs(catalog.targets("openai/gpt-4o")[0], target)

    def test_a_wildcard_with_the_same_name_upstream_is_handed_on(self):
        apply(load(self, one_model("model: openai/gpt-*", name="gpt-*")), at=NOON)

        deployment = Deployment.objects.get()
        self.assertEqual(deployment.upstream_model, "")
        self.assertEqual(load_catalog().targets("gpt-4o")[0].upstream_model, "")

    def test_names_that_callers_make_up_are_not_kept_for_ever(self):
        upstream = Upstream(pk=1, name="openai", provider="openai", openai_base_url="https://api.test/v1")
        catalog = build_catalog(
            [Deployment(pk=1, model_name="o/*", upstream=upstream, upstream_model="*")], []
        )

        for number in range(3000):
            [target] = catalog.targets(f"o/{number}")
            self.assertEqual(target.upstream_model, str(number))

        self.assertLess(len(catalog.renamed), 1500)


class AgainTests(ConfigurationTestCase):
    def test_a_second_run_changes_nothing(self):
        text = TWO_OF_ONE_NAME + RATE_LIMITS + "litellm_settings: {max_budget: 5, max_end_user_budget: 0.5}\n"
        first = self.apply(text)
        Change.objects.all().delete()
        entries = AuditLog.objects.count()

        second = self.apply(text)

        self.assertEqual(len(first), 2 + 2 + 1 + 2 + 1)  # upstreams, deployments, price, budgets, limits
        self.assertEqual(second, [])
        self.assertEqual((Change.objects.count(), AuditLog.objects.count()), (0, entries))

    def test_equal_entries_stay_as_many_as_they_are(self):
        text = TWO_OF_ONE_NAME.replace("    model_info: {id: one}\n", "")
        text += text.split("model_list:\n")[1]

        self.apply(text)

        self.assertEqual(self.apply(text), [])
        self.assertEqual(Deployment.objects.count(), 4)

    def test_what_is_gone_is_deactivated_and_comes_back(self):
        self.apply(TWO_OF_ONE_NAME)

        gone = self.apply(one_model("model: openai/gpt-4o-mini, weight: 3", name="fast", info="{id: one}"))

        self.assertEqual([line[:2] for line in gone], ["- ", "- "])
        self.assertEqual(
            list(Deployment.objects.filter(is_active=True).values_list("public_id", flat=True)), ["one"]
        )
        self.assertEqual(
            list(Upstream.objects.filter(is_active=True).values_list("provider", flat=True)), ["openai"]
        )
        back = self.apply(TWO_OF_ONE_NAME)
        self.assertEqual([line[:2] for line in back], ["~ ", "~ "])
        self.assertEqual(Deployment.objects.filter(is_active=True).count(), 2)
        self.assertEqual(Price.objects.count(), 1)

    def test_rows_made_by_hand_are_left_alone(self):
        upstream = Upstream.objects.create(
            name="openai", provider="openai", openai_base_url="https://api.openai.com/v1",
            credential="os.environ/OPENAI_API_KEY",
        )  # fmt: skip
        Deployment.objects.create(model_name="fast", upstream=upstream, upstream_model="gpt-4o-mini")

        self.apply(TWO_OF_ONE_NAME)
        self.apply("general_settings: {}")

        by_hand = Deployment.objects.get(source="")
        self.assertTrue(by_hand.is_active and by_hand.upstream.is_active)
        self.assertEqual(by_hand.upstream.name, "openai")
        self.assertEqual(Deployment.objects.filter(source="config", is_active=True).count(), 0)

    def test_an_edit_by_hand_of_what_is_the_file_s_is_set_back(self):
        self.apply(TWO_OF_ONE_NAME)
        Deployment.objects.filter(public_id="one").update(weight=9, is_active=False)

        [line] = self.apply(TWO_OF_ONE_NAME)

        self.assertEqual(line, "~ deployment fast at openai (config): weight 9 → 3, is_active False → True")

    def test_an_entry_keeps_its_row_by_its_id(self):
        self.apply(TWO_OF_ONE_NAME)
        pk = Deployment.objects.get(public_id="one").pk

        self.apply(
            TWO_OF_ONE_NAME.replace("openai/gpt-4o-mini", "openai/gpt-4.1-mini").replace("fast\n", "faster\n")
        )

        row = Deployment.objects.get(public_id="one")
        self.assertEqual((row.pk, row.model_name, row.upstream_model), (pk, "faster", "gpt-4.1-mini"))

    def test_a_new_credential_changes_the_upstream_and_is_not_told(self):
        self.apply(one_model("model: openai/x, api_key: sk-first-secret"))

        [line] = self.apply(one_model("model: openai/x, api_key: sk-second-secret"))

        self.assertEqual(line, "~ upstream openai (config): credential (hidden) → (hidden)")
        self.assertEqual(Upstream.objects.get().credential, "sk-second-secret")
        told = json.dumps(list(AuditLog.objects.values("before", "after")))
        self.assertNotIn("secret", told)

    def test_a_changed_rate_is_a_new_price_and_the_old_one_stays(self):
        self.apply(one_model("model: openai/x, input_cost_per_token: 1e-06, output_cost_per_token: 2e-06"))
        old = Price.objects.get()

        lines = self.apply(
            one_model("model: openai/x, input_cost_per_token: 3e-06, output_cost_per_token: 2e-06")
        )

        self.assertEqual([line[0] for line in lines], ["+", "~"])
        old.refresh_from_db()
        self.assertEqual(old.input_per_mtok_usd, Decimal(1))
        self.assertEqual(Deployment.objects.get().price.input_per_mtok_usd, Decimal(3))

    def test_the_audit_log_says_that_it_was_the_file(self):
        self.apply(TWO_OF_ONE_NAME)

        self.assertEqual(set(AuditLog.objects.values_list("via", "actor")), {("config", "config.yaml")})


class AtOnceTests(EnvironmentMixin, TransactionTestCase):
    def test_two_starts_at_once_make_every_row_once(self):
        installation_id()
        config = load(self, TWO_OF_ONE_NAME + RATE_LIMITS)
        changes: list[int] = []

        def start() -> None:
            try:
                changes.append(len(apply(config, at=NOON).changes))
            finally:
                connection.close()

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        self.assertEqual(sorted(changes), [0, 0, 0, 2 + 2 + 1 + 1 + 1])
        self.assertEqual((Upstream.objects.count(), Deployment.objects.count()), (2, 2))


class BudgetTests(ConfigurationTestCase):
    def test_the_gateway_s_budget_has_what_the_file_limits(self):
        self.apply(
            RATE_LIMITS
            + "  global_max_parallel_requests: 7\n"
            + "litellm_settings: {max_budget: 12.5, budget_duration: monthly}\n"
        )

        budget = GatewayLimits.current().budget
        self.assertEqual(
            (budget.pk, budget.max_budget, budget.budget_duration, budget.rpm_limit, budget.tpm_limit),
            ("config-gateway", Decimal("12.5"), "monthly", 100, 10_000),
        )
        self.assertEqual(budget.max_parallel_requests, 7)

    def test_customers_get_the_budget_that_is_named(self):
        Budget.objects.create(pk="free-tier", max_budget=1)

        self.apply("litellm_settings: {max_end_user_budget_id: free-tier}")
        self.apply("litellm_settings: {}")

        self.assertEqual(GatewayLimits.current().customer_budget_id, "free-tier")

    def test_a_budget_that_is_not_there_is_told(self):
        [warning] = self.warnings("litellm_settings: {max_end_user_budget_id: free-tier}")

        self.assertIn("there is no budget 'free-tier'", warning)

    def test_an_amount_for_customers_is_a_budget_of_its_own(self):
        self.apply("litellm_settings: {max_end_user_budget: 0.0001}")

        budget = GatewayLimits.current().customer_budget
        self.assertEqual((budget.pk, budget.max_budget), ("config-customers", Decimal("0.0001")))

    def test_without_its_keys_the_file_s_budgets_are_detached(self):
        self.apply("litellm_settings: {max_budget: 5, max_end_user_budget: 1}")

        [line] = self.apply("litellm_settings: {}")

        limits = GatewayLimits.current()
        self.assertEqual((limits.budget, limits.customer_budget), (None, None))
        self.assertIn("budget config-gateway → none", line)
        self.assertEqual(Budget.objects.count(), 2)

    def test_tags_get_budgets_of_their_own(self):
        long = "t" * 255
        lines = self.apply(
            "litellm_settings: {tag_budget_config: {"
            f"'team: red': {{max_budget: 0.5, budget_duration: 1d}}, {long}: {{max_budget: 3}}}}}}"
        )

        other, red = Tag.objects.select_related("budget").order_by("-budget__max_budget")
        self.assertEqual(
            (red.pk, red.budget_id, red.budget.max_budget, red.budget.budget_duration),
            ("team: red", "config-tag-team: red", Decimal("0.5"), "1d"),
        )
        self.assertEqual((other.pk, other.budget.max_budget, len(other.budget_id)), (long, 3, 75))
        self.assertEqual(len(lines), 4)

    def test_a_tag_that_leaves_the_file_loses_the_file_s_budget_alone(self):
        by_hand = Budget.objects.create(pk="by-hand", max_budget=1)
        Tag.objects.create(pk="blue", budget=by_hand)
        config = "litellm_settings: {tag_budget_config: {red: {max_budget: 1}, blue: {max_budget: 2}}}"
        [warning] = self.warnings(config)
        self.apply(config)

        self.apply("litellm_settings: {}")

        self.assertIn("tag 'blue' has the budget 'by-hand'", warning)
        self.assertEqual(dict(Tag.objects.values_list("pk", "budget_id")), {"blue": "by-hand", "red": None})

    def test_a_tag_s_budget_that_is_none_is_told(self):
        for wrong in ("[red]", "{red: 5}", "{red: {}}", "{red: {max_budget: -1}}", "{red: {odd: 2}}"):
            with self.subTest(wrong), self.assertRaises(BadConfig):
                load(self, f"litellm_settings: {{tag_budget_config: {wrong}}}")

    def test_budgets_attached_by_hand_stay_where_the_file_says_nothing(self):
        limits = GatewayLimits.current()
        limits.budget = limits.customer_budget = Budget.objects.create(pk="by-hand", max_budget=1)
        limits.save()

        self.assertEqual(self.apply("general_settings: {}"), [])

    def test_a_duration_without_an_amount_is_told(self):
        [warning] = self.warnings("litellm_settings: {budget_duration: 30d}")

        self.assertIn("no effect without max_budget", warning)


class MistakeTests(ConfigurationTestCase):
    def test_each_mistake_has_its_place_and_what_to_do(self):
        cases = {
            "model_list: [{litellm_params: {model: openai/x}}]": "write model_name",
            "model_list: [{model_name: x}]": "write model: provider/model",
            one_model("model: openai/x", name="a*b"): "a * only at the end",
            one_model("model: openai/x", name="a*"): "or of neither",
            one_model("model: openai/*"): "or of neither",
            one_model("model: openai/x, weight: 0"): "write a whole number of at least 1",
            one_model("model: openai/x, order: -1"): "write a whole number of at least 0",
            one_model("model: openai/x, timeout: 0"): "write a number of seconds above 0",
            one_model("model: openai/x, timeout: os.environ/NOWHERE"): "NOWHERE is not set",
            one_model("model: openai/x, input_cost_per_token: -1"): "write a rate",
            one_model("model: openai/x, input_cost_per_token: dear"): "write a number",
            one_model("model: openai/x, api_base: nowhere"): "write an address",
            one_model("model: openai/x, api_base: 'demo://builtin'"): "write an address",
            one_model("model: hosted_vllm/x"): "write api_base",
            one_model("model: azure/x"): "write api_base",
            one_model("model: openai/x, extra_headers: {X: [1]}"): "write a text after X:",
            one_model('model: openai/x, extra_headers: {"Bad Name": x}'): "is no name of a header",
            one_model('model: openai/x, extra_headers: {"": x}'): "is no name of a header",
            one_model("model: openai/x, extra_headers: {Transfer-Encoding: chunked}"): "set by the gateway",
            one_model("model: openai/x, extra_headers: {host: evil.test}"): "set by the gateway",
            one_model("model: openai/x, extra_headers: {X: 客}"): "Latin-1 characters only",
            one_model("model: openai/x, api_key: 'sk-\\u00e9-secret'".replace("\\u00e9", "é")): "ASCII",
            one_model("model: openai/x, api_key: true"): "write a text",
            one_model("model: openai/x", info="{id: ''}"): "write a text",
        }
        for text, message in cases.items():
            with self.subTest(text), self.assertRaises(BadConfig) as caught:
                self.apply(text)
            with self.subTest(text):
                [problem] = caught.exception.problems
                self.assertIn(message, problem)
                self.assertRegex(problem, r"line \d+, column \d+")
                self.assertNotIn("secret", problem)

    def test_an_id_belongs_to_one_entry(self):
        text = TWO_OF_ONE_NAME + "    model_info: {id: one}\n"

        with self.assertRaisesMessage(BadConfig, "has this id too"):
            self.apply(text)

    def test_an_id_of_a_deployment_made_by_hand_is_refused(self):
        upstream = Upstream.objects.create(name="u", provider="openai", openai_base_url="https://h/v1")
        Deployment.objects.create(model_name="x", upstream=upstream, public_id="one")

        with self.assertRaisesMessage(BadConfig, "write another one"):
            self.apply(TWO_OF_ONE_NAME)

    def test_with_one_mistake_nothing_is_applied(self):
        with self.assertRaises(BadConfig):
            self.apply(TWO_OF_ONE_NAME + "  - {model_name: x, litellm_params: {model: azure/x}}\n")

        self.assertEqual(
            (Upstream.objects.count(), Deployment.objects.count(), Price.objects.count()), (0, 0, 0)
        )


class CheckConfigTests(ConfigurationTestCase):
    def check(self, text: str, *arguments: str) -> tuple[int, str]:
        """Return (exit status, everything that was written)."""
        path = Path(load(self, text).path)
        output = io.StringIO()
        status = 0
        try:
            call_command("check_config", str(path), *arguments, stdout=output, stderr=output)
        except SystemExit as stop:
            status = stop.code
        return status, output.getvalue()

    def test_it_says_what_would_happen_and_changes_nothing(self):
        text = (
            TWO_OF_ONE_NAME
            + "litellm_settings: {max_budget: 5, odd: 1, alerting: [slack], track_cost: true}\n"
        )

        status, said = self.check(text)

        self.assertEqual(status, 0)
        for line in (
            "+ upstream openai (config)",
            "+ deployment fast at x-ai (config)",
            "+ budget config-gateway",
            "litellm_settings.odd: unknown here (line 9, column 40)",
            "litellm_settings.alerting",
            "litellm_settings.track_cost: every call's cost is tracked",
        ):
            self.assertIn(line, said)
        self.assertEqual((Upstream.objects.count(), Budget.objects.count()), (0, 0))

    def test_after_applying_it_finds_nothing_to_do(self):
        self.apply(TWO_OF_ONE_NAME)

        status, said = self.check(TWO_OF_ONE_NAME, "--json")

        self.assertEqual((status, json.loads(said)["changes"]), (0, []))

    def test_it_says_where_a_setting_comes_from(self):
        status, said = self.check(
            "general_settings: {master_key: sk-1234567, token_rate_limit_type: input}", "--json"
        )

        self.assertEqual(
            json.loads(said)["settings"],
            [
                # The tests' own environment has a master key.
                {
                    "name": "MASTER_KEY",
                    "value": None,
                    "secret": True,
                    "from": "general_settings.master_key",
                    "wins": "environment",
                },
                {
                    "name": "TOKEN_RATE_LIMIT_TYPE",
                    "value": "input",
                    "secret": False,
                    "from": "general_settings.token_rate_limit_type",
                    "wins": "file",
                },
            ],
        )
        self.assertEqual(status, 0)

    def test_mistakes_end_with_1(self):
        path = Path(load(self, "{}").path)
        path.write_text("general_settings: {token_rate_limit_type: all}\n")
        output = io.StringIO()

        with self.assertRaises(SystemExit) as stop:
            call_command("check_config", str(path), stdout=output, stderr=output)

        self.assertEqual(stop.exception.code, 1)
        self.assertIn("line 1, column 43", output.getvalue())
        self.assertIn("Nothing of the file would be applied", output.getvalue())

    def test_before_the_first_start_it_says_what_would_be_made(self):
        with mock.patch("proxy.management.commands.check_config._has_tables", return_value=False):
            with self.assertNumQueries(0):
                status, said = self.check(TWO_OF_ONE_NAME + RATE_LIMITS)

        self.assertEqual(status, 0)
        self.assertIn("+ deployment fast at openai (config)", said)

    def test_a_database_that_cannot_be_asked_is_told(self):
        away = mock.patch.object(
            Upstream._default_manager, "filter", side_effect=OperationalError("no such column")
        )
        with away:
            status, said = self.check(TWO_OF_ONE_NAME)

        self.assertEqual(status, 1)
        self.assertIn("has bootstrap brought it up to date?", said)

    def test_no_secret_is_shown(self):
        secrets = ("word-one", "word-two", "word-three", "word-four", "word-five", "word-six")
        text = (
            f"general_settings:\n  master_key: sk-{secrets[0]}\n"
            f"  database_url: postgresql://u:{secrets[1]}@h/n\n"
            f"router_settings: {{redis_host: h, redis_password: {secrets[2]}}}\n"
            f"environment_variables: {{SOME_SECRET: {secrets[3]}}}\n"
            + one_model(
                f"model: openai/x, api_key: sk-{secrets[4]}, api_base: 'https://u:{secrets[1]}@h/v1', "
                f"extra_headers: {{X-Key: {secrets[5]}}}"
            )
        )
        self.addCleanup(os.environ.pop, "SOME_SECRET", None)
        for arguments in ((), ("--json",)):
            with self.subTest(arguments):
                status, said = self.check(text, *arguments)

                self.assertEqual(status, 0)
                self.assertFalse([secret for secret in secrets if secret in said])
        changed = text.replace("/v1", "/v2")
        self.apply(text)
        self.assertFalse([secret for secret in secrets if secret in " ".join(self.apply(changed))])


class ExampleTests(EnvironmentMixin, SimpleTestCase):
    def test_the_example_s_models_are_all_served(self):
        text = (PROJECT_ROOT / "docs" / "config.example.yaml").read_bytes()

        entries, warnings = read_entries(load(self, text, environment={"LITELLM_MASTER_KEY": "sk-1234"}))

        self.assertEqual(
            [entry.model_name for entry in entries], ["gpt-4o-mini", "anthropic/*", "house-model", "demo"]
        )
        self.assertEqual(warnings, [])


STRICT_FILE = """
model_list: [{model_name: demo, litellm_params: {model: demo/demo}}]
general_settings:
  master_key: sk-key-of-the-file
  enforce_user_param: true
  reject_clientside_metadata_tags: true
  disable_custom_api_keys: true
litellm_settings:
  tag_budget_config: {used-up: {max_budget: 0}}
"""

FILE = """
model_list:
  - model_name: from-the-file
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: os.environ/THEIR_BASE
      api_key: sk-of-the-provider
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
general_settings:
  master_key: os.environ/THEIR_KEY
  user_header_name: X-Customer
  cache: {type: simple, ttl: 60}
litellm_settings:
  max_budget: 100
environment_variables:
  THEIR_KEY: sk-key-of-the-file
"""


@pytest.mark.processes
class TestProcesses:
    def test_a_gateway_started_with_a_file_serves_its_models(self, provider, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(FILE)
        gateway = GatewayProcess(provider=provider, SPEND_CONFIG=path, THEIR_BASE=f"{provider.url}/v1")
        del gateway.environment["MASTER_KEY"]
        try:
            said = _bootstrap(gateway)
            again = _bootstrap(gateway)
            gateway.start()
            answer = httpx.post(
                f"{gateway.url}/v1/chat/completions",
                json={"model": "from-the-file", "messages": [{"role": "user", "content": "hi"}]},
                headers={"authorization": "Bearer sk-key-of-the-file", "x-customer": "acme"},
                trust_env=False,
                timeout=30,
            )
            [row] = gateway.wait_booked(1, customer_id="acme")
        finally:
            gateway.stop()

        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        assert row["model"] == "from-the-file"
        assert row["upstream"] == "openai (config)"
        assert row["cost"] == usage["prompt_tokens"] * 1_000 + usage["completion_tokens"] * 2_000
        assert said.returncode == again.returncode == 0
        assert "+ deployment from-the-file at openai (config)" in said.stdout
        assert "0 changes in the database" in again.stdout
        for secret in ("sk-of-the-provider", "sk-key-of-the-file"):
            assert secret not in said.stdout + said.stderr + gateway.log_text()

    def test_what_a_file_asks_of_calls_is_asked(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(STRICT_FILE)
        gateway = GatewayProcess(SPEND_CONFIG=path)
        del gateway.environment["MASTER_KEY"]
        headers = {"authorization": "Bearer sk-key-of-the-file"}
        try:
            assert _bootstrap(gateway).returncode == 0
            gateway.start()
            with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=30) as http:

                def call(path: str = "/v1/chat/completions", **fields: object) -> httpx.Response:
                    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
                    return http.post(path, json={**body, **fields})

                nobody = call()
                anthropic = call("/v1/messages", metadata={"user_id": "acme"})
                counted = call("/v1/messages/count_tokens")
                served = call(user="acme")
                by_header = http.post(
                    "/v1/chat/completions",
                    json={"model": "demo", "messages": [{"role": "user", "content": "hi"}]},
                    headers={"x-litellm-customer-id": "acme"},
                )
                tagged = call(user="acme", metadata={"tags": ["a"]})
                of_field = call(user="acme", tags=["a"])
                over = call(user="acme", tags=["used-up"])
                chosen = http.post("/key/generate", json={"key": "sk-" + "x" * 20})
        finally:
            gateway.stop()

        error = nobody.json()["error"]
        assert (nobody.status_code, error["type"], error["param"]) == (401, "auth_error", "user")
        assert "'user' param not passed in" in error["message"]
        for answer in (anthropic, counted, served, by_header, of_field):
            assert answer.status_code == 200, answer.text
        error = tagged.json()["error"]
        assert (tagged.status_code, error["type"]) == (400, "bad_request_error")
        assert error["param"] == "metadata.tags"
        assert (over.status_code, over.json()["error"]["type"]) == (400, "budget_exceeded")
        assert (chosen.status_code, chosen.json()["error"]["param"]) == (403, "key")

    def test_a_wrong_file_stops_the_start_before_anything_is_done(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(FILE + "  THEIR_OTHER: [1]\n")
        gateway = GatewayProcess(SPEND_CONFIG=path)
        try:
            done = _bootstrap(gateway)
        finally:
            gateway.stop()

        assert done.returncode == 1
        assert "environment_variables.THEIR_OTHER (line 18, column 16): write a text" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def _bootstrap(gateway: GatewayProcess) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", "bootstrap"],
        cwd=PROJECT_ROOT, env={**gateway.environment, "STATIC_ROOT": str(gateway.folder / "static")},
        capture_output=True, text=True,
    )  # fmt: skip
