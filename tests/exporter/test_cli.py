"""The command as a real process: flags, mistakes, signals, what it costs."""

import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from exporter import cli
from exporter.config.model import from_patterns
from tests.certificates import make_pair
from tests.exporter.tracking import append
from tests.support import REPOSITORY, Agent, Scrape, Server, Stopwatch, free_port, parse_scrape, wait_until

COMMAND = [sys.executable, "-W", "error", "-m", "exporter"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def run(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; `prefix` is a command that executes it."""
    command = [*prefix, *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=REPOSITORY, env=ENVIRONMENT)


def mistake(*arguments: str, prefix: Sequence[str] = ()) -> str:
    """What is said of a mistake, which is never a traceback and ends with 1."""
    result = run(*arguments, prefix=prefix)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    return result.stderr


class Background(Server):
    """The command in the background, in a directory of its own choice."""

    def __init__(self, arguments: list[str], log_path: Path, cwd: Path, prefix: Sequence[str]) -> None:
        self.log_path = log_path
        with log_path.open("wb") as log:
            command = [*prefix, *COMMAND, *arguments]
            self.popen = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, env=ENVIRONMENT)
        self._popen, self.pid, self.arguments = self.popen, self.popen.pid, arguments
        line = wait_until(lambda: re.search(r'listening.*address"?[=:] ?"?([^"\s]+):(\d+)', log_path.read_text()))
        self.host, self.port = line[1], int(line[2])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Background]]:
    """Starts the command in `tmp_path` or `cwd`, on an address of the kernel's choice; each must stop with 0."""
    started: list[Background] = []

    def begin(
        *arguments: str, address: str = "127.0.0.1:0", cwd: Path = tmp_path, prefix: Sequence[str] = ()
    ) -> Background:
        flags = ["--web.listen-address", address, *arguments]
        started.append(Background(flags, tmp_path / f"agent-{len(started)}.out", cwd, prefix))
        return started[-1]

    yield begin
    for each in started:
        assert each.stop() == 0, each.log_path.read_text()


def test_version() -> None:
    """Name and version."""
    result = run("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"fstat-exporter 0\.1\.0 \(Python 3\.\d+\.\d+\)\n", result.stdout)


def test_help() -> None:
    """Every flag is told."""
    text = run("--help").stdout
    for flag in (
        "config.file",
        "config.check",
        "web.listen-address",
        "web.telemetry-path",
        "web.authorization",
        "web.config.file",
        "path.rootfs",
        "log.level",
        "log.format",
    ):
        assert f"--{flag}" in text
    assert "fstat-exporter shippers --config.file=FILE" in text


@pytest.mark.parametrize("flags", [["--no.such"], ["--log.level=loud", "x"], ["--web.listen-address"]])
def test_bad_flags(flags: list[str]) -> None:
    """2, and one line that names the flag."""
    result = run(*flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fstat-exporter: error: ")
    assert flags[0].split("=")[0] in result.stderr


@pytest.mark.parametrize("more", [["/x"], ["/x", "--config.check"]])
def test_a_root_that_can_not_be_used(tmp_path: Path, more: list[str]) -> None:
    """One line that names the flag, the directory and the remedy."""
    file, expected = tmp_path / "file", "; expected the directory where the host's root is mounted\n"
    file.touch()
    for path, reason in (
        ("/no/such", "cannot be used: No such file or directory"),
        ("", "cannot be used: No such file or directory"),
        (str(file), "is not a directory"),
    ):
        assert mistake(f"--path.rootfs={path}", *more) == f"--path.rootfs: {path!r} {reason}{expected}"


def test_a_relative_root(start: Callable[..., Background], tmp_path: Path) -> None:
    """Is beneath the working directory of the start. A pattern is not: it has to be the host's path."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host/a.log").touch()
    agent = start("--path.rootfs=host", "/*.log")
    agent.wait_for("/-/ready")
    paths = {dict(pairs).get("path") for name, pairs in scraped(agent).samples if name == "fstat_file_size_bytes"}
    assert paths == {"/a.log"}
    assert mistake(f"--path.rootfs={tmp_path}", "/*.log", "a.log").startswith("pattern 'a.log': is relative; with ")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(exec true)"])
def test_a_log_that_can_not_be_written(tmp_path: Path, redirection: str) -> None:
    """Stops nothing: closed, on a full disk, or with nobody at the other end of the pipe."""
    (tmp_path / "a.log").write_text("x")
    port = free_port()
    command = (
        f"exec {sys.executable} -m exporter --web.listen-address=127.0.0.1:{port} '{tmp_path}/*.log' {redirection}"
    )
    agent = Server(["bash", "-c", command], tmp_path / "agent.out", port)
    agent.wait_for("/-/ready")
    os.kill(agent.pid, signal.SIGHUP)
    assert agent.get("/metrics").status == 200
    assert agent.stop() == 0
    assert agent.log_path.read_text() == ""


def test_config_check(tmp_path: Path) -> None:
    """A good file gives a summary and 0, a bad one every mistake and 1."""
    path = tmp_path / "x.yml"
    path.write_text(f"logs: [{{group: a, paths: [{path}, '{tmp_path}/*']}}]")
    result = run("--config.check", "--config.file", str(path))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{path}: valid, groups: 1, patterns: 2\n", "")
    path.write_text("logs: [{group: a, pathes: [/a]}]\ncahe: 1")
    assert mistake("--config.check", f"--config.file={path}").splitlines() == [
        f"{path}:1:8: logs[0].paths: the key is missing, expected a list of patterns",
        f"{path}:1:19: logs[0].pathes: unknown key, did you mean 'paths'?",
        f"{path}:2:1: cahe: unknown key, did you mean 'cache'?",
    ]
    assert mistake(f"--config.file={path}").count("\n") == 3


def test_config_check_of_a_web_configuration(tmp_path: Path) -> None:
    """Says that it is valid, after its warnings."""
    path = tmp_path / "web.yml"
    path.write_text("http_server_config: {http2: true}")
    result = run("--config.check", "--web.config.file", str(path), str(path))
    assert (result.returncode, result.stdout) == (0, f"command line: valid, groups: 1, patterns: 1\n{path}: valid\n")
    assert result.stderr.startswith(f"{path}: http_server_config.http2: ")


def test_authorization_outside_of_a_pod(tmp_path: Path) -> None:
    """A start fails with one line; a check, which may run anywhere, gives a hint; the report needs neither TLS."""
    pair = make_pair(tmp_path, "server")
    path, web_config = tmp_path / "exporter.yml", tmp_path / "web.yml"
    web_config.write_text(f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}")
    shipper = f"{{name: a, type: fluentd, path: {tmp_path}/a.pos}}"
    path.write_text(f"logs: [{{group: g, paths: ['{tmp_path}/*.log']}}]\nweb: {{authorization: kubernetes}}\n"
                    f"shippers: [{shipper}]\n")  # fmt: skip
    (tmp_path / "a.pos").touch()
    files = (f"--config.file={path}", f"--web.config.file={web_config}")
    reason = "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: run the agent in a pod\n"
    assert mistake(*files) == f"fstat-exporter: web.authorization is kubernetes, but {reason}"
    flags = ("--web.authorization=kubernetes", f"--web.config.file={web_config}", "/x")
    assert mistake(*flags) == f"fstat-exporter: web.authorization is kubernetes, but {reason}"
    assert mistake("--web.authorization=kubernetes", "/x").startswith("--web.config.file: tls_server_config: ")
    checked = run("--config.check", *files)
    assert (checked.returncode, checked.stderr) == (0, f"{path}: web.authorization: hint: {reason}")
    report = run("shippers", f"--config.file={path}")
    assert (report.returncode, report.stderr) == (0, "")


def test_shippers(tmp_path: Path) -> None:
    """The command prints the report; the status is 1 while a state cannot be read."""
    (tmp_path / "a.log").write_text("123456\n")
    path = tmp_path / "exporter.yml"
    shipper = f"{{name: loki, type: promtail, path: {tmp_path}/positions.yml}}"
    path.write_text(f"logs: [{{group: g, paths: ['{tmp_path}/*.log']}}]\nshippers: [{shipper}]\n")
    result = run("shippers", "--config.file", str(path))
    assert (result.returncode, result.stderr) == (1, "")
    assert f"{tmp_path}/positions.yml  -    no: no state file found" in result.stdout
    (tmp_path / "positions.yml").write_text(f"positions:\n  {tmp_path}/a.log: '2'\n")
    result = run("--config.file", str(path), "shippers")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(rf"^loki +5  >= \d+ s  recent  {tmp_path}/a\.log$", result.stdout, re.MULTILINE)


def test_shippers_mistakes(tmp_path: Path) -> None:
    """Each is one line: a configuration that is not valid, one without shippers, and patterns."""
    path = tmp_path / "exporter.yml"
    path.write_text("logs: [{group: g, paths: [/x]}]\nno: such\n")
    assert mistake("shippers", f"--config.file={path}").startswith(f"{path}:2:1: no: ")
    path.write_text("logs: [{group: g, paths: [/x]}]\n")
    assert mistake("shippers", f"--config.file={path}") == f"{path}: shippers: is missing: add the log shippers\n"
    assert mistake("shippers", "/x").startswith("shippers: takes no patterns: ")


def test_hints(tmp_path: Path) -> None:
    """Patterns that are directories, or can find nothing on this machine, are valid; they are told with the remedy."""
    config = tmp_path / "x.yml"
    config.write_text(f"logs: [{{group: a, paths: [{tmp_path}, '{tmp_path}/{{a,b}}/*', '{tmp_path}/{{a,x.yml}}']}}]")
    result = run("--config.check", "--config.file", str(config))
    assert (result.returncode, result.stdout) == (0, f"{config}: valid, groups: 1, patterns: 3\n")
    directory = f"hint: {tmp_path} is a directory; write {tmp_path}/* or {tmp_path}/**"
    assert result.stderr.splitlines() == [
        f"{config}: logs[0].paths[0]: {directory}",
        f"{config}: logs[0].paths[1]: hint: matches no file now: cannot find the directory {tmp_path}/a and 1 more",
    ]
    assert run("--config.check", str(tmp_path)).stderr == f"pattern '{tmp_path}': {directory}\n"
    for nothing in (f"{config}/*.log", "/dev/null"):  # no file is in the one, and the other is none
        assert "hint: matches no file now" in run("--config.check", nothing).stderr
    config.write_text(f"state: {{path: {config}}}\nlogs: [{{group: a, paths: [{config}]}}]")
    assert "state.path: hint: " in run("--config.check", "--config.file", str(config)).stderr
    assert config.exists()


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("folder", "it is not a regular file"),
        ("pipe", "it is not a regular file"),
        ("x.yml/state.db", "FOLDER/x.yml is not a directory"),
        ("dangling/state.db", "FOLDER/dangling is not a directory"),
        ("dangling", "No such file or directory"),
        ("folder/missing/state.db", ""),
    ],
)
def test_state_path_that_cannot_be_used(tmp_path: Path, place: str, what: str) -> None:
    """Is told by the check as by a start, and the check makes nothing; a directory that a start makes is no mistake."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    config, path = tmp_path / "x.yml", tmp_path / place
    config.write_text(f"state: {{path: {path}}}\nlogs: [{{group: a, paths: [{config}]}}]")
    if what:
        what = what.replace("FOLDER", str(tmp_path))
        told = mistake("--config.check", "--config.file", str(config))
        assert told == f"{config}: state.path: the state file {path} cannot be used: {what}\n"
    else:
        assert run("--config.check", "--config.file", str(config)).stderr == ""
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.parametrize("is_missing", [False, True])
def test_state_path_without_permission(is_missing: bool) -> None:
    """A directory that this user cannot write to is a mistake; one that is missing may be made by another: a hint."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)  # others reach it, unlike the test's own directory
        directory = f"{folder}/state" if is_missing else folder
        config = f"state: {{path: {directory}/state.db}}\nlogs: [{{group: a, paths: [/proc/version]}}]"
        drop_root = "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))"
        code = f"import encodings.utf_8_sig, os, sys, exporter.cli; {drop_root}; sys.exit(exporter.cli.main())"
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(config)
            file.flush()
            os.chmod(file.name, 0o444)
            command = [sys.executable, "-c", code, "--config.check", "--config.file", file.name]
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=20, cwd=REPOSITORY, env=ENVIRONMENT, check=False
            )
    if is_missing:
        what = f"hint: the directory {directory} is missing, and this user cannot make it: {folder} is not writable"
    else:
        what = f"the state file {directory}/state.db cannot be used: {folder} is not writable for this user"
    assert (result.returncode, result.stderr) == (int(not is_missing), f"{file.name}: state.path: {what}\n")


def test_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quoted '~' is expanded as by a shell, whatever characters the home has; a name may still begin with it."""
    monkeypatch.setenv("HOME", f"{tmp_path}/[a]*")
    patterns = from_patterns(["~/*.log", "~nobody-there/x", "./~/y"], "/here").logs[0].paths
    assert patterns == (rf"{tmp_path}/\[a\]\*/*.log", "/here/~nobody-there/x", "/here/~/y")


def test_mistakes(tmp_path: Path) -> None:
    """One line each: no file, an unreadable one, both file and patterns, bad patterns, bad addresses and paths."""
    assert mistake("--config.file", "/no/file") == "/no/file: cannot be read: No such file or directory\n"
    assert mistake("--config.file", str(tmp_path)) == f"{tmp_path}: cannot be read: is a directory, expected a file\n"
    assert mistake("--config.file", "/no/file", "x") == (
        "--config.file: cannot be combined with patterns on the command line; use one or the other\n"
    )
    assert mistake("") == "pattern '': the pattern is empty\n"
    assert mistake("a[") == r"pattern 'a[': the '[' of '[' is never closed; write '\[' for the character itself" + "\n"
    assert mistake("x", "--web.listen-address=1", "--web.telemetry-path=m").splitlines() == [
        "--web.listen-address: '1' is not an address, expected host:port, [IPv6 address]:port or :port",
        "--web.telemetry-path: 'm' cannot be used, expected a path such as /metrics, not below /-/",
    ]
    for port in ("65536", "9" * 10_000):
        assert mistake("x", f"--web.listen-address=:{port}").endswith("has a port out of range, expected 0 to 65535\n")
    assert mistake("x", "--web.listen-address=192.0.2.1:1") == (
        "fstat-exporter: cannot listen on 192.0.2.1:1: no interface of this machine has this address; "
        "choose another with --web.listen-address\n"
    )


@pytest.mark.skipif(os.path.exists("/etc/fstat-exporter/exporter.yml"), reason="this machine has the default file")
def test_no_configuration() -> None:
    """Without arguments and without the default file it says what there is to do."""
    assert mistake() == (
        "/etc/fstat-exporter/exporter.yml: does not exist; name a configuration with --config.file FILE, "
        "or give patterns: fstat-exporter '/var/log/**/*.log'\n"
    )


def test_port_taken(tmp_path: Path) -> None:
    """One line that names the address, and the flag or the key that sets another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = tmp_path / "x.yml"
        config.write_text(f"web: {{listen_address: '{address}'}}\nlogs: [{{group: a, paths: [/x]}}]")
        by_flag = (
            f"fstat-exporter: cannot listen on {address}: address already in use; "
            "choose another with --web.listen-address"
        )
        assert mistake("x", "--web.listen-address", address) == f"{by_flag}\n"
        assert mistake("--config.file", str(config)) == f"{by_flag}, or web.listen_address in {config}\n"
        # The flag overrides the file: a change of the file would not help.
        assert mistake("--config.file", str(config), "--web.listen-address", address) == f"{by_flag}\n"


def test_patterns(start: Callable[..., Background], tmp_path: Path) -> None:
    """Relative patterns mean files in the current directory; the log names the real port."""
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "a.log"
    path.write_text("123")
    agent = start("sub/*.log", "./no/*")
    agent.wait_for("/-/ready")
    scrape = parse_scrape(agent.get("/metrics").body.decode())
    assert scrape.value("fstat_file_size_bytes", group="default", path=str(path)) == 3
    with path.open("a") as file:
        file.write("4")
    scrape = parse_scrape(agent.get("/metrics").body.decode())
    assert scrape.value("fstat_file_size_bytes", path=str(path)) == 4
    assert scrape.value("fstat_file_changes_total", path=str(path)) == 1
    assert scrape.value("fstat_cache_hits_total") == 2


# Starts the command in a directory that the shell has deleted.
DELETED = ["bash", "-c", 'cd "$0" && rmdir "$0" && exec "$@"']


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    """A directory for DELETED."""
    path = tmp_path / "gone"
    path.mkdir()
    return path


def complaints(agent: Background) -> list[str]:
    """The lines of its log that are no information, but for the one that a user other than root gets."""
    lines = agent.log_path.read_text().splitlines()
    return [line for line in lines if not re.search("level=info|grant CAP_DAC_READ_SEARCH", line)]


@pytest.mark.parametrize("has_config", [False, True])
def test_absolute_paths_in_a_deleted_directory(
    start: Callable[..., Background], tmp_path: Path, gone: Path, has_config: bool
) -> None:
    """With absolute paths the agent needs no working directory: it starts, saves its state, reloads and stops."""
    path = tmp_path / "a.log"
    path.write_text("123")
    config = tmp_path / "x.yml"
    text = f"state: {{path: {tmp_path}/state.db}}\nlogs: [{{group: GROUP, paths: ['{tmp_path}/*.log']}}]"
    config.write_text(text.replace("GROUP", "a"))
    arguments = ("--config.file", str(config)) if has_config else (f"{tmp_path}/*.log",)
    agent = start(*arguments, prefix=[*DELETED, str(gone)])
    agent.wait_for("/-/ready")
    assert os.readlink(f"/proc/{agent.pid}/cwd") == f"{gone} (deleted)"
    assert scraped(agent).value("fstat_file_size_bytes", path=str(path)) == 3
    if has_config:
        config.write_text(text.replace("GROUP", "b"))
        agent.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: scraped(agent).values("fstat_group_files", group="b") == [1])
    assert complaints(agent) == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["/x", "a.log", "b.log"], "pattern 'a.log'"),
        (["--config.check", "./a.log"], "pattern './a.log'"),
        (["--config.file=x.yml"], "x.yml"),
        # The kernel still finds the parent of a deleted directory, so the file can be read, but not be watched.
        (["--config.file=../x.yml"], "../x.yml"),
        (["--config.check", "--config.file=../x.yml"], "../x.yml"),
    ],
)
def test_relative_paths_in_a_deleted_directory(tmp_path: Path, gone: Path, arguments: list[str], name: str) -> None:
    """One line that names the path, and 1."""
    (tmp_path / "x.yml").write_text("logs: [{group: a, paths: [/x]}]")
    assert mistake(*arguments, prefix=[*DELETED, str(gone)]) == (
        f"{name}: is relative, but the working directory is gone; start in another one or make it absolute\n"
    )


def test_config_check_in_a_deleted_directory(tmp_path: Path, gone: Path) -> None:
    """An absolute configuration is checked as elsewhere."""
    config = tmp_path / "x.yml"
    config.write_text(f"logs: [{{group: a, paths: ['{config}']}}]")
    result = run("--config.check", f"--config.file={config}", prefix=[*DELETED, str(gone)])
    assert (result.returncode, result.stderr) == (0, "")


def test_working_directory_out_of_reach(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the reason, and 1; Linux checks no permission for getcwd(2), so the error is simulated."""

    def deny() -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "getcwd", deny)
    assert cli.main(["--config.check", "a.log"]) == 1
    assert capsys.readouterr().err == (
        "pattern 'a.log': is relative, but the working directory cannot be determined: Permission denied; "
        "start in another one or make it absolute\n"
    )


def test_reload_in_a_directory_deleted_after_the_start(start: Callable[..., Background], tmp_path: Path) -> None:
    """A reload of a relative file fails in one line while the directory is gone, and works once it is there again."""
    folder = tmp_path / "folder"
    config = folder / "x.yml"
    text = f"logs: [{{group: GROUP, paths: ['{tmp_path}/*.log']}}]"
    folder.mkdir()
    config.write_text(text.replace("GROUP", "a"))
    agent = start("--config.file=x.yml", cwd=folder)
    agent.wait_for("/-/ready")
    config.unlink()
    folder.rmdir()
    agent.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: f"{config}: cannot be read: No such file or directory" in agent.log_path.read_text())
    folder.mkdir()
    config.write_text(text.replace("GROUP", "b"))
    agent.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: scraped(agent).values("fstat_group_files", group="b") == [0])
    assert scraped(agent).values("fstat_group_files", group="a") == []
    assert "Traceback" not in agent.log_path.read_text()


def test_change_before_the_first_scrape(start: Callable[..., Background], tmp_path: Path) -> None:
    """What happens between the scan and the first scrape counts too."""
    path = tmp_path / "a.log"
    path.touch()
    agent = start("*.log")
    agent.wait_for("/-/ready")
    append(path, "x")  # write_text() would truncate it first, which may be seen
    scrape = parse_scrape(agent.get("/metrics").body.decode())
    assert scrape.value("fstat_file_changes_total") == 1


def scraped(agent: Background, path: str = "/metrics") -> Scrape:
    """Scrape once."""
    return parse_scrape(agent.get(path).body.decode())


def test_files_that_come_and_go(start: Callable[..., Background], tmp_path: Path) -> None:
    """Show in the next scrape, and go after the grace; labels, flags and formats as configured."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "old.log").touch()
    config = tmp_path / "x.yml"
    config.write_text(
        f"""
        stale_grace: 0s
        web: {{listen_address: "127.0.0.1:1", telemetry_path: /nowhere}}
        logs:
          - {{group: a, paths: ["{logs}/*.log"], path_regex: '/(?P<name>[^/]*)[.]log$'}}
          - {{group: b, paths: ["{logs}/**"], labels: {{team: infra}}}}
        """
    )
    flags = ("--web.telemetry-path=/m", "--log.level=debug")
    agent = start("--config.file", str(config), *flags)
    agent.wait_for("/-/ready")
    (logs / "old.log").unlink()
    (logs / "new.log").write_text("1")
    (logs / "other").write_text("22")
    labels = [
        {"group": "a", "path": f"{logs}/new.log", "name": "new"},
        {"group": "b", "path": f"{logs}/other", "team": "infra"},
        {"group": "a", "path": f"{logs}/old.log", "name": "old"},
    ]
    # The vanished one was never seen by a scrape, so its last figures are shown twice.
    for count in (3, 3, 2, 2):
        result = scraped(agent, "/m")
        sizes = {pairs: value for (name, pairs), value in result.samples.items() if name == "fstat_file_size_bytes"}
        assert sizes == {frozenset(labels[number].items()): (1, 2, 0)[number] for number in range(count)}
        assert result.value("fstat_cache_files") == 2
    assert "belong to earlier groups" in agent.log_path.read_text()


def test_files_that_moved_away_unseen(start: Callable[..., Background], tmp_path: Path) -> None:
    """A renamed ancestor gives no event; the next scan finds its files gone, and they leave the cache too."""
    folder = tmp_path / "logs" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "x.log").touch()
    config = tmp_path / "x.yml"
    config.write_text(
        f"rescan_interval: 1s\nstale_grace: 0s\nlogs: [{{group: a, paths: ['{tmp_path}/logs/a/**/*.log']}}]"
    )
    agent = start("--config.file", str(config))
    agent.wait_for("/-/ready")
    assert scraped(agent).value("fstat_cache_files") == 1
    (tmp_path / "logs").rename(tmp_path / "elsewhere")
    wait_until(lambda: scraped(agent).value("fstat_group_files") == 0)
    assert scraped(agent).value("fstat_cache_files") == 0
    wait_until(lambda: scraped(agent).values("fstat_file_size_bytes") == [])


def test_more_files_than_the_cache_may_hold(start: Callable[..., Background], tmp_path: Path) -> None:
    """All are published, none is evicted, and that it is so is logged once."""
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(10):
        (logs / f"{number}.log").write_text("x" * number)
    config = tmp_path / "x.yml"
    config.write_text(f"rescan_interval: 1s\ncache: {{max_files: 4}}\nlogs: [{{group: a, paths: ['{logs}/*']}}]")
    agent = start("--config.file", str(config), "--log.level=debug")
    wait_until(lambda: agent.log_path.read_text().count('msg="scan done"') >= 3)
    for _ in range(3):
        scrape = parse_scrape(agent.get("/metrics").body.decode())
        assert sorted(scrape.values("fstat_file_size_bytes")) == list(range(10))
    assert scrape.value("fstat_cache_evictions_total") == 0
    assert scrape.value("fstat_cache_files") == 4
    assert scrape.value("fstat_cache_hits_total") == 12
    assert scrape.value("fstat_cache_misses_total") == 18
    assert agent.log_path.read_text().count("more files than cache.max_files") == 1


def test_names_that_are_no_text(start: Callable[..., Background], tmp_path: Path) -> None:
    """Published, escaped, each with a series of its own."""
    folder = os.fsencode(tmp_path) + b"/logs/"
    os.mkdir(folder)
    names = [b"\xff.log", rb"\xff.log", b"a\nb.log", b'a"b.log', b"a\\b.log", "é.log".encode()]
    for name in names:
        with open(folder + name, "w"):
            pass
    agent = start("logs/*")
    agent.wait_for("/-/ready")
    scrape = parse_scrape(agent.get("/metrics").body.decode())
    paths = {
        dict(labels)["path"].rpartition("/")[2] for name, labels in scrape.samples if name == "fstat_file_size_bytes"
    }
    assert paths == {r"\xff.log", r"\\xff.log", "a\nb.log", 'a"b.log', "a\\b.log", "é.log"}


def test_all_addresses(start: Callable[..., Background], tmp_path: Path) -> None:
    """`:port` is IPv4 and, where there is any, IPv6."""
    agent = start("x", address=":0")
    agent.wait_for("/-/ready")
    if "address=[::]:" in agent.log_path.read_text():
        with socket.create_connection(("::1", agent.port), timeout=5) as connection:
            connection.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
            assert b"200 OK" in connection.recv(100)


@pytest.mark.parametrize("address", ["127.0.0.1:0", ":0"])
def test_logged_url(start: Callable[..., Background], address: str) -> None:
    """The page answers at each URL that the log names, with the port that the kernel chose."""
    agent = start("x", "--web.telemetry-path=/m", address=address)
    urls = re.findall(r"msg=listening url=(\S+) address=\S+ version=", agent.log_path.read_text())
    assert urls[0] == f"http://{'localhost' if address == ':0' else '127.0.0.1'}:{agent.port}/"
    browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for url in urls:
        with browser.open(url.replace("localhost", "127.0.0.1"), timeout=10) as answer:  # a bare system knows no names
            assert b'href="/m"' in answer.read()


def test_logged_url_with_tls(start: Callable[..., Background], tmp_path: Path) -> None:
    """With TLS the log names an https URL."""
    pair = make_pair(tmp_path, "server")
    web_config = tmp_path / "web.yml"
    web_config.write_text(f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}")
    agent = start("x", "--web.config.file", str(web_config))
    assert f"msg=listening url=https://127.0.0.1:{agent.port}/ " in agent.log_path.read_text()


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(start: Callable[..., Background], tmp_path: Path, number: signal.Signals) -> None:
    """Within a second, with 0, with connections open; nothing in the log but information."""
    agent = start("x")
    agent.wait_for("/-/ready")
    with (
        socket.create_connection(("127.0.0.1", agent.port)) as kept,
        socket.create_connection(("127.0.0.1", agent.port)),
    ):
        kept.sendall(b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(1000)
        watch = Stopwatch()
        agent.popen.send_signal(number)
        assert agent.popen.wait(5) == 0
        assert watch.seconds() < 1
    assert complaints(agent) == []
    lines = agent.log_path.read_text().splitlines()
    assert "msg=stopping" in lines[-2]
    assert "msg=stopped" in lines[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "exporter"], [str(Path(sys.executable).with_name("fstat-exporter"))]]
)
def test_a_signal_during_the_imports(tmp_path: Path, command: list[str], number: signal.Signals) -> None:
    """Ends the process with 0 as well: here a library that takes its time is imported."""
    # Not one long sleep: a signal that arrives just before the system call does not interrupt it.
    text = "import time\nprint('importing', flush=True)\nfor _ in range(1000):\n    time.sleep(0.05)\n"
    (tmp_path / "yaml.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    with subprocess.Popen([*command, "x"], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(number)
        assert process.wait(5) == 0


@pytest.fixture
def scraping() -> Iterator[socket.socket]:
    """A socket."""
    with socket.socket() as made:
        yield made


@pytest.mark.alone
def test_stop_during_scan_and_scrape(start: Callable[..., Background], tmp_path: Path, scraping: socket.socket) -> None:
    """A signal does not wait for what is under way."""
    for folder in range(20):
        (tmp_path / f"d{folder}").mkdir()
        for number in range(500):
            (tmp_path / f"d{folder}" / f"{number}.log").touch()
    for ready in (False, True):
        agent = start("**/*.log")
        if ready:
            agent.wait_for("/-/ready")
            scraping.connect(("127.0.0.1", agent.port))
            scraping.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
        watch = Stopwatch()
        assert agent.stop() == 0
        assert watch.seconds() < 1
        assert "Traceback" not in agent.log_path.read_text()
        assert "level=error" not in agent.log_path.read_text()


def test_json_log(start: Callable[..., Background]) -> None:
    """One object a line."""
    agent = start("x", "--log.format=json")
    text = agent.log_path.read_text()
    first = json.loads(text.splitlines()[0])
    assert (first["level"], first["msg"]) == ("info", "listening")


def switches(pid: int) -> int:
    """How often the threads of a process have been switched to and from, of their own will or not."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        status = Path(f"/proc/{pid}/task/{task}/status").read_text()
        total += sum(int(count) for count in re.findall(r"ctxt_switches:\s+(\d+)", status))
    return total


@pytest.mark.alone
def test_idle_means_asleep_and_small(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    """With 1,000 files, a few scrapes and a connection kept alive: below 48 MiB, and asleep while nothing happens."""
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(1000):
        (logs / f"{number}.log").touch()
    agent = start_agent(config=f"logs: [{{group: g, paths: ['{logs}/*.log']}}]")  # which is watched
    for openmetrics in (False, True, False, True):
        assert len(agent.scrape(openmetrics=openmetrics).values("fstat_file_size_bytes")) == 1000
    with socket.create_connection(("127.0.0.1", agent.port)) as kept:
        kept.sendall(b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(1000)

        def silent() -> bool:
            while True:
                with open("/proc/self/mountinfo") as mounts:
                    mounts.read()
                    mounted = select.poll()
                    mounted.register(mounts, select.POLLPRI)
                    # Silence is not waited for but listened to. A mount somewhere on the machine wakes the agent
                    # rightly, and it works and rests for up to a second; so then it is listened to once more.
                    if mounted.poll(1000):
                        continue
                    before = switches(agent.pid)
                    if not mounted.poll(4000):
                        return switches(agent.pid) == before

        # The first time something of the scrapes may still be under way; a timer of ours would be heard both times.
        assert silent() or silent()
    peak_kib = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{agent.pid}/status").read_text())
    assert peak_kib is not None
    assert int(peak_kib[1]) < 48 * 1024


def test_descriptors(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    """Scrapes and connections leave none behind."""
    agent = start_agent(f"{tmp_path}/*.log")
    agent.scrape()
    before = agent.descriptors()
    for _ in range(30):
        agent.scrape()
    wait_until(lambda: agent.descriptors() <= before)


def test_console_module_has_no_side_effects() -> None:
    """Importing the package starts nothing."""
    code = (
        "import ctypes, threading, os, logging; before = os.listdir('/proc/self/fd')\n"  # libffi may keep itself open
        "import exporter.cli\n"
        "assert threading.active_count() == 1 and logging.getLogger().handlers == []\n"
        "assert len(os.listdir('/proc/self/fd')) == len(before)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=REPOSITORY, env=ENVIRONMENT)


def test_free_port_flag_beats_file(start: Callable[..., Background], tmp_path: Path) -> None:
    """An address on the command line is used instead of the file's."""
    config = tmp_path / "x.yml"
    config.write_text("web: {listen_address: '127.0.0.1:1'}\nlogs: [{group: a, paths: [/x]}]")
    port = free_port()
    agent = start("--config.file", str(config), address=f"127.0.0.1:{port}")
    assert agent.port == port
    agent.wait_for("/-/ready")
