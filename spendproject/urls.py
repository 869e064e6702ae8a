"""Everything that stock Django serves: the admin, the API, health. Proxied routes: `proxy/urls.py`."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.urls import include, path
from django.views.decorators.http import require_safe
from django.views.defaults import page_not_found
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from customers.api.schema import openapi
from proxy import health


def root(request: HttpRequest) -> HttpResponseBase:
    """GET / leads a person to the admin; HEAD / is how Claude Code asks whether we are there."""
    return HttpResponse() if request.method == "HEAD" else redirect("admin:index")


def user_interface(request: HttpRequest) -> HttpResponseBase:
    """GET /ui, with LiteLLM's ?page=: logs lead to the logs, usage to the usage, all else to the overview."""
    pages = {"logs": "admin:billing_spendlog_changelist", "new_usage": "usage:overview"}
    return redirect(pages.get(request.GET.get("page", ""), "admin:index"))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """404 where there is no such route: a page in the admin, else an error as programs read it."""
    if request.path.startswith("/admin/"):
        return page_not_found(request, exception)
    message = "There is no such route; GET /openapi.json lists all that there are."
    told = {"message": message, "type": "not_found", "param": None, "code": "404"}
    return JsonResponse({"error": told}, status=404)


handler404 = not_found
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
    path("openapi.json", require_safe(openapi), name="openapi"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="openapi"), name="docs"),
    path("", include("billing.urls")),
    path("", include("proxy.api.urls")),
]
