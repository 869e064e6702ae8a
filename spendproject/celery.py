"""The Celery application: the worker and its beat."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")

app = Celery("spendproject")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
