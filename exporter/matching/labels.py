"""The labels of a file: those of its group, and those that ``path_regex`` finds in its path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_UNDECODABLE = re.compile("[\udc80-\udcff]")
_LOOKS_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")


def printable(text: str) -> str:
    r"""Return `text` as valid Unicode, different for every different `text`.

    Args:
        text: a path or a part of it as :mod:`os` returns it (undecodable bytes as lone surrogates, PEP 383).

    Returns:
        Nearly always `text` itself. Undecodable bytes become ``\xNN``, and then every backslash is doubled. A text that
        only looks escaped in this way gets its backslashes doubled too. So no two names share a label.
    """
    if text.isascii() and "\\" not in text:
        return text  # the most frequent case, in a tenth of the time
    if _UNDECODABLE.search(text):
        text = text.replace("\\", "\\\\")
        return _UNDECODABLE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    if _LOOKS_ESCAPED.search(text):
        return text.replace("\\", "\\\\")
    return text


@dataclass(frozen=True, slots=True)
class LabelRule:
    """The rule for the labels of one group's files.

    Attributes:
        group: value of the label ``group``.
        labels: static labels.
        path_regex: its named groups are labels; it is searched for in the path as :mod:`os` returns it.
    """

    group: str
    labels: Mapping[str, str]
    path_regex: re.Pattern[str] | None

    @property
    def group_labels(self) -> dict[str, str]:
        """The labels of the group's own series: ``group`` and the static ones that are not empty."""
        return {"group": self.group, **{name: value for name, value in self.labels.items() if value}}


class Labels(NamedTuple):
    """The labels of a file.

    Attributes:
        values: in the order of :attr:`Labeller.names`.
        is_unlabelled: whether the group has a `path_regex` and the path does not match it: its labels are empty.
    """

    values: tuple[str, ...]
    is_unlabelled: bool


class Labeller:
    """Gives each file its label values.

    Args:
        rules: one for each group, in the order of the groups' numbers.

    Attributes:
        names: the label names of every file series: ``group``, ``path``, then those of all groups. A label that a group
            does not have is empty.
    """

    def __init__(self, rules: Sequence[LabelRule]) -> None:
        named = [rule.path_regex.groupindex if rule.path_regex is not None else {} for rule in rules]
        own = {name for rule, groups in zip(rules, named, strict=True) for name in (*rule.labels, *groups)}
        self.names: tuple[str, ...] = ("group", "path", *sorted(own))
        # For each group: the values common to all its files, path_regex, and the positions of its named groups.
        self._rules = [
            (
                (rule.group, "", *(rule.labels.get(name, "") for name in self.names[2:])),
                rule.path_regex,
                [(self.names.index(name), name) for name in groups],
            )
            for rule, groups in zip(rules, named, strict=True)
        ]

    def positions(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the positions of these labels in :attr:`names`, and so in the values of each file."""
        return tuple(self.names.index(name) for name in names)

    def label(self, group: int, path: str) -> Labels:
        """Return the labels of a file.

        Args:
            group: the number of the file's group.
            path: the file's path.
        """
        constant, regex, places = self._rules[group]
        values = list(constant)
        values[1] = printable(path)
        match = None if regex is None else regex.search(path)
        if match is not None:
            for position, name in places:
                values[position] = printable(match[name] or "")
        return Labels(tuple(values), is_unlabelled=match is None and regex is not None)
