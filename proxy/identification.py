"""
Whom a call is booked to: customer, user, session, tags, client tool.

The order of sources is contract 2.1; ids are cleaned here, once, so that nothing
behind this line meets a control character. A call without any id has no customer.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from customers.text import MAX_ID_LENGTH, MAX_JSON_DEPTH, clean_line, is_clean_id, is_storable_json
from proxy.callers import Caller
from proxy.errors import BadCall, TagsNotTaken, WrongPayer

MAX_TAGS = 64
_NOTHING: dict[str, Any] = {}
# Claude Code before 2.1: user_<device>_account_<account>_session_<session>
_CLAUDE_CODE_USER = re.compile(
    r"user_(?P<device>[0-9a-zA-Z]*)_account_(?P<account>[0-9a-zA-Z-]*)_session_(?P<session>[0-9a-zA-Z-]*)"
)


class Attribution(NamedTuple):
    """Everything about a call's origin that its row carries."""

    customer_id: str | None
    user_id: str | None
    session_id: str
    tags: list[str]
    user_agent: str
    client_tool: str
    client_call_id: str
    metadata: dict[str, Any]


class Said(NamedTuple):
    """What a body says about its origin; the dialects fill it in."""

    user: Any = None
    metadata: Any = None
    litellm_metadata: Any = None
    safety_identifier: Any = None
    tags: Any = None
    cache: Any = None  # `dialects.base.CacheControl`


class Identifier:
    """Applies the configured header mappings and tag settings to calls."""

    def __init__(
        self,
        *,
        header_mappings: list[str],
        extra_tag_headers: list[str],
        user_agent_tags: bool,
        rejects_metadata_tags: bool = False,
        reads_metadata_user: bool = True,
    ) -> None:
        """header_mappings: entries `header-name:customer` or `header-name:internal_user`, in order.

        rejects_metadata_tags: refuse calls whose body has `metadata.tags` (contract 2.5).
        reads_metadata_user: whether `metadata.user_id` names a customer (contract 12, decision 27).
        """
        pairs = [entry.lower().rsplit(":", 1) for entry in header_mappings]
        self._customer_headers = [
            "x-litellm-customer-id",
            "x-litellm-end-user-id",
            *(name for name, role in pairs if role == "customer"),
        ]
        self._user_headers = [name for name, role in pairs if role == "internal_user"]
        self._extra_tag_headers = [name.lower() for name in extra_tag_headers]
        self._user_agent_tags = user_agent_tags
        self._rejects_metadata_tags = rejects_metadata_tags
        self._reads_metadata_user = reads_metadata_user

    def attribute(self, headers: Mapping[str, str], said: Said, caller: Caller) -> Attribution:
        """Return the call's origin. Raises: BadCall on an unusable id or tag, WrongPayer."""
        metadata = _mapping(said.metadata)
        litellm_metadata = _mapping(said.litellm_metadata)
        agent = _agent(headers.get("user-agent", ""))
        customer_id, session_id = self._customer(headers, said, metadata, litellm_metadata)
        for name in ("x-litellm-trace-id", "x-litellm-session-id"):  # the last one counts
            if name in headers:
                session_id = _header_id(headers, name) or session_id
        call_id = _header_id(headers, "x-litellm-call-id") if "x-litellm-call-id" in headers else ""
        return Attribution(
            _payer(customer_id, caller),
            self._user(headers) or caller.user_id,
            session_id,
            self._tags(headers, said, metadata, litellm_metadata, caller, agent),
            agent.name,
            "Open WebUI" if "x-openwebui-user-id" in headers else agent.tool,
            call_id,
            _log_metadata(headers, metadata, litellm_metadata),
        )

    def _customer(
        self, headers: Mapping[str, str], said: Said, metadata: dict, litellm_metadata: dict
    ) -> tuple[str | None, str]:
        """Return (customer id or None, session id or empty)."""
        agent_account, agent_session = "", ""
        if "user_id" in metadata:
            agent_account, agent_session = _agent_account(metadata["user_id"])
        for name in self._customer_headers:
            if name in headers and (value := headers[name].strip()):
                return _checked_id(_as_utf8(value), name), agent_session
        if text := _as_text(said.user):
            return _checked_id(text, "user"), agent_session
        metadata_user = agent_account or metadata.get("user_id") if self._reads_metadata_user else None
        for name, said_id in (
            ("litellm_metadata.user", litellm_metadata.get("user")),
            ("metadata.user_id", metadata_user),
            ("safety_identifier", said.safety_identifier),
        ):
            if text := _as_text(said_id):
                return _checked_id(text, name), agent_session
        return None, agent_session

    def _user(self, headers: Mapping[str, str]) -> str | None:
        for name in self._user_headers:
            if name in headers and (value := headers[name].strip()):
                return _checked_id(_as_utf8(value), name)
        return None

    def _tags(
        self,
        headers: Mapping[str, str],
        said: Said,
        metadata: dict,
        litellm_metadata: dict,
        caller: Caller,
        agent: "Agent",
    ) -> list[str]:
        if self._rejects_metadata_tags:
            _refuse_tags_in_metadata(metadata, litellm_metadata)
        tags = list(caller.tags)
        if said.tags is not None:  # replaces the header's
            tags += _texts(said.tags, "tags")
        elif "x-litellm-tags" in headers:
            tags += [tag.strip() for tag in _as_utf8(headers["x-litellm-tags"]).split(",") if tag.strip()]
        if "tags" in metadata:
            tags += _texts(metadata["tags"], "metadata.tags")
        if "tags" in litellm_metadata:
            tags += _texts(litellm_metadata["tags"], "litellm_metadata.tags")
        for name in self._extra_tag_headers:
            if name in headers:
                tags.append(f"{name}: {clean_line(headers[name])}")
        for tag in tags:
            if not is_clean_id(tag):
                raise BadCall(
                    f"A tag must have 1 to {MAX_ID_LENGTH} characters and no control characters.",
                    param="tags",
                )
        if len(tags) > MAX_TAGS:
            raise BadCall(f"At most {MAX_TAGS} tags per call; this one has {len(tags)}.", param="tags")
        if self._user_agent_tags:
            tags += agent.tags
        return list(dict.fromkeys(tags)) if len(tags) > 1 else tags


def _refuse_tags_in_metadata(metadata: dict, litellm_metadata: dict) -> None:
    """Raises: TagsNotTaken, naming the field."""
    for name, said in (("metadata.tags", metadata), ("litellm_metadata.tags", litellm_metadata)):
        if said.get("tags") is not None:
            raise TagsNotTaken(f"Tags in a call's metadata are not taken here: leave {name} out.", param=name)


def _payer(customer_id: str | None, caller: Caller) -> str | None:
    """Apply the key's payer policy."""
    fixed = caller.fixed_customer_id
    if fixed is None:
        return customer_id
    if customer_id is not None and customer_id != fixed:
        raise WrongPayer(
            f"This key pays as customer {fixed!r} only; the call names another customer. Leave the id out."
        )
    return fixed


def _checked_id(value: str, source: str) -> str:
    if not is_clean_id(value):
        problem = (
            f"is {len(value)} characters long; at most {MAX_ID_LENGTH} are allowed"
            if len(value) > MAX_ID_LENGTH
            else "has control characters in it"
        )
        raise BadCall(f"The id in {source} {problem}.", param=source)
    return value


def _header_id(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    return _checked_id(_as_utf8(value.strip()), name) if value and value.strip() else ""


def _as_utf8(value: str) -> str:
    """Return a header's text as UTF-8 where it is that; headers arrive as Latin-1."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _as_text(value: Any) -> str:
    """Return an id from a body, or nothing: booleans, lists and objects are no ids (contract 2.2)."""
    if isinstance(value, str):
        return value.strip(" \t")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return ""


def _mapping(value: Any) -> dict:
    """Return an object, also one written as a JSON text; anything else as an empty one."""
    if value is None:
        return _NOTHING
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and value.startswith("{"):
        try:
            decoded = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError):
            return {}
        return decoded if isinstance(decoded, dict) else {}
    return {}


def _texts(value: Any, source: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise BadCall(f"{source} must be a list of texts.", param=source)
    return [tag.strip(" ") for tag in value]


def _agent_account(user_id: Any) -> tuple[str, str]:
    """Return (account, session) of a coding agent's `metadata.user_id`, or ("", "").

    Every session has another id; the account behind it is who pays.
    """
    if not isinstance(user_id, str):
        return "", ""
    if user_id.startswith("{"):
        said = _mapping(user_id)
        account = said.get("account_uuid") or said.get("account_id") or said.get("device_id")
        return _as_text(account), _agent_session(said.get("session_id"))
    match = _CLAUDE_CODE_USER.fullmatch(user_id)
    if match is None:
        return "", ""
    return match["account"] or match["device"], _agent_session(match["session"])


def _agent_session(value: Any) -> str:
    text = _as_text(value)
    return text if is_clean_id(text) else ""


def _log_metadata(headers: Mapping[str, str], metadata: dict, litellm_metadata: dict) -> dict[str, Any]:
    """Return what the caller wants to find in its log row: `spend_logs_metadata` (contract 2.5)."""
    extra = None
    if "spend_logs_metadata" in metadata or "spend_logs_metadata" in litellm_metadata:
        extra = metadata.get("spend_logs_metadata") or litellm_metadata.get("spend_logs_metadata")
    if extra is None and "x-litellm-spend-logs-metadata" in headers:
        extra = _mapping(_as_utf8(headers["x-litellm-spend-logs-metadata"]))
    if not isinstance(extra, dict) or not extra:
        return _NOTHING
    encoded = msgspec.json.encode(extra) if is_storable_json(extra) else b""
    if not encoded or len(encoded) > 16_384 or b"\\u0000" in encoded:
        raise BadCall(
            f"spend_logs_metadata must be at most 16 kB and {MAX_JSON_DEPTH} levels deep, without NUL "
            "characters and without numbers beyond 64 bits.",
            param="metadata",
        )
    return {"spend_logs_metadata": extra}


class Agent(NamedTuple):
    """What a user agent tells: itself as a clean line, the automatic tags, the tool where we know it."""

    name: str
    tags: list[str]
    tool: str


# The product in front of the first slash → the tool as people call it.
_TOOLS = {
    "claude-cli": "Claude Code",
    "claude-code": "Claude Code",
    "codex_cli_rs": "Codex",
    "codex-cli": "Codex",
    "opencode": "opencode",
    "aider": "Aider",
    "cursor": "Cursor",
    "cline": "Cline",
    "roo-code": "Roo Code",
    "geminicli": "Gemini CLI",
    "openai": "OpenAI SDK",
    "asyncopenai": "OpenAI SDK",
    "anthropic": "Anthropic SDK",
    "asyncanthropic": "Anthropic SDK",
    "langchain": "LangChain",
    "curl": "curl",
    "open-webui": "Open WebUI",
}


@lru_cache(maxsize=2048)
def _agent(header: str) -> Agent:
    user_agent = clean_line(header)
    if not user_agent:
        return Agent("", [], "")
    product = user_agent.partition("/")[0].strip()
    tags = dict.fromkeys(
        [f"User-Agent: {product}"[:MAX_ID_LENGTH], f"User-Agent: {user_agent}"[:MAX_ID_LENGTH]]
    )
    return Agent(user_agent, list(tags), _TOOLS.get(product.lower(), ""))
