"""The current web configuration: read again when its file, or a file that it names, has changed."""

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

_SETTLED_NS = 100_000_000  # file times are coarse: two changes within this time may have the same time

_State = dict[str, tuple[int, ...]]


class WebConfigFile:
    """Stats the files at each call of :meth:`current`, and reads them again if they have changed.

    A new version that is not valid, or cannot be read, is logged once, and the old one stays in force. Only one thread
    may use it; :meth:`collect` is safe in any.

    Args:
        path: the file; None for an empty configuration.
        has_tokens: whether requests have bearer tokens: then TLS is required, and passwords are not possible.

    Raises:
        ConfigError: it is not valid now.
    """

    def __init__(self, path: str | None, *, has_tokens: bool = False) -> None:
        self._path = path
        self._has_tokens = has_tokens
        self._current = WebConfig()
        self._fingerprint = b""
        self._state: _State = {}
        self._is_settled = path is None
        self._fault = ""
        if path is not None:
            reader = WebConfigReader(path)
            self._current = reader.read()
            self._fingerprint = reader.fingerprint
            self._remember(reader.files)
        self._check(self._current)

    def current(self) -> WebConfig:
        """Return the configuration that is in force now."""
        if self._path is not None and not (self._is_settled and _stat(self._state) == self._state):
            self._read(self._path)
        return self._current

    def tell_warnings(self) -> None:
        """Log the settings with another effect than their author may expect."""
        for warning in self._current.warnings:
            _log.warning(warning, extra=fields(file=self._path))

    def collect(self) -> Iterable[Metric]:
        """Return the metric that shows whether the latest version is in force."""
        text = "Whether the latest version of the web configuration, and of the files that it names, is valid: 1 or 0."
        return [GaugeMetricFamily("fstat_exporter_web_config_last_reload_successful", text, not self._fault)]

    def _read(self, path: str) -> None:
        before = _stat(self._state)
        reader = WebConfigReader(path)
        try:
            config = reader.read()
            if reader.is_blank and self._fingerprint != reader.fingerprint:
                raise ConfigError([Mistake(path, "is empty now, expected a configuration; {} is one without any key")])
            self._check(config)
        except ConfigError as error:
            self._remember((*reader.files, *before), before)
            logged, self._fault = self._fault, str(error)
            if self._fault != logged:
                what = "the web configuration cannot be used; the old one stays in force"
                _log.error(what, extra=fields(error=self._fault))
            return
        self._remember(reader.files, before)
        if reader.fingerprint != self._fingerprint:
            self._current, self._fingerprint = config, reader.fingerprint
            is_tls = "yes" if config.tls is not None else "no"
            _log.info("web configuration read again", extra=fields(tls=is_tls, users=len(config.users)))
            self.tell_warnings()
        elif self._fault:
            _log.info("the web configuration is as before again")
        self._fault = ""

    def _check(self, config: WebConfig) -> None:
        if self._has_tokens and config.tls is None:
            what = "is missing, but web.authorization is set: tokens need TLS; expected a certificate and its key"
            raise ConfigError([Mistake(self._path or "--web.config.file", what, "tls_server_config")])
        if self._has_tokens and config.users:
            what = "cannot be combined with web.authorization: a request has a password or a token; remove one of them"
            raise ConfigError([Mistake(str(self._path), what, "basic_auth_users")])

    def _remember(self, files: Iterable[str], before: _State | None = None) -> None:
        """Remember the state of the files that were just read.

        It is not settled if a file changed meanwhile, or so recently that its next change may have the same time.
        """
        self._state = _stat(files)
        changed = any(file in self._state and self._state[file] != state for file, state in (before or {}).items())
        newest_ns = max((state[-1] for state in self._state.values() if state), default=0)
        self._is_settled = not changed and time.time_ns() - newest_ns > _SETTLED_NS


def _stat(files: Iterable[str]) -> _State:
    return {file: _state_of(file) for file in files}


def _state_of(file: str) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
