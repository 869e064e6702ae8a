"""
The examples of the user's documents, as they stand there, through `curl` and the SDK.

Host and port are the test's; the models they name are deployments. What the documents
hang on (a comment behind a line's end, one inside a JSON) is left out: no shell and no
JSON parser takes it.
"""

import json
import os
import subprocess
from unittest import mock

import anthropic
import openai
import pytest

from customers.keys import display_name, hash_secret
from tests.gateway import GatewayProcess, is_true_within

pytestmark = pytest.mark.processes

# What the provider is told to use, so that sums can be written down.
USAGE = {"input_tokens": 1_000, "output_tokens": 50}
COST = 1_000 * 150 + 50 * 600  # gpt-4o-mini
GUIDES_KEY = "sk-litellm-master-key-12345"
MODELS = ("gpt-3.5-turbo", "azure-gpt-3.5", "grok-code-fast-1", "mistral")


@pytest.fixture(scope="module")
def gateway(provider):
    """A gateway whose master key is the documents' `sk-1234`, and that serves the models they name."""
    with GatewayProcess(provider=provider, MASTER_KEY="sk-1234") as process:
        process.execute_orm(_make_documents_world)
        process.master_key = "sk-1234"
        provider.behave(**USAGE)
        assert is_true_within(3, lambda: set(MODELS) <= _served(process))
        yield process
        provider.behave()


def _make_documents_world() -> None:
    from customers.models import User, VirtualKey
    from proxy.models import Deployment, Upstream

    for name in MODELS:
        Deployment.objects.create(
            model_name=name, upstream=Upstream.objects.get(name="openai"), upstream_model="gpt-4o-mini"
        )
    # The guide's other master key: a key of an admin, as one imported from LiteLLM is.
    VirtualKey.objects.create(
        token_hash=hash_secret(GUIDES_KEY),
        display_name=display_name(GUIDES_KEY),
        user=User.objects.get(username="admin"),
    )


def _served(gateway: GatewayProcess) -> set[str]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.master_key) as sdk:
        return {model.id for model in sdk.models.list()}


@pytest.fixture
def shell(gateway):
    """Run a command of the documents; return the JSON it prints."""

    def run(command: str) -> dict:
        for address in ("http://0.0.0.0:4000", "http://localhost:4000"):
            command = command.replace(address, gateway.url)
        command = command.replace("curl ", "curl --silent --show-error --noproxy '*' ", 1)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class TestCustomersPage:
    def test_the_first_call_works_and_the_customer_s_spend_is_there(self, shell, gateway):
        answer = shell("""
            curl -X POST 'http://0.0.0.0:4000/chat/completions' \\
                    --header 'Content-Type: application/json' \\
                    --header 'Authorization: Bearer sk-1234' \\
                    --data ' {
                    "model": "azure-gpt-3.5",
                    "user": "ishaan3",
                    "messages": [
                        {
                        "role": "user",
                        "content": "what time is it"
                        }
                    ]
                    }'
            """)
        gateway.wait_booked(1, customer_id="ishaan3")
        customer = shell("""
            curl -X GET 'http://0.0.0.0:4000/customer/info?end_user_id=ishaan3' \\
                    -H 'Authorization: Bearer sk-1234'
            """)

        assert answer["usage"]["total_tokens"] == 1_050
        expected = {"user_id": "ishaan3", "blocked": False, "alias": None, "spend": 0.00018}
        expected |= {"allowed_model_region": None, "default_model": None, "litellm_budget_table": None}
        assert expected.items() <= customer.items()
        assert COST == 180_000  # nano-dollars: the 0.00018 above

    def test_the_webhook_s_call(self, shell, gateway):
        shell("""
            curl -X POST 'http://localhost:4000/chat/completions' \\
            -H 'Content-Type: application/json' \\
            -H 'Authorization: Bearer sk-1234' \\
            -d '{
                "model": "mistral",
                "messages": [
                    {
                    "role": "user",
                    "content": "What'"'"'s the weather like in Boston today?"
                    }
                ],
                "user": "krrish12"
            }
            '
            """)

        [row] = gateway.wait_booked(1, customer_id="krrish12")
        assert (row["model"], row["upstream_model"]) == ("mistral", "gpt-4o-mini")
        assert row["cost"] == COST


class TestCustomerUsagePage:
    def test_the_customer_in_the_body(self, shell, gateway):
        for _ in range(2):
            shell("""
                curl -X POST 'http://0.0.0.0:4000/chat/completions' \\
                  --header 'Content-Type: application/json' \\
                  --header 'Authorization: Bearer sk-1234' \\
                  --data '{
                    "model": "gpt-3.5-turbo",
                    "user": "customer-123",
                    "messages": [
                      {
                        "role": "user",
                        "content": "What is the capital of France?"
                      }
                    ]
                  }'
                """)

        rows = gateway.wait_booked(2, customer_id="customer-123")
        assert [row["cost"] for row in rows] == [COST, COST]
        assert [row["client_tool"] for row in rows] == ["curl", "curl"]
        assert gateway.total("customer", "customer-123")["charge"] == 2 * COST


class TestCostTrackingGuide:
    TAGS = ("project:web-app", "team:backend", "env:production")

    def test_tags_with_curl(self, shell, gateway, provider):
        shell("""
            curl http://localhost:4000/v1/chat/completions \\
              -H "Content-Type: application/json" \\
              -H "Authorization: Bearer sk-litellm-master-key-12345" \\
              -d '{
                "model": "grok-code-fast-1",
                "messages": [{"role": "user", "content": "Hello"}],
                "metadata": {
                  "tags": ["project:web-app", "team:backend", "env:production"]
                }
              }'
            """)

        [row] = [row for row in gateway.wait_booked(1, tag="team:backend") if row["client_tool"] == "curl"]
        assert tuple(row["tags"][:3]) == self.TAGS
        assert row["customer_id"] is None
        seen = provider.requests()[-1]["body"]
        assert "metadata" not in seen  # the provider would refuse a list there
        assert gateway.total("tag", "env:production")["cost"] >= COST

    def test_tags_and_a_user_with_the_sdk(self, gateway):
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=GUIDES_KEY) as client:
            response = client.chat.completions.with_raw_response.create(
                model="grok-code-fast-1",
                messages=[{"role": "user", "content": "Hello"}],
                user="customer_12345",
                extra_body={"metadata": {"tags": ["project:web-app", "team:backend", "env:production"]}},
            )

        [row] = gateway.wait_booked(1, customer_id="customer_12345")
        assert tuple(row["tags"][:3]) == self.TAGS
        assert response.headers["x-litellm-response-cost"] == "0.00018"
        assert response.headers["x-litellm-response-tokens"] == "1050"


class TestClaudeCodePage:
    def test_the_environment_variables_track_a_customer(self, gateway):
        variables = {
            "ANTHROPIC_BASE_URL": gateway.url,
            "ANTHROPIC_API_KEY": "sk-1234",
            "ANTHROPIC_CUSTOM_HEADERS": "x-litellm-customer-id: claude-ishaan-local",
        }
        agent = f"user_{'0' * 64}_account_11111111-2222-3333-4444-555555555555_session_66666666-7777"
        with mock.patch.dict(os.environ, variables), anthropic.Anthropic() as client:
            client.messages.create(
                model="claude-haiku-4-5",
                max_tokens=100,
                messages=[{"role": "user", "content": "Hello"}],
                metadata={"user_id": agent},
                extra_headers={"user-agent": "claude-cli/2.0.1 (external, cli)"},
            )

        [row] = gateway.wait_booked(1, customer_id="claude-ishaan-local")
        assert row["cost"] == 1_000 * 1_000 + 50 * 5_000
        assert row["client_tool"] == "Claude Code"
        assert row["session_id"] == "66666666-7777"
