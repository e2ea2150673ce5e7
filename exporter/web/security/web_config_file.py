"""The web configuration as of now: read again when it or a file that it names has changed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from exporter.config.errors import ConfigError, Mistake
from exporter.ops.log import fields
from exporter.web.security.web_config import WebConfig, WebConfigReader

_log = logging.getLogger(__name__)

_SETTLED_NS = 100_000_000  # the clock of files is coarse: what was changed just now may change again unseen

_State = dict[str, tuple[int, ...]]


class WebConfigFile:
    """Looks at the files, by `os.stat`, whenever it is asked; so it costs nothing while nobody asks.

    A new version that is not valid, or can not be read, is told once, and the one before stays in force. To be used
    from one thread, but for `collect`.

    Args:
        path: the file; None for an empty configuration.

    Raises:
        ConfigError: it is not valid now.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._current = WebConfig()
        self._fingerprint = b""
        self._state: _State = {}
        self._is_settled = path is None
        self._told = ""
        if path is not None:
            reader = WebConfigReader(path)
            self._current = reader.read()
            self._fingerprint = reader.fingerprint
            self._remember(reader.files)

    def current(self) -> WebConfig:
        """Return what is in force now."""
        if self._path is not None and not (self._is_settled and _look(self._state) == self._state):
            self._read(self._path)
        return self._current

    def tell_warnings(self) -> None:
        """Log what is in the file and has not the effect that its author may expect."""
        for warning in self._current.warnings:
            _log.warning(warning, extra=fields(file=self._path))

    def collect(self) -> Iterable[Metric]:
        """Return whether the latest version is in force."""
        text = "Whether the web configuration and the files that it names could be used when they were read last."
        return [GaugeMetricFamily("fstat_exporter_web_config_last_reload_successful", text, not self._told)]

    def _read(self, path: str) -> None:
        before = _look(self._state)
        reader = WebConfigReader(path)
        try:
            config = reader.read()
            if reader.is_blank and self._fingerprint != reader.fingerprint:
                raise ConfigError([Mistake(path, "is empty now, expected a configuration; {} is one without any key")])
        except ConfigError as error:
            self._remember((*reader.files, *before), before)
            told, self._told = self._told, str(error)
            if self._told != told:
                what = "the web configuration can not be used, the one before stays in force"
                _log.error(what, extra=fields(error=self._told))
            return
        self._remember(reader.files, before)
        if reader.fingerprint != self._fingerprint:
            self._current, self._fingerprint = config, reader.fingerprint
            is_tls = "yes" if config.tls is not None else "no"
            _log.info("web configuration read again", extra=fields(tls=is_tls, users=len(config.users)))
            self.tell_warnings()
        elif self._told:
            _log.info("the web configuration is as before again")
        self._told = ""

    def _remember(self, files: Iterable[str], before: _State | None = None) -> None:
        """Take the state of the files that have been read just now.

        It is not settled when one of them changed meanwhile, or so lately that the next change may bear the same time.
        """
        self._state = _look(files)
        changed = any(file in self._state and self._state[file] != state for file, state in (before or {}).items())
        newest_ns = max((state[-1] for state in self._state.values() if state), default=0)
        self._is_settled = not changed and time.time_ns() - newest_ns > _SETTLED_NS


def _look(files: Iterable[str]) -> _State:
    return {file: _state_of(file) for file in files}


def _state_of(file: str) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
