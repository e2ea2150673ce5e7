"""An agent that reads content: a tracker, its contents, its scrapes, with or without a state file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.exposition import generate_latest

from exporter.config.groups import LogGroup
from exporter.config.model import CacheConfig, Config
from exporter.content.contents import Contents
from exporter.scrape import Scraper
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from tests.exporter.tracking import tick
from tests.support import Scrape, parse_scrape, wait_until


class ReadingAgent:
    """Follows the files of some groups, from its first scan until :meth:`kill`.

    Args:
        groups: of log files.
        state: the state file; None: none.
        budget: bytes a second.
        max_size: of a file with a checksum.
        cpu_budget: share of one core.
        rootfs: where the paths begin.
    """

    def __init__(
        self,
        *groups: LogGroup,
        state: Path | None = None,
        budget: int = 1 << 30,
        max_size: int = 1 << 20,
        cpu_budget: float = 1.0,
        rootfs: str = "/",
    ) -> None:
        self.config = Config(
            groups, cache=CacheConfig(cpu_budget=cpu_budget), content_budget=budget, content_max_size=max_size
        )
        self.tracker = tracker = Tracker(self.config, rootfs=rootfs)
        self.contents = Contents(tracker, self.config)
        self.checkpoint: Checkpoint | None = None
        if state is not None:
            self.checkpoint = Checkpoint(
                str(state), tracker.publication, tracker.realms, tracker.clock, contents=self.contents
            )
            restored = self.checkpoint.load(tracker.matcher.groups_of)
            if restored.saved_at_ns:
                since_ns = tracker.clock.restored(restored.saved_at_ns, restored.saved_at_boottime_ns, restored.boot_id)
                tracker.since_ns = dict.fromkeys(tracker.since_ns, since_ns)
                tracker.cache.inodes.restore(tracker.facts.inodes.handles, restored.saved_at_ns)
        self.scraper = Scraper(tracker, self.save, contents=self.contents)
        tracker.start()
        tracker.scan()
        tick()

    def save(self) -> None:
        """As the agent does with each scrape."""
        if self.checkpoint is not None:
            assert self.checkpoint.save(self.tracker.as_of_ns)

    def scrape(self) -> Scrape:
        """Scrape once."""
        parts = self.scraper.scrape(generate_latest, is_openmetrics=False, is_compressed=False)
        return parse_scrape(b"".join(parts).decode(), openmetrics=False)

    def settled(self, condition: Callable[[Scrape], object] = lambda scrape: True) -> Scrape:
        """Scrape until everything was read, and a condition holds."""
        scrapes: list[Scrape] = []

        def is_settled() -> bool:
            scrapes.append(self.scrape())
            return not any(scrapes[-1].values("fstat_group_lines_backlog_bytes")) and bool(condition(scrapes[-1]))

        wait_until(is_settled)
        return scrapes[-1]

    def kill(self) -> None:
        """End without saving."""
        self.contents.close()
        self.tracker.close()
        if self.checkpoint is not None:
            self.checkpoint.close()


StartReading = Callable[..., ReadingAgent]
"""The fixture that starts agents, see conftest.py."""


@contextmanager
def agents() -> Iterator[StartReading]:
    """Start agents, and kill them in the end."""
    started: list[ReadingAgent] = []

    def start(*groups: LogGroup, **more: object) -> ReadingAgent:
        started.append(ReadingAgent(*groups, **more))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for agent in started:
        agent.kill()
