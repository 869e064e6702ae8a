"""The examples of the documents, as somebody pastes them into a shell, against a gateway of their own."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway import GatewayProcess
from tests.provider.process import PROJECT_ROOT

pytestmark = pytest.mark.processes

# In this order: some examples go on with what those before them made.
PAGES = (
    "README.md",
    "docs/api.md",
    *(f"docs/api/{name}.md" for name in ("customers", "budgets", "keys", "teams", "users", "tags", "models")),
    "docs/api/logs.md",
    "docs/api/spend.md",
    "docs/audit.md",
    "docs/alerts.md",
    "docs/webhooks.md",
)
# What of the pages before is in a page's way, as its examples make it once more.
IN_THE_WAY = {
    "docs/api.md": ("/key/delete", {"key_aliases": ["acme-prod"]}),
    "docs/api/keys.md": ("/key/delete", {"key_aliases": ["acme-prod"]}),
    "docs/api/customers.md": ("/customer/delete", {"user_ids": ["acme-042"]}),
}
_BLOCK = re.compile("^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r"(http://)?localhost:4000")
# An error answer ends the shell; nothing of the environment's is between a test and its own machine.
_SHELL = """
set -eu
curl() { command curl --silent --show-error --fail-with-body --noproxy '*' --max-time 30 "$@"; echo; }
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Iterator["Reader"]:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    with GatewayProcess() as gateway:
        yield Reader(gateway, tmp_path_factory.mktemp("reader"))


class Reader:
    """Somebody who tries the examples."""

    def __init__(self, gateway: GatewayProcess, folder: Path) -> None:
        self._gateway = gateway
        self._folder = folder
        self._key = ""

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        script = _ADDRESS.sub(self._gateway.url, script).replace("source .env", "")
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "MASTER_KEY": self._gateway.master_key}
        return subprocess.run(
            ["bash", "-c", _SHELL + script],
            cwd=self._folder,
            env={**environment, "KEY": self._key},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def go_on(self, example: str, answers: str) -> None:
        """Wait until its call is booked; keep the last key that an answer shows: `$KEY` of what follows."""
        if "/chat/completions" in example:
            self._gateway.wait_booked(1)
        for secret in re.findall(r'"key": ?"(sk-[\w-]+)"', answers):
            self._key = secret

    def clear(self, path: str, body: dict[str, list[str]]) -> None:
        headers = {"authorization": f"Bearer {self._gateway.master_key}"}
        httpx.post(self._gateway.url + path, json=body, headers=headers, trust_env=False).raise_for_status()


def blocks(page: str) -> list[str]:
    """Return the blocks of a page that ask the gateway something."""
    text = (PROJECT_ROOT / page).read_text()
    return [block for block in _BLOCK.findall(text) if re.search("^curl ", block, re.MULTILINE)]


def test_every_page_with_examples_is_tried():
    pages = [
        "README.md",
        *sorted(str(path.relative_to(PROJECT_ROOT)) for path in (PROJECT_ROOT / "docs").rglob("*.md")),
    ]

    assert [page for page in pages if blocks(page) and page not in PAGES] == []


@pytest.mark.parametrize("page", PAGES)
def test_its_examples_do_what_they_say(page, reader):
    """One process for each page: each goes on with what those before it made."""
    found = blocks(page)
    assert found, f"{page} has no examples any more: take it from the list"
    if page in IN_THE_WAY:
        reader.clear(*IN_THE_WAY[page])
    for block in found:
        for example in re.split(r"\n\s*\n", block):  # one that makes a key comes before those that use it
            done = reader.run(example)
            assert done.returncode == 0, f"{example}\n{done.stdout}{done.stderr}"
            reader.go_on(example, done.stdout)
