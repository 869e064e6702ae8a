"""
The search of the Logs page: calls by any id that people have at hand.

Each kind of id is looked up by an index of its own, so nothing here reads the log: the
beginning of a call's, a customer's id or a key's alias, and response, client call and
session ids as a whole.
"""

import uuid

from django.db.models import Q

from customers.models import Customer, VirtualKey
from customers.text import is_clean_text

# Each is a query of its own, so that the newest of its calls are read in order.
MOST_NAMED = 10
_HEX_DIGITS = 32
_LEAST_HEX_DIGITS = 8  # of UUIDv7: a minute of calls
HELP = "Any id, or the alias of a key"


def search_conditions(text: str) -> list[Q]:
    """Return conditions, each served by one index: a call is found by any of them. Two queries."""
    text = text.strip()
    if not is_clean_text(text):
        return []
    named = Customer.objects.filter(pk__startswith=text).exclude(pk=text).order_by("pk")
    keys = VirtualKey.objects.filter(alias__startswith=text).order_by("alias")
    return [
        *_call_conditions(text),
        # The indexes leave out calls that have none: SQLite uses them only where it is told so.
        Q(response_id=text, response_id__gt=""),
        Q(client_call_id=text, client_call_id__gt=""),
        Q(session_id=text, session_id__gt=""),
        Q(customer_id=text),  # also of a customer that has no row: only failed calls named it
        *(Q(customer_id=id_) for id_ in named.values_list("pk", flat=True)[: MOST_NAMED - 1]),
        *(Q(key_id=id_) for id_ in keys.values_list("pk", flat=True)[:MOST_NAMED]),
    ]


def _call_conditions(text: str) -> list[Q]:
    """Return the condition on calls whose id begins with `text`, if one can."""
    digits = text.replace("-", "").lower()
    is_hex = all(digit in "0123456789abcdef" for digit in digits)
    if not is_hex or not _LEAST_HEX_DIGITS <= len(digits) <= _HEX_DIGITS:
        return []
    least, most = (uuid.UUID(digits.ljust(_HEX_DIGITS, end)) for end in "0f")
    return [Q(pk=least)] if least == most else [Q(pk__gte=least, pk__lte=most)]
