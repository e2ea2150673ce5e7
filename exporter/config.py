"""The configuration: YAML text to frozen values, or every mistake in it at once.

The text is only composed to nodes, never constructed: nodes know their line and column, a key that comes twice is still
there, and no alias is expanded.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import yaml

from exporter import patterns
from exporter.presets import PRESETS

T = TypeVar("T")

MAX_FILE_BYTES = 1 << 20
_MAX_NODES = 100_000
_MAX_INTEGER_DIGITS = 12

FILE_METRICS = ("size", "mtime", "changes", "appended_bytes", "truncations", "rotations")
"""What can be published of each file."""
DEFAULT_FILE_METRICS = frozenset(FILE_METRICS[:4])

_GROUP_KEYS = (
    "group",
    "preset",
    "paths",
    "exclude",
    "labels",
    "path_regex",
    "aggregate_by",
    "per_file",
    "max_series",
    "metrics",
)
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
_DURATION_UNITS_S = (7 * 86400, 86400, 3600, 60, 1, 0.001)
_TELEMETRY_PATH = re.compile(r"/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING, _INTEGER, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:null"
_BOOLEAN, _LIST = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:seq"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake of the user's.

    Attributes:
        source: file name or flag.
        text: what is wrong, and what was expected.
        key_path: where in the configuration, such as ``logs[0].paths``; "" when it concerns no key.
        line, column: where in the file, from 1; 0 when it concerns no place.
    """

    source: str
    text: str
    key_path: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        return ": ".join(part for part in (place, self.key_path, self.text) if part)


class ConfigError(Exception):
    """The configuration can not be used.

    Args:
        mistakes: all of them, one line each.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. `host` is "" for all addresses; `port` 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The section ``cache``.

    Attributes:
        max_files: how many files are cached at most.
        cpu_budget: share of one core that following changes may take between scrapes.
        audit_interval_s: how long the audit may pause when nobody scrapes.
    """

    max_files: int = 100_000
    cpu_budget: float = 0.01
    audit_interval_s: float = 300


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The section ``web``."""

    listen_address: ListenAddress = ListenAddress("", 10943)
    telemetry_path: str = "/metrics"


@dataclass(frozen=True, slots=True)
class StateConfig:
    """The section ``state``. `path`, absolute, is the file in which the counters outlive the agent, or None."""

    path: str | None = None


@dataclass(frozen=True, slots=True)
class LogGroup:
    """One element of ``logs``, its patterns known to be valid.

    Attributes:
        group: its name, the label ``group``.
        paths: patterns of its files.
        exclude: patterns of what is left out.
        labels: static labels.
        path_regex: gives labels by its named groups.
        aggregate_by: the labels for each of whose values the files are added up; () for no aggregates.
        per_file: whether each file has series of its own.
        max_series: how many files have series of their own at most, and how many aggregates; None for no bound.
        metrics: which of FILE_METRICS the series of a file are.
    """

    group: str
    paths: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    path_regex: re.Pattern[str] | None = None
    aggregate_by: tuple[str, ...] = ()
    per_file: bool = True
    max_series: int | None = None
    metrics: frozenset[str] = DEFAULT_FILE_METRICS


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the agent is told.

    Attributes:
        logs, cache, state, web: the sections.
        rescan_interval_s: how often to look for files whose events were missed.
        stale_grace_s: how long the series of a file that is gone stay; two scrapes if that is later.
    """

    logs: tuple[LogGroup, ...]
    cache: CacheConfig = CacheConfig()
    state: StateConfig = StateConfig()
    web: WebConfig = WebConfig()
    rescan_interval_s: float = 300
    stale_grace_s: float = 60


def load(path: str | Path) -> Config:
    """Read and check a configuration file.

    Args:
        path: the file, at most 1 MiB of YAML in UTF-8.

    Raises:
        ConfigError: it can not be read or is not valid.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([Mistake(str(path), f"can not be read: {error.strerror}")]) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([Mistake(str(path), "is larger than 1 MiB, so it is no configuration of this program")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(content[: error.start].decode("utf-8", "replace"))
        raise ConfigError([Mistake(str(path), "not UTF-8", line=line, column=column)]) from None
    return parse(text, str(path))


def parse(text: str, file: str) -> Config:
    """Check a configuration.

    Args:
        text: YAML.
        file: its name, for the messages.

    Raises:
        ConfigError: it is not valid; carries every mistake.
    """
    return _Reader(file).read(text)


def from_patterns(texts: Sequence[str], directory: str) -> Config:
    """Return the configuration that patterns on the command line mean: one group named ``default``.

    Args:
        texts: the patterns; a relative one is taken from `directory`.
        directory: an absolute path without symbolic links, as `os.getcwd` gives it.

    Raises:
        ConfigError: a pattern is not valid.
    """
    absolute = []
    mistakes = []
    for text in texts:
        rooted = _rooted(text, directory)
        absolute.append(rooted)
        try:
            patterns.compile_include(rooted)
        except patterns.PatternError as error:
            mistakes.append(Mistake(f"pattern {_short(text)!r}", str(error)))
    if mistakes:
        raise ConfigError(mistakes)
    return Config(logs=(LogGroup("default", tuple(absolute)),))


def parse_listen_address(text: str) -> ListenAddress:
    """Parse ``host:port``, ``[IPv6 address]:port``, or ``:port`` for all addresses.

    Raises:
        ValueError: it is none of these; the message says what was expected.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or re.search(r"[\s/\[\]\0]", host):
        raise ValueError(f"{text!r} is no address, expected host:port, [IPv6 address]:port or :port")
    return ListenAddress(host, int(port))


def parse_telemetry_path(text: str) -> str:
    """Check the path of the metrics.

    Raises:
        ValueError: it can not be used; the message says what was expected.
    """
    if not _TELEMETRY_PATH.fullmatch(text) or text.startswith("/-/"):
        raise ValueError(f"{text!r} can not be used, expected a path such as /metrics, not below /-/")
    if not {"", ".", ".."}.isdisjoint(text[1:].split("/")):
        raise ValueError(
            f"{text!r} has '//', '/./' or '/../' in it, which clients leave out; write the path that is meant"
        )
    return text


def parse_state_path(text: str) -> str:
    """Check the path of the state file.

    Raises:
        ValueError: it can not be used; the message says what was expected.
    """
    if not text.startswith("/") or os.path.basename(text) in ("", ".", "..") or "\0" in text:
        raise ValueError(
            f"{text!r} can not be used, expected the absolute path of a file such as /var/lib/fstat-exporter/state.db"
        )
    return text


def parse_duration(text: str) -> float:
    """Parse a duration as Prometheus writes it, ``1h30m`` or ``250ms``, to seconds.

    Raises:
        ValueError: it is not one; the message says what was expected.
    """
    found = _DURATION.fullmatch(text)
    if not text or found is None or len(text) > 30:
        raise ValueError(f"{text!r} is no duration, expected one such as 30s, 5m or 1h30m")
    return sum(int(count) * unit_s for count, unit_s in zip(found.groups("0"), _DURATION_UNITS_S, strict=True))


def parse_percentage(text: str) -> float:
    """Parse a percentage above 0 and at most 100, ``1%`` or ``0.5%``, to a share.

    Raises:
        ValueError: it is not one; the message says what was expected.
    """
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%", text) or not 0 < float(text[:-1]) <= 100:
        raise ValueError(f"{text!r} is no percentage, expected one above 0% and at most 100%, such as 1%")
    return float(text[:-1]) / 100


def _rooted(text: str, directory: str) -> str:
    if not text or text.startswith("/"):
        return text
    while (step := text.partition("/")) and step[1] and step[0] in (".", ".."):
        directory = os.path.dirname(directory) if step[0] == ".." else directory
        text = step[2].lstrip("/")
    return patterns.escape(directory.rstrip("/")) + "/" + text


def _position(text_before: str) -> tuple[int, int]:
    return text_before.count("\n") + 1, len(text_before) - (text_before.rfind("\n") + 1) + 1


class _Reader:
    """Reads one file. Each method for a value returns None after it has noted a mistake."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._mistakes: list[Mistake] = []

    def read(self, text: str) -> Config:
        root = self._compose(text)
        config = self._config(root) if root is not None else None
        if self._mistakes or config is None:
            raise ConfigError(sorted(self._mistakes, key=lambda mistake: (mistake.line, mistake.column)))
        return config

    # YAML

    def _compose(self, text: str) -> yaml.Node | None:
        if "\0" in text:  # the parser would take it for the end
            line, column = _position(text[: text.index("\0")])
            self._mistakes.append(Mistake(self._file, "not YAML: a NUL character", line=line, column=column))
            return None
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            what = ", ".join(part for part in (error.context, error.problem) if part)
            self._mistakes.append(Mistake(self._file, f"not YAML: {what}", line=line, column=column))
            return None
        except yaml.reader.ReaderError as error:
            line, column = _position(text[: error.position])
            what = f"not YAML: the character U+{error.character:04X} is not allowed"
            self._mistakes.append(Mistake(self._file, what, line=line, column=column))
            return None
        except RecursionError:
            self._mistakes.append(Mistake(self._file, "nested too deeply", line=1, column=1))
            return None
        if root is None:
            self._mistakes.append(Mistake(self._file, "is empty, expected at least the key 'logs'"))
        elif not self._is_small(root):
            return None
        return root

    def _is_small(self, root: yaml.Node) -> bool:
        """Refuse what aliases blow up, and a node that contains itself. Looks at each node once, as written."""
        sizes: dict[int, int] = {}
        open_nodes: set[int] = set()
        stack = [(root, False)]
        while stack:
            node, done = stack.pop()
            children = _children(node)
            if done:
                open_nodes.discard(id(node))
                sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
                if sizes[id(node)] > _MAX_NODES:
                    self._wrong(node, "", f"more than {_MAX_NODES} values (aliases expanded)")
                    return False
            elif id(node) in open_nodes:
                self._wrong(node, "", "an alias in it refers to itself")
                return False
            elif id(node) not in sizes:
                open_nodes.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child in children)
        return True

    # Kinds of values

    def _wrong(self, node: yaml.Node, key_path: str, text: str) -> None:
        mark = node.start_mark
        self._mistakes.append(Mistake(self._file, text, key_path, mark.line + 1, mark.column + 1))

    def _mapping(self, node: yaml.Node, key_path: str) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]] | None:
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, key_path, f"expected a mapping, found {_kind(node)}")
            return None
        found: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._wrong(key_node, key_path, f"expected a key, found {_kind(key_node)}")
            elif key_node.value in found:
                first = found[key_node.value][0].start_mark
                self._wrong(
                    key_node, _join(key_path, key_node.value), f"the key is there twice, first in line {first.line + 1}"
                )
            else:
                found[key_node.value] = key_node, value_node
        return found

    def _section(self, node: yaml.Node, key_path: str, known: Sequence[str]) -> dict[str, yaml.Node] | None:
        entries = self._mapping(node, key_path)
        if entries is None:
            return None
        for name, (key_node, _) in entries.items():
            if name not in known:
                self._wrong(key_node, _join(key_path, name), f"unknown key, {_hint(name, known)}")
        return {name: value for name, (_, value) in entries.items() if name in known}

    def _list(self, node: yaml.Node, key_path: str, what: str) -> list[yaml.Node] | None:
        if not isinstance(node, yaml.SequenceNode):
            self._wrong(node, key_path, f"expected a list of {what}, found {_kind(node)}")
            return None
        return list(node.value)

    def _string(self, node: yaml.Node, key_path: str, what: str = "a string") -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _STRING:
            hint = ""
            if isinstance(node, yaml.ScalarNode) and what == "a string" and node.tag != _NULL:
                hint = f"; put it in quotes: '{node.value}'"
            self._wrong(node, key_path, f"expected {what}, found {_kind(node)}{hint}")
            return None
        if _SURROGATE.search(node.value):
            self._wrong(node, key_path, "a surrogate is no character, expected text")
            return None
        return str(node.value)

    def _nonempty(self, node: yaml.Node, key_path: str) -> str | None:
        text = self._string(node, key_path)
        if text == "":
            self._wrong(node, key_path, "is empty, expected some text")
            return None
        return text

    def _names(self, node: yaml.Node, key_path: str, what: str) -> list[tuple[yaml.Node, str, str]]:
        """Return the strings of a list, each with its node and its key path."""
        found: list[tuple[yaml.Node, str, str]] = []
        seen: set[str] = set()
        for number, element in enumerate(self._list(node, key_path, what) or ()):
            element_path = f"{key_path}[{number}]"
            name = self._string(element, element_path)
            if name is None:
                continue
            if name in seen:
                self._wrong(element, element_path, f"'{_short(name)}' is there twice")
            seen.add(name)
            found.append((element, element_path, name))
        return found

    def _whole_number(self, node: yaml.Node, key_path: str, what: str) -> int | None:
        number = node.value if isinstance(node, yaml.ScalarNode) and node.tag == _INTEGER else ""
        digits = number.replace("_", "")
        if not re.fullmatch(r"[1-9][0-9]*(_[0-9]+)*", number) or len(digits) > _MAX_INTEGER_DIGITS:
            self._wrong(node, key_path, f"expected a whole number of {what}, 1 or more, found {_kind(node)}")
            return None
        return int(digits)

    def _boolean(self, node: yaml.Node, key_path: str) -> bool | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == _BOOLEAN:
            value = yaml.SafeLoader.bool_values.get(node.value.lower())
            if value is not None:
                return value
        self._wrong(node, key_path, f"expected true or false, found {_kind(node)}")
        return None

    def _parsed(self, node: yaml.Node, key_path: str, parser: Callable[[str], T], what: str) -> T | None:
        text = self._string(node, key_path, what)
        if text is None:
            return None
        try:
            return parser(text)
        except ValueError as error:
            self._wrong(node, key_path, str(error))
            return None

    # Sections

    def _config(self, root: yaml.Node) -> Config | None:
        entries = self._section(root, "", ("cache", "state", "stale_grace", "rescan_interval", "web", "logs"))
        if entries is None:
            return None
        config = Config(logs=())
        if "cache" in entries:
            config = replace(config, cache=self._cache(entries["cache"]))
        if "state" in entries:
            config = replace(config, state=self._state(entries["state"]))
        if "stale_grace" in entries:
            grace_s = self._interval(entries["stale_grace"], "stale_grace", or_zero=True)
            config = replace(config, stale_grace_s=grace_s or 0)
        if "web" in entries:
            config = replace(config, web=self._web(entries["web"]))
        if "rescan_interval" in entries:
            interval_s = self._interval(entries["rescan_interval"], "rescan_interval")
            config = replace(config, rescan_interval_s=interval_s or config.rescan_interval_s)
        if "logs" not in entries:
            self._wrong(root, "logs", "the key is missing, expected a list of groups")
            return None
        return replace(config, logs=self._logs(entries["logs"]))

    def _interval(self, node: yaml.Node, key_path: str, *, or_zero: bool = False) -> float | None:
        interval_s = self._parsed(node, key_path, parse_duration, "a duration such as 30s, 5m or 1h30m")
        if interval_s is None or 1 <= interval_s <= 365 * 86400 or (or_zero and interval_s == 0):
            return interval_s
        expected = "0s, or 1s to 365d" if or_zero else "1s to 365d"
        self._wrong(node, key_path, f"{node.value} is out of range, expected {expected}")
        return None

    def _cache(self, node: yaml.Node) -> CacheConfig:
        config = CacheConfig()
        entries = self._section(node, "cache", ("max_files", "cpu_budget", "audit_interval")) or {}
        if "max_files" in entries:
            max_files = self._whole_number(entries["max_files"], "cache.max_files", "files")
            config = replace(config, max_files=max_files or config.max_files)
        if "cpu_budget" in entries:
            node = entries["cpu_budget"]
            budget = self._parsed(node, "cache.cpu_budget", parse_percentage, "a percentage such as 1%")
            config = replace(config, cpu_budget=budget or config.cpu_budget)
        if "audit_interval" in entries:
            interval_s = self._interval(entries["audit_interval"], "cache.audit_interval")
            config = replace(config, audit_interval_s=interval_s or config.audit_interval_s)
        return config

    def _state(self, node: yaml.Node) -> StateConfig:
        entries = self._section(node, "state", ("path",)) or {}
        if "path" not in entries:
            return StateConfig()
        return StateConfig(self._parsed(entries["path"], "state.path", parse_state_path, "the absolute path of a file"))

    def _web(self, node: yaml.Node) -> WebConfig:
        config = WebConfig()
        entries = self._section(node, "web", ("listen_address", "telemetry_path")) or {}
        if "listen_address" in entries:
            what = "host:port, [IPv6 address]:port or :port in quotes"
            address = self._parsed(entries["listen_address"], "web.listen_address", parse_listen_address, what)
            config = replace(config, listen_address=address or config.listen_address)
        if "telemetry_path" in entries:
            what = "a path such as /metrics"
            path = self._parsed(entries["telemetry_path"], "web.telemetry_path", parse_telemetry_path, what)
            config = replace(config, telemetry_path=path or config.telemetry_path)
        return config

    def _logs(self, node: yaml.Node) -> tuple[LogGroup, ...]:
        elements = self._list(node, "logs", "groups")
        if elements is None:
            return ()
        if not elements:
            self._wrong(node, "logs", "is empty, expected at least one group")
        groups: list[LogGroup] = []
        first_lines: dict[str, int] = {}
        for number, element in enumerate(elements):
            self._log_group(element, f"logs[{number}]", groups, first_lines)
        return tuple(groups)

    def _log_group(self, node: yaml.Node, key_path: str, groups: list[LogGroup], first_lines: dict[str, int]) -> None:
        entries = self._section(node, key_path, _GROUP_KEYS)
        if entries is None:
            return
        preset = self._preset(entries["preset"], f"{key_path}.preset") if "preset" in entries else {}
        entries = {**(preset or {}), **entries}
        for name in ("group", "paths"):
            if name not in entries and preset is not None:
                self._wrong(node, _join(key_path, name), "the key is missing")
        group = self._nonempty(entries["group"], f"{key_path}.group") if "group" in entries else None
        if group is not None:
            if group in first_lines:
                what = f"the group '{group}' is there twice, first in line {first_lines[group]}"
                self._wrong(entries["group"], f"{key_path}.group", what)
            first_lines.setdefault(group, entries["group"].start_mark.line + 1)
        paths = self._patterns(entries, key_path, "paths", patterns.compile_include)
        if "paths" in entries and isinstance(entries["paths"], yaml.SequenceNode) and not entries["paths"].value:
            self._wrong(entries["paths"], f"{key_path}.paths", "is empty, expected at least one pattern")
        exclude = self._patterns(entries, key_path, "exclude", patterns.compile_exclude)
        made = LogGroup(group or "", paths, exclude)
        made = self._with_labels(made, entries, key_path, is_complete=preset is not None)
        groups.append(self._with_series(made, entries, key_path))

    def _preset(self, node: yaml.Node, key_path: str) -> dict[str, yaml.Node] | None:
        """Return the keys that the preset stands for, as if they were written where it is named."""
        name = self._string(node, key_path, "the name of a preset")
        if name is None:
            return None
        if name not in PRESETS:
            self._wrong(node, key_path, f"unknown preset '{_short(name)}', {_hint(name, PRESETS)}")
            return None
        return {key: _written(value, node.start_mark) for key, value in PRESETS[name].items()}

    def _with_labels(
        self, group: LogGroup, entries: Mapping[str, yaml.Node], key_path: str, *, is_complete: bool
    ) -> LogGroup:
        mistakes = len(self._mistakes)
        if "labels" in entries:
            group = replace(group, labels=self._labels(entries["labels"], f"{key_path}.labels"))
        if "path_regex" in entries:
            regex = self._path_regex(entries["path_regex"], f"{key_path}.path_regex", group.labels)
            group = replace(group, path_regex=regex)
        if "aggregate_by" in entries:
            names = (*group.labels, *(group.path_regex.groupindex if group.path_regex is not None else ()))
            known = names if is_complete and len(self._mistakes) == mistakes else None
            aggregate_by = self._aggregate_by(entries["aggregate_by"], f"{key_path}.aggregate_by", known)
            group = replace(group, aggregate_by=aggregate_by)
        return group

    def _aggregate_by(self, node: yaml.Node, key_path: str, known: Sequence[str] | None) -> tuple[str, ...]:
        """Read names of labels: of those that are known, or any when a mistake hides which ones there are."""
        names = self._names(node, key_path, "labels")
        for element, element_path, name in names:
            if name == "group":
                self._wrong(
                    element, element_path, "every aggregate has the label 'group' already, expected another one"
                )
            elif name == "path":
                what = "every file has a 'path' of its own, so there is nothing to add up, expected another label"
                self._wrong(element, element_path, what)
            elif known is not None and name not in known:
                hint = _hint(name, known) if known else "the group has none, expected it in 'labels' or 'path_regex'"
                self._wrong(element, element_path, f"unknown label '{_short(name)}', {hint}")
        return tuple(name for _, _, name in names)

    def _with_series(self, group: LogGroup, entries: Mapping[str, yaml.Node], key_path: str) -> LogGroup:
        if "per_file" in entries:
            per_file = self._boolean(entries["per_file"], f"{key_path}.per_file")
            group = replace(group, per_file=per_file is not False)
        if "max_series" in entries:
            group = replace(
                group, max_series=self._whole_number(entries["max_series"], f"{key_path}.max_series", "series")
            )
        if "metrics" in entries:
            group = replace(group, metrics=self._metrics(entries["metrics"], f"{key_path}.metrics"))
        if "metrics" in entries and not group.per_file:
            what = "is about the series of single files, and with 'per_file: false' there are none"
            self._wrong(entries["metrics"], f"{key_path}.metrics", what)
        return group

    def _metrics(self, node: yaml.Node, key_path: str) -> frozenset[str]:
        if isinstance(node, yaml.SequenceNode) and not node.value:
            what = "is empty, expected at least one metric; for no series of single files there is 'per_file: false'"
            self._wrong(node, key_path, what)
        names = self._names(node, key_path, "metrics")
        for element, element_path, name in names:
            if name not in FILE_METRICS:
                self._wrong(element, element_path, f"unknown metric '{_short(name)}', {_hint(name, FILE_METRICS)}")
        return frozenset(name for _, _, name in names)

    def _patterns(
        self, entries: Mapping[str, yaml.Node], parent: str, name: str, compiler: Callable[[str], object]
    ) -> tuple[str, ...]:
        found: list[str] = []
        if name not in entries:
            return ()
        for number, node in enumerate(self._list(entries[name], f"{parent}.{name}", "patterns") or ()):
            key_path = f"{parent}.{name}[{number}]"
            text = self._string(node, key_path)
            if text is None:
                continue
            try:
                compiler(text)
            except patterns.PatternError as error:
                self._wrong(node, key_path, f"bad pattern '{_short(text)}': {error}" if text else str(error))
            else:
                found.append(text)
        return tuple(found)

    def _labels(self, node: yaml.Node, key_path: str) -> dict[str, str]:
        labels: dict[str, str] = {}
        for name, (key_node, value_node) in (self._mapping(node, key_path) or {}).items():
            if complaint := _label_complaint(name):
                self._wrong(key_node, _join(key_path, name), complaint)
            value = self._string(value_node, _join(key_path, name))
            labels[name] = value or ""
        return labels

    def _path_regex(self, node: yaml.Node, key_path: str, labels: Mapping[str, str]) -> re.Pattern[str] | None:
        text = self._nonempty(node, key_path)
        if text is None:
            return None
        try:
            with warnings.catch_warnings(action="ignore"):
                regex = re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            what = str(error) or "too deeply nested"
            self._wrong(node, key_path, f"bad regular expression: {what}")
            return None
        if not regex.groupindex:
            self._wrong(node, key_path, "no named group in it, expected at least one (?P<label>...)")
        for name in regex.groupindex:
            if complaint := _label_complaint(name):
                self._wrong(node, key_path, complaint)
            elif name in labels:
                self._wrong(node, key_path, f"the label '{name}' is in 'labels' already, expected it in one place only")
        return regex


def _written(value: str | tuple[str, ...], mark: yaml.Mark) -> yaml.Node:
    """The node of a value that is not in the file, as if it were at the mark."""
    if isinstance(value, str):
        return yaml.ScalarNode(_STRING, value, mark)
    return yaml.SequenceNode(_LIST, [_written(element, mark) for element in value], mark)


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"expected one of: {', '.join(known)}"


def _label_complaint(name: str) -> str:
    if not _LABEL_NAME.fullmatch(name):
        return f"'{name}' is no label name, expected letters, digits and '_', not a digit first"
    if name in ("group", "path") or name.startswith("__"):
        return f"the label name '{name}' is reserved, expected another one"
    return ""


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []


def _kind(node: yaml.Node) -> str:
    """What a value is, in the user's words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag == _NULL:
        return "nothing"
    short = _short(node.value, 40)
    if node.tag == _STRING:
        return f"the string {short!r}"
    if node.tag.startswith("tag:yaml.org,2002:"):
        return f"{short} ({node.tag.rpartition(':')[2]})"
    return f"{short!r} with the tag {node.tag}"


def _short(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[:length] + "..."


def _join(key_path: str, name: str) -> str:
    shown = name if re.fullmatch(r"[\w.-]{1,60}", name) else repr(name[:60])
    return f"{key_path}.{shown}" if key_path else shown
