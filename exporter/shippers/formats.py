"""The table of formats: what the agent knows of the state files of each type of shipper."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.shippers import (
    alloy,
    datadog,
    filebeat,
    fluent_bit,
    fluentd,
    logstash,
    otel_filelog,
    process,
    promtail,
    rsyslog,
    syslog_ng,
    vector,
)
from exporter.shippers.files import MAX_FILE_BYTES, MAX_JSON_BYTES, read_file
from exporter.shippers.positions import Fingerprint, Position

Read = Callable[[str, str, Sequence[Position]], list[Position]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How to find and read the state files of a type of shipper.

    Attributes:
        flush_interval_s: how often a running shipper writes its state, at least while it reads.
        is_state_file: whether a file of a directory is a state file, by its name.
        read: reads a state file, given its path, a directory for copies and the positions that were read last, of which
            unchanged ones are used again. Raises OSError and StateFormatError.
        directories: where state files are, below a directory that is given; globs. The first with state files counts.
        is_directory: the files of a directory are one state; ``read`` takes the path of the directory.
        latest_of_inode: of several state files with a position of one inode, the one written last counts.
        written_by_mmap: no stat shows that a state file has changed.
        companions: suffixes of the files whose changes change positions too.
        max_bytes: the largest state file that is read.
        quiet_s: how long after a move of an offset what comes is not reported, until the next line.
        head_bytes: how many first bytes of a log ``fingerprints`` needs.
        fingerprints: computes the fingerprints that a log may have, from its first bytes and the sizes of the
            fingerprints in the positions; None: fingerprints identify no logs.
    """

    flush_interval_s: float
    is_state_file: Callable[[str], bool]
    read: Read
    directories: tuple[str, ...] = ("",)
    is_directory: bool = False
    latest_of_inode: bool = False
    written_by_mmap: bool = False
    companions: tuple[str, ...] = ()
    max_bytes: int = MAX_FILE_BYTES
    quiet_s: float = 0.0
    head_bytes: int = 0
    fingerprints: Callable[[bytes, Collection[int]], Iterator[Fingerprint]] | None = None


def _reader(parse: Callable[[bytes], list[Position]]) -> Read:
    return lambda path, _copies, _before: parse(read_file(path))


FORMATS: Mapping[str, Format] = {
    "alloy": Format(
        flush_interval_s=alloy.FLUSH_INTERVAL_S,
        is_state_file=alloy.is_state_file,
        read=_reader(alloy.parse),
        quiet_s=alloy.QUIET_S,
        directories=alloy.DIRECTORIES,
    ),
    "datadog": Format(
        flush_interval_s=datadog.FLUSH_INTERVAL_S,
        is_state_file=datadog.is_state_file,
        read=_reader(datadog.parse),
        max_bytes=MAX_JSON_BYTES,
    ),
    "filebeat": Format(
        flush_interval_s=filebeat.FLUSH_INTERVAL_S,
        is_state_file=filebeat.is_state_file,
        read=filebeat.read,
        directories=filebeat.DIRECTORIES,
        is_directory=filebeat.IS_DIRECTORY,
        max_bytes=MAX_JSON_BYTES,
        head_bytes=filebeat.HEAD_BYTES,
        fingerprints=filebeat.fingerprints,
    ),
    "fluent-bit": Format(
        flush_interval_s=fluent_bit.FLUSH_INTERVAL_S,
        is_state_file=fluent_bit.is_state_file,
        read=fluent_bit.read,
        companions=fluent_bit.COMPANIONS,
    ),
    "fluentd": Format(
        flush_interval_s=fluentd.FLUSH_INTERVAL_S,
        is_state_file=fluentd.is_state_file,
        read=_reader(fluentd.parse),
    ),
    "logstash": Format(
        flush_interval_s=logstash.FLUSH_INTERVAL_S,
        is_state_file=logstash.is_state_file,
        read=_reader(logstash.parse),
        directories=logstash.DIRECTORIES,
    ),
    "otel-filelog": Format(
        flush_interval_s=otel_filelog.FLUSH_INTERVAL_S,
        is_state_file=otel_filelog.is_state_file,
        read=_reader(otel_filelog.parse),
        head_bytes=otel_filelog.HEAD_BYTES,
        fingerprints=otel_filelog.fingerprints,
    ),
    "promtail": Format(
        flush_interval_s=promtail.FLUSH_INTERVAL_S,
        is_state_file=promtail.is_state_file,
        read=_reader(promtail.parse),
    ),
    "rsyslog": Format(
        flush_interval_s=rsyslog.FLUSH_INTERVAL_S,
        is_state_file=rsyslog.is_state_file,
        read=rsyslog.read,
        latest_of_inode=rsyslog.LATEST_OF_INODE,
        max_bytes=MAX_JSON_BYTES,
    ),
    "syslog-ng": Format(
        flush_interval_s=syslog_ng.FLUSH_INTERVAL_S,
        is_state_file=syslog_ng.is_state_file,
        read=syslog_ng.read,
        written_by_mmap=syslog_ng.WRITTEN_BY_MMAP,
    ),
    "vector": Format(
        flush_interval_s=vector.FLUSH_INTERVAL_S,
        is_state_file=vector.is_state_file,
        read=_reader(vector.parse),
        directories=vector.DIRECTORIES,
        max_bytes=MAX_JSON_BYTES,
        head_bytes=vector.HEAD_BYTES,
        fingerprints=vector.fingerprints,
    ),
}
"""The formats of state files, by the type in the configuration."""

FLUSH_INTERVALS_S: Mapping[str, float] = {
    **{name: each.flush_interval_s for name, each in FORMATS.items()},
    "process": process.FLUSH_INTERVAL_S,
}
"""The flush interval of each type in the configuration, ``process`` included, which has no state files."""
