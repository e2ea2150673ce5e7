"""All shippers: their states are read before the facts are brought up to date, and put together with them after it.

Each scrape does that; and a thread, at once and for ten seconds after a log was renamed, deleted or truncated, because
shippers forget such logs soon.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

from exporter.config.shippers import ShipperConfig
from exporter.ledger.books import InodeBookings
from exporter.ledger.records import Path
from exporter.shippers.account import Account
from exporter.shippers.logs import Log
from exporter.shippers.shipper import Shipper
from exporter.tracker import Tracker
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)

TIMEOUT_S = 1.0
"""How long a read of the states may take: a tenth of Prometheus' default timeout of a scrape."""
ATTENTIVE_S = 10.0
"""For how long the states are read again and again after a log was renamed, deleted or truncated."""
ATTENTIVE_TIMEOUT_S = 0.1
"""How long such a read may take, because a scrape may wait for it. What comes later counts at the next one."""
PAUSE_S = 1.0
"""The pause between such reads; longer if they would take more than `CPU_SHARE`."""
CPU_SHARE = 0.005
"""The share of one core that such reads may take."""


class Shippers:
    """Follows the configured shippers. Safe to call from several threads.

    Args:
        tracker: follows the files.
        configs: the shippers.
        copies: an existing directory for copies of databases; by default that of temporary files.

    Attributes:
        changes: how often shippers were configured.
    """

    def __init__(self, tracker: Tracker, configs: Sequence[ShipperConfig] = (), copies: str = "") -> None:
        self._tracker = tracker
        self._copies = copies or tempfile.gettempdir()
        self._is_saved = bool(copies)  # they lie beside the state file
        self._lock = threading.Lock()  # held from the read of the states until they are put together with the facts
        self.changes = 0
        self._bookings = InodeBookings()
        self._shippers: dict[str, Shipper] = {}
        self._wake = tracker.facts.departed
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.configure(configs)

    def __iter__(self) -> Iterator[Shipper]:
        return iter(tuple(self._shippers.values()))

    def configure(self, configs: Sequence[ShipperConfig]) -> None:
        """Follow these shippers from now on. One that is configured as before keeps its account, else its counters."""
        with self._lock:
            before: dict[str, Shipper] = self._shippers
            now: dict[str, Shipper] = {}
            for config in configs:
                known = before.get(config.name)
                if known is not None and known.config == config:
                    shipper = known
                else:
                    shipper = Shipper(config, self._tracker, self._copies, is_saved=self._is_saved)
                    if known is not None:
                        shipper.account.continue_from(known.account)
                shipper.match_again()
                now[config.name] = shipper
            self._shippers, self.changes = now, self.changes + 1
            for name, shipper in before.items():
                if now.get(name) is not shipper:
                    shipper.close()
            if now:
                self._tracker.facts.read_inodes(self._bookings)
            else:
                self._tracker.facts.discard(self._bookings)
                self._bookings.clear()
        if now and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shippers", daemon=True)
            self._thread.start()

    def unread(self, *, is_all: bool) -> dict[tuple[str, Path], int | None]:
        """Return shipper and file -> how many bytes are unread, None if no position is of it; of the groups that show
        that.

        Args:
            is_all: of all files, not only of those that have changed since the latest call.
        """
        with self._tracker.facts.lock:
            return {
                (shipper.config.name, path): size_bytes
                for shipper in self
                for path, size_bytes in shipper.unread(is_all=is_all).items()
            }

    def close(self) -> None:
        """Stop reading states. Idempotent."""
        self._is_stopping.set()
        self._wake.set()
        for shipper in self:
            shipper.close()

    @contextlib.contextmanager
    def following(self, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
        """Read the states; then the caller brings the facts up to date; then put both together.

        Args:
            timeout_s: how long to wait for the states.
        """
        if not self._shippers:
            yield
            return
        with self._lock:
            until_s = time.monotonic() + timeout_s
            for shipper in self:
                shipper.begin(timeout_s)
            states = {shipper: shipper.state(max(0.0, until_s - time.monotonic())) for shipper in self}
            now_ns = self._tracker.clock.now_ns()
            yield
            facts = self._tracker.facts
            for shipper in states:
                shipper.identify(self._tracker)
            with facts.lock:
                bookings = dict(self._bookings)
                self._bookings.clear()
                for shipper, state in states.items():
                    try:
                        shipper.account.update(now_ns, bookings, state)
                    except Exception as error:  # noqa: BLE001 - the scrape goes on without it
                        shipper.fail(error)
                unknown = [(shipper.account, log) for shipper in states for log in shipper.account.to_examine()]
            for account, log in unknown:
                self._examine(account, log)

    def _examine(self, account: Account, log: Log) -> None:
        """Find out whether the unread bytes of a log contain the end of a line."""
        facts, extents = self._tracker.facts, self._tracker.cache.extents
        with facts.lock:
            names, identity, begin, size = log.inode.names, log.inode.identity, log.begin, log.size
        data = extents.read(names[0], identity, begin, size - begin) if names else None
        with facts.lock:
            if data is not None and (log.begin, log.size) == (begin, size):
                account.examine(log, data)

    def _run(self) -> None:
        until_s = 0.0
        while True:
            self._wake.wait(None if time.monotonic() >= until_s else 0)
            if self._is_stopping.is_set():
                return
            if self._wake.is_set():
                self._wake.clear()
                until_s = time.monotonic() + ATTENTIVE_S
            began_s = time.thread_time()
            try:
                if self._tracker.is_ready:
                    with self.following(ATTENTIVE_TIMEOUT_S):
                        self._tracker.advance()
                        if self._is_stopping.is_set():  # then the facts may be older than the states
                            raise CacheClosedError("the agent is stopping")
            except CacheClosedError:
                return
            except Exception:  # noqa: BLE001 - whatever it was, the next read may succeed
                _log.exception("the states of the shippers could not be followed; the next scrape tries again")
            self._is_stopping.wait(max(PAUSE_S, (time.thread_time() - began_s) / CPU_SHARE))
