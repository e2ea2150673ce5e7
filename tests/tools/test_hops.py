"""docs/development.md shows the functions that an event and a new file enter."""

import re
import subprocess
import sys
from collections.abc import Callable
from types import FunctionType

import pytest

from tests.support import REPOSITORY, as_root, environment
from tools.hops import BEGIN, DOCUMENT, END, function_of, replaced


@as_root
def test_document_is_up_to_date() -> None:
    """docs/development.md has what `make hops` writes."""
    command = [sys.executable, "-m", "tools.hops"]  # in a process without threads of other tests
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r" enters [1-9]\d* functions ", done.stdout)) == 2
    text = DOCUMENT.read_text()
    assert text == replaced(text, done.stdout), "run make hops"


def test_inner_code_counts_to_its_function() -> None:
    """Lambdas and comprehensions belong to the function around them; a named inner function is one of its own."""

    def inner() -> Callable[[], object]:
        return lambda: (number for number in ())

    function = inner()
    assert isinstance(function, FunctionType)
    generator = next(each for each in function.__code__.co_consts if hasattr(each, "co_code"))
    name = "exporter.x.test_inner_code_counts_to_its_function.<locals>.inner"
    assert function_of(function.__code__, "exporter.x") == name
    assert function_of(generator, "exporter.x") == name


def test_only_the_packages_count() -> None:
    """Code of other modules, and code that the standard library generates, is no function of the packages."""
    code = test_only_the_packages_count.__code__
    assert function_of(code, "exporterx.tracker") is None
    assert function_of(compile("", "<string>", "exec"), "exporter.tracker") is None
    assert function_of(code, "exporter.tracker") == "exporter.tracker.test_only_the_packages_count"


@pytest.mark.parametrize("text", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{END}\n"])
def test_markers_are_needed(text: str) -> None:
    """Nothing is written into a document without exactly one pair of markers."""
    with pytest.raises(ValueError, match="expected one line"):
        replaced(text, "lists")
