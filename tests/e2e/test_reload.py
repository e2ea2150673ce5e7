"""Another configuration for the running agent: nothing is lost, no scrape fails."""

import http.client
import json
import os
import random
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.clock import AgentClock
from tests.e2e.test_kill import went_back
from tests.e2e.workload import ALL, SEEDS, SEEN_LATE, Workload, by_path
from tests.support import Agent, Scrape, Server, StartAgent, Stopwatch, as_root, free_port, wait_until

BEGINNING = """
stale_grace: 1s
rescan_interval: 1h  # longer than the test: what is found is found by being told
"""
# Both groups are always there, and together they have all logs.
VARIANTS = (
    """
logs:
  - {{group: all, paths: ["{logs}/**/*.log"]}}
  - {{group: other, paths: ["{logs}/no/such/*.log"]}}
""",
    """
logs:
  - group: all
    paths: ["{logs}/**/*.log"]
    labels: {{team: infra}}
    path_regex: '/(?P<writer>writer-[0-9]+)/(?P<style>[a-z]+)/'
    aggregate_by: [writer]
  - {{group: other, paths: ["{logs}/no/such/*.log"], max_series: 3}}
""",
    """
logs:
  - group: other
    paths: ["{logs}/writer-1/**/*.log"]
    path_regex: '/writer-[0-9]+/(?P<style>[a-z]+)/'
    aggregate_by: [style]
    per_file: false
  - {{group: all, paths: ["{logs}/**/*.log"], max_series: 10}}
""",
    """
logs:
  - {{group: all, paths: ["{logs}/**/*.log*"]}}
  - {{group: other, paths: ["{logs}/no/such/*.log"]}}
""",
    """
cache: {{max_files: 5000, cpu_budget: 5%}}
logs:
  - {{group: all, paths: ["{logs}/writer-{{0,1,2}}/*/*.log", "{logs}/**/*.log"]}}
  - {{group: other, paths: ["{logs}/no/such/*.log"]}}
""",
)
RELOADS = 20
REBORN = re.compile("/(tree|recreate|move)/")
"""Whose files are deleted, and made again perhaps just after their series have ended."""


SIMPLE = "logs: [{{group: {group}, paths: ['{folder}/*.log']}}]"
LAST_SUCCESS = "fstat_exporter_config_last_reload_success_timestamp_seconds"
WAS_SUCCESSFUL = "fstat_exporter_config_last_reload_successful"


def post(agent: Agent, method: str = "POST") -> tuple[int, str]:
    """Ask for a reload; status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
    try:
        connection.request(method, "/-/reload")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def shows(agent: Agent, group: str) -> bool:
    """Whether that is the only group that is published."""
    scrape = agent.scrape()
    groups = {dict(labels)["group"] for name, labels in scrape.samples if name == "fstat_group_files"}
    return groups == {group} and scrape.value(WAS_SUCCESSFUL) == 1


def test_over_http(tmp_path: Path, start_agent: StartAgent) -> None:
    """POST and PUT reload and answer when it is done; a mistake is answered with 500 and all that is wrong, and the old
    configuration stays; another method is 405.
    """
    (tmp_path / "a.log").write_bytes(b"x")
    path = tmp_path / "exporter-0.yml"
    agent = start_agent("--web.enable-lifecycle", config=SIMPLE.format(group="g0", folder=tmp_path))
    for number, method in enumerate(("POST", "PUT", "POST"), start=1):
        path.write_text(SIMPLE.format(group=f"g{number}", folder=tmp_path))
        assert post(agent, method) == (200, "Reloaded.\n")
        assert shows(agent, f"g{number}")
    before = agent.scrape()
    path.write_text("logs: [{group: g, pathes: []}]")
    status, body = post(agent)
    assert status == 500
    assert f"{path}:1:19: logs[0].pathes: " in body
    after = agent.scrape()
    assert after.value(WAS_SUCCESSFUL) == 0
    assert after.value(LAST_SUCCESS) == before.value(LAST_SUCCESS)
    assert after.value("fstat_file_size_bytes", group="g3") == 1
    assert post(agent, "GET")[0] == 405
    path.write_text(SIMPLE.format(group="g4", folder=tmp_path))
    assert post(agent)[0] == 200
    assert shows(agent, "g4")
    assert "Traceback" not in agent.log_path.read_text()


def test_not_over_http(tmp_path: Path, start_agent: StartAgent) -> None:
    """Unless it is allowed."""
    agent = start_agent(config=SIMPLE.format(group="g", folder=tmp_path))
    for method in ("POST", "PUT"):
        status, body = post(agent, method)
        assert status == 403
        assert "--web.enable-lifecycle" in body
    assert post(agent, "GET")[0] == 405


def test_by_itself_when_the_file_changes(tmp_path: Path, start_agent: StartAgent) -> None:
    """Rewritten, replaced, or swapped as a ConfigMap; a broken one is told, and the old one stays."""
    folder = tmp_path / "etc"
    folder.mkdir()
    for number in range(3):
        (folder / f"..{number}").mkdir()
        (folder / f"..{number}" / "exporter.yml").write_text(SIMPLE.format(group=f"map{number}", folder=tmp_path))
    (folder / "..data").symlink_to("..0")
    path = folder / "exporter.yml"
    path.symlink_to("..data/exporter.yml")
    agent = start_agent(f"--config.file={path}")
    assert shows(agent, "map0")
    for number in (1, 2):
        (folder / "..data_tmp").symlink_to(f"..{number}")
        (folder / "..data_tmp").rename(folder / "..data")
        wait_until(lambda number=number: shows(agent, f"map{number}"))  # type: ignore[misc]
    (folder / "..2" / "exporter.yml").write_text(SIMPLE.format(group="rewritten", folder=tmp_path))
    wait_until(lambda: shows(agent, "rewritten"))
    path.unlink()
    path.write_text("logs: [")
    wait_until(lambda: agent.scrape().value(WAS_SUCCESSFUL) == 0)
    (folder / "fresh").write_text(SIMPLE.format(group="replaced", folder=tmp_path))
    (folder / "fresh").rename(path)
    wait_until(lambda: shows(agent, "replaced"))


def test_what_takes_a_restart_is_told(tmp_path: Path, start_agent: StartAgent) -> None:
    """A line for each; the rest of the configuration is followed all the same."""
    path = tmp_path / "exporter-0.yml"
    agent = start_agent(config=SIMPLE.format(group="g", folder=tmp_path))
    path.write_text(
        f"web: {{telemetry_path: /m}}\nstate: {{path: {tmp_path}/state.db}}\n"
        + SIMPLE.format(group="other", folder=tmp_path)
    )
    wait_until(lambda: shows(agent, "other"))
    told = [line for line in agent.log_path.read_text().splitlines() if " key=" in line]
    assert [line.split("key=")[1].split()[0] for line in told] == ["web.telemetry_path", "state.path"]
    assert all("takes effect at the next start" in line for line in told)
    assert not (tmp_path / "state.db").exists()


def test_first_sample(tmp_path: Path, start_agent: StartAgent) -> None:
    """Both formats show 0 at first, the JSON what is there; without the key a reload ends the zero."""
    folder = tmp_path / "logs"
    folder.mkdir()
    simple = SIMPLE.format(group="a", folder=folder)
    agent = start_agent("--web.enable-lifecycle", config=f"first_sample: zero\nzero_for: 1h\n{simple}")
    (folder / "a.log").write_bytes(b"x" * 5000)
    name = "fstat_file_appended_bytes_total"
    assert [agent.scrape(openmetrics=each).value(name) for each in (False, True)] == [0, 0]
    assert agent.scrape().value("fstat_group_appended_bytes_total") == 5000
    (file,) = json.loads(agent.get("/api/v1/files").body)["files"]
    assert file["appended_bytes_total"] == 5000
    (tmp_path / "exporter-0.yml").write_text(simple)
    assert post(agent) == (200, "Reloaded.\n")
    assert agent.scrape().value(name) == 5000


def test_with_patterns_there_is_nothing_to_reload(tmp_path: Path, start_agent: StartAgent) -> None:
    """SIGHUP does no harm."""
    (tmp_path / "a.log").touch()
    agent = start_agent(f"{tmp_path}/*.log")
    os.kill(agent.pid, signal.SIGHUP)
    wait_until(lambda: "configuration reloaded" in agent.log_path.read_text())
    assert agent.scrape().values("fstat_file_size_bytes") == [0]


def test_a_restart_goes_on_where_a_reload_was(tmp_path: Path) -> None:
    """The state file is of the configuration that was followed last."""
    beginning = f"state: {{path: {tmp_path}/state.db}}\n"
    logs = [tmp_path / f"{name}.log" for name in "abc"]
    for log in logs:
        log.touch()
    path = tmp_path / "exporter.yml"
    path.write_text(beginning + SIMPLE.format(group="g", folder=tmp_path))
    agent = Agent([f"--config.file={path}", "--web.enable-lifecycle"], tmp_path / "killed.out")
    try:
        for log in logs:
            with log.open("a") as file:
                file.write("12345")
        agent.scrape()
        path.write_text(
            f"""{beginning}
logs:
  - {{group: first, paths: ["{logs[0]}"], labels: {{a: b}}}}
  - {{group: g, paths: ["{tmp_path}/[bd].log"]}}
"""
        )
        assert post(agent)[0] == 200
        agent.scrape()
    finally:
        os.kill(agent.pid, signal.SIGKILL)
        agent.stop()
    for log in logs:
        with log.open("a") as file:
            file.write("678")
    (tmp_path / "d.log").write_text("9")
    again = Agent([f"--config.file={path}"], tmp_path / "again.out")
    try:
        scrape = again.scrape()
        assert by_path(scrape, "fstat_file_appended_bytes_total") == {
            f"{tmp_path}/a.log": 8,
            f"{tmp_path}/b.log": 8,
            f"{tmp_path}/d.log": 1,
        }
        assert scrape.value("fstat_group_appended_bytes_total", group="g") == 15 + 3 + 1
        assert scrape.value("fstat_group_appended_bytes_total", group="first") == 3
    finally:
        assert again.stop() == 0


@pytest.mark.alone
def test_scrapes_do_not_wait_for_a_reload(tmp_path: Path, start_agent: StartAgent) -> None:
    """Beside reloads of 10,000 files each scrape is answered within a second, with all of them; and nothing leaks."""
    for folder in range(10):
        (tmp_path / "logs" / str(folder)).mkdir(parents=True)
        for number in range(1_000):
            (tmp_path / "logs" / str(folder) / f"{number}.log").touch()
    path = tmp_path / "exporter-0.yml"
    text = "logs: [{{group: g, paths: ['{folder}/logs/**/*.log'], labels: {{n: '{number}'}}, metrics: [size]}}]"
    agent = start_agent("--web.enable-lifecycle", config=text.format(folder=tmp_path, number=0))
    agent.scrape()
    descriptors, watches = agent.descriptors(), agent.scrape().value("fstat_cache_watches")
    with AgentClock() as clock, ThreadPoolExecutor(1) as executor:
        clock.follow(agent.pid)
        for number in range(1, 4):
            path.write_text(text.format(folder=tmp_path, number=number))
            reload = executor.submit(post, agent)
            while not reload.done():
                began_s = time.monotonic()
                answer = agent.get("/metrics")
                assert clock.seconds_between(began_s, time.monotonic()) < 1
                assert answer.status == 200
                assert answer.body.count(b"\nfstat_file_size_bytes{") == 10_000
            assert reload.result() == (200, "Reloaded.\n")
    assert agent.scrape().value("fstat_cache_watches") == watches
    wait_until(lambda: agent.descriptors() <= descriptors)


@pytest.mark.alone
@pytest.mark.parametrize("ready", [False, True])
def test_stop_during_a_reload(tmp_path: Path, ready: bool) -> None:
    """Within a second, with 0, whatever is under way, during the first scan too; nothing but information in the log."""
    for number in range(3_000):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "a.log").touch()
    path, log_path, port = tmp_path / "x.yml", tmp_path / "x.out", free_port()
    text = "logs: [{{group: g, paths: ['{folder}/**/*.log'], labels: {{n: '{number}'}}}}]"
    path.write_text(text.format(folder=tmp_path, number=0))
    command = [sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}", f"--config.file={path}"]
    agent = Server(command, log_path, port)
    wait_until(lambda: "listening" in log_path.read_text())
    if ready:
        agent.wait_for("/-/ready")
    for number in range(1, 4):
        path.write_text(text.format(folder=tmp_path, number=number))
        os.kill(agent.pid, signal.SIGHUP)
        time.sleep(0.05)
    assert agent.get("/-/healthy").status == 200
    watch = Stopwatch()
    assert agent.stop() == 0, log_path.read_text()
    assert watch.seconds() < 1
    lines = [line for line in log_path.read_text().splitlines() if "logger=fstat_cache.handles" not in line]
    assert [line for line in lines if "level=info" not in line] == []


def reloaded(agent: Agent) -> float:
    """When the configuration was loaded last."""
    return agent.scrape().value(LAST_SUCCESS) or 0


@as_root
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_counted_is_what_was_written_through_reloads(tmp_path: Path, start_agent: StartAgent, seed: int) -> None:
    """Whatever is done to the logs while one configuration follows another: at each scrape the bytes counted lie
    between the truth before and after it, no counter of a group goes back, and at the end all is exact.
    """
    rng = random.Random(seed)
    path = tmp_path / "exporter-0.yml"
    with Workload(tmp_path, seed, tuple(style for style in ALL if style not in SEEN_LATE)) as workload:
        for number in range(1_000):  # that a reload takes its time
            (workload.logs / f"empty-{number}").mkdir()

        def text(variant: int) -> str:
            return BEGINNING + f"state: {{path: {tmp_path}/state.db}}\n" + VARIANTS[variant].format(logs=workload.logs)

        agent = start_agent(config=text(0))
        workload.start(agent)
        scrape = workload.check(agent)
        for number in range(RELOADS):
            path.write_text(text(rng.randrange(len(VARIANTS))))
            before_s = reloaded(agent)
            os.kill(agent.pid, signal.SIGHUP)
            while True:
                before, scrape = scrape, workload.check(agent)
                assert not went_back(counters(before), counters(scrape)), (seed, number)
                for family in ("fstat_file_appended_bytes_total", "fstat_file_changes_total"):
                    lower = went_back(by_path(before, family), by_path(scrape, family))
                    assert not [path for path in lower if not REBORN.search(path)], (seed, number, lower)
                if (scrape.value(LAST_SUCCESS) or 0) > before_s:
                    break
            workload.run_for(rng.uniform(0, 0.7))
        workload.stop()
        workload.check(agent)
    assert scrape.value(WAS_SUCCESSFUL) == 1


def counters(scrape: Scrape) -> dict[str, float]:
    """Those of both groups."""
    return {
        f"{group} {family}": value
        for group in ("all", "other")
        for family in ("appended_bytes", "changes", "truncations", "rotations")
        for value in scrape.values(f"fstat_group_{family}_total", group=group)
    }
