"""The admin theme's settings: name, files, sidebar. The pages themselves are in each app's `admin/`."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _may_view(model: str) -> Callable[[HttpRequest], bool]:
    app, name = model.split(".")
    return lambda request: request.user.has_perm(f"{app}.view_{name}")


def _item(title: str, icon: str, model: str) -> dict[str, Any]:
    link = reverse_lazy(f"admin:{model.replace('.', '_')}_changelist")
    return {"title": title, "icon": icon, "link": link, "permission": _may_view(model)}


def _is_at(model: str, *, but_not: object) -> Callable[[HttpRequest], bool]:
    link = reverse_lazy(f"admin:{model.replace('.', '_')}_changelist")
    return lambda request: request.path.startswith(str(link)) and not request.path.startswith(str(but_not))


_UNPRICED = reverse_lazy("admin:billing_repricing_unpriced")

UNFOLD = {
    "SITE_TITLE": "Spend gateway",
    "SITE_HEADER": "Spend gateway",
    "SITE_SYMBOL": "receipt_long",
    "SITE_URL": reverse_lazy("admin:index"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("spend/favicon.svg")}
    ],
    "SHOW_BACK_BUTTON": False,
    "DASHBOARD_CALLBACK": "billing.admin.overview.overview",
    "STYLES": [lambda request: static("spend/admin.css")],
    "SCRIPTS": [lambda request: static("spend/copy.js"), lambda request: static("spend/live.js")],
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "primary": {
            "50": "oklch(97.7% .02 181)",
            "100": "oklch(95.3% .045 181)",
            "200": "oklch(91% .08 181)",
            "300": "oklch(85.5% .11 181)",
            "400": "oklch(77.7% .12 182)",
            "500": "oklch(65% .11 183)",
            "600": "oklch(52% .09 185)",
            "700": "oklch(45% .08 186)",
            "800": "oklch(39% .065 188)",
            "900": "oklch(34% .055 188)",
            "950": "oklch(25% .045 192)",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "items": [
                    {"title": "Overview", "icon": "dashboard", "link": reverse_lazy("admin:index")},
                ],
            },
            {
                "title": "Spend",
                "items": [
                    {
                        "title": "Usage",
                        "icon": "monitoring",
                        "link": reverse_lazy("usage:overview"),
                        "permission": _may_view("billing.spendlog"),
                    },
                    _item("Logs", "list_alt", "billing.spendlog"),
                    _item("Customers", "groups", "customers.customer"),
                    _item("Budgets", "savings", "customers.budget"),
                    _item("Alerts", "notifications", "billing.alert"),
                ],
            },
            {
                "title": "Prices",
                "items": [
                    _item("Prices", "sell", "billing.price"),
                    _item("Rate cards", "price_check", "customers.ratecard"),
                    {
                        "title": "Unpriced calls",
                        "icon": "money_off",
                        "link": _UNPRICED,
                        "permission": _may_view("billing.spendlog"),
                    },
                    # The page of unpriced calls is below its address.
                    _item("Re-pricing", "published_with_changes", "billing.repricing")
                    | {"active": _is_at("billing.repricing", but_not=_UNPRICED)},
                    _item("Provider bills", "receipt", "billing.providerbill"),
                    _item("Closed months", "lock", "billing.closedmonth"),
                ],
            },
            {
                "title": "Access",
                "items": [
                    _item("Keys", "key", "customers.virtualkey"),
                    _item("Teams", "diversity_3", "customers.team"),
                    _item("Users", "person", "customers.user"),
                    _item("Tags", "label", "customers.tag"),
                ],
            },
            {
                "title": "Gateway",
                "items": [
                    _item("Limits", "speed", "customers.gatewaylimits"),
                    _item("Upstreams", "cloud", "proxy.upstream"),
                    _item("Deployments", "route", "proxy.deployment"),
                    _item("Alert rules", "notification_add", "billing.alertrule"),
                    _item("Webhooks", "webhook", "billing.webhookendpoint"),
                    _item("Deliveries", "outbox", "billing.delivery"),
                ],
            },
            {
                "title": "System",
                "collapsible": True,
                "items": [
                    _item("Audit log", "history", "customers.auditlog"),
                    _item("Totals", "functions", "billing.spendtotal"),
                    _item("Sealed months", "inventory_2", "billing.sealedmonth"),
                    _item("Events", "event_list", "billing.event"),
                    _item("Journals", "menu_book", "billing.journalcheckpoint"),
                    _item("Groups", "shield_person", "auth.group"),
                    _item("Failed log-ins", "gpp_maybe", "axes.accessattempt"),
                    _item("Log-ins", "login", "axes.accesslog"),
                ],
            },
        ],
    },
}
