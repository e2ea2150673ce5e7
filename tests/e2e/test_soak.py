"""The soak, as long as the time of the tests allows: its bars are asserted, unlike those of the other benchmarks."""

import subprocess
import sys

import pytest

from tests.support import REPOSITORY, environment, program, readme_table

CHURN_S = 60
MEMORY = "growth of the memory"
MOST_GROWTH_PERCENT = 10  # in so short a time a few more pages for good are more of it than in ten minutes


@pytest.mark.timeout(240)
def test_two_minutes_of_churn() -> None:
    """Whatever is done to files and configuration, nothing is counted wrong, nothing goes back and nothing is kept.

    What the README says is asked is what was asked.
    """
    program("prometheus")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", f"--seconds={CHURN_S}"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=230,
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[1:]]
    missed = {what: reached for what, _, reached in rows if "missed" in reached}
    growth = missed.pop(MEMORY, "0 %")
    assert not missed, done.stdout + done.stderr
    assert float(growth.split()[0]) < MOST_GROWTH_PERCENT, done.stdout
    shown = {what: asked for what, (asked, _, command) in readme_table("Figures").items() if "BENCH=soak" in command}
    assert shown
    assert shown.items() <= {what: asked for what, asked, _ in rows}.items()
