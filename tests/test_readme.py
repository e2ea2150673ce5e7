"""The documents are true: each fenced block is run, tables are compared with the program, links lead somewhere.

A block is run by its language: `sh` line by line, `promql`, `python`, `text`, `yaml`. Anything else, or a command that
nothing here knows how to run, fails.
"""

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from exporter.ledger.uncertain import REASONS
from exporter.overview import NOT_CACHED
from exporter.shippers.logs import STATES
from fstat_cache import POLL_REASONS, WATCH_FAILURES, FStatCache
from tests.certificates import make_pair
from tests.support import (
    DOCUMENTS,
    REPOSITORY,
    Block,
    Server,
    StartAgent,
    document_table,
    environment,
    fenced_blocks,
    free_port,
    locked,
    program,
    unpacked,
)

BLOCKS = list(fenced_blocks())
TEN_LINES = next(block for block in BLOCKS if block.language == "python")
EXAMPLE_FILE = Path("/tmp/test_file1")  # named by the ten lines


@pytest.fixture
def example_file() -> Iterator[Path]:
    """The file that the examples name, for one test at a time; it goes back to what it was."""
    with locked(EXAMPLE_FILE.parent, fcntl.LOCK_EX):  # other checkouts have tests too
        size = EXAMPLE_FILE.stat().st_size if EXAMPLE_FILE.exists() else None
        with EXAMPLE_FILE.open("ab") as file:
            file.write(b"one line\n")
        yield EXAMPLE_FILE
        if size is None:
            EXAMPLE_FILE.unlink()
        else:
            os.truncate(EXAMPLE_FILE, size)


def run(command: list[str | Path], cwd: Path = REPOSITORY) -> str:
    """Run to the end, with success, and return what was printed."""
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def in_this_environment(command: str) -> str:
    """The command with the programs of the environment that runs the tests, whatever that is called."""
    return command.replace(".venv/bin/", shlex.quote(str(Path(sys.executable).parent)) + "/")


def run_make(command: str, _tmp_path: Path) -> None:
    """A target of make: it is there (test_project.py runs `make run`; `make test` runs this)."""
    run([*shlex.split(command), "--dry-run"])


def run_to_the_end(command: str, _tmp_path: Path) -> None:
    """A command that ends by itself."""
    assert run(["bash", "-c", in_this_environment(command)])


def serve(command: str, tmp_path: Path, option: str, health: str) -> Server:
    """A command that serves until it is stopped, on a port of the test's choice, once it is healthy."""
    port = free_port()
    command = f"exec {in_this_environment(command)} {option.format(port=port)}"
    server = Server(["bash", "-c", command], tmp_path / f"{port}.out", port)
    server.wait_for(health)
    return server


def serve_agent(command: str, tmp_path: Path) -> Server:
    """The agent."""
    return serve(command, tmp_path, "--web.listen-address=127.0.0.1:{port}", "/-/ready")


def serve_flask(command: str, tmp_path: Path) -> Server:
    """The example, by hand."""
    return serve(command, tmp_path, "--port={port}", "/cache/test_file1")


def serve_gunicorn(command: str, tmp_path: Path) -> Server:
    """The example, under a pre-forking server."""
    return serve(command.replace("--bind localhost:5000", ""), tmp_path, "--bind=127.0.0.1:{port}", "/cache/test_file1")


def print_report(command: str, tmp_path: Path) -> None:
    """The report on shippers: here on one that has read a log up to its end."""
    log, positions, config = tmp_path / "a.log", tmp_path / "a.pos", tmp_path / "exporter.yml"
    log.write_text("a line\n")
    positions.write_text(f"{log}\t{log.stat().st_size:016x}\t{log.stat().st_ino:016x}\n")
    shipper = {"name": "fluentd", "type": "fluentd", "path": str(positions)}
    config.write_text(json.dumps({"logs": [{"group": "a", "paths": [str(log)]}], "shippers": [shipper]}))
    command = command.replace("/etc/fstat-exporter/exporter.yml", shlex.quote(str(config)))
    printed = run(["bash", "-c", in_this_environment(command)])
    assert str(positions) in printed
    assert "unread bytes:" not in printed


def and_stop(start: Callable[[str, Path], Server]) -> Callable[[str, Path], None]:
    """Start the server, see it serve, stop it."""

    def started_and_stopped(command: str, tmp_path: Path) -> None:
        server = start(command, tmp_path)
        server.alive()
        server.stop()

    return started_and_stopped


def run_curl(command: str, tmp_path: Path) -> None:
    """A request to what the lines above it have started; here to the same on another port."""
    program("curl")
    if "localhost:10943" in command:
        server, port = serve_agent(".venv/bin/fstat-exporter '/var/log/**/*.log'", tmp_path), 10943
    else:
        server, port = serve_flask(".venv/bin/python examples/flask_app.py /tmp", tmp_path), 5000
    try:
        command = command.replace("curl ", "curl --fail ").replace(f"localhost:{port}", f"127.0.0.1:{server.port}")
        assert str(server.port) in command
        assert run(["bash", "-o", "pipefail", "-c", command])
    finally:
        server.stop()


def run_in_make_test_image(_command: str, _tmp_path: Path) -> None:
    """Nothing: tests/image runs the options of docs/operating.md with podman, except those of another root."""


def install_in_make_test_image(_command: str, _tmp_path: Path) -> None:
    """Nothing: tests/image/test_debian_package.py installs the package with dpkg, in a Debian of its own."""


def render_manifests(command: str, _tmp_path: Path) -> None:
    """Without a cluster: what would be applied or deleted can be rendered."""
    arguments = shlex.split(re.sub("(apply|delete) --kustomize", "kustomize", command))[1:]
    assert run([unpacked("kubectl"), *arguments])


def create_namespace(command: str, _tmp_path: Path) -> None:
    """Without a cluster: the file has nothing but the namespace."""
    (resource,) = yaml.safe_load_all((REPOSITORY / command.split()[-1]).read_text())
    assert resource["kind"] == "Namespace"


def install_chart(command: str, _tmp_path: Path) -> None:
    """Without a cluster: what would be installed is rendered, with the image that the command names."""
    rendered = run([unpacked("helm"), *shlex.split(command)[1:], "--dry-run=client"])
    (image,) = re.findall(r"--set image\.repository=(\S+)", command)
    assert f"image: {image}:" in rendered


def create_secret(command: str, tmp_path: Path) -> None:
    """Without a cluster: kubectl makes a Secret of the files, and the overlay mounts one of that name."""
    make_pair(tmp_path, "tls")
    (tmp_path / "web-config.yml").touch()
    made = run([unpacked("kubectl"), *shlex.split(command)[1:], "--dry-run=client", "--output=yaml"], tmp_path)
    rendered = run([unpacked("kubectl"), "kustomize", "config/kubernetes/overlays/tls-and-basic-auth"])
    (daemonset,) = (each for each in yaml.safe_load_all(rendered) if each["kind"] == "DaemonSet")
    volumes = daemonset["spec"]["template"]["spec"]["volumes"]
    (web,) = (volume["projected"] for volume in volumes if "projected" in volume)
    mounted = [source["secret"]["name"] for source in web["sources"] if "secret" in source]
    assert yaml.safe_load(made)["metadata"]["name"] in mounted


def install(command: str, tmp_path: Path) -> None:
    """Below another root."""
    for folder in ("etc/systemd/system", "opt"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    run(["bash", "-c", re.sub(r" /(etc|opt)/", rf" {tmp_path}/\1/", command)])


def install_here(command: str, _tmp_path: Path) -> None:
    """What is named last is in the checkout; `make run` installs the same requirements."""
    assert (REPOSITORY / command.split()[-1]).exists()


def run_by_systemd(_command: str, _tmp_path: Path) -> None:
    """Nothing: tests/config/test_systemd.py has systemd judge the unit, here nobody runs systemd."""


COMMANDS: dict[str, Callable[[str, Path], None]] = {
    r"make .*": run_make,
    r"docker (build|run|image inspect) .*": run_in_make_test_image,
    r"apt-get install \./dist/fstat-exporter_\*\.deb": install_in_make_test_image,
    r"kubectl (apply|delete) --kustomize .*": render_manifests,
    r"kubectl apply --filename .*": create_namespace,
    r"helm install .*": install_chart,
    r"kubectl --namespace fstat-exporter create secret .*": create_secret,
    r"(python3 -m venv|install) .*": install,
    r"/opt/fstat-exporter/bin/pip install --(require-hashes|no-deps) .*": install_here,
    r"systemctl .*": run_by_systemd,
    r"\.venv/bin/fstat-exporter --config\.check .*": run_to_the_end,
    r"\.venv/bin/fstat-exporter shippers .*": print_report,
    r"\.venv/bin/fstat-exporter top .*": run_to_the_end,
    r"\.venv/bin/fstat-exporter '.*": and_stop(serve_agent),
    r"\.venv/bin/python examples/flask_app\.py /tmp": and_stop(serve_flask),
    r"\.venv/bin/gunicorn .*--bind localhost:5000 .*": and_stop(serve_gunicorn),
    r"curl .*": run_curl,
}


def run_shell(block: Block, tmp_path: Path) -> None:
    """Each line is a command of its own."""
    for command in block.text.splitlines():
        runner = next((runner for pattern, runner in COMMANDS.items() if re.fullmatch(pattern, command)), None)
        assert runner, f"no test runs the command {command!r}"
        runner(command, tmp_path)


def run_python(block: Block, tmp_path: Path) -> None:
    """A program of its own in an empty folder; the ten lines have test_ten_lines."""
    if block != TEN_LINES:
        assert run([sys.executable, "-W", "error", "-c", block.text], cwd=tmp_path)


def run_yaml(block: Block, tmp_path: Path) -> None:
    """A configuration, of Prometheus (in agent mode where its first line says so) or of the agent."""
    path = tmp_path / "config.yml"
    path.write_text(block.text)
    if "scrape_configs:" not in block.text:
        run([sys.executable, "-m", "exporter", "--config.check", f"--config.file={path}"])
        return
    config = yaml.safe_load(block.text)
    for job in config["scrape_configs"]:
        job.pop("kubernetes_sd_configs", None)  # Debian builds Prometheus without it
    path.write_text(json.dumps(config))  # JSON is YAML
    mode = ["--agent"] if block.text.startswith("# For agent mode\n") else []
    run([program("promtool"), "check", "config", *mode, path])


def run_promql(block: Block, tmp_path: Path) -> None:
    """Each line is an expression that Prometheus accepts, of metrics that the agent publishes."""
    assert set(re.findall(r"\bfstat_\w+", block.text)) <= set(document_table("docs/metrics.md", "All metrics"))
    rules = [{"record": "a", "expr": line} for line in block.text.splitlines() if not line.startswith("#")]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "a", "rules": rules}]}))
    run([program("promtool"), "check", "rules", "--lint=none", path])


def see_modules(block: Block, _tmp_path: Path) -> None:
    """The diagram of the packages: it names each module of the library and each folder of the agent."""
    modules = {path.stem for path in (REPOSITORY / "fstat_cache").glob("[a-z]*.py")}
    folders = {path.parent.name for path in (REPOSITORY / "exporter").glob("*/__init__.py")}
    assert modules | folders <= set(re.findall(r"\w+", block.text))


LANGUAGES = {"sh": run_shell, "promql": run_promql, "python": run_python, "text": see_modules, "yaml": run_yaml}


@pytest.mark.usefixtures("example_file")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.document}:{block.line}-{block.language}")
def test_block(block: Block, tmp_path: Path) -> None:
    """The block can be followed as it stands."""
    assert block.language in LANGUAGES, f"no test runs blocks of the language {block.language!r}"
    LANGUAGES[block.language](block, tmp_path)


def test_ten_lines(example_file: Path) -> None:
    """Verbatim, with another process that appends while it sleeps: the second line shows the new size."""
    command = [sys.executable, "-W", "error", "-u", "-c", TEN_LINES.text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as example:
        assert example.stdout
        assert example.stderr
        first = example.stdout.readline()
        before = example_file.stat().st_size
        subprocess.run(["sh", "-c", f"echo another line >> {example_file}"], check=True)
        rest, complaints = example.communicate(timeout=15)
    assert (example.returncode, complaints) == (0, "")
    assert f"size={before}," in first
    assert f"size={before + len('another line') + 1}," in rest
    assert rest.count("\n") == 1


def test_metrics_table(tmp_path: Path, start_agent: StartAgent) -> None:
    """The table has every family that the agent publishes, with its type, and no other."""
    (tmp_path / "a.log").touch()
    config = {
        "logs": [
            {"group": "a", "paths": [f"{tmp_path}/*.log"], "metrics": ["size", "unread", "lines", "crc32", "mode"]}
        ],
        "shippers": [{"name": "a", "type": "fluentd", "path": f"{tmp_path}/a.pos"}],
    }
    published = start_agent(config=json.dumps(config)).scrape().types
    own = {name: kind for name, kind in published.items() if name.startswith("fstat_")}
    # The parser names a counter's family without the suffix of its samples.
    rows = document_table("docs/metrics.md", "All metrics")
    assert {name.removesuffix("_total"): kind for name, (kind, _) in rows.items()} == own
    assert {name.split("_")[0] for name in published} == {"fstat", "process", "python"}


def test_key_metrics() -> None:
    """The README has ten rows of the whole table."""
    key_metrics = document_table("README.md", "Key metrics")
    assert len(key_metrics) == 10
    assert key_metrics.items() <= document_table("docs/metrics.md", "All metrics").items()


def test_reasons_table() -> None:
    """The table has every reason for which a file is polled, those of failed watches first."""
    reasons = list(document_table("docs/metrics.md", "Reasons to poll"))
    assert reasons == [*POLL_REASONS, NOT_CACHED]
    assert reasons[:4] == list(WATCH_FAILURES)


def test_uncertainty_table() -> None:
    """The table has every reason for which bytes may have gone uncounted."""
    assert tuple(document_table("docs/metrics.md", "Reasons of uncertainty")) == REASONS


def test_states_table() -> None:
    """The table has every state of a file as a shipper reads it."""
    assert tuple(document_table("docs/metrics.md", "States of a file")) == STATES


def test_parts_table(tmp_path: Path, start_agent: StartAgent) -> None:
    """The table has every part of a scrape."""
    scrape = start_agent(str(tmp_path / "*.log")).scrape()
    success = "fstat_exporter_scrape_collector_success"
    parts = {dict(labels)["collector"] for name, labels in scrape.samples if name == success}
    assert parts == document_table("docs/metrics.md", "Parts of a scrape").keys()


def test_keys_table() -> None:
    """The tables have every key of the configuration, with its default, and no other."""
    schema = json.loads((REPOSITORY / "config" / "exporter.schema.json").read_text())
    group, shipper = (schema["properties"][each]["items"]["properties"] for each in ("logs", "shippers"))
    keys = {}
    for name, key in schema["properties"].items():
        keys |= {f"{name}.{each}": of_it for each, of_it in key.get("properties", {}).items()} or {name: key}
    for heading, expected in (("Global keys", keys), ("Keys of a group", group), ("Keys of a shipper", shipper)):
        rows = document_table("docs/configuration.md", heading)
        assert rows.keys() == expected.keys()
        for name, (default, _) in rows.items():
            if default in ("required", "none"):
                assert "default" not in expected[name]
            else:
                assert yaml.safe_load(default.strip("`")) == expected[name]["default"], name


def test_library_table() -> None:
    """The table has every public method of the cache, and the functions beside it."""
    named = {name for cell in document_table("docs/library.md", "API") for name in re.findall(r"(\w+)\(", cell)}
    methods = {name for name in vars(FStatCache) if re.match("[a-z]", name) and callable(getattr(FStatCache, name))}
    assert named == {*methods, "file_time_ns", "is_settled"}


def test_flags_table() -> None:
    """The table has every flag that --help has, and no other."""
    told = run([sys.executable, "-m", "exporter", "--help"])
    flags = set(re.findall(r"--[a-z.-]*[a-z]", told)) - {"--help"}
    assert set(document_table("docs/configuration.md", "Flags")) == flags


def test_endpoints_table(tmp_path: Path, start_agent: StartAgent) -> None:
    """Each of the endpoints answers."""
    agent = start_agent(str(tmp_path / "*.log"))
    endpoints = document_table("docs/operating.md", "HTTP endpoints")
    assert len(endpoints) == 7
    for path in endpoints:
        assert agent.get(path).status == 200


def test_api_tables(tmp_path: Path, start_agent: StartAgent) -> None:
    """They have every parameter that the API takes and every field of a file, and no other."""
    (tmp_path / "a.log").touch()
    agent = start_agent(str(tmp_path / "*.log"))
    refusal = agent.get("/api/v1/files?no=such").body.decode()
    parameters = set(re.findall(r"\w+", refusal.split("expected ")[1])) - {"or"}
    assert parameters == document_table("docs/operating.md", "Parameters").keys()
    (file,) = json.loads(agent.get("/api/v1/files").body)["files"]
    assert file.keys() == document_table("docs/operating.md", "The fields of a file").keys()


def test_dependencies_table() -> None:
    """The table names the run-time dependencies of the distribution, all of them and no other."""
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    rows = " ".join(document_table("docs/development.md", "Dependencies"))
    named = re.findall(r"\[([a-z-]+)\]\(https://pypi\.org/", rows)
    assert sorted(named) == sorted(re.split(r"[<>=]", requirement)[0] for requirement in declared)


def test_readme_is_short() -> None:
    """A newcomer reads it to the end; it leads to all other documents."""
    assert len(DOCUMENTS["README.md"].encode()) <= 12_288
    assert [path for path in DOCUMENTS if path != "README.md" and f"]({path})" not in DOCUMENTS["README.md"]] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_plain_english(document: str) -> None:
    """No phrase that readers have stumbled over."""
    riddles = r"\b(can not|is told|are told|looked at|whoever|is meant)\b"
    assert re.findall(riddles, " ".join(DOCUMENTS[document].split()), re.IGNORECASE) == []


def prose(document: str) -> str:
    """The text of a document without its blocks."""
    return re.sub(r"^(```+).*?^\1$", "", DOCUMENTS[document], flags=re.DOTALL | re.MULTILINE)


def anchors(document: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document: str) -> None:
    """Every file and every heading that a document links to is there."""
    for link, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", prose(document)):
        target = (REPOSITORY / document).parent / link if link else REPOSITORY / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(REPOSITORY))), f"{link}#{anchor}"
