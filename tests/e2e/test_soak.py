"""The soak, as long as the time of the tests allows: its bars are asserted, unlike those of the other benchmarks."""

import subprocess
import sys

import pytest

from tests.support import REPOSITORY, document_table, environment, program

CHURN_S = 60
LIMIT_S = 300
MEMORY = "growth of the memory"
MOST_GROWTH_PERCENT = 10  # in so short a time a few more pages for good are more of it than in ten minutes


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(LIMIT_S + 20)
def test_a_minute_of_churn() -> None:
    """Whatever is done to files and configuration, nothing is counted wrong, nothing goes back and nothing is kept.

    What docs/figures.md says is asked is what was asked.
    """
    program("prometheus")
    output, rows = soak()
    assert rows, output
    missed = {what for what, (_, reached) in rows.items() if "missed" in reached}
    if MEMORY in missed and number(rows[MEMORY][1]) < MOST_GROWTH_PERCENT:
        missed.remove(MEMORY)
    assert not missed, output
    figures = document_table("docs/figures.md", "Figures")
    shown = {what: asked for what, (asked, _, command) in figures.items() if "BENCH=soak" in command}
    assert shown
    assert shown.items() <= {what: asked for what, (asked, _) in rows.items()}.items(), output


def soak() -> tuple[str, dict[str, tuple[str, str]]]:
    """Run it; return what it printed, and its table, what -> asked, reached, which is empty when it took too long."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.soak", f"--seconds={CHURN_S}"],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        return str(error), {}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[1:]]
    return done.stdout + done.stderr, {what: (asked, reached) for what, asked, reached in rows}


def number(reached: str) -> float:
    """The number in a cell."""
    return float(reached.split()[0].rstrip(",").replace(",", ""))
