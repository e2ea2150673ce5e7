"""The shippers' accounts in the state file: counters, and how far each log was read."""

from __future__ import annotations

import json
from collections.abc import Mapping

from exporter.ledger.facts import Facts
from exporter.ledger.records import Path
from exporter.ops.file_clock import FileClock
from exporter.shippers.account import Account
from exporter.shippers.logs import Log
from exporter.shippers.shippers import Shippers
from exporter.state.state_file import Row, StateFile, Statement, whole

_PUT_SUMS = "INSERT OR REPLACE INTO shipper_sums VALUES (?, ?, ?, ?, ?, ?)"
_PUT_LOG = "INSERT OR REPLACE INTO shipper_logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DROP_SUMS = "DELETE FROM shipper_sums WHERE shipper = ? AND group_name = ? AND label_values = ?"
_DROP_LOGS = "DELETE FROM shipper_logs WHERE shipper = ?"
_DROP_LOG = "DELETE FROM shipper_logs WHERE shipper = ? AND device = ? AND inode = ? AND birth_ns = ?"

Unsaved = dict[Account, set[Log]]
SumsKey = tuple[int, tuple[str, ...]]


class ShipperRows:
    """Turns accounts into rows, and rows into accounts. The caller holds the facts' lock.

    Args:
        shippers: have the accounts.
        facts: have the inodes.
        realms: name of a group -> its number.
        clock: converts moments to times.
    """

    def __init__(self, shippers: Shippers, facts: Facts, realms: Mapping[str, int], clock: FileClock) -> None:
        self._shippers = shippers
        self._facts = facts
        self._realms = realms
        self._clock = clock
        self._saved: dict[tuple[str, SumsKey], tuple[int, int, int]] = {}
        self._accounts = {shipper.config.name: shipper.account for shipper in shippers}
        self._dropped: list[Row] = []  # keys of restored rows whose inode is gone

    def fill(self) -> None:
        """Let the next :meth:`statements` write everything, for a new file."""
        self._saved = {}
        for shipper in self._shippers:
            shipper.account.unsaved.update(shipper.account.logs.values())

    def statements(self) -> tuple[list[Statement], Unsaved]:
        """Return the statements that save what has changed, and what to give to :meth:`put_back` if they fail."""
        names = {realm: name for name, realm in self._realms.items()}
        taken: Unsaved = {}
        sums: list[Row] = []
        dropped = self._dropped
        logs: list[Row] = []
        renewed: list[Row] = []
        ended: list[Row] = []
        for shipper in self._shippers:
            account, name = shipper.account, shipper.config.name
            taken[account], account.unsaved = account.unsaved, set()
            if self._accounts.setdefault(name, account) is not account:  # of another configuration
                self._accounts[name] = account
                renewed.append((name,))
            vanished = [key for of, key in self._saved if of == name and key not in account.sums]
            for realm, values in vanished:
                del self._saved[name, (realm, values)]
                ended.append((name, names[realm], _as_json(values)))
            for key, each in account.sums.items():
                counters = each.read, each.lost, each.unaccounted
                if not isinstance(key, Path) and self._saved.get((name, key), (0, 0, 0)) != counters:
                    self._saved[name, key] = counters
                    realm, values = key
                    sums.append((name, names[realm], _as_json(values), *map(whole, counters)))
            for log in taken[account]:
                key_of_log = (name, *map(whole, log.inode.identity))
                if account.logs.get(log.inode) is log:
                    logs.append((*key_of_log, *self._values(log, names)))
                else:
                    dropped.append(key_of_log)
        self._dropped = []
        drops: list[Statement] = [(_DROP_LOGS, renewed), (_DROP_SUMS, ended), (_DROP_LOG, dropped)]
        return [*drops, (_PUT_SUMS, sums), (_PUT_LOG, logs)], taken

    def put_back(self, taken: Unsaved) -> None:
        """Let the next :meth:`statements` write these again."""
        self._saved = {}
        for account, logs in taken.items():
            account.unsaved |= logs

    def load(self, file: StateFile) -> None:
        """Restore the accounts. To be called once, after the inodes were restored."""
        accounts = {shipper.config.name: shipper.account for shipper in self._shippers}
        for name, (group, values), *counters in file.shipper_sums():
            if name in accounts and group in self._realms:
                key = self._realms[group], values
                sums = accounts[name].sums[key]
                sums.read, sums.lost, sums.unaccounted = counters
                self._saved[name, key] = sums.read, sums.lost, sums.unaccounted
        for name, identity, saved in file.shipper_logs():
            account = accounts.get(name)
            if account is None:  # it is not configured any more
                self._dropped.append((name, *map(whole, identity)))
                continue
            offset, counted, size, born_ns, points, has_left, keys = saved
            known = tuple((self._realms[group], values) for group, values in keys if group in self._realms)
            inode = self._facts.inodes.get(identity)
            if inode is None:  # it ended before it was decided what became of its last bytes
                for key in known if offset is not None else ():
                    account.sums[key].unaccounted += max(0, size - max(offset or 0, counted or 0))
                self._dropped.append((name, *map(whole, identity)))
                continue
            log = Log(inode, self._moment(born_ns), size, offset, counted, has_left=has_left, keys=known)
            log.begin = offset or 0
            log.points = [(self._moment(time_ns), end) for time_ns, end in points]
            account.add(log)
            account.unsaved.discard(log)

    def _values(self, log: Log, names: Mapping[int, str]) -> Row:
        points = [(self._time(moment_ns), end) for moment_ns, end in log.points]
        return (
            log.offset,
            log.counted,
            whole(log.size),
            None if log.born_ns <= _LONG_AGO_NS else self._time(log.born_ns),
            _as_json(points),
            log.has_left,
            _as_json([(names[key[0]], key[1]) for key in log.keys if not isinstance(key, Path)]),
        )

    def _time(self, moment_ns: int) -> int:
        return self._clock.saved(moment_ns)[0]

    def _moment(self, time_ns: int | None) -> int:
        return _LONG_AGO_NS if time_ns is None else self._clock.restored(time_ns)


_LONG_AGO_NS = -(1 << 63)


def _as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
