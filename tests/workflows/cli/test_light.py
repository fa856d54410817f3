"""What only looks must be quick: no torch, no Ray, no Dask, no Arrow for help, status and a run that is finished."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.small_digits import run_arguments

HEAVY = ("torch", "ray", "dask", "numba", "numpy", "pyarrow", "zarr", "matplotlib", "networkx", "sklearn", "duckdb")
SECONDS = 2.0
"""Of processor time; about half a second is needed on a quiet machine."""

LOOK = f"""
import sys
from workflows.cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print("loaded", *(name for name in {HEAVY!r} if name in sys.modules))
"""


def looked(*arguments: str) -> tuple[str, float]:
    """Output of a command in a process of its own, without errors; and its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", LOOK, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["show", "--help"], ["sweep", "--help"]], ids=" ".join
)
def test_help_is_light(arguments: list[str]) -> None:
    output, seconds = looked(*arguments)
    assert "Usage" in output
    assert output.splitlines()[-1] == "loaded"
    assert seconds < SECONDS


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_status_is_light(digits_run: Path, options: list[str]) -> None:
    output, seconds = looked("status", str(digits_run), *options)
    assert output.count("done") >= 10
    assert output.splitlines()[-1] == "loaded"
    assert seconds < SECONDS


def test_a_finished_run_is_light_and_still_checked(digits_run: Path, digits_weights: Path) -> None:
    same = run_arguments(digits_run, digits_weights)
    output, seconds = looked(*same)
    assert output.splitlines() == [f"run folder {digits_run}", "loaded"]
    assert seconds < SECONDS
    other = [sys.executable, "-m", "workflows", *same, "--set", "fit.epochs=2"]
    refused = subprocess.run(other, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 2
    assert "fit.epochs: the folder has 1, the command 2" in refused.stderr
