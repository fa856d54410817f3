"""Which settings void what a finished stage has written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.small_digits import SETTINGS
from workflows.cli.options import find_preset
from workflows.pipeline import STAGES, stages_left
from workflows.settings import load_settings
from workflows.storage.run_folder import RunFolder


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ([], None),
        (["runtime.actors=7", "count.scheduler=ray", "data.max_broken=0.5"], None),
        (["draw.exemplars=4"], "count"),
        (["count.folds=0"], "count"),
        (["count.intervals=false"], "count"),
        (["mine.top=2"], "mine"),
        (["mine.classes=['3']"], "mine"),
        (["draw.rectangle_layers=1"], "draw"),
        (["draw.figures=none"], "draw"),
    ],
)
def test_changed_settings_void_the_stages_that_read_them(
    digits_run: Path, digits_weights: Path, fields: list[str], first: str | None
) -> None:
    stages = list(STAGES)
    changed = load_settings(find_preset("digits"), [f"network.weights={digits_weights}", *SETTINGS, *fields])
    left = stages_left(RunFolder.open(digits_run), changed, list(STAGES.values()))
    assert [stage.name for stage in left] == ([] if first is None else stages[stages.index(first) :])
