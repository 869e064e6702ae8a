"""What a mutating call with an Idempotency-Key was answered."""

from django.db import models


class IdempotentAnswer(models.Model):
    """The answer to one call of the API, for whoever sends the same call with the same key again.

    Made in the call's own transaction: there is an answer exactly where there is an
    effect. The body is sealed (`customers.sealing`): that of `/key/generate` has a secret.
    """

    caller = models.CharField(max_length=64)  # the key's id, or "master"
    key = models.CharField(max_length=255)
    request_hash = models.CharField(max_length=64)  # of method, path and body
    status = models.PositiveSmallIntegerField(default=0)
    body = models.BinaryField(default=b"")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)  # the sweep over old ones

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "key"], name="idempotent_answer_once")]

    def __str__(self) -> str:
        return f"{self.caller} {self.key}"
