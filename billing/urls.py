"""The API's routes about spend."""

from django.urls import path

from billing.views.customers import CustomerInfo

urlpatterns = [
    path("customer/info", CustomerInfo.as_view()),
    path("end_user/info", CustomerInfo.as_view()),
]
