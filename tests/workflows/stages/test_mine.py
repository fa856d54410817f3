"""Mining some graphs at a time changes no row."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from workflows.context import StageContext
from workflows.pipeline import STAGES
from workflows.runtime.progress import StageBar
from workflows.stages import mine
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

TABLES = ("nodes", "edges", "heatmaps")


@pytest.mark.parametrize("at_once", [1, 3])
def test_tables_do_not_depend_on_the_graphs_at_once(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    folder = RunFolder(shutil.copytree(digits_run, tmp_path / "run"))
    before = {table: read_table(folder.table(table)) for table in TABLES}
    assert len(set(before["nodes"]["graph"].to_pylist())) > 10
    for table in TABLES:
        folder.table(table).unlink()
    monkeypatch.setattr(mine, "GRAPHS_AT_ONCE", at_once)
    with StageBar(Console(quiet=True)).stage("mine") as progress:
        mine.run(StageContext(folder.settings(), folder, STAGES["mine"], progress, warn=lambda _: None))
    for table in TABLES:
        assert read_table(folder.table(table)).equals(before[table], check_metadata=True)
