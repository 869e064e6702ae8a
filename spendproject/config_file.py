"""
Reading config.yaml, in LiteLLM's form: `SPEND_CONFIG=path`, or `make run CONFIG=path`.

    CONFIG = config_file.load(path, given=…, environment=…)

Pure: nothing is written, not even to the environment. What the processes read at their
start is in `Config.variables` (settings.py puts it into the environment where that is
silent) and in `key_defaults` and its like; what lives in the database is applied by
`manage.py bootstrap` (`proxy/configuration`). Which key is which: `config_keys.py`.

`os.environ/NAME` is resolved, but for models: an upstream keeps it as the reference.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple
from urllib.parse import quote

from spendproject import strict_yaml
from spendproject.config_keys import ANY, DEFAULTS, KEYS, AlertRule, Fate, Key
from spendproject.environment import BadSetting
from spendproject.strict_yaml import Document, Path, spell

REFERENCE = "os.environ/"
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_NOT_FROM_FILE = ("SPEND_CONFIG", "ENV_FILE")  # they are read before the file is


class BadConfig(BadSetting):
    """The file cannot be used. `problems`: each says where and what to do; nothing was applied."""

    def __init__(self, path: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))


class Found(NamedTuple):
    """A key of the file, and what becomes of it. `key` None: one that the table does not have."""

    path: Path
    fate: Fate
    note: str
    key: Key | None = None
    is_overridden: bool = False  # the environment wins over it


class Alerts(NamedTuple):
    """What the file says about alerts."""

    channels: tuple[str, ...] = ()  # alerting: webhook, slack, email
    rules: tuple[AlertRule, ...] = ()
    options: Mapping[str, Any] = {}  # alerting_args, alert_types, … as read


@dataclass(frozen=True, repr=False)
class Config:
    """What a file says. Without a file: nothing, and everything is empty."""

    path: str = ""
    document: Document = Document(None, {})  # noqa: RUF009  immutable
    values: Mapping[str, Any] = field(default_factory=dict)  # by the key's path in `KEYS`; models apart
    found: tuple[Found, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # environment_variables
    variables: Mapping[str, str] = field(default_factory=dict)  # of settings
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Config({self.path!r})"

    @property
    def key_defaults(self) -> dict[str, Any]:
        return self._defaults("default_key_generate_params")

    @property
    def key_upper_bounds(self) -> dict[str, Any]:
        return self._defaults("upperbound_key_generate_params")

    @property
    def team_defaults(self) -> dict[str, Any]:
        return self._defaults("default_team_params")

    @property
    def user_defaults(self) -> dict[str, Any]:
        """Return the defaults of users; what is said of internal users counts where they are silent."""
        known = {
            "max_budget": self.values.get("litellm_settings.max_internal_user_budget"),
            "budget_duration": self.values.get("litellm_settings.internal_user_budget_duration"),
        }
        said = {name: value for name, value in known.items() if value is not None}
        return said | self._defaults("default_internal_user_params")

    @property
    def alerts(self) -> Alerts:
        channels = [
            *self.values.get("general_settings.alerting", ()),
            *self.values.get("litellm_settings.alerting", ()),
        ]
        rules = [
            *self.values.get("litellm_settings.budget_alerts", ()),
            *self.values.get("litellm_settings.slack_alerts", ()),
        ]
        options = {
            path.removeprefix("general_settings."): value
            for path, value in self.values.items()
            if path.startswith(("general_settings.alert_", "general_settings.alerting_"))
        }
        return Alerts(tuple(dict.fromkeys(channels)), tuple(rules), options)

    @property
    def models(self) -> list[dict[str, Any]]:
        """Return model_list as it stands in the file; `proxy.configuration` reads its entries."""
        return (self.document.value or {}).get("model_list") or []

    def place(self, path: Path) -> str:
        """Return `model_list[0].model_name (line 3, column 5)`."""
        return f"{spell(path)} ({self.document.where(path)})"

    def _defaults(self, section: str) -> dict[str, Any]:
        start = f"litellm_settings.{section}."
        return {
            path.removeprefix(start): value for path, value in self.values.items() if path.startswith(start)
        }


def load(path: str, *, given: Mapping[str, str], environment: Mapping[str, str]) -> Config:
    """Read the file at `path`; without a path an empty `Config`.

    given: the variables that the process was started with; they win over the file.
    environment: all variables, those of the env file included.

    Raises: BadConfig.
    """
    if not path:
        return Config()
    try:
        with FilePath(path).open("rb") as file:
            data = file.read(strict_yaml.MAX_BYTES + 1)
        document = strict_yaml.read(data)
    except OSError as error:
        raise BadConfig(path, [f"cannot be read ({error.strerror}); is SPEND_CONFIG right?"]) from None
    except strict_yaml.BadYaml as error:
        raise BadConfig(path, [str(error)]) from None
    return _Reading(path, document, given, environment).config()


class _Reading:
    """Reads one document, and collects everything that is wrong with it."""

    def __init__(
        self, path: str, document: Document, given: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self._path = path
        self._document = document
        self._given = given
        self._environment = dict(environment)
        self._problems: list[str] = []
        self._found: list[Found] = []
        self._warnings: list[str] = []
        self._values: dict[str, Any] = {}

    def config(self) -> Config:
        root = {} if self._document.value is None else self._document.value
        if not isinstance(root, dict):
            self._problem((), "write sections such as model_list: and general_settings:")
            raise BadConfig(self._path, self._problems)
        variables_of_file = self._read_environment(root.get("environment_variables"))
        self._environment |= {
            name: value for name, value in variables_of_file.items() if not self._given.get(name)
        }
        for name, value in root.items():
            if name != "environment_variables":
                self._walk((name,), name, value)
        variables = {} if self._problems else dict(self._variables())
        if self._problems:
            raise BadConfig(self._path, self._problems)
        return Config(
            path=self._path,
            document=self._document,
            values=self._values,
            found=tuple(self._found),
            environment=variables_of_file,
            variables=variables,
            warnings=(*self._warnings, *self._without_effect()),
        )

    def _problem(self, path: Path, what: str) -> None:
        place = self._document.where(path)
        self._problems.append(f"{spell(path)} ({place}): {what}" if path else f"{place}: {what}")

    # -- keys ----------------------------------------------------------------------

    def _walk(self, path: Path, known_as: str, value: Any) -> None:
        """Read the value of one key, or of all keys below it."""
        key = KEYS.get(known_as)
        if key is not None:
            self._take(path, key, value)
        elif known_as == "model_list[]" and isinstance(value, dict):
            for name, item in value.items():
                self._walk((*path, name), f"{known_as}.{name}", item)
        elif known_as == "model_list" and isinstance(value, list):
            for number, item in enumerate(value):
                self._walk((*path, number), "model_list[]", item)
        elif any(name.startswith(f"{known_as}.") for name in KEYS) or known_as.startswith("model_list"):
            self._walk_section(path, known_as, value)
        else:
            self._found.append(Found(path, Fate.UNSUPPORTED, "unknown here"))

    def _walk_section(self, path: Path, known_as: str, value: Any) -> None:
        if known_as == "general_settings.cache" and isinstance(value, bool):
            value = {"type": "simple" if value else "off"}
        if value is None:
            return
        if known_as == "model_list":
            self._problem(path, "write a list: each entry begins with - model_name: …")
        elif known_as.startswith("model_list[]."):
            self._walk_parameter(path, known_as, value)
        elif not isinstance(value, dict):
            self._problem(path, "write keys and values below it, indented")
        else:
            for name, item in value.items():
                self._walk((*path, name), f"{known_as}.{name}", item)

    def _walk_parameter(self, path: Path, known_as: str, value: Any) -> None:
        """Read what belongs to a model and has no line of its own in the table."""
        if known_as in ("model_list[].litellm_params", "model_list[].model_info"):
            if not isinstance(value, dict):
                self._problem(path, "write keys and values below it, indented")
                return
            for name, item in value.items():
                self._walk((*path, name), f"{known_as}.{name}", item)
        elif _is_price(known_as):
            self._found.append(Found(path, Fate.APPLIED, "a rate of the deployment's price"))
        elif known_as.startswith("model_list[].model_info."):
            self._found.append(Found(path, Fate.APPLIED, "kept"))
        elif known_as.startswith("model_list[].litellm_params."):
            self._found.append(Found(path, Fate.UNSUPPORTED, "not sent upstream"))
        else:
            self._found.append(Found(path, Fate.UNSUPPORTED, "unknown here"))

    def _take(self, path: Path, key: Key, value: Any) -> None:
        if value is None:
            return
        if key.path.startswith("model_list"):
            self._found.append(Found(path, key.fate, key.note, key))
        elif key.fate == Fate.UNSUPPORTED and value in (False, 0, "", [], {}):
            self._found.append(Found(path, Fate.ALWAYS, "asks for nothing", key))
        elif key.fate in (Fate.UNSUPPORTED, Fate.ALWAYS):
            is_so = key.fate == Fate.ALWAYS and (key.only is ANY or value == key.only)
            fate, note = (key.fate, key.note) if is_so else (Fate.UNSUPPORTED, key.note)
            self._found.append(Found(path, fate, note, key))
        elif key.variable and (name := self._given_name(key.variable)):
            # What the environment says is used, so nothing in the file can be wrong about it.
            self._found.append(Found(path, key.fate, f"the environment's {name} wins", key, True))
            if name != key.variable:  # or the env file's own MASTER_KEY would come before it
                self._values[key.path] = self._given[name]
        else:
            self._read(path, key, value)

    def _read(self, path: Path, key: Key, value: Any) -> None:
        try:
            cleaned = key.read(self._resolved(path, value))
        except _Unresolved:
            return
        except (ValueError, ArithmeticError) as error:
            self._problem(path, str(error))
            return
        if key.names:
            cleaned = self._with_effect(path, key, cleaned)
        self._values[key.path] = cleaned
        self._found.append(Found(path, key.fate, key.note, key))

    def _with_effect(self, path: Path, key: Key, names: list[str]) -> list[str]:
        """Return those names of a list that mean something here; the others are told."""
        unknown = [name for name in names if name.lower() not in key.names]
        if unknown:
            known = ", ".join(sorted(key.names))
            self._warnings.append(
                f"{spell(path)}: {', '.join(unknown)} has no effect here; there are {known} "
                f"({self._document.where(path)})"
            )
        return [name.lower() for name in names if name.lower() in key.names]

    def _given_name(self, variable: str) -> str | None:
        """Return the name under which the process was given this setting, if it was."""
        names = ("MASTER_KEY", "LITELLM_MASTER_KEY") if variable == "MASTER_KEY" else (variable,)
        return next((name for name in names if self._given.get(name)), None)

    # -- references ----------------------------------------------------------------

    def _resolved(self, path: Path, value: Any) -> Any:
        """Return `value` with what `os.environ/NAME` stands for. Raises: _Unresolved, once it is noted."""
        if isinstance(value, dict):
            return {name: self._resolved((*path, name), item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._resolved((*path, number), item) for number, item in enumerate(value)]
        if not isinstance(value, str) or not value.startswith(REFERENCE):
            return value
        name = value.removeprefix(REFERENCE)
        found = self._environment.get(name)
        if not found:
            self._problem(
                path, f"{name} is not set; set it in the environment or the env file, or write the value here"
            )
            raise _Unresolved
        return found

    def _read_environment(self, section: Any) -> dict[str, str]:
        if section is None:
            return {}
        if not isinstance(section, dict):
            self._problem(("environment_variables",), "write names and values below it, indented")
            return {}
        variables = {}
        for name, value in section.items():
            path = ("environment_variables", name)
            if not _NAME.fullmatch(name) or name in _NOT_FROM_FILE:
                self._problem(
                    path, "a variable of this name cannot be set from the file; rename or remove it"
                )
                continue
            if value is None or isinstance(value, dict | list):
                self._problem(path, "write a text, a number, true or false")
                continue
            try:
                value = self._resolved(path, value)
            except _Unresolved:
                continue
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if "\0" in text:
                self._problem(path, "a variable cannot hold a NUL character")
                continue
            variables[name] = text
            is_overridden = bool(self._given.get(name))
            note = f"the environment's {name} wins" if is_overridden else "a variable of the processes"
            self._found.append(Found(path, Fate.SETTING, note, is_overridden=is_overridden))
        return variables

    # -- settings --------------------------------------------------------------------

    def _variables(self) -> Iterator[tuple[str, str]]:
        """Yield the variables that the file sets, in the order of precedence: later ones win."""
        composed = ("USER_HEADER_MAPPINGS", "RESPONSE_CACHE", "REDIS_URL")
        # Backwards: litellm_settings before general_settings, whose word counts where both have the key.
        for path, value in reversed([(path, self._values[path]) for path in KEYS if path in self._values]):
            key = KEYS[path]
            if key.variable and key.write is not None and key.variable not in composed:
                yield key.variable, key.write(value)
        headers = list(self._values.get("general_settings.user_header_mappings", ()))
        if name := self._values.get("general_settings.user_header_name"):
            headers.append(f"{name}:customer")
        if headers:
            yield "USER_HEADER_MAPPINGS", ",".join(headers)
        redis_url = self._redis_url()
        if redis_url:
            yield "REDIS_URL", redis_url
        cache = self._cache(has_redis=bool(redis_url or self._environment.get("REDIS_URL")))
        if cache:
            yield "RESPONSE_CACHE", cache

    def _redis_url(self) -> str:
        for section in ("router_settings.redis_", "litellm_settings.cache_params."):
            said = {
                path.removeprefix(section): value
                for path, value in self._values.items()
                if path.startswith(section)
            }
            if "url" in said:
                return said["url"]
            if "host" in said:
                return _url_of_redis(said)
            if {"password", "port", "db"} & set(said):
                at = tuple(section.rstrip("_.").split(".")[:1])
                self._problem(at, f"{section}host is missing: where is Redis?")
        return ""

    def _cache(self, *, has_redis: bool) -> str:
        """Return off, simple, redis, or nothing where the file is silent."""
        kind = self._values.get("general_settings.cache.type")
        if kind is None:
            switched = self._values.get("litellm_settings.cache")
            if switched is None:
                return ""
            default = "redis" if has_redis else "simple"
            kind = self._values.get("litellm_settings.cache_params.type", default) if switched else "off"
        kind = "simple" if kind in ("local", "simple") else kind
        if kind not in ("off", "simple", "redis"):
            self._warnings.append(
                f"litellm_settings.cache_params.type: there is no cache of type {kind!r}; off"
            )
            return "off"
        if kind == "redis" and not has_redis:
            self._warnings.append("the response cache is in Redis, but no Redis is configured: set REDIS_URL")
        return kind

    # -- what has no effect ------------------------------------------------------------

    def _without_effect(self) -> Iterator[str]:
        """Yield one line for each key that is not supported, the entries of model_list together."""
        places: dict[str, list[str]] = {}
        for found in self._found:
            if found.fate == Fate.UNSUPPORTED:
                name = re.sub(r"\[\d+\]", "[]", spell(found.path))
                places.setdefault(f"{name}: {found.note}", []).append(self._document.where(found.path))
        for line, where in places.items():
            more = f" and {len(where) - 1} more" if len(where) > 1 else ""
            yield f"{line} ({where[0]}{more})"


class _Unresolved(Exception):
    """A reference to a variable that is not set; it is among the problems already."""


def _is_price(known_as: str) -> bool:
    return "cost_per" in known_as or "_cost" in known_as or known_as.endswith("tiered_pricing")


def _url_of_redis(said: Mapping[str, Any]) -> str:
    user = quote(said.get("username", ""), safe="")
    password = f":{quote(said['password'], safe='')}" if "password" in said else ""
    who = f"{user}{password}@" if user or password else ""
    scheme = "rediss" if said.get("ssl") else "redis"
    return f"{scheme}://{who}{said['host']}:{said.get('port', 6379)}/{said.get('db', 0)}"


def markdown_table() -> str:
    """Return the table of all keys, as `docs/config-yaml.md` shows it."""
    lines = ["| key | what becomes of it | |", "|---|---|---|"]
    sections = {f"litellm_settings.{section}": entry for section, entry in DEFAULTS.items()}
    for path, key in KEYS.items():
        section = path.rpartition(".")[0]
        if section in sections:
            continue
        variable = f"`{key.variable}`: " if key.variable else ""
        lines.append(f"| `{path}` | {_told(key)} | {variable}{key.note} |")
    for section, (setting, readers, note) in sections.items():
        names = ", ".join(f"`{name}`" for name in readers)
        lines.append(f"| `{section}` | setting | `{setting}`: {note}; {names} |")
    lines.append("| `environment_variables` | setting | variables of the processes, where they are not set |")
    return "\n".join(lines)


def _told(key: Key) -> str:
    if key.fate == Fate.ALWAYS and key.only is not ANY:
        return f"{key.fate} (`{str(key.only).lower()}`; else not supported)"
    return str(key.fate)
