"""What a provider says that it bills, as its export has it."""

from django.db import models

from customers.money import UsdField


class ProviderBill(models.Model):
    """One file that was imported. The same file is imported once: `digest` is its SHA-256."""

    provider = models.CharField(max_length=100)
    form = models.CharField(max_length=40)  # which of the provider's exports it is
    file_name = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, unique=True)
    first_day = models.DateField()
    last_day = models.DateField()
    imported_at = models.DateTimeField()
    imported_by = models.CharField(max_length=255, blank=True)

    class Meta:
        verbose_name = "provider bill"

    def __str__(self) -> str:
        return f"{self.provider}, {self.first_day} to {self.last_day}"


class ProviderBillLine(models.Model):
    """What the provider billed for one model on one day, UTC."""

    bill = models.ForeignKey(ProviderBill, on_delete=models.CASCADE, related_name="lines")
    day = models.DateField()
    model = models.CharField(max_length=255, blank=True)  # empty: the export does not say
    # Null where the export has no amounts, or no tokens.
    cost = UsdField("billed, USD", null=True)
    input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    requests = models.BigIntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["bill", "day", "model"], name="bill_line_once_per_day_and_model")
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.model}"
