"""
Links and read tokens of one customer's usage: make them, take them back, recognise them.

    sk-page-<id>.<signature>     part of an address: /hand-out/…/
    sk-read-<id>.<signature>     sent as `Authorization: Bearer …`

The id of the row is signed with SECRET_KEY, with the kind as salt, so that neither can be
made up, nor used as the other; what the row says is not in it. They begin as all our
secrets do, and so are hidden in log lines.
"""

import base64
import uuid
from datetime import datetime, timedelta

from django.core.signing import BadSignature, Signer

from customers.actors import current_actor
from customers.models import Customer, HandoutLink

LONGEST = timedelta(days=731)
_PREFIXES = {HandoutLink.Kind.PAGE.value: "sk-page-", HandoutLink.Kind.READ_TOKEN.value: "sk-read-"}
_MOST_CHARACTERS = 200


class UnknownHandout(Exception):
    """Nothing of ours, or it was tampered with."""


class HandoutOver(Exception):
    """It was ours, and has expired or was taken back."""


def make_handout_link(
    *,
    customer: Customer,
    kind: str,
    expires_at: datetime,
    at: datetime,
    title: str = "",
    colour: str = "",
    shows_keys: bool = False,
) -> tuple[HandoutLink, str]:
    """Return a new link, and what is handed out: it is kept nowhere.

    Raises: ValidationError, ValueError where it would have expired already, or last too long.
    """
    if not at < expires_at <= at + LONGEST:
        raise ValueError(f"A link expires in the future, and within {LONGEST.days} days.")
    link = HandoutLink(
        customer=customer,
        kind=kind,
        title=title,
        colour=colour.lower(),
        shows_keys=shows_keys,
        expires_at=expires_at,
        created_by=current_actor().id[:255],
    )
    link.full_clean(validate_unique=False, validate_constraints=False)
    link.save(force_insert=True)
    return link, signed(link)


def revoke_handout_links(*, links: list[uuid.UUID], customer_id: str, at: datetime) -> int:
    """Take links of one customer back. Returns how many were in force."""
    in_force = HandoutLink.objects.filter(
        pk__in=links, customer_id=customer_id, revoked_at=None, expires_at__gt=at
    )
    return in_force.update(revoked_at=at)


def signed(link: HandoutLink) -> str:
    """Return what is handed out of a link."""
    raw = base64.urlsafe_b64encode(link.pk.bytes).decode().rstrip("=")
    return _PREFIXES[link.kind] + _signer(link.kind).sign(raw)


def find_handout_link(token: str, *, kind: str, at: datetime) -> HandoutLink:
    """Return the link that `token` is, with its customer and the customer's budget. One query.

    Raises: UnknownHandout without a query, HandoutOver.
    """
    link = HandoutLink.objects.select_related("customer__budget").filter(pk=_id_of(token, kind)).first()
    if link is None or link.kind != kind:
        raise UnknownHandout
    if link.revoked_at is not None or link.expires_at <= at or link.customer.deleted_at is not None:
        raise HandoutOver
    return link


def _id_of(token: str, kind: str) -> uuid.UUID:
    prefix = _PREFIXES[kind]
    if not token.startswith(prefix) or len(token) > _MOST_CHARACTERS or not token.isascii():
        raise UnknownHandout
    try:
        raw = _signer(kind).unsign(token.removeprefix(prefix))
        return uuid.UUID(bytes=base64.urlsafe_b64decode(raw + "=="))
    except (BadSignature, ValueError):
        raise UnknownHandout from None


def _signer(kind: str) -> Signer:
    return Signer(salt=f"customers.handout_links.{kind}", sep=".")
