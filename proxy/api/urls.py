"""Models: contract 5.8."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
