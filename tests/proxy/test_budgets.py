"""
Budgets through the whole gateway: real processes, a real database, a provider that counts.

The model `exact` costs $0.10 a call, whatever is asked; `per-token` $1 for a million
tokens of output and nothing for input, so that what a strict budget holds is exact;
`tiny` $0.0000001 a call.
"""

import asyncio
import uuid
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import pytest

from customers.keys import hash_secret
from tests.gateway import GatewayProcess, is_true_within

pytestmark = pytest.mark.processes

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
DIME = 100_000_000  # nano-dollars
GREEDY = {"output_tokens": 10_000, "obeys_maximum": True}  # answers at the greatest length allowed
MODELS = {
    "exact": {"per_request_usd": Decimal("0.10")},
    "tiny": {"per_request_usd": Decimal("0.0000001")},
    "per-token": {"input_per_mtok_usd": Decimal(0), "output_per_mtok_usd": Decimal(1)},
    "free": {"input_per_mtok_usd": Decimal(0), "output_per_mtok_usd": Decimal(0)},
}


def make_models() -> None:
    """Add deployments of the tests' own prices to both upstreams."""
    from billing.models import Price
    from proxy.models import Deployment, Upstream

    for name, rates in MODELS.items():
        price = Price.objects.create(provider="openai", model=name, source=Price.Source.DEPLOYMENT, **rates)
        Deployment.objects.create(
            model_name=name,
            upstream=Upstream.objects.get(name="openai"),
            upstream_model="gpt-4o-mini",
            price=price,
        )
        Deployment.objects.create(
            model_name=f"{name}-claude",
            upstream=Upstream.objects.get(name="anthropic"),
            upstream_model="claude-haiku-4-5",
            price=price,
        )


@pytest.fixture(scope="module")
def gateway(provider):
    with GatewayProcess(provider=provider) as process:
        process.execute_orm(make_models)
        assert is_true_within(3, lambda: "exact" in _models(process))
        yield process


def _models(gateway: GatewayProcess) -> set[str]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.master_key) as sdk:
        return {model.id for model in sdk.models.list()}


@pytest.fixture
def limited(gateway):
    """Give a customer a budget, and wait until the gateway knows: `limited(customer, max_budget="1")`."""

    def limit(customer: str, **fields: Any) -> Any:
        return limit_customer(gateway, customer, **fields)

    return limit


def limit_customer(gateway: GatewayProcess, customer: str, **fields: Any) -> Any:
    from customers.models import Budget, Customer

    def save() -> Budget:
        budget = Budget(**{name: _typed(name, value) for name, value in fields.items()})
        budget.full_clean()
        budget.save()
        Customer.objects.update_or_create(pk=customer, defaults={"budget": budget})
        return budget

    budget = gateway.execute_orm(save)
    wait_for_edits(gateway)
    return budget


def _typed(name: str, value: Any) -> Any:
    return Decimal(value) if name in ("max_budget", "soft_budget") else value


def wait_for_edits(gateway: GatewayProcess) -> None:
    """Wait until the gateway has read what was edited until now: a key made after it is known by then."""
    _, secret = gateway.create_key()

    def is_known() -> bool:
        with httpx.Client(base_url=gateway.url, trust_env=False, verify=False) as client:
            return client.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code == 200

    assert is_true_within(2, is_known)
    import time

    time.sleep(0.7)  # REFRESH_SECONDS, and a little


def call(http: httpx.Client, customer: str, *, model: str = "exact", **body: Any) -> httpx.Response:
    said = {"model": model, "messages": HELLO, "user": customer, "fake": {"tag": customer}, **body}
    return http.post(CHAT, json=said)


def served(provider: Any, customer: str) -> list[dict[str, Any]]:
    return provider.settled_bill(tag=customer)["entries"]


class TestRefusal:
    def test_it_comes_when_the_budget_is_spent_and_says_why(self, http, limited, customer, gateway, provider):
        limited(customer, max_budget="0.25", budget_duration="1mo")

        answers = [call(http, customer) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 400]
        error = answers[2].json()["error"]
        assert error["type"] == "budget_exceeded"
        assert error["param"] is None
        assert error["code"] == "400"
        assert error["message"].startswith(f"ExceededBudget: End User={customer} has spent 0.2 of 0.25 USD.")
        figures = {name: error[name] for name in ("limit", "spent", "held", "hold", "provisional")}
        assert figures == {"limit": 0.25, "spent": 0.2, "held": 0, "hold": 0.1, "provisional": 0}
        assert (error["scope"], error["id"]) == ("customer", customer)
        assert error["resets_at"].endswith("-01T00:00:00Z")
        assert error["request_id"] == answers[2].headers["x-litellm-call-id"]
        assert len(served(provider, customer)) == 2
        rows = gateway.wait_booked(3, customer_id=customer)
        assert [(row["status"], row["cost"]) for row in rows] == [
            ("success", DIME), ("success", DIME), ("refused", 0),
        ]  # fmt: skip
        assert rows[2]["error_type"] == "budget_exceeded"
        assert rows[2]["metadata"]["refusal"] | {"resets_at": ""} == {
            "scope": "customer", "id": customer, "limit": "0.25", "spent": "0.2", "held": "0",
            "provisional": "0", "hold": "0.1", "mode": "standard", "resets_at": "",
        }  # fmt: skip

    def test_the_anthropic_route_answers_in_its_own_envelope(self, limited, customer, gateway):
        limited(customer, max_budget="0")
        sdk = anthropic.Anthropic(base_url=gateway.url, api_key=gateway.master_key, max_retries=0)

        with sdk, pytest.raises(anthropic.BadRequestError) as raised:
            sdk.messages.create(
                model="exact-claude", max_tokens=5, messages=HELLO, metadata={"user_id": customer}
            )

        body = raised.value.body
        assert body["type"] == "error"
        assert body["error"]["type"] == "budget_exceeded"
        assert body["error"]["limit"] == 0

    def test_a_stream_is_refused_before_it_begins(self, http, limited, customer):
        limited(customer, max_budget="0.05")

        answer = call(http, customer, stream=True)

        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "budget_exceeded"

    def test_what_is_free_passes_a_spent_budget(self, http, limited, customer):
        limited(customer, max_budget="0")

        assert call(http, customer, model="free").status_code == 200

    @pytest.mark.parametrize(
        ("attach", "fragment"),
        [
            ("key", "Budget has been exceeded! Key="),
            ("team", "Budget has been exceeded! Team="),
            ("user", "ExceededBudget: User="),
            ("team_member", "Budget has been exceeded! Team member="),
            ("tag", "Budget has been exceeded! Tag="),
            ("key_model", "exceeded budget for model=exact"),
        ],
    )
    def test_every_holder_has_its_words(self, gateway, attach, fragment, customer):
        secret, tag = gateway.execute_orm(make_holder, attach)
        wait_for_edits(gateway)
        headers = {"authorization": f"Bearer {secret}", "x-litellm-tags": tag}

        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, verify=False) as client:
            answers = [call(client, customer) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [200, 400]
        assert fragment in answers[1].json()["error"]["message"]
        error = answers[1].json()["error"]
        assert error["scope"] == attach.removesuffix("_model")
        if error["scope"] == "key":
            assert error["id"] == hash_secret(secret)


def make_holder(kind: str) -> tuple[str, str]:
    """Attach a budget of one call to a new holder. Returns (a key of it, a tag)."""
    from customers.models import Budget, Tag, Team, TeamMembership, User
    from customers.services import create_key

    name = f"{kind}-{uuid.uuid4().hex[:8]}"
    budget = Budget(max_budget=Decimal("0.1"))
    if kind == "key_model":
        budget = Budget(model_max_budget={"exact": {"budget_limit": "0.1", "time_period": "1d"}})
    budget.full_clean()
    budget.save()
    fields: dict[str, Any] = {}
    if kind in ("team", "team_member"):
        fields["team"] = Team.objects.create(pk=name, budget=budget if kind == "team" else None)
    if kind in ("user", "team_member"):
        fields["user"] = User.objects.create(
            pk=f"u-{name}", username=name, budget=budget if kind == "user" else None
        )
    if kind == "team_member":
        TeamMembership.objects.create(team=fields["team"], user=fields["user"], budget=budget)
    if kind.startswith("key"):
        fields["budget"] = budget
    if kind == "tag":
        Tag.objects.create(pk=name, budget=budget)
    return create_key(**fields)[1], name


class TestWindows:
    def test_the_window_with_the_least_room_refuses_and_the_headers_tell_of_it(
        self, http, gateway, limited, customer
    ):
        limited(
            customer,
            max_budget="10",
            budget_limits=[
                {"budget_duration": "1mo", "max_budget": "1"},
                {"budget_duration": "1d", "max_budget": "0.25"},
            ],
        )

        answers = []
        for number in range(1, 4):
            answers.append(call(http, customer))
            gateway.wait_booked(number, customer_id=customer)

        assert [answer.status_code for answer in answers] == [200, 200, 400]
        told = [name for name, _ in answers[1].headers.multi_items() if "customer" in name]
        assert len(told) == len(set(told))
        assert answers[1].headers["x-litellm-customer-max-budget"] == "0.25"
        assert answers[1].headers["x-litellm-customer-remaining-budget"] == "0.05"
        assert (answers[2].json()["error"]["limit"], answers[2].json()["error"]["spent"]) == (0.25, 0.2)
        spent = {
            period["window"].split()[0]: (period["spent_charge"], period["held"])
            for period in periods(gateway, "customer", customer)
        }
        assert spent == dict.fromkeys(("all", "1mo", "1d"), (Decimal("0.2"), 0))


class TestRace:
    def test_exactly_as_many_calls_pass_as_the_budget_buys(self, gateway, limited, customer, provider):
        limited(customer, max_budget="1", budget_duration="1d")

        statuses = asyncio.run(call_at_once(gateway, customer, count=200))

        assert statuses.count(200) == 10
        assert statuses.count(400) == 190
        assert len(served(provider, customer)) == 10
        gateway.wait_booked(200, customer_id=customer)
        [period] = periods(gateway, "customer", customer)
        assert (period["spent_charge"], period["held"]) == (Decimal(1), 0)

    def test_a_call_for_more_than_can_be_counted_takes_no_other_with_it(self, gateway, limited, customer):
        limited(customer, max_budget="100")
        absurd = {"n": 99_999_999_999_999_999_999, "max_tokens": 99_999_999_999_999_999_999}

        async def race() -> list[int]:
            headers = {"authorization": f"Bearer {gateway.master_key}"}
            async with httpx.AsyncClient(
                base_url=gateway.url, headers=headers, trust_env=False, verify=False, timeout=20
            ) as client:
                said = {"model": "gpt-4o-mini", "messages": HELLO, "user": customer}
                bodies = [{**said, **(absurd if number % 4 == 3 else {})} for number in range(24)]
                answers = await asyncio.gather(*[client.post(CHAT, json=body) for body in bodies])
            return [answer.status_code for answer in answers]

        for _ in range(2):  # the line is there from the first calls on
            assert asyncio.run(race()) == [200, 200, 200, 400] * 6
        [period] = periods(gateway, "customer", customer)
        assert is_true_within(5, lambda: not periods(gateway, "customer", customer)[0]["held"]), period

    def test_a_call_that_has_ended_makes_room_at_once(self, http, limited, customer):
        """Its hold was for 1,000 tokens, it used 1: nobody is refused for what is not spent."""
        limited(customer, max_budget="0.0015", budget_duration="1d")

        answers = [
            call(
                http,
                customer,
                model="per-token",
                max_tokens=1_000,
                fake={"output_tokens": 1, "tag": customer},
            )
            for _ in range(20)
        ]

        assert {answer.status_code for answer in answers} == {200}


async def call_at_once(gateway: GatewayProcess, customer: str, *, count: int, **body: Any) -> list[int]:
    headers = {"authorization": f"Bearer {gateway.master_key}"}
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=headers, trust_env=False, verify=False, limits=limits, timeout=60
    ) as client:
        said = {
            "model": "exact",
            "messages": HELLO,
            "user": customer,
            "fake": {"tag": customer, "delay_ms": 300},
        }
        answers = await asyncio.gather(*[client.post(CHAT, json={**said, **body}) for _ in range(count)])
    return [answer.status_code for answer in answers]


def periods(gateway: GatewayProcess, holder_type: str, holder_id: str) -> list[dict[str, Any]]:
    from billing.models import BudgetPeriod

    def read() -> list[dict[str, Any]]:
        found = BudgetPeriod.objects.filter(holder_type=holder_type, holder_id=holder_id)
        return list(found.order_by("starts_at", "generation").values())

    return gateway.execute_orm(read)


class TestStrict:
    def test_a_missing_limit_of_the_answer_is_set_to_what_the_budget_buys(
        self, http, limited, customer, provider
    ):
        limited(customer, max_budget="0.000500", mode="strict")  # 500 tokens

        answer = call(http, customer, model="per-token", fake=GREEDY | {"tag": customer})

        assert answer.status_code == 200
        [entry] = served(provider, customer)
        assert entry["usage"]["output"] == 500

    def test_answers_are_multiplied(self, http, limited, customer):
        limited(customer, max_budget="0.000799", mode="strict")

        too_much = call(http, customer, model="per-token", n=8, max_tokens=100)
        fits = call(http, customer, model="per-token", n=7, max_tokens=100)

        assert (too_much.status_code, fits.status_code) == (400, 200)

    @pytest.mark.parametrize(
        ("feature", "name"),
        [
            ({"web_search_options": {}}, None),
            ({"web_search_options": {"search_context_size": "high"}}, "web_search_options"),
            ({"tools": [{"type": "file_search"}]}, "tools: file_search"),
            (
                {
                    "messages": [
                        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
                    ]
                },
                "messages[].content: image_url",
            ),
        ],
    )
    def test_what_nobody_can_bound_is_refused_by_name(self, http, limited, customer, feature, name):
        limited(customer, max_budget="100", mode="strict")

        answer = call(http, customer, model="per-token", max_tokens=10, **feature)

        if name is None:
            assert answer.status_code == 200
        else:
            assert answer.status_code == 400
            assert name in answer.json()["error"]["message"]
            assert answer.json()["error"]["type"] == "invalid_request_error"


class TestDefaults:
    def test_a_key_s_default_limits_its_customers_from_their_first_call(self, gateway, customer):
        from customers.models import Budget

        budget = gateway.execute_orm(Budget.objects.create, max_budget=Decimal("0.1"))
        _, secret = gateway.create_key(customer_budget=budget)
        headers = {"authorization": f"Bearer {secret}"}

        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, verify=False) as client:
            answers = [call(client, who) for who in (customer, customer, f"{customer}-2")]

        assert [answer.status_code for answer in answers] == [200, 400, 200]

    def test_an_edited_limit_is_in_force_within_two_seconds(self, http, limited, customer, gateway):
        budget = limited(customer, max_budget="0.1")
        assert [call(http, customer).status_code for _ in range(2)] == [200, 400]

        budget.max_budget = Decimal("0.2")
        gateway.execute_orm(budget.save)

        assert is_true_within(2, lambda: call(http, customer).status_code == 200)
        assert call(http, customer).status_code == 400


class TestHeaders:
    def test_they_say_what_is_spent_and_left(self, gateway, customer):
        from customers.models import Budget

        budget = gateway.execute_orm(Budget.objects.create, max_budget=Decimal("0.5"))
        _, secret = gateway.create_key(budget=budget)
        headers = {"authorization": f"Bearer {secret}"}

        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, verify=False) as client:
            call(client, customer)
            assert is_true_within(2, lambda: gateway.rows(customer_id=customer))
            answer = call(client, customer)

        assert answer.headers["x-litellm-key-spend"] == "0.2"
        assert answer.headers["x-litellm-key-max-budget"] == "0.5"
        assert answer.headers["x-litellm-key-remaining-budget"] == "0.3"

    def test_calls_of_almost_nothing_add_up_exactly(self, gateway, customer):
        from customers.models import Budget

        budget = gateway.execute_orm(Budget.objects.create, max_budget=Decimal("0.5"))
        _, secret = gateway.create_key(budget=budget)
        headers = {"authorization": f"Bearer {secret}"}

        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, verify=False) as client:
            answers = [call(client, customer, model="tiny") for _ in range(39)]
            gateway.wait_booked(39, customer_id=customer)
            last = call(client, customer, model="tiny")

        costs = [answer.headers["x-litellm-response-cost"] for answer in (*answers, last)]
        assert set(costs) == {"0.0000001"}
        assert sum(map(Decimal, costs)) == Decimal(last.headers["x-litellm-key-spend"]) == Decimal("0.000004")
        assert last.headers["x-litellm-key-remaining-budget"] == "0.499996"


class TestRateLimits:
    def test_requests_per_minute(self, http, limited, customer, gateway):
        limited(customer, rpm_limit=2)

        answers = [call(http, customer, model="free") for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        refused = answers[2]
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.json()["error"]["message"].startswith(
            f"Rate limit exceeded for end_user {customer}: 2 requests per 60 s, 0 left, resets "
        )
        assert refused.headers["rate_limit_type"] == "requests"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert answers[0].headers["x-ratelimit-end_user-remaining-requests"] == "1"
        [row] = gateway.wait_booked(1, customer_id=customer, status="refused")
        assert row["error_type"] == "rate_limit_error"
        assert row["metadata"]["refusal"] == {
            "scope": "end_user", "id": customer, "rate_limit_type": "requests", "limit": 2,
            "reset_at": refused.headers["reset_at"],
        }  # fmt: skip

    def test_requests_at_a_time(self, gateway, limited, customer):
        limited(customer, max_parallel_requests=3)

        statuses = asyncio.run(call_at_once(gateway, customer, count=10, model="free"))

        assert (statuses.count(200), statuses.count(429)) == (3, 7)
        assert asyncio.run(call_at_once(gateway, customer, count=1, model="free")) == [200]

    def test_tokens_are_counted_as_used(self, http, limited, customer):
        limited(customer, tpm_limit=1_000)
        fake = {"input_tokens": 900, "output_tokens": 99, "tag": customer}

        first = call(http, customer, model="free", max_tokens=10, fake=fake)
        second = call(http, customer, model="free", max_tokens=10)

        assert (first.status_code, second.status_code) == (200, 429)
        assert second.headers["rate_limit_type"] == "tokens"
