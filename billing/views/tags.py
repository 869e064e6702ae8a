"""Tags: contract 5.6."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
