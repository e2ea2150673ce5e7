"""The agent's log: one line a record, as logfmt or as JSON."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
"""Name in the flag --log.level -> level."""

_LEVEL_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "error"}
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff]+")


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the `extra` of a logging call that adds these keys to its line."""
    return {"fields": values}


def set_up(level: int, style: str, stream: TextIO) -> None:
    """Send the log of the whole process to `stream`.

    Args:
        level: of :mod:`logging`.
        style: "logfmt" or "json".
        stream: the lines are written there.
    """
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter() if style == "json" else LogfmtFormatter())
    handler.addFilter(_quotes_no_header)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Bad requests from the network are not worth a warning.
    for name in ("tornado.general", "tornado.access"):
        logging.getLogger(name).setLevel(max(level, logging.ERROR) if level > logging.DEBUG else level)


def _quotes_no_header(record: logging.LogRecord) -> bool:
    """Return whether a record has no value of a header; tornado quotes invalid ones, such as that of Authorization."""
    return record.name != "tornado.general" or "Invalid header value" not in record.getMessage()


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: if the log cannot be written (full disk, closed pipe), that cannot be logged either."""


def _pairs(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, object]:
    pairs: dict[str, object] = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": _LEVEL_NAMES.get(record.levelno, record.levelname.lower()),
        "logger": record.name,
        "msg": record.getMessage(),
        **getattr(record, "fields", {}),
    }
    if record.exc_info:
        pairs["exception"] = formatter.formatException(record.exc_info)
    return pairs


class LogfmtFormatter(logging.Formatter):
    """`key=value` pairs; a value with other than plain characters is quoted and escaped as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        texts = {key: str(value) for key, value in _pairs(record, self).items()}
        return " ".join(f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text)}" for key, text in texts.items())


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        return json.dumps(_pairs(record, self), default=str)
