"""Everything that stock Django serves: the admin, the API, health. Proxied routes: `proxy/urls.py`."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from proxy import health


def root(request: HttpRequest) -> HttpResponseBase:
    """GET / leads a person to the admin; HEAD / is how Claude Code asks whether we are there."""
    return HttpResponse() if request.method == "HEAD" else redirect("admin:index")


def user_interface(request: HttpRequest) -> HttpResponseBase:
    """GET /ui, with LiteLLM's ?page=: logs lead to the logs, all else to the overview."""
    return redirect(
        "admin:billing_spendlog_changelist" if request.GET.get("page") == "logs" else "admin:index"
    )


urlpatterns = [
    path("", root),
    path("ui", user_interface),
    path("ui/", user_interface),
    path("login", RedirectView.as_view(pattern_name="admin:login")),
    path("admin/usage/", include(("billing.admin.usage.page", "usage"))),
    path("admin/", admin.site.urls),
    path("health/liveliness", health.liveness),
    path("health/liveness", health.liveness),
    path("health/readiness", health.readiness),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="openapi"), name="docs"),
    path("", include("billing.urls")),
    path("", include("proxy.api.urls")),
]
