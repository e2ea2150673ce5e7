"""What is said of bad files: one for each rule in bad_config/, and beside it what `--config.check` prints."""

import os
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter import cli
from exporter.config import yaml_file
from exporter.config.errors import MAX_MISTAKES, ConfigError
from exporter.config.model import load, parse
from tests.support import REPOSITORY, environment

BAD_CONFIG = Path(__file__).parent / "bad_config"
BAD_FILES = sorted(path.name for path in BAD_CONFIG.glob("*.yml"))

LOGS = "logs: [{group: a, paths: [/a]}]\n"
MIB = yaml_file.MAX_FILE_BYTES

needs_libyaml = pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML has no libyaml")


def complaint(path: Path) -> str:
    """What is said of a bad file."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize("name", BAD_FILES)
def test_each_mistake_is_told(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mistake gives one line with its place, its key and what was expected, and the status is 1."""
    expected = (BAD_CONFIG / name).with_suffix(".txt").read_text()
    if "not YAML" in expected and not yaml.__with_libyaml__:
        pytest.skip("these are libyaml's words, and this PyYAML has none")
    monkeypatch.chdir(BAD_CONFIG)
    assert cli.main(["--config.check", "--config.file", name]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == expected


def test_every_file_has_its_message() -> None:
    """And no message is left of a file that is gone."""
    assert sorted(f"{path.stem}.yml" for path in BAD_CONFIG.glob("*.txt")) == BAD_FILES


# libyaml refuses what PyYAML's own parser takes, and has the place of an escape one column before it.
PARSED_DIFFERENTLY = {"group-no-character.yml", "unknown-escape.yml"}


@pytest.mark.parametrize("name", [*BAD_FILES, "../../../../config/exporter.yml"])
@needs_libyaml
def test_both_parsers_of_pyyaml_agree(name: str) -> None:
    """With libyaml and without there are the same nodes at the same places, or the same mistakes."""

    def nodes(loader: yaml_file.Loader) -> object:
        try:
            root = yaml_file.compose(text, name, loader)
        except ConfigError as error:
            return re.sub("(?<=: not YAML: ).*", "", str(error))  # their words are not the same, the place is
        return list(walk(root)) if root is not None else None

    try:
        text = yaml_file.read_text(BAD_CONFIG / name)
    except ConfigError:
        return  # no text at all
    pure = nodes(yaml.SafeLoader)
    if name in PARSED_DIFFERENTLY:
        assert nodes(yaml.CSafeLoader) != pure
    else:
        assert nodes(yaml.CSafeLoader) == pure


def walk(root: yaml.Node) -> Iterator[tuple[str, int, int, object]]:
    """What there is to know of each node."""
    stack = [root]
    while stack:
        node = stack.pop()
        is_scalar = isinstance(node, yaml.ScalarNode)
        yield node.tag, node.start_mark.line, node.start_mark.column, node.value if is_scalar else None
        for part in () if is_scalar else node.value:
            stack.extend(part if isinstance(part, tuple) else (part,))


def opened(count: int, bracket: str) -> str:
    """So many of these brackets, in a list that is itself an item of a list."""
    return "- - " + bracket * count


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (opened(31, "["), "1:35"),
        (opened(2000, "["), "1:35"),
        (opened(2000, "{"), "1:35"),
        ("# \u00e4\nx: '" + "[" * 2000 + "'\ny: " + "[" * 2000, "3:35"),
        ("{a: " * 2000, "1:129"),
        ("- " * 2000, "1:65"),
        ("? " * 2000, "1:65"),
        ("".join(" " * depth + "a:\n" for depth in range(1100)), "33:33"),
    ],
    ids=["one too deep", "lists", "mappings", "after brackets that nest nothing", "values", "items", "keys", "lines"],
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, pytest.param("C", marks=needs_libyaml)])
def test_nested_too_deep(text: str, place: str, loader: yaml_file.Loader | str) -> None:
    """Is told in our words, at the first value that is too deep, also where libyaml refuses before it reports any."""
    with pytest.raises(ConfigError) as caught:
        yaml_file.compose(text, "x.yml", yaml.CSafeLoader if loader == "C" else loader)
    assert str(caught.value) == f"x.yml:{place}: nested more than 32 levels deep"


def test_a_file_is_read_with_or_without_byte_order_mark(tmp_path: Path) -> None:
    """As UTF-8."""
    path = tmp_path / "x.yml"
    path.write_text(LOGS, "utf-8-sig")
    assert load(path) == parse(LOGS, "")


def test_what_can_not_be_read(tmp_path: Path) -> None:
    """Is told in one line."""
    path = tmp_path / "x.yml"
    assert complaint(path) == f"{path}: cannot be read: No such file or directory"
    assert complaint(tmp_path) == f"{tmp_path}: cannot be read: is a directory, expected a file"
    path.touch()
    assert complaint(path / "y") == f"{path / 'y'}: cannot be read: Not a directory"


def as_nobody(preparation: str, *arguments: str) -> str:
    """What the command says of a mistake, run with no rights on anything."""
    drop_root = "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))"
    code = f"import os, sys, exporter.cli; {preparation}; {drop_root}; sys.exit(exporter.cli.main())"
    told = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (told.returncode, told.stdout) == (1, "")
    return told.stderr


def test_no_permission(tmp_path: Path) -> None:
    """Is told in one line; the default file is not taken for one that is not there."""
    path = tmp_path / "closed" / "x.yml"
    path.parent.mkdir()
    path.write_text(LOGS)
    path.parent.chmod(0)
    try:
        message = f"{path}: cannot be read: Permission denied\n"
        assert as_nobody("pass", "--config.check", f"--config.file={path}") == message
        assert as_nobody(f"exporter.cli.DEFAULT_CONFIG_PATH = {str(path)!r}", "--config.check") == message
    finally:
        path.parent.chmod(0o700)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Is printed all the same, in the summary too."""
    path = os.fsencode(tmp_path) + b"/\xff.yml"
    with open(path, "w") as file:
        file.write("logs: [{group: a, paths: [/proc/version]}]")
    command = [sys.executable, "-m", "exporter", "--config.check", "--config.file", path]
    strict = environment() | {"PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    told = subprocess.run(command, env=strict, capture_output=True, check=False, timeout=20)
    assert (told.returncode, told.stderr) == (0, b"")
    assert rb"/\udcff.yml: valid" in told.stdout


def test_a_pipe_is_read_but_not_waited_for(tmp_path: Path) -> None:
    """As in `--config.file <(...)`; one into which nobody writes does not keep the agent waiting for ever."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(LOGS,))
    writer.start()
    assert load(path) == parse(LOGS, "")
    writer.join()
    began = time.monotonic()
    assert complaint(path) == f"{path}: cannot be read: no data for 3 s"
    assert time.monotonic() - began < 10


def test_a_huge_file_is_refused_at_once(tmp_path: Path) -> None:
    """Without being read to its end."""
    path = tmp_path / "x.yml"
    with path.open("w") as file:
        file.write("logs:\n")
        file.truncate(100_000_000)
    began = time.process_time()
    tracemalloc.start()
    try:
        assert complaint(path) == f"{path}: is larger than 1 MiB, expected a configuration of fstat-exporter"
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 1


def lines(count: int, line: str) -> str:
    """`line` so many times, with the number of each in it."""
    return "".join(line.format(number) for number in range(count))


LARGE = {
    "patterns": ("logs:\n- group: a\n  paths:\n" + lines(15_000, "  - /var/log/application{0:05}/logs/*.log\n"), ""),
    "groups": ("logs:\n" + lines(5_000, "- {{group: g{0}, paths: [/var/log/application/{0}/*.log]}}\n"), ""),
    "more patterns": (
        "logs:\n- group: a\n  paths:\n" + lines(30_000, "  - /var/log/app{0}/*.log\n"),
        "logs[0].paths[20000]: exceeds the limit of 20000 patterns, their braces expanded",
    ),
    "braces": (
        "logs:\n- group: a\n  paths:\n" + lines(30_000, "  - /var/log/{0}{{{{1..999}}}}/*.log\n"),
        "logs[0].paths[20]: exceeds the limit of 20000 patterns, their braces expanded",
    ),
    "values": ("[" + "a," * (MIB // 2 - 2) + "]", "more than 100000 values"),
    "unknown keys": (lines(40_000, "key{0}: 1\n"), f"more than {MAX_MISTAKES} mistakes, the rest is not listed"),
    "unknown labels": (
        f"logs: [{{group: a, paths: [/a], labels: {{{lines(20_000, 'l{0}: x,')}}}, aggregate_by: "
        f"[{lines(20_000, 'm{0},')}]}}]",
        f"more than {MAX_MISTAKES} mistakes, the rest is not listed",
    ),
    "open brackets": ("[" * MIB, "nested more than 32 levels deep"),
    "open lists": ("- " * (MIB // 2), "nested more than 32 levels deep"),
    "an expression": (
        f"logs: [{{group: a, paths: [/a], path_regex: '(?P<x>{'a' * (MIB - 100)})'}}]",
        "expected 4096 at most",
    ),
    "merges": (
        "a0: &a0 {x: 1}\n" + lines(3000, "a{0}: &b{0} {{<<: *a0}}\n") + "logs: 1",
        f"more than {MAX_MISTAKES} mistakes, the rest is not listed",
    ),
    "a chain of merges": (
        "a: &x0 {x: 1}\n"
        + "".join(f"a{number}: &x{number} {{<<: *x{number - 1}}}\n" for number in range(1, 300))
        + "web: *x299",
        "web.x: unknown key, expected one of: listen_address, telemetry_path, authorization",
    ),
}


@pytest.mark.parametrize(("text", "message"), LARGE.values(), ids=LARGE.keys())
@pytest.mark.skipif(not yaml.__with_libyaml__, reason="without libyaml PyYAML takes ten seconds for a MiB")
def test_a_large_file_takes_seconds_at_most(text: str, message: str) -> None:
    """Whether there is a configuration in it or not."""
    assert len(text) <= MIB
    began = time.process_time()
    try:
        parse(text, "x.yml")
        told = ""
    except ConfigError as error:
        told = str(error)
        assert max(map(len, told.splitlines())) < 1000
    assert message in told
    assert bool(message) == bool(told)
    assert time.process_time() - began < 10
