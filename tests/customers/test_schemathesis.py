"""
Calls of every route of the OpenAPI document, with what its schemas allow and much of what they do not.

Whatever comes in, the answer is one that the document tells: never a 5xx, no other status,
a body of the shape that is written there. CHAOS=long tries many more.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.customers.calling import MASTER, CastTestCase

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_IS_LONG = os.environ.get("CHAOS") == "long"
_EXAMPLES = 150 if _IS_LONG else 8
_ELSEWHERE = "Proxied calls"  # served by another handler: tests/proxy


@contextmanager
def _connection_stays_open() -> Iterator[None]:
    """Each request would close the connection, and with it the test's transaction."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)


@pytest.mark.timeout(3600 if _IS_LONG else 300)
class EveryRouteTests(CastTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(_connection_stays_open())
        self.schema = schemathesis.openapi.from_wsgi("/openapi.json", get_wsgi_application())

    def call(self, operation: Any) -> None:
        """Call one route with each example twice: as an internal user, and with the master key."""
        cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))

        @seed(zlib.crc32(operation.label.encode()))  # the same calls in each run, others for each route
        @settings(
            max_examples=_EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def answer_is_as_told(case: Any) -> None:
            for key in (self.bobs, MASTER):
                # A savepoint each: what one refused call left behind must not be why the next one fails.
                with transaction.atomic():
                    response = case.call(headers={"authorization": f"Bearer {key}"})
                    transaction.set_rollback(response.status_code >= 400)
                case.validate_response(response, checks=_CHECKS)

        answer_is_as_told()

    def test_whoever_calls_is_answered_as_the_document_tells(self):
        for found in self.schema.get_all_operations():
            operation = found.ok()
            if _ELSEWHERE not in operation.tags:
                with self.subTest(operation=operation.label):
                    self.call(operation)
