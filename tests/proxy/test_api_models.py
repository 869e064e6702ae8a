"""Models in the API: /model/*, /model_group/info and the public cost map (contract 5.8, 10.1)."""

import json
import os
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import httpx
import pytest
from django.conf import settings
from django.test import SimpleTestCase, TestCase
from django.utils import timezone

from billing.booking.estimates import Estimator
from billing.models import Price
from billing.prices.pricing import resolve
from billing.usage import Usage
from customers.models import AuditLog, Team, User
from customers.services import create_key
from proxy.api import views
from proxy.catalog import load_catalog
from proxy.configuration.rates import read_rates
from proxy.litellm_params import rates_of
from proxy.models import Deployment, Upstream
from proxy.routing import Router
from spendproject.asgi import _is_proxied
from tests.gateway import is_true_within
from tests.provider import ProviderProcess

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}
SECRET = "sk-secret-of-the-provider"
MINI = {"model": "openai/gpt-4o-mini", "api_key": SECRET}


def make_price(model: str = "gpt-4o-mini", provider: str = "openai", **fields: Any) -> Price:
    rates = {
        "input_per_mtok_usd": Decimal("0.15"),
        "output_per_mtok_usd": Decimal("0.6"),
        "cache_read_per_mtok_usd": Decimal("0.075"),
    }
    return Price.objects.create(provider=provider, model=model, **{**rates, **fields})


def make_upstream(**fields: Any) -> Upstream:
    given = {"name": "openai", "provider": "openai", "openai_base_url": "https://api.openai.com/v1"}
    return Upstream.objects.create(**{**given, **fields})


class ModelTestCase(TestCase):
    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.client.post(
            f"/model/{path}", content, content_type="application/json", headers={**MASTER, **(headers or {})}
        )

    def patch(self, named: str, body: Any) -> Any:
        return self.client.patch(
            f"/model/{named}/update", json.dumps(body), content_type="application/json", headers=MASTER
        )

    def made(self, model_name: str = "mini", info: Any = None, **params: Any) -> dict[str, Any]:
        body = {"model_name": model_name, "litellm_params": {**MINI, **params}, "model_info": info}
        response = self.post("new", body)
        self.assertEqual(response.status_code, 200, response.content)
        return response.json()

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
        return self.client.get(path, query, headers=headers or MASTER)

    def infos(self, headers: dict[str, str] | None = None) -> dict[str, Any]:
        return {row["model_name"]: row for row in self.get("/model/info", headers).json()["data"]}

    def assert_error(self, response: Any, status: int) -> str:
        self.assertEqual(response.status_code, status, response.content)
        return response.json()["error"]["message"]


class NewTests(ModelTestCase):
    def test_it_makes_what_serves_it(self):
        body = self.made(weight=3, order=1, timeout=20)

        deployment = Deployment.objects.select_related("upstream").get(public_id=body["model_id"])
        self.assertEqual(
            (deployment.model_name, deployment.upstream_model, deployment.weight, deployment.priority),
            ("mini", "gpt-4o-mini", 3, 1),
        )
        upstream = deployment.upstream
        self.assertEqual(
            (upstream.provider, upstream.openai_base_url, upstream.credential, upstream.read_timeout_s),
            ("openai", "https://api.openai.com/v1", SECRET, 20),
        )

    def test_it_answers_with_the_stored_row(self):
        body = self.made(info={"id": "prod-mini", "team": "blue"})

        self.assertEqual((body["model_id"], body["model_name"], body["warnings"]), ("prod-mini", "mini", []))
        self.assertEqual((body["created_by"], body["updated_by"]), ("default_user_id", "default_user_id"))
        self.assertEqual(
            body["litellm_params"], {"model": "openai/gpt-4o-mini", "api_base": "https://api.openai.com/v1"}
        )
        self.assertEqual((body["model_info"]["id"], body["model_info"]["team"]), ("prod-mini", "blue"))
        self.assertTrue(body["model_info"]["db_model"])
        self.assertTrue(body["created_at"].endswith("Z"))

    def test_the_key_never_comes_back(self):
        params = {"extra_headers": {"x-token": SECRET}, "api_base": "https://gate.test/v1"}

        answers = [
            self.post("new", {"model_name": "mini", "litellm_params": {**MINI, **params}}),
            self.get("/model/info"),
            self.get("/v2/model/info"),
            self.get("/model_group/info"),
        ]

        for response in answers:
            self.assertNotIn(SECRET.encode(), response.content)
        self.assertNotIn(SECRET, str(list(AuditLog.objects.values())))

    def test_a_second_with_the_same_account_shares_its_upstream(self):
        make_upstream(credential=SECRET)
        self.made("one")
        self.made("two")
        self.made("other account", api_key="sk-other")
        self.made("other headers", extra_headers={"x": "y"})

        names = dict(Deployment.objects.values_list("model_name", "upstream__name"))

        self.assertEqual(names["one"], "openai")
        self.assertEqual(names["two"], "openai")
        self.assertEqual({names["other account"], names["other headers"]}, {"openai 2", "openai 3"})

    def test_an_upstream_of_the_file_is_left_to_the_file(self):
        make_upstream(credential=SECRET, source="config")

        self.made()

        self.assertEqual(Upstream.objects.filter(source="api").count(), 1)

    def test_rates_of_its_own_are_a_price_exactly(self):
        self.made(input_cost_per_token=1.5e-07, output_cost_per_token="0.0000006")

        price = Deployment.objects.get().price
        self.assertEqual((price.source, price.provider, price.model), ("deployment", "openai", "gpt-4o-mini"))
        target = load_catalog().targets("mini")[0]
        usage = Usage(input_uncached=1_000, output_text=10)
        expected = 1_000 * Decimal("0.15") / 1_000_000 + 10 * Decimal("0.6") / 1_000_000
        self.assertEqual(target.price.cost_nano(usage), expected * 10**9)

    def test_rates_may_stand_in_model_info_and_zero_is_a_price(self):
        self.made(info={"input_cost_per_token": 0, "output_cost_per_token": 0})

        self.assertTrue(resolve(Deployment.objects.get().price).is_free)

    def test_half_a_price_takes_the_other_half_from_the_list(self):
        make_price()

        body = self.made(input_cost_per_token=1e-06)

        self.assertEqual(Deployment.objects.get().price.output_per_mtok_usd, Decimal("0.6"))
        self.assertIn("list, 0.6 USD per million tokens", " ".join(body["warnings"]))

    def test_half_a_price_of_an_unknown_model_is_warned_of(self):
        body = self.made(model="openai/nobody-knows", input_cost_per_token=1e-06)

        self.assertIn("output_cost_per_token", " ".join(body["warnings"]))

    def test_what_has_no_effect_is_said(self):
        body = self.made(rpm=60, drop_params=True, seed=7, aws_session_token=SECRET, input_cost_per_second=1)

        told = " ".join(body["warnings"])
        for name in ("rpm", "drop_params", "seed", "aws_session_token", "input_cost_per_second"):
            self.assertIn(name, told)
        kept = body["litellm_params"]
        self.assertEqual((kept["rpm"], kept["drop_params"], kept["seed"]), (60, True, 7))
        self.assertNotIn(SECRET, json.dumps(body))
        self.assertNotIn(SECRET, str(Deployment.objects.values_list("extras", "model_info")))

    def test_a_wildcard_serves_names_under_the_upstream_s_own(self):
        self.made("openai/*", model="openai/*")

        target = load_catalog().targets("openai/gpt-4o")[0]

        self.assertEqual(target.upstream_model, "gpt-4o")

    def test_the_built_in_demo_can_be_named(self):
        self.made("try", model="demo/demo", api_key=None)

        self.assertEqual(load_catalog().targets("try")[0].openai_base_url, "demo://builtin/v1")

    def test_an_id_that_is_taken_is_400(self):
        self.made(info={"id": "a"})
        by_hand = Deployment.objects.create(model_name="b", upstream=Upstream.objects.get())

        for named in ("a", str(by_hand.pk)):
            response = self.post(
                "new", {"model_name": "c", "litellm_params": MINI, "model_info": {"id": named}}
            )

            self.assertIn("exists already", self.assert_error(response, 400))

    def test_what_cannot_be_carried_out_is_400_and_leaves_nothing(self):
        for params in (
            {"model": "nobody/model"},
            {"model": "azure/gpt-4o"},  # without api_base
            {"model": "openai/"},
            {"model": "openai/" + "x" * 300},
            {"model": "openai/gpt-*"},  # the name has no *
            {"model": ""},
            {"model": ["gpt-4o"]},
            {},
            {**MINI, "api_base": "not an address"},
            {**MINI, "api_base": "demo://builtin"},
            {**MINI, "api_base": "http://" + "x" * 600},
            {**MINI, "api_key": {"a": 1}},
            {**MINI, "api_key": "ключ"},
            {**MINI, "input_cost_per_token": -1},
            {**MINI, "input_cost_per_token": "much"},
            {**MINI, "input_cost_per_token": True},
            {**MINI, "input_cost_per_token": 10**18},
            {**MINI, "weight": 0},
            {**MINI, "weight": "heavy"},
            {**MINI, "order": -1},
            {**MINI, "order": 10**9},
            {**MINI, "timeout": 0},
            {**MINI, "extra_headers": ["x"]},
            {**MINI, "extra_headers": {"x": "a\nb"}},
            {**MINI, "search_context_cost_per_query": {"search_context_size_medium": "x"}},
        ):
            with self.subTest(params):
                response = self.post("new", {"model_name": "mini", "litellm_params": params})

                self.assertTrue(self.assert_error(response, 400))
                self.assertFalse(Deployment.objects.exists() or Upstream.objects.exists())
                self.assertFalse(Price.objects.exists() or AuditLog.objects.exists())

    def test_the_wrong_shape_is_422(self):
        for body in (
            {},
            {"model_name": "a"},
            {"model_name": "", "litellm_params": MINI},
            {"model_name": "a\u2028b", "litellm_params": MINI},
            {"model_name": "x" * 256, "litellm_params": MINI},
            {"model_name": "a", "litellm_params": "gpt-4o"},
            {"model_name": "a", "litellm_params": MINI, "model_info": []},
            {"model_name": "a", "litellm_params": {**MINI, "x": "y" * 100_001}},
            [],
        ):
            with self.subTest(body=str(body)[:80]):
                response = self.post("new", body)

                self.assertEqual(response.status_code, 422, response.content)

    def test_no_secret_of_the_gateway_goes_to_a_provider(self):
        for params in (
            {"api_key": "os.environ/MASTER_KEY"},
            {"api_base": "os.environ/DATABASE_URL"},
            {"extra_headers": {"x": "os.environ/SECRET_KEY"}},
        ):
            response = self.post("new", {"model_name": "a", "litellm_params": {**MINI, **params}})

            self.assertIn("secret of the gateway", self.assert_error(response, 400))

    def test_a_reference_stays_one(self):
        with mock.patch.dict(os.environ, {"SOME_KEY": SECRET}):
            self.made(api_key="os.environ/SOME_KEY")

        self.assertEqual(Upstream.objects.get().credential, "os.environ/SOME_KEY")

    def test_a_name_with_many_digits_of_price_keeps_them(self):
        response = self.post(
            "new",
            b'{"model_name": "a", "litellm_params": {"model": "openai/x", '
            b'"input_cost_per_token": 1.23456789e-7, "output_cost_per_token": 0}}',
        )

        self.assertIn(b'"input_cost_per_token":0.000000123456789,', response.content)


class UpdateTests(ModelTestCase):
    def update(self, named: str, params: Any = None, **body: Any) -> dict[str, Any]:
        response = self.patch(named, {"litellm_params": params or {}, **body})
        self.assertEqual(response.status_code, 200, response.content)
        return response.json()

    def test_an_update_names_the_model_at_the_top_as_litellm_s_client_does(self):
        made = self.post("new", {"model_name": "fast", "litellm_params": MINI}).json()

        response = self.post("update", {"id": made["model_id"], "model_name": "faster"})

        self.assertEqual((response.status_code, response.json()["model_name"]), (200, "faster"))

    def test_both_routes_change_what_is_sent_and_nothing_else(self):
        self.made(info={"id": "a", "team": "blue"}, weight=2, order=1, rpm=5)

        by_post = self.post("update", {"litellm_params": {"weight": 3}, "model_info": {"id": "a", "x": 1}})
        by_patch = self.patch("a", {"model_name": "renamed"})

        self.assertEqual((by_post.status_code, by_patch.status_code), (200, 200))
        deployment = Deployment.objects.select_related("upstream").get()
        self.assertEqual(
            (deployment.model_name, deployment.weight, deployment.priority, deployment.upstream_model),
            ("renamed", 3, 1, "gpt-4o-mini"),
        )
        self.assertEqual((deployment.model_info, deployment.extras), ({"team": "blue", "x": 1}, {"rpm": 5}))
        self.assertEqual(deployment.upstream.credential, SECRET)
        self.assertEqual(deployment.public_id, "a")

    def test_null_takes_away(self):
        self.made(info={"id": "a", "team": "blue"}, rpm=5, input_cost_per_token=1, output_cost_per_token=2)

        self.update(
            "a",
            {"rpm": None, "input_cost_per_token": None, "output_cost_per_token": None},
            model_info={"team": None},
        )

        deployment = Deployment.objects.get()
        self.assertEqual((deployment.price, deployment.extras, deployment.model_info), (None, {}, {}))

    def test_other_rates_are_a_new_row_and_the_same_are_not(self):
        self.made(info={"id": "a"}, input_cost_per_token=1e-06, output_cost_per_token=2e-06)
        first = Deployment.objects.get().price

        self.update("a", {"input_cost_per_token": 1e-06})
        self.assertEqual(Deployment.objects.get().price, first)
        self.update("a", {"weight": 2})
        self.assertEqual(Deployment.objects.get().price, first)
        self.update("a", {"input_cost_per_token": 3e-06})

        second = Deployment.objects.get().price
        self.assertEqual(
            (second.input_per_mtok_usd, second.output_per_mtok_usd, first.input_per_mtok_usd), (3, 2, 1)
        )
        self.assertEqual(Price.objects.count(), 2)

    def test_rates_in_model_info_win_over_those_there_were(self):
        self.made(info={"id": "a"}, input_cost_per_token=1e-06, output_cost_per_token=2e-06)

        self.update("a", model_info={"input_cost_per_token": 5e-06})

        self.assertEqual(Deployment.objects.get().price.input_per_mtok_usd, 5)

    def test_a_new_key_goes_to_the_same_address(self):
        self.made(info={"id": "a"}, api_base="https://gate.test/v1", extra_headers={"x": "y"}, timeout=9)
        kept = Upstream.objects.get()

        self.update("a", {"api_key": "sk-new"})

        upstream = Deployment.objects.get().upstream
        self.assertEqual(upstream.pk, kept.pk)  # nobody else has it
        self.assertEqual(
            (upstream.credential, upstream.openai_base_url, upstream.headers, upstream.read_timeout_s),
            ("sk-new", "https://gate.test/v1", {"x": "y"}, 9),
        )

    def test_a_shared_upstream_stays_as_others_have_it(self):
        self.made("one", info={"id": "one"})
        self.made("two", info={"id": "two"})

        self.update("one", {"api_key": "sk-new"})

        credentials = dict(Deployment.objects.values_list("public_id", "upstream__credential"))
        self.assertEqual(credentials, {"one": "sk-new", "two": SECRET})

    def test_an_upstream_of_staff_is_never_edited(self):
        upstream = make_upstream(credential=SECRET)
        self.made(info={"id": "a"})

        self.update("a", {"api_key": "sk-new"})

        upstream.refresh_from_db()
        self.assertEqual(upstream.credential, SECRET)
        self.assertNotEqual(Deployment.objects.get().upstream_id, upstream.pk)

    def test_the_key_that_is_kept_is_not_sent_to_another_address(self):
        self.made(info={"id": "a"})

        for params in ({"api_base": "https://evil.test/v1"}, {"base_url": "https://evil.test/v1"}):
            message = self.assert_error(self.patch("a", {"litellm_params": params}), 400)

            self.assertIn("api_key", message)
        self.update("a", {"api_base": "https://api.openai.com/v1"})  # where it is now
        self.update("a", {"api_base": "https://own.test/v1", "api_key": "sk-own"})

        upstream = Deployment.objects.get().upstream
        self.assertEqual((upstream.openai_base_url, upstream.credential), ("https://own.test/v1", "sk-own"))

    def test_another_provider_takes_nothing_with_it(self):
        self.made(info={"id": "a"}, extra_headers={"x": "y"})

        self.update("a", {"model": "anthropic/claude-sonnet-4-5"})

        upstream = Deployment.objects.get().upstream
        self.assertEqual(
            (upstream.provider, upstream.anthropic_base_url, upstream.openai_base_url, upstream.headers),
            ("anthropic", "https://api.anthropic.com", "", {}),
        )
        self.assertEqual(upstream.credential, "os.environ/ANTHROPIC_API_KEY")
        self.assertEqual(Upstream.objects.count(), 1)  # the old one was its own

    def test_another_model_of_the_provider_keeps_the_upstream(self):
        self.made(info={"id": "a"}, model="azure/one", api_base="https://x.openai.azure.com", api_key=SECRET)
        upstream = Upstream.objects.get()
        self.assertEqual(upstream.openai_base_url, "https://x.openai.azure.com/openai/v1")

        self.update("a", {"model": "azure/two"})

        deployment = Deployment.objects.get()
        self.assertEqual((deployment.upstream_id, deployment.upstream_model), (upstream.pk, "two"))

    def test_one_made_by_hand_can_be_changed_by_its_number(self):
        upstream = make_upstream(name="vllm", provider="our own", openai_base_url="http://vllm:8000/v1")
        deployment = Deployment.objects.create(model_name="llama", upstream=upstream, upstream_model="l-3")

        body = self.update(str(deployment.pk), {"order": 2}, model_info={"mode": "chat"})

        deployment.refresh_from_db()
        self.assertEqual(
            (deployment.priority, deployment.upstream_id, deployment.upstream_model, deployment.public_id),
            (2, upstream.pk, "l-3", None),
        )
        self.assertEqual(body["model_id"], str(deployment.pk))
        self.assertEqual(body["litellm_params"]["model"], "our own/l-3")

    def test_what_get_told_can_be_sent_back(self):
        make_price()
        self.made(info={"id": "a", "team": "blue"}, weight=4, timeout=30)
        before = Deployment.objects.values().get()
        told = self.infos()["mini"]

        self.update("a", told["litellm_params"], model_info=told["model_info"])

        after = Deployment.objects.values().get()
        self.assertIsNone(after["price_id"])
        self.assertLessEqual({"team": "blue"}.items(), after["model_info"].items())
        same = set(before) - {"updated_at", "model_info"}
        self.assertEqual({name: after[name] for name in same}, {name: before[name] for name in same})

    def test_one_of_the_file_is_the_file_s(self):
        upstream = make_upstream(source="config")
        Deployment.objects.create(model_name="a", public_id="a", upstream=upstream, source="config")
        for response in (
            self.patch("a", {"model_name": "b"}),
            self.post("update", {"model_name": "b", "model_info": {"id": "a"}}),
            self.post("delete", {"id": "a"}),
        ):
            self.assertIn("config.yaml", self.assert_error(response, 400))
        self.assertEqual(Deployment.objects.get().model_name, "a")

    def test_an_unknown_one_is_404(self):
        for named in ("none", "7", "9" * 30, "²", "a/b"):
            self.assert_error(self.patch(named, {"model_name": "b"}), 404)
            self.assert_error(self.post("update", {"model_info": {"id": named}}), 404)
        self.assert_error(self.patch("%00", {"model_name": "b"}), 404)

    def test_without_an_id_it_is_422(self):
        for body in ({}, {"model_info": {}}, {"model_info": {"id": None}}, {"model_info": {"id": ["a"]}}):
            self.assertEqual(self.post("update", body).status_code, 422)

    def test_a_value_of_the_wrong_kind_is_400(self):
        self.made(info={"id": "a"})
        for params in ({"model": True}, {"custom_llm_provider": ["x"]}, {"api_base": {}}, {"api_key": []}):
            self.assert_error(self.patch("a", {"litellm_params": params}), 400)

    def test_a_refused_change_changes_nothing(self):
        self.made(info={"id": "a"}, weight=2)
        entries = AuditLog.objects.count()

        self.assert_error(
            self.patch("a", {"model_name": "b", "litellm_params": {"weight": 0, "api_key": "x"}}), 400
        )

        self.assertEqual(Deployment.objects.get().model_name, "mini")
        self.assertEqual((Upstream.objects.get().credential, AuditLog.objects.count()), (SECRET, entries))


class DeleteTests(ModelTestCase):
    def test_it_goes_with_an_upstream_that_nobody_else_has(self):
        self.made("one", info={"id": "one"}, input_cost_per_token=1, output_cost_per_token=1)
        self.made("two", info={"id": "two"})

        response = self.post("delete", {"id": "one"})
        self.assertEqual((response.status_code, list(response.json())), (200, ["message"]))
        self.assertEqual(Upstream.objects.count(), 1)
        self.post("delete", {"id": "two"})

        self.assertFalse(Deployment.objects.exists() or Upstream.objects.exists())
        self.assertEqual(Price.objects.count(), 1)  # logs name it

    def test_an_upstream_of_staff_stays(self):
        make_upstream(credential=SECRET)
        self.made(info={"id": "a"})

        self.post("delete", {"id": "a"})

        self.assertTrue(Upstream.objects.exists())

    def test_an_unknown_one_is_400(self):
        self.assert_error(self.post("delete", {"id": "none"}), 400)
        self.assertEqual(self.post("delete", {}).status_code, 422)


class InfoTests(ModelTestCase):
    def test_it_has_the_contract_s_fields(self):
        price = make_price()
        self.made("gpt-4o-mini", info={"id": "a1b2c3d4"})

        row = self.infos()["gpt-4o-mini"]

        self.assertEqual(list(row), ["model_name", "litellm_params", "model_info"])
        self.assertEqual(
            row["litellm_params"], {"model": "openai/gpt-4o-mini", "api_base": "https://api.openai.com/v1"}
        )
        contract = {
            "id": "a1b2c3d4",
            "db_model": True,
            "key": "gpt-4o-mini",
            "mode": "chat",
            "litellm_provider": "openai",
            "max_tokens": None,
            "max_input_tokens": 128_000,
            "max_output_tokens": None,
            "input_cost_per_token": 1.5e-07,
            "output_cost_per_token": 6e-07,
            "cache_read_input_token_cost": 7.5e-08,
        }
        info = row["model_info"]
        self.assertEqual({name: info[name] for name in contract}, contract)
        self.assertEqual((info["price_source"], info["price_id"]), ("admin", price.pk))
        self.assertIn(b'"input_cost_per_token":0.00000015,', self.get("/v1/model/info").content)

    def test_an_unknown_price_is_null(self):
        self.made(model="openai/nobody-knows")

        info = self.infos()["mini"]["model_info"]

        self.assertEqual((info["input_cost_per_token"], info["price_source"]), (None, None))

    def test_base_model_says_whose_price_applies(self):
        make_price("gpt-4o")
        self.made(model="azure/prod-1", api_base="https://x.test/v1", info={"base_model": "azure/gpt-4o"})

        # Azure's prices are Azure's, not OpenAI's.
        self.assertIsNone(self.infos()["mini"]["model_info"]["price_source"])
        make_price("gpt-4o", provider="azure")
        info = self.infos()["mini"]["model_info"]

        self.assertEqual((info["price_source"], info["base_model"]), ("admin", "gpt-4o"))

    def test_a_dated_name_is_listed_under_its_canonical_one(self):
        make_price("gpt-4o", input_per_mtok_usd=Decimal(5))
        self.made(model="openai/gpt-4o-2024-08-06")

        info = self.infos()["mini"]["model_info"]

        self.assertEqual((info["key"], info["input_cost_per_token"]), ("gpt-4o", 5e-06))

    def test_a_price_to_come_is_not_told_yet(self):
        make_price()
        make_price(input_per_mtok_usd=Decimal(9), effective_from=timezone.now() + timedelta(days=1))
        self.made()

        self.assertEqual(self.infos()["mini"]["model_info"]["input_cost_per_token"], 1.5e-07)

    def test_it_can_be_asked_for_one(self):
        self.made("one", info={"id": "one"})
        self.made("two")

        data = self.get("/model/info", litellm_model_id="one").json()["data"]

        self.assertEqual([row["model_name"] for row in data], ["one"])
        self.assert_error(self.get("/model/info", litellm_model_id="none"), 404)

    def test_what_is_not_active_is_not_there(self):
        self.made(info={"id": "a"})
        Deployment.objects.update(is_active=False)

        self.assertEqual(self.infos(), {})

    def test_no_address_shows_a_password(self):
        upstream = make_upstream(openai_base_url="https://user:hunter2@gate.test:8443/v1")
        Deployment.objects.create(model_name="a", upstream=upstream)

        response = self.get("/model/info")

        self.assertNotIn(b"hunter2", response.content)
        self.assertIn(b"https://gate.test:8443/v1", response.content)

    def test_the_number_of_queries_is_fixed(self):
        for number in range(4):
            make_price(f"m{number}")
            self.made(f"m{number}", model=f"openai/m{number}")

        for path in ("/model/info", "/v2/model/info", "/model_group/info"):
            with self.subTest(path), self.assertNumQueries(2):  # deployments, prices
                self.get(path)


class PageTests(ModelTestCase):
    def test_it_pages_and_searches(self):
        for name in ("alpha", "beta", "gamma", "Alphabet"):
            self.made(name, info={"id": name})
        for query, names, total in (
            ({"size": 3}, ["Alphabet", "alpha", "beta"], 4),
            ({"size": 3, "page": 2}, ["gamma"], 4),
            ({"size": 3, "page": 3}, [], 4),
            ({"search": "ALPHA"}, ["Alphabet", "alpha"], 2),
            ({"model": "beta"}, ["beta"], 1),
            ({"modelId": "gamma"}, ["gamma"], 1),
        ):
            with self.subTest(query):
                body = self.get("/v2/model/info", **query).json()

                self.assertCountEqual([row["model_name"] for row in body["data"]], names)
                self.assertEqual((body["total_count"], body["current_page"]), (total, query.get("page", 1)))
                self.assertEqual(body["size"], query.get("size", 50))
                self.assertEqual(body["total_pages"], -(-total // body["size"]))

    def test_a_bad_query_is_422(self):
        for query in ({"page": 0}, {"page": "x"}, {"size": 1001}, {"sortOrder": "up"}, {"search": "x" * 300}):
            self.assertEqual(self.get("/v2/model/info", **query).status_code, 422, query)
        for path in ("/model/info?litellm_model_id=%00", "/v2/model/info?search=%00"):
            self.assertLess(self.get(path).status_code, 500)


class GroupTests(ModelTestCase):
    def test_it_says_what_the_deployments_of_a_name_have_in_common(self):
        make_price()
        self.made("mini", info={"supports_vision": True, "max_output_tokens": 16_384})
        self.made("mini", model="groq/llama", input_cost_per_token=1e-06, output_cost_per_token=2e-06)
        self.made("other")

        data = self.get("/model_group/info", model_group="mini").json()["data"]

        self.assertEqual(
            data,
            [
                {
                    "model_group": "mini",
                    "providers": ["groq", "openai"],
                    "max_input_tokens": 128_000,
                    "max_output_tokens": 16_384,
                    "input_cost_per_token": 1e-06,
                    "output_cost_per_token": 2e-06,
                    "mode": "chat",
                    "tpm": None,
                    "rpm": None,
                    "supports_vision": True,
                    "supports_function_calling": False,
                    "supports_parallel_function_calling": False,
                }
            ],
        )
        self.assertEqual(len(self.get("/model_group/info").json()["data"]), 2)
        self.assertEqual(self.get("/model_group/info", model_group="none").json(), {"data": []})


class AccessTests(ModelTestCase):
    """Alice runs the gateway, Vera may look, Bob's key may call one model, Charlie's another team's."""

    READS = ("/model/info", "/v1/model/info", "/v2/model/info", "/model_group/info")

    def headers_of(self, role: str | None = None, **fields: Any) -> dict[str, str]:
        user = User.objects.create(username=uuid.uuid4().hex, role=role) if role else None
        _, secret = create_key(user=user, **fields)
        return {"authorization": f"Bearer {secret}"}

    def names(self, path: str, headers: dict[str, str]) -> list[str]:
        response = self.get(path, headers)
        self.assertEqual(response.status_code, 200, response.content)
        return [row.get("model_name") or row["model_group"] for row in response.json()["data"]]

    def test_alice_and_vera_see_all(self):
        self.made("one")
        for role in (User.Role.PROXY_ADMIN, User.Role.PROXY_ADMIN_VIEWER):
            for path in self.READS:
                self.assertEqual(self.names(path, self.headers_of(role)), ["one"])

    def test_others_see_what_they_may_call_and_not_where_it_is(self):
        for name in ("one", "two", "gpt-*"):
            self.made(name, model="openai/gpt-*" if "*" in name else "openai/gpt-4o-mini")
        team = Team.objects.create(allowed_models=["two"])
        for fields, expected in (
            ({"allowed_models": ["one"]}, ["one"]),
            ({"team": team}, ["two"]),
            ({"team": team, "allowed_models": ["one"]}, []),
            ({"allowed_models": ["gpt-4o"]}, ["gpt-*"]),
            ({"allowed_models": ["none"]}, []),
            ({"allowed_models": ["all-proxy-models"]}, ["gpt-*", "one", "two"]),
            ({"role": User.Role.INTERNAL_USER}, ["gpt-*", "one", "two"]),
        ):
            headers = self.headers_of(**fields)
            for path in self.READS:
                with self.subTest(path, fields=str(fields)):
                    self.assertCountEqual(self.names(path, headers), expected)
            content = self.get("/model/info", headers).content
            self.assertNotIn(b"api_base", content)
            self.assertNotIn(b"upstream", content)

    def test_only_alice_may_write(self):
        self.made(info={"id": "a"})
        for role in (None, User.Role.INTERNAL_USER, User.Role.PROXY_ADMIN_VIEWER):
            headers = self.headers_of(role)
            answers = [
                self.post("new", {"model_name": "b", "litellm_params": MINI}, headers),
                self.post("update", {"model_name": "b", "model_info": {"id": "a"}}, headers),
                self.post("delete", {"id": "a"}, headers),
                self.client.patch("/model/a/update", "{}", content_type="application/json", headers=headers),
            ]
            self.assertEqual([answer.status_code for answer in answers], [403] * 4)
        self.assertEqual(Deployment.objects.get().model_name, "mini")

    def test_without_a_key_nothing_is_told(self):
        for path in self.READS:
            self.assertEqual(self.client.get(path).status_code, 401)


class CostMapTests(ModelTestCase):
    PATH = "/public/litellm_model_cost_map"

    def setUp(self):
        views._kept_cost_map = None  # each test begins with the numbers of the one before

    def test_it_is_public_and_exact(self):
        make_price("claude-sonnet-4-5", "anthropic", cache_write_1h_per_mtok_usd=Decimal(6))
        make_price("gemini-2.5-pro", "google", long_context_tiers=[
            {"above_prompt_tokens": 200_000, "input_per_mtok_usd": "2.5", "output_per_mtok_usd": "15"}
        ])  # fmt: skip
        make_price("dear", per_web_search_usd=Decimal("0.01"), per_request_usd=Decimal("0.5"))

        response = self.client.get(self.PATH)

        self.assertEqual(response.status_code, 200)
        entries = response.json()
        self.assertEqual(list(entries), ["claude-sonnet-4-5", "gemini/gemini-2.5-pro", "dear"])
        claude = entries["claude-sonnet-4-5"]
        self.assertEqual((claude["litellm_provider"], claude["mode"]), ("anthropic", "chat"))
        self.assertEqual(claude["cache_creation_input_token_cost_above_1hr"], 6e-06)
        gemini = entries["gemini/gemini-2.5-pro"]
        self.assertEqual(gemini["input_cost_per_token_above_200k_tokens"], 2.5e-06)
        self.assertEqual(gemini["output_cost_per_token_above_200k_tokens"], 1.5e-05)
        self.assertEqual(entries["dear"]["input_cost_per_request"], 0.5)
        self.assertEqual(entries["dear"]["search_context_cost_per_query"]["search_context_size_medium"], 0.01)
        self.assertIn(b'"cache_read_input_token_cost":0.000000075,', response.content)

    def test_overrides_of_single_deployments_are_not_in_it(self):
        self.made(input_cost_per_token=1, output_cost_per_token=1)

        self.assertEqual(self.client.get(self.PATH).json(), {})

    def test_who_has_it_already_is_not_sent_it_again(self):
        make_price()
        first = self.client.get(self.PATH)
        known = {"if-none-match": first["ETag"]}

        self.assertIn("max-age", first["Cache-Control"])
        again = self.client.get(self.PATH, headers=known)
        self.assertEqual((again.status_code, again.content), (304, b""))
        make_price("new")
        self.assertEqual(self.client.get(self.PATH, headers=known).status_code, 200)

    def test_it_only_answers_reads(self):
        self.assertEqual(self.client.post(self.PATH).status_code, 405)


class RateTests(SimpleTestCase):
    def test_what_is_written_is_read_back_as_it_was(self):
        """Every rate there is has a name of LiteLLM's, but those that are not per token or call."""
        rates = {
            field.name: Decimal(number) / 1000
            for number, field in enumerate(Price._meta.fields, start=1)
            if field.name.endswith("_usd")
        }
        tiers = [{"above_prompt_tokens": 200_000, "input_per_mtok_usd": "6.000000000"}]

        written = rates_of(Price(provider="p", model="m", long_context_tiers=tiers, **rates))
        read = read_rates(written, lambda value: value, lambda name, what: self.fail(f"{name}: {what}"))

        self.assertEqual((read.base, read.tiers, read.unsupported), (rates, tiers, []))


class PathTests(SimpleTestCase):
    def test_the_api_s_path_below_v1_is_not_proxied(self):
        for path, proxied in (
            ("/v1/model/info", False),
            ("/v1/models", True),
            ("/v1/models/gpt-4o", True),
            ("/model/info", False),
            ("/v2/model/info", False),
        ):
            self.assertEqual(_is_proxied(path), proxied, path)


@pytest.mark.processes
def test_a_model_made_by_the_api_serves_calls_and_bills_its_rates(
    provider: ProviderProcess, http: httpx.Client, customer: str
) -> None:
    """Through the real entry: made, called at its own price, changed, gone."""
    name, named = f"made-{uuid.uuid4().hex[:8]}", f"id-{uuid.uuid4().hex[:8]}"
    rates = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}
    made = http.post(
        "/model/new",
        json={
            "model_name": name,
            "litellm_params": {
                "model": "openai/gpt-4o-mini",
                "api_key": "sk-openai-of-the-gateway",
                "api_base": f"{provider.url}/v1",
                **rates,
            },
            "model_info": {"id": named},
        },
    )
    assert made.status_code == 200, made.text
    told = http.get("/v1/model/info", params={"litellm_model_id": named}).json()["data"][0]
    assert told["model_info"]["input_cost_per_token"] == 0.001
    assert is_true_within(5, lambda: http.get(f"/v1/models/{name}").status_code == 200)

    answer = http.post(
        "/v1/chat/completions",
        json={"model": name, "messages": [{"role": "user", "content": "Hello"}], "user": customer},
    )

    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    cost = Decimal(answer.headers["x-litellm-response-cost"])
    assert cost == usage["prompt_tokens"] * Decimal("0.001") + usage["completion_tokens"] * Decimal("0.002")
    assert answer.headers["x-litellm-model-id"] == named
    assert http.post("/model/delete", json={"id": named}).status_code == 200
    assert is_true_within(5, lambda: http.get(f"/v1/models/{name}").status_code == 404)


class HealthTests(ModelTestCase):
    def test_it_lists_what_may_be_called_without_calling_it(self):
        self.made("mini")
        self.made("maxi")

        told = self.client.get("/health", headers=MASTER).json()

        self.assertEqual((told["healthy_count"], told["unhealthy_count"]), (2, 0))
        self.assertEqual([each["model_name"] for each in told["healthy_endpoints"]], ["maxi", "mini"])
        self.assertNotIn(SECRET, json.dumps(told))
        one = self.client.get("/health", {"model": "mini"}, headers=MASTER).json()
        self.assertEqual([each["model_name"] for each in one["healthy_endpoints"]], ["mini"])

    def test_it_needs_a_key_and_tells_each_caller_of_its_own_models(self):
        self.made("mini")
        user = User.objects.create(pk="u", username="u")
        _, secret = create_key(user=user, allowed_models=["other"])

        self.assertEqual(self.client.get("/health").status_code, 401)
        told = self.client.get("/health", headers={"authorization": f"Bearer {secret}"}).json()
        self.assertEqual(told["healthy_count"], 0)

    def test_what_failed_last_is_unhealthy(self):
        self.made("mini")
        router = Router(cooldown_s=5)
        deployment = Deployment.objects.get()
        target = mock.Mock(deployment_id=deployment.pk)

        with mock.patch("proxy.gateway.running", return_value=mock.Mock(router=router)):
            router.failed(target)
            failed = self.client.get("/health", headers=MASTER).json()
            router.succeeded(target)
            answered = self.client.get("/health", headers=MASTER).json()

        self.assertEqual((failed["healthy_count"], failed["unhealthy_count"]), (0, 1))
        self.assertIn("failed", failed["unhealthy_endpoints"][0]["error"])
        self.assertEqual(answered["unhealthy_count"], 0)


class TokenCounterTests(ModelTestCase):
    def count(self, body: Any, status: int = 200) -> Any:
        response = self.client.post(
            "/utils/token_counter", json.dumps(body), content_type="application/json", headers=MASTER
        )
        self.assertEqual(response.status_code, status, response.content)
        return response.json()

    def test_it_has_the_contract_s_fields_and_says_that_it_estimates(self):
        self.made("mini")

        told = self.count({"model": "mini", "prompt": "x" * 398})

        self.assertEqual(
            told,
            {
                "total_tokens": 100, "request_model": "mini", "model_used": "gpt-4o-mini",
                "tokenizer_type": "estimate",
            },
        )  # fmt: skip
        self.assertEqual(self.count({"model": "unknown", "prompt": ""})["model_used"], "unknown")

    def test_messages_count_and_nothing_is_refused(self):
        hello = [{"role": "user", "content": "Hello"}]

        self.assertGreater(self.count({"model": "m", "messages": hello})["total_tokens"], 3)
        self.assertEqual(self.count({"model": "m"}, status=400)["error"]["param"], "messages")

    def test_what_calls_taught_is_used(self):
        estimator = Estimator()
        estimator.learn("m", body_bytes=100, usage=Usage(input_uncached=50))

        with mock.patch("proxy.gateway.running", return_value=mock.Mock(estimator=estimator)):
            self.assertEqual(self.count({"model": "m", "prompt": "x" * 98})["total_tokens"], 50)
