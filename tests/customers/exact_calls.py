"""Calls of the API for tests of exact amounts and of its error envelopes."""

import json
import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.test import TestCase

from customers.models import User
from customers.services import create_key

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}
# Texts that no id may be.
UNCLEAN_IDS = ("", "a\nb", "a\u2028b", "\x7f", "x" * 256)


class ExactApiTestCase(TestCase):
    """`get` and `post` return (status, the answer with amounts as Decimal)."""

    def get(self, path: str, headers: dict[str, str] = MASTER, **query: Any) -> tuple[int, Any]:
        return self._read(self.client.get(path, query, headers=headers))

    def post(self, path: str, body: Any, headers: dict[str, str] = MASTER) -> tuple[int, Any]:
        return self._read(
            self.client.post(path, json.dumps(body), content_type="application/json", headers=headers)
        )

    def post_raw(self, path: str, body: bytes) -> tuple[int, Any]:
        return self._read(self.client.post(path, body, content_type="application/json", headers=MASTER))

    def _read(self, response: Any) -> tuple[int, Any]:
        self.response = response
        return response.status_code, json.loads(response.content, parse_float=Decimal)

    def done(self, answered: tuple[int, Any]) -> Any:
        """Return the answer of what must have worked."""
        status, body = answered
        self.assertEqual(status, 200, body)
        return body

    def assert_error(
        self, answered: tuple[int, Any], status: int, type_: str, param: str | None = None
    ) -> str:
        """Check an error in the `error` envelope, and return its message."""
        self.assertEqual(answered[0], status, answered[1])
        self.assertEqual(list(answered[1]), ["error"])
        error = answered[1]["error"]
        self.assertEqual((error["type"], error["param"], error["code"]), (type_, param, str(status)), error)
        return error["message"]

    def assert_detail(self, answered: tuple[int, Any], status: int) -> str:
        """Check an error in the `detail` envelope, and return its message."""
        self.assertEqual(answered[0], status, answered[1])
        self.assertEqual(list(answered[1]), ["detail"])
        return answered[1]["detail"]["error"]

    def assert_invalid(self, answered: tuple[int, Any], *location: Any) -> None:
        """Check a 422, whose first problem is at `location`."""
        self.assertEqual(answered[0], 422, answered[1])
        problem = answered[1]["detail"][0]
        self.assertEqual(problem["loc"], list(location))
        self.assertTrue(problem["type"] and problem["msg"])

    def key_of(self, role: str | None, **fields: Any) -> dict[str, str]:
        """Return the headers of a key whose user has `role`; None: of a key without a user."""
        user = role and User.objects.create(username=uuid.uuid4().hex, role=role)
        _, secret = create_key(user=user or None, **fields)
        return {"authorization": f"Bearer {secret}"}


def instant(text: str) -> datetime:
    """Read an instant of an answer, which must be written in UTC with a Z."""
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)
