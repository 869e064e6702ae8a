"""How long a model's answers usually are: one shared figure per model (H8)."""

from django.db import models

from billing.models.ledger_model import LedgerModel


class TypicalOutput(LedgerModel):
    """Output tokens of an upstream model's recent calls, as the provider reported them.

    The recorders of all workers add to it. Both counters are halved now and then, so
    that what is recent weighs more.
    """

    ENOUGH_CALLS = 20  # with fewer, an unusual one counts for too much

    upstream_model = models.CharField(primary_key=True, max_length=255)
    calls = models.BigIntegerField()
    output_tokens = models.BigIntegerField()

    class Meta:
        verbose_name = "typical output"

    def __str__(self) -> str:
        return f"{self.upstream_model}: {self.tokens} tokens"

    @property
    def tokens(self) -> int | None:
        """Return the mean, rounded up; None while too few calls are known."""
        return -(-self.output_tokens // self.calls) if self.calls >= self.ENOUGH_CALLS else None
