"""Everything that stock Django serves: the admin, the API, health. Proxied routes: `proxy/urls.py`."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.urls import include, path
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from customers.api.schema import openapi, routes
from proxy import health


def root(request: HttpRequest) -> HttpResponseBase:
    """GET / leads a person to the admin; HEAD / is how Claude Code asks whether we are there."""
    return HttpResponse() if request.method == "HEAD" else redirect("admin:index")


def user_interface(request: HttpRequest) -> HttpResponseBase:
    """GET /ui, with LiteLLM's ?page=: logs lead to the logs, usage to the usage, all else to the overview."""
    pages = {"logs": "admin:billing_spendlog_changelist", "new_usage": "usage:overview"}
    return redirect(pages.get(request.GET.get("page", ""), "admin:index"))


def test(request: HttpRequest) -> HttpResponseBase:
    """GET /test, by which LiteLLM's users see whether requests arrive."""
    return JsonResponse({"route": request.path})


handler400 = "spendproject.errors.bad_request"
handler403 = "spendproject.errors.permission_denied"
handler404 = "spendproject.errors.not_found"
handler500 = "spendproject.errors.server_error"
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
    path("routes", require_safe(routes)),
    path("test", require_safe(test)),
    path("openapi.json", require_safe(openapi), name="openapi"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="openapi"), name="docs"),
    path("", include("billing.urls")),
    path("", include("proxy.api.urls")),
]
