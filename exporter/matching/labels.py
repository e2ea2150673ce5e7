"""Which labels a file gets: those of its group, and those that a path expression finds in its path."""

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
        text: a path or a part of it as :mod:`os` gives it (undecodable bytes as lone surrogates, PEP 383).

    Returns:
        `text` itself as a rule. When it holds undecodable bytes, these become ``\xNN`` and every backslash is doubled.
        When it holds none but looks as if it had been escaped so, its backslashes are doubled too: a name never shares
        its label with another one, whichever of the two exist.
    """
    if text.isascii() and "\\" not in text:
        return text  # as nearly every text is, and this takes a tenth of the time
    if _UNDECODABLE.search(text):
        text = text.replace("\\", "\\\\")
        return _UNDECODABLE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    if _LOOKS_ESCAPED.search(text):
        return text.replace("\\", "\\\\")
    return text


@dataclass(frozen=True, slots=True)
class LabelRule:
    """How the files of one group get their labels.

    Attributes:
        group: value of the label ``group``.
        labels: static labels.
        path_regex: its named groups are labels; searched for in the path as :mod:`os` gives it.
    """

    group: str
    labels: Mapping[str, str]
    path_regex: re.Pattern[str] | None


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
        rules: one each group, in the order of the groups' numbers.

    Attributes:
        names: the label names of every file series: ``group``, ``path``, then those of all groups. A family's series
            all have the same names; a label that a group does not have is empty.
    """

    def __init__(self, rules: Sequence[LabelRule]) -> None:
        named = [rule.path_regex.groupindex if rule.path_regex is not None else {} for rule in rules]
        own = {name for rule, groups in zip(rules, named, strict=True) for name in (*rule.labels, *groups)}
        self.names: tuple[str, ...] = ("group", "path", *sorted(own))
        # The values that all files of a group have in common, the expression, and where its named groups go.
        self._rules = [
            (
                (rule.group, "", *(rule.labels.get(name, "") for name in self.names[2:])),
                rule.path_regex,
                [(self.names.index(name), name) for name in groups],
            )
            for rule, groups in zip(rules, named, strict=True)
        ]

    def positions(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return where in `names`, and so in the values of each file, the labels of these names are."""
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
