"""Mining some graphs at a time changes no row."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.references import pattern_words as twin
from workflows.context import StageContext
from workflows.pipeline import STAGES
from workflows.plan.run_plan import Plan
from workflows.runtime.progress import StageBar
from workflows.settings import Settings
from workflows.stages import mine
from workflows.storage.pair_counts import read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

TABLES = ("nodes", "edges", "heatmaps", "pairs")


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
    mine_again(folder, folder.settings())
    for table in TABLES:
        assert read_table(folder.table(table)).equals(before[table], check_metadata=True)


def mine_again(folder: RunFolder, settings: Settings) -> None:
    with StageBar(Console(quiet=True)).stage("mine") as progress:
        mine.run(StageContext(settings, folder, STAGES["mine"], progress, warn=lambda _: None))


def test_pairs_of_the_classes_add_up_to_those_of_all(digits_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(digits_run, tmp_path / "run"))
    settings, plan = folder.settings(), Plan.read(folder)
    mine_again(folder, settings.model_copy(update={"count": settings.count.model_copy(update={"pairs": "per_class"})}))
    rows = read_table(folder.table("pairs")).to_pylist()
    total = [row for row in rows if row["class"] is None]
    assert len(total) < len(rows)
    for pair in plan.pairs():
        stored = read_pair_counts(folder.cooccurrence("joint", pair.lower, pair.upper))
        dense = stored.total(pair.upper_words, pair.lower_words).numpy()
        here = [row for row in total if (row["upper_layer"], row["lower_layer"]) == (pair.upper, pair.lower)]
        assert len(here) == np.count_nonzero(dense)
        for row in here[::7]:
            s, t = row["upper_word"], row["lower_word"]
            assert row["count"] == dense[s, t]
            prior = dense[:, t].sum() / dense.sum()
            expected = twin.log_ratio(int(dense[s, t]), int(dense[s].sum()), float(prior), 1)
            assert row["log_ratio"] == pytest.approx(expected, abs=1e-9)
    summed = Counter[tuple[object, ...]]()
    for row in rows:
        if row["class"] is not None:
            summed[key_of(row)] += row["count"]
    assert summed == {key_of(row): row["count"] for row in total}


def key_of(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("upper_layer", "upper_word", "lower_layer", "lower_word", "log_ratio"))


def test_no_table_of_pairs_is_left_where_none_is_asked_for(digits_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(digits_run, tmp_path / "run"))
    settings = folder.settings()
    mine_again(folder, settings.model_copy(update={"count": settings.count.model_copy(update={"pairs": "none"})}))
    assert not folder.table("pairs").exists()
