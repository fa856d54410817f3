"""The batch of the forward pass: measured where that is worth it, kept in the plan, never at the price of a bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.end_to_end.small_digits import SETTINGS
from workflows.cli.options import find_preset
from workflows.cli.status import forward_choice, forward_line
from workflows.errors import SettingsError
from workflows.pipeline import run_pipeline
from workflows.plan.run_plan import ForwardTrial, Plan
from workflows.settings import Settings, load_settings
from workflows.stages import extract
from workflows.storage.arrays import read_rows
from workflows.storage.run_folder import RunFolder

FIELDS = ("data.max_train=60", "data.max_validation=40", "fit.minibatch=500", "mine.images=[]")


def settings_with(weights: Path, batch: str | int) -> Settings:
    fields = [*SETTINGS, *FIELDS, f"network.weights={weights}", f"extract.batch={batch}"]
    return load_settings(find_preset("digits"), fields)


def extracted(settings: Settings, root: Path) -> tuple[RunFolder, Plan]:
    folder = run_pipeline(settings, root, Console(quiet=True), until="extract")
    return folder, Plan.read(folder)


@pytest.mark.slow
def test_a_measured_batch_changes_nothing_and_stays(
    tmp_path: Path, digits_weights: Path, local_ray: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, plan = extracted(settings_with(digits_weights, 25), tmp_path / "given")
    assert plan.forward is None
    monkeypatch.setattr(extract, "WORTH_MEASURING_S", 0.0)
    settings = settings_with(digits_weights, "auto")
    measured, chosen = extracted(settings, tmp_path / "auto")
    assert chosen.forward is not None
    assert [trial.batch for trial in chosen.forward.trials] == [5, 25]
    assert (chosen.forward.actors, chosen.forward.threads) == (1, 1)
    assert all(trial.images_per_second > 0 for trial in chosen.forward.trials)
    assert chosen.forward.trials[-1].same
    assert Plan.from_json(chosen.to_json()) == chosen
    for layer in plan.layers:
        both = [read_rows(folder.activations(layer.name), 0, plan.images) for folder in (given, measured)]
        np.testing.assert_array_equal(*both)
    assert f"batches of {chosen.forward.batch} were chosen, 1 actors" in str(forward_line(chosen.forward))
    assert forward_choice(measured.root) == chosen.forward
    measured.ledger("extract").path.unlink()
    assert extracted(settings, measured.root)[1] == chosen, "nothing is measured again"


@pytest.mark.slow
def test_a_short_stage_is_not_held_up(tmp_path: Path, digits_weights: Path, local_ray: object) -> None:
    folder, plan = extracted(settings_with(digits_weights, "auto"), tmp_path / "run")
    assert plan.forward is None
    assert forward_choice(folder.root) is None


@pytest.mark.parametrize(
    ("rates", "same", "batch"),
    [
        ((30.0, 33.0, 31.0), (True, True, True), 10),
        ((30.0, 32.0, 31.0), (True, True, True), 50),
        ((40.0, 33.0, 31.0), (False, True, True), 10),
        ((40.0, 39.0, 31.0), (False, False, True), 50),
    ],
    ids=["fastest", "as fast", "other bits", "all other bits"],
)
def test_the_fastest_batch_of_the_same_bits(rates: tuple, same: tuple, batch: int) -> None:
    trials = [ForwardTrial(*trial) for trial in zip((5, 10, 50), rates, same, strict=True)]
    assert extract.choose_batch(trials, 2, 1).batch == batch


def test_decoding_on_a_device_is_refused_without_gpus(tmp_path: Path, digits_weights: Path, local_ray: object) -> None:
    settings = settings_with(digits_weights, "auto")
    there = settings.model_copy(update={"extract": settings.extract.model_copy(update={"decode": "device"})})
    with pytest.raises(SettingsError, match=r"extract\.decode: must be 'cpu' where actors have no GPU, got 'device'"):
        extracted(there, tmp_path / "run")
    assert not (tmp_path / "run" / "activations").exists()
