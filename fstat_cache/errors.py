"""The exceptions of this package that are not plain :class:`OSError` or :class:`KeyError`."""

from __future__ import annotations


class FStatCacheError(Exception):
    """Base of the package's own exceptions.

    Args:
        message: what is wrong, in one line.
        path: the file concerned, if there is one.
        errno: the system's error number, if a system call was the cause.
    """

    def __init__(self, message: str, path: str | None = None, errno: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.errno = errno


class CacheClosedError(FStatCacheError):
    """The cache was used after :meth:`FStatCache.close`."""
