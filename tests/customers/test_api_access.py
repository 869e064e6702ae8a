"""Who may do what: each line of the table (`customers/api/access.py`), through the routes themselves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.test import SimpleTestCase
from django.urls import URLPattern, URLResolver, get_resolver

from customers.api import ManagementView
from customers.api.access import ACCESS, ROLES, TEAM_ADMIN, Action, Scope
from customers.models import Budget, Customer, Tag, Team, TeamMembership, User, VirtualKey
from customers.models.team import MEMBER_PERMISSIONS
from customers.services import create_key
from tests.customers.calling import ApiTestCase, CastTestCase, key_of, make_user

NOT = "\N{EN DASH}"
PAGE = Path(settings.BASE_DIR) / "docs" / "access.md"


class PageTests(SimpleTestCase):
    def test_the_page_has_the_table_as_it_is(self):
        page = PAGE.read_text()

        for line in table():
            self.assertIn(line + "\n", page)
        lines = [
            line for line in page.splitlines() if line.startswith("| ") and line.count("|") == len(ROLES) + 2
        ]
        self.assertEqual(lines, [line for line in table() if not line.startswith("|--")])

    def test_the_page_names_each_permission(self):
        page = PAGE.read_text()

        for permission in MEMBER_PERMISSIONS:
            self.assertIn(f"`{permission}`", page)

    def test_every_action_has_its_line(self):
        self.assertEqual(set(ACCESS), set(Action))


def table() -> list[str]:
    """Return the table as docs/access.md has it."""
    head = "| | " + " | ".join(f"`{role}`" for role in ROLES) + " |"
    lines = [head, "|---" * (len(ROLES) + 1) + "|"]
    for action, row in ACCESS.items():
        cells = [row[role].value if role in row else NOT for role in ROLES]
        lines.append(f"| {action.value} | " + " | ".join(cells) + " |")
    return lines


# -- every route -------------------------------------------------------------------------


def routes() -> Iterator[tuple[str, str, Action]]:
    """Yield (path, method, what it does) of every route of the API."""
    for path, view in _views(get_resolver().url_patterns):
        for method, action in view.actions.items():
            yield path, method, action


def _views(patterns: list[Any], before: str = "/") -> Iterator[tuple[str, type[ManagementView]]]:
    for pattern in patterns:
        path = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _views(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            view = getattr(pattern.callback, "cls", None)
            if isinstance(view, type) and issubclass(view, ManagementView):
                yield _filled(path), view


def _filled(path: str) -> str:
    parts = (
        "1" if part.startswith("<int:") else "none" if part.startswith("<") else part
        for part in path.split("/")
    )
    return "/".join(parts)


class RouteTests(ApiTestCase):
    """No route lets in a role that the table does not name, and none refuses one that it names."""

    def setUp(self):
        self.callers: list[tuple[str, set[str], str]] = []  # (who, its columns of the table, its key)
        for role in User.Role.values:
            user = make_user(role, role=role)
            self.callers.append((role, {role}, key_of(user)))
        alice = make_user("alice")
        TeamMembership.objects.create(team=Team.objects.create(pk="red"), user=alice, role="admin")
        self.callers.append(("alice", {User.Role.INTERNAL_USER.value, TEAM_ADMIN}, key_of(alice)))
        self.callers.append(("no user", {User.Role.INTERNAL_USER.value}, create_key()[1]))

    def test_each_route_lets_in_whom_the_table_names(self):
        for path, method, action in routes():
            for who, columns, key in self.callers:
                with self.subTest(path=path, method=method, who=who):
                    response = self.send(method, path, {} if method != "GET" else b"", key=key)

                    self.assertLess(response.status_code, 500, response.content)
                    is_named = not columns.isdisjoint(ACCESS[action])
                    self.assertEqual(_refuses_the_role(response), not is_named, response.content)

    def test_nobody_is_let_in_without_a_key(self):
        for path, method, _ in routes():
            with self.subTest(path=path, method=method):
                response = self.client.generic(method, path, b"{}", content_type="application/json")

                self.assertEqual(response.status_code, 401)
                self.assertIn("No api key passed in", response.json()["error"]["message"])

    def test_a_viewer_changes_nothing_by_any_route(self):
        for path, method, action in routes():
            if "write" in action.value or "change" in action.value or "make" in action.value:
                self.assertNotIn(User.Role.PROXY_ADMIN_VIEWER.value, ACCESS[action], (path, method))


def _refuses_the_role(response: Any) -> bool:
    """Tell whether this is what `ManagementView` says to a role. LiteLLM's routes differ in the status."""
    if response.status_code not in (400, 401, 403):
        return False
    return json.loads(response.content).get("error", {}).get("message", "").startswith("Role ")


# -- every cell --------------------------------------------------------------------------

OWN, TEAM, OTHER = "own", "of its team", "another's"


class CellTests(ApiTestCase):
    """Each action on a row of the caller's own, of its team, and of somebody else's."""

    def setUp(self):
        self.red, self.blue = (Team.objects.create(pk=name) for name in ("red", "blue"))
        self.keys: dict[str, str] = {}  # by role: its secret
        for role in ROLES:
            user = make_user(role, role="internal_user" if role == TEAM_ADMIN else role)
            on_team = TeamMembership.Role.ADMIN if role == TEAM_ADMIN else TeamMembership.Role.USER
            TeamMembership.objects.create(team=self.red, user=user, role=on_team)
            self.keys[role] = key_of(user)
        make_user("mate")
        TeamMembership.objects.create(team=self.red, user_id="mate")
        charlie = make_user("charlie")
        self.of_team = create_key(team=self.red)[0].token_hash
        self.of_charlie = create_key(user=charlie)[0].token_hash
        Customer.objects.create(pk="acme")
        Budget.objects.create(pk="gold", max_budget=1)
        Tag.objects.create(name="blue")

    def reached(self, action: Action, role: str) -> dict[str, bool]:
        """Return on which rows the action is done."""
        found = {}
        for row, (method, path, body) in self.probes(action, role).items():
            response = self.send(method, path, body if method == "POST" else b"", key=self.keys[role])
            is_done = response.status_code == 200
            is_refused = response.status_code in (401, 403, 404) or _refuses_the_role(response)
            self.assertTrue(is_done or is_refused, response.content)
            found[row] = is_done
        return found

    def probes(self, action: Action, role: str) -> dict[str, tuple[str, str, Any]]:
        """Return a call of the action for each kind of row that there is of it."""
        keys = {OWN: self.keys[role], TEAM: self.of_team, OTHER: self.of_charlie}
        teams = {TEAM: "red", OTHER: "blue"}
        users = {OWN: role, TEAM: "mate", OTHER: "charlie"}
        match action:
            case Action.READ_KEYS:
                return {row: ("GET", f"/key/info?key={key}", None) for row, key in keys.items()}
            case Action.WRITE_KEYS:
                return {
                    row: ("POST", "/key/update", {"key": key, "metadata": {}}) for row, key in keys.items()
                }
            case Action.READ_TEAMS:
                return {row: ("GET", f"/team/info?team_id={team}", None) for row, team in teams.items()}
            case Action.WRITE_TEAMS:
                changed = {"team_alias": "new"}
                return {
                    row: ("POST", "/team/update", {"team_id": team, **changed}) for row, team in teams.items()
                }
            case Action.MANAGE_TEAMS:
                return {row: ("POST", "/team/unblock", {"team_id": team}) for row, team in teams.items()}
            case Action.READ_USERS:
                return {row: ("GET", f"/v2/user/info?user_id={user}", None) for row, user in users.items()}
            case Action.WRITE_USERS:
                return {
                    row: ("POST", "/user/update", {"user_id": user, "user_alias": "new"})
                    for row, user in users.items()
                }
            case Action.READ_CUSTOMERS:
                return {OTHER: ("GET", "/customer/info?end_user_id=acme", None)}
            case Action.WRITE_CUSTOMERS:
                return {OTHER: ("POST", "/customer/update", {"user_id": "acme", "alias": "new"})}
            case Action.READ_BUDGETS:
                return {OTHER: ("POST", "/budget/info", {"budgets": ["gold"]})}
            case Action.WRITE_BUDGETS:
                return {OTHER: ("POST", "/budget/update", {"budget_id": "gold", "max_budget": 2})}
            case Action.READ_TAGS:
                return {OTHER: ("POST", "/tag/info", {"names": ["blue"]})}
            case Action.WRITE_TAGS:
                return {OTHER: ("POST", "/tag/update", {"name": "blue", "description": "new"})}
        return {}

    def allowed(self, action: Action, role: str) -> set[str]:
        """Return on which rows the table says that the role may do it."""
        # Who administers the team is an internal user besides.
        columns = ("internal_user", TEAM_ADMIN) if role == TEAM_ADMIN else (role,)
        rows: set[str] = set()
        for scope in (ACCESS[action].get(column) for column in columns):
            if scope is Scope.ALL:
                rows |= {OWN, TEAM, OTHER}
            elif scope is Scope.TEAMS:
                rows |= {TEAM}
            elif scope is Scope.OWN:
                rows |= {OWN, TEAM} if action is Action.READ_TEAMS else {OWN}  # the teams that it is on
        return rows

    def test_each_cell_is_as_the_table_says(self):
        for action in Action:
            for role in ROLES:
                with self.subTest(action=action.name, role=role):
                    allowed = self.allowed(action, role)

                    for row, is_done in self.reached(action, role).items():
                        self.assertEqual(is_done, row in allowed, row)

    def test_what_is_out_of_reach_looks_like_what_is_not_there(self):
        bob = self.keys["internal_user"]
        for path, there, absent in (
            ("/team/info?team_id=", "blue", "none"),
            ("/v2/user/info?user_id=", "charlie", "none"),
        ):
            answers = [
                self.refused(path + name, method="GET", status=404, key=bob) for name in (there, absent)
            ]

            self.assertEqual(answers[0]["message"].replace(there, absent), answers[1]["message"])
            self.assertEqual(answers[0]["type"], answers[1]["type"])


class OwnNameTests(CastTestCase):
    """Whoever makes a key knows its secret: nobody makes one that acts in the API as somebody else."""

    def setUp(self):
        super().setUp()
        self.boss = make_user("boss", role="proxy_admin")
        self.post("/team/member_add", {"team_id": "red", "member": {"user_id": "boss"}}, key=self.alices)

    def test_a_key_that_alice_makes_for_a_member_only_makes_calls(self):
        made = self.post("/key/generate", {"team_id": "red", "user_id": "boss"}, key=self.alices)

        self.assertEqual((made["user_id"], made["key_type"]), ("boss", "llm_api"))
        self.refused("/user/new", {"user_id": "evil"}, status=403, key=made["key"])
        self.refused("/user/info?user_id=bob", method="GET", status=403, key=made["key"])

    def test_she_makes_none_that_could_do_more(self):
        for more in ({"key_type": "default"}, {"key_type": "management"}, {"allowed_routes": ["/user/new"]}):
            with self.subTest(more):
                body = {"team_id": "red", "user_id": "boss", **more}
                self.refused("/key/generate", body, status=403, key=self.alices)
        self.assertFalse(VirtualKey.objects.filter(user=self.boss).exists())

    def test_she_makes_none_of_a_key_whose_secret_she_knows(self):
        own = self.post("/key/generate", {"team_id": "red"}, key=self.alices)["token"]
        nobodys = self.post("/key/generate", {"team_id": "red", "user_id": None}, key=self.alices)["token"]
        callers = self.post("/key/generate", {"team_id": "red", "user_id": "boss"}, key=self.alices)["token"]

        for body in (
            {"key": own, "user_id": "boss"},
            {"key": nobodys, "user_id": "boss"},
            {"key": callers, "key_type": "default"},
            {"key": callers, "allowed_routes": ["management_routes"]},
        ):
            with self.subTest(body):
                self.refused("/key/update", body, status=403, key=self.alices)
        self.assertEqual(VirtualKey.objects.get(user=self.boss).key_type, "llm_api")

    def test_she_does_not_learn_the_secret_of_a_member_s_key(self):
        key, _ = create_key(user=self.boss, team=self.red)

        self.refused("/key/regenerate", {"key": key.token_hash}, status=403, key=self.alices)
        self.post("/key/update", {"key": key.token_hash, "max_budget": 1}, key=self.alices)
        self.post("/key/block", {"key": key.token_hash}, key=self.alices)

        self.assertEqual(VirtualKey.objects.get(pk=key.pk).token_hash, key.token_hash)

    def test_a_proxy_admin_may(self):
        made = self.post("/key/generate", {"team_id": "red", "user_id": "bob"})

        self.assertEqual(made["key_type"], "default")
        self.post("/key/regenerate", {"key": made["key"]})
