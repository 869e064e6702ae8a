"""What limits the gateway as a whole, and customers that nothing else limits."""

from django.db import models

from customers.models.budget import Budget
from customers.models.change import TrackedModel


class GatewayLimits(TrackedModel):
    """The one row with the gateway-wide budgets. Read it with `current`."""

    budget = models.ForeignKey(
        Budget,
        verbose_name="budget of the gateway",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="gateway",
        help_text="Limits the calls of everybody together.",
    )
    customer_budget = models.ForeignKey(
        Budget,
        verbose_name="budget of customers",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="gateway_defaulting_customers",
        help_text="Limits each customer that has no budget of its own, nor one from the call's key.",
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = verbose_name_plural = "gateway limits"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="gateway_limits_single_row")]

    def __str__(self) -> str:
        return "limits of the gateway"

    @classmethod
    def current(cls) -> "GatewayLimits":
        """Return the row with its budgets; made if it is missing. One query when it is there."""
        limits, _ = cls.objects.select_related("budget", "customer_budget").get_or_create(pk=1)
        return limits
