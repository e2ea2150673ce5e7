"""The log shippers in the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from exporter.config import globs
from exporter.config.errors import Report, shortened
from exporter.config.fields.nodes import joined
from exporter.config.fields.scalars import (
    NONEMPTY,
    JsonSchema,
    Scalar,
    boolean,
    interval,
    one_of,
    parse_nonempty,
    text,
)
from exporter.config.fields.sections import ListOf, MappingOf, Section, key, optional
from exporter.config.groups import EXCLUDE, INCLUDE, pattern

PROCESS = "process"
"""The type that reads open descriptors instead of state files."""
SHIPPER_TYPES = (
    *("fluent-bit", "promtail", "alloy", "fluentd", "filebeat", "vector"),
    *("rsyslog", "syslog-ng", PROCESS, "otel-filelog", "datadog", "logstash"),
)

# The JSON Schema has it too, so it uses only the syntax that Python and JavaScript share.
_DIRECTORY = r"(?:/|(?:/(?!\.\.?(?:/|$))[^/\0]+)+)"


def _directory_complaint(path: str) -> str:
    if re.fullmatch(_DIRECTORY, path):
        return ""
    remedy = "; write the home directory out instead of '~'" if path.startswith("~") else ""
    what = "cannot be used, expected the absolute path of a directory such as /var/log, without a '/' at its end"
    return f"{shortened(path)!r} {what}{remedy}"


def _parse_directory(path: str) -> str:
    if complaint := _directory_complaint(path):
        raise ValueError(complaint)
    return path


class _GroupName(Scalar[str]):
    """The name of a group, which the section of the whole file checks when all groups are known."""

    def read(self, node: yaml.Node, key_path: str, report: Report) -> str | None:
        name = super().read(node, key_path, report)
        if name is not None:
            report.group_references.append((name, node, key_path))
        return name


_STATE = pattern(lambda path: globs.Include(path.rstrip("/") or path), "^[^/{]")  # a directory may end with a "/"
_GROUP_NAME = _GroupName("a string", parse_nonempty, NONEMPTY.schema(), has_advice=True)
_DIRECTORY_SCHEMA = {"pattern": f"^{_DIRECTORY}$"}
_PATH_MAP = MappingOf(
    text("the absolute path of a directory", _parse_directory, _DIRECTORY_SCHEMA),
    _directory_complaint,
    _DIRECTORY_SCHEMA,
)


@dataclass(frozen=True, slots=True)
class ShipperConfig:
    """One element of ``shippers``, with valid patterns.

    Type ``process`` has a `match`, every other type a `path`. Empty `groups` or `paths` stand for all.
    `flush_interval_s` is None for the default of the type. In `path_map` only ``/`` itself ends with a slash.
    """

    name: str = field(metadata=key(NONEMPTY, "The name of the shipper: the label 'shipper' of its series."))
    type: str = field(
        metadata=key(
            one_of("shipper type", SHIPPER_TYPES),
            "The format of its positions. With type process they are those of its open descriptors, for any shipper.",
        )
    )
    path: str | None = optional(
        _STATE,
        None,
        "Where it keeps its positions: the absolute path of a file or a directory, or a pattern of files.",
    )
    match: str | None = optional(
        NONEMPTY, None, "A pattern of the process's name, with * and ? and [a-z]; for type process only."
    )
    groups: tuple[str, ...] = optional(
        ListOf("groups", _GROUP_NAME, distinct=True),
        (),
        "The groups whose files it reads; an empty list stands for all groups.",
    )
    paths: tuple[str, ...] = optional(
        ListOf("patterns", INCLUDE),
        (),
        "Patterns of the files that it reads, as in a group; an empty list stands for all files of these groups.",
    )
    exclude: tuple[str, ...] = optional(
        ListOf("patterns", EXCLUDE), (), "Patterns of files that it does not read, as in a group."
    )
    complete: bool = optional(boolean(), False, "Whether each of these files must have a position.")
    flush_interval_s: float | None = optional(
        interval(or_zero=True),
        None,
        "How late its positions may be. Without it the type decides: 1s; 20s for promtail and alloy, 15s for logstash. "
        "Write 60s for a kubernetes_logs source of vector.",
        "flush_interval",
    )
    path_map: Mapping[str, str] = field(
        default_factory=dict,
        metadata=key(
            _PATH_MAP,
            "Directories as the shipper sees them, with their paths here; for a shipper in another mount namespace.",
        ),
    )


class ShipperSection(Section[ShipperConfig]):
    """A shipper."""

    def __init__(self) -> None:
        super().__init__(ShipperConfig)

    def check(
        self, made: Mapping[str, Any], nodes: Mapping[str, yaml.Node], key_path: str, report: Report, *, is_whole: bool
    ) -> None:
        if (name := made.get("name")) is not None:
            report.name_once("shipper", name, nodes["name"], joined(key_path, "name"))
        if (kind := made.get("type")) is None:
            return
        if kind == PROCESS:
            needed, what, refused = "match", "a pattern of the process's name", "path"
            why = "type process reads open descriptors, no file; remove this key"
        else:
            needed, what, refused = "path", "the file or directory of its positions", "match"
            why = f"only type process has this key, and this is type {kind}; remove it"
        if needed not in nodes:
            report.wrong(nodes["type"], joined(key_path, "type"), f"type {kind} needs '{needed}', {what}")
        if refused in nodes:
            report.wrong(nodes[refused], joined(key_path, refused), why)

    def schema(self) -> JsonSchema:
        return {
            **super().schema(),
            "if": {"properties": {"type": {"const": PROCESS}}},
            "then": {"required": ["match"], "not": {"required": ["path"]}},
            "else": {"required": ["path"], "not": {"required": ["match"]}},
        }
