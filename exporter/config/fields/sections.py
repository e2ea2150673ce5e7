"""Kinds of lists and mappings: `Section` reads a dataclass, `Fields` a dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

import yaml

from exporter.config.errors import Report, shortened
from exporter.config.fields.nodes import LIST, NULL, entries, hint, joined
from exporter.config.fields.scalars import JsonSchema, Kind, T

D = TypeVar("D")


class ListOf(Kind[tuple[T, ...]]):
    """A list.

    Args:
        what: the name of the elements.
        element: the kind of the elements.
        if_empty: what is expected instead of an empty list; by default an empty list is allowed.
        distinct: whether the elements must differ.
    """

    def __init__(self, what: str, element: Kind[T], if_empty: str = "", *, distinct: bool = False) -> None:
        self.expected = f"a list of {what}"
        self.is_secret = element.is_secret
        self._element = element
        self._if_empty = if_empty
        self._distinct = distinct

    def read(self, node: yaml.Node, key_path: str, report: Report) -> tuple[T, ...] | None:
        if not isinstance(node, yaml.SequenceNode) or node.tag != LIST:
            self._refuse(node, key_path, report)
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
                    report.wrong(child, element_path, f"'{shortened(str(value))}' is listed twice")
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


class MappingOf(Kind[dict[str, T]]):
    """A mapping with any keys.

    Args:
        value: the kind of the values; if it is secret, so are the keys that are not well-formed.
        complaint: returns the fault of a key, or "".
        key_schema: the JSON Schema of a key.
    """

    expected = "a mapping"

    def __init__(
        self, value: Kind[T], complaint: Callable[[str], str] | None = None, key_schema: JsonSchema | None = None
    ) -> None:
        self.is_secret = value.is_secret
        self._value = value
        self._complaint = complaint
        self._key_schema = key_schema or {}

    def read(self, node: yaml.Node, key_path: str, report: Report) -> dict[str, T] | None:
        pairs = entries(node, key_path, report, is_secret=self.is_secret)
        if pairs is None:
            return None
        values: dict[str, T] = {}
        for name, (key_node, value_node) in pairs.items():
            path = joined(key_path, name)
            complaint = self._complaint(name) if self._complaint is not None else ""
            if complaint:
                report.wrong(key_node, path, complaint)
            value = self._value.read(value_node, path, report)
            if value is not None and not complaint:
                values[name] = value
        return values if len(values) == len(pairs) else None

    def schema(self) -> JsonSchema:
        return {"type": "object", "propertyNames": self._key_schema, "additionalProperties": self._value.schema()}


class Fields(Kind[T]):
    """A mapping with known keys. It reads a dict of the values without a mistake.

    Args:
        kinds: key -> kind of its value.
        is_secret: whether keys that are not well-formed are secret.
        skips_null: whether a key without a value counts as missing.
    """

    expected = "a mapping"

    def __init__(self, kinds: Mapping[str, Kind[Any]], *, is_secret: bool = False, skips_null: bool = False) -> None:
        self.kinds = kinds
        self.is_secret = is_secret
        self._skips_null = skips_null

    def read(self, node: yaml.Node, key_path: str, report: Report) -> T | None:
        nodes = self.nodes(node, key_path, report)
        return None if nodes is None else self.values(nodes, key_path, report)  # type: ignore[return-value]

    def nodes(
        self, node: yaml.Node, key_path: str, report: Report, more: Sequence[str] = ()
    ) -> dict[str, yaml.Node] | None:
        """Return the nodes of the known keys; `more` are known too."""
        pairs = entries(node, key_path, report, is_secret=self.is_secret)
        if pairs is None:
            return None
        known = (*more, *self.kinds)
        for name, (key_node, _) in pairs.items():
            if name not in known:
                report.wrong(key_node, joined(key_path, name), f"unknown key, {hint(name, known)}")
        skipped = NULL if self._skips_null else ""
        return {name: value for name, (_, value) in pairs.items() if name in known and value.tag != skipped}

    def values(self, nodes: Mapping[str, yaml.Node], key_path: str, report: Report) -> dict[str, Any]:
        """Return the values of the nodes that have no mistake."""
        read = {
            name: kind.read(nodes[name], joined(key_path, name), report)
            for name, kind in self.kinds.items()
            if name in nodes
        }
        return {name: value for name, value in read.items() if value is not None}

    def schema(self) -> JsonSchema:
        properties = {name: kind.schema() for name, kind in self.kinds.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class _Key:
    kind: Kind[Any]
    description: str
    name: str = ""
    written: object = None


def key(kind: Kind[Any], description: str) -> dict[str, _Key]:
    """Return the metadata that makes a field of a dataclass a key."""
    return {"key": _Key(kind, description)}


def optional(kind: Kind[T], default: D, description: str, name: str = "", written: object = None) -> T | D:
    """Make a field of a dataclass a key that may be missing.

    Args:
        kind: of the value.
        default: the value without the key.
        description: for the JSON Schema.
        name: the key in the file; "" if the field has the same name.
        written: the default as written in the file; None if that is the same.
    """
    made: T | D = dataclasses.field(default=default, metadata={"key": _Key(kind, description, name, written)})
    return made


class Section(Fields[T]):
    """A mapping whose known keys are the fields of a dataclass.

    Args:
        made: the dataclass. A field without a default is a required key.
    """

    def __init__(self, made: Callable[..., T]) -> None:
        self._made = made
        fields = dataclasses.fields(made)  # type: ignore[arg-type]  # any callable to mypy
        self._fields = {field.metadata["key"].name or field.name: field for field in fields}
        super().__init__({name: field.metadata["key"].kind for name, field in self._fields.items()})
        self._required = [
            name for name, field in self._fields.items() if field.default is MISSING is field.default_factory
        ]

    def read(self, node: yaml.Node, key_path: str, report: Report) -> T | None:
        nodes = self.nodes(node, key_path, report)
        return None if nodes is None else self.made(node, nodes, key_path, report)

    def made(
        self, node: yaml.Node, nodes: Mapping[str, yaml.Node], key_path: str, report: Report, *, is_whole: bool = True
    ) -> T | None:
        """Return the section with these values, or report the mistakes in them and return None.

        Args:
            node: of the section.
            nodes: of its values.
            key_path: of the section.
            report: gets the mistakes.
            is_whole: whether these are all values; if not, no key is reported as missing.
        """
        values = self.values(nodes, key_path, report)
        missing = [name for name in self._required if name not in nodes]
        for name in missing if is_whole else ():
            report.wrong(node, joined(key_path, name), f"the key is missing, expected {self.kinds[name].expected}")
        self.check(values, nodes, key_path, report, is_whole=is_whole)
        if missing or any(name not in values for name in self.kinds if name in nodes):
            return None
        return self._made(**{self._fields[name].name: value for name, value in values.items()})

    def check(
        self, made: Mapping[str, Any], nodes: Mapping[str, yaml.Node], key_path: str, report: Report, *, is_whole: bool
    ) -> None:
        """Report mistakes that involve several keys.

        Args:
            made: the values without a mistake.
            nodes: of all values.
            key_path: of the section.
            report: gets the mistakes.
            is_whole: whether these are all values.
        """

    def schema(self) -> JsonSchema:
        schema = super().schema()
        for name, field in self._fields.items():
            declared: _Key = field.metadata["key"]
            described = {"description": declared.description, **schema["properties"][name]}
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if default not in (None, MISSING) and not isinstance(declared.kind, Section):
                described["default"] = default if declared.written is None else declared.written
            schema["properties"][name] = described
        if self._required:
            schema["required"] = self._required
        return schema
