"""What a fit learned, read back for either kind of run, and the table of layers that is made of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_ops.graphs.windows import Window
from gmm_ops.hmm.chain import Chain
from gmm_ops.hmm.model import HiddenMarkovModel, LayerWords
from tests.references.word_distances import class_distances
from workflows.cli.options import find_preset
from workflows.errors import RunFolderError
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import Settings, load_settings
from workflows.storage.chains import chain_path, save_chain
from workflows.storage.mixtures import load_mixture, load_reseeded
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.dictionaries import read_dictionary
from workflows.words.summaries import layer_row

WORDS, UNITS, CLASSES = (3, 4), (6, 5), 10


def chain_settings() -> Settings:
    return load_settings(find_preset("digits_mlp"))


def dense_plan() -> Plan:
    """Two dense layers of a network that need not exist."""
    whole = Window.whole()
    sizes = enumerate(zip(WORDS, UNITS, strict=True), start=1)
    layers = tuple(
        LayerPlan(f"relu{i}", f"relu{i}", units, 1, 1, words, 1, whole if i > 1 else None, whole, True)
        for i, (words, units) in sizes
    )
    return Plan(layers, tuple("0123456789"), 20, 15, 32, 32, "weights.pt")


def drawn_model() -> HiddenMarkovModel:
    source = torch.Generator().manual_seed(4)

    def table(*shape: int) -> torch.Tensor:
        values = torch.rand(*shape, generator=source, dtype=torch.float64)
        return values / values.sum(dim=0)

    layers = tuple(
        LayerWords(
            torch.randn(words, units, generator=source, dtype=torch.float64),
            torch.rand(words, units, generator=source, dtype=torch.float64) + 0.1,
            rectified=True,
        )
        for words, units in zip(WORDS, UNITS, strict=True)
    )
    return HiddenMarkovModel(Chain(table(3), (table(4, 3), table(CLASSES, 4))), layers)


def test_the_dictionary_of_a_chain_is_its_marginals_and_centres(tmp_path: Path) -> None:
    folder, settings, plan, model = RunFolder(tmp_path), chain_settings(), dense_plan(), drawn_model()
    save_chain(chain_path(folder, JOINT), model)
    tables = [table.tolist() for table in model.chain.transitions]
    initial = model.chain.initial.tolist()
    for level, layer in enumerate(plan.layers):
        found = read_dictionary(folder, settings, plan, layer)
        expected = [0.0] * WORDS[level]
        for path in itertools.product(*(range(count) for count in WORDS[: level + 1])):
            chance = initial[path[0]]
            for step, (lower, upper) in enumerate(itertools.pairwise(path)):
                chance *= tables[step][upper][lower]
            expected[path[-1]] += chance
        np.testing.assert_allclose(found.pi, expected, rtol=1e-12)
        np.testing.assert_array_equal(found.mean, model.layers[level].mean.numpy())
        assert found.reseeded.tolist() == [0] * WORDS[level]


def test_a_run_without_its_chain_names_the_stage(tmp_path: Path) -> None:
    plan = dense_plan()
    with pytest.raises(RunFolderError, match=r"chain\.npz' is missing: run the fit stage"):
        read_dictionary(RunFolder(tmp_path), chain_settings(), plan, plan.layers[0])


def test_the_dictionary_of_a_mixture_is_the_mixture(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    for layer in plan.layers:
        path = folder.mixture("joint", layer.name)
        found = read_dictionary(folder, folder.settings(), plan, layer)
        np.testing.assert_array_equal(found.mean, load_mixture(path).mean.numpy())
        np.testing.assert_array_equal(found.reseeded, load_reseeded(path))
        assert found.pi.sum() == pytest.approx(1)


def test_layers_hold_what_the_loops_find(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    rows = read_table(folder.table("layers")).to_pylist()
    assert [row["layer"] for row in rows] == [layer.name for layer in plan.layers]
    words = read_table(folder.table("words")).to_pylist()
    for row, layer in zip(rows, plan.layers, strict=True):
        own = [word for word in words if word["layer"] == layer.name]
        shares = [word["dominant_share"] for word in own if word["columns"]]
        mean = read_dictionary(folder, folder.settings(), plan, layer).mean.tolist()
        dominant = [word["dominant_class"] if word["columns"] else -1 for word in own]
        within, between = class_distances(mean, dominant)
        assert within is not None
        assert (row["units"], row["words"], row["used"]) == (layer.units, layer.words, len(shares))
        assert row["dominant_share"] == pytest.approx(sum(shares) / len(shares), rel=1e-12)
        assert row["distance_within"] == pytest.approx(within, rel=1e-12)
        assert row["distance_between"] == pytest.approx(between, rel=1e-12)
        assert row["ratio"] == pytest.approx(within / between, rel=1e-12)
        pure = sum(word["columns"] * word["dominant_share"] for word in own if word["columns"])
        assert row["column_dominant_share"] == pytest.approx(pure / sum(word["columns"] for word in own), rel=1e-12)
        assert row["column_ratio"] is not None


def test_words_without_columns_are_not_measured() -> None:
    layer = dense_plan().layers[0]
    shared = {"dominant_class": 2, "dominant_share": 0.5, "columns": 2}
    rows = [shared, {"dominant_class": None, "dominant_share": None, "columns": 0}, shared | {"dominant_share": 0.8}]
    mean = np.array([[0.0] * 6, [100.0] * 6, [1.0] + [0.0] * 5])
    found = layer_row(rows, layer, mean)
    assert (found["words"], found["used"]) == (3, 2)
    assert found["dominant_share"] == pytest.approx(0.65)
    assert (found["distance_within"], found["distance_between"], found["ratio"]) == (1.0, None, None)
    assert found["column_dominant_share"] == pytest.approx(0.65)
