"""
The proxied routes leave the event loop alone: no query and no thread hop in it (invariant C4).

The real ASGI application runs in this process, with a database as `tests/gateway.py`
makes it; in the loop's thread every way to the database raises.
"""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections

from spendproject import environment
from tests.gateway import GatewayProcess, template
from tests.provider import ProviderProcess
from tests.provider.process import PROJECT_ROOT

pytestmark = pytest.mark.processes

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


class NoDatabaseHere:
    """Stands for the connection of the event loop's thread."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the event loop asked its database connection for {name!r}")


@pytest.fixture
def database(tmp_path: Path, settings: Any, provider: ProviderProcess) -> Iterator[None]:
    """Let every thread of this process but the loop's work on a copy of the template's database."""
    url = template().copy_database(tmp_path)
    settings.JOURNAL_DIR = tmp_path / "journal"
    settings.RECORDER_SECONDS = 0.05
    entry = environment.database(url, base_dir=PROJECT_ROOT)
    entry = connections.configure_settings({"default": entry})["default"]
    variables = {
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "ANTHROPIC_BASE_URL": provider.url,
        "OPENAI_API_KEY": "sk-openai-of-the-gateway",
        "ANTHROPIC_API_KEY": "sk-ant-of-the-gateway",
    }
    with (
        mock.patch.dict("os.environ", variables),
        mock.patch.dict(connections.settings, {"default": entry}),
        GatewayProcess.database_permit(),
    ):
        yield
    template().drop_database(url)


@contextlib.contextmanager
def no_way_out() -> Iterator[None]:
    """Forbid this thread the database, and every `sync_to_async`."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"sync_to_async was called for {self.func}")

    own = connections["default"]
    connections["default"] = NoDatabaseHere()
    try:
        with mock.patch.object(SyncToAsync, "__call__", refuse):
            yield
    finally:
        connections["default"] = own


@contextlib.asynccontextmanager
async def running_application() -> AsyncIterator[httpx.AsyncClient]:
    """Start the ASGI application as a server does, and stop it again."""
    from spendproject.asgi import application

    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    thresholds = gc.get_threshold()
    lifespan = asyncio.create_task(application({"type": "lifespan"}, said.get, heard.put))
    await said.put({"type": "lifespan.startup"})
    started = await heard.get()
    assert started["type"] == "lifespan.startup.complete", started
    try:
        transport = httpx.ASGITransport(application, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client
    finally:
        await said.put({"type": "lifespan.shutdown"})
        await lifespan
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def made(function: Any, **fields: Any) -> Any:
    """Call `function` in a thread, whose connection is closed afterwards."""

    def call() -> Any:
        try:
            return function(**fields)
        finally:
            connections.close_all()

    return asyncio.get_running_loop().run_in_executor(None, call)


def test_no_proxied_route_touches_the_database_or_another_thread_in_the_loop(database, settings, customer):
    from billing.models import SpendLog
    from customers.services import create_key

    async def calls(client: httpx.AsyncClient, key: str) -> list[int]:
        call = {"model": "gpt-4o-mini", "messages": HELLO, "user": customer, "fake": {"tag": customer}}
        message = {**call, "model": "claude-haiku-4-5", "max_tokens": 10}
        bearer = {"authorization": f"Bearer {key}"}
        answers = [
            await client.post(CHAT, json=call, headers=bearer),  # the key is seen for the first time
            await client.post(CHAT, json=call, headers=bearer),
            await client.post(CHAT, json={**call, "stream": True}, headers=bearer),
            await client.post("/v1/messages", json=message, headers={"x-api-key": key}),
            await client.post("/v1/messages", json={**message, "stream": True}, headers=bearer),
            await client.post("/v1/messages/count_tokens", json=message, headers=bearer),
            await client.post("/v1/responses", json={**call, "input": "Hello"}, headers=bearer),
            await client.post("/v1/embeddings", json={**call, "input": "Hello"}, headers=bearer),
            await client.get("/v1/models", headers=bearer),
            await client.get("/v1/models/gpt-4o-mini", headers=bearer),
            await client.post(CHAT, json={**call, "model": "unknown"}, headers=bearer),
            await client.post(CHAT, content=b"not json", headers=bearer),
            await client.post(CHAT, json={**call, "fake": {"status": 500}}, headers=bearer),
            await client.post(CHAT, json=call, headers={"authorization": "Bearer sk-unknown"}),
            await client.post(CHAT, json=call),
            await client.get(CHAT, headers=bearer),
            await client.post("/v1/nothing", json=call, headers=bearer),
        ]
        return [answer.status_code for answer in answers]

    async def main() -> tuple[list[int], int]:
        async with running_application() as client:
            _, secret = await made(create_key)
            with no_way_out():
                by_key = await calls(client, secret)
                by_master_key = await calls(client, settings.MASTER_KEY)
        booked = await made(SpendLog.objects.filter(customer=customer, status="success").count)
        assert by_key == by_master_key
        return by_key, booked

    statuses, booked = asyncio.run(main())

    assert statuses == [200] * 10 + [400, 400, 500, 401, 401, 405, 404]
    assert booked == 2 * 7


def test_a_finished_call_is_gone_without_the_garbage_collector(database, settings):
    """Its rounds stop the loop for tens of milliseconds: nothing of a call may wait for one."""
    from proxy.calls import Call

    async def main() -> None:
        call = {"model": "gpt-4o-mini", "messages": HELLO}
        bearer = {"authorization": f"Bearer {settings.MASTER_KEY}"}
        async with running_application() as client:
            for given in (call, {**call, "stream": True}, {**call, "fake": {"status": 500}}):
                await client.post(CHAT, json=given, headers=bearer)
            await asyncio.sleep(0.1)

    def calls() -> list[Call]:
        return [thing for thing in gc.get_objects() if type(thing) is Call]  # `isinstance` wakes lazy objects

    gc.collect()
    before = calls()  # other tests' own
    gc.disable()
    try:
        asyncio.run(main())
        assert [call for call in calls() if not any(call is old for old in before)] == []
    finally:
        gc.enable()


def test_the_guard_itself_bites(database):
    from customers.models import Customer

    async def query() -> None:
        with no_way_out():
            with pytest.raises(AssertionError, match="sync_to_async was called"):
                await sync_to_async(len)([])
            with pytest.raises(AssertionError, match="asked its database connection"):
                Customer.objects.count()

    asyncio.run(query())


class TestTheRestOfTheSite:
    """Django's own handler serves it, in the same process, and does not get in the way."""

    def test_head_of_the_root_says_that_somebody_is_there(self, http):
        response = http.head("/")

        assert (response.status_code, response.content) == (200, b"")

    def test_the_root_leads_to_the_admin(self, http):
        assert http.get("/").headers["location"] == "/admin/"
        assert http.get("/ui").headers["location"] == "/admin/"

    @pytest.mark.parametrize("path", ["/health/liveliness", "/health/liveness"])
    def test_it_is_alive(self, http, path):
        assert json.loads(http.get(path).content) == "I'm alive!"

    def test_it_is_ready(self, http, gateway):
        report = http.get("/health/readiness").json()

        assert report["status"] == "healthy"
        assert report["db"] == "connected"
        assert report["broker"] == "connected"
        assert report["journal"]["last_error"] is None
