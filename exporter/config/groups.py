"""The groups of log files in the configuration."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import yaml

from exporter.config import values
from exporter.config.errors import Report, shortened
from exporter.config.kinds import (
    Boolean,
    JsonSchema,
    Key,
    Kind,
    ListOf,
    MappingOf,
    OneOf,
    Section,
    Text,
    WholeNumber,
    hint,
    joined,
    list_node,
    string,
    string_node,
)
from exporter.config.presets import PRESETS
from exporter.matching import globs

FILE_METRICS = ("size", "mtime", "changes", "appended_bytes", "truncations", "rotations")
"""What can be published of each file."""
DEFAULT_FILE_METRICS = frozenset(FILE_METRICS[:4])

_MAX_GLOBS = 20_000  # of all patterns; to compile so many takes seconds
_MAX_REGEX_LENGTH = 4096
_LABEL_NAME = "[a-zA-Z_][a-zA-Z0-9_]*"


@dataclass(frozen=True, slots=True)
class LogGroup:
    """One element of ``logs``, its patterns known to be valid."""

    group: Annotated[str, Key(values.nonempty(), "Its name, the label 'group' of its series.")]
    paths: Annotated[
        tuple[str, ...],
        Key(
            ListOf("patterns", _Pattern(globs.compile_include, is_include=True), "at least one pattern"),
            "Patterns of its files: * and ? and [a-z] within one component of the path, ** for directories of any "
            "depth, {a,b} for alternatives. A file belongs to the first group that matches it.",
        ),
    ]
    exclude: Annotated[
        tuple[str, ...],
        Key(
            ListOf("patterns", _Pattern(globs.compile_exclude, is_include=False)),
            "Patterns of what is left out: without a / for the base name, else for the whole path.",
        ),
    ] = ()
    labels: Annotated[
        Mapping[str, str],
        Key(_labels(), "More labels of each of its series, the same for every file."),
    ] = field(default_factory=dict)
    path_regex: Annotated[
        re.Pattern[str] | None,
        Key(
            _path_regex(),
            "A regular expression of Python; its named groups (?P<name>...) are labels, taken from the path.",
        ),
    ] = None
    aggregate_by: Annotated[
        tuple[str, ...],
        Key(
            ListOf("labels", _AggregateLabel(), distinct=True),
            "Labels for each of whose values the files are added up.",
        ),
    ] = ()
    per_file: Annotated[
        bool, Key(Boolean(), "Whether each file has series of its own, beside the sums of the group.")
    ] = True
    max_series: Annotated[
        int | None,
        Key(
            WholeNumber("series"),
            "How many files have series of their own at most, and how many aggregates. Without it there is no bound.",
        ),
    ] = None
    metrics: Annotated[
        frozenset[str],
        Key(_Metrics(), "What is published of each file."),
    ] = DEFAULT_FILE_METRICS


def _labels() -> MappingOf[str]:
    names = {"pattern": f"^{_LABEL_NAME}$", "not": {"pattern": "^(group$|path$|__)"}}
    return MappingOf("labels", _label_complaint, names, Text("a string", str, {}))


def _label_complaint(name: str) -> str:
    if not re.fullmatch(_LABEL_NAME, name):
        return f"'{shortened(name)}' is no label name, expected letters, digits and '_', not a digit first"
    if name in ("group", "path") or name.startswith("__"):
        return f"the label name '{shortened(name)}' is reserved, expected another one"
    return ""


def _path_regex() -> Text[re.Pattern[str]]:
    schema = {
        "minLength": 1,
        "maxLength": _MAX_REGEX_LENGTH,
        "pattern": f"\\(\\?P<{_LABEL_NAME}>",
        "not": {"pattern": "^[^\\\\\\[]*\\(\\?P<(group>|path>|__)"},
    }
    return Text("a string", _parse_path_regex, schema, lambda regex: regex.pattern)


def _parse_path_regex(text: str) -> re.Pattern[str]:
    values.parse_nonempty(text)
    if len(text) > _MAX_REGEX_LENGTH:
        raise ValueError(f"it has {len(text)} characters, expected {_MAX_REGEX_LENGTH} at most")
    try:
        with warnings.catch_warnings(action="ignore"):
            regex = re.compile(text)
    except re.error as error:
        place = f" at character {error.pos + 1}" if error.pos is not None else ""
        raise ValueError(f"bad regular expression: {shortened(error.msg, 200)}{place}") from None
    except OverflowError as error:
        raise ValueError(f"bad regular expression: {error}") from None
    except RecursionError:
        raise ValueError("bad regular expression: it is nested too deeply") from None
    if not regex.groupindex:
        raise ValueError("no named group in it, expected at least one (?P<label>...)")
    if complaints := [complaint for name in regex.groupindex if (complaint := _label_complaint(name))]:
        raise ValueError("; ".join(complaints))
    return regex


class _Pattern(Kind[str]):
    """A pattern of files.

    Args:
        compiler: checks it.
        is_include: whether it is of files that are meant, so that it is an absolute path.
    """

    expected = "a string"

    def __init__(self, compiler: Callable[[str], Sequence[globs.Glob]], *, is_include: bool) -> None:
        self._compiler = compiler
        self._is_include = is_include

    def read(self, node: yaml.Node, key_path: str, report: Report) -> str | None:
        text = string(node, key_path, report)
        if text is None:
            return None
        try:
            compiled = self._compiler(text)
        except globs.PatternError as error:
            report.wrong(node, key_path, f"bad pattern '{shortened(text)}': {error}" if text else str(error))
            return None
        report.spend(len(compiled), _MAX_GLOBS, "patterns, their braces expanded", node, key_path)
        return text

    def schema(self) -> JsonSchema:
        # Refuses no good pattern; the bad ones that it can not tell are left to the agent.
        known_bad = [
            r"(^|/)\.\.?/",
            r"[^\\]\*\*[^/,}]",
            r"[^\\/{},*]\*\*",
            r"[^\\]\[[^\]]*$",
            r"^[^\[]*[^\\\[]\{[^}]*$",
            r"\0",
            r"[^\\]\\$",
        ]
        if self._is_include:
            known_bad.append("^[^/{]")
            known_bad.append("/$")
        else:
            known_bad.append("^[^/{]+/")
        return {
            "type": "string",
            "minLength": 1,
            "maxLength": globs.MAX_LENGTH,
            "not": {"pattern": "|".join(known_bad)},
        }


class _AggregateLabel(Kind[str]):
    """The name of a label by which files can be added up."""

    expected = "a string"

    def read(self, node: yaml.Node, key_path: str, report: Report) -> str | None:
        name = string(node, key_path, report)
        if name == "group":
            report.wrong(node, key_path, "every aggregate has the label 'group' already, expected another one")
        elif name == "path":
            what = "every file has a 'path' of its own, so there is nothing to add up, expected another label"
            report.wrong(node, key_path, what)
        else:
            return name
        return None

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{_LABEL_NAME}$", "not": {"enum": ["group", "path"]}}


class _Metrics(Kind[frozenset[str]]):
    """Names of metrics."""

    expected = "a list of metrics"

    def __init__(self) -> None:
        if_empty = "at least one metric; for no series of single files there is 'per_file: false'"
        self._list = ListOf("metrics", OneOf("metric", FILE_METRICS), if_empty, distinct=True)

    def read(self, node: yaml.Node, key_path: str, report: Report) -> frozenset[str] | None:
        names = self._list.read(node, key_path, report)
        return None if names is None else frozenset(names)

    def schema(self) -> JsonSchema:
        return self._list.schema()

    def written(self, value: frozenset[str]) -> object:
        return [name for name in FILE_METRICS if name in value]


class GroupSection(Section[LogGroup]):
    """A group. The keys for which its preset stands are as if they were written where the preset is named.

    One of these reads the groups of one file: it remembers their names.
    """

    def __init__(self) -> None:
        super().__init__(LogGroup)
        self._first_lines: dict[str, int] = {}
        self._preset = Key(OneOf("preset", PRESETS), "Stands for keys; one that is written beside it beats its own.")

    def read(self, node: yaml.Node, key_path: str, report: Report) -> LogGroup | None:
        nodes = self.nodes(node, key_path, report, ("preset", *self.keys))
        if nodes is None:
            return None
        if "preset" not in nodes:
            return self.made(node, nodes, key_path, report)
        named = nodes.pop("preset")
        preset = self._preset.kind.read(named, joined(key_path, "preset"), report)
        if preset is None:
            self.made(node, nodes, key_path, report, is_whole=False)
            return None
        added = {
            key: string_node(value, named.start_mark) if isinstance(value, str) else list_node(value, named.start_mark)
            for key, value in PRESETS[preset].items()
        }
        return self.made(node, {**added, **nodes}, key_path, report)

    def check(
        self, made: Mapping[str, Any], nodes: Mapping[str, yaml.Node], key_path: str, report: Report, *, is_whole: bool
    ) -> None:
        if (group := made.get("group")) is not None:
            if group in self._first_lines:
                what = f"the group '{shortened(group)}' is there twice, first in line {self._first_lines[group]}"
                report.wrong(nodes["group"], joined(key_path, "group"), what)
            self._first_lines.setdefault(group, nodes["group"].start_mark.line + 1)
        labels = made.get("labels", {})
        regex = made.get("path_regex")
        named = regex.groupindex if regex is not None else {}
        for name in named:
            if name in labels:
                what = f"the label '{shortened(name)}' is in 'labels' already, expected it in one place only"
                report.wrong(nodes["path_regex"], joined(key_path, "path_regex"), what)
        # A mistake in what gives labels hides which ones there are.
        if is_whole and all(key in made for key in ("labels", "path_regex") if key in nodes):
            known = tuple(dict.fromkeys((*labels, *named)))
            for number, name in enumerate(made.get("aggregate_by", ())):
                if name not in known:
                    what = hint(name, known) if known else "the group has none, expected it in 'labels' or 'path_regex'"
                    element = nodes["aggregate_by"].value[number]
                    path = f"{key_path}.aggregate_by[{number}]"
                    report.wrong(element, path, f"unknown label '{shortened(name)}', {what}")
        if "metrics" in nodes and made.get("per_file") is False:
            what = "is about the series of single files, and with 'per_file: false' there are none"
            report.wrong(nodes["metrics"], joined(key_path, "metrics"), what)

    def schema(self) -> JsonSchema:
        schema = super().schema()
        del schema["required"]
        preset = {"description": self._preset.description, **self._preset.kind.schema()}
        schema["properties"] = {"preset": preset, **schema["properties"]}
        schema["anyOf"] = [{"required": ["preset"]}, {"required": ["group", "paths"]}]
        without_series = {"required": ["metrics", "per_file"], "properties": {"per_file": {"const": False}}}
        return {**schema, "not": without_series}
