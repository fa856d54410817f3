"""The fit stage of a run with a hidden Markov model: every start, the kept one, and what it refuses or tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from tests.workflows.made_chain import UNITS, chain_settings_of, dense_activations, made_run
from workflows.context import StageContext
from workflows.errors import DataError
from workflows.fits.training_images import held_out_images
from workflows.pipeline import STAGES
from workflows.runtime.cluster import Resources
from workflows.stages import fit
from workflows.storage.chains import chain_path, load_chain
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table


@dataclass
class Seen:
    """What the user would see of a stage."""

    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    items: int = 0

    def start(self, total: int, done: int = 0) -> None:
        self.items = done

    def advance(self, items: int = 1, images: int = 0, columns: int = 0) -> None:
        self.items += items

    def at_work(self, item: str, share: float, columns: int = 0) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


FITTED = 357
"""Of 400 training images 40 are held out and 3 broken, none of them both."""

Stage = Callable[..., tuple[RunFolder, Seen]]


@pytest.fixture
def stage(tmp_path: Path, local_ray: Resources) -> Stage:
    """Runs the stage on a made run in this test's folder; a second call with the same settings returns to it."""

    def run(
        layers: Sequence[np.ndarray] | None = None,
        hmm: dict[str, Any] | None = None,
        broken: Sequence[int] = (3, 77, 78),
        again: bool = False,
        **fields: Any,
    ) -> tuple[RunFolder, Seen]:
        settings = chain_settings_of(hmm, **fields)
        made, predicted = dense_activations()
        folder = RunFolder(tmp_path / "run")
        if not again:
            folder, _ = made_run(tmp_path / "run", settings, made if layers is None else layers, predicted, broken)
        seen = Seen()
        fit.run(StageContext(settings, folder, STAGES["fit"], seen, seen.warnings.append, local_ray))
        folder.ledger("fit").end()
        return folder, seen

    return run


def test_the_kept_start_has_the_best_held_out_likelihood(stage: Stage) -> None:
    folder, seen = stage(hmm={"restarts": 3})
    history = read_table(folder.table("history")).to_pylist()
    # Rows come by restart and step: the value of the last epoch stays.
    reached = {row["restart"]: row["held_out_full"] for row in history if row["held_out_full"] is not None}
    best = max(reached, key=lambda restart: reached[restart])
    assert len(set(reached.values())) == 3
    kept, chosen = load_chain(chain_path(folder, "joint")), load_chain(folder.mixture("joint", f"chain-{best}"))
    for name, values in chosen.to_arrays().items():
        assert kept.to_arrays()[name].tobytes() == values.tobytes()
    assert seen.notes[-1] == f"restart {best} of 3 kept, held-out {reached[best]:.3f} nats an image"
    assert seen.items == 3
    ledger = folder.ledger("fit").items()
    assert {name: record["held_out"] for name, record in ledger.items()} == {
        f"restart {restart}": value for restart, value in reached.items()
    }
    assert not list((folder.root / "mixtures").rglob("*state*")), "checkpoints of finished fits are gone"


def test_the_history_has_a_row_for_every_step_of_every_start(stage: Stage) -> None:
    folder, _ = stage()
    history = read_table(folder.table("history"))
    assert set(history["layer"].to_pylist()) == {"chain"}
    steps = {restart: record["steps"] for restart, record in enumerate(folder.ledger("fit").items().values())}
    for restart, count in steps.items():
        rows = [row for row in history.to_pylist() if row["restart"] == restart]
        assert [row["step"] for row in rows] == list(range(1, count + 1))
        assert rows[-1]["columns"] == 3 * FITTED
        assert all(row["reseeded"] == 0 for row in rows)


def test_a_stage_that_lost_its_end_keeps_finished_starts(stage: Stage) -> None:
    folder, _ = stage()
    before = {path.name: path.read_bytes() for path in (folder.root / "mixtures" / "joint").iterdir()}
    ledger = folder.root / "ledgers" / "fit.jsonl"
    lines = [line for line in ledger.read_text().splitlines(True) if "restart 1" not in line and '"end"' not in line]
    ledger.write_text("".join(lines))
    for name in ("chain.npz", "chain-1.npz", "chain-1.history.parquet"):
        (folder.root / "mixtures" / "joint" / name).unlink()
    _, seen = stage(again=True)
    assert not any(note.startswith("restart 0 step") for note in seen.notes)
    after = {path.name: path.read_bytes() for path in (folder.root / "mixtures" / "joint").iterdir()}
    assert sorted(after) == sorted(before)
    for name in ("chain.npz", "chain-0.npz", "chain-1.npz"):
        one, other = (load_chain_bytes(content, folder) for content in (before[name], after[name]))
        assert one == other


def load_chain_bytes(content: bytes, folder: RunFolder) -> dict[str, bytes]:
    """Values of a model's file; the file itself has the time of writing in it."""
    path = folder.root / "one.npz"
    path.write_bytes(content)
    return {name: values.tobytes() for name, values in load_chain(path).to_arrays().items()}


def test_units_that_are_always_zero_are_counted_and_told(stage: Stage) -> None:
    layers, _ = dense_activations()
    natural = [int((values[:400] == 0).all(axis=0).sum()) for values in layers]
    assert natural == [0, 0, 0]
    layers[0][:400, [2, 5, 9]] = 0
    layers[0][401, 2] = 1  # only a validation image lights it
    layers[0][77, 5] = 1  # only a broken image lights it
    layers[2][:, 1] = 0
    folder, seen = stage(layers)
    assert seen.warnings == [
        f"units that are zero for every training image: relu1 3 of {UNITS[0]}, relu3 1 of {UNITS[2]}; they tell no "
        "words apart, and a rectified unit's mean stays 5 standard deviations below 0 (hmm.clamp)"
    ]
    records = folder.ledger("fit").items().values()
    assert [record["silent"] for record in records] == [{"relu1": 3, "relu2": 0, "relu3": 1}] * 2
    model = load_chain(chain_path(folder, "joint")).layers[2]
    used = model.mean[:, 1] / model.variance[:, 1].sqrt()
    assert used.min() >= -5 - 1e-9
    assert model.mean[:, 1].abs().max() < 1e-2 * float(model.mean.abs().max() + model.variance.sqrt().max())


def test_a_layer_of_zeros_is_refused(stage: Stage) -> None:
    layers, _ = dense_activations()
    layers[1][:400] = 0
    with pytest.raises(DataError, match=r"layer 'relu2' is zero for every training image.*check network\.weights"):
        stage(layers)


def test_more_words_than_images_are_refused(stage: Stage) -> None:
    words = (
        r"fit.words gives layer 'relu2' 358 words, but only 357 images are fitted: of 400 training images 40 are held "
        r"out \(fit.held_out = 0.1\) and 3 are broken; give at most 357 words, or more images"
    )
    with pytest.raises(DataError, match=words):
        stage(words=[6, 358, 4])


@pytest.mark.slow
def test_where_the_only_held_out_image_is_broken_another_judges(stage: Stage, tmp_path: Path) -> None:
    settings = chain_settings_of(held_out=0.001)
    _, plan = made_run(tmp_path / "same", settings, *dense_activations())
    (apart,) = np.flatnonzero(held_out_images(settings, plan))
    folder, _ = stage(broken=[int(apart)], held_out=0.001)
    assert all(np.isfinite(record["held_out"]) for record in folder.ledger("fit").items().values())


def test_no_readable_held_out_image_is_refused(stage: Stage) -> None:
    with pytest.raises(DataError, match=r"no readable image is left to judge the restarts.*raise fit\.held_out"):
        stage(broken=range(1, 400), words=[1, 1, 1])


def test_negative_activations_are_refused_with_their_unit(stage: Stage) -> None:
    layers, _ = dense_activations()
    layers[1][:, 4] = -1
    with pytest.raises(RefusedInput, match=r"rectified layer must be 0 or more; unit 4 of row \d+ is -1"):
        stage(layers)


def test_activations_that_are_no_numbers_are_refused(stage: Stage) -> None:
    layers, _ = dense_activations()
    layers[2][:, 4] = np.nan
    with pytest.raises(NonFiniteActivations, match="finite"):
        stage(layers)
