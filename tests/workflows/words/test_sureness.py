"""Intervals and stability of graphs of real images: digits, whose words and graphs a run has made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gmm_ops.graphs.cooccurrence import SparseCounts
from gmm_ops.graphs.inference_graph import log_ratios
from gmm_ops.trust.intervals import NORMAL_95, PairMoments, log_ratio_deviations
from tests.workflows.stages.test_fit_stage import Seen
from workflows.context import StageContext
from workflows.pipeline import STAGES
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.stages import count, mine
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.mining import ScopeCounts
from workflows.words.sureness import scope_intervals, scope_stability
from workflows.words.word_maps import read_all_maps

FEW = 10
"""Images of a pair below which an interval is too narrow (infra/docs/intervals.md)."""


class OfImages(NamedTuple):
    """Counts of every validation image of a run in one pair of layers."""

    name: str
    counts: np.ndarray
    maps: tuple[torch.Tensor, torch.Tensor]
    sizes: tuple[object, int, int]

    def judged(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log ratios, their deviations, and images with the pair."""
        upper, lower = (one[torch.from_numpy(images)] for one in self.maps)
        total = torch.from_numpy(self.counts[images].sum(0))
        deviations = log_ratio_deviations(PairMoments.from_batch(upper, lower, *self.sizes), total)
        return log_ratios(total).values.numpy(), deviations.numpy(), (self.counts[images] > 0).sum(0)


@pytest.fixture(scope="module")
def counted(digits_run: Path) -> list[OfImages]:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    first, stop = plan.train_images, plan.images
    maps = read_all_maps(folder, "joint", plan, first, stop, ImageColumns.read(folder, first, stop).predicted)
    found = []
    for pair in plan.pairs():
        own, sizes = (maps[pair.upper], maps[pair.lower]), (pair.window, pair.upper_words, pair.lower_words)
        cells = SparseCounts.from_batch(*own, *sizes, torch.arange(stop - first))
        counts = np.zeros((stop - first, *sizes[1:]), np.int64)
        counts[cells.group, cells.upper, cells.lower] = cells.count
        found.append(OfImages(pair.name, counts, own, sizes))
    return found


def test_deviations_are_those_of_the_bootstrap(counted: list[OfImages]) -> None:
    """Images drawn anew 300 times: the same spread, to a tenth, of pairs that are not in a few images only."""
    random = np.random.default_rng(0)
    for pair in counted:
        n = len(pair.counts)
        weights = random.multinomial(n, np.full(n, 1 / n), size=300)
        totals = np.tensordot(weights, pair.counts, 1)
        resampled = np.stack([log_ratios(torch.from_numpy(total)).values.numpy() for total in totals])
        _, deviations, images = pair.judged(np.arange(n))
        often = images >= 2 * FEW
        if not often.any():  # a class has a dozen images
            continue
        ratio = resampled[:, often].std(0) / deviations[often]
        assert 0.97 < np.median(ratio) < 1.06, pair.name
        assert np.quantile(ratio, 0.05) > 0.87, pair.name
        assert np.quantile(ratio, 0.95) < 1.17, pair.name


def test_intervals_hold_what_other_images_say(counted: list[OfImages]) -> None:
    """The images in two halves: their log ratios differ by 1.96 deviations of the difference in 19 of 20 pairs."""
    random = np.random.default_rng(1)
    held, pairs = 0, 0
    for pair in counted:
        for _ in range(10):
            order = random.permutation(len(pair.counts))
            half = len(order) // 2
            (one, own, images), (other, others, seen) = (pair.judged(part) for part in (order[:half], order[half:]))
            known = (images >= FEW) & (seen > 0)
            held += int((np.abs(one - other) <= NORMAL_95 * np.hypot(own, others))[known].sum())
            pairs += int(known.sum())
    assert 0.93 < held / pairs < 0.97


def test_tables_say_the_intervals_of_their_pairs(digits_run: Path, counted: list[OfImages]) -> None:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    for table in ("edges", "pairs"):
        rows = read_table(folder.table(table)).to_pylist()
        assert rows
        for pair, of_images in zip(plan.pairs(), counted, strict=True):
            ratios, deviations, images = of_images.judged(np.arange(len(of_images.counts)))
            for row in (row for row in rows if row["upper_layer"] == pair.upper):
                at = row["upper_word"], row["lower_word"]
                assert row["log_ratio"] == ratios[at]
                assert row["log_ratio_low"] == pytest.approx(ratios[at] - NORMAL_95 * deviations[at], rel=1e-9)
                assert row["log_ratio_high"] == pytest.approx(ratios[at] + NORMAL_95 * deviations[at], rel=1e-9)
                assert "images" not in row or row["images"] == images[at]


def count_and_mine(folder: RunFolder, settings: Settings) -> None:
    for stage, module in (("count", count), ("mine", mine)):
        seen = Seen()
        module.run(StageContext(settings, folder, STAGES[stage], seen, seen.warnings.append))


def counting(settings: Settings, **fields: object) -> Settings:
    changed = settings.count.model_copy(update={"scheduler": "threads", **fields})
    return settings.model_copy(update={"count": changed})


def test_nodes_say_how_often_they_are_chosen_again(digits_run: Path, tmp_path: Path) -> None:
    """In six folds, for a class has a dozen images."""
    folder = RunFolder(shutil.copytree(digits_run, tmp_path / "run"))
    settings, plan = counting(folder.settings(), folds=6), Plan.read(folder)
    count_and_mine(folder, settings)
    counted = ScopeCounts.load(folder, settings, plan, "joint")
    stability = scope_stability(counted, settings)
    assert stability is not None
    predicted = ImageColumns.read(folder, 0, plan.images).predicted
    level = {layer.name: number for number, layer in enumerate(plan.layers)}
    shares = {}
    again: dict[str, list[float]] = {"class": [], "image": []}
    for row in read_table(folder.table("nodes")).to_pylist():
        graph = GraphId.parse(row["graph"])
        if graph not in shares:
            root = int(predicted[graph.number]) if graph.is_image else graph.number
            own = counted.map_counts(counted.image_maps(graph.number, root)) if graph.is_image else None
            shares[graph] = stability.shares(root, own)
        if row["layer"] == "output":
            assert row["chosen_again"] is None
        else:
            assert row["chosen_again"] == shares[graph].get((level[row["layer"]], row["word"]), 0.0)
            again["image" if graph.is_image else "class"].append(row["chosen_again"])
    assert 0.6 < np.mean(again["class"]) < np.mean(again["image"]) < 1


def test_a_class_of_fewer_images_than_folds_is_not_judged(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    settings, plan = folder.settings(), Plan.read(folder)
    predicted = ImageColumns.read(folder, plan.train_images, plan.images).predicted
    stability = scope_stability(ScopeCounts.load(folder, settings, plan, "joint"), settings)
    assert stability is not None
    for label in range(len(plan.class_names)):
        assert bool(stability.shares(label)) == ((predicted == label).sum() >= settings.count.folds)


def test_what_is_not_asked_for_is_neither_kept_nor_told(digits_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(digits_run, tmp_path / "run"))
    settings, plan = folder.settings(), Plan.read(folder)
    off = counting(settings, intervals=False, folds=0)
    before = {name: read_table(folder.table(name)) for name in ("nodes", "edges", "pairs")}
    count_and_mine(folder, off)
    kept = {path.name for path in (folder.root / "cooccurrence" / "joint").iterdir()}
    assert kept == {folder.cooccurrence("joint", pair.lower, pair.upper).name for pair in plan.pairs()}
    assert scope_intervals(ScopeCounts.load(folder, off, plan, "joint"), off) == ()
    sure = {"nodes": ["chosen_again"], "edges": ["log_ratio_low", "log_ratio_high", "images"]}
    sure["pairs"] = sure["edges"][:2]
    for name, columns in sure.items():
        after = read_table(folder.table(name))
        assert all(after[column].null_count == len(after) for column in columns)
        assert after.drop_columns(columns).equals(before[name].drop_columns(columns))
