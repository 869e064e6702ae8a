"""
Calls of the API for its tests, and the cast that makes them.

Alice administers the team red, Bob is on it, Charlie has nothing to do with it. Each has
a key of their own.
"""

import json
from typing import Any

from django.conf import settings
from django.test import TestCase

from customers.models import Team, TeamMembership, User
from customers.services import create_key

MASTER = settings.MASTER_KEY
HUGE = 10**40
# What must never get past a field for text.
BAD_TEXTS = ("with\0nul", "with\nline break", "x" * 256, 7.5, True, {"a": 1}, ["a"])


class ApiTestCase(TestCase):
    """Sends JSON and reads JSON. `key`: who calls; the master key where nothing is said."""

    def send(self, method: str, path: str, body: Any = None, *, key: str = MASTER, **headers: str) -> Any:
        return self.client.generic(
            method,
            path,
            body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode(),
            content_type="application/json",
            headers={"authorization": f"Bearer {key}", **headers},
        )

    def post(
        self, path: str, body: Any = None, *, key: str = MASTER, status: int = 200, **headers: str
    ) -> Any:
        response = self.send("POST", path, body, key=key, **headers)
        self.assertEqual(response.status_code, status, response.content)
        return response.json()

    def get(self, path: str, query: Any = None, *, key: str = MASTER, status: int = 200) -> Any:
        response = self.client.get(path, query or {}, headers={"authorization": f"Bearer {key}"})
        self.assertEqual(response.status_code, status, response.content)
        return response.json()

    def refused(
        self, path: str, body: Any = None, *, status: int = 400, key: str = MASTER, method: str = "POST"
    ) -> dict[str, Any]:
        """Send what must be refused, and return the error. Nothing of it may be done."""
        response = self.send(method, path, body, key=key)
        self.assertEqual(response.status_code, status, response.content)
        error = response.json()["error"]
        self.assertEqual(error["code"], str(status))
        return error


def make_user(name: str, **fields: Any) -> User:
    """Make a user whose id is its name."""
    return User.objects.create(pk=name, username=name, **fields)


def key_of(user: User, **fields: Any) -> str:
    """Make a key for a user, and return its secret."""
    return create_key(user=user, **fields)[1]


class CastTestCase(ApiTestCase):
    """The team red, with Alice and Bob; and Charlie."""

    def setUp(self) -> None:
        self.red = Team.objects.create(pk="red", alias="Red")
        self.alice, self.bob, self.charlie = map(make_user, ("alice", "bob", "charlie"))
        for user, role in ((self.alice, "admin"), (self.bob, "user")):
            TeamMembership.objects.create(team=self.red, user=user, role=role)
        self.alices, self.bobs, self.charlies = map(key_of, (self.alice, self.bob, self.charlie))
