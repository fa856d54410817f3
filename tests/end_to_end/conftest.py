"""Runs that several end-to-end tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import BuildOnce
from tests.end_to_end.folder_runs import FolderRun, Refused, write_folder_run
from tests.end_to_end.small_digits import FIRST_LAYER, command, fit_left_open, run_arguments


@pytest.fixture(scope="session")
def fitted_by_two(digits_run: Path, digits_weights: Path, build_once: BuildOnce) -> Path:
    """The small run with its lowest layer fitted by a group of two actors; for reading only."""

    def fit(root: Path) -> None:
        fit_left_open(digits_run, root, FIRST_LAYER)
        assert command(run_arguments(root, digits_weights, "runtime.fit_actors=2", until="fit")) == 0

    return build_once("digits-by-two", fit)


@pytest.fixture
def run(tmp_path: Path) -> FolderRun:
    return write_folder_run(tmp_path, images_a_class=6)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Gives a command, demands its exit status, one clear error without a traceback, and all of the words."""

    def check(arguments: list[str], *words: str, status: int = 2) -> str:
        capsys.readouterr()
        assert command(arguments) == status
        told = capsys.readouterr().err
        assert told.startswith("error ")
        assert "Traceback" not in told
        for word in words:
            assert word in told, told
        return told

    return check
