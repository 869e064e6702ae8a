"""
Webhooks from real calls through real workers: none is lost, whoever is killed meanwhile.

Web, worker and beat run under the product's own runner. The receiver checks signatures
with the public library and refuses half of what it gets at first.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import services
from tests.chaos.support.receiver import SECRET, ReceiverServer
from tests.chaos.support.runner import SupervisedGateway
from tests.chaos.support.scale import scaled
from tests.gateway import _free_port, is_true_within
from tests.provider import ProviderProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

CALLS = scaled(30, 300)
KILLS = scaled(2, 8)
GIVES_UP_SECONDS = scaled(240, 600)
AMQP_PORT = 5672


@contextlib.contextmanager
def gateway_telling(
    receiver: ReceiverServer, provider: ProviderProcess, **options: Any
) -> Iterator[SupervisedGateway]:
    with SupervisedGateway(
        provider=provider, DRAIN_SECONDS=3, WEBHOOK_URL=receiver.url, WEBHOOK_SECRET=SECRET,
        WEBHOOK_ALLOW_PRIVATE="127.0.0.0/8", WEBHOOK_TIMEOUT_SECONDS=2, **options,
    ) as gateway:  # fmt: skip
        yield gateway


def call(gateway: SupervisedGateway, first: int, last: int) -> None:
    """Make calls of five customers, one after the other."""
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as http:
        for n in range(first, last):
            response = http.post(
                "/chat/completions",
                headers={"authorization": f"Bearer {gateway.master_key}"},
                json={
                    "model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}],
                    "user": f"customer-{n % 5}",
                },
            )  # fmt: skip
            assert response.status_code == 200, response.text


def assert_all_arrived(gateway: SupervisedGateway, receiver: ReceiverServer, calls: int) -> None:
    """Every call is told, under one id, in an order that its number tells; totals are those booked."""
    is_there = is_true_within(GIVES_UP_SECONDS, lambda: len(receiver.taken) >= calls)
    assert is_there, f"{len(receiver.taken)} of {calls} events arrived\n{gateway.log_text()[-3000:]}"
    assert not receiver.unsigned
    rows = {row["response_id"] or str(row["id"]): row for row in gateway.rows()}
    bodies = sorted(receiver.taken.values(), key=lambda body: body["sequence"])
    assert len(bodies) == len({body["sequence"] for body in bodies}) == calls
    assert sum(body["spend"] for body in bodies) == Decimal(
        sum(row["charge"] for row in rows.values())
    ).scaleb(-9)
    totals: dict[str, Decimal] = {}
    for body in bodies:
        totals[body["customer_id"]] = totals.get(body["customer_id"], Decimal(0)) + body["spend"]
        assert body["total_spend"] == totals[body["customer_id"]]


def test_none_is_lost_when_the_worker_is_killed_again_and_again(provider: ProviderProcess):
    with ReceiverServer(refuses=0.5) as receiver, gateway_telling(receiver, provider) as gateway:
        per_round = CALLS // (KILLS + 1)
        for number in range(KILLS):
            call(gateway, number * per_round, (number + 1) * per_round)
            _wait_for_attempts(receiver, number * per_round + 1)
            # In the middle of it: some have arrived, some are under way or wait.
            for worker in gateway.running("celery", "worker"):
                worker.kill()
        call(gateway, KILLS * per_round, CALLS)

        assert_all_arrived(gateway, receiver, CALLS)


def _wait_for_attempts(receiver: ReceiverServer, count: int) -> None:
    assert is_true_within(GIVES_UP_SECONDS, lambda: len(receiver.attempts) >= count)


@contextlib.contextmanager
def redis_server(folder: Path, port: int) -> Iterator[None]:
    """A Redis of this test's own, that forgets everything when it goes."""
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_none_is_lost_when_the_broker_goes_and_comes_back_empty(provider: ProviderProcess, tmp_path: Path):
    port = _free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    with (
        ReceiverServer(refuses=0.5) as receiver,
        redis_server(tmp_path, port),
        gateway_telling(receiver, provider, CELERY_BROKER_URL=broker) as gateway,
    ):
        call(gateway, 0, 5)
        assert is_true_within(GIVES_UP_SECONDS, lambda: len(receiver.taken) >= 1)
        subprocess.run(["redis-cli", "-p", str(port), "shutdown", "nosave"], check=False, capture_output=True)

        call(gateway, 5, 10)  # nothing of a call waits for the broker
        gateway.wait_booked(10)
        with redis_server(tmp_path, port):
            call(gateway, 10, 15)
            assert_all_arrived(gateway, receiver, 15)


def test_rabbitmq_carries_the_wake_ups_too(provider: ProviderProcess):
    if not services.answers("127.0.0.1", AMQP_PORT):
        pytest.skip("RabbitMQ does not answer")
    broker = f"amqp://guest:guest@127.0.0.1:{AMQP_PORT}//"
    with (
        ReceiverServer() as receiver,
        gateway_telling(receiver, provider, CELERY_BROKER_URL=broker) as gateway,
    ):
        call(gateway, 0, 5)

        assert_all_arrived(gateway, receiver, 5)
