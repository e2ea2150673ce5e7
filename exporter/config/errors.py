"""Mistakes in a configuration file, each with its place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

MAX_MISTAKES = 1000
"""How many are listed. A file with more was generated, and its first mistakes show why."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a file or a flag.

    Attributes:
        source: file name or flag.
        text: the fault, and what was expected.
        key_path: the key, such as ``logs[0].paths``; "" without one.
        line, column: the place in the file, from 1; 0 without one.
    """

    source: str
    text: str
    key_path: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        return one_line(": ".join(part for part in (place, self.key_path, self.text) if part))


class ConfigError(Exception):
    """The configuration is not valid.

    Args:
        mistakes: all mistakes; the message has a line for each.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class Report:
    """Collects the mistakes in one file.

    Args:
        source: the name of the file.

    Attributes:
        first_lines: kind of section -> name of a section -> the line of the first one with this name.
        group_references: the names of groups that other sections refer to, each with its node and key path.
    """

    def __init__(self, source: str) -> None:
        self.first_lines: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.group_references: list[tuple[str, yaml.Node, str]] = []
        self._source = source
        self._mistakes: list[Mistake] = []
        self._spent = 0

    def __bool__(self) -> bool:
        """Whether there is a mistake."""
        return bool(self._mistakes)

    def wrong(self, node: yaml.Node, key_path: str, text: str) -> None:
        """Add a mistake at a value or a key."""
        self.wrong_at(node.start_mark.line + 1, node.start_mark.column + 1, text, key_path)

    def wrong_at(self, line: int, column: int, text: str, key_path: str = "") -> None:
        """Add a mistake at a place.

        Raises:
            ConfigError: there are more than MAX_MISTAKES.
        """
        if len(self._mistakes) == MAX_MISTAKES:
            self._mistakes.append(Mistake(self._source, f"more than {MAX_MISTAKES} mistakes, the rest is not listed"))
            raise self.error()
        self._mistakes.append(Mistake(self._source, text, key_path, line, column))

    def spend(self, amount: int, bound: int, what: str, node: yaml.Node, key_path: str) -> None:
        """Count items that take time to check.

        Args:
            amount: the number of further items.
            bound: the limit for one file.
            what: the name of the items.
            node, key_path: the place of the items.

        Raises:
            ConfigError: there are more than `bound`.
        """
        self._spent += amount
        if self._spent > bound:
            self.wrong(node, key_path, f"exceeds the limit of {bound} {what}")
            raise self.error()

    def name_once(self, what: str, name: str, node: yaml.Node, key_path: str) -> None:
        """Remember the name of a section, and report that another one of the same kind has it."""
        if line := self.first_lines[what].get(name):
            self.wrong(node, key_path, f"the {what} '{shortened(name)}' is defined twice, first in line {line}")
        self.first_lines[what].setdefault(name, node.start_mark.line + 1)

    def error(self) -> ConfigError:
        """Return the error with all mistakes, in the order of the file."""
        return ConfigError(sorted(self._mistakes, key=lambda mistake: (mistake.line or 1 << 30, mistake.column)))


def shortened(text: str, length: int = 100) -> str:
    """Return a text of the user, cut to the length of a message."""
    return text if len(text) <= length else text[:length] + "..."


def one_line(text: str) -> str:
    """Return a text with line ends and control characters escaped."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
