"""
Idempotency-Key: what a caller sends twice happens once.

The answer is kept in the transaction of the change itself, so there is an answer exactly
where there is an effect. Of two such calls at the same time the second waits for the
first. A refused call (4xx) changed nothing and keeps nothing: its key is free again.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from customers.api.callers import caller_of
from customers.api.errors import ApiError, BadRequest
from customers.api.json import ExactJSONRenderer
from customers.models import IdempotentAnswer
from customers.sealing import CannotUnseal, seal, unseal
from customers.text import is_clean_id

KEEP = timedelta(hours=24)
_PURPOSE = "idempotent-answer"
_HEADER = "Idempotency-Key"


def answered_once(request: Request, work: Callable[[], Response]) -> Any:
    """Return what `work` answers, or answered when it was first asked for. In a transaction."""
    key = request.headers.get(_HEADER)
    if not key:
        return work()
    if not is_clean_id(key):
        raise BadRequest(f"{_HEADER} is 1 to 255 printable characters.", param=_HEADER)
    row = IdempotentAnswer(caller=caller_of(request).id, key=key, request_hash=_hash_of(request))
    try:
        with transaction.atomic():
            row.save(force_insert=True)  # where another call has it, this waits for that call's end
    except IntegrityError:
        return _earlier_answer(row)
    response = work()
    row.status, row.body = (
        response.status_code,
        seal(ExactJSONRenderer().render(response.data), purpose=_PURPOSE),
    )
    row.save(update_fields=["status", "body"])
    return response


def _hash_of(request: Request) -> str:
    said = b"\0".join(
        ((request.method or "").encode(), request.get_full_path().encode(), request._request.body)
    )
    return hashlib.sha256(said).hexdigest()


def _earlier_answer(asked: IdempotentAnswer) -> HttpResponse:
    kept = IdempotentAnswer.objects.get(caller=asked.caller, key=asked.key)
    if kept.request_hash != asked.request_hash:
        raise ApiError(
            f"This {_HEADER} was used for another request within the last 24 hours. Send a new one.",
            status=409,
            type="idempotency_key_reused",
            param=_HEADER,
        )
    try:
        body = unseal(bytes(kept.body), purpose=_PURPOSE)
    except CannotUnseal:
        raise ApiError(
            "This was done before, but its answer cannot be read any more: SECRET_KEY was changed since.",
            status=409,
            type="idempotency_answer_lost",
            param=_HEADER,
        ) from None
    return HttpResponse(
        body, status=kept.status, content_type="application/json", headers={"Idempotency-Replayed": "true"}
    )


def forget_answers(*, at: datetime) -> int:
    """Delete answers older than 24 hours; return how many."""
    return IdempotentAnswer.objects.filter(created_at__lt=at - KEEP).delete()[0]
