"""Who calls the API: the master key, or a virtual key with its user."""

import hmac
from functools import cached_property
from typing import cast

from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from customers.actors import MASTER_KEY_USER_ID, Actor
from customers.allowed_routes import routes_of
from customers.api.errors import AccessError
from customers.keys import PREFIX, abbreviated, hash_secret
from customers.models import TeamMembership, User, VirtualKey
from customers.request_keys import MalformedKey, read_secret


class ApiCaller:
    """A key that was recognised. `key` None: the master key."""

    is_authenticated = True  # what DRF asks for

    def __init__(self, key: VirtualKey | None) -> None:
        self.key = key

    @property
    def id(self) -> str:
        """Return what tells callers apart in our own records."""
        return "master" if self.key is None else str(self.key.pk)

    @property
    def user_id(self) -> str | None:
        return MASTER_KEY_USER_ID if self.key is None else self.key.user_id

    @property
    def role(self) -> str:
        """Return a `User.Role`. A key without a user is an internal user's who owns that key alone."""
        if self.key is None:
            return User.Role.PROXY_ADMIN
        return self.key.user.role if self.key.user else User.Role.INTERNAL_USER

    @property
    def is_proxy_admin(self) -> bool:
        return self.role == User.Role.PROXY_ADMIN

    @property
    def allowed_routes(self) -> list[str]:
        """Return the paths and groups that the key is confined to; empty: it is not."""
        return [] if self.key is None else routes_of(self.key)

    @cached_property
    def team_ids(self) -> frozenset[str]:
        """Return the teams that the caller's user is on."""
        return frozenset(self._memberships)

    @cached_property
    def administered_team_ids(self) -> frozenset[str]:
        return frozenset(
            team_id for team_id, role in self._memberships.items() if role == TeamMembership.Role.ADMIN
        )

    @cached_property
    def _memberships(self) -> dict[str, str]:
        if self.key is None or self.key.user_id is None:
            return {}
        memberships = TeamMembership.objects.filter(user_id=self.key.user_id, team__deleted_at=None)
        return dict(memberships.values_list("team_id", "role"))

    def actor(self, request: Request) -> Actor:
        """Return how changes that this call makes are signed."""
        return Actor(
            via="api",
            user_id=self.user_id or "",
            name="master key" if self.key is None else str(self.key),
            changed_by=request.headers.get("litellm-changed-by", "")[:255],
            address=request.META.get("REMOTE_ADDR") or "",
        )


def caller_of(request: Request) -> ApiCaller:
    """Return who calls: DRF keeps it as the request's user."""
    return cast(ApiCaller, request.user)


class KeyAuthentication(BaseAuthentication):
    """Recognises the master key and virtual keys, from the same headers as the proxied routes."""

    def authenticate(self, request: Request) -> tuple[ApiCaller, None]:
        try:
            secret = read_secret(request.headers.get, own_header=settings.KEY_HEADER)
        except MalformedKey:
            raise _refused("Malformed API Key passed in. Send it as `Authorization: Bearer sk-…`.") from None
        if not secret:
            raise _refused("No api key passed in. Send it as `Authorization: Bearer sk-…`.")
        token_hash = hash_secret(secret)
        if hmac.compare_digest(token_hash, hash_secret(settings.MASTER_KEY)):
            return ApiCaller(None), None
        if not secret.startswith(PREFIX):
            shown = abbreviated(secret)
            raise _refused(f"Invalid key {shown}: a virtual key, starting with `{PREFIX}`, was expected.")
        return ApiCaller(_find(token_hash)), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _find(token_hash: str) -> VirtualKey:
    now = timezone.now()
    by_secret = Q(token_hash=token_hash) | Q(previous_token_hash=token_hash, previous_valid_until__gt=now)
    key = VirtualKey.objects.listed().select_related("user", "team").filter(by_secret).first()
    if key is None:
        raise AccessError(
            "Invalid proxy server token: this key is not known here.",
            status=401,
            type="token_not_found_in_db",
            param="key",
        )
    if key.blocked:
        raise _refused("Key is blocked. Ask whoever manages the gateway to unblock it.")
    if key.team and (key.team.blocked or key.team.deleted_at):
        raise _refused(f"Team={key.team_id} is blocked. Ask whoever manages the gateway to unblock it.")
    if key.expires_at and key.expires_at <= now:
        raise AccessError(
            f"Authentication Error - Expired Key. Key expired at {key.expires_at:%Y-%m-%d %H:%M:%S UTC}.",
            status=401,
            type="expired_key",
            param=key.display_name,
        )
    if key.user and not key.user.is_active:
        raise _refused("This key's user is deactivated.")
    return key


def _refused(message: str) -> AccessError:
    return AccessError(message, status=401, type="auth_error")
