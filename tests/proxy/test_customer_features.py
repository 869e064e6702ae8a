"""What is particular about one customer on the hot path: its models, its region, a raised limit."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from django.test import SimpleTestCase

from customers.models import Budget
from customers.money import to_nano
from proxy.tiers import Holder, LimitsOfHolders, tier_of
from tests.gateway import GatewayProcess, is_true_within
from tests.provider import ProviderProcess

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
NOON = datetime(2026, 7, 15, 12, tzinfo=UTC)


def microseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


class RaisedLimitTests(SimpleTestCase):
    def limit_at(self, limits: LimitsOfHolders, budget: Budget, at: datetime) -> Decimal:
        tier = self.tiers.setdefault(id(budget), tier_of(budget))
        found = limits.find([Holder("customer", "acme", "acme", tier)], "gpt-4o", microseconds(at))
        [claim] = found.claims
        return Decimal(claim.limit_nano) / to_nano(1)

    def setUp(self):
        self.tiers: dict[int, Any] = {}

    def test_it_is_raised_until_the_expiry_and_not_a_microsecond_longer(self):
        budget = Budget(max_budget=Decimal(10), temp_budget_increase=Decimal("2.5"), temp_budget_expiry=NOON)
        instant = timedelta(microseconds=1)
        for order in (
            (-1, 0),
            (0, -1),
            (-1, 0, -1),
        ):  # what is remembered of one instant is not taken for another
            limits = LimitsOfHolders(ZoneInfo("UTC"))
            for step in order:
                with self.subTest(order=order, step=step):
                    expected = Decimal(10) + (Decimal("2.5") if step < 0 else 0)

                    self.assertEqual(self.limit_at(limits, budget, NOON + step * instant), expected)
                    self.assertEqual(budget.limit_at(NOON + step * instant), expected)

    def test_it_changes_no_limit_by_model(self):
        budget = Budget(
            max_budget=Decimal(10),
            temp_budget_increase=Decimal(1),
            temp_budget_expiry=NOON,
            model_max_budget={"gpt-4o": {"budget_limit": "3"}},
        )
        holder = Holder("customer", "acme", "acme", tier_of(budget))

        found = LimitsOfHolders(ZoneInfo("UTC")).find([holder], "gpt-4o", microseconds(NOON) - 1)

        self.assertEqual([claim.limit_nano for claim in found.claims], [to_nano(11), to_nano(3)])

    def test_it_raises_nothing_where_there_is_no_limit(self):
        budget = Budget(temp_budget_increase=Decimal(1), temp_budget_expiry=NOON)

        self.assertIsNone(tier_of(budget))
        self.assertIsNone(budget.limit_at(NOON - timedelta(days=1)))


# -- over the wire ---------------------------------------------------------------------------


@pytest.fixture
def make_customer(http: httpx.Client, customer: str) -> Callable[..., str]:
    def make(**fields: Any) -> str:
        response = http.post("/customer/new", json={"user_id": customer, **fields})
        assert response.status_code == 200, response.text
        return customer

    return make


@pytest.fixture
def call(http: httpx.Client, customer: str) -> Callable[..., httpx.Response]:
    def send(model: str, path: str = CHAT) -> httpx.Response:
        body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
        return http.post(
            path, json={**body, "fake": {"tag": customer}}, headers={"x-litellm-customer-id": customer}
        )

    return send


@pytest.fixture(scope="module")
def regions(gateway: GatewayProcess, provider: ProviderProcess) -> dict[str, str]:
    """Make models served from one region, from both, and from nobody knows where."""
    names = {kind: f"region-{kind}-{uuid.uuid4().hex[:8]}" for kind in ("eu", "us", "both", "unsaid")}

    def make() -> None:
        from proxy.models import Deployment, Upstream

        common = {"provider": "openai", "openai_base_url": f"{provider.url}/v1", "credential": "sk-x"}
        for region in ("eu-west-1", "US", ""):
            upstream = Upstream.objects.create(name=f"region-{region or 'unsaid'}", region=region, **common)
            kind = region[:2].lower() or "unsaid"
            for name in (kind, "both") if region else (kind,):
                Deployment.objects.create(
                    model_name=names[name], upstream=upstream, upstream_model="gpt-4o-mini"
                )

    gateway.execute_orm(make)
    with httpx.Client(
        headers={"authorization": f"Bearer {gateway.master_key}"}, trust_env=False, verify=False
    ) as client:
        url = f"{gateway.url}/v1/models/{names['unsaid']}"
        assert is_true_within(3, lambda: client.get(url).status_code == 200)
    return names


@pytest.mark.processes
class TestModels:
    def test_a_customer_may_call_its_own_models_alone(self, make_customer, call, customer):
        make_customer(models=["gpt-4o-mini", "claude-*"])

        assert is_true_within(3, lambda: call("gpt-4o").status_code == 403)
        error = call("gpt-4o").json()["error"]
        assert (error["type"], error["param"], error["code"]) == (
            "customer_model_access_denied",
            "model",
            "403",
        )
        assert "gpt-4o-mini" in error["message"]
        assert call("gpt-4o-mini").status_code == 200
        assert call("claude-sonnet-4-5", MESSAGES).status_code == 200
        assert call("gpt-4o", MESSAGES).json()["error"]["type"] == "permission_error"

    def test_an_empty_list_allows_all_again(self, make_customer, call, http, customer):
        make_customer(models=["claude-*"])
        assert is_true_within(3, lambda: call("gpt-4o").status_code == 403)

        http.post("/customer/update", json={"user_id": customer, "models": []})

        assert is_true_within(3, lambda: call("gpt-4o").status_code == 200)


@pytest.mark.processes
class TestRegion:
    def test_calls_stay_in_the_customer_s_region(self, make_customer, call, regions, gateway, customer):
        make_customer(allowed_model_region="eu")
        assert is_true_within(3, lambda: call(regions["us"]).status_code == 403)

        answers = {kind: [call(model).status_code for _ in range(4)] for kind, model in regions.items()}

        assert answers == {"eu": [200] * 4, "us": [403] * 4, "both": [200] * 4, "unsaid": [403] * 4}
        error = call(regions["us"]).json()["error"]
        assert error["type"] == "customer_model_access_denied"
        assert "eu" in error["message"]
        rows = gateway.wait_booked(4, customer_id=customer, model=regions["both"])
        assert {row["upstream"] for row in rows} == {"region-eu-west-1"}

    def test_the_default_model_serves_what_the_region_lacks(
        self, make_customer, call, regions, gateway, customer
    ):
        make_customer(allowed_model_region="us", default_model=regions["us"])
        assert is_true_within(
            3, lambda: call(regions["eu"]).headers["x-litellm-model-group"] == regions["us"]
        )

        assert call(regions["eu"]).status_code == 200
        assert call(regions["both"]).headers["x-litellm-model-group"] == regions["both"]

        for model in (regions["us"], regions["both"]):
            rows = gateway.wait_booked(1, customer_id=customer, model=model)
            assert {row["upstream"] for row in rows} == {"region-US"}


@pytest.mark.processes
class TestIncrease:
    def test_a_raised_limit_lets_calls_pass_and_then_no_more(self, make_customer, call, http, customer):
        make_customer(max_budget=0)
        assert is_true_within(3, lambda: call("gpt-4o-mini").status_code == 400)

        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        http.post(
            "/customer/update",
            json={"user_id": customer, "temp_budget_increase": 5, "temp_budget_expiry": later},
        )

        assert is_true_within(3, lambda: call("gpt-4o-mini").status_code == 200)
        past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        http.post("/customer/update", json={"user_id": customer, "temp_budget_expiry": past})
        assert is_true_within(3, lambda: call("gpt-4o-mini").status_code == 400)
