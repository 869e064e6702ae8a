"""Users: contract 5.5."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
