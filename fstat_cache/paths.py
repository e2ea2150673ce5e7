"""The symlink resolver: every place over which a path leads."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

MOST_LINKS = 40
"""How many symbolic links the kernel follows in one path, path_resolution(7)."""


class Walk:
    """Resolves a path as the kernel does, one place at a time (path_resolution(7)).

    Iterating gives each place before anything reads it: a caller that stops there has not touched it. A caller that
    goes on calls :meth:`follow` at each place first; otherwise the walk takes the place for a directory.

    Args:
        path: what to resolve; if relative, from `start`.
        start: a directory that is resolved already; by default the root.
        root: beneath which absolute paths and targets are resolved, and above which ``..`` does not lead.

    Attributes:
        here: the place that the walk has reached, without a slash at its end: "" is the root of the machine. After
            the walk, what the path leads to. If that is a link, the kernel fails with ELOOP.
    """

    __slots__ = ("_ahead", "_links", "_root", "here")

    def __init__(self, path: str, *, start: str | None = None, root: str = "/") -> None:
        self._root = root.rstrip("/")
        self.here = self._root if start is None else start.rstrip("/")
        self._ahead: list[str] = []
        self._links = 0
        self._go_over(path)

    def __iter__(self) -> Iterator[str]:
        while self._ahead:
            name = self._ahead.pop()
            if name != "..":
                self.here = f"{self.here}/{name}"
                yield self.here
            elif self.here != self._root:
                self.here = self.here.rpartition("/")[0]

    @property
    def is_last(self) -> bool:
        """Whether no name is left behind this place; if it is a link, its target may add some."""
        return not self._ahead

    def follow(self, readlink: Callable[[str], str | None]) -> str | None:
        """Go on from the target of this place, if it is a symbolic link.

        Args:
            readlink: :func:`os.readlink`, or a function that returns None for what is no link. Any OSError but EINVAL
                (no link) ends the walk: nothing is there, or nobody may see it.

        Returns:
            The target, or None. One link more than the kernel follows is given, and ends the walk.
        """
        try:
            target = readlink(self.here)
        except OSError as error:
            if error.errno != errno.EINVAL:
                self._ahead.clear()
            return None
        if target is not None:
            self._links += 1
            if self._links > MOST_LINKS:
                self._ahead.clear()
            else:
                self.here = self.here.rpartition("/")[0]
                self._go_over(target)
        return target

    def _go_over(self, path: str) -> None:
        if path.startswith("/"):
            self.here = self._root
        self._ahead += [name for name in reversed(path.split("/")) if name not in ("", ".")]
