"""The report site of a made run: seconds of processor time, bytes, and memory of the command.

A thousand classes, four layers of 100 to 1,500 words, some four million pairs of words, real photos as exemplars. Words
and counts are drawn: what a site costs depends on how many there are.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmm_ops.graphs.cooccurrence import SparseCounts
from gmm_ops.graphs.inference_graph import mine
from gmm_ops.graphs.windows import Window
from tests.conftest import SHARED_DATA
from workflows.plan.run_plan import OUTPUT, LayerPlan, Plan
from workflows.settings import load_settings
from workflows.storage.pair_counts import write_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import save_state
from workflows.storage.tables import write_parts, write_table
from workflows.words.mining import MinedGraph, ScopeCounts, edge_rows, node_rows
from workflows.words.pair_table import pair_tables

ROOT = Path(__file__).parents[2]
PHOTOS = SHARED_DATA / "imagenet_one_per_class"
LAYERS = (("add3", 100, 40), ("add7", 200, 40), ("add13", 450, 50), ("add16", 1500, 60))
"""Name, words, and words of a class."""
EXEMPLARS = 6


@dataclass(frozen=True)
class SiteRow:
    """One site; ``largest_kb`` is its largest file, ``peak_gb`` the most memory of the command, libraries included."""

    case: str
    processor_seconds: float
    seconds: float
    megabytes: float
    files: int
    largest_kb: float
    peak_gb: float


def measure(tiny: bool = False) -> list[SiteRow]:
    """One row."""
    classes, validation = (12, 5) if tiny else (1000, 50)
    with tempfile.TemporaryDirectory() as place:
        run, site = Path(place) / "run", Path(place) / "site"
        make_run(run, classes, validation)
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "workflows", "report", str(run), "--out", str(site)]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        sizes = [path.stat().st_size for path in site.rglob("*") if path.is_file()]
        return [
            SiteRow(
                f"{classes} classes, {len(LAYERS)} layers",
                after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                seconds,
                sum(sizes) / 1e6,
                len(sizes),
                max(sizes) / 1e3,
                after.ru_maxrss / 1e6,
            )
        ]


def make_run(root: Path, classes: int, validation: int) -> None:
    """A run folder whose counts, words and graphs are drawn; a photo of every class is its training image."""
    settings = load_settings(ROOT / "infra/presets/imagenet_resnet50.toml", [f"data.folders=['{PHOTOS}']"])
    folder, chance = RunFolder.create_or_open(root, settings), np.random.default_rng(0)
    photos = sorted(PHOTOS.glob("*/*.JPEG"))[:classes]
    names = tuple(photo.parent.name for photo in photos)
    plan = Plan(_layers(), names, classes * (1 + validation), classes, 224, 224, "torchvision:drawn")
    plan.write(folder)
    label = np.concatenate([np.arange(classes), np.repeat(np.arange(classes), validation)])
    predicted = np.where(chance.random(len(label)) < 0.24, (label + 1) % classes, label)
    split = ["train"] * classes + ["validation"] * (len(label) - classes)
    images = {"image": np.arange(len(label)), "path": [str(photos[one]) for one in label], "split": split}
    images |= {"label": label, "label_name": [names[one] for one in label], "status": ["ok"] * len(label)}
    images |= {"predicted": predicted, "predicted_name": [names[one] for one in predicted]}
    write_table(folder.images_table, images | {"probability": chance.random(len(label))}, "images")
    _draw_counts(folder, plan, chance)
    _write_words(folder, plan, chance)
    _write_graphs(folder, plan)


def _layers() -> tuple[LayerPlan, ...]:
    sides = (56, 28, 14, 7)
    return tuple(
        LayerPlan(
            name, name, 256, side, side, words, side * side, Window.square(2, -3, 7) if side < 56 else None,
            Window.square(224 // side, -(448 // side), 1120 // side),
        )
        for (name, words, _), side in zip(LAYERS, sides, strict=True)
    )  # fmt: skip


def _draw_counts(folder: RunFolder, plan: Plan, chance: np.random.Generator) -> None:
    """Every class has its own words in every layer; pairs of them occur now and then."""
    classes = range(len(plan.class_names))
    own = {OUTPUT: [np.array([label]) for label in classes]}
    own |= {name: [np.sort(chance.choice(k, n, replace=False)) for _ in classes] for name, k, n in LAYERS}
    for pair in plan.pairs():
        parts = []
        for label in classes:
            upper, lower = own[pair.upper][label], own[pair.lower][label]
            drawn = chance.poisson(40 if pair.upper == OUTPUT else 2, (len(upper), len(lower)))
            i, j = np.nonzero(drawn)
            parts.append((np.full(len(i), label), upper[i], lower[j], drawn[i, j]))
        columns = (torch.from_numpy(np.concatenate(column).astype(np.int64)) for column in zip(*parts, strict=True))
        write_pair_counts(folder.cooccurrence("joint", pair.lower, pair.upper), SparseCounts(*columns), {})
    for name, words, per_class in LAYERS:
        counted = {"group": np.repeat(classes, per_class), "word": np.concatenate(own[name])}
        counted["count"] = chance.integers(1, 2000, len(counted["word"]))
        kinds = {f"{kind}_{field}": values for kind in ("label", "prediction") for field, values in counted.items()}
        save_state(folder.word_summary("joint", name), kinds | {"images": np.ones(words, np.int64)})
        folder.words("joint", name).mkdir(parents=True)


def _write_words(folder: RunFolder, plan: Plan, chance: np.random.Generator) -> None:
    classes = len(plan.class_names)
    words = [
        {"scope": "joint", "layer": layer.name, "word": word, "pi": 1 / layer.words, "columns": 1000, "images": 300}
        | {"dominant_class": int(chance.integers(classes)), "dominant_share": 0.3, "reseeded": 0}
        for layer in plan.layers
        for word in range(layer.words)
    ]
    write_table(folder.table("words"), words, "words", network="drawn")
    shown = [(row["layer"], row["word"], rank) for row in words for rank in range(EXEMPLARS)]
    shown += [(OUTPUT, label, 0) for label in range(classes)]
    place = {"y": 0, "x": 0, "posterior": 1.0, "log_joint": 0.0, "x0": 20, "y0": 30, "x1": 120, "y1": 130}
    exemplars = [
        {"scope": "joint", "layer": layer, "word": word, "rank": rank, **place}
        | {"image": word if layer == OUTPUT else int(chance.integers(classes))}
        for layer, word, rank in shown
    ]
    write_table(folder.table("exemplars"), exemplars, "exemplars", network="drawn")


def _write_graphs(folder: RunFolder, plan: Plan) -> None:
    counted = ScopeCounts.load(folder, folder.settings(), plan, "joint")
    graphs = list(_mined(counted, plan))
    edges = [row for graph in graphs for row in edge_rows(graph, counted)]
    window = {"height": 7, "width": 7, "row_offset": -3, "column_offset": -3, "inside": [50] * 49}
    keys = ("graph", "scope", "criterion", "upper_layer", "upper_word", "lower_layer", "lower_word")
    heats = [{key: row[key] for key in keys} | window | {"counts": list(range(49))} for row in edges]
    nodes = [row for graph in graphs for row in node_rows(graph, counted, {})]
    for name, rows in (("nodes", nodes), ("edges", edges), ("heatmaps", heats)):
        write_table(folder.table(name), rows, name, network="drawn")
    write_parts(folder.table("pairs"), pair_tables(counted, False), "pairs", network="drawn")


def _mined(counted: ScopeCounts, plan: Plan) -> Iterator[MinedGraph]:
    for label in range(len(plan.class_names)):
        words: dict[str, Any] = {one.name: counted.words[one.name].dense(label, one.words) for one in plan.layers}
        graph = mine(label, counted.class_counts(label), counted.ratios, 3)
        yield MinedGraph(f"class:{label}", graph, np.zeros(50), words)
