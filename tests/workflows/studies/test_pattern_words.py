"""Words at patterns of the small digits run: planted places, and the study's tables counted again from public ones."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from gmm_ops.explanatory.pattern_fitting import PatternFit
from gmm_ops.explanatory.pattern_layer import PatternLayer
from gmm_ops.explanatory.pattern_places import PatternPlaces
from gmm_ops.explanatory.responses import PositionGrid
from tests.end_to_end.small_digits import copy_until
from tests.references import pattern_words as twin
from workflows.asking.pattern_files import PatternedLayer, PatternFiles, TurnedObjects
from workflows.asking.study import Asked, open_study
from workflows.data.boxes import input_scaling
from workflows.data.objects import BoxedObjects
from workflows.errors import DataError, RunFolderError
from workflows.plan.run_plan import LayerPlan
from workflows.run import open_run
from workflows.settings import PreprocessingSettings
from workflows.storage.images_table import ImageColumns
from workflows.storage.pair_counts import read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.studies.patterns import placed_words
from workflows.studies.patterns.command import run_patterns
from workflows.studies.patterns.joined_words import word_tables
from workflows.studies.patterns.request import PatternsRequest
from workflows.studies.patterns.subject import Subject
from workflows.words.word_maps import read_words

LABEL, OBJECTS, UNITS = 3, 40, 12
Tables = dict[str, list[dict[str, Any]]]


def centred(layer: LayerPlan) -> PositionGrid:
    """Where a layer's positions lie, by its receptive fields."""
    first = (layer.pixels.rows.offset + layer.pixels.rows.length(32) / 2) / 32
    return PositionGrid(layer.height, layer.width, (first, first), (layer.pixels.rows.stride / 32,) * 2)


def planted_layer(root: Path, layer: LayerPlan, words: list[int], objects: BoxedObjects, seed: int) -> PatternPlaces:
    """Pattern v sits, in every photo that has it, where its word lies; its score says whether it does."""
    generator, grid = np.random.default_rng(seed), centred(layer)
    maps = read_words(RunFolder.open(root), "joint", layer.name, 0, int(objects.images.max()) + 1).numpy()
    places, scores = np.full((len(objects), UNITS, 2), np.nan, np.float32), np.zeros((len(objects), UNITS), np.float32)
    for row, image in enumerate(objects.images):
        for unit, word in enumerate(words):
            found = np.argwhere(maps[image] == word)
            if len(found):
                at = grid.positions()[tuple(found[generator.integers(len(found))])].numpy() * 32
                corner = objects.boxes[row, [1, 0]]
                places[row, unit] = (at - corner) / (objects.boxes[row, [3, 2]] - corner)
                if row % 2:  # every second one is mirrored
                    places[row, unit, 1] = 1 - places[row, unit, 1]
                scores[row, unit] = 1
    return PatternPlaces(torch.from_numpy(places), torch.from_numpy(scores))


@pytest.fixture(scope="module")
def root(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(digits_run, tmp_path_factory.mktemp("words") / "run")


def strongest_pairs(root: Path) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Pairs (upper, lower) of words of add3 and add2 of highest log ratio, each word once; and all log ratios."""
    plan = open_run(root).plan
    pair = plan.pairs()[1]
    counts = read_pair_counts(RunFolder.open(root).cooccurrence("joint", pair.lower, pair.upper))
    total = counts.total(pair.upper_words, pair.lower_words).numpy()
    prior = total.sum(0) / total.sum()
    ratios = np.full(total.shape, np.nan)
    for upper, lower in np.ndindex(total.shape):
        if total[upper].sum() and prior[lower]:
            ratios[upper, lower] = twin.log_ratio(total[upper, lower], total[upper].sum(), prior[lower], 1)
    return [(one, int(np.nanargmax(ratios[one]))) for one in range(len(ratios)) if total[one].sum()], ratios


@pytest.fixture(scope="module")
def planted(root: Path) -> tuple[Tables, list[tuple[int, int]], np.ndarray, dict[str, Any]]:
    """Patterns of two layers on the words of the strongest pairs; each has the pattern of the other word as parent."""
    run, folder = open_run(root), RunFolder.open(root)
    images = ImageColumns.read(folder, 0, run.plan.images)
    own = np.flatnonzero(images.label == LABEL)[:OBJECTS]
    boxes = np.tile([[1, 0, 31, 32]], (len(own), 1))
    objects = BoxedObjects(own, boxes, {"head": np.tile([[4.0, 2, 20, 12]], (len(own), 1))})
    pairs, ratios = strongest_pairs(root)
    common = [
        int((read_words(folder, "joint", run.plan.layers[2].name, 0, 500) == one).any(2).any(1).sum())
        for one, _ in pairs
    ]
    pairs = [pairs[place] for place in np.argsort(-np.array(common))[:UNITS]]
    signs = np.where(np.arange(len(own)) % 2, -1, 1)
    turned = TurnedObjects(objects, signs, np.ones(len(own)), np.ones(len(own), bool))
    patterned = [PatternedLayer(f"layer{n}.0.conv2", UNITS, 1, centred(run.plan.layers[n - 1])) for n in (2, 3)]
    files = PatternFiles.of(folder, LABEL)
    files.write_objects(turned, patterned, tops=["anchored"])
    for level, layer in enumerate(patterned):
        words = [pair[1 - level] for pair in pairs]
        found = planted_layer(root, run.plan.layers[level + 1], words, objects, level)
        there = found.scores.numpy()[..., None] > 0
        total = np.where(there, found.places.numpy(), 0).sum(axis=0)
        means = np.where(there.any(axis=0), total / np.maximum(there.sum(axis=0), 1), 0.5)
        parents = torch.arange(UNITS)[:, None, None] if level == 0 else torch.full((UNITS, 1, 1), -1)
        shape = torch.from_numpy(means).double()[:, None]
        fit = PatternLayer(shape, torch.full((UNITS, 1), 0.1).double(), parents, torch.ones(UNITS, 1).double())
        files.write_patterns("anchored", layer.name, PatternFit(fit, torch.zeros(UNITS, 2).double()))
        files.create_places("anchored", layer.name, len(own), UNITS)
        files.write_places("anchored", layer.name, 0, found)
    request = PatternsRequest(root / "none.csv", (str(LABEL),))
    how = Asked(root, Console(file=io.StringIO(), width=200))
    with pytest.MonkeyPatch.context() as patch, open_study("patterns", how, {}, after="index") as study:
        # All patterns are valid where they have a place, a few patterns at a time, in two files of places.
        patch.setattr(placed_words, "valid_patterns", lambda scores: scores > 0)
        patch.setattr(placed_words, "_CELLS", 1250)
        found, told = word_tables(Subject(study, request, tuple(patterned), LABEL, objects), turned)
    return {name: one.to_pylist() for name, one in found.items()}, pairs, ratios, told


def test_planted_words_lie_at_their_patterns(planted: Any) -> None:
    tables, pairs, _, told = planted
    first = [row for row in tables["pattern_words"] if row["rank"] == 0]
    assert told["scope"] == "joint"
    assert told["objects"] == OBJECTS
    for level, name in enumerate(("layer2.0.conv2", "layer3.0.conv2")):
        own = {row["unit"]: row for row in first if row["layer"] == name}
        assert len(own) > 5
        for unit, row in own.items():
            assert row["word"] == pairs[unit][1 - level]
            assert row["share"] == 1
            assert 0 < row["object_share"] < 1
            wanted = twin.log_ratio(row["objects"], row["objects"], row["object_share"], 1)
            assert row["log_ratio"] == pytest.approx(wanted)
    assert {row["word_layer"] for row in first} == {layer for layer in told["layers"].values()}


def test_planted_patterns_stand_out_from_any_place(planted: Any) -> None:
    rows = {(row["layer"], row["source"]): row for row in planted[0]["pattern_word_measures"] if row["part"] is None}
    assert len(rows) == 6
    for layer in ("layer2.0.conv2", "layer3.0.conv2"):
        own, anywhere = rows[layer, "patterns"], rows[layer, "random"]
        assert own["share"] == own["share_low"] == 1
        assert anywhere["share"] < 0.8
        assert own["log_ratio_low"] > anywhere["log_ratio_high"] + 0.5


def test_planted_edges_have_the_log_ratios_of_their_words(planted: Any) -> None:
    tables, pairs, ratios, _ = planted
    rows = {row["source"]: row for row in tables["pattern_edge_words"]}
    assert set(rows) == {"edges", "shuffled", "near", "random"}
    counted = [row["unit"] for row in tables["pattern_words"] if row["rank"] == 0 and row["objects"] >= 10]
    both = [unit for unit in range(UNITS) if counted.count(unit) == 2]
    assert rows["edges"]["pairs"] == len(both)
    assert rows["edges"]["log_ratio"] == pytest.approx(np.mean([ratios[pairs[unit]] for unit in both]))
    assert rows["edges"]["log_ratio_difference"] is None
    for name in ("shuffled", "near", "random"):
        assert rows[name]["log_ratio"] < rows["edges"]["log_ratio"]
        difference = rows["edges"]["log_ratio"] - rows[name]["log_ratio"]
        assert rows[name]["log_ratio_difference"] == pytest.approx(difference)


def lines(root: Path) -> Path:
    table = read_table(root / "images.parquet", ["path", "label", "status"]).to_pylist()
    own = [row["path"] for row in table if row["label"] == LABEL and row["status"] == "ok"][:24]
    edges = ",".join(f"{what}_{edge}" for what in ("obj", "part") for edge in ("x0", "y0", "x1", "y1"))
    path = root.parent / "boxes.csv"
    path.write_text("\n".join([f"image,part,{edges}", *(f"{one},head,1,0,31,30,4,2,20,12" for one in own)]) + "\n")
    return path


def ask(root: Path, boxes: Path, **changes: Any) -> str:
    console = Console(file=io.StringIO(), width=240)
    known: dict[str, Any] = {"layers": ("layer2.0.conv2:3", "layer3.0.conv2:2"), "iterations": 3, "mirror": "off"}
    run_patterns(Asked(root, console), PatternsRequest(boxes, (str(LABEL),), **(known | changes)))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_tables_of_the_study_are_those_of_its_places(digits_run: Path, tmp_path: Path) -> None:
    """Counted again from pattern_places, in pixels of the photo, and the word maps."""
    root = shutil.copytree(digits_run, tmp_path / "run")
    told = ask(root, lines(root))
    assert (
        "words of joint at patterns, by the nearest stride: layer2.0.conv2 with add2, layer3.0.conv2 with add3" in told
    )
    plan, folder = open_run(root).plan, RunFolder.open(root)
    layer = plan.layers[1]
    maps = read_words(folder, "joint", layer.name, 0, plan.images).numpy()
    places = read_table(root / "pattern_places.parquet", filters=[("layer", "=", "layer2.0.conv2")]).to_pylist()
    seen: dict[tuple[int, int], list[int]] = {}
    for row in places:
        word = twin.word_at(maps[row["image"]], centred(layer), (row["photo_y"] / 32, row["photo_x"] / 32))
        seen.setdefault((row["unit"], row["pattern"]), []).append(word)
    rows = read_table(root / "pattern_words.parquet", filters=[("layer", "=", "layer2.0.conv2")]).to_pylist()
    assert {(row["unit"], row["pattern"]) for row in rows} == set(seen)
    for row in rows:
        own = seen[row["unit"], row["pattern"]]
        assert row["objects"] == len(own)
        assert row["share"] == pytest.approx(own.count(row["word"]) / len(own))
        assert row["rank"] == 0 or row["share"] >= 0.1
    assert len(read_table(root / "pattern_word_measures.parquet")) == 2 * 3 * 2
    again = ask(root, lines(root))
    assert "answered this before" in again
    assert "words of pairs" in again


@pytest.mark.slow
def test_a_run_without_words_says_so(digits_run: Path, tmp_path: Path) -> None:
    root = copy_until(digits_run, tmp_path / "run", "extract")
    told = ask(root, lines(root))
    assert "no words are looked up at its patterns: its stage 'fit' is not done; finish the run to have them" in told
    assert len(read_table(root / "pattern_words.parquet")) == 0
    with pytest.raises(RunFolderError, match="--scope: must be asked of a run with words on photos, got 'joint'"):
        ask(root, lines(root), scope="joint")


def test_an_unknown_scope_is_refused_before_anything_runs(digits_run: Path, tmp_path: Path) -> None:
    root = shutil.copytree(digits_run, tmp_path / "run")
    with pytest.raises(DataError, match="--scope: must be one of joint, got 'list-cats'; take one of them"):
        ask(root, lines(root), scope="list-cats")
    assert not (root / "patterns").exists()


@pytest.mark.parametrize("size", [(300, 500), (640, 333), (224, 224)])
def test_places_on_photos_are_those_of_the_crop(size: tuple[int, int]) -> None:
    """The middle stays the middle; a pixel of the crop's corner is the corner."""
    factor, shift = input_scaling(size, PreprocessingSettings(resize=256, crop=224))
    assert np.array(size) / 2 * factor + shift == pytest.approx([0.5, 0.5], abs=3e-3)
    short = min(size)
    corner = (np.array(size) - short * 224 / 256) / 2
    assert corner * factor + shift == pytest.approx([0, 0], abs=6e-3)
    assert not math.isnan(float(factor.sum()))
