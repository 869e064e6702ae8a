"""Who is calling: from the headers of a call to its `Caller`."""

import hmac
import time
from collections.abc import Mapping

from customers.keys import PREFIX, hash_secret
from customers.request_keys import MalformedKey, read_secret
from proxy.callers import MASTER, Caller, Callers, written
from proxy.errors import ExpiredKey, InvalidKey, KeyBlocked, TeamBlocked, Unauthenticated, UserInactive


class Authenticator:
    """Recognises keys. Costs a hash and a look-up; a key seen for the first time, one query in a thread."""

    def __init__(self, callers: Callers, *, master_key: str, own_header: str = "") -> None:
        """own_header: the operator's name for the header with the key; empty: the usual ones alone."""
        self._callers = callers
        self._own_header = own_header
        self._master_hash = hash_secret(master_key)

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return who calls. Raises: Unauthenticated (and what derives from it), DatabaseAway."""
        try:
            secret = read_secret(headers.get, own_header=self._own_header)
        except MalformedKey:
            raise Unauthenticated(
                "Malformed API Key passed in. Send it as `Authorization: Bearer sk-…`."
            ) from None
        if not secret:
            raise Unauthenticated(
                "No api key passed in. Send it as `Authorization: Bearer sk-…` or `x-api-key: sk-…`."
            )
        token_hash = hash_secret(secret)
        if hmac.compare_digest(token_hash, self._master_hash):
            return MASTER
        if not secret.startswith(PREFIX):
            raise Unauthenticated(
                f"Invalid key {_abbreviated(secret)}: a virtual key, starting with `{PREFIX}`, was expected."
            )
        caller = self._callers.known(token_hash) or await self._callers.find(token_hash)
        if caller is None or (caller.secret_until_s is not None and time.time() >= caller.secret_until_s):
            raise InvalidKey(f"Invalid proxy server token: no key {_abbreviated(secret)} is known here.")
        _check(caller, secret)
        return caller


def _check(caller: Caller, secret: str) -> None:
    if caller.blocked:
        raise KeyBlocked("Key is blocked. Ask whoever manages the gateway to unblock it.")
    if caller.expires_at_s is not None and time.time() >= caller.expires_at_s:
        raise ExpiredKey(
            f"Authentication Error - Expired Key. Key expired at {written(caller.expires_at_s)}.",
            param=_abbreviated(secret),
        )
    if caller.team_blocked:
        raise TeamBlocked(f"Team={caller.team_id} is blocked. Ask whoever manages the gateway to unblock it.")
    if not caller.user_is_active:
        raise UserInactive("This key's user is deactivated. Ask whoever manages the gateway.")


def _abbreviated(secret: str) -> str:
    """Return as much of a key as may be shown."""
    return f"{PREFIX}...{secret[-4:]}" if len(secret) >= 12 else "(too short to show)"
