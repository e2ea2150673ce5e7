"""The Flask example: the same answers from the cache and from os.stat, nothing outside its folder, safe after fork."""

import http.client
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from examples.flask_app import create_app
from tests.support import REPOSITORY, Server, free_port, wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that is served, with a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    served = tmp_path / "served"
    (served / "sub").mkdir(parents=True)
    (served / "a.log").write_bytes(b"x" * 10)
    (served / "sub" / "b.log").write_bytes(b"x" * 20)
    return served


@pytest.fixture
def client(folder: Path) -> FlaskClient:
    """Requests to the application without a server."""
    return create_app(folder).test_client()


BOTH = pytest.mark.parametrize("route", ["cache", "stat"])


@BOTH
def test_answers_with_the_stats_of_the_file(client: FlaskClient, folder: Path, route: str) -> None:
    """A file, nested or not, is answered as JSON with what os.stat says."""
    for name in ("a.log", "sub/b.log"):
        answer = client.get(f"/{route}/{name}")
        assert answer.status_code == 200
        truth = (folder / name).stat()
        assert answer.json is not None
        assert (answer.json["size"], answer.json["ts"]) == (truth.st_size, truth.st_mtime)


def test_cache_follows_the_file(client: FlaskClient, folder: Path) -> None:
    """The cached answer becomes that of os.stat after an append."""
    assert client.get("/cache/a.log").json == client.get("/stat/a.log").json
    with (folder / "a.log").open("ab") as file:
        file.write(b"more")
    truth = client.get("/stat/a.log").json
    assert truth is not None
    assert truth["size"] == 14
    wait_until(lambda: client.get("/cache/a.log").json == truth)


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "sub",  # a folder
        "a.log/b",
        "../secret",
        "sub/../../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "..%5csecret",
        "{outside}/secret",
        "%2F{outside}/secret",
        "link",
        "linked/secret",
        "a.log%00",
        "%ff",
        "x" * 5000,
        "loop",
    ],
)
def test_nothing_outside_the_folder(client: FlaskClient, folder: Path, route: str, name: str) -> None:
    """What is missing, or leaves the folder by whatever way, is 404, in JSON as well."""
    (folder / "link").symlink_to("../secret")
    (folder / "linked").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    answer = client.get(f"/{route}/{name.format(outside=folder.parent)}")
    assert (answer.status_code, answer.json) == (404, {"error": "Not Found"})


@BOTH
def test_symlink_inside_the_folder(client: FlaskClient, folder: Path, route: str) -> None:
    """A symlink that stays within the folder is followed."""
    (folder / "link").symlink_to("sub/b.log")
    answer = client.get(f"/{route}/link").json
    assert answer is not None
    assert answer["size"] == 20


def test_other_errors_are_json(client: FlaskClient) -> None:
    """A method that is not allowed is answered in JSON too."""
    answer = client.post("/cache/a.log")
    assert (answer.status_code, answer.json) == (405, {"error": "Method Not Allowed"})


@pytest.fixture
def gunicorn(folder: Path, tmp_path: Path) -> Iterator[Server]:
    """The application loaded once, then forked into two workers."""
    port = free_port()
    arguments = [sys.executable, "-m", "gunicorn", "--chdir", str(REPOSITORY / "examples"), "--preload", "--workers=2"]
    arguments += [f"--bind=127.0.0.1:{port}", "--graceful-timeout=1", f"flask_app:create_app({str(folder)!r})"]
    server = Server(arguments, tmp_path / "gunicorn.out", port)
    try:
        server.wait_for("/stat/a.log")
        yield server
        server.alive()
    finally:
        assert server.stop() == 0, server.log_path.read_text()


def workers_with_inotify(master: int) -> list[str]:
    """The forked workers that have an inotify descriptor of their own."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return [
        child
        for child in children
        if any("inotify" in os.readlink(entry) for entry in Path(f"/proc/{child}/fd").iterdir() if entry.is_symlink())
    ]


def test_pre_forking_server(gunicorn: Server, folder: Path) -> None:
    """Under gunicorn with --preload each worker has a cache of its own that sees what changes."""

    def size() -> int:
        answer = gunicorn.get("/cache/a.log")
        assert answer.status == 200
        return int(json.loads(answer.body)["size"])

    def both_asked() -> bool:
        assert size() == 10
        return len(workers_with_inotify(gunicorn.pid)) == 2

    wait_until(both_asked)
    with (folder / "a.log").open("ab") as file:
        file.write(b"more")
    wait_until(lambda: all(size() == 14 for _ in range(20)))


def test_by_hand(folder: Path, tmp_path: Path) -> None:
    """`python examples/flask_app.py FOLDER` serves the folder, and is not told out of it by a raw request."""
    port = free_port()
    arguments = [sys.executable, "examples/flask_app.py", str(folder), f"--port={port}"]
    server = Server(arguments, tmp_path / "flask.out", port)
    try:
        server.wait_for("/cache/sub/b.log")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest("GET", "/cache/../secret", skip_accept_encoding=True)
        connection.endheaders()
        assert connection.getresponse().status == 404
        connection.close()
        server.alive()
    finally:
        server.stop()
