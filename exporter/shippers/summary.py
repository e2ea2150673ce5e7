"""What the page and its JSON show of the shippers. Hold the facts' lock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exporter.ledger.records import Path
from exporter.matching.labels import printable
from exporter.shippers.logs import STATES
from exporter.shippers.shipper import Shipper
from exporter.tracker import Tracker


def unread_bytes(shippers: Iterable[Shipper], path: Path) -> dict[str, int | None]:
    """Return the unread bytes of a file for each shipper that reads it, by name; None: it has no position."""
    found = {}
    for shipper in shippers:
        log = None if path.inode is None else shipper.account.logs.get(path.inode)
        if log is not None and (path.realm, ()) in log.keys:
            found[shipper.config.name] = None if log.offset is None else log.unread
    return found


def of_groups(tracker: Tracker, shippers: Iterable[Shipper]) -> dict[str, dict[str, Any]]:
    """Return the sums of each group, by the names of group and shipper; without groups that no shipper reads."""
    publication, now_ns = tracker.publication, tracker.clock.now_ns()
    found: dict[str, dict[str, Any]] = {}
    for shipper in shippers:
        oldest_ns = shipper.account.oldest_ns(now_ns)
        for position in shipper.groups():
            group = publication.config[position].group
            key = tracker.realms[group], ()
            sums = shipper.account.sums[key]
            found.setdefault(group, {})[shipper.config.name] = {
                "unread_bytes": sums.unread,
                "oldest_unread_seconds": round(oldest_ns.get(key, 0) / 1e9, 3),
                "read_bytes_total": sums.read,
                "lost_bytes_total": sums.lost,
                "unaccounted_bytes_total": sums.unaccounted,
                "unclaimed_bytes": sums.unclaimed,
                "files": {state: sums.files[state] for state in STATES},
            }
    return found


def of_states(shippers: Iterable[Shipper]) -> list[dict[str, Any]]:
    """Return how the state of each shipper can be read."""
    return [
        {
            "shipper": shipper.config.name,
            "type": shipper.config.type,
            "readable": shipper.is_readable,
            "error": printable(shipper.fault) or None,
            "state_mtime_seconds": shipper.mtime_s,
        }
        for shipper in shippers
    ]
