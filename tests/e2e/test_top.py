"""`fstat-exporter top` in a real pseudo-terminal, drawn by a terminal emulator, and through a pipe."""

import contextlib
import fcntl
import getpass
import http.server
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import bcrypt
import pyte
import pytest

from exporter.config.errors import ConfigError
from exporter.config.model import from_patterns
from exporter.top.sources import Agent as AgentSource
from exporter.top.sources import Patterns, SourceError
from tests.certificates import make_pair
from tests.support import REPOSITORY, Mount, Process, StartAgent, as_root, environment, free_port, wait_until

TOP = [sys.executable, "-W", "error", "-m", "exporter", "top"]


class Terminal:
    """A terminal of 80x24 in which a command runs."""

    def __init__(self, command: list[str]) -> None:
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self.raw = b""
        self.master, self._slave = pty.openpty()
        self.resize(80, 24)
        self.modes = termios.tcgetattr(self._slave)
        self.popen = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=REPOSITORY,
            env={**environment(), "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                self.raw += data
                with self._lock:
                    self._stream.feed(data)

    def type(self, keys: str) -> None:
        """Send keys."""
        os.write(self.master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, as a window manager does."""
        with self._lock:
            self.screen.resize(lines, columns)
        # Afterwards: a smaller screen drops its first lines, which the command may have drawn again already.
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def lines(self) -> list[str]:
        """What is on the screen."""
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        """What is on the screen, as one text."""
        return "\n".join(self.lines())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the screen has a text, and return the match."""
        return wait_until(lambda: re.search(pattern, self.text()), explain=self.text)

    def is_restored(self) -> bool:
        """Whether the terminal has its modes, its cursor and its first screen again."""
        is_main = self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h") >= 0
        return is_main and not self.screen.cursor.hidden and termios.tcgetattr(self._slave) == self.modes

    def close(self) -> None:
        """End the command and the terminal."""
        self.popen.kill()
        self.popen.wait()
        os.close(self._slave)
        self._reader.join(5)
        os.close(self.master)


Top = Callable[..., Terminal]


@pytest.fixture
def top() -> Iterator[Top]:
    """Starts top in a terminal."""
    terminals: list[Terminal] = []

    def start(*arguments: str | Path) -> Terminal:
        terminals.append(Terminal([*TOP, *map(str, arguments)]))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Path]:
    """A log to which this process appends 1,000 bytes twenty times a second, beside a bigger one that is quiet."""
    path = tmp_path / "growing.log"
    (tmp_path / "big.log").write_bytes(b"x" * 5_000_000)
    os.utime(tmp_path / "big.log", (0, 0))
    stop = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.wait(0.05):
                file.write(b"x" * 1000)

    writer = threading.Thread(target=write)
    writer.start()
    yield path
    stop.set()
    writer.join()


@pytest.fixture(params=["agent", "patterns"])
def target(request: pytest.FixtureRequest, growing: Path, start_agent: StartAgent) -> str:
    """What top reads: an agent's page, or patterns."""
    pattern = f"{growing.parent}/*.log"
    return start_agent(pattern).url if request.param == "agent" else pattern


def test_keys(top: Top, target: str, growing: Path) -> None:
    """What grows is first, with its rate; keys sort, filter, and name the writers of the file under the cursor."""
    terminal = top(target)
    rate = terminal.wait_for(r"\n *([0-9.]+) KiB/s .* ######## .*growing\.log\n")[1]
    assert 5 < float(rate) < 30
    assert "  2 files, by rate" in terminal.lines()[0]
    assert max(map(len, terminal.lines())) <= 80
    terminal.type("s")
    terminal.wait_for(r"by size\n.*PATH\n.* 4.8 MiB .* d ago .*big\.log\n")
    terminal.type("t")
    terminal.wait_for(r"by last write\n.*PATH\n.*growing\.log\n")
    terminal.type("w")
    terminal.wait_for(rf"Open for writing:\s(?s:.*)growing\.log\s+{os.getpid()}  {getpass.getuser()} ")
    terminal.type("q")
    terminal.wait_for(r"PATH\n.*growing\.log\n")
    terminal.type("/none")
    terminal.wait_for("filter: none")
    terminal.type("\x1b")
    terminal.wait_for(r"by last write\n.*PATH\n.*growing\.log\n(?s:.*)q quit")
    terminal.type("/BIG\r")
    terminal.wait_for(r"1 files, by last write, filter: BIG\n.*PATH\n.*big\.log\n")
    terminal.type("w")
    terminal.wait_for(r"Open for writing:\s(?s:.*)big\.log\s+No process has been found\.")
    terminal.type("q")
    terminal.wait_for(r"filter: BIG")
    terminal.type("q")
    assert terminal.popen.wait(10) == 0
    wait_until(terminal.is_restored)


def test_cursor_stays_with_its_file(top: Top, tmp_path: Path) -> None:
    """When other files grow faster and come before it, the cursor moves along."""
    for number in range(30):
        (tmp_path / f"{number:02}.log").touch()
    terminal = top(f"{tmp_path}/*.log")
    terminal.wait_for(r"30 files, by rate")
    terminal.type("p")
    terminal.wait_for(r"by path\n.*\n.*00\.log\n")
    terminal.type("\x1b[B" * 25)  # down: beyond the screen
    terminal.wait_for(r"25\.log")
    (tmp_path / "000.log").touch()
    terminal.wait_for(r"31 files")
    terminal.type("w")
    terminal.wait_for(r"Open for writing:\s(?s:.*)25\.log")


def test_resize(top: Top, tmp_path: Path) -> None:
    """The end of a long path is shown, as much of it as fits."""
    path = tmp_path / ("long-" * 20 + "€.log")
    path.touch()
    terminal = top(f"{tmp_path}/*.log")
    terminal.wait_for(r"\.\.\.\S*-€\.log\n")
    terminal.resize(400, 10)
    terminal.wait_for(f"  {re.escape(str(path))}\n")
    terminal.resize(60, 24)
    terminal.wait_for(r"\.\.\.\S*-€\.log\n")
    assert max(map(len, terminal.lines())) <= 60


def test_narrow_terminal(top: Top, tmp_path: Path) -> None:
    """Without room for a path the rest is shown, with all keys."""
    (tmp_path / ("漢" * 30 + ".log")).touch()
    terminal = top(f"{tmp_path}/*.log")
    terminal.wait_for(r"\.\.\.漢 *漢\S*\.log\n")
    for columns in (40, 46, 20):
        terminal.resize(columns, 10)
        terminal.wait_for(r"\n +(-|0 B/s) +0 B(?s:.*)q\s+quit")
        assert max(map(len, terminal.lines())) <= columns
    terminal.type("q")
    assert terminal.popen.wait(10) == 0
    assert b"Traceback" not in terminal.raw


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_restore_the_terminal(top: Top, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C too, which arrives as a signal."""
    terminal = top(f"{tmp_path}/*.log")
    terminal.wait_for("0 files, by rate\n(?s:.*)q quit")
    if number == signal.SIGINT:
        terminal.type("\x03")
    else:
        terminal.popen.send_signal(number)
    assert terminal.popen.wait(10) == 0
    wait_until(terminal.is_restored)
    assert b"Traceback" not in terminal.raw


def test_control_characters_do_not_reach_the_terminal(top: Top, tmp_path: Path) -> None:
    """Neither of a name on the disk nor of what follows from it."""
    (tmp_path / "a\x1b]0;title\x07\x9b.log").touch()
    terminal = top(f"{tmp_path}/*.log")
    terminal.wait_for(r"\\x1b\]0;title\\x07\\x9b\.log")
    terminal.type("w")
    terminal.wait_for(r"Open for writing")
    assert terminal.screen.title == ""


def test_agent_that_is_away(top: Top, growing: Path, tmp_path: Path) -> None:
    """Is named as such, keys work meanwhile, and when it is there its files are shown."""
    port = free_port()
    terminal = top(f"http://127.0.0.1:{port}")
    terminal.wait_for(rf"http://127\.0\.0\.1:{port}: Connection refused")
    terminal.type("s")
    terminal.wait_for("by size")
    command = [sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}", str(growing)]
    with (tmp_path / "agent.out").open("wb") as log:
        agent = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        terminal.wait_for(r"growing\.log(?s:.*)q quit")
    finally:
        agent.terminate()
        agent.wait()


def test_agent_that_does_not_answer(top: Top) -> None:
    """Delays no key."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        terminal = top(f"http://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            terminal.wait_for("Reading the files")
            began_s = time.monotonic()
            terminal.type("q")
            assert terminal.popen.wait(10) == 0
            assert time.monotonic() - began_s < 5


def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run top with its output in a pipe."""
    return subprocess.run(
        [*TOP, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**environment(), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_pipe(target: str, growing: Path, tmp_path: Path) -> None:
    """One table without any sequence, whole paths; this needs no urwid."""
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "urwid.py").write_text("raise ModuleNotFoundError(name='urwid')\n")
    done = run(target, PYTHONPATH=f"{tmp_path / 'missing'}")
    assert (done.returncode, done.stderr) == (0, "")
    heading, first, second = done.stdout.splitlines()
    assert heading.split() == ["RATE", "SIZE", "LAST", "WRITE", "PATH"]
    assert re.fullmatch(rf" *[0-9.]+ KiB/s +[0-9.]+ KiB +0 s ago +######## +{re.escape(str(growing))}", first)
    assert second.endswith(f"  {growing.parent}/big.log")


def test_pipe_that_closes(growing: Path) -> None:
    """`| head` is no error."""
    command = " ".join([*TOP, f"'{growing.parent}/*.log'"]) + " | true; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("redirection", "status", "expected"),
    [
        ("<&-", 0, ""),
        (">&-", 0, ""),
        (">/dev/full", 1, "the output cannot be written: No space left on device\n"),
    ],
)
def test_streams_that_cannot_be_used(growing: Path, redirection: str, status: int, expected: str) -> None:
    """A closed stream is no terminal; a full disk gives one line."""
    command = " ".join([*TOP, f"'{growing.parent}/*.log'", redirection])
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, expected)


def test_missing_library(tmp_path: Path) -> None:
    """One line says what to install."""
    (tmp_path / "urwid.py").write_text("raise ModuleNotFoundError(name='urwid')\n")
    terminal = Terminal(["env", f"PYTHONPATH={tmp_path}", *TOP, "x"])
    try:
        assert terminal.popen.wait(20) == 1
        text = "fstat-exporter top: the terminal needs the package urwid; install fstat-exporter[top], or pipe"
        wait_until(lambda: text in terminal.raw.decode().replace("\r\n", ""))
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["http://a", "b"], "http://a: expected one URL and nothing else, or patterns only"),
        (["http://a:b"], "http://a:b: is no URL of an agent, expected one such as http://localhost:10943"),
        (["HTTP://a:b"], "HTTP://a:b: is no URL of an agent, expected one such as http://localhost:10943"),
        (["http://a b"], "http://a b: is no URL of an agent, expected one such as http://localhost:10943"),
        (["http://a/é"], "http://a/é: is no URL of an agent, expected one such as http://localhost:10943"),
        (["http://u:secret@a"], "URL: has a user or password, which other users see; put them into a file for "),
        (["b", "--http.config.file=c"], "--http.config.file: is for an agent, but patterns are given; leave it out"),
        (["/a", "/b/["], "pattern '/b/[': "),
        (["--http.config.file=/no"], "/no: cannot be read: No such file or directory"),
    ],
)
def test_mistakes(arguments: list[str], expected: str) -> None:
    """One line, and no password in it."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_flags_before_the_command() -> None:
    """Are refused, instead of a file `top` being followed."""
    command = [sys.executable, "-m", "exporter", "--log.level=error", "top"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr == "top: comes before all flags: fstat-exporter top --help lists its own; a file is ./top\n"


@pytest.fixture
def protected(growing: Path, tmp_path: Path) -> Iterator[str]:
    """The page of an agent with TLS and a password."""
    make_pair(tmp_path, "server")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    web_config = tmp_path / "web.yml"
    web_config.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
        + f"basic_auth_users: {{alice: '{hashed}'}}"
    )
    port, log_path = free_port(), tmp_path / "agent.out"
    command = [sys.executable, "-m", "exporter", f"--web.listen-address=0.0.0.0:{port}", str(growing)]
    agent = Process([*command, f"--web.config.file={web_config}"], log_path)
    wait_until(lambda: agent.alive() and "scan done" in log_path.read_text())
    yield f"https://127.0.0.1:{port}/"
    agent.stop()


def test_protected_agent(protected: str, tmp_path: Path) -> None:
    """Is read with a password over TLS; without them the error names the remedy."""
    http_config = tmp_path / "http.yml"

    def read(text: str) -> int:
        http_config.write_text(text)
        return AgentSource(protected, str(http_config)).read("rate", "")[1]

    with pytest.raises(SourceError, match=r"its certificate is not valid: .*; name its authority"):
        read("")
    trusting = "tls_config: {ca_file: server.crt}\n"
    http_config.write_text(trusting)
    with pytest.raises(SourceError, match=r"its certificate is not valid: IP address mismatch") as error:
        AgentSource(protected.replace("127.0.0.1", "127.0.0.2"), str(http_config)).read("rate", "")
    assert "authority" not in str(error.value)
    with pytest.raises(SourceError, match=r"answers 401 .*name credentials with --http.config.file"):
        read(trusting)
    (tmp_path / "password").write_text("secret\n")
    assert read(f"{trusting}basic_auth: {{username: alice, password: secret}}") == 1
    assert read(f"{trusting}basic_auth: {{username: alice, password_file: password}}") == 1


def test_bearer_token(tmp_path: Path) -> None:
    """Is sent as such, also below another path; what is not the agent's answer is an error."""
    headers = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.append((self.path.partition("?")[0], self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "token").write_text("abc.def\n")
    (tmp_path / "http.yml").write_text("authorization: {credentials_file: token}")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        source = AgentSource(f"http://127.0.0.1:{server.server_port}/logs/", str(tmp_path / "http.yml"))
        with pytest.raises(SourceError, match="has no files in its answer, expected fstat-exporter of this version"):
            source.read("rate", "")
    assert headers == [("/logs/api/v1/files", "Bearer abc.def")]


@pytest.mark.parametrize(
    ("body", "times", "expected"),
    [
        (b"[", 100_000, "answers no HTTP or no JSON, expected fstat-exporter"),
        (b" " * 1000, 200_000, "answers no HTTP or no JSON, expected fstat-exporter"),
        (b'{"files": [], "matched": "x"}', 1, "has no files in its answer, expected fstat-exporter of this version"),
    ],
)
def test_server_that_is_no_agent(body: bytes, times: int, expected: str) -> None:
    """Is named as such; of an answer of 200 MB only a part is read."""
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            nonlocal sent
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for _ in range(times):
                    connection.sendall(body)
                    sent += len(body)

        server = threading.Thread(target=answer)
        server.start()
        with pytest.raises(SourceError, match=expected):
            AgentSource(f"http://127.0.0.1:{listener.getsockname()[1]}", None).read("rate", "")
        server.join()
    assert sent < 100_000_000


def test_patterns_without_files(tmp_path: Path) -> None:
    """A table without files has a reason, such as an address that lacks its scheme."""
    for target in ("localhost:10943", f"{tmp_path}/*.none"):
        done = run(target)
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == "the patterns match no file; the URL of an agent begins with http:// or https://\n"


def test_faults_do_not_wait_for_the_first_scan(tmp_path: Path) -> None:
    """The user can quit meanwhile."""
    source = Patterns(from_patterns([f"{tmp_path}/*.log"], "/"))
    faults: list[list[str]] = []
    asking = threading.Thread(target=lambda: faults.append([*source.faults()]), daemon=True)
    with source._tracker.lock:  # as the scan holds it
        asking.start()
        asking.join(10)
        assert faults == [[]]
    source.close()


@as_root
def test_new_files_on_a_remote_filesystem(tmp_path: Path, fuse: Callable[[str], Mount]) -> None:
    """Are found by a further scan, because no event reports them."""
    mount = fuse("m")
    (mount.source / "a.log").touch()
    source = Patterns(replace(from_patterns([f"{tmp_path}/m/*.log"], "/"), rescan_interval_s=0))
    try:
        assert source.read("path", "")[1] == 1
        (mount.source / "b.log").touch()
        wait_until(lambda: source.read("path", "")[1] == 2)
    finally:
        source.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("basic_auth: {user: a}", "1:14: basic_auth.user: unknown key, did you mean"),
        ("{authorization: {}, basic_auth: {}}", "1:1: authorization: is given beside basic_auth, expected one of them"),
        ("authorization: {credentials_file: none}", "none: cannot be read: No such file or directory"),
        ("tls_config: {ca_file: none}", "tls_config: the certificates or the key cannot be used: No such file"),
        ("tls_config: {cert_file: http.yml}", "tls_config: the certificates or the key cannot be used: "),
    ],
)
def test_bad_http_config(text: str, expected: str, tmp_path: Path) -> None:
    """One line with the place."""
    path = tmp_path / "http.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        AgentSource("http://localhost", str(path))
    assert expected in str(error.value)
    assert len(error.value.mistakes) == 1


def test_this_machine() -> None:
    """Has the addresses of its interfaces; 192.0.2.1 is for documentation, so nobody has it."""
    assert AgentSource("http://127.0.0.1", None).has_local_files()
    assert AgentSource("http://[::1]:1", None).has_local_files()
    assert not AgentSource("http://192.0.2.1", None).has_local_files()
