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
sys.path.insert(0, str(ROOT))

from tests.browser.chromium import Chromium  # noqa: E402  run as a file, this one finds the others only now

TARGET = ROOT / "docs" / "screenshots"
PORT = 4879
RELAY_PORT = 4880
RECEIVER_PORT = 4881
MASTER_KEY = "sk-master-key-of-the-screenshots"
CUSTOMERS = ("acme", "globex", "initech", "umbrella", "hooli")
# What a budget of two weeks looks like, in the first customer's calls: each admitted, then settled.
BUDGETS = f"""
from datetime import timedelta
from decimal import Decimal
import random

from django.utils import timezone

from billing.budgets.bars import allowances
from billing.budgets.periods import start_afresh
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
# Receivers, alerts and what is handed out: after the calls of BUDGETS, so that only these are told of.
TOLD = f"""
from datetime import timedelta
from decimal import Decimal

from django.test import override_settings
from django.utils import timezone

from billing.budgets.bars import allowances
from billing.models import Delivery
from billing.tasks import check_alerts, deliver
from billing.webhooks.endpoints import create_endpoint
from customers.models import Budget, Customer
from customers.services.handout_links import make_handout_link
from tests.billing.budgets import admitted, settle

now, site = timezone.now(), "http://127.0.0.1:{RECEIVER_PORT}"
create_endpoint(name="Billing system", url=site + "/spend")
create_endpoint(name="Old CRM", url=site + "/gone", event_types=["threshold_crossed", "budget_crossed"])
channels = override_settings(
    SLACK_WEBHOOK_URL=site + "/spend", ALERT_EMAILS=["finance@example.com"], EMAIL_IS_CONFIGURED=True
)
for who, limit, spent in (("globex", 10, "8.5"), ("initech", 20, "20.4"), ("umbrella", 50, "12.25")):
    budget = Budget.objects.create(
        id=f"monthly-{{limit}}", max_budget=Decimal(limit), budget_duration="1mo"
    )
    Customer.objects.update_or_create(id=who, defaults={{"alias": who.title(), "budget": budget}})
    period = allowances(budget)[0].period(("customer", who), now)
    with channels:
        for part in range(4):
            at = now - timedelta(seconds=50 * part)
            opened = admitted((period, str(limit)), customer_id=who, at=at, amount_usd="0")
            settle(opened, cost_usd=str(Decimal(spent) / 4))
with channels:
    check_alerts()
Delivery.objects.exclude(channel="webhook").update(
    state="delivered", attempts=1, delivered_at=now, last_attempt_at=now, next_attempt_at=None
)
deliver()
link, token = make_handout_link(
    customer=Customer.objects.get(pk="{CUSTOMERS[0]}"), kind="page", at=now,
    expires_at=now + timedelta(days=30), title="Acme Corp: AI usage", colour="#6d28d9", shows_keys=True,
)
print("TOKEN", token)
"""
TAGS = ("project:web-app", "project:api-v2", "team:backend", "env:production", "env:staging")


SEED = ("seed_demo", "--rows", "60000", "--customers", "400", "--days", "60", "--yes")
DARK = "--blink-settings=preferredColorScheme=0"
USAGE = (
    ("overview", "/admin/", "1400,900"),
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
        "WEBHOOK_ALLOW_PRIVATE": "true",
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
        _photograph_drawer(chromium, cookie)
        threading.Thread(target=_receiver().serve_forever, daemon=True).start()
        token = _told(manage, environment)
        for name, path, size in (
            ("webhooks", "/admin/billing/webhookendpoint/", "1400,400"),
            ("deliveries", "/admin/billing/delivery/", "1400,900"),
            ("alerts", "/admin/billing/alert/", "1400,800"),
            ("alert-rules", "/admin/billing/alertrule/", "1400,800"),
            ("hand-out", f"/hand-out/{token}/", "900,1100"),
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


def _photograph_drawer(chromium: str, cookie: str) -> None:
    """Open the latest call in the drawer beside the list: this takes a click, so a driven browser."""
    target = TARGET / "drawer.png"
    with Chromium(chromium) as browser:
        page = browser.page(width=1400, height=900)
        name, _, value = cookie.partition("=")
        page.set_cookie(f"http://127.0.0.1:{PORT}", name, value)
        page.open(f"http://127.0.0.1:{PORT}/admin/billing/spendlog/")
        page.evaluate("document.querySelector('#result_list tbody .field-time a').click()")
        page.wait("document.querySelector('.logs-drawer .logs-facts')?.innerText", "the call")
        page.wait("document.fonts.status === 'loaded'", "the fonts")
        page.screenshot(target, whole=False)
    print(f"docs/screenshots/{target.name}")


def _told(manage: list[str], environment: dict[str, str]) -> str:
    """Have others told of what happened; return the token of a page that is handed out."""
    output = subprocess.run(
        [*manage, "shell", "-v", "0", "-c", TOLD],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return next(line.split()[1] for line in output.splitlines() if line.startswith("TOKEN"))


def _receiver() -> http.server.ThreadingHTTPServer:
    """A receiver of webhooks: takes what is posted to /spend, and fails at /gone."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = (200, b'{"ok": true}') if self.path == "/spend" else (503, b"down until 14:00")
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            return

    return http.server.ThreadingHTTPServer(("127.0.0.1", RECEIVER_PORT), Receiver)


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
