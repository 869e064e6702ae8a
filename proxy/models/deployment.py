"""A model as callers see it, and the upstream model that answers."""

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models

from billing.models import Price
from customers.models import TrackedModel
from proxy.models.upstream import Upstream


class Deployment(TrackedModel):
    """One way to serve a public model name.

    A name that ends in `*` serves every name with that beginning, under its own
    name upstream, or with the beginning of `upstream_model` in place of its own. Of
    several deployments of one name the lowest `priority` number is used, by `weight`
    among equals; the others are for failover.
    """

    model_name = models.CharField("public model name", max_length=255)
    upstream = models.ForeignKey(Upstream, on_delete=models.CASCADE, related_name="deployments")
    upstream_model = models.CharField(
        max_length=255, blank=True, help_text="The name sent upstream; empty: the name that was asked for."
    )
    priority = models.PositiveSmallIntegerField(default=0, help_text="Lower is tried first.")
    weight = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    price = models.ForeignKey(
        Price, null=True, blank=True, on_delete=models.PROTECT, related_name="deployments",
        verbose_name="price override", help_text="Empty: the provider's price of the upstream model.",
    )  # fmt: skip
    base_model = models.CharField(
        max_length=255, blank=True, help_text="The model whose price applies, where the name does not tell."
    )
    # What LiteLLM calls model_info.id.
    public_id = models.CharField("model id", max_length=255, unique=True, null=True, blank=True, default=None)
    model_info = models.JSONField(default=dict, blank=True)
    # LiteLLM's parameters that have no effect here: kept, so that the API returns what it was given.
    extras = models.JSONField(default=dict, blank=True, editable=False)
    source = models.CharField(
        max_length=20, blank=True, editable=False
    )  # "config": from the file; else by hand
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(weight__gte=1), name="deployment_weight_positive"
            )
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.model_name} → {self.upstream_id and self.upstream}"

    def clean(self) -> None:
        if "*" in self.model_name[:-1]:
            raise ValidationError({"model_name": "A * may only stand at the end."})
        if self.upstream_model and self.model_name.endswith("*") != self.upstream_model.endswith("*"):
            raise ValidationError(
                {"upstream_model": "Both names end in *, or neither; empty: the name that was asked for."}
            )
