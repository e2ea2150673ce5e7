"""The project around the code: what is installed, and what make promises."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support import REPOSITORY, Server, environment, free_port, program

PACKAGES = ("fstat_cache", "exporter")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, less what git ignores: setuptools leaves its scratch files beside the source."""
    ignored = [line.strip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines()]
    ignore = shutil.ignore_patterns(".git", *ignored)
    return Path(shutil.copytree(REPOSITORY, tmp_path_factory.mktemp("source") / "copy", symlinks=True, ignore=ignore))


@pytest.fixture(scope="module")
def distributions(source: Path) -> Path:
    """The folder with the sdist, and with the wheel that was built from the sdist."""
    files = {path for path in source.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={source.parent}", str(source)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=50)
    for path in {path for path in source.rglob("*") if path.is_file()} - files:
        path.unlink()
    return source.parent


@pytest.fixture
def wheel(distributions: Path) -> Path:
    """The wheel."""
    (built,) = distributions.glob("*.whl")
    return built


def test_sdist_is_the_repository(distributions: Path, source: Path) -> None:
    """Everything it takes to build, test and operate the agent is in the sdist."""
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - made == {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}


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


def test_make_help() -> None:
    """`make help` has one line of at most 90 columns for each target, all texts in the same column."""
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True)
    rows = [re.fullmatch(r"(  make (\S+) +)\S.*", line) for line in done.stdout.splitlines()]
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert {row[2] for row in rows if row} == set(phony[1].split()) - {"programs", "programs-image"}
    assert len({len(row[1]) for row in rows if row}) == 1
    assert max(map(len, done.stdout.splitlines())) <= 90


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
        urls = re.findall(r"\S*https?://\S*", server.log_path.read_text())
        assert urls == [f"url=http://127.0.0.1:{port}/"]  # nothing names another address
    finally:
        server.stop()


def test_make_run_that_can_not_listen_prints_no_url() -> None:
    """`make run` on a port that is taken prints no URL, and fails."""
    if not (REPOSITORY / ".venv" / ".run").exists():
        pytest.skip("without `make test` there is no .venv, and this test makes none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ["make", "--no-print-directory", "run", f"ARGS=--web.listen-address={address}"]
        result = subprocess.run(
            command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=50
        )
    assert result.returncode != 0
    assert f"listen on {address}" in result.stderr
    assert "://" not in result.stdout + result.stderr


def test_missing_program_is_told(tmp_path: Path) -> None:
    """Where nothing can be installed, the helper names the programs and the packages, and fails."""
    for tool in ("bash", "sort", "id"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    command = [str(REPOSITORY / "tools" / "debian-programs"), "bash", "promtool:prometheus", "prometheus", "logrotate"]
    run = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=10)
    assert run.returncode == 1
    assert run.stderr == ("missing: promtool prometheus logrotate; on Debian: apt-get install logrotate prometheus\n")


def test_package_that_cannot_be_unpacked_is_told(tmp_path: Path) -> None:
    """Where nothing can be downloaded, the helper for packages that conflict names them, and fails."""
    for tool in ("bash", "dirname", "id"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    command = [str(REPOSITORY / "tools" / "debian-unpacked"), "no-such-package"]
    run = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=10)
    assert run.returncode == 1
    assert run.stderr == "missing: no-such-package; on Debian, as root: tools/debian-unpacked no-such-package\n"


def test_missing_program_skips_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that needs a program from Debian is skipped without it, with the reason; in CI it fails."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is missing"):
        program("no-such-program")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no-such-program is missing"):
        program("no-such-program")


def test_ci_runs_linters_and_tests() -> None:
    """.ci/run can be executed and calls the targets of make."""
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    called = {" ".join(line.split()[:2]) for line in script.read_text().splitlines()}
    assert called >= {"make lint", "make test", "make test-long"}


WORKFLOWS: dict[str, Any] = {
    path.name: yaml.safe_load(path.read_text()) for path in (REPOSITORY / ".github" / "workflows").iterdir()
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_is_careful(name: str) -> None:
    """An action is named by its commit, a job has a time limit, and a token has the permissions that a job asks for.

    No step has a pipe: GitHub's default shell has no pipefail.
    """
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job or job["uses"].startswith("./")
        steps = job.get("steps", [])
        actions = [step["uses"] for step in steps if "uses" in step]
        assert [action for action in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
        assert [step["run"] for step in steps if re.search(r"(?<!\|)\|(?!\|)", step.get("run", ""))] == []


def test_workflow_tests_each_python() -> None:
    """The classifiers of the distribution name the Pythons that run the tests."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"] == named


def test_pre_commit_runs_the_linters() -> None:
    """The hook for pre-commit runs what `make lint` runs, with nothing that it would have to download."""
    (repository,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [(hook["entry"], hook["language"]) for hook in repository["hooks"]] == [("make lint", "system")]


@pytest.mark.parametrize(
    ("name", "extra"), [("run", ""), ("top", "top"), ("test", "test"), ("lint", "lint"), ("build", None)]
)
def test_what_is_pinned_is_what_is_asked_for(name: str, extra: str | None) -> None:
    """requirements/*.txt pin, with hashes, every direct dependency to a version that pyproject.toml allows."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    asked = project["build-system"]["requires"] if extra is None else list(project["project"]["dependencies"])
    wanted = [extra] if extra else []
    while wanted:
        for line in project["project"]["optional-dependencies"][wanted.pop()]:
            requirement = Requirement(line)
            if requirement.name == project["project"]["name"]:
                wanted += requirement.extras
            else:
                asked.append(line)
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text()
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; .+)? \\\n    --hash=sha256:", text, re.MULTILINE))
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_what_is_pinned_is_the_same_everywhere() -> None:
    """No two files of requirements/ pin different versions of a package."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for path in (REPOSITORY / "requirements").iterdir():
        for name, version_pinned in re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE):
            versions[name].add(version_pinned)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
