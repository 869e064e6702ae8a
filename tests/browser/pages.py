"""What the tests in a browser share: rows, a server, Chromium, someone logged in, and axe-core."""

import contextlib
import json
import unittest
from collections.abc import Iterator

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.core.management import call_command

from customers.models import User
from tests import services
from tests.browser.chromium import Chromium, Page

WIDTHS = (360, 768, 1280, 3840)
_DARK = "document.documentElement.classList.add('dark')"
# A rule of axe's is left out with its reason, and nothing else is.
_AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
_AXE_COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
needs_axe = unittest.skipUnless(services.axe(), "no axe-core here: make browser")


@unittest.skipUnless(services.chromium(), "no Chromium here: apt install chromium")
class BrowserTestCase(StaticLiveServerTestCase):
    """A class's tests share its server, its browser and its rows: a test that needs others makes them.

    Alice is logged in on every page.
    """

    @classmethod
    def setUpClass(cls) -> None:
        settings.STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns of a missing one
        cls.addClassCleanup(call_command, "flush", verbosity=0, interactive=False)  # after the server is gone
        super().setUpClass()
        cls.browser = cls.enterClassContext(Chromium(services.chromium()))
        cls.cookie = _log_in(User.objects.create_superuser("alice", password="correct horse"))
        cls.make_rows()

    @classmethod
    def make_rows(cls) -> None:
        """Make the rows that the class's pages show."""

    def _fixture_teardown(self) -> None:
        """Leave the rows. Optimization: Django's empties every table, which takes longer than most tests."""

    @contextlib.contextmanager
    def page(
        self, path: str, *, width: int = 1280, height: int = 900, dark: bool = False, before: str = ""
    ) -> Iterator[Page]:
        """Open a page, and see to it that its console has nothing to complain of.

        before: a script that runs in it before its own.
        """
        page = self.browser.page(width=width, height=height)
        page.set_cookie(self.live_server_url, settings.SESSION_COOKIE_NAME, self.cookie)
        if dark:
            scheme = {"name": "prefers-color-scheme", "value": "dark"}
            page.call("Emulation.setEmulatedMedia", features=[scheme])
        if before:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.open(page, path)
        yield page
        self.assertEqual(page.errors, [])
        page.close()

    def open(self, page: Page, path: str) -> None:
        page.open(f"{self.live_server_url}{path}")

    def address(self, page: Page) -> str:
        return page.evaluate("location.pathname + location.search")

    def assert_no_width_scrolls_sideways(self, page: Page) -> None:
        """Widen the page as it stands: what it looks like is its style sheet's work."""
        for width in WIDTHS:
            page.resize(width, 900)
            # Charts follow a frame later.
            page.wait(f"document.documentElement.scrollWidth <= {width}", f"the page to fit into {width} px")

    def assert_axe_finds_nothing(self, page: Page, part: str) -> None:
        """Check one part of the page with every rule; then, dark, its colours: all else stays as it is."""
        page.evaluate(services.axe().read_text())
        self.assertEqual(_violations(page, part, _AXE), [])
        page.evaluate(_DARK)
        self.assertEqual(_violations(page, part, _AXE_COLOURS), [], "dark")


def _log_in(user: User) -> str:
    """Return the key of a session."""
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
    session["_auth_user_hash"] = user.get_session_auth_hash()
    session.save()
    return session.session_key


def _violations(page: Page, part: str, options: dict) -> list[str]:
    run = f"axe.run({json.dumps(part)}, {json.dumps(options)}).then((result) => result.violations)"
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]} {node['any'][:1]}"
        for each in page.evaluate(run)
        for node in each["nodes"]
    ]
