"""Saves the ledger soon after it has changed, also while nobody scrapes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

PAUSE_S = 0.5
"""How long changes may gather: what is cut off or deleted a second after it was written was saved before."""
GREATEST_PAUSE_S = 10.0
CPU_SHARE = 0.005
"""Of one core, that saving may take where so much changes that the pause has to be longer."""


class Saver:
    """Calls ``save`` from a thread of its own, which is asleep while nothing changes.

    Args:
        save: saves what has changed.
        booked: set by others when something has changed.
        urgent: set by others when that cannot wait.
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
        """Have the thread end; what has changed meanwhile is not saved."""
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
                _log.exception("the state could not be saved, which is tried again after the next change")
            pause_s = min(max(PAUSE_S, (time.thread_time() - began_s) / CPU_SHARE), GREATEST_PAUSE_S)
