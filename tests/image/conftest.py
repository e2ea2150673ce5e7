"""The image, built and run by the programs that `make test-image` installs: as Docker would, but without a daemon.

No registry is asked: the base is a Debian made by debootstrap, under the name that the Dockerfile gives to its base.
"""

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY, Agent, Server, free_port, program

SCRATCH = REPOSITORY / "build" / "image"
BASE_ARCHIVE = SCRATCH / "base.tar"
IMAGE = "localhost/fstat-exporter:test"

# runc: crun refuses machines that have both versions of control groups mounted. The limits: podman's own are above what
# a container in a container may ask for.
CONTAINERS_CONF = f"""
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]

[network]
network_config_dir = "{SCRATCH}/networks"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

STORAGE_CONF = f"""
[storage]
driver = "overlay"
graphroot = "{SCRATCH}/storage"
runroot = "{SCRATCH}/run"

[storage.options.overlay]
skip_mount_home = "true"
"""

# Where packages come from. Nothing else of this machine's pip configuration is of use to the image: what it installs is
# pinned, and `constraint` names a file that is not in it.
PIP_OPTIONS = ("cert", "extra-index-url", "index-url", "proxy", "timeout", "trusted-host")


def run(*command: str | Path, timeout_s: float = 30) -> str:
    """Run to the end, with success, and return what was printed."""
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def inspect(name: str) -> dict[str, Any]:
    """What podman knows of an image or a container."""
    (found,) = json.loads(run("podman", "inspect", name))
    return dict(found)


def logged(container: str) -> str:
    """What a container in the background has written so far."""
    command = ["podman", "logs", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


class Container(Agent):
    """The agent in a container, its root read-only, its port at a free one of the loopback."""

    def __init__(self, name: str, log_path: Path, *arguments: str, options: list[str]) -> None:
        """Start it and wait until it is ready; `options` are podman's, `arguments` the agent's."""
        self.name = name
        port = free_port()
        command = ["podman", "run", "--rm", f"--name={name}", "--read-only", f"--publish=127.0.0.1:{port}:10943"]
        Server.__init__(self, [*command, *options, IMAGE, *arguments], log_path, port)
        self.wait_for("/-/ready")


StartContainer = Callable[..., Container]


@pytest.fixture(scope="session", autouse=True)
def containers() -> Iterator[None]:
    """Images and containers of the tests' own, apart from those that the machine may have."""
    for name in ("buildah", "podman", "runc"):
        program(name, "`make test-image` as root installs it")
    if not BASE_ARCHIVE.exists():
        pytest.fail(f"{BASE_ARCHIVE} is missing: `make test-image` as root makes it")
    with pytest.MonkeyPatch.context() as patch:
        for name, text in (("CONTAINERS_CONF", CONTAINERS_CONF), ("CONTAINERS_STORAGE_CONF", STORAGE_CONF)):
            path = SCRATCH / f"{name.lower()}.conf"
            path.write_text(text)
            patch.setenv(name, str(path))
        yield
        run("buildah", "rm", "--all")  # it leaves one where two stages have the same base
        run("podman", "image", "prune", "--force")  # what had the image's name before


@pytest.fixture(scope="session")
def base() -> str:
    """The name of the Dockerfile's base, under which there is an image now."""
    found = re.search(r"^FROM (\S+) AS base$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    if subprocess.run(["podman", "image", "exists", found[1]], check=False).returncode:
        path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run("podman", "import", f"--change={path}", BASE_ARCHIVE, found[1], timeout_s=120)
    return found[1]


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of buildah with which pip finds packages as it does on this machine."""
    settings = configparser.RawConfigParser()
    settings.add_section("global")
    for line in reversed(run(sys.executable, "-m", "pip", "config", "list").splitlines()):  # the strongest come first
        name, value = line.split("=", 1)
        option = name.rpartition(".")[2]
        if option in PIP_OPTIONS:
            settings.set("global", option, ast.literal_eval(value))
    pip_conf = tmp_path_factory.mktemp("pip") / "pip.conf"
    with pip_conf.open("w") as file:
        settings.write(file)
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    volumes = [f"--volume={certificates}:{certificates}:ro", f"--volume={pip_conf}:/etc/pip.conf:ro"]
    return ["--isolation=chroot", "--network=host", *volumes]


@pytest.fixture(scope="session")
def image(base: str, network: list[str]) -> str:
    """The image, built."""
    options = ["--pull-never", "--format=docker", f"--tag={IMAGE}"]
    run("buildah", "build", *options, *network, ".", timeout_s=240)
    return IMAGE


@pytest.fixture
def start_container(image: str, tmp_path: Path) -> Iterator[StartContainer]:
    """Starts the image: `start_container(ARGUMENT, ..., options=[...])`; all must end with exit status 0."""
    started: list[Container] = []

    def start(*arguments: str, options: list[str]) -> Container:
        name = f"fstat-exporter-test-{os.getpid()}-{len(started)}"
        started.append(Container(name, tmp_path / f"{name}.out", *arguments, options=options))
        return started[-1]

    yield start
    for each in started:
        status = each.stop()
        subprocess.run(["podman", "rm", "--force", "--ignore", each.name], capture_output=True, check=False)
        assert status == 0, each.log_path.read_text()
