"""
Every key of config.yaml that we know: how it is read, and what becomes of it.

`KEYS` drives the reader (`config_file.py`), `manage.py check_config` and the table in
`docs/config-yaml.md`. A key that is not here is named as having no effect. Paths are
written with dots; a key below `model_list[]` stands in each of its entries.

Source: LiteLLM's config.yaml (1.81 and 1.109), and the keys that only our users'
documents have.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from customers.durations import parse_duration
from customers.text import MAX_ID_LENGTH


class Fate(StrEnum):
    """What becomes of a key."""

    APPLIED = "applied"  # written to the database by `bootstrap`
    SETTING = "setting"  # read by every process at its start
    ALWAYS = "always so"  # accepted without effect: what it asks for is always done
    UNSUPPORTED = "not supported"  # named in a warning


Reader = Callable[[Any], Any]


class Key(NamedTuple):
    """One key of the file.

    read: returns the value in its one form; raises ValueError, whose message says what to write.
    variable: the setting's variable, which wins over the file.
    write: makes the variable's text of the value.
    only: of an ALWAYS key, the value that is always so; another one is not supported.
    names: of a list, those that have an effect; others are left out, and named in a warning.
    """

    path: str
    fate: Fate
    read: Reader
    note: str = ""
    variable: str = ""
    write: Callable[[Any], str] | None = None
    secret: bool = False
    only: Any = None
    names: frozenset[str] = frozenset()


# -- readers -------------------------------------------------------------------------


def anything(value: Any) -> Any:
    return value


def text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("write a text")
    found = str(value).strip()
    if not found or not found.isprintable():
        raise ValueError("write a text on one line that is not empty")
    return found


def boolean(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):  # as os.environ/NAME gives it
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("write true or false")
    return value


def decimal(value: Any) -> Decimal:
    """Return a finite number; texts such as 1e-06 are numbers too (YAML 1.1 takes that one for text)."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("write a number")
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError("write a number") from None
    if not number.is_finite() or abs(number.adjusted()) > 40:
        raise ValueError("write a number")
    return number


def whole(minimum: int = 0, maximum: int = 2**63 - 1) -> Reader:
    def read(value: Any) -> int:
        number = decimal(value)
        if number != int(number) or not minimum <= number <= maximum:
            raise ValueError(f"write a whole number of at least {minimum}")
        return int(number)

    return read


def seconds(value: Any) -> Decimal:
    number = decimal(value)
    if not 0 < number <= 31_536_000:
        raise ValueError("write a number of seconds above 0, at most a year")
    return number


def usd(value: Any) -> Decimal:
    amount = decimal(value)
    if not 0 <= amount < 9_000_000_000 or amount != round(amount, 9):
        raise ValueError("write an amount of USD of at least 0, with at most 9 decimal places")
    return amount


def duration(value: Any) -> str:
    written = text(value)
    parse_duration(written)
    return written


def texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [text(item) for item in items]


def header_names(value: Any) -> list[str]:
    return [header_name(item) for item in (value if isinstance(value, list) else [value])]


def header_name(value: Any) -> str:
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError("write the name of a header, such as x-department")
    return name


def mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("write keys and values")
    return value


def metadata(value: Any) -> dict[str, Any]:
    """Return an object as JSON has it: its numbers are no money."""
    return {str(name): _as_json(item) for name, item in mapping(value).items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return metadata(value)
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def model_budgets(value: Any) -> dict[str, Any]:
    """Return limits by model with amounts as text, as `Budget.model_max_budget` keeps them."""
    if not all(isinstance(limit, dict) for limit in mapping(value).values()):
        raise ValueError('write limits by model: {gpt-4o: {budget_limit: 5, time_period: "1d"}}')
    return {
        model: {name: str(item) if isinstance(item, Decimal) else item for name, item in limit.items()}
        for model, limit in value.items()
    }


def one_of(*allowed: str) -> Reader:
    def read(value: Any) -> str:
        written = str(value).lower() if isinstance(value, str | int) else ""
        if written not in allowed:
            raise ValueError(f"write one of {', '.join(allowed)}")
        return written

    return read


def time_zone(value: Any) -> str:
    try:
        return ZoneInfo(text(value)).key
    except (LookupError, ValueError, OSError):
        raise ValueError("write an IANA name such as UTC or Europe/Berlin") from None


def gateway_key(value: Any) -> str:
    key = text(value)
    if not key.startswith("sk-") or len(key) < 7:
        raise ValueError("a master key starts with sk- and has at least 7 characters")
    return key


# What Prisma reads from the address, and psycopg would refuse.
_PRISMAS = {
    "connection_limit", "pool_timeout", "pgbouncer", "schema", "socket_timeout", "statement_cache_size",
    "sslaccept",
}  # fmt: skip


def database_url(value: Any) -> str:
    """Return the address without the parameters that only LiteLLM's database client knows."""
    parts = urlsplit(text(value))
    if parts.scheme.split("+")[0] not in ("postgres", "postgresql", "sqlite", "sqlite3", "file"):
        raise ValueError("write postgresql://user:password@host:port/name or sqlite:///path")
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] not in _PRISMAS])
    url = urlunsplit(parts._replace(query=query))
    # `urlunsplit` drops the empty host of sqlite:///path.
    return text(value) if parts.scheme.startswith(("sqlite", "file")) else url


def web_address(value: Any) -> str:
    url = text(value)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("write an address such as https://hooks.example.com/…")
    return url


def header_mappings(value: Any) -> list[str]:
    """Return entries `header:role` of `[{header_name, litellm_user_role}]`, or of one such object."""
    entries = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict) or set(item) != {"header_name", "litellm_user_role"}:
            raise ValueError("write entries {header_name: X-User-Email, litellm_user_role: customer}")
        role = one_of("customer", "internal_user")(item["litellm_user_role"])
        entries.append(f"{header_name(item['header_name'])}:{role}")
    return entries


def cost_discounts(value: Any) -> list[str]:
    """Return entries `provider:fraction`."""
    found = []
    for provider, fraction in mapping(value).items():
        if not 0 <= decimal(fraction) <= 1:
            raise ValueError(f"{provider}: write a fraction such as 0.05, at most 1")
        found.append(f"{provider}:{decimal(fraction):f}")
    return found


def cost_margins(value: Any) -> list[str]:
    """Return entries `provider:fraction+amount` of {provider: 0.1}, or of percentage and fixed_amount."""
    found = []
    for provider, said in mapping(value).items():
        parts = said if isinstance(said, dict) else {"percentage": said}
        if not parts or not set(parts) <= {"percentage", "fixed_amount"}:
            raise ValueError(f"{provider}: write 0.1, or {{percentage: 0.1, fixed_amount: 0.0005}}")
        fraction, fixed = (decimal(parts.get(name, 0)) for name in ("percentage", "fixed_amount"))
        if fraction < 0 or fixed < 0:
            raise ValueError(f"{provider}: write numbers of at least 0")
        found.append(f"{provider}:{fraction:f}+{fixed:f}")
    return found


def rate_limits(value: Any) -> dict[str, int]:
    """Return rpm_limit and tpm_limit of an object, or of a list of objects."""
    found: dict[str, int] = {}
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict) or not item or not set(item) <= {"rpm_limit", "tpm_limit"}:
            raise ValueError("write {rpm_limit: 100, tpm_limit: 10000}, or a list of such")
        for name, limit in item.items():
            if name in found:
                raise ValueError(f"{name} is given twice; keep one of them")
            found[name] = whole()(limit)
    return found


def tag_budgets(value: Any) -> dict[str, dict[str, Any]]:
    """Return {tag: {"max_budget", "budget_duration"}}; without a duration it is for all time."""
    found: dict[str, dict[str, Any]] = {}
    for tag, said in mapping(value).items():
        if not isinstance(said, dict) or not {"max_budget"} <= set(said) <= {"max_budget", "budget_duration"}:
            raise ValueError(
                "write each tag with its budget: {engineering: {max_budget: 50, budget_duration: 1mo}}"
            )
        name = text(tag)
        if len(name) > MAX_ID_LENGTH:
            raise ValueError(f"a tag has at most {MAX_ID_LENGTH} characters")
        length = said.get("budget_duration")
        found[name] = {
            "max_budget": usd(said["max_budget"]),
            "budget_duration": "" if length is None else duration(length),
        }
    return found


# -- alerts ----------------------------------------------------------------------------


class AlertRule(NamedTuple):
    """Whom to tell of what. `threshold`: of a budget its share (0.8), else an amount of USD or a count."""

    kind: str  # budget, daily_spend, model_usage
    threshold: Decimal
    emails: tuple[str, ...] = ()
    webhook: str = ""
    slack_url: str = ""
    model: str = ""


def budget_alerts(value: Any) -> list[AlertRule]:
    rules = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict) or "threshold" not in item:
            raise ValueError("write entries {threshold: 0.8, email: admin@example.com}")
        if not set(item) <= {"threshold", "email", "webhook"}:
            raise ValueError("an entry has threshold, email and webhook, and nothing else")
        threshold = decimal(item["threshold"])
        if not 0 < threshold <= 10:
            raise ValueError("threshold is a share of the budget: 0.8 for 80 %, 1.0 for all of it")
        emails = tuple(texts(item["email"])) if "email" in item else ()
        if any("@" not in email for email in emails):
            raise ValueError("email is an address, or a list of addresses")
        webhook = web_address(item["webhook"]) if "webhook" in item else ""
        if not emails and not webhook:
            raise ValueError("say whom to tell: email, webhook, or both")
        rules.append(AlertRule("budget", threshold, emails=emails, webhook=webhook))
    return rules


def slack_alerts(value: Any) -> list[AlertRule]:
    if (
        not isinstance(value, dict)
        or not set(value) <= {"webhook_url", "alerts"}
        or "webhook_url" not in value
    ):
        raise ValueError("write webhook_url, and alerts: a list of {type: daily_spend, threshold: 50}")
    slack_url = web_address(value["webhook_url"])
    if not isinstance(value.get("alerts", []), list):
        raise ValueError("alerts is a list of {type: daily_spend, threshold: 50}")
    rules = []
    for item in value.get("alerts", []):
        if not isinstance(item, dict) or not {"type", "threshold"} <= set(item) <= {
            "type",
            "threshold",
            "model",
        }:
            raise ValueError("an alert has type, threshold and, for model_usage, model")
        kind = one_of("daily_spend", "model_usage")(item["type"])
        if (kind == "model_usage") != ("model" in item):
            raise ValueError("model belongs to an alert of type model_usage, and that one needs it")
        threshold = usd(item["threshold"])
        model = text(item["model"]) if "model" in item else ""
        rules.append(AlertRule(kind, threshold, slack_url=slack_url, model=model))
    return rules


# -- the table -----------------------------------------------------------------------------


def _variable_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return ",".join(value) if isinstance(value, list) else str(value)


def _setting(
    path: str,
    read: Reader,
    variable: str,
    note: str,
    *,
    secret: bool = False,
    write: Any = _variable_text,
    names: frozenset[str] = frozenset(),
) -> Key:
    return Key(path, Fate.SETTING, read, note, variable, write, secret, names=names)


def _applied(path: str, read: Reader, note: str, *, secret: bool = False) -> Key:
    return Key(path, Fate.APPLIED, read, note, secret=secret)


def _always(path: str, only: Any, note: str) -> Key:
    return Key(path, Fate.ALWAYS, anything, note, only=only)


def _unsupported(path: str, note: str) -> Key:
    return Key(path, Fate.UNSUPPORTED, anything, note)


ANY = object()  # of an ALWAYS key: whatever it says

# What ALERTING and ALERT_TYPES choose from: channels, and those of LiteLLM's alert types that we have.
CHANNELS = frozenset({"webhook", "slack", "email"})
ALERT_TYPES = frozenset(
    {
        "budget_alerts", "failed_tracking_spend", "outage_alerts", "spend_reports", "user_spend_anomalies",
        "user_spend_thresholds",
    }
)  # fmt: skip
_REDIS = "part of REDIS_URL"
_RETRIES = "what is provably unbilled is tried at the model's other deployments"
_IN_GATEWAY_BUDGET = "budget `config-gateway`, the gateway's"

_GENERAL = (
    _setting("general_settings.master_key", gateway_key, "MASTER_KEY", "the operator's key", secret=True),
    _setting("general_settings.database_url", database_url, "DATABASE_URL",
             "PostgreSQL or SQLite; Prisma's parameters are left out", secret=True),
    _setting("general_settings.litellm_key_header_name", header_name, "KEY_HEADER",
             "one header more that the key is read from, before all others"),
    _setting("general_settings.user_header_mappings", header_mappings, "USER_HEADER_MAPPINGS",
             "replaces the default, which is Open WebUI's headers"),
    _setting("general_settings.user_header_name", header_name, "USER_HEADER_MAPPINGS",
             "one header more that names the customer"),
    _setting("general_settings.store_prompts_in_spend_logs", boolean, "STORE_PROMPTS", "keep request bodies"),
    _setting("general_settings.token_rate_limit_type", one_of("total", "input", "output"),
             "TOKEN_RATE_LIMIT_TYPE", "which tokens count"),
    _setting("general_settings.apply_user_budget_to_team_keys", boolean, "APPLY_USER_BUDGET_TO_TEAM_KEYS",
             "whether a user's budget counts with a team's key"),
    _setting("general_settings.disable_custom_api_keys", boolean, "DISABLE_CUSTOM_API_KEYS",
             "keys are made by the gateway alone: `key` and `new_key` are refused"),
    _setting("general_settings.enforce_user_param", boolean, "ENFORCE_CUSTOMER",
             "refuse calls that name no customer, wherever they might have"),
    _setting("general_settings.reject_clientside_metadata_tags", boolean, "REJECT_METADATA_TAGS",
             "refuse calls whose body has `metadata.tags`"),
    _setting("general_settings.allow_requests_on_db_unavailable", boolean, "BUDGETS_WHEN_DB_DOWN",
             "calls under a budget while the database is away",
             write=lambda yes: "open" if yes else "closed"),
    _setting("general_settings.budget_exceeded_status_code", one_of("400", "402", "422", "429"),
             "BUDGET_EXCEEDED_STATUS", "status of a budget's refusal"),
    _setting("general_settings.cache.type", one_of("simple", "local", "redis", "off"), "RESPONSE_CACHE",
             "the response cache: in memory, or in Redis"),
    _setting("general_settings.cache.ttl", whole(1), "RESPONSE_CACHE_SECONDS",
             "how long an answer is kept, s"),
    _applied("general_settings.rate_limits", rate_limits, f"rpm and tpm of the {_IN_GATEWAY_BUDGET}"),
    _applied("general_settings.global_max_parallel_requests", whole(1), f"of the {_IN_GATEWAY_BUDGET}"),
    _setting("general_settings.alerting", texts, "ALERTING",
             "channels: webhook, slack, email; without it all that are configured", names=CHANNELS),
    _setting("general_settings.alert_types", texts, "ALERT_TYPES", "which kinds of alerts; without it all",
             names=ALERT_TYPES),
    _unsupported("general_settings.alert_to_webhook_url", "give alert rules Slack channels of their own"),
    _always("general_settings.alerting_args", ANY, "an alert is told once a period; rules say the rest"),
    _unsupported("general_settings.alerting_threshold", "slow calls are no alert; the logs tell latencies"),
    _setting("general_settings.spend_report_frequency", duration, "SPEND_REPORT_FREQUENCY",
             "how long the weekly report's periods are"),
    _unsupported("general_settings.alert_type_config", "alerts are not put together"),
    _unsupported("general_settings.maximum_spend_logs_retention_period", "LOG_RETENTION_MONTHS says it"),
    _unsupported("general_settings.maximum_spend_logs_retention_interval", "LOG_RETENTION_MONTHS says it"),
    _always("general_settings.track_cost", True, "every call's cost is tracked"),
    _always("general_settings.proxy_batch_write_at", ANY, "calls are booked within a second"),
    _always("general_settings.disable_spend_logs", False, "every call has its log"),
    _always("general_settings.disable_spend_updates", False, "every call is counted"),
    _always("general_settings.disable_error_logs", False, "failed calls have their log too"),
    _always("general_settings.disable_reset_budget", False, "periods follow the calendar; nothing is reset"),
    _always("general_settings.proxy_budget_rescheduler_min_time", ANY, "nothing is reset by a job"),
    _always("general_settings.proxy_budget_rescheduler_max_time", ANY, "nothing is reset by a job"),
    _always("general_settings.always_include_stream_usage", True, "a stream's usage is always asked for"),
    _always("general_settings.store_model_in_db", ANY, "deployments are in the database"),
    _always("general_settings.disable_budget_reservation", False, "every call is held on its budgets first"),
    _unsupported("general_settings.custom_auth", "keys are checked by the gateway alone"),
    _unsupported("general_settings.enforced_params", "bodies are passed on as they are"),
    _unsupported("general_settings.public_routes", "routes are fixed"),
    _unsupported("general_settings.admin_only_routes", "routes are fixed"),
    _unsupported("general_settings.allowed_routes", "give allowed_routes to keys"),
    _unsupported("general_settings.max_parallel_requests",
                 "set it on budgets, or global_max_parallel_requests"),
    _unsupported("general_settings.pass_through_endpoints", "make an upstream for the provider"),
    _unsupported("general_settings.forward_client_headers_to_llm_api",
                 "headers that providers define are passed on, no others"),
)  # fmt: skip

_LITELLM = (
    _setting("litellm_settings.timezone", time_zone, "BUDGET_TIME_ZONE", "the zone of budgets' periods"),
    _setting("litellm_settings.budget_exceeded_status_code", one_of("400", "402", "422", "429"),
             "BUDGET_EXCEEDED_STATUS", "status of a budget's refusal"),
    _setting("litellm_settings.extra_spend_tag_headers", header_names, "EXTRA_SPEND_TAG_HEADERS",
             "headers that become tags"),
    _setting("litellm_settings.disable_add_user_agent_to_request_tags", boolean, "USER_AGENT_TAGS",
             "the other way round", write=lambda off: _variable_text(not off)),
    _setting("litellm_settings.include_cost_in_streaming_usage", boolean, "INCLUDE_COST_IN_STREAMING_USAGE",
             "put `cost` into a stream's usage"),
    _setting("litellm_settings.request_timeout", seconds, "CALL_SECONDS", "the longest call, s"),
    _setting("litellm_settings.cache", boolean, "RESPONSE_CACHE", "the response cache"),
    _setting("litellm_settings.cache_params.type", text, "RESPONSE_CACHE",
             "`local` or `redis`; without it Redis where it is configured, else `local`"),
    _setting("litellm_settings.cache_params.ttl", whole(1), "RESPONSE_CACHE_SECONDS",
             "how long an answer is kept, s"),
    _setting("litellm_settings.cache_params.url", text, "REDIS_URL", _REDIS, secret=True),
    _setting("litellm_settings.cache_params.host", text, "REDIS_URL", _REDIS),
    _setting("litellm_settings.cache_params.port", whole(1, 65535), "REDIS_URL", _REDIS),
    _setting("litellm_settings.cache_params.password", text, "REDIS_URL", _REDIS, secret=True),
    _setting("litellm_settings.cache_params.username", text, "REDIS_URL", _REDIS),
    _setting("litellm_settings.cache_params.db", whole(), "REDIS_URL", _REDIS),
    _setting("litellm_settings.cache_params.ssl", boolean, "REDIS_URL", _REDIS),
    _applied("litellm_settings.max_budget", usd, f"USD of the {_IN_GATEWAY_BUDGET}"),
    _applied("litellm_settings.budget_duration", duration, "its duration; without one it is for all time"),
    _applied("litellm_settings.max_end_user_budget_id", text, "the budget of customers without another one"),
    _applied("litellm_settings.max_end_user_budget", usd,
             "USD of budget `config-customers`, for customers without another one, for all time"),
    _applied("litellm_settings.tag_budget_config", tag_budgets,
             "tags with a budget `config-tag-…` each; a budget that a tag was given by hand stays"),
    _applied("litellm_settings.budget_alerts", budget_alerts, "alert rules about all budgets", secret=True),
    _applied("litellm_settings.slack_alerts", slack_alerts,
             "alert rules; a model's usage is counted in calls a day", secret=True),
    _setting("litellm_settings.alerting", texts, "ALERTING", "as in general_settings", names=CHANNELS),
    _setting("litellm_settings.cost_discount_config", cost_discounts, "COST_DISCOUNTS",
             "a fraction off the cost, by provider"),
    _setting("litellm_settings.cost_margin_config", cost_margins, "COST_MARGINS",
             "on top of the cost, in the charge, by provider or `global`"),
    _always("litellm_settings.track_cost", True, "every call's cost is tracked"),
    _always("litellm_settings.disable_end_user_cost_tracking", False, "customers' spend is counted"),
    _always("litellm_settings.store_audit_logs", True, "every change is in the audit log"),
    _always("litellm_settings.drop_params", False, "bodies are passed on as they are"),
    _unsupported("litellm_settings.budget_reset_time", "periods begin at midnight"),
    _unsupported("litellm_settings.validate_end_user_id_in_db",
                 "an unknown customer is made at its first call"),
    _unsupported("litellm_settings.block_requests_for_models_without_pricing",
                 "under budgets, UNPRICED_UNDER_BUDGET=refuse does it"),
    _unsupported("litellm_settings.key_generation_settings", "who may make keys is fixed by role"),
    _unsupported("litellm_settings.default_team_settings", "there are no callbacks"),
    _unsupported("litellm_settings.callbacks", "there are no callbacks; webhooks come with alerts"),
    _unsupported("litellm_settings.success_callback", "there are no callbacks; webhooks come with alerts"),
    _unsupported("litellm_settings.failure_callback", "there are no callbacks; webhooks come with alerts"),
    _unsupported("litellm_settings.num_retries", _RETRIES),
    _unsupported("litellm_settings.set_verbose", "set LOG_LEVEL=DEBUG"),
)  # fmt: skip

_ROUTER = (
    _setting("router_settings.redis_url", text, "REDIS_URL", "where rate limits are counted", secret=True),
    _setting("router_settings.redis_host", text, "REDIS_URL", _REDIS),
    _setting("router_settings.redis_port", whole(1, 65535), "REDIS_URL", _REDIS),
    _setting("router_settings.redis_password", text, "REDIS_URL", _REDIS, secret=True),
    _setting("router_settings.redis_username", text, "REDIS_URL", _REDIS),
    _setting("router_settings.redis_db", whole(), "REDIS_URL", _REDIS),
    _setting("router_settings.redis_ssl", boolean, "REDIS_URL", _REDIS),
    _setting("router_settings.cooldown_time", seconds, "COOLDOWN_SECONDS",
             "how long a deployment that failed is tried last, s"),
    _always("router_settings.routing_strategy", "simple-shuffle", "by order, then by weight"),
    _unsupported("router_settings.fallbacks", "give one model_name several deployments, with `order`"),
    _unsupported("router_settings.provider_budget_config", "budgets belong to the gateway and to callers"),
    _unsupported("router_settings.model_group_alias", "add the alias to model_list"),
    _unsupported("router_settings.num_retries", _RETRIES),
    _unsupported("router_settings.timeout",
                 "set litellm_params.timeout, or litellm_settings.request_timeout"),
)  # fmt: skip

_MODELS = (
    _applied("model_list[].model_name", text, "the name that callers use; `*` may stand at its end"),
    _applied("model_list[].litellm_params.model", text, "`provider/model`: the upstream and its model"),
    _applied("model_list[].litellm_params.custom_llm_provider", text,
             "the provider, where `model` does not name it"),
    _applied("model_list[].litellm_params.api_key", text, "the upstream's credential", secret=True),
    _applied("model_list[].litellm_params.api_base", text, "the upstream's address"),
    _applied("model_list[].litellm_params.base_url", text, "as api_base"),
    _applied("model_list[].litellm_params.organization", text, "header OpenAI-Organization"),
    _applied("model_list[].litellm_params.extra_headers", mapping, "the upstream's headers", secret=True),
    _applied("model_list[].litellm_params.timeout", seconds, "the upstream's read timeout, s"),
    _applied("model_list[].litellm_params.weight", whole(1, 1_000_000), "share of the calls among equals"),
    _applied("model_list[].litellm_params.order", whole(0, 32_767), "priority: lower is tried first"),
    _applied("model_list[].litellm_params.base_model", text, "as model_info.base_model"),
    _applied("model_list[].model_info.id", text, "the deployment's model id"),
    _applied("model_list[].model_info.base_model", text, "the model whose price applies"),
    _applied("model_list[].model_info.mode", text, "kept"),
    _always("model_list[].litellm_params.api_version", ANY,
            "Azure is called by its v1 API, which has no versions"),
    _unsupported("model_list[].litellm_params.rpm", "limit keys, teams, users, customers or the gateway"),
    _unsupported("model_list[].litellm_params.tpm", "limit keys, teams, users, customers or the gateway"),
    _unsupported("model_list[].litellm_params.tags", "calls are not routed by tag"),
    _unsupported("model_list[].litellm_params.max_budget", "budgets belong to the gateway and to callers"),
    _unsupported("model_list[].litellm_params.budget_duration",
                 "budgets belong to the gateway and to callers"),
    _unsupported("model_list[].litellm_params.stream_timeout", "set timeout: it is the longest silence"),
    _unsupported("model_list[].model_info.access_groups",
                 "name the models themselves, or with `*`, on keys and teams"),
)  # fmt: skip

# -- defaults of keys, users and teams: names as the management API has them -----------------

_LIMITS: dict[str, Reader] = {
    "max_budget": usd, "budget_duration": duration, "tpm_limit": whole(), "rpm_limit": whole(),
    "max_parallel_requests": whole(),
}  # fmt: skip
_OF_KEYS: dict[str, Reader] = {
    **_LIMITS, "soft_budget": usd, "duration": duration, "budget_id": text, "models": texts,
    "metadata": metadata,
    "team_id": text, "user_id": text, "tags": texts, "aliases": metadata, "allowed_routes": texts,
    "key_type": one_of("default", "llm_api", "management", "read_only"), "model_max_budget": model_budgets,
    "model_rpm_limit": metadata, "model_tpm_limit": metadata, "end_user_budget_id": text,
}  # fmt: skip
_OF_TEAMS: dict[str, Reader] = {
    **_LIMITS, "budget_id": text, "models": texts, "metadata": metadata, "tags": texts,
    "model_aliases": metadata, "team_member_permissions": texts, "team_member_budget": usd,
}  # fmt: skip
_ROLES = ("proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer")
_OF_USERS: dict[str, Reader] = {
    **_LIMITS, "budget_id": text, "models": texts, "metadata": metadata, "user_role": one_of(*_ROLES),
}  # fmt: skip

# section of the file → (setting, its keys, note)
DEFAULTS: dict[str, tuple[str, dict[str, Reader], str]] = {
    "default_key_generate_params": ("KEY_DEFAULTS", _OF_KEYS, "what a new key has where nothing is said"),
    "upperbound_key_generate_params": (
        "KEY_UPPER_BOUNDS", {**_LIMITS, "duration": duration}, "the most that a new key may have",
    ),
    "default_team_params": ("TEAM_DEFAULTS", _OF_TEAMS, "what a new team has where nothing is said"),
    "default_internal_user_params": ("USER_DEFAULTS", _OF_USERS, "what a new user has where nothing is said"),
}  # fmt: skip

_DEFAULTS = (
    *(
        Key(f"litellm_settings.{section}.{name}", Fate.SETTING, read, f"{setting}: {note}")
        for section, (setting, readers, note) in DEFAULTS.items()
        for name, read in readers.items()
    ),
    Key("litellm_settings.max_internal_user_budget", Fate.SETTING, usd, "USER_DEFAULTS: max_budget"),
    Key(
        "litellm_settings.internal_user_budget_duration",
        Fate.SETTING,
        duration,
        "USER_DEFAULTS: budget_duration",
    ),
)

KEYS: dict[str, Key] = {key.path: key for key in (*_GENERAL, *_LITELLM, *_ROUTER, *_DEFAULTS, *_MODELS)}
KEYS["track_cost"] = _always("track_cost", True, "every call's cost is tracked")
