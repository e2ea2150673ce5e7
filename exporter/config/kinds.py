"""What the values of a configuration may be. Each kind reads a value, and says in JSON Schema what it reads.

So a section is described once, by its dataclass: the annotation ``Annotated[type, Key(kind, description)]`` makes a key
of a field, and the field's default is what holds without the key.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Generic, TypeVar, get_type_hints

import yaml

from exporter.config.errors import Report, shortened

T = TypeVar("T")
JsonSchema = dict[str, Any]

_MAX_INTEGER_DIGITS = 12
_MAX_HINT_NAMES = 20
_STRING, _INTEGER, _BOOLEAN = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool"
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_LIST, _MAPPING = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"
# What a plain scalar may be taken for. As a key it is still the text that is written there: `on: x` has the key "on".
_KEYS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")}


class Kind(ABC, Generic[T]):
    """What a value may be.

    Attributes:
        expected: the same in words, for a message.
    """

    expected: str

    @abstractmethod
    def read(self, node: yaml.Node, key_path: str, report: Report) -> T | None:
        """Return the value, or None after having reported what is wrong with it."""

    @abstractmethod
    def schema(self) -> JsonSchema:
        """Return a JSON Schema (draft 7) that allows whatever `read` does, and little else."""

    def written(self, value: T) -> object:
        """Return the value as one writes it in the file."""
        return value


class Text(Kind[T]):
    """A string that means something.

    Args:
        expected: what it is, in words.
        parse: makes the value of it, or raises a ValueError that says what is wrong and what was expected.
        schema: what a JSON Schema can say beyond that it is a string.
        write: the reverse of `parse`.
    """

    def __init__(
        self, expected: str, parse: Callable[[str], T], schema: JsonSchema, write: Callable[[T], str] = str
    ) -> None:
        self.expected = expected
        self._parse = parse
        self._schema = schema
        self._write = write

    def read(self, node: yaml.Node, key_path: str, report: Report) -> T | None:
        text = string(node, key_path, report, self.expected)
        if text is None:
            return None
        try:
            return self._parse(text)
        except ValueError as error:
            report.wrong(node, key_path, str(error))
            return None

    def schema(self) -> JsonSchema:
        return {"type": "string", **self._schema}

    def written(self, value: T) -> object:
        return self._write(value)


class OneOf(Kind[str]):
    """One of some names.

    Args:
        what: what they are names of.
        names: all of them.
    """

    def __init__(self, what: str, names: Iterable[str]) -> None:
        self.expected = f"the name of a {what}"
        self._what = what
        self._names = tuple(names)

    def read(self, node: yaml.Node, key_path: str, report: Report) -> str | None:
        name = string(node, key_path, report, self.expected)
        if name is not None and name not in self._names:
            report.wrong(node, key_path, f"unknown {self._what} '{shortened(name)}', {hint(name, self._names)}")
            return None
        return name

    def schema(self) -> JsonSchema:
        return {"enum": list(self._names)}


class WholeNumber(Kind[int]):
    """A count, 1 or more.

    Args:
        what: of what.
    """

    def __init__(self, what: str) -> None:
        self.expected = f"a whole number of {what}, 1 or more"

    def read(self, node: yaml.Node, key_path: str, report: Report) -> int | None:
        number = node.value if isinstance(node, yaml.ScalarNode) and node.tag == _INTEGER else ""
        digits = number.replace("_", "")
        if not re.fullmatch(r"[1-9][0-9]*(_[0-9]+)*", number):
            report.wrong(node, key_path, f"expected {self.expected}, found {found(node)}")
            return None
        if len(digits) > _MAX_INTEGER_DIGITS:
            what = f"{shortened(number, 40)} is too large, expected a number of {_MAX_INTEGER_DIGITS} digits at most"
            report.wrong(node, key_path, what)
            return None
        return int(digits)

    def schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": 1, "maximum": 10**_MAX_INTEGER_DIGITS - 1}


class Boolean(Kind[bool]):
    """True or false."""

    expected = "true or false"

    def read(self, node: yaml.Node, key_path: str, report: Report) -> bool | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == _BOOLEAN:
            value = yaml.SafeLoader.bool_values.get(node.value.lower())
            if value is not None:
                return value
        report.wrong(node, key_path, f"expected {self.expected}, found {found(node)}")
        return None

    def schema(self) -> JsonSchema:
        return {"type": "boolean"}


class ListOf(Kind[tuple[T, ...]]):
    """A list.

    Args:
        what: what its elements are.
        element: the kind of each of them.
        if_empty: what was expected instead of an empty list; by default that is allowed.
        distinct: whether an element may be there only once.
    """

    def __init__(self, what: str, element: Kind[T], if_empty: str = "", *, distinct: bool = False) -> None:
        self.expected = f"a list of {what}"
        self._element = element
        self._if_empty = if_empty
        self._distinct = distinct

    def read(self, node: yaml.Node, key_path: str, report: Report) -> tuple[T, ...] | None:
        if not isinstance(node, yaml.SequenceNode) or node.tag != _LIST:
            report.wrong(node, key_path, f"expected {self.expected}, found {found(node)}")
            return None
        if self._if_empty and not node.value:
            report.wrong(node, key_path, f"is empty, expected {self._if_empty}")
            return None
        values: list[T] = []
        seen: set[T] = set()
        for number, child in enumerate(node.value):
            element_path = f"{key_path}[{number}]"
            value = self._element.read(child, element_path, report)
            if value is None:
                continue
            if self._distinct:
                if value in seen:
                    report.wrong(child, element_path, f"'{shortened(str(value))}' is there twice")
                seen.add(value)
            values.append(value)
        return tuple(values) if len(values) == len(node.value) else None

    def schema(self) -> JsonSchema:
        schema: JsonSchema = {"type": "array", "items": self._element.schema()}
        if self._if_empty:
            schema["minItems"] = 1
        if self._distinct:
            schema["uniqueItems"] = True
        return schema

    def written(self, value: Iterable[T]) -> object:
        return [self._element.written(element) for element in value]


class MappingOf(Kind[dict[str, T]]):
    """A mapping with keys of the user's choice.

    Args:
        what: what its keys are.
        complaint: what is wrong with a key, or "".
        key_schema: what a JSON Schema can say of a key.
        value: the kind of the values.
    """

    def __init__(self, what: str, complaint: Callable[[str], str], key_schema: JsonSchema, value: Kind[T]) -> None:
        self.expected = f"a mapping of {what}"
        self._complaint = complaint
        self._key_schema = key_schema
        self._value = value

    def read(self, node: yaml.Node, key_path: str, report: Report) -> dict[str, T] | None:
        pairs = entries(node, key_path, report)
        if pairs is None:
            return None
        values: dict[str, T] = {}
        for name, (key_node, value_node) in pairs.items():
            path = joined(key_path, name)
            if complaint := self._complaint(name):
                report.wrong(key_node, path, complaint)
            value = self._value.read(value_node, path, report)
            if value is not None and not complaint:
                values[name] = value
        return values if len(values) == len(pairs) else None

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "propertyNames": self._key_schema,
            "additionalProperties": self._value.schema(),
        }


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a section, in the annotation of a dataclass' field.

    Attributes:
        kind: of its value.
        description: for whoever edits the file.
        name: as it is written; "" when the field has the same name.
    """

    kind: Kind[Any]
    description: str
    name: str = ""


class Section(Kind[T]):
    """A mapping with keys that are known: those in the annotations of a dataclass.

    Args:
        made: the dataclass. A field without a default is a key that must be there.

    Attributes:
        keys: by their names in the file.
    """

    expected = "a mapping"

    def __init__(self, made: Callable[..., T]) -> None:
        self._made = made
        self.keys: dict[str, Key] = {}
        self._fields: dict[str, str] = {}
        self._defaults: dict[str, object] = {}
        hints = get_type_hints(made, include_extras=True)
        for field in fields(made):  # type: ignore[arg-type]  # any callable to mypy
            key = next(extra for extra in hints[field.name].__metadata__ if isinstance(extra, Key))
            name = key.name or field.name
            self.keys[name] = key
            self._fields[name] = field.name
            if field.default is not MISSING:
                self._defaults[name] = field.default
            elif field.default_factory is not MISSING:
                self._defaults[name] = field.default_factory()

    def read(self, node: yaml.Node, key_path: str, report: Report) -> T | None:
        nodes = self.nodes(node, key_path, report, self.keys)
        return None if nodes is None else self.made(node, nodes, key_path, report)

    def nodes(
        self, node: yaml.Node, key_path: str, report: Report, known: Iterable[str]
    ) -> dict[str, yaml.Node] | None:
        """Return the values of the known keys that are there."""
        pairs = entries(node, key_path, report)
        if pairs is None:
            return None
        known = tuple(known)
        for name, (key_node, _) in pairs.items():
            if name not in known:
                report.wrong(key_node, joined(key_path, name), f"unknown key, {hint(name, known)}")
        return {name: value for name, (_, value) in pairs.items() if name in known}

    def made(
        self,
        node: yaml.Node,
        nodes: Mapping[str, yaml.Node],
        key_path: str,
        report: Report,
        *,
        is_whole: bool = True,
    ) -> T | None:
        """Return the section with these values, or None after having reported what is wrong with them.

        Args:
            node: of the section.
            nodes: of its values.
            key_path: of the section.
            report: is told.
            is_whole: whether these are all values; if not, none is missed.
        """
        values: dict[str, Any] = {}
        for name, key in self.keys.items():
            if name in nodes:
                value = key.kind.read(nodes[name], joined(key_path, name), report)
                if value is not None:
                    values[name] = value
            elif name not in self._defaults and is_whole:
                report.wrong(node, joined(key_path, name), f"the key is missing, expected {key.kind.expected}")
        self.check(values, nodes, key_path, report, is_whole=is_whole)
        if any(name not in values for name in self.keys if name in nodes or name not in self._defaults):
            return None
        return self._made(**{self._fields[name]: value for name, value in values.items()})

    def check(
        self,
        made: Mapping[str, Any],
        nodes: Mapping[str, yaml.Node],
        key_path: str,
        report: Report,
        *,
        is_whole: bool,
    ) -> None:
        """Report what is wrong between keys.

        Args:
            made: the values with which nothing is wrong.
            nodes: of all values that are there.
            key_path: of the section.
            report: is told.
            is_whole: whether these are all values that are meant to be there.
        """

    def schema(self) -> JsonSchema:
        properties: JsonSchema = {}
        for name, key in self.keys.items():
            schema = {"description": key.description, **key.kind.schema()}
            default = self._defaults.get(name)
            if default is not None and not isinstance(key.kind, Section):
                schema["default"] = key.kind.written(default)
            properties[name] = schema
        required = [name for name in self.keys if name not in self._defaults]
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            **({"required": required} if required else {}),
        }


def entries(node: yaml.Node, key_path: str, report: Report) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]] | None:
    """Return the keys and values of a mapping, those that ``<<`` merges into it included, or None if it is none."""
    if not isinstance(node, yaml.MappingNode) or node.tag != _MAPPING:
        report.wrong(node, key_path, f"expected a mapping, found {found(node)}")
        return None
    pairs: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    stack: list[yaml.Node] = [node]
    while stack:
        mapping = stack.pop()
        if not isinstance(mapping, yaml.MappingNode):
            report.wrong(mapping, joined(key_path, "<<"), f"expected a mapping to merge, found {found(mapping)}")
            continue
        own: dict[str, yaml.ScalarNode] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in mapping.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _KEYS or not key_node.value:
                report.wrong(key_node, key_path, f"expected a key, found {found(key_node)}")
            elif key_node.tag == _MERGE:
                merged.extend(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node])
            elif key_node.value in own:
                line = own[key_node.value].start_mark.line + 1
                report.wrong(
                    key_node, joined(key_path, key_node.value), f"the key is there twice, first in line {line}"
                )
            else:
                own[key_node.value] = key_node
                pairs.setdefault(key_node.value, (key_node, value_node))  # a mapping's own keys beat those it merges
        stack.extend(reversed(merged))
    return pairs


def string(node: yaml.Node, key_path: str, report: Report, expected: str = "a string") -> str | None:
    """Return the text of a string, or None after having reported that it is none."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != _STRING:
        advice = ""
        if isinstance(node, yaml.ScalarNode) and expected == "a string" and node.tag != _NULL:
            advice = f"; put it in quotes: '{shortened(node.value, 40)}'"
        report.wrong(node, key_path, f"expected {expected}, found {found(node)}{advice}")
        return None
    if re.search("[\ud800-\udfff]", node.value):
        report.wrong(node, key_path, "a surrogate is no character, expected text")
        return None
    return str(node.value)


def string_node(text: str, mark: yaml.Mark) -> yaml.Node:
    """Return the node of a string that is not in the file, as if it were at the mark."""
    return yaml.ScalarNode(_STRING, text, mark)


def list_node(texts: Iterable[str], mark: yaml.Mark) -> yaml.Node:
    """Return the node of a list of strings that is not in the file, as if it were at the mark."""
    return yaml.SequenceNode(_LIST, [string_node(text, mark) for text in texts], mark)


def found(node: yaml.Node) -> str:
    """Return what a value is, in the user's words."""
    if isinstance(node, yaml.CollectionNode):
        what = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
        return what if node.tag in (_MAPPING, _LIST) else f"{what} with the tag {shortened(node.tag, 60)}"
    if node.tag == _NULL:
        return "nothing"
    short = shortened(node.value, 40)
    if node.tag == _STRING:
        return f"the string {short!r}"
    if node.tag.startswith("tag:yaml.org,2002:"):
        return f"{short} ({shortened(node.tag.rpartition(':')[2], 60)})"
    return f"{short!r} with the tag {shortened(node.tag, 60)}"


def hint(name: str, known: Sequence[str]) -> str:
    """Return what somebody who wrote an unknown name may have meant."""
    close = difflib.get_close_matches(name[:100], known[:100], n=1)
    if close:
        return f"did you mean '{shortened(close[0])}'?"
    more = ", ..." if len(known) > _MAX_HINT_NAMES else ""
    return f"expected one of: {', '.join(known[:_MAX_HINT_NAMES])}{more}"


def joined(key_path: str, name: str) -> str:
    """Return the key path of a key in a section."""
    shown = name if re.fullmatch(r"[\w.-]{1,60}", name) else repr(name[:60])
    return f"{key_path}.{shown}" if key_path else shown
