"""What a provider charges for a model, from a day on."""

from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models

from customers.models import TrackedModel


def _rate(verbose_name: str) -> models.DecimalField:
    """Return a rate: null means "not given", and the rules of `billing.pricing` say what stands in."""
    return models.DecimalField(
        verbose_name,
        max_digits=20,
        decimal_places=9,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
    )


class Price(TrackedModel):
    """One dated price list entry. Rows are added, never edited: a spend log names the row it used."""

    class Source(models.TextChoices):
        # In the order of precedence, the highest last.
        GENAI_PRICES = "genai_prices", "genai-prices"
        COST_MAP = "cost_map", "synced cost map"
        ADMIN = "admin", "entered by staff"
        DEPLOYMENT = "deployment", "override of a deployment"

    provider = models.CharField(max_length=100, help_text="The provider's slug: openai, anthropic, google, …")
    model = models.CharField(max_length=255, help_text="The model's name at the provider.")
    source = models.CharField(max_length=20, choices=Source, default=Source.ADMIN, editable=False)
    effective_from = models.DateTimeField(
        null=True, blank=True, help_text="Valid for calls from this instant on; empty: always."
    )
    input_per_mtok_usd = _rate("input, USD per million tokens")
    cache_read_per_mtok_usd = _rate("cache read, USD per million tokens")
    cache_write_5m_per_mtok_usd = _rate("cache write 5 min, USD per million tokens")
    cache_write_1h_per_mtok_usd = _rate("cache write 1 h, USD per million tokens")
    output_per_mtok_usd = _rate("output, USD per million tokens")
    reasoning_per_mtok_usd = _rate("reasoning, USD per million tokens")
    input_audio_per_mtok_usd = _rate("audio input, USD per million tokens")
    output_audio_per_mtok_usd = _rate("audio output, USD per million tokens")
    input_image_per_mtok_usd = _rate("image input, USD per million tokens")
    output_image_per_mtok_usd = _rate("image output, USD per million tokens")
    per_request_usd = _rate("per request, USD")
    per_web_search_usd = _rate("per web search, USD")
    long_context_tiers = models.JSONField(
        default=list,
        blank=True,
        help_text='Rates of the whole call above a number of prompt tokens: [{"above_prompt_tokens": 200000, '
        '"input_per_mtok_usd": "6"}]. A rate that is left out stays the base rate.',
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "model", "source", "effective_from"],
                name="price_once_per_instant",
                nulls_distinct=False,
                condition=~models.Q(source="deployment"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    def clean(self) -> None:
        if (
            self.input_per_mtok_usd is None
            and self.output_per_mtok_usd is None
            and self.per_request_usd is None
        ):
            raise ValidationError("Give at least one rate; 0 is a price too.")
        self.long_context_tiers = _clean_tiers(self.long_context_tiers)


RATE_FIELDS = tuple(field.name for field in Price._meta.local_fields if field.name.endswith("_usd"))


def _clean_tiers(tiers: Any) -> list[dict[str, Any]]:
    """Return `tiers` in ascending order, rates as decimal texts. Raises: ValidationError."""
    try:
        cleaned = [
            {
                "above_prompt_tokens": int(tier["above_prompt_tokens"]),
                **{name: str(Decimal(str(tier[name]))) for name in RATE_FIELDS if tier.get(name) is not None},
            }
            for tier in tiers
        ]
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise ValidationError({"long_context_tiers": "Not a list of tiers as in the help text."}) from error
    return sorted(cleaned, key=lambda tier: tier["above_prompt_tokens"])
