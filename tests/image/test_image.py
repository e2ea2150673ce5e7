"""The image: what is in it, and what the agent sees from within."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter import __version__
from tests.image.conftest import StartContainer, inspect, logged, run
from tests.support import DOCUMENTS, REPOSITORY, wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(300)]  # the first one waits for the image to be built

SEE_ALL = ["--user=0", "--cap-drop=ALL", "--cap-add=DAC_READ_SEARCH"]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Logs on the host: one for everybody, one for root, and one in a folder for root."""
    folder = tmp_path / "log"
    (folder / "private").mkdir(parents=True)
    for name in ("open.log", "closed.log", "private/hidden.log"):
        (folder / name).write_text("one line\n")
    (folder / "closed.log").chmod(0o640)
    (folder / "private").chmod(0o750)
    tmp_path.chmod(0o755)
    return folder


def documented_options(number: int, logs: Path) -> list[str]:
    """Those of a command `docker run` in docs/operating.md, for other logs than those of this machine."""
    line = re.findall(r"^docker run (.*) fstat-exporter$", DOCUMENTS["docs/operating.md"], re.MULTILINE)[number]
    options = [option for option in line.split() if option != "--publish=10943:10943"]
    assert len(options) == line.count("--") - 1
    volume = options.index("--volume=/var/log:/var/log:ro")
    options[volume] = f"--volume={logs}:/var/log:ro"
    return options


def test_settings(image: str) -> None:
    """What runs is no root's, is told to stop by SIGTERM, looked after, and says what it is."""
    found = inspect(image)
    config = found["Config"]
    user, group = config["User"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["ExposedPorts"]) == {"10943/tcp"}
    assert found["Healthcheck"]["Test"][0] == "CMD"
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels.items() >= {"title": "fstat-exporter", "version": __version__, "licenses": "Apache-2.0"}.items()
    assert labels["description"]


def test_nothing_else_is_left(image: str, base: str) -> None:
    """To the base come the agent's environment and its configuration: no wheel, no cache, no compiler, no pip."""
    added_mb = (inspect(image)["Size"] - inspect(base)["Size"]) / 1e6
    told_mb = re.search(r"adds (\d+) MB to `python:3\.13-slim`", DOCUMENTS["docs/operating.md"])
    assert told_mb
    assert added_mb < int(told_mb[1]) + 2
    changes = [line.split(maxsplit=1) for line in run("podman", "diff", image, base).splitlines()]
    added = {path for kind, path in changes if kind != "C"}
    assert {path for path in added if not path.startswith(("/opt/fstat-exporter", "/etc/fstat-exporter"))} == set()
    listed = run("podman", "run", "--rm", "--entrypoint=find", image, "/opt/fstat-exporter").splitlines()
    assert "/opt/fstat-exporter/bin/fstat-exporter" in listed
    assert [path for path in listed if path.endswith((".whl", "/pip")) or "/setuptools/" in path] == []
    assert any(path.endswith(".pyc") for path in listed)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_architectures(architecture: str, tmp_path: Path) -> None:
    """The lock has the hash of a wheel of each package for the architecture: the image needs no compiler."""
    tags = [f"--platform={tag}_{architecture}" for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
    found = re.search(r"^FROM \S+/python:(3\.\d+)\.", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={found[1]}", "--implementation=cp", *tags]
    lock = REPOSITORY / "requirements" / "run.txt"
    pip = [sys.executable, "-m", "pip", "download", "--require-hashes", f"--requirement={lock}", f"--dest={tmp_path}"]
    run(*pip, *options, timeout_s=120)
    assert len(list(tmp_path.glob("*.whl"))) == len(re.findall("^[a-z]", lock.read_text(), re.MULTILINE))


def test_arguments_are_the_agents(image: str) -> None:
    """What stands behind the image's name are flags; without any there is a configuration, and it is valid."""
    assert __version__ in run("podman", "run", "--rm", image, "--version")
    assert "valid" in run("podman", "run", "--rm", "--read-only", image, "--config.check")


def test_unprivileged_user(start_container: StartContainer, logs: Path) -> None:
    """By default it publishes what everybody may see, and says in metrics and in the log what it may not."""
    container = start_container(options=documented_options(0, logs))
    scrape = container.scrape()
    assert scrape.value("fstat_file_size_bytes", path="/var/log/open.log") == 9
    assert scrape.value("fstat_file_size_bytes", path="/var/log/closed.log") == 9
    assert scrape.value("fstat_cache_polled_files", reason="permission") == 1
    assert scrape.value("fstat_file_size_bytes", path="/var/log/private/hidden.log") is None
    assert scrape.value("fstat_exporter_unreadable_directories") == 1
    told = container.log_path.read_text()
    assert "/var/log/closed.log" in told
    assert "CAP_DAC_READ_SEARCH" in told
    assert "/var/log/private" in told


def test_root_with_one_capability(start_container: StartContainer, logs: Path) -> None:
    """It watches every log, and what the host appends is in the next scrape."""
    options = documented_options(1, logs)
    assert set(SEE_ALL) < set(options)
    container = start_container(options=options)
    before = container.scrape()
    assert before.value("fstat_exporter_unreadable_directories") == 0
    assert sum(before.values("fstat_cache_polled_files")) == 0
    for number, name in enumerate(("open.log", "closed.log", "private/hidden.log"), start=1):
        with (logs / name).open("ab") as log:
            log.write(b"!" * number)
        after = container.scrape()
        assert after.value("fstat_file_size_bytes", path=f"/var/log/{name}") == 9 + number
        assert after.value("fstat_file_appended_bytes_total", path=f"/var/log/{name}") == number


def test_state_on_the_host(start_container: StartContainer, logs: Path, tmp_path: Path) -> None:
    """With a folder for its state the counters go on in the next container."""
    config = tmp_path / "exporter.yml"
    config.write_text("state: {path: /state/state.db}\nlogs: [{group: all, paths: [/var/log/open.log]}]\n")
    (tmp_path / "state").mkdir()
    mounts = [f"--volume={logs}:/var/log:ro", f"--volume={config}:/config.yml:ro", f"--volume={tmp_path}/state:/state"]
    first = start_container("--config.file=/config.yml", options=[*mounts, *SEE_ALL])
    assert first.scrape().value("fstat_group_appended_bytes_total") == 0
    with (logs / "open.log").open("ab") as log:
        log.write(b"!!!")
    first.scrape()
    first.stop()
    with (logs / "open.log").open("ab") as log:
        log.write(b"!!")
    second = start_container("--config.file=/config.yml", options=[*mounts, *SEE_ALL])
    assert second.scrape().value("fstat_group_appended_bytes_total") == 5


@pytest.mark.parametrize("options", [[], SEE_ALL], ids=["default", "root"])
def test_sigterm(start_container: StartContainer, logs: Path, options: list[str]) -> None:
    """SIGTERM stops it within two seconds, with exit status 0."""
    container = start_container(options=[f"--volume={logs}:/var/log:ro", *options])
    begin = time.monotonic()
    assert container.stop() == 0
    assert time.monotonic() - begin < 2


def test_health(image: str) -> None:
    """The health check succeeds on the default port, and fails where nobody answers."""
    name = f"fstat-exporter-test-{os.getpid()}-health"
    check = ["podman", "exec", name, *inspect(image)["Healthcheck"]["Test"][1:]]
    for address, is_healthy in ((":10943", True), (":10944", False)):
        options = ["--detach", "--rm", "--read-only", "--network=none", f"--name={name}"]
        run("podman", "run", *options, image, f"--web.listen-address={address}")
        try:
            wait_until(lambda: "scan done" in logged(name))
            assert (subprocess.run(check, capture_output=True, check=False).returncode == 0) is is_healthy
        finally:
            run("podman", "rm", "--force", "--time=2", name)
