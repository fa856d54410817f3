"""Other graphs of a finished run: only the last stages run again, and a wrong request spoils nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.killing import ledger
from tests.end_to_end.small_digits import command, copy_until, run_arguments
from workflows.storage.tables import read_table

pytestmark = pytest.mark.usefixtures("local_ray")
TABLES = ("nodes", "edges", "heatmaps")


def test_other_classes_and_images_need_no_new_run(digits_run: Path, digits_weights: Path, tmp_path: Path) -> None:
    root = copy_until(digits_run, tmp_path / "run", "mine")
    begun = {stage: ledger(root, stage).seconds for stage in ("extract", "fit", "words", "count")}
    fields = ("mine.classes=['3','5']", "mine.images=['9']")
    assert command(run_arguments(root, digits_weights, *fields, until="mine")) == 0
    assert {stage: ledger(root, stage).seconds for stage in begun} == begun, "an earlier stage was begun again"
    for table in TABLES:
        found = read_table(root / f"{table}.parquet")
        assert set(found["graph"].to_pylist()) == {"class:3", "class:5", "image:9"}
        for graph in ("class:3", "class:5"):
            wanted = [("graph", "=", graph)]
            of_graph = read_table(root / f"{table}.parquet", filters=wanted)
            assert of_graph.equals(read_table(digits_run / f"{table}.parquet", filters=wanted))


def test_a_wrong_request_spoils_no_table(
    digits_run: Path, digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_until(digits_run, tmp_path / "run", "mine")
    before = {table: (root / f"{table}.parquet").read_bytes() for table in TABLES}
    assert command(run_arguments(root, digits_weights, "mine.classes=['33']", until="mine")) == 2
    told = capsys.readouterr().err
    assert "mine.classes: there is no class '33'" in told
    assert "Traceback" not in told
    assert {table: (root / f"{table}.parquet").read_bytes() for table in TABLES} == before
    assert command(run_arguments(root, digits_weights, until="mine")) == 0
    assert {table: (root / f"{table}.parquet").read_bytes() for table in TABLES} == before
