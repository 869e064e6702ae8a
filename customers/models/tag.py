"""A tag: a label on calls, which may carry a budget."""

from django.db import models

from customers.models.budget import Budget
from customers.models.change import TrackedModel


class Tag(TrackedModel):
    """A known tag. Calls may carry tags that have no row."""

    name = models.CharField(primary_key=True, max_length=255)
    description = models.TextField(blank=True)
    allowed_deployments = models.JSONField(default=list, blank=True)  # ids of deployments, as LiteLLM has it
    model_info = models.JSONField(default=dict, blank=True)
    budget = models.ForeignKey(Budget, null=True, blank=True, on_delete=models.PROTECT, related_name="tags")
    created_by = models.CharField(max_length=255, blank=True, editable=False)
    updated_by = models.CharField(max_length=255, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.name
