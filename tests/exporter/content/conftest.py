"""Fixtures for the tests of content."""

from collections.abc import Iterator

import pytest

from exporter.content import contents, lines
from tests.exporter.content.reading_agent import StartReading, agents


@pytest.fixture
def start_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartReading]:
    """Starts agents that read content, with short pauses."""
    monkeypatch.setattr(contents, "PAUSE_S", 0.01)
    monkeypatch.setattr(lines, "MOST_FAILURES", 200)  # seconds, as with the longer pauses
    with agents() as start:
        yield start
