"""The Debian package, from `tools/deb` to `dpkg --purge`, in a Debian of its own that runs no systemd."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import __version__
from tests.image.conftest import run
from tests.support import REPOSITORY, Server, free_port

pytestmark = [pytest.mark.image, pytest.mark.timeout(300)]  # it builds the package first

UNIT = "usr/lib/systemd/system/fstat-exporter.service"
WANTED = "etc/systemd/system/multi-user.target.wants/fstat-exporter.service"
SOCKET_WANTED = "etc/systemd/system/sockets.target.wants/fstat-exporter.socket"
STATE = "var/lib/private/fstat-exporter"
DEFAULTS = "etc/default/fstat-exporter"
CONFIG = "etc/fstat-exporter/exporter.yml"


class Debian:
    """A Debian in a folder, whose commands buildah runs with that folder as their root."""

    def __init__(self, base: str, options: list[str]) -> None:
        """Make one of the image `base`; `options` are those of `buildah run`."""
        self.name = run("buildah", "from", "--pull-never", base).strip()
        self.options = options
        self.root = Path(run("buildah", "mount", self.name).strip())

    def command(self, *command: str, user: str = "root") -> list[str]:
        """The command that runs `command` in there."""
        return ["buildah", "run", *self.options, f"--user={user}", self.name, "--", *command]

    def run(self, *command: str, timeout_s: float = 30) -> str:
        """Run to the end, with success, and return what was printed."""
        return run(*self.command(*command), timeout_s=timeout_s)

    def has(self, path: str) -> bool:
        """Whether the path exists, be it a dangling link."""
        return os.path.lexists(self.root / path)


@pytest.fixture
def debian(base: str, network: list[str]) -> Iterator[Debian]:
    """A Debian with the repository in /source."""
    debian = Debian(base, network)
    ignored = [line.strip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines()]
    shutil.copytree(REPOSITORY, debian.root / "source", ignore=shutil.ignore_patterns(".git", *ignored))
    yield debian
    run("buildah", "rm", debian.name)


def test_package(debian: Debian, tmp_path: Path) -> None:
    """It installs, enables, upgrades and purges the service; what the administrator changed stays until the purge."""
    debian.run("/source/tools/deb", timeout_s=200)
    (built,) = (debian.root / "source" / "dist").iterdir()
    assert built.name.startswith(f"fstat-exporter_{__version__}_")
    package = built.rename(debian.root / built.name).name
    shutil.rmtree(debian.root / "source")  # nothing that is installed may need it

    debian.run("groupadd", "--system", "fstat-exporter")  # by an administrator, for the key of a certificate
    debian.run("dpkg", "--install", package)
    assert debian.has(WANTED)
    assert debian.run("fstat-exporter", "--version").split()[1] == __version__
    debian.run("/usr/lib/fstat-exporter/bin/python3", "-c", "import exporter.top.screen")  # with urwid
    config = debian.root / CONFIG
    config.write_text(config.read_text() + f"state: {{path: /{STATE}/state.db}}\n")
    port = free_port()
    (debian.root / DEFAULTS).write_text(f'ARGS="--web.listen-address=127.0.0.1:{port}"\n')
    debian.run("install", "--directory", "--owner=fstat-exporter", f"/{STATE}")  # as StateDirectory= of the unit

    (start,) = re.findall(r"^ExecStart=(.*)$", (debian.root / UNIT).read_text(), re.MULTILINE)
    command = debian.command("sh", "-c", f". /{DEFAULTS}; exec {start}", user="fstat-exporter")
    server = Server(command, tmp_path / "agent.out", port)
    server.wait_for("/-/ready")
    assert b"fstat_exporter_build_info" in server.get("/metrics").body
    server.stop()  # buildah kills it
    assert debian.has(f"{STATE}/state.db")

    (debian.root / WANTED).unlink()  # systemctl disable
    debian.run("dpkg", "--install", package)  # an upgrade
    assert not debian.has(WANTED)
    assert STATE in config.read_text()
    (debian.root / SOCKET_WANTED).parent.mkdir(parents=True, exist_ok=True)
    (debian.root / SOCKET_WANTED).symlink_to("/usr/lib/systemd/system/fstat-exporter.socket")  # systemctl enable

    debian.run("dpkg", "--remove", "fstat-exporter")
    assert not debian.has(UNIT)
    assert config.exists()
    debian.run("dpkg", "--purge", "fstat-exporter")
    paths = (WANTED, SOCKET_WANTED, STATE, DEFAULTS, CONFIG, "usr/lib/fstat-exporter")
    assert [path for path in paths if debian.has(path)] == []
    users = debian.root / "etc" / "passwd"
    assert "fstat-exporter" not in users.read_text()

    debian.run("dpkg", "--install", package)
    (config.parent / "tls.key").touch()  # a file that the user's group may own
    debian.run("dpkg", "--purge", "fstat-exporter")
    assert "fstat-exporter" in users.read_text()
