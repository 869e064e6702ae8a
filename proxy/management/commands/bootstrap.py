"""Make everything ready to serve: `manage.py bootstrap`. Safe to run again."""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from billing.installation import installation_id
from billing.prices.sources import load_genai_prices
from customers.keys import generate_secret
from customers.models import User
from proxy.configuration.entries import read_entries
from proxy.configuration.plan import apply
from proxy.services import set_up_upstreams

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Make secrets, database, prices, static files, an admin log-in and upstreams, where missing."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        read_entries(settings.CONFIG)  # what is wrong with the file is said before anything is done
        new = _write_secrets(settings.ENV_FILE)
        for folder in map(str, (settings.VAR_DIR, settings.JOURNAL_DIR, *_broker_folders())):
            Path(folder).mkdir(parents=True, exist_ok=True)
        call_command("migrate", verbosity=0, interactive=False)
        installation_id()
        prices = load_genai_prices(at=timezone.now())
        if prices:
            self.stdout.write(f"Prices: {prices} rows added.")
        # With a model_list there is what it says, and no more.
        made = [] if settings.CONFIG.models else set_up_upstreams(dict(os.environ))
        if made:
            self.stdout.write(f"Upstreams: {', '.join(made)} added.")
        if settings.CONFIG.path:
            self._apply_config()
        call_command("collectstatic", verbosity=0, interactive=False)
        password = _make_admin()
        self._say(new, password)

    def _apply_config(self) -> None:
        config = settings.CONFIG
        plan = apply(config, at=timezone.now())
        warnings = [*config.warnings, *plan.warnings]
        self.stdout.write(f"{config.path}: {len(plan.changes)} changes in the database.")
        self.stdout.writelines(f"  {change}\n" for change in plan.changes)
        for warning in warnings:
            logger.warning("%s: %s", config.path, warning)

    def _say(self, new: dict[str, str], password: str | None) -> None:
        address = settings.PUBLIC_URL.rstrip("/")
        self.stdout.write(f"\n  Gateway  {address}\n  Admin    {address}/admin/")
        if password:
            self.stdout.write(f"           log in as admin, password {password}  (shown once)")
        if "MASTER_KEY" in new:
            self.stdout.write(f"  Master key  {new['MASTER_KEY']}  (shown once; kept in the env file)")
        if not address.startswith("https://"):
            self.stdout.write("  Served in plain HTTP; behind TLS set PUBLIC_URL=https://….")
        self.stdout.write("")


def _write_secrets(path: Path) -> dict[str, str]:
    """Add the secrets that neither environment nor env file has; return what was added."""
    new: dict[str, str] = {}
    if settings.SECRET_KEY == settings.UNSET_SECRET_KEY:
        new["SECRET_KEY"] = settings.SECRET_KEY = secrets.token_urlsafe(50)
    if not settings.MASTER_KEY:
        new["MASTER_KEY"] = settings.MASTER_KEY = generate_secret()
    if new and "ALLOWED_HOSTS" not in os.environ:
        new["ALLOWED_HOSTS"] = ",".join(settings.LOCAL_HOSTS)
    if new:
        if not path.exists():
            path.touch(mode=0o600)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in new.items())
        os.environ.update(new)
    return new


def _broker_folders() -> list[str]:
    options = getattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", {})
    return [
        options[name] for name in ("data_folder_in", "data_folder_out", "control_folder") if name in options
    ]


def _make_admin() -> str | None:
    """Make the first superuser and return its password; None where there is one already."""
    if User.objects.filter(is_superuser=True).exists():
        return None
    password = os.environ.get("ADMIN_PASSWORD") or secrets.token_urlsafe(12)
    User.objects.create_superuser("admin", password=password, role=User.Role.PROXY_ADMIN)
    return None if os.environ.get("ADMIN_PASSWORD") else password
