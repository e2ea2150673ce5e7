"""Debian's own logrotate, while programs write without a pause."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.workload import Workload, appended_bytes, folders_of
from tests.support import Agent, Scrape, StartAgent, program, wait_until

AGENT = """
rescan_interval: 1h  # longer than the test: what is found is found by being told
logs:
"""
GROUP = """
  - group: "{way}"
    paths: ["{folder}/{pattern}"]
"""
SECTION = """
{folder}/0.log {{
    rotate 2
    {directives}
}}
"""
DATED = "dateext\n    dateformat -%Y%m%d-%s"
# Until the test says that what went into the old file, before its writer opened the new one, was looked at.
BEFORE_THE_OLD_FILE_GOES = """postrotate
        tries=0
        until test -e "{may_go}"; do
            tries=$((tries + 1))
            test $tries -le 1500 || exit 1  # 30 s
            sleep 0.02
        done
    endscript"""

# Way of rotating: logrotate's directives, and what the agent watches.
CREATE = {
    "numbered": ("create", "*.log"),
    "numbered, all match": ("create", "*.log*"),
    "numbered before the extension": ("create\n    extension .log", "*.log"),
    "dated": (f"create\n    {DATED}", "*.log"),
    "dated, packed next time, all match": (f"create\n    {DATED}\n    compress\n    delaycompress", "*.log*"),
    "packed next time": ("create\n    compress\n    delaycompress", "*.log"),
    # The last one: while logrotate waits here it rotates no others.
    "packed at once, all match": (f"create\n    compress\n    {BEFORE_THE_OLD_FILE_GOES}", "*.log*"),
}
COPYTRUNCATE = {
    "numbered": ("copytruncate", "*.log"),
    "dated and packed": (f"copytruncate\n    {DATED}\n    compress", "*.log"),
}

CLOCK_REALTIME_COARSE = 5  # linux/time.h; Python has no name for it
ROTATIONS = 5  # by `create`; three files are kept, the present one included


def _time_s() -> int:
    """Return what time(2) returns."""
    return int(time.clock_gettime(CLOCK_REALTIME_COARSE))


class Rotation:
    """A writer for each way of rotating, an agent that follows them, and logrotate to rotate the logs."""

    def __init__(self, top: Path, style: str, ways: Mapping[str, tuple[str, str]], start_agent: StartAgent) -> None:
        logrotate = program("logrotate")
        self.ways = list(ways)
        self.may_go = top / "may-go"
        """While it is there, an old file may be deleted as soon as it is packed."""
        self.workload = Workload(top, seed=1, styles=(style,), writers=len(ways))
        groups, sections = [], []
        for number, (way, (directives, pattern)) in enumerate(ways.items()):
            folder, _ = folders_of(top, number, style)
            groups.append(GROUP.format(way=way, folder=folder, pattern=pattern))
            sections.append(SECTION.format(folder=folder, directives=directives.format(may_go=self.may_go)))
        self.agent: Agent = start_agent(config=AGENT + "".join(groups))
        config = top / "logrotate.conf"
        config.write_text("".join(sections))
        config.chmod(0o600)  # logrotate takes none that others may write
        self._command = [logrotate, "--force", f"--state={top / 'logrotate.state'}", str(config)]

    @contextmanager
    def rotating(self) -> Iterator[subprocess.Popen[bytes]]:
        """Rotate each log once; done at the exit, when a date in seconds is another one too.

        That is judged by logrotate's clock: time(2) is the coarse one, up to a tick behind `time.time()`.
        """
        with subprocess.Popen(self._command) as process:
            yield process
        assert process.returncode == 0
        ended_s = _time_s()
        wait_until(lambda: _time_s() > ended_s)

    def have_opened(self, files: int) -> bool:
        """Whether each writer has opened so many."""
        return all(self.workload.opened_by(number) == files for number, _ in enumerate(self.ways))

    def counted(self, scrape: Scrape) -> dict[str, float | None]:
        """The bytes counted, by way of rotating."""
        return {way: scrape.value("fstat_group_appended_bytes_total", group=way) for way in self.ways}

    def written(self) -> dict[str, int]:
        """The truth."""
        return {way: self.workload.completed_by(number) for number, way in enumerate(self.ways)}


@pytest.mark.timeout(120)
def test_create_is_exact(tmp_path: Path, start_agent: StartAgent) -> None:
    """With `create` every byte is counted, under whatever names the rotated files go on, packed or not.

    A file goes only when its writer has opened the next one and a scrape began after that: what comes later than the
    last look nobody can count.
    """
    rotation = Rotation(tmp_path, "reopening", CREATE, start_agent)
    with rotation.workload as workload:
        workload.start(rotation.agent)
        for number in range(1, ROTATIONS + 1):
            rotation.may_go.unlink(missing_ok=True)
            with rotation.rotating() as logrotate:
                deadline_s = time.monotonic() + 30
                while not rotation.have_opened(number + 1):
                    assert time.monotonic() < deadline_s
                    workload.check(rotation.agent)
                workload.check(rotation.agent)
                assert logrotate.poll() is None
                rotation.may_go.touch()
                while logrotate.poll() is None:
                    workload.check(rotation.agent)
        workload.stop()
        scrape = workload.check(rotation.agent)
        assert rotation.counted(scrape) == rotation.written()
        assert rotation.have_opened(ROTATIONS + 1)


@pytest.mark.timeout(120)
def test_copytruncate_counts_nothing_twice(
    tmp_path: Path, start_agent: StartAgent, record_property: Callable[[str, object], None]
) -> None:
    """With `copytruncate` no more is counted than was written, and only what was not yet looked at is lost."""
    rotation = Rotation(tmp_path, "busy", COPYTRUNCATE, start_agent)
    permitted = 0
    with rotation.workload as workload:
        workload.start(rotation.agent)
        for _ in range(4):
            workload.run_for(1.5)
            known = workload.completed()
            workload.run_for(1)
            with rotation.rotating():
                pass
            permitted += workload.announced() - known
            assert appended_bytes(rotation.agent.scrape()) <= workload.announced()
        workload.stop()
        scrape = rotation.agent.scrape()
        lost = workload.completed() - appended_bytes(scrape)
        record_property("written_bytes", workload.completed())
        record_property("lost_bytes", lost)
        print(f"lost {lost:.0f} bytes of {workload.completed()}")
        assert 0 <= lost <= permitted
        assert sum(scrape.values("fstat_group_truncations_total")) == 4 * len(COPYTRUNCATE)
