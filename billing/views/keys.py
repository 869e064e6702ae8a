"""Keys: contract 5.3."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
