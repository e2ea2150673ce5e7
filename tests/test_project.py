"""The project around the code: what is installed, and what make promises."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support import REPOSITORY, Server, environment, free_port, program

PACKAGES = ("fstat_cache", "exporter")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy because setuptools leaves its scratch files beside the source."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in (*PACKAGES, "tests", "examples", "benchmarks", "config"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, f"--wheel-dir={target}", str(source)], check=True, timeout=50)
    (built,) = target.glob("*.whl")
    return built


def test_wheel_has_both_packages_and_nothing_else(wheel: Path) -> None:
    """Every file of the two packages is in the wheel, the type markers too; tests and examples are not."""
    expected = {
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed" or (path.parent.name == "static" and path.is_file())
    }
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """The agent of the wheel starts and knows the version of the distribution."""
    script = "import exporter, sys; print(exporter.__file__); from exporter.__main__ import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", script, "--version"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    where, told = run.stdout.split("\n", 1)
    assert where.startswith(str(wheel))
    assert version("fstat-exporter") in told
    assert version("fstat-exporter") == wheel.name.split("-")[1]


def test_make_run_serves(tmp_path: Path) -> None:
    """`make run` starts the agent on the default configuration, which finds this machine's logs."""
    if not (REPOSITORY / ".venv" / ".run").exists():
        pytest.skip("without `make test` there is no .venv, and this test makes none")
    port = free_port()
    command = ["make", "--no-print-directory", "run", f"ARGS=--web.listen-address=127.0.0.1:{port}"]
    server = Server(command, tmp_path / "make.out", port)
    try:
        server.wait_for("/-/ready", timeout_s=50)  # it installs first when pyproject.toml has changed
        assert b"fstat_exporter_build_info" in server.get("/metrics").body
        assert "http://localhost:10943/" in server.log_path.read_text()
    finally:
        server.stop()


def test_missing_program_is_told(tmp_path: Path) -> None:
    """Where nothing can be installed, the helper names the programs and the packages, and fails."""
    for tool in ("bash", "sort", "id"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    command = [str(REPOSITORY / "tools" / "debian-programs"), "bash", "promtool:prometheus", "prometheus", "logrotate"]
    run = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=10)
    assert run.returncode == 1
    assert run.stderr == ("missing: promtool prometheus logrotate; on Debian: apt-get install logrotate prometheus\n")


def test_missing_program_skips_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that needs a program from Debian is skipped without it, with the reason; in CI it fails."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is missing"):
        program("no-such-program")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no-such-program is missing"):
        program("no-such-program")


def test_ci_runs_linters_and_tests() -> None:
    """.ci/run can be executed and calls both targets of make."""
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make lint", "make test"} <= {" ".join(line.split()[:2]) for line in script.read_text().splitlines()}
