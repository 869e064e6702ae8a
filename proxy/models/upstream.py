"""A provider account: where calls go, and with which credential."""

import re
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import models

from customers.models import TrackedModel
from proxy.credentials import ENVIRONMENT_PREFIX, EncryptedCredentialField


def validate_base_url(value: str) -> None:
    """Accept http(s)://host…, or a reference to the environment. (Django's validator refuses `http://ollama:11434`.)"""
    if value.startswith(ENVIRONMENT_PREFIX):
        return
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https", "demo") and bool(parts.hostname) and not parts.query
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise ValidationError("Write an address such as https://api.openai.com/v1, or os.environ/NAME.")


# The transport writes these itself: framing and the host of a call are no matter of configuration.
_OURS = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade")
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2


def header_problem(name: str, value: object) -> str | None:
    """Return what is wrong with a header to be sent with every call; None where nothing is."""
    if not _TOKEN.fullmatch(name):
        return f"{name!r} is no name of a header: write one such as X-Team"
    if name.lower() in _OURS:
        return f"{name} is set by the gateway itself"
    text = str(value)
    if isinstance(value, dict | list | None) or not text.isprintable():
        return f"write a text after {name}:"
    if not text.isascii() and text.encode("latin-1", "ignore").decode("latin-1") != text:
        return f"{name}: a header has Latin-1 characters only"
    return None


class Upstream(TrackedModel):
    """A provider account. A base URL that is empty means: does not speak that dialect."""

    audit_hidden = ("credential", "headers")

    name = models.CharField(max_length=100, unique=True)
    provider = models.CharField(
        max_length=100, help_text="Whose prices apply: openai, anthropic, google, … as in Prices."
    )
    openai_base_url = models.CharField(
        "OpenAI-style base URL", max_length=500, blank=True, validators=[validate_base_url],
        help_text="Up to and including /v1: https://api.openai.com/v1, or os.environ/NAME.",
    )  # fmt: skip
    anthropic_base_url = models.CharField(
        "Anthropic-style base URL", max_length=500, blank=True, validators=[validate_base_url],
        help_text="Without /v1, e.g. https://api.anthropic.com.",
    )  # fmt: skip
    credential = EncryptedCredentialField(
        blank=True,
        help_text="The provider's key, stored encrypted; or os.environ/NAME to read it from the environment.",
    )
    headers = models.JSONField(
        default=dict, blank=True, help_text='Sent with every call, e.g. {"OpenAI-Organization": "org-…"}.'
    )
    region = models.CharField(max_length=10, blank=True)
    connect_timeout_s = models.FloatField("connect timeout, s", default=5)
    read_timeout_s = models.FloatField("read timeout, s", default=600)
    source = models.CharField(max_length=20, blank=True, editable=False)  # as `Deployment.source`
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=~models.Q(openai_base_url="") | ~models.Q(anthropic_base_url=""),
                name="upstream_speaks_a_dialect",
                violation_error_message="Give at least one base URL.",
            ),
            models.CheckConstraint(
                condition=models.Q(connect_timeout_s__gt=0, read_timeout_s__gt=0),
                name="upstream_timeouts_positive",
                violation_error_message="Timeouts are longer than 0 seconds.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if not isinstance(self.headers, dict):
            raise ValidationError({"headers": 'Write an object: {"X-Team": "red"}.'})
        problems = [header_problem(str(name), value) for name, value in self.headers.items()]
        if any(problems):
            raise ValidationError({"headers": [problem for problem in problems if problem]})
