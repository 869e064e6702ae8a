"""What customers pay, where it is not what the provider bills."""

from decimal import Decimal

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from customers.models.change import TrackedModel

_PPM = 1_000_000


class RateCard(TrackedModel):
    """Terms that customers share: their charge is the cost, multiplied. Its own prices: `billing.Price`."""

    name = models.CharField(max_length=100, unique=True)
    multiplier = models.DecimalField(
        max_digits=9,
        decimal_places=6,
        default=Decimal(1),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(100))],
        help_text="The charge of a call is its cost, multiplied by this: 1.2 adds 20 %, 0.9 takes off 10 %. "
        "It stands in place of COST_MARGINS.",
    )
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "rate card"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(multiplier__gte=0), name="rate_card_multiplier_not_negative"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def margin_ppm(self) -> int:
        """Return what is put on top of the cost, in millionths of it; below 0: a discount."""
        return int(self.multiplier * _PPM) - _PPM
