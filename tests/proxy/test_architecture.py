"""What may import what, and what no module may do, read from the source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.test import SimpleTestCase

ROOT = Path(settings.BASE_DIR)
APPS = ("customers", "billing", "proxy")  # each may import those before it
PRODUCT = (*APPS, "spendproject")
# What a log line must never show. `key id`, `token_hash` of nobody: names of variables that hold secrets.
SECRETS = {
    "secret",
    "credential",
    "master_key",
    "token",
    "token_hash",
    "password",
    "headers",
    "raw_headers",
    "body",
    "api_key",
}
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def modules(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield (path from the root, syntax tree) of every module of the packages."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def first(name: str) -> str:
    return name.partition(".")[0]


class LayerTests(SimpleTestCase):
    def test_imports_go_from_proxy_to_billing_to_customers(self):
        for i, app in enumerate(APPS):
            above = set(APPS[i + 1 :])
            for path, tree in modules(app):
                wrong = {name for name in imports(tree) if first(name) in above}

                self.assertEqual(wrong, set(), path)

    def test_no_app_imports_the_settings_module(self):
        for path, tree in modules(*APPS):
            wrong = {name for name in imports(tree) if name.startswith(("spendproject.settings", "tests"))}

            self.assertEqual(wrong, set(), path)

    def test_the_fake_provider_imports_nothing_of_the_product(self):
        """No mistake of the product's can hide in what it is measured with."""
        ours = {*PRODUCT, "tests"}
        for path, tree in modules("tests/provider"):
            if Path(path).name.startswith("test_"):
                continue
            names = set(imports(tree))
            wrong = {name for name in names if first(name) in ours and not name.startswith("tests.provider")}
            foreign = {first(name) for name in names} - set(sys.stdlib_module_names) - {"tests", "uvloop"}

            self.assertEqual((wrong, foreign), (set(), set()), path)

    def test_the_arithmetic_needs_no_database_and_no_clock(self):
        for name in (
            "billing/usage.py",
            "billing/booking/estimates.py",
            "customers/request_keys.py",
            "customers/text.py",
        ):
            tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
            wrong = {
                imported for imported in imports(tree) if first(imported) in {"django", "time", "datetime"}
            }

            self.assertEqual(wrong, set(), name)


class LogTests(SimpleTestCase):
    def test_no_module_logs_a_secret_a_header_or_a_body(self):
        found = []
        for path, tree in modules(*PRODUCT):
            for call in log_calls(tree):
                named = {name for argument in call.args[1:] for name in shown(argument)}
                if named & SECRETS:
                    found.append(f"{path}:{call.lineno}: {sorted(named & SECRETS)}")

        self.assertEqual(found, [])

    def test_messages_are_constants_with_arguments(self):
        for path, tree in modules(*PRODUCT):
            for call in log_calls(tree):
                message = call.args[0]
                is_constant = isinstance(message, ast.Constant) or (
                    isinstance(message, ast.Name)
                    and path == "billing/booking/recorder.py"  # passed on by a helper
                )

                self.assertTrue(is_constant, f"{path}:{call.lineno}")

    def test_nothing_is_printed_but_by_commands(self):
        for path, tree in modules(*APPS):
            printed = [
                node.lineno
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            ]

            self.assertTrue(not printed or "management" in path, f"{path}: {printed}")

    def test_the_check_sees_what_it_looks_for(self):
        bad = "logger.info('%s', caller.secret)\nlogger.error(f'{x}')\nlogger.info('%s', str(call.headers))"

        named = [
            {name for argument in call.args[1:] for name in shown(argument)}
            for call in log_calls(ast.parse(bad))
        ]

        self.assertEqual([names & SECRETS for names in named], [{"secret"}, set(), {"headers"}])


def log_calls(tree: ast.AST) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LOG_METHODS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "logger"
        and node.args
    ]


def shown(argument: ast.expr) -> Iterator[str]:
    """Yield the names whose values the argument shows; `len(body)` shows none."""
    if isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name) and argument.func.id == "len":
        return
    if isinstance(argument, ast.Name):
        yield argument.id
    elif isinstance(argument, ast.Attribute):
        yield argument.attr
    for child in ast.iter_child_nodes(argument):
        if isinstance(child, ast.expr) and not isinstance(argument, ast.Attribute):
            yield from shown(child)
