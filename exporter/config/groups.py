"""The groups of log files in the configuration."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from exporter.config import globs
from exporter.config.errors import Report, shortened
from exporter.config.fields.nodes import hint, joined, made_node
from exporter.config.fields.scalars import (
    NONEMPTY,
    JsonSchema,
    Kind,
    Scalar,
    boolean,
    interval,
    one_of,
    parse_nonempty,
    text,
    whole_number,
)
from exporter.config.fields.sections import ListOf, MappingOf, Section, key, optional
from exporter.config.presets import PRESETS

DISK = "disk"
"""The metric of a file, of its group and of its aggregate."""
FILE_METRICS = ("size", "mtime", "changes", "appended_bytes", "truncations", "rotations", DISK)
"""The metrics of a file."""
UNREAD = "unread"
"""The metric of a file and a shipper."""
LINES, CRC32 = "lines", "crc32"
"""The metrics of a file for which its content is read."""
CONTENT_METRICS = (LINES, CRC32)
MODE = "mode"
"""The metric of a file whose values are labels."""
OLDEST_MTIME = "oldest_mtime"
DIRECTORIES = "directories"
GROUP_METRICS = (DISK, LINES, OLDEST_MTIME, DIRECTORIES)
"""The metrics of a group that `metrics` adds to those that every group has."""
MODE_LABELS = ("mode", "owner_uid", "owner_gid")
_METRICS = (*FILE_METRICS, UNREAD, *CONTENT_METRICS, MODE, OLDEST_MTIME, DIRECTORIES)  # what `metrics` may name
DEFAULT_FILE_METRICS = frozenset(FILE_METRICS[:4])

ACTUAL, ZERO = "actual", "zero"
"""What the counters of a new file or aggregate show at first."""
FIRST_SAMPLE = one_of("first sample", (ACTUAL, ZERO))

_MAX_GLOBS = 20_000  # of all patterns; compiling so many takes seconds
_MAX_REGEX_LENGTH = 4096
_LABEL_NAME = "[a-zA-Z_][a-zA-Z0-9_]*"
# Labels that the agent or Prometheus sets.
_RESERVED_LABELS = ("group", "path", "job", "instance", "pattern", "reason", "state", "shipper")


def _label_complaint(name: str) -> str:
    if not re.fullmatch(_LABEL_NAME, name):
        return f"'{shortened(name)}' is not a label name, expected letters, digits and '_', the first not a digit"
    if name in _RESERVED_LABELS or name.startswith("__"):
        return f"the label name '{shortened(name)}' is reserved, expected another one"
    return ""


def _parse_path_regex(text: str) -> re.Pattern[str]:
    parse_nonempty(text)
    if len(text) > _MAX_REGEX_LENGTH:
        raise ValueError(f"it has {len(text)} characters, expected {_MAX_REGEX_LENGTH} at most")
    try:
        with warnings.catch_warnings(action="ignore"):
            regex = re.compile(text)
    except re.error as error:
        place = f" at character {error.pos + 1}" if error.pos is not None else ""
        remedy = "; write a named group as (?P<name>...)" if re.search(r"\(\?<[^=!]", text) else ""
        raise ValueError(f"bad regular expression: {shortened(error.msg, 200)}{place}{remedy}") from None
    except OverflowError as error:
        raise ValueError(f"bad regular expression: {error}") from None
    except RecursionError:
        raise ValueError("bad regular expression: it is nested too deeply") from None
    if not regex.groupindex:
        raise ValueError("it has no named group, expected at least one (?P<label>...)")
    if complaints := [complaint for name in regex.groupindex if (complaint := _label_complaint(name))]:
        raise ValueError("; ".join(complaints))
    return regex


def _parse_aggregate_label(name: str) -> str:
    if name == "group":
        raise ValueError("every aggregate already has the label 'group', expected another label")
    if name == "path":
        raise ValueError("every file has a 'path' of its own, so there is nothing to add up, expected another label")
    if name in _RESERVED_LABELS:
        raise ValueError(_label_complaint(name))
    return name


class _Pattern(Scalar[globs.Pattern]):
    """A pattern of files, compiled."""

    def read(self, node: yaml.Node, key_path: str, report: Report) -> globs.Pattern | None:
        pattern = super().read(node, key_path, report)
        if pattern is not None:
            report.spend(len(pattern.globs), _MAX_GLOBS, "patterns, their braces expanded", node, key_path)
        return pattern


def pattern(compiler: Callable[[str], globs.Pattern], *known_bad: str) -> Kind[Any]:
    """A pattern that `compiler` checks and compiles.

    Args:
        compiler: of patterns.
        known_bad: regular expressions of bad patterns, added to those for all patterns.
    """

    def compile_pattern(text: str) -> globs.Pattern:
        try:
            return compiler(text)
        except globs.PatternError as error:
            raise ValueError(f"bad pattern '{shortened(text)}': {error}" if text else str(error)) from None

    not_good = {"pattern": "|".join((*_KNOWN_BAD, *known_bad))}
    schema = {"type": "string", "minLength": 1, "maxLength": globs.MAX_LENGTH, "not": not_good}
    return _Pattern("a string", compile_pattern, schema, has_advice=True)


class _Metrics(Kind[frozenset[str]]):
    """Names of metrics."""

    expected = "a list of metrics"

    def __init__(self) -> None:
        if_empty = "at least one metric; to drop the series of single files write 'per_file: false'"
        self._list = ListOf("metrics", one_of("metric", _METRICS), if_empty, distinct=True)

    def read(self, node: yaml.Node, key_path: str, report: Report) -> frozenset[str] | None:
        names = self._list.read(node, key_path, report)
        return None if names is None else frozenset(names)

    def schema(self) -> JsonSchema:
        return self._list.schema()


# They match no valid pattern. The agent finds the bad ones that they do not match.
_KNOWN_BAD = (
    r"(^|/)\.\.?/",
    r"[^\\]\*\*[^/,}]",
    r"[^\\/{},*]\*\*",
    r"[^\\]\[[^\]]*$",
    r"^[^\[]*[^\\\[]\{[^}]*$",
    r"\0",
    r"[^\\]\\$",
)
INCLUDE = pattern(globs.Include, "^[^/{]", "/$")
EXCLUDE = pattern(globs.Exclude, "^[^/{]+/")
_LABELS = MappingOf(
    text("a string", str),
    _label_complaint,
    {"pattern": f"^{_LABEL_NAME}$", "not": {"pattern": f"^(({'|'.join(_RESERVED_LABELS)})$|__)"}},
)
_PATH_REGEX = text(
    "a string",
    _parse_path_regex,
    {
        "minLength": 1,
        "maxLength": _MAX_REGEX_LENGTH,
        "pattern": f"\\(\\?P<{_LABEL_NAME}>",
        "not": {"pattern": f"^[^\\\\\\[]*\\(\\?P<(({'|'.join(_RESERVED_LABELS)})>|__)"},
    },
)
_AGGREGATE_LABEL = text(
    "a string", _parse_aggregate_label, {"pattern": f"^{_LABEL_NAME}$", "not": {"enum": _RESERVED_LABELS}}
)


@dataclass(frozen=True, slots=True)
class LogGroup:
    """One element of ``logs``, with valid patterns."""

    group: str = field(metadata=key(NONEMPTY, "The name of the group: the label 'group' of its series."))
    paths: tuple[str, ...] = field(
        metadata=key(
            ListOf("patterns", INCLUDE, "at least one pattern"),
            "Patterns of its files: * and ? and [a-z] match within one component of the path, ** matches directories "
            "of any depth, {a,b} is for alternatives, {today:%Y%m%d} and {yesterday:%Y%m%d} are dates. A file belongs "
            "to the first group that matches it.",
        )
    )
    exclude: tuple[str, ...] = optional(
        ListOf("patterns", EXCLUDE),
        (),
        "Patterns of files to leave out. Without a / they match the base name, else the whole path.",
    )
    labels: Mapping[str, str] = field(
        default_factory=dict,
        metadata=key(
            _LABELS, "More labels of all series of the group: of its files, of its aggregates and of the group itself."
        ),
    )
    path_regex: re.Pattern[str] | None = optional(
        _PATH_REGEX,
        None,
        "A Python regular expression that is searched for in the path; its named groups (?P<name>...) are labels.",
    )
    aggregate_by: tuple[str, ...] = optional(
        ListOf("labels", _AGGREGATE_LABEL, distinct=True), (), "Labels by whose values the files are summed."
    )
    per_file: bool = optional(
        boolean(), True, "Whether each file has series of its own, next to the sums of the group."
    )
    max_series: int | None = optional(
        whole_number("series"),
        None,
        "The largest number of files, and of aggregates, that have series. Without it there is no limit.",
    )
    metrics: frozenset[str] = optional(
        _Metrics(), DEFAULT_FILE_METRICS, "The metrics of each file.", written=FILE_METRICS[:4]
    )
    first_sample: str | None = optional(
        FIRST_SAMPLE, None, "Overrides the global key of this name for the group: actual or zero."
    )
    zero_for_s: float | None = optional(
        interval(), None, "Overrides the global key of this name for the group.", "zero_for"
    )
    follow_symlinks: bool = optional(
        boolean(),
        False,
        "Whether ** follows symbolic links to directories. Each directory is entered once, by a path without links if "
        "there is one.",
    )

    @property
    def written_paths(self) -> tuple[str, ...]:
        """Return its patterns as the user wrote them, where `paths` has the dates of today."""
        return tuple([globs.Include(text).written for text in self.paths])

    @property
    def written_exclude(self) -> tuple[str, ...]:
        """Return its excludes as the user wrote them."""
        return tuple([globs.Exclude(text).written for text in self.exclude])


class GroupSection(Section[LogGroup]):
    """A group. The keys of its preset are read as if they were written in place of the preset's name."""

    def __init__(self) -> None:
        super().__init__(LogGroup)
        self._preset = one_of("preset", PRESETS)

    def read(self, node: yaml.Node, key_path: str, report: Report) -> LogGroup | None:
        nodes = self.nodes(node, key_path, report, ("preset",))
        if nodes is None:
            return None
        if "preset" not in nodes:
            return self.made(node, nodes, key_path, report)
        named = nodes.pop("preset")
        preset = self._preset.read(named, joined(key_path, "preset"), report)
        if preset is None:
            self.made(node, nodes, key_path, report, is_whole=False)
            return None
        added = {key: made_node(value, named.start_mark) for key, value in PRESETS[preset].items()}
        return self.made(node, {**added, **nodes}, key_path, report)

    def check(
        self, made: Mapping[str, Any], nodes: Mapping[str, yaml.Node], key_path: str, report: Report, *, is_whole: bool
    ) -> None:
        if (group := made.get("group")) is not None:
            report.name_once("group", group, nodes["group"], joined(key_path, "group"))
        labels = made.get("labels", {})
        regex = made.get("path_regex")
        named = regex.groupindex if regex is not None else {}
        for name in named:
            if name in labels:
                what = f"the label '{shortened(name)}' is also in 'labels', expected it in one place only"
                report.wrong(nodes["path_regex"], joined(key_path, "path_regex"), what)
        # After a mistake in a key that gives labels, not all labels are known.
        if is_whole and all(key in made for key in ("labels", "path_regex") if key in nodes):
            known = tuple(dict.fromkeys((*labels, *named)))
            for number, name in enumerate(made.get("aggregate_by", ())):
                if name not in known:
                    what = (
                        hint(name, known)
                        if known
                        else "the group has no labels, expected it in 'labels' or 'path_regex'"
                    )
                    element = nodes["aggregate_by"].value[number]
                    path = f"{key_path}.aggregate_by[{number}]"
                    report.wrong(element, path, f"unknown label '{shortened(name)}', {what}")
        metrics = made.get("metrics", (None,))
        if "metrics" in nodes and made.get("per_file") is False and not {*GROUP_METRICS}.issuperset(metrics):
            what = "selects series of single files, but 'per_file: false' leaves none; remove one of the two keys"
            report.wrong(nodes["metrics"], joined(key_path, "metrics"), what)
        taken = MODE_LABELS if MODE in metrics else ()
        for place, names in (("labels", labels), ("path_regex", named)):
            for name in taken:
                if name in names:
                    what = f"the label '{name}' is one of the metric 'mode', expected another name"
                    report.wrong(nodes[place], joined(key_path, place), what)

    def schema(self) -> JsonSchema:
        schema = super().schema()
        del schema["required"]
        what = "Sets keys of the group; a key that is written next to it overrides the preset."
        preset = {"description": what, **self._preset.schema()}
        schema["properties"] = {"preset": preset, **schema["properties"]}
        schema["anyOf"] = [{"required": ["preset"]}, {"required": ["group", "paths"]}]
        of_files = {"contains": {"not": {"enum": [*GROUP_METRICS]}}}
        properties = {"per_file": {"const": False}, "metrics": of_files}
        without_series = {"required": ["metrics", "per_file"], "properties": properties}
        return {**schema, "not": without_series}
