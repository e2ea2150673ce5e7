"""How properties are tested, and fixtures for the tests of the whole: the real agent and a real Prometheus."""

import contextlib
import fcntl
import functools
import resource
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fstat_cache import inotify, watches
from tests.support import (
    REPOSITORY,
    Agent,
    Hanging,
    Mount,
    Prometheus,
    StartAgent,
    StartPrometheus,
    locked,
    prometheus,
    scraping,
)

# How long an example takes says nothing on a shared machine; each test has its limit anyway.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests marked `alone` last, so that none of them waits for a long test of another process."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `alone` while no other process runs a test."""
    # Outermost, so that no wait counts against a time limit. A process that waits for the machine holds the turn: those
    # that share the machine cannot keep it waiting for ever.
    with contextlib.ExitStack() as machine:
        with locked(REPOSITORY / "tests", fcntl.LOCK_EX):
            is_alone = item.get_closest_marker("alone") is not None
            machine.enter_context(locked(REPOSITORY, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH))
        return (yield)


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents: `start_agent("PATTERN", ..., config="YAML")`; all must stop with exit status 0 afterwards."""
    agents: list[Agent] = []

    def start(*arguments: str, config: str | None = None) -> Agent:
        number = len(agents)
        if config is not None:
            config_path = tmp_path / f"exporter-{number}.yml"
            config_path.write_text(config)
            arguments = (f"--config.file={config_path}", *arguments)
        agent = Agent(list(arguments), tmp_path / f"agent-{number}.out")
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        assert agent.stop() == 0, agent.log_path.read_text()


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[StartPrometheus]:
    """Starts a real Prometheus that scrapes the ports of the loopback it is given, by job name, twice a second.

    `start_prometheus(config)` starts one with a configuration of its own.
    """
    servers: list[Prometheus] = []

    def start(config: Mapping[str, object] | None = None, **ports: int) -> Prometheus:
        folder = tmp_path / f"prometheus-{len(servers)}"
        folder.mkdir()
        server = prometheus(folder, config or scraping(ports, interval="500ms"))
        servers.append(server)
        server.wait_for("/-/ready")
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Mount]:
    """Mounts filesystems: `fuse("name")` is `tmp_path/name`, which shows a folder elsewhere."""
    mounted: list[Hanging] = []

    def mount(name: str) -> Hanging:
        source, point = tmp_path / "sources" / name, tmp_path / name
        for folder in (source, point):
            folder.mkdir(parents=True)
        mounted.append(Hanging(source, point))
        return mounted[-1]

    yield mount
    for each in mounted:
        each.close()


@pytest.fixture
def max_user_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], object]:
    """Sets what the cache reads as the sysctl fs.inotify.max_user_watches; it may take half of that."""
    path = tmp_path / "max_user_watches"
    monkeypatch.setattr(watches, "max_user_watches", functools.partial(inotify.max_user_watches, str(path)))
    return lambda limit: path.write_text(f"{limit}\n")


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Room for both ends of a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), max(hard, 4096)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
