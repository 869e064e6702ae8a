"""
Everything that can be answered instead of a model's answer.

    GatewayError
    ├── Unauthenticated 401   InvalidKey, ExpiredKey, KeyBlocked, TeamBlocked, UserInactive
    ├── Forbidden 403         RouteNotAllowed, ModelNotAllowed, CustomerBlocked, WrongPayer
    ├── BadCall 400           UnknownModel; NotFound 404, MethodNotAllowed 405, BodyTooLarge 413
    ├── RateLimited 429
    ├── OverBudget 400        (setting) BudgetExceeded, NotUnderStrictBudget, UnpricedUnderBudget
    ├── UpstreamFailed 502    UpstreamTimeout 504
    └── Unavailable 503       DatabaseAway, JournalAway

Types and message fragments are the ones that LiteLLM's clients match on (contract
1.4, 1.5). How an error is written is the dialect's business.
"""

from http import HTTPStatus
from typing import Any


class GatewayError(Exception):
    """An answer of ours. `message` is for the person who reads it: what happened, what to do."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    type = "internal_server_error"
    param: str | None = None

    def __init__(
        self, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers or {}
        self.details: dict[str, Any] = {}  # more fields of the answer, as JSON takes them
        self.refusal: dict[str, Any] | None = None  # what the call's row says of a limit
        if param is not None:
            self.param = param


class Unauthenticated(GatewayError):
    status = HTTPStatus.UNAUTHORIZED
    type = "auth_error"


class InvalidKey(Unauthenticated):
    type = "token_not_found_in_db"
    param = "key"


class ExpiredKey(Unauthenticated):
    type = "expired_key"


class KeyBlocked(Unauthenticated):
    pass


class TeamBlocked(Unauthenticated):
    pass


class UserInactive(Unauthenticated):
    pass


class CustomerMissing(Unauthenticated):
    param = "user"


class Forbidden(GatewayError):
    status = HTTPStatus.FORBIDDEN
    type = "permission_error"


class RouteNotAllowed(Forbidden):
    type = "auth_error"


class ModelNotAllowed(Forbidden):
    type = "key_model_access_denied"
    param = "model"


class TeamModelNotAllowed(ModelNotAllowed):
    type = "team_model_access_denied"


class UserModelNotAllowed(ModelNotAllowed):
    type = "user_model_access_denied"


class CustomerModelNotAllowed(ModelNotAllowed):
    type = "customer_model_access_denied"


class CustomerBlocked(Forbidden):
    type = "auth_error"


class WrongPayer(Forbidden):
    type = "auth_error"


class BadCall(GatewayError):
    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"


class TagsNotTaken(BadCall):
    type = "bad_request_error"


class UnknownModel(BadCall):
    param = "model"


class NotFound(GatewayError):
    status = HTTPStatus.NOT_FOUND
    type = "not_found_error"


class MethodNotAllowed(GatewayError):
    status = HTTPStatus.METHOD_NOT_ALLOWED
    type = "invalid_request_error"


class BodyTooLarge(GatewayError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "invalid_request_error"


class BodyTimeout(GatewayError):
    status = HTTPStatus.REQUEST_TIMEOUT
    type = "invalid_request_error"


class RateLimited(GatewayError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "rate_limit_error"


class OverBudget(GatewayError):
    """A budget's refusal: never 429, which SDKs and agents retry without a word."""

    type = "budget_exceeded"

    def __init__(self, message: str, *, status: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = HTTPStatus(status)


class BudgetExceeded(OverBudget):
    pass


class NotUnderStrictBudget(OverBudget):
    """The call could cost more than anybody can tell before."""

    type = "invalid_request_error"


class UnpricedUnderBudget(OverBudget):
    """The model has no price, and the call a budget."""

    type = "invalid_request_error"
    param = "model"


class UpstreamFailed(GatewayError):
    status = HTTPStatus.BAD_GATEWAY
    type = "upstream_error"


class UpstreamTimeout(UpstreamFailed):
    status = HTTPStatus.GATEWAY_TIMEOUT


class Unavailable(GatewayError):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "unavailable"


class DatabaseAway(Unavailable):
    type = "no_db_connection"


class JournalAway(Unavailable):
    pass
