"""The shapes in the annotations of `gmm_ops` are what the functions are given and give back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_annotated_shapes_hold_when_they_are_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gmm_ops.checked_shapes"],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    modules, tried, failed = (int(number) for number in done.stdout.split()[-3:])
    assert modules > 25
    assert tried > 10
    assert failed == 0, done.stdout
