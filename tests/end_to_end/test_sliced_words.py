"""A whole run whose dictionaries are sliced over two actors: the rest of the run cannot tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.small_digits import SCOPE, TABLES, command, copy_until, run_arguments
from workflows.plan.run_plan import Plan
from workflows.storage.mixtures import load_mixture, load_reseeded
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.decisions import WAYS, way_column
from workflows.words.dictionaries import generative_path

DISCRIMINATIVE = ("fit.loss=discriminative", "discriminative.epochs=2", "runtime.memory_gb=20")


@pytest.mark.slow
def test_sliced_words_go_through_the_whole_run(
    tmp_path: Path, digits_run: Path, digits_weights: Path, local_ray: object
) -> None:
    whole = copy_until(digits_run, tmp_path / "whole", "extract")
    assert command(run_arguments(whole, digits_weights, *DISCRIMINATIVE, until="errors")) == 0
    root = tmp_path / "run"
    assert command(run_arguments(root, digits_weights, *DISCRIMINATIVE, "fit.word_slices=2", until="mine")) == 0
    folder, unsliced = RunFolder.open(root), RunFolder.open(whole)
    for layer in Plan.read(folder).layers:
        for path in (generative_path, RunFolder.mixture):
            ours, theirs = (load_mixture(path(one, SCOPE, layer.name)) for one in (folder, unsliced))
            np.testing.assert_allclose(ours.log_pi.exp(), theirs.log_pi.exp(), rtol=1e-2, atol=1e-3)
        own = [("layer", "=", layer.name)]
        labels, expected = (read_table(one.table("decisions"), filters=own) for one in (folder, unsliced))
        assert labels["image"].equals(expected["image"])
        for way in WAYS:
            name = way_column(*way)
            assert (labels[name].to_numpy() != expected[name].to_numpy()).sum() <= 2, (layer.name, name)
        assert load_reseeded(folder.mixture(SCOPE, layer.name)).shape == (layer.words,)
    assert not list((root / "mixtures").rglob("*slice-*")), "slices of finished fits are removed"
    for table in TABLES:
        assert read_table(folder.table(table)).num_rows > 0, table
    errors = [{(row["layer"], row["loss"], row["histogram"]): row["errors"]
               for row in read_table(one.table("errors")).to_pylist()} for one in (folder, unsliced)]  # fmt: skip
    assert errors[0].keys() == errors[1].keys()
    assert all(abs(count - errors[1][key]) <= 2 for key, count in errors[0].items())
