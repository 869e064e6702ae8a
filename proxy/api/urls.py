"""Models, how they do, and what their calls would cost: contract 3.1, 5.8 and 6.5."""

from django.urls import path

from proxy.api import health, spend, views

urlpatterns = [
    path("model/info", views.ModelInfo.as_view()),
    path("v1/model/info", views.ModelInfo.as_view()),
    path("v2/model/info", views.ModelInfoPages.as_view()),
    path("model_group/info", views.ModelGroupInfo.as_view()),
    path("model/new", views.NewModelView.as_view()),
    path("model/update", views.UpdateModel.as_view()),
    path("model/<path:named>/update", views.PatchModel.as_view()),
    path("model/delete", views.DeleteModel.as_view()),
    path("public/litellm_model_cost_map", views.cost_map),
    path("health", health.Health.as_view()),
    path("utils/token_counter", health.CountTokens.as_view()),
    path("spend/calculate", spend.CalculateSpend.as_view()),
    path("cost/estimate", spend.EstimateCost.as_view()),
]
