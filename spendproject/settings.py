"""
Settings: the environment, read once. `docs/settings.md` lists every variable,
`docs/config-yaml.md` what a config.yaml in LiteLLM's form may say instead.

Production is the default: DEBUG off, secrets from the environment (or the env
file that `manage.py bootstrap` writes), a content security policy, secure cookies as
soon as PUBLIC_URL is https.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from celery.schedules import crontab
from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.urls import reverse_lazy

from spendproject import config_file
from spendproject import environment as env
from spendproject.unfold import UNFOLD  # noqa: F401  read by the admin theme

BASE_DIR = Path(__file__).resolve().parent.parent
ENV_FILE = Path(env.text("ENV_FILE", str(BASE_DIR / ".env")))
env.load_env_file(ENV_FILE)
# config.yaml, if there is one: the environment is filled with what it says, then read as ever.
CONFIG = config_file.load(
    env.path("SPEND_CONFIG", base_dir=BASE_DIR), given=env.GIVEN, environment=os.environ
)
env.fill({**CONFIG.environment, **CONFIG.variables})
KEY_DEFAULTS = CONFIG.key_defaults
KEY_UPPER_BOUNDS = CONFIG.key_upper_bounds
USER_DEFAULTS = CONFIG.user_defaults
TEAM_DEFAULTS = CONFIG.team_defaults

# -- who we are ------------------------------------------------------------------

DEBUG = env.boolean("DEBUG")
UNSET_SECRET_KEY = "not-set"  # noqa: S105  Django refuses an empty one before it can be made
SECRET_KEY = env.text("SECRET_KEY", UNSET_SECRET_KEY)
MASTER_KEY = env.text("MASTER_KEY", env.text("LITELLM_MASTER_KEY"))
HOST = env.text("HOST", "0.0.0.0")  # noqa: S104  a gateway listens to the network
PORT = env.integer("PORT", 4000)
PUBLIC_URL = env.text("PUBLIC_URL", f"http://localhost:{PORT}")
WEB_WORKERS = env.integer("WEB_WORKERS", 1, minimum=1)
VAR_DIR = Path(env.text("VAR_DIR", str(BASE_DIR / "var")))

LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]", "0.0.0.0", socket.gethostname().lower()]  # noqa: S104
ALLOWED_HOSTS = [
    *env.names("ALLOWED_HOSTS", ",".join(LOCAL_HOSTS)),
    urlsplit(PUBLIC_URL).hostname or "localhost",
]
CSRF_TRUSTED_ORIGINS = env.names(
    "CSRF_TRUSTED_ORIGINS", f"{urlsplit(PUBLIC_URL).scheme}://{urlsplit(PUBLIC_URL).netloc}"
)

# -- stores ----------------------------------------------------------------------

DATABASES = {
    "default": env.database(
        env.text("DATABASE_URL", f"sqlite:///{VAR_DIR / 'spend.sqlite3'}"), base_dir=BASE_DIR
    )
}
REDIS_URL = env.text("REDIS_URL")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "customers.User"

# -- the gateway -----------------------------------------------------------------

MAX_BODY_BYTES = int(env.number("MAX_BODY_MB", 32) * 1024 * 1024)
MAX_BODIES_BYTES = int(env.number("MAX_BODIES_MB", 512) * 1024 * 1024)  # per web process, all calls together
BODY_IDLE_SECONDS = env.number("BODY_IDLE_SECONDS", 30)
PLAIN_ANSWER_BUFFER_BYTES = int(env.number("PLAIN_ANSWER_BUFFER_MB", 8) * 1024 * 1024)
STREAM_BUFFER_BYTES = int(env.number("STREAM_BUFFER_KB", 1024) * 1024)  # per call, towards a slow client
STALLED_CLIENT_SECONDS = env.number("STALLED_CLIENT_SECONDS", 30)
DISCONNECT_GRACE_SECONDS = env.number("DISCONNECT_GRACE_SECONDS", 30)
CALL_SECONDS = env.number("CALL_SECONDS", 3600)
DRAIN_SECONDS = env.number("DRAIN_SECONDS", 30)
COOLDOWN_SECONDS = env.number("COOLDOWN_SECONDS", 5)
BUDGET_EXCEEDED_STATUS = int(env.choice("BUDGET_EXCEEDED_STATUS", "400", ("400", "402", "422", "429")))
BUDGETS_WHEN_DB_DOWN = env.choice("BUDGETS_WHEN_DB_DOWN", "closed", ("closed", "open"))
UNPRICED_UNDER_BUDGET = env.choice("UNPRICED_UNDER_BUDGET", "hold", ("hold", "refuse"))
MAX_OUTPUT_TOKENS = env.integer("MAX_OUTPUT_TOKENS", 4096, minimum=16)
UNBOUNDED_FEATURE_TOKENS = env.integer("UNBOUNDED_FEATURE_TOKENS", 0)
APPLY_USER_BUDGET_TO_TEAM_KEYS = env.boolean("APPLY_USER_BUDGET_TO_TEAM_KEYS")
TOKEN_RATE_LIMIT_TYPE = env.choice("TOKEN_RATE_LIMIT_TYPE", "total", ("total", "input", "output"))
RESPONSE_CACHE = env.choice("RESPONSE_CACHE", "off", ("off", "simple", "redis"))
RESPONSE_CACHE_SECONDS = env.integer("RESPONSE_CACHE_SECONDS", 3600, minimum=1)
RESPONSE_CACHE_BYTES = int(env.number("RESPONSE_CACHE_MB", 64) * 1024 * 1024)  # per web process, `simple`
RESPONSE_CACHE_ENTRY_BYTES = int(env.number("RESPONSE_CACHE_ENTRY_KB", 1024) * 1024)
KEY_HEADER = env.text("KEY_HEADER").lower()
USER_HEADER_MAPPINGS = env.names(
    "USER_HEADER_MAPPINGS", "x-openwebui-user-id:internal_user,x-openwebui-user-email:customer"
)
COST_DISCOUNTS = env.names("COST_DISCOUNTS")
COST_MARGINS = env.names("COST_MARGINS")
EXTRA_SPEND_TAG_HEADERS = env.names("EXTRA_SPEND_TAG_HEADERS")
USER_AGENT_TAGS = env.boolean("USER_AGENT_TAGS", True)
CUSTOMER_FROM_METADATA = env.boolean("CUSTOMER_FROM_METADATA", True)
ENFORCE_CUSTOMER = env.boolean("ENFORCE_CUSTOMER", False)
DISABLE_CUSTOM_API_KEYS = env.boolean("DISABLE_CUSTOM_API_KEYS", False)
REJECT_METADATA_TAGS = env.boolean("REJECT_METADATA_TAGS", False)
INCLUDE_COST_IN_STREAMING_USAGE = env.boolean("INCLUDE_COST_IN_STREAMING_USAGE")
STORE_PROMPTS = env.boolean("STORE_PROMPTS")
DEMO_UPSTREAM = env.boolean("DEMO_UPSTREAM", True)
REPORTING_TIME_ZONE = env.text("REPORTING_TIME_ZONE", "UTC")
BUDGET_TIME_ZONE = env.time_zone("BUDGET_TIME_ZONE", "UTC")

# How long a key that was seen stays known while the database is unreachable (C5).
KEY_HARD_LIFE_SECONDS = env.number("KEY_HARD_LIFE_SECONDS", 3600)
REFRESH_SECONDS = env.number("REFRESH_SECONDS", 0.5, minimum=0.05)

JOURNAL_DIR = Path(env.text("JOURNAL_DIR", str(VAR_DIR / "journal")))
JOURNAL_SYNC = env.choice("JOURNAL_SYNC", "interval", ("interval", "always"))
JOURNAL_KEEP_DAYS = env.number("JOURNAL_KEEP_DAYS", 7)
JOURNAL_KEEP_BYTES = int(env.number("JOURNAL_KEEP_MB", 2048) * 1024 * 1024)
LOG_RETENTION_MONTHS = env.integer("LOG_RETENTION_MONTHS", 0)  # 0: for ever
RECORDER_SECONDS = env.number("RECORDER_SECONDS", 0.05, minimum=0.01)
RECORDER_BATCH = env.integer("RECORDER_BATCH", 1000, minimum=1)

# -- who is told -----------------------------------------------------------------

WEBHOOK_URL = env.text("WEBHOOK_URL")
WEBHOOK_SECRET = env.text("WEBHOOK_SECRET")
WEBHOOK_ALLOW_PRIVATE = env.names("WEBHOOK_ALLOW_PRIVATE")  # true, or networks
WEBHOOK_TIMEOUT_SECONDS = env.number("WEBHOOK_TIMEOUT_SECONDS", 10, minimum=0.1)
SPEND_EVENTS = env.choice("SPEND_EVENTS", "auto", ("auto", "always"))
EVENT_GROUPS = env.choice("EVENT_GROUPS", "documented", ("documented", "litellm"))
EVENT_KEEP_DAYS = env.number("EVENT_KEEP_DAYS", 30, minimum=4)
ALERTING = [channel.lower() for channel in env.names("ALERTING")]  # channels; none: all that are configured
ALERT_TYPES = env.names("ALERT_TYPES")  # LiteLLM's names of kinds; none: all
ALERT_EMAILS = env.names("ALERT_EMAILS")
ALERT_KEEP_DAYS = env.number("ALERT_KEEP_DAYS", 400, minimum=32)
SLACK_WEBHOOK_URL = env.text("SLACK_WEBHOOK_URL")
SPEND_REPORT_FREQUENCY = env.text("SPEND_REPORT_FREQUENCY", "7d")
_MAIL = env.mail_server()
EMAIL_IS_CONFIGURED = _MAIL is not None
EMAIL_BACKEND = _MAIL.backend if _MAIL else "django.core.mail.backends.dummy.EmailBackend"
EMAIL_HOST, EMAIL_PORT = (_MAIL.host, _MAIL.port) if _MAIL else ("", 25)
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = (_MAIL.user, _MAIL.password) if _MAIL else ("", "")
EMAIL_USE_TLS, EMAIL_USE_SSL = (_MAIL.starts_tls, _MAIL.is_tls) if _MAIL else (False, False)
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.text(
    "EMAIL_FROM",
    env.text("SMTP_SENDER_EMAIL", f"spend-gateway@{urlsplit(PUBLIC_URL).hostname or 'localhost'}"),
)

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "responses": env.response_cache(RESPONSE_CACHE, REDIS_URL, max_bytes=RESPONSE_CACHE_BYTES),
}

# -- Django ----------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "csp",
    "django_filters",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",  # Swagger UI as static files
    "customers",
    "billing",
    "proxy",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "customers.middleware.acting_user",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "spendproject.urls"
ASGI_APPLICATION = "spendproject.asgi.application"
WSGI_APPLICATION = "spendproject.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = Path(env.text("STATIC_ROOT", str(VAR_DIR / "static")))
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
LOGIN_URL = reverse_lazy("admin:login")
LOGIN_REDIRECT_URL = reverse_lazy("admin:index")
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES

# -- security --------------------------------------------------------------------

_BEHIND_TLS = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _BEHIND_TLS
SESSION_COOKIE_HTTPONLY = True
SECURE_HSTS_SECONDS = 31_536_000 if _BEHIND_TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _BEHIND_TLS
SECURE_SSL_REDIRECT = _BEHIND_TLS and env.boolean("SECURE_SSL_REDIRECT", True)
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https") if env.boolean("TRUST_FORWARDED_PROTO") else None
)
X_FRAME_OPTIONS = "DENY"
# Who may show a page that was handed out in a frame: origins. Every other page refuses frames.
HANDOUT_FRAME_ANCESTORS = env.names("HANDOUT_FRAME_ANCESTORS")
# Served in plain HTTP (the embedded default), these checks ask for what cannot work;
# `make run` says so where it prints the address.
SILENCED_SYSTEM_CHECKS = (
    [] if _BEHIND_TLS else ["security.W004", "security.W008", "security.W012", "security.W016"]
)
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
AXES_FAILURE_LIMIT = env.integer("LOGIN_FAILURE_LIMIT", 10, minimum=1)
AXES_COOLOFF_TIME = env.number("LOGIN_COOLOFF_HOURS", 0.25)
AXES_LOCKOUT_PARAMETERS = [["ip_address", "username"]]
AXES_RESET_ON_SUCCESS = True
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        # The admin theme is written with Alpine.js, which evaluates its attributes,
        # and sets styles inline; no script is inline.
        "script-src": [SELF, UNSAFE_EVAL],
        "style-src": [SELF, UNSAFE_INLINE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# -- the API ---------------------------------------------------------------------

# How requests are recognised, read and answered is said by the view that all derive from
# (`customers.api.views.ManagementView`): DRF would import it from here while it is itself imported.
REST_FRAMEWORK = {
    "DEFAULT_SCHEMA_CLASS": "customers.api.schema.ManagementSchema",
    "EXCEPTION_HANDLER": "customers.api.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,  # `?format=csv` is a field of ours
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Spend gateway",
    "DESCRIPTION": (
        "Spend tracking for LLM traffic: the spend shown, enforced and billed are one number.\n\n"
        "Send a key with every call: `Authorization: Bearer sk-…`. Amounts are USD, exact decimals."
    ),
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SORT_OPERATIONS": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": True, "displayRequestDuration": True, "filter": True},
    "PREPROCESSING_HOOKS": ["customers.api.schema.only_ours"],
    "POSTPROCESSING_HOOKS": ["customers.api.schema.with_routes_by_hand"],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENABLE_DJANGO_DEPLOY_CHECK": False,  # a test does it: each start would make the document
}

# -- Celery ----------------------------------------------------------------------

CELERY_BROKER_URL = env.text("CELERY_BROKER_URL", "filesystem://localhost//")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE_FILENAME = str(VAR_DIR / "celerybeat-schedule")
CELERY_BEAT_SCHEDULE = {
    "housekeeping": {"task": "billing.tasks.housekeeping", "schedule": 600.0, "options": {"expires": 300}},
    # After midnight of whichever time zone; does nothing when all days are closed.
    "close-days": {
        "task": "billing.tasks.close_days",
        "schedule": crontab(minute=20),
        "options": {"expires": 1800},
    },
    # What is due is found by this; messages in between only make it sooner.
    "deliver": {"task": "billing.tasks.deliver", "schedule": 5.0, "options": {"expires": 5}},
    "check-alerts": {"task": "billing.tasks.check_alerts", "schedule": 60.0, "options": {"expires": 60}},
    # Does nothing unless staff price calls again.
    "reprice": {"task": "billing.tasks.reprice", "schedule": 60.0, "options": {"expires": 60}},
    "tidy-events": {"task": "billing.tasks.tidy_events", "schedule": 900.0, "options": {"expires": 600}},
    # At night, by UTC: it reads the whole log.
    "reconcile": {
        "task": "billing.tasks.reconcile",
        "schedule": crontab(hour=2, minute=0),
        "options": {"expires": 3600},
    },
    # After the comparison; does nothing without LOG_RETENTION_MONTHS.
    "apply-retention": {
        "task": "billing.tasks.apply_retention",
        "schedule": crontab(hour=4, minute=0),
        "options": {"expires": 3600},
    },
    # Does nothing until `manage.py sync_prices --auto on`.
    "sync-prices": {
        "task": "billing.tasks.sync_prices",
        "schedule": crontab(hour=3, minute=0),
        "options": {"expires": 3600},
    },
}
if CELERY_BROKER_URL.startswith("filesystem://"):
    _BROKER_DIR = VAR_DIR / "broker"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(_BROKER_DIR / "queue"),
        "data_folder_out": str(_BROKER_DIR / "queue"),
        "control_folder": str(_BROKER_DIR / "control"),
    }

# -- logging: constant messages with arguments; never a key, a header or a body -----

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "filters": {"secrets": {"()": "customers.keys.HideSecrets"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["secrets"]}},
    "root": {"handlers": ["console"], "level": env.text("LOG_LEVEL", "INFO").upper()},
    "loggers": {"axes": {"level": "WARNING"}, "httpx": {"level": "WARNING"}},
}
