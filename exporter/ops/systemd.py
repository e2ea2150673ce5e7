"""What systemd and the agent tell each other: sd_notify(3), of a service of ``Type=notify`` or ``notify-reload``, and
socket activation, sd_listen_fds(3).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from exporter.ops.log import fields
from exporter.ops.transitions import Transitions

_log = logging.getLogger(__name__)

EXTENSION_S = 30
"""The EXTEND_TIMEOUT_USEC of each progress notification, in seconds."""

_FIRST_PASSED = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Sends the state of the service to systemd; does nothing without a NOTIFY_SOCKET.

    Args:
        environment: of the process: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID count.

    Attributes:
        watchdog_s: the watchdog's timeout, seconds; None: systemd has no watchdog for the service.
    """

    FOLLOWING = "Following the files."

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._faults = Transitions()
        self.watchdog_s = _watchdog_s(environment) if path else None

    def ready(self, status: str = FOLLOWING) -> None:
        """Notify that the first scan or a reload is done."""
        self._send("READY=1", f"STATUS={status}")

    def progress(self, status: str) -> None:
        """Notify that a start or reload is in progress and needs more time."""
        self._send(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}")

    def reloading(self) -> None:
        """Notify that a reload begins."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}", "STATUS=Reloading.")

    def stopping(self) -> None:
        """Notify that the service is stopping."""
        self._send("STOPPING=1", "STATUS=Stopping.")

    def alive(self) -> None:
        """Reset the watchdog's timeout."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        faults: list[str] = []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # the service must not wait for a reader
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            faults.append(str(error))
        if self._faults.update(faults).begun:
            _log.warning("cannot notify systemd", extra=fields(socket=self._address, error=faults[0]))


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000


def passed_descriptors(environment: Mapping[str, str]) -> range:
    """Return the descriptors that systemd passed to this process, sd_listen_fds(3); empty without any.

    Args:
        environment: of the process: LISTEN_PID and LISTEN_FDS count.
    """
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return range(0)
    return range(_FIRST_PASSED, _FIRST_PASSED + int(count))
