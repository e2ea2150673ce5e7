"""What is wrong in a file of the user's: every mistake, with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

MAX_MISTAKES = 1000
"""How many are told. A file with more was made by a program, and its first mistakes say why."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")


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
        told = ": ".join(part for part in (place, self.key_path, self.text) if part)
        return one_line(told)


class ConfigError(Exception):
    """The configuration can not be used.

    Args:
        mistakes: all of them, one line each.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class Report:
    """Gathers the mistakes in one file.

    Args:
        source: its name.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._mistakes: list[Mistake] = []
        self._spent = 0
        self._first_lines: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._mistakes)

    def wrong(self, node: yaml.Node, key_path: str, text: str) -> None:
        """Note what is wrong with a value or a key."""
        self.wrong_at(node.start_mark.line + 1, node.start_mark.column + 1, text, key_path)

    def wrong_at(self, line: int, column: int, text: str, key_path: str = "") -> None:
        """Note what is wrong at a place.

        Raises:
            ConfigError: these are more than MAX_MISTAKES.
        """
        if len(self._mistakes) == MAX_MISTAKES:
            self._mistakes.append(Mistake(self._source, f"more than {MAX_MISTAKES} mistakes, the rest is not listed"))
            raise self.error()
        self._mistakes.append(Mistake(self._source, text, key_path, line, column))

    def spend(self, amount: int, bound: int, what: str, node: yaml.Node, key_path: str) -> None:
        """Count what takes time to check.

        Args:
            amount: how much more of it there is.
            bound: how much there may be in one file.
            what: it is.
            node, key_path: where it is.

        Raises:
            ConfigError: it is more than that.
        """
        self._spent += amount
        if self._spent > bound:
            self.wrong(node, key_path, f"exceeds the limit of {bound} {what}")
            raise self.error()

    def first_line(self, name: str, node: yaml.Node) -> int:
        """Return the line that had this name before, 0 if none had it, and remember the line of the first."""
        line = self._first_lines.get(name, 0)
        self._first_lines.setdefault(name, node.start_mark.line + 1)
        return line

    def error(self) -> ConfigError:
        """Return the error that tells all of them, in the order of the file."""
        return ConfigError(sorted(self._mistakes, key=lambda mistake: (mistake.line or 1 << 30, mistake.column)))


def shortened(text: str, length: int = 100) -> str:
    """Return a text of the user's at a length that a message can bear."""
    return text if len(text) <= length else text[:length] + "..."


def one_line(text: str) -> str:
    """Return a text without characters that would end the line, or that a terminal would obey."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
