"""A whole run whose dictionaries are sliced over two actors: the rest of the run cannot tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.small_digits import SCOPE, TABLES, changed_share, command, run_arguments, word_maps
from workflows.plan import Plan
from workflows.stages.discriminative_fit import classifier_path, generative_path
from workflows.storage.mixtures import load_mixture, load_reseeded
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

SETTINGS = ("fit.word_slices=2", "fit.loss=discriminative", "discriminative.epochs=2", "runtime.memory_gb=20")


@pytest.mark.slow
def test_sliced_words_go_through_the_whole_run(
    tmp_path: Path, digits_run: Path, digits_weights: Path, local_ray: object
) -> None:
    root = tmp_path / "run"
    assert command(run_arguments(root, digits_weights, *SETTINGS, until="mine")) == 0
    folder, unsliced = RunFolder.open(root), RunFolder.open(digits_run)
    for layer in Plan.read(folder).layers:
        # The first phase is the fit of the other run; the words then go their own way.
        likely, expected = (
            load_mixture(path)
            for path in (generative_path(folder, SCOPE, layer.name), unsliced.mixture(SCOPE, layer.name))
        )
        np.testing.assert_allclose(likely.log_pi.exp(), expected.log_pi.exp(), rtol=1e-3, atol=1e-4)
        trained = load_mixture(folder.mixture(SCOPE, layer.name))
        assert trained.mean.shape == expected.mean.shape
        assert float(trained.log_pi.exp().sum()) == pytest.approx(1.0, abs=1e-12)
        assert load_reseeded(folder.mixture(SCOPE, layer.name)).shape == (layer.words,)
        assert load_state(classifier_path(folder, SCOPE, layer.name))["discriminative_weight"].shape[1] == layer.words
    assert not list((root / "mixtures").rglob("*slice-*")), "slices of finished fits are removed"
    assert changed_share(word_maps(root), word_maps(digits_run)) > 0.0
    for table in TABLES:
        assert read_table(folder.table(table)).num_rows > 0, table
    errors = read_table(folder.table("errors")).to_pylist()
    assert len(errors) == 4 * len(Plan.read(folder).layers)
    assert all(0.0 <= row["error"] < 0.9 for row in errors), "better than chance"
