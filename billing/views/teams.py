"""Teams: contract 5.4."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
