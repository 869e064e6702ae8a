"""
Take the screenshots of the admin that README and docs show: `make screenshots`.

Makes a site of its own in a temporary folder, sends it some calls to the demo
model, and photographs pages with headless Chromium. A small relay in front adds the
log-in's cookie, since Chromium's command line cannot.
"""

import http.client
import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "screenshots"
PORT = 4879
RELAY_PORT = 4880
MASTER_KEY = "sk-master-key-of-the-screenshots"
CUSTOMERS = ("acme", "globex", "initech", "umbrella", "hooli")
# What a budget of two weeks looks like, in the first customer's calls: each admitted, then settled.
BUDGETS = f"""
from datetime import timedelta
from decimal import Decimal
import random

from django.utils import timezone

from billing.budget_bars import allowances
from billing.periods import start_afresh
from customers.models import Budget, Customer
from tests.billing.budgets import admitted, settle

dice, now, who = random.Random(7), timezone.now(), "{CUSTOMERS[0]}"
by_model = {{"gpt-4o": {{"budget_limit": "60"}}}}
budget = Budget.objects.create(
    id="pro", max_budget=Decimal(5), budget_duration="1d", model_max_budget=by_model
)
Customer.objects.create(id=who, alias="Acme Corp", budget=budget)
daily, of_model = allowances(budget)


def limits(at):
    return [(limit.period(("customer", who), at), str(limit.limit)) for limit in (daily, of_model)]


for day in range(14, -1, -1):
    for call in range(dice.randint(4, 7)):
        at = now - timedelta(days=day, seconds=600 - call)
        settle(admitted(*limits(at), customer_id=who, at=at), cost_usd=f"{{dice.uniform(0.1, 0.9):.6f}}")
    if day == 3:
        start_afresh([limits(at)[0][0]], at=at + timedelta(seconds=1))
settle(admitted(*limits(now), customer_id=who, at=now, amount_usd="0.35"), cost_usd=None)
for _ in range(3):
    admitted(*limits(now), customer_id=who, at=now, amount_usd="0.2", lease_s=3600)
"""
TAGS = ("project:web-app", "project:api-v2", "team:backend", "env:production", "env:staging")


SEED = ("seed_demo", "--rows", "60000", "--customers", "400", "--days", "60", "--yes")
DARK = "--blink-settings=preferredColorScheme=0"
USAGE = (
    ("usage", "/admin/usage/", "1400,1250"),
    ("usage-customers", "/admin/usage/customers/?compare=previous", "1400,1500", DARK),
    ("usage-customer", f"/admin/usage/customer/?customer={CUSTOMERS[0]}", "1400,1500"),
    (
        "usage-compared",
        "/admin/usage/customers/?customer=customer-000001&customer=customer-000004&compare=customers",
        "1400,1350",
    ),
    ("usage-narrow", "/admin/usage/customers/?period=7d", "500,1300"),
)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is needed. On Debian: apt install chromium")
    folder = Path(tempfile.mkdtemp())
    environment = {
        **os.environ,
        "ENV_FILE": str(folder / "env"),
        "VAR_DIR": str(folder / "var"),
        "DATABASE_URL": f"sqlite:///{folder}/shots.sqlite3",
        "MASTER_KEY": MASTER_KEY,
        "ADMIN_PASSWORD": "of-no-use-elsewhere",
    }
    manage = [sys.executable, str(ROOT / "manage.py")]
    subprocess.run([*manage, "bootstrap"], env=environment, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*manage, "shell", "-v", "0", "-c", BUDGETS], env=environment, check=True)
    server = subprocess.Popen([*manage, "serve", "--host", "127.0.0.1", "--port", str(PORT)], env=environment)
    try:
        _wait_until_ready()
        _make_calls()
        cookie, log_id, customer = _log_in(manage, environment)
        threading.Thread(target=_relay(cookie).serve_forever, daemon=True).start()
        for name, path, size in (
            ("overview", "/admin/", "1400,900"),
            ("logs", "/admin/billing/spendlog/", "1400,900"),
            ("explain", f"/admin/billing/spendlog/{log_id}/change/", "1400,1420"),
            ("customers", "/admin/customers/customer/", "1400,800"),
            ("customer", f"/admin/customers/customer/{customer}/change/", "1400,1300"),
            ("budget", f"/admin/customers/customer/{CUSTOMERS[0]}/change/", "1400,900"),
            ("periods", f"/admin/customers/customer/{CUSTOMERS[0]}/periods/", "1400,900"),
            ("logs-narrow", "/admin/billing/spendlog/", "500,900"),
        ):
            _photograph(chromium, path, TARGET / f"{name}.png", size)
            print(f"docs/screenshots/{name}.png")
        # Last, since the pages above are to show few rows: two months of calls, and proof of their sums.
        subprocess.run([*manage, *SEED], env=environment, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*manage, "reconcile"], env=environment, check=True, stdout=subprocess.DEVNULL)
        for name, path, size, *flags in USAGE:
            _photograph(chromium, path, TARGET / f"{name}.png", size, *flags)
            print(f"docs/screenshots/{name}.png")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready() -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health/readiness")
            return
        except OSError:
            time.sleep(0.2)
    sys.exit("the server did not start")


def _make_calls() -> None:
    dice = random.Random(7)
    for number in range(60):
        body = {
            "model": "demo" if number % 15 else "unknown-model",
            "user": dice.choice(CUSTOMERS),
            "messages": [{"role": "user", "content": "word " * dice.randint(5, 900)}],
            "metadata": {"tags": dice.sample(TAGS, 2)},
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {MASTER_KEY}",
                "user-agent": dice.choice(
                    ["OpenAI/Python 2.1.0", "claude-cli/2.0.1 (external, cli)", "curl/8.5.0"]
                ),
            },
        )
        try:
            urllib.request.urlopen(request).read()
        except urllib.error.HTTPError as error:
            error.read()
    time.sleep(1)


def _log_in(manage: list[str], environment: dict[str, str]) -> tuple[str, str, str]:
    """Return (the session cookie, a log's id, a customer's id)."""
    script = (
        "from django.contrib.sessions.backends.db import SessionStore\n"
        "from customers.models import User\n"
        "from billing.models import SpendLog\n"
        "user = User.objects.get(username='admin')\n"
        "session = SessionStore()\n"
        "session['_auth_user_id'] = user.pk\n"
        "session['_auth_user_backend'] = 'django.contrib.auth.backends.ModelBackend'\n"
        "session['_auth_user_hash'] = user.get_session_auth_hash()\n"
        "session.save()\n"
        "log = SpendLog.objects.filter(status='success').order_by('-id').first()\n"
        "print('SHOTS', session.session_key, log.pk, log.customer_id)\n"
    )
    output = subprocess.run(
        [*manage, "shell", "-v", "0", "-c", script],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    line = next(line for line in output.splitlines() if line.startswith("SHOTS"))
    _, key, log_id, customer = line.split()
    return f"sessionid={key}", log_id, customer


def _relay(cookie: str) -> http.server.ThreadingHTTPServer:
    class Relay(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", PORT)
            connection.request("GET", self.path, headers={"cookie": cookie, "host": f"127.0.0.1:{PORT}"})
            answer = connection.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            return

    return http.server.ThreadingHTTPServer(("127.0.0.1", RELAY_PORT), Relay)


def _photograph(chromium: str, path: str, target: Path, size: str, *flags: str) -> None:
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                *flags, "--hide-scrollbars", f"--user-data-dir={profile}", f"--window-size={size}",
                "--virtual-time-budget=4000", f"--screenshot={target}", f"http://127.0.0.1:{RELAY_PORT}{path}",
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


if __name__ == "__main__":
    main()
