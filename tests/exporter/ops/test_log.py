"""The lines of the log."""

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator

import pytest
from tornado.httputil import HTTPHeaders, HTTPInputError

from exporter.ops import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream; the logging of the process is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("tornado.general", "tornado.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_logfmt(stream: io.StringIO) -> None:
    """Plain values are bare, all others quoted, on one line whatever they hold."""
    log.set_up(logging.INFO, "logfmt", stream)
    nasty = 'a "b"\n=\\' + os.fsdecode(b"\xff")
    logging.getLogger("x").warning("it is %d", 7, extra=log.fields(path="/a/b-c.log", nasty=nasty, empty="", count=3))
    logging.getLogger("x").debug("too little")
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warn logger=x "
        + re.escape(r'msg="it is 7" path=/a/b-c.log nasty="a \"b\"\n=\\\udcff" empty="" count=3'),
        line,
    )


def test_json(stream: io.StringIO) -> None:
    """One object a line."""
    log.set_up(logging.DEBUG, "json", stream)
    logging.getLogger("x").debug("a\nb", extra=log.fields(error=OSError("e"), count=3))
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("ts").endswith("Z")
    assert record == {"level": "debug", "logger": "x", "msg": "a\nb", "error": "e", "count": 3}


def test_exception(stream: io.StringIO) -> None:
    """A traceback stays within its line."""
    log.set_up(logging.INFO, "logfmt", stream)
    try:
        sys.exit("x")
    except SystemExit:
        logging.getLogger("x").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "level=error" in line
    assert 'exception="Traceback (most recent call last):\\n' in line


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        """As the system says it."""
        raise OSError(28, "No space left on device")


def test_a_stream_that_fails(stream: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    """A line that can not be written is dropped, without a traceback."""
    log.set_up(logging.INFO, "logfmt", Full())
    logging.getLogger("x").warning("lost")
    assert capfd.readouterr().err == ""


def test_strangers_are_not_logged(stream: io.StringIO) -> None:
    """What clients send wrong is logged for debugging only."""
    log.set_up(logging.INFO, "logfmt", stream)
    logging.getLogger("tornado.general").warning("Malformed")
    assert stream.getvalue() == ""
    log.set_up(logging.DEBUG, "logfmt", stream)
    logging.getLogger("tornado.general").warning("Malformed")
    assert "Malformed" in stream.getvalue()


def test_credentials_are_not_logged(stream: io.StringIO) -> None:
    """Tornado's error quotes a header with an invalid value, perhaps a token; other errors are logged."""
    log.set_up(logging.DEBUG, "logfmt", stream)
    for header in ("Authorization: Bearer secret\x01", "Authorization Bearer secret"):
        with pytest.raises(HTTPInputError) as error:
            HTTPHeaders.parse(header)
        logging.getLogger("tornado.general").info("Malformed HTTP message from %s: %s", "192.0.2.1", error.value)
    (line,) = stream.getvalue().splitlines()
    assert "192.0.2.1: no colon in header line" in line
