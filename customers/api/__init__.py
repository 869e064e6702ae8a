"""
The REST API's common parts. Views are in `billing/views/` and `proxy/api/`.

    errors.py     error answers, in the four envelopes of LiteLLM (contract 1.4)
    json.py       exact JSON in and out: money is a number with all its digits
    callers.py    who calls: the master key, or a virtual key with its user
    access.py     what each role may read and write: one table
    views.py      the view all others derive from: access, transaction, idempotency, audit
    fields.py     serializer fields: money, ids, durations, free-form objects
    paging.py     page and page_size
"""

from customers.api.access import Action, Reach
from customers.api.callers import ApiCaller
from customers.api.errors import ApiError, Envelope
from customers.api.views import ManagementView

__all__ = ["Action", "ApiCaller", "ApiError", "Envelope", "ManagementView", "Reach"]
