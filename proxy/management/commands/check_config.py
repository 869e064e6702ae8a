"""Say what a config.yaml would do: `manage.py check_config FILE`. Changes nothing."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, connection
from django.utils import timezone

from proxy.configuration.plan import Plan, make_plan
from proxy.models import Deployment
from spendproject import config_file
from spendproject import environment as env
from spendproject.config_file import BadConfig, Config, Found
from spendproject.config_keys import KEYS, Fate
from spendproject.strict_yaml import spell

_SECRET_VARIABLES = {key.variable for key in KEYS.values() if key.secret}


class Command(BaseCommand):
    help = "Say what a config.yaml would do: settings, changes in the database, what has no effect."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the config.yaml")
        parser.add_argument("--json", action="store_true", dest="as_json", help="for programs")

    def handle(self, *args: Any, file: str, as_json: bool, **options: Any) -> None:
        report = _report(file)
        if as_json:
            self.stdout.write(json.dumps(report, indent=2))
        else:
            self._tell(report)
        if report["errors"]:
            sys.exit(1)

    def _tell(self, report: dict[str, Any]) -> None:
        for error in report["errors"]:
            self.stderr.write(error)
        if report["errors"]:
            self.stderr.write("Nothing of the file would be applied.")
            return
        self._list("Settings", [_told(setting) for setting in report["settings"]])
        self._list(
            "Database (+ made, ~ changed, - deactivated)", [line["text"] for line in report["changes"]]
        )
        self._list("Always so here", report["always"])
        self._list("Warnings", report["warnings"])

    def _list(self, title: str, lines: list[str]) -> None:
        self.stdout.write(f"{title}: none." if not lines else f"{title}:")
        for line in lines:
            self.stdout.write(f"  {line}")


def _report(file: str) -> dict[str, Any]:
    """Return everything that there is to say. No value of a secret is in it."""
    try:
        config = config_file.load(str(Path(file).resolve()), given=env.GIVEN, environment=os.environ)
        env.fill(config.environment)  # of this process: upstreams may refer to them
        plan = make_plan(config, at=timezone.now(), is_empty=not _has_tables())
    except BadConfig as error:
        return {"file": file, "errors": [f"{file}: {problem}" for problem in error.problems]}
    except DatabaseError as error:
        problem = f"the database cannot be compared with: {error}".strip()
        return {"file": file, "errors": [f"{problem}; is it there, and has bootstrap brought it up to date?"]}
    return {
        "file": file,
        "errors": [],
        "settings": _settings(config),
        "changes": _changes(plan),
        "always": [
            f"{spell(found.path)}: {found.note}" for found in config.found if found.fate == Fate.ALWAYS
        ],
        "warnings": [*config.warnings, *plan.warnings],
    }


def _settings(config: Config) -> list[dict[str, Any]]:
    """Return each setting of the file: {name, value, secret, from, wins}. value None: secret, or not used."""
    return [_setting(config, found) for found in config.found if found.fate == Fate.SETTING]


def _setting(config: Config, found: Found) -> dict[str, Any]:
    key = found.key
    name = key.variable if key and key.variable else str(found.path[-1])
    is_secret = key is None or name in _SECRET_VARIABLES
    value = None
    if key is not None and not is_secret and not found.is_overridden:
        value = config.variables.get(name) if key.variable else str(config.values[key.path])
    return {
        "name": name,
        "value": value,
        "secret": is_secret,
        "from": spell(found.path),
        "wins": "environment" if found.is_overridden else "file",
    }


def _told(setting: dict[str, Any]) -> str:
    if setting["wins"] == "environment":
        return f"{setting['name']}: the environment wins over {setting['from']}"
    value = "(not shown)" if setting["secret"] else setting["value"] or "(not used)"
    return f"{setting['name']} = {value}, from {setting['from']}"


def _changes(plan: Plan) -> list[dict[str, Any]]:
    return [
        {"sign": change.sign, "what": change.what, "fields": change.fields, "text": str(change)}
        for change in plan.changes
    ]


def _has_tables() -> bool:
    """Tell whether `bootstrap` has been here. Makes no SQLite file where there is none."""
    if connection.vendor == "sqlite":
        name = str(connection.settings_dict["NAME"])
        if not Path(name).exists() and "memory" not in name:
            return False
    return Deployment._meta.db_table in connection.introspection.table_names()
