"""The exceptions of this package that are not plain :class:`OSError` or :class:`KeyError`."""

from __future__ import annotations


class FStatCacheError(Exception):
    """Base of the package's own exceptions."""


class CacheClosedError(FStatCacheError):
    """The cache was used after :meth:`FStatCache.close`."""
