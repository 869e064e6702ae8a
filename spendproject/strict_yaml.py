"""
Reading YAML strictly: plain data, with the place of every value.

As YAML's safe loading, but: a key that stands twice is refused, numbers keep the digits
they were written with (`Decimal`, money is no float), dates and `12:30` stay text, and
size, depth and the number of values are bounded, anchors included.
"""

from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_VALUES = 50_000

Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"


class BadYaml(ValueError):
    """The text cannot be read; the message says where and what to do."""


class Document(NamedTuple):
    """What a file says. `marks`: the line and column of every value, from 1, by its path."""

    value: Any
    marks: dict[Path, tuple[int, int]]

    def where(self, path: Path) -> str:
        """Return `line 3, column 5` of the value at `path`, or of what it belongs to."""
        while path not in self.marks and path:
            path = path[:-1]
        line, column = self.marks.get(path, (1, 1))
        return f"line {line}, column {column}"


def spell(path: Path) -> str:
    """Return a path as people write it: `model_list[0].litellm_params.model`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read(data: bytes) -> Document:
    """Read one YAML document; an empty one is None. Raises: BadYaml."""
    if len(data) > MAX_BYTES:
        raise BadYaml(f"it has {len(data):,} bytes; at most {MAX_BYTES:,} are read. Is it the right file?")
    text = _decoded(data)
    try:
        # Not the loader in C: it follows deep nesting until the process ends.
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        raise BadYaml(f"{_place_in(text, error.position)}: this character may not stand in YAML") from None
    try:
        node = loader.get_single_node()
        builder = _Builder(loader)
        value = None if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise BadYaml(f"{place}{error.problem or error.context}; indent with spaces, quote texts") from None
    except RecursionError:
        raise BadYaml(f"it is nested too deeply; at most {MAX_DEPTH} levels are read") from None
    finally:
        loader.dispose()
    return Document(value, builder.marks)


def _decoded(data: bytes) -> str:
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as Windows' PowerShell writes
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadYaml(f"line {line}: this is not UTF-8; save the file in UTF-8") from None


def _place_in(text: str, position: int) -> str:
    line_start = text.rfind("\n", 0, position) + 1
    return f"line {text.count(chr(10), 0, position) + 1}, column {position - line_start + 1}"


class _Builder:
    """Makes plain data of nodes, and notes where each value stands."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._count = 0
        self.marks: dict[Path, tuple[int, int]] = {}

    def build(self, node: yaml.Node, path: Path) -> Any:
        mark = node.start_mark
        self._count += 1
        if self._count > MAX_VALUES:
            raise BadYaml(f"it has more than {MAX_VALUES:,} values, counting what anchors repeat")
        if len(path) > MAX_DEPTH:
            raise BadYaml(f"{_place(mark)}: nested too deeply; at most {MAX_DEPTH} levels are read")
        self.marks[path] = (mark.line + 1, mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq")
            return [self.build(child, (*path, number)) for number, child in enumerate(node.value)]
        return _scalar(self._loader, node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self._check_tag(node, "map")
        self._check_keys(node)
        found: dict[str, Any] = {}
        for key, value in node.value:
            if _merges(key):
                self._count += 1
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    found = {**self._merged(source, path), **found}
        for key, value in node.value:
            if not _merges(key):
                found[key.value] = self.build(value, (*path, key.value))
        return found

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        """Return what `<<: *anchor` brings in. Not PyYAML's own way, which copies without a bound."""
        if not isinstance(node, yaml.MappingNode):
            raise BadYaml(f"{_place(node.start_mark)}: << takes the anchor of a mapping")
        return self._mapping(node, path)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if _merges(key):
                continue
            if key.tag != _TAG + "str":
                raise BadYaml(f"{_place(key.start_mark)}: a key must be text; put quotes around it")
            if key.value in seen:
                first = seen[key.value].start_mark.line + 1
                raise BadYaml(
                    f"{_place(key.start_mark)}: {key.value!r} stands on line {first} already; keep one"
                )
            seen[key.value] = key

    def _check_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            raise BadYaml(f"{_place(node.start_mark)}: the tag {node.tag!r} is not read; leave it out")


def _merges(key: yaml.Node) -> bool:
    return key.tag == _TAG + "merge"


def _scalar(loader: yaml.SafeLoader, node: Any) -> Any:
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind in ("str", "timestamp") or (kind in ("int", "float") and ":" in text):
        return text
    if kind == "null":
        return None
    try:
        if kind == "bool":
            return loader.construct_yaml_bool(node)
        if kind == "int":
            return loader.construct_yaml_int(node)
        if kind == "float":
            return _finite(Decimal(text.replace("_", "")))
    except (ValueError, InvalidOperation, KeyError):
        raise BadYaml(f"{_place(node.start_mark)}: {text[:40]!r} is not a number that can be used") from None
    raise BadYaml(f"{_place(node.start_mark)}: the tag {node.tag!r} is not read; leave it out")


def _finite(number: Decimal) -> Decimal:
    if not number.is_finite():
        raise ValueError("no number")
    return number


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
