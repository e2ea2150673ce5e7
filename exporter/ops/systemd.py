"""What systemd is told of a service of ``Type=notify`` or ``notify-reload``: sd_notify(3), over its datagram socket."""

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
"""How much longer than its own limit systemd is asked to wait, with each word of progress."""


class Notifier:
    """Tells systemd how the service does; does nothing where nobody wants to know.

    Args:
        environment: of the process: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID count.

    Attributes:
        watchdog_s: how often, at least, systemd wants to hear that all is well, seconds; None: it does not.
    """

    FOLLOWING = "Following the files."

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._faults = Transitions()
        self.watchdog_s = _watchdog_s(environment) if path else None

    def ready(self, status: str = FOLLOWING) -> None:
        """The first scan is done, or a reload."""
        self._send("READY=1", f"STATUS={status}")

    def progress(self, status: str) -> None:
        """Starting, or reloading, goes on, and takes more time."""
        self._send(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}")

    def reloading(self) -> None:
        """A reload begins."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}", "STATUS=Reloading.")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1", "STATUS=Stopping.")

    def alive(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        faults: list[str] = []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # if nobody reads, the service must not wait for it
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            faults.append(str(error))
        if self._faults.update(faults).begun:
            _log.warning("systemd can not be told", extra=fields(socket=self._address, error=faults[0]))


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000
