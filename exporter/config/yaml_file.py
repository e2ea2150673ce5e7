"""Reads a YAML file to nodes, bounded in size, depth and time; reports what is not YAML.

The text is only composed to nodes, never constructed: nodes know their line and column, keep duplicate keys, and
expand no alias.
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
import select
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from exporter.config.errors import ConfigError, Mistake, Report, shortened

Loader = type[yaml.SafeLoader] | type[yaml.CSafeLoader]
LOADER: Loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
"""The parser: with libyaml it is twenty times as fast."""

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000
_DEADLINE_S = 3  # for a pipe without a writer

_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NOT_IN_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# The errors of libyaml and of PyYAML, which differ, and our messages. {line}: where the element begins that is faulty;
# {character}: the one at the place of the mistake; {name}: of the alias or anchor.
_MEANINGS = (
    (r"quoted scalar, found unexpected end of stream", "this quotation mark is never closed"),
    (r"unknown escape", "unknown escape; in 'single quotes' a backslash is only a backslash"),
    (r"invalid Unicode character escape", "no character has this number"),
    (r"directive|incompatible", "'%' begins a directive of YAML, expected none or '%YAML 1.1'"),
    (r"scanning an alias", "'*' begins the name of an alias; put a pattern in quotes"),
    (r"undefined alias", "there is no anchor '{name}' for this alias; put a pattern in quotes"),
    (r"duplicate anchor", "the anchor '{name}' is defined twice"),
    (r"start any token.*\t$|found a tab", "a tab, expected spaces: YAML does not allow tabs in the indentation"),
    (r"start any token", "a text cannot begin with '{character}', put it in quotes"),
    (
        r"mapping values are not allowed",
        "a ':' is not allowed here; put a text that contains ': ' in quotes, or add a missing ':' before",
    ),
    (r"could not find expected ':'", "expected a ':' after the key"),
    (
        r"block (collection|sequence)",
        "expected '- ' as in the list from line {line} on; check the indentation and the quotes",
    ),
    (
        r"block mapping",
        "expected a key as in the mapping from line {line} on; check the indentation and the quotes",
    ),
    (r"expected ',' or '\]'", "expected ',' or ']' in the list that begins in line {line}"),
    (r"expected ',' or '\}'", "expected ',' or '}}' in the mapping that begins in line {line}"),
    (r"document start", "unexpected text after the end of the value"),
    (r"flow node", "expected a value, found {found}"),
)


def read_text(path: str | Path) -> str:
    """Read a file.

    Args:
        path: at most 1 MiB of UTF-8, with or without a byte order mark. May be a pipe.

    Raises:
        ConfigError: the file cannot be read, or is not text.
    """
    try:
        content = _read(path)
    except OSError as error:
        what = "is a directory, expected a file" if isinstance(error, IsADirectoryError) else error.strerror
        raise ConfigError([Mistake(str(path), f"cannot be read: {what}")]) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([Mistake(str(path), "is larger than 1 MiB, expected a configuration of fstat-exporter")])
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError([Mistake(str(path), "not UTF-8 but UTF-16; save the file as UTF-8", line=1, column=1)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(content[: error.start].decode("utf-8-sig", "replace"))
        what = f"not UTF-8: the byte 0x{content[error.start]:02X}; save the file as UTF-8"
        raise ConfigError([Mistake(str(path), what, line=line, column=column)]) from None


def compose(text: str, source: str, loader: Loader = LOADER) -> yaml.Node | None:
    """Return the root of the only document, or None if it is empty.

    Args:
        text: YAML.
        source: the name of the file, for the messages.
        loader: the parser of PyYAML to use.

    Raises:
        ConfigError: the text is not YAML, or exceeds the limits of a configuration.
    """
    report = Report(source)
    if wrong := _NOT_IN_YAML.search(text):
        line, column = _position(text[: wrong.start()])
        report.wrong_at(line, column, f"not YAML: the character U+{ord(wrong[0]):04X} is not allowed")
        raise report.error()
    composer = _Composer(loader(text), report)
    try:
        root = composer.get_node() if composer.check_node() else None
        if composer.check_node():
            composer.refuse(composer.peek_event(), "a second document begins, expected only one")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        if mark is not None and "maximum nesting depth" in str(error.problem):
            # libyaml scans ahead and itself refuses a depth of 1000 (since PyYAML 6.0.4), perhaps before its first
            # event. The text before that place has the same events, among them the first one that is too deep.
            return compose(text[: mark.index], source, loader)
        _report_syntax(error, text, report)
        raise report.error() from None
    return root


def _read(path: str | Path) -> bytes:
    """Return the content, or its beginning if it is longer than a configuration may be."""
    until = time.monotonic() + _DEADLINE_S
    content = b""
    # Opening a pipe without a writer would block forever.
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        readable = select.poll()
        readable.register(file, select.POLLIN)
        while len(content) <= MAX_FILE_BYTES:
            if not readable.poll(max(0, until - time.monotonic()) * 1000):
                raise OSError(0, f"no data for {_DEADLINE_S} s")
            if not (some := file.read(MAX_FILE_BYTES + 1 - len(content))):
                break
            content += some
    return content


def _position(text_before: str) -> tuple[int, int]:
    """Return the line and the column after a text, from 1; lines end as in YAML."""
    *lines, last = _LINE_END.split(text_before)
    return len(lines) + 1, len(last) + 1


class _Composer(Composer, Resolver):
    """Makes nodes of a parser's events, within limits: PyYAML's composer in C recurses until the process crashes."""

    def __init__(self, parser: yaml.SafeLoader | yaml.CSafeLoader, report: Report) -> None:
        Composer.__init__(self)
        Resolver.__init__(self)
        self.check_event, self.get_event, self.peek_event = parser.check_event, parser.get_event, parser.peek_event
        self._report = report
        self._nodes = 0
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # of the nodes that are complete, aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        is_collection = isinstance(event, yaml.CollectionStartEvent)
        self._nodes += 1
        self._depth += is_collection
        if self._nodes > MAX_NODES:
            self.refuse(event, f"more than {MAX_NODES} values")
        if self._depth > MAX_DEPTH:
            self.refuse(event, f"nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        assert node is not None
        self._depth -= is_collection
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                self.refuse(node, "an alias in it refers to itself")
            return node
        children = itertools.chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        self._sizes[node] = 1 + sum(self._sizes[child] for child in children) if is_collection else 1
        if self._sizes[node] > MAX_NODES:
            self.refuse(node, f"more than {MAX_NODES} values (aliases expanded)")
        return node

    def refuse(self, at: Any, what: str) -> NoReturn:
        """Report a mistake at an event or a node, and raise."""
        self._report.wrong(at, "", what)
        raise self._report.error()


def _report_syntax(error: yaml.MarkedYAMLError, text: str, report: Report) -> None:
    mark = error.problem_mark or error.context_mark
    begin = error.context_mark or mark
    if mark is None or begin is None:
        report.wrong_at(1, 1, f"not YAML: {error}")
        return
    character = text[mark.index : mark.index + 1]
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    meanings = (meaning for words, meaning in _MEANINGS if re.search(words, problem + character))
    what = next(meanings, problem.replace("{", "{{").replace("}", "}}"))
    if "never closed" in what:
        mark = begin
    name = re.match(r"[*&]?([\w-]*)", text[mark.index :])
    what = what.format(
        line=begin.line + 1,
        character=character,
        name=shortened(name[1]) if name else "",
        found=f"'{character}'" if character else "the end of the file",
    )
    report.wrong_at(mark.line + 1, mark.column + 1, f"not YAML: {what}")
