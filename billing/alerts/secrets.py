"""The Slack address that a rule has for itself, sealed at rest."""

from urllib.parse import urlsplit

from billing.webhooks.egress import RefusedAddress, check_url
from customers.sealing import seal, unseal

_PURPOSE = "slack-url"


def slack_target(rule_id: int) -> str:
    """Return the target of a delivery to the Slack channel that a rule has for itself."""
    return f"rule {rule_id}"


def sealed_url(url: str) -> str:
    """Return the address as it is kept; empty stays empty. Raises: ValueError, with what to write."""
    if not url:
        return ""
    try:
        check_url(url)
    except RefusedAddress as error:
        raise ValueError(str(error)) from None
    return seal(url.encode(), purpose=_PURPOSE).decode()


def unsealed_url(sealed: str) -> str:
    """Raises: CannotUnseal, where SECRET_KEY was changed since."""
    return unseal(sealed.encode(), purpose=_PURPOSE).decode()


def shown_url(sealed: str) -> str:
    """Return what may be shown of it: the host."""
    return f"https://{urlsplit(unsealed_url(sealed)).hostname}/…" if sealed else ""
