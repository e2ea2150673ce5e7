"""The saver thread: saves the ledger soon after it has changed, even without scrapes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

PAUSE_S = 0.5
"""How long changes gather before they are saved; so bytes that are cut or deleted a second later were saved before."""
GREATEST_PAUSE_S = 10.0
CPU_SHARE = 0.005
"""The share of one core that saving may use; the pause is longer if it would use more."""


class Saver:
    """Calls ``save`` from its own thread, which sleeps while nothing changes.

    Args:
        save: saves the changes.
        booked: others set it after a change.
        urgent: others set it after a change that must be saved at once.
    """

    def __init__(self, save: Callable[[], object], booked: threading.Event, urgent: threading.Event) -> None:
        self._save = save
        self._booked = booked
        self._urgent = urgent
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end without saving again."""
        self._is_stopping = True
        self._urgent.set()
        self._booked.set()

    def _run(self) -> None:
        pause_s = PAUSE_S
        while True:
            self._booked.wait()
            self._urgent.wait(pause_s)
            if self._is_stopping:
                return
            self._booked.clear()
            self._urgent.clear()
            began_s = time.thread_time()
            try:
                self._save()
            except Exception:  # noqa: BLE001 - whatever it was, the next one may succeed
                _log.exception("cannot save the state; the next change tries again")
            pause_s = min(max(PAUSE_S, (time.thread_time() - began_s) / CPU_SHARE), GREATEST_PAUSE_S)
