"""What a provider charges for a model, from a day on."""

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models

from billing.prices.model_names import WILDCARD, names_of
from billing.usage import UNITS, unit_of
from customers.models import TrackedModel
from customers.models.change import TrackedQuerySet


def _rate(verbose_name: str) -> models.DecimalField:
    """Return a rate: null means "not given", and the rules of `billing.prices.pricing` say what stands in."""
    return models.DecimalField(
        verbose_name,
        max_digits=20,
        decimal_places=9,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
    )


class PriceQuerySet(TrackedQuerySet):
    def listed_for(
        self,
        wanted: Iterable[tuple[str, str]],
        *,
        canonical_model: Callable[[str, str], str | None] | None = None,
    ) -> "PriceQuerySet":
        """Return all rows in which a `PriceBook` may find these models. wanted: (provider, model)."""
        pairs = list(wanted)
        names = {
            name
            for provider, model in pairs
            for name in (model, *names_of(provider, model, canonical_model=canonical_model))
        }
        return self.exclude(source=Price.Source.DEPLOYMENT).filter(
            models.Q(model__in=names) | models.Q(model__endswith=WILDCARD),
            provider__in={provider for provider, _ in pairs},
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
    model = models.CharField(
        max_length=255,
        help_text="The model's name at the provider. One that ends in * is the price of every model with "
        "that beginning which has none of its own.",
    )
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
    unit_rates = models.JSONField(
        default=dict,
        blank=True,
        help_text='USD of what is not in the fields above: {"input_audio_ms": "0.0001"}. By the second for '
        "…_ms, by the million for characters, pixels and tokens, apiece for images, queries and pages; "
        "a kind behind a colon: output_images:1024x1024, web_searches:high.",
    )
    service_tiers = models.JSONField(
        default=dict,
        blank=True,
        help_text='Rates by the tier that served the call: {"flex": {"input_per_mtok_usd": "1.25"}}; also '
        "priority and batch, with long_context_tiers and unit_rates of their own. What a tier leaves out "
        "stays; of batch it is halved. A multiplier of all token rates: "
        '{"speed:fast": {"multiplier": "2"}}, {"geo:us": …}.',
    )
    # An own price of a rate card: what its customers pay. Its source is `deployment`: it is in no list.
    rate_card = models.ForeignKey(
        "customers.RateCard",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        editable=False,
        related_name="own_prices",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PriceQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "model", "source", "effective_from"],
                name="price_once_per_instant",
                nulls_distinct=False,
                condition=~models.Q(source="deployment"),
            ),
            models.UniqueConstraint(
                fields=["rate_card", "provider", "model", "effective_from"],
                name="own_price_once_per_instant",
                nulls_distinct=False,
                condition=models.Q(rate_card__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def has_rates(self) -> bool:
        """Tell whether the row says anything; of an unknown price it does not."""
        return bool(self.unit_rates) or any(getattr(self, name) is not None for name in RATE_FIELDS)

    def clean(self) -> None:
        self.long_context_tiers = _cleaned("long_context_tiers", _clean_tiers, self.long_context_tiers)
        self.unit_rates = _cleaned("unit_rates", _clean_units, self.unit_rates)
        self.service_tiers = _cleaned("service_tiers", _clean_service_tiers, self.service_tiers)
        if "*" in self.model[:-1]:
            raise ValidationError({"model": "A * may only stand at the end."})
        if (
            self.input_per_mtok_usd is None
            and self.output_per_mtok_usd is None
            and self.per_request_usd is None
            and not self.unit_rates
        ):
            raise ValidationError("Give at least one rate; 0 is a price too.")


RATE_FIELDS = tuple(field.name for field in Price._meta.local_fields if field.name.endswith("_usd"))
NESTED_FIELDS = ("long_context_tiers", "unit_rates", "service_tiers")
PRICING_FIELDS = (*RATE_FIELDS, *NESTED_FIELDS)  # all that decides a cost
_LARGEST = Decimal(10) ** 11  # what a rate field takes
_PLACES = 9


def _cleaned(field: str, clean: Callable[[Any], Any], given: Any) -> Any:
    """Return `given` in the one form in which it is kept. Raises: ValidationError."""
    try:
        return clean(given)
    except (TypeError, KeyError, ValueError, ArithmeticError, AttributeError) as error:
        raise ValidationError({field: f"Not as in the help text: {error}."}) from error


def _clean_tiers(tiers: Any) -> list[dict[str, Any]]:
    """Return tiers in ascending order, rates as decimal texts."""
    if not isinstance(tiers, list):
        raise TypeError("a list is expected")
    cleaned = [
        {"above_prompt_tokens": int(tier["above_prompt_tokens"]), **_clean_part(tier)} for tier in tiers
    ]
    return sorted(cleaned, key=lambda tier: tier["above_prompt_tokens"])


def _clean_part(given: Any) -> dict[str, Any]:
    """Return what a tier says: rates, and those of units where it has any."""
    part: dict[str, Any] = {
        name: _rate_text(given[name]) for name in RATE_FIELDS if given.get(name) is not None
    }
    if given.get("unit_rates"):
        part["unit_rates"] = _clean_units(given["unit_rates"])
    return part


def _clean_units(rates: Any) -> dict[str, str]:
    unknown = [name for name in rates if unit_of(name) is None]
    if unknown:
        raise ValueError(f"there is no unit {unknown[0]}; there are {', '.join(UNITS)}")
    return {name: _rate_text(rates[name]) for name in sorted(rates)}


def _clean_service_tiers(tiers: Any) -> dict[str, dict[str, Any]]:
    cleaned = {}
    for name in sorted(tiers):
        given = tiers[name]
        part = _clean_part(given)
        if given.get("long_context_tiers"):
            part["long_context_tiers"] = _clean_tiers(given["long_context_tiers"])
        if given.get("multiplier") is not None:
            part["multiplier"] = _rate_text(given["multiplier"])
        cleaned[name] = part
    return cleaned


def _rate_text(given: Any) -> str:
    rate = Decimal(str(given))
    if not 0 <= rate < _LARGEST or round(rate, _PLACES) != rate:
        raise ValueError(f"{given} is no rate of at least 0 with at most {_PLACES} decimals")
    return str(rate)
