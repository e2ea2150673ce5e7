"""The benchmarks run, and docs/figures.md (or docs/scaling.md) shows what they print; no figure is asserted."""

import re
import subprocess
import sys

import pytest

from tests.support import DOCUMENTS, REPOSITORY, document_table, environment, program

SMALL = {
    "lookups": ("--files=20", "--rounds=2"),
    "engine": ("--files=20", "--sync-files=10", "--rounds=1", "--sync-rounds=1"),
    "discovery": ("--files=200", "--names=50", "--rounds=1"),
    "scrape": ("--files=1000", "--scrapes=1", "--naive-scrapes=1"),
    "writers": ("--pairs=1", "--burst=0.05", "--pause=0", "--seconds=0.1", "--settle=0"),
    "idle": ("--files=20", "--seconds=0.1", "--settle=0.2"),
    "truncation": ("--rounds=1", "--rest=0"),
    "shippers": ("--files=20", "--changed=2", "--rounds=1"),
    "fleet": ("--nodes=3", "--logs=4", "--changed=1", "--interval=0.2", "--seconds=0.5"),
}
FIGURES = document_table("docs/figures.md", "Figures")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run in the repository, to the end."""
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=50
    )


def shape(text: str) -> str:
    """The same for every size that may be asked for."""
    return re.sub(r"\d[\d.,]*", "N", text)


def rows_shown(name: str) -> list[tuple[str, str]]:
    """What docs/figures.md says was measured, or docs/scaling.md of a fleet, and what was asked."""
    if name == "fleet":
        return [(shape(what), "") for what in document_table("docs/scaling.md", "Figures")]
    return [(shape(what), asked) for what, (asked, _, command) in FIGURES.items() if command.endswith(f"={name}`")]


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_prints_the_rows_of_the_document(name: str) -> None:
    """Machine, heading and rows come out; what is measured, and what is asked, is what the document says."""
    if name == "fleet":
        program("prometheus")
    done = run(sys.executable, "-m", f"benchmarks.{name}", *SMALL[name])
    assert done.returncode == 0, done.stderr
    machine, heading, _, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"machine: .+, \d+ cores, Linux .+, CPython [\d.]+", machine)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (heading, *lines)]
    assert rows.pop(0) == ["what", "target", "measured"]
    assert all(re.match(r"-?[\d.,]+", reached) for _, _, reached in rows)
    # The document has the rows of three sizes, of which the greatest takes minutes.
    assert [(shape(what), asked) for what, asked, _ in rows] == rows_shown(name)[
        : len(rows) if name == "scrape" else None
    ]


def test_every_benchmark_is_known() -> None:
    """Each module is run by `make bench` and tested here, and docs/figures.md has no row of another.

    What a fleet costs is in docs/scaling.md. The soak is run when it is named; tests/e2e/test_soak.py does.
    """
    modules = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")} - {"common", "soak"}
    assert modules == set(SMALL)
    assert {command for _, _, command in FIGURES.values()} == {
        f"`make bench BENCH={m}`" for m in modules - {"fleet"} | {"soak"}
    }
    told = run("make", "--dry-run", "bench").stdout
    assert re.search(r"for name in (.*); do", told)[1].split() == list(SMALL)


@pytest.mark.parametrize("files", ["1,000", "100,000"])
def test_comparison_has_the_figure_of_the_table(files: str) -> None:
    """The README compares with a simple exporter by the figures that were measured."""
    reached = FIGURES[f"CPU of the simple exporter over that, {files} files, 10 of them changed"][1]
    assert f"| {files} | {reached} |" in DOCUMENTS["README.md"].split("## Comparison\n")[1]


def test_make_runs_one_of_them_with_flags() -> None:
    """BENCH chooses, ARGS goes to what was chosen."""
    told = run("make", "--dry-run", "bench", "BENCH=lookups", "ARGS=--files 5").stdout
    assert "for name in lookups; do" in told
    assert "-m benchmarks.$name --files 5" in told


def test_says_when_files_can_not_be_watched() -> None:
    """A cache that polls is not what was to be measured: one clear line, no figures."""
    script = "from benchmarks import engine; from fstat_cache import FStatCache; engine.check_watched(FStatCache(), 1)"
    done = run(sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "only 0 of 1 files are watched: raise the sysctl fs.inotify.max_user_watches, or measure with fewer files\n"
    )
