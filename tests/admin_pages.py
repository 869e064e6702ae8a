"""What the tests of the admin share: someone logged in, and calls to look at."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.test import TestCase
from django.urls import reverse

from billing.models import Price, SpendLog
from customers.ids import uuid7_at
from customers.models import User

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def make_price(**fields: Any) -> Price:
    rates = {"input_per_mtok_usd": Decimal("2.5"), "output_per_mtok_usd": Decimal(10)}
    return Price.objects.create(**{"provider": "openai", "model": "gpt-4o", **rates, **fields})


def make_log(*, at: datetime = NOON, **fields: Any) -> SpendLog:
    given = {
        "started_at": at,
        "ended_at": at + timedelta(seconds=1),
        "dialect": "openai_chat",
        "status": "success",
        "model": "gpt-4o",
        "provider": "openai",
        "usage_source": "provider",
        "cost": Decimal(0),
        "charge": Decimal(0),
    }
    return SpendLog.objects.create(id=uuid7_at(int(at.timestamp() * 1000)), **{**given, **fields})


class AdminTestCase(TestCase):
    """Alice may do everything in the admin; Charlie may log in and nothing else."""

    @classmethod
    def setUpTestData(cls) -> None:
        settings.STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns of a missing one
        cls.alice = User.objects.create_superuser("alice", password="correct horse")
        cls.charlie = User.objects.create_user("charlie", password="battery staple", is_staff=True)

    def setUp(self) -> None:
        self.client.force_login(self.alice, backend="django.contrib.auth.backends.ModelBackend")

    def log_in_charlie(self) -> None:
        self.client.force_login(self.charlie, backend="django.contrib.auth.backends.ModelBackend")

    def url(self, model: type, page: str, *args: Any) -> str:
        return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)

    def assert_every_page_answers(self, app_label: str) -> None:
        """Get list, add form and the first row's pages of each model of an app."""
        for model, model_admin in admin.site._registry.items():
            if model._meta.app_label != app_label:
                continue
            with self.subTest(model=model.__name__):
                self.assertEqual(self.client.get(self.url(model, "changelist")).status_code, 200)
                request = self.client.get(self.url(model, "changelist")).wsgi_request
                if model_admin.has_add_permission(request):
                    self.assertEqual(self.client.get(self.url(model, "add")).status_code, 200)
                row = model.objects.first()
                if row is None:
                    continue
                for page in ("change", "history", "delete"):
                    if page == "delete" and not model_admin.has_delete_permission(request, row):
                        continue
                    response = self.client.get(self.url(model, page, row.pk))
                    self.assertEqual(response.status_code, 200, page)
