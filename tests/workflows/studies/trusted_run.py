"""The small run on digits, asked whether its graphs of two classes are to be trusted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.small_digits import command

LEAST = "workflows.studies.trust.command.LEAST_PREDICTED"
ENOUGH = 5
"""Images predicted as a class of the small run; it has no more than a dozen of each."""

DRAWS = 2
ARGUMENTS = ("--top", "2,1", "--draws", str(DRAWS))


def trusting(finished: Path) -> Callable[[Path], None]:
    """Makes a copy of a run and asks ``trust`` of its classes 3 and 8."""

    def build(root: Path) -> None:
        shutil.copytree(finished, root)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LEAST, ENOUGH)
            assert command(["trust", str(root), "--class", "3", "--class", "8", *ARGUMENTS, "--shortcuts"]) == 0

    return build
