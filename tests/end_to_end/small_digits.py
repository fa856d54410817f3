"""One small real run that many tests share: scikit-learn's digits, a network trained in a second, small dictionaries.

Shards are small, so that every stage has a middle in which a driver or an actor can be killed. One actor a stage, for
each takes seconds of a core to start; the run that the others are compared with has two.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from workflows.cli.app import main
from workflows.plan.run_plan import Plan
from workflows.storage.arrays import read_rows
from workflows.storage.run_folder import RunFolder
from workflows.words.word_maps import FIELDS, read_words, words_path

TABLES = ("images", "nodes", "edges", "words", "exemplars", "heatmaps", "history")
TRAINING_IMAGE = 7
"""Its graph is asked for as well: an image outside the validation images."""
TRAINING = ("training.epochs=3", "training.batch=16", "data.max_train=500", "data.max_validation=150")
SETTINGS = (
    "data.max_train=500",
    "data.max_validation=125",
    "extract.images_per_shard=25",
    "extract.images_per_chunk=25",
    "extract.batch=25",
    "fit.loss=generative",
    "fit.words=[20,25,30]",
    "fit.minibatch=3000",
    "fit.epochs=1",
    "fit.warmup=3",
    "fit.checkpoint_steps=20",
    "runtime.actors=1",
    f'mine.images=["misclassified","{TRAINING_IMAGE}"]',
)
SCOPE = "joint"
FIRST_LAYER = "layer1.0.add"
"""Canonical name of the lowest layer, which has by far the most columns."""


def run_arguments(out: Path, weights: Path, *overrides: str, until: str | None = None) -> list[str]:
    """``run digits`` with the small settings, then the given ones."""
    fields = [f"network.weights={weights}", *SETTINGS, *overrides]
    arguments = ["run", "digits", "--out", str(out), *(part for field in fields for part in ("--set", field))]
    return arguments if until is None else [*arguments, "--until", until]


def command(arguments: Sequence[str]) -> int:
    """Run the command in this process, from its console script's entry point; gives the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["inference-graphs", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def copy_until(source: Path, target: Path, last: str) -> Path:
    """A copy of a finished run in which the stages behind ``last`` never ran."""
    from workflows.pipeline import STAGES

    shutil.copytree(source, target)
    stages = list(STAGES)
    for stage in stages[stages.index(last) + 1 :]:
        (target / "ledgers" / f"{stage}.jsonl").unlink(missing_ok=True)
        for name in STAGES[stage].writes:
            path = target / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return target


def adopt_mixtures(source: Path, target: Path) -> None:
    """Give a run the dictionaries that another run fitted, as if its own fit had come to them."""
    shutil.copytree(source / "mixtures", target / "mixtures")
    for name in ("scopes.json", "history.parquet", "ledgers/fit.jsonl"):
        shutil.copy(source / name, target / name)


def fit_left_open(source: Path, target: Path, layer: str) -> Path:
    """A copy of a finished run that has yet to fit one layer, and everything behind the fit."""
    copy_until(source, target, "extract")
    adopt_mixtures(source, target)
    folder = RunFolder.open(target)
    folder.mixture(SCOPE, layer).unlink()
    ledger = target / "ledgers" / "fit.jsonl"
    lines = [line for line in ledger.read_text().splitlines(True) if layer not in line and '"end"' not in line]
    ledger.write_text("".join(lines))
    return target


def word_maps(root: Path) -> dict[str, np.ndarray]:
    """Hard words (N, H, W) of all images, by layer."""
    folder = RunFolder.open(root)
    plan = Plan.read(folder)
    return {layer.name: read_words(folder, SCOPE, layer.name, 0, plan.images).numpy() for layer in plan.layers}


def stored_maps(root: Path) -> dict[tuple[str, str], np.ndarray]:
    """Everything the words stage wrote: (layer, field) -> (N, H, W)."""
    folder = RunFolder.open(root)
    plan = Plan.read(folder)
    return {
        (layer.name, field): read_rows(words_path(folder, SCOPE, layer.name, field), 0, plan.images)
        for layer in plan.layers
        for field in FIELDS
    }


def activations(root: Path) -> dict[str, np.ndarray]:
    """Stored columns (N, positions, D) by layer."""
    folder = RunFolder.open(root)
    plan = Plan.read(folder)
    return {layer.name: read_rows(folder.activations(layer.name), 0, plan.stored_images) for layer in plan.layers}


def changed_share(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    """Share of all words that differ between two runs over the same images."""
    changed = sum(int((left[layer] != right[layer]).sum()) for layer in left)
    return changed / sum(words.size for words in left.values())
