"""A trial: the preset itself on few of its images, in a folder of its own beside the run's."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from workflows.context import Stage
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.forecast.amounts import Amounts, ScopeLoad, amounts_of
from workflows.pipeline import run_pipeline, stages_until
from workflows.plan.run_plan import Plan
from workflows.runtime.alone import this_process
from workflows.runtime.cluster import ActorPlan, plan_actors
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.stages.index import Draft
from workflows.storage.graphs import scoped_graphs
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import split_item
from workflows.storage.run_folder import RunFolder, size_of

MOST_IMAGES, FEWEST_IMAGES = 1_000, 60
"""Training images of a trial; as many as the network runs in ``FORWARD_S`` on one actor."""

LARGEST_SHARE = 4
"""A trial takes one of so many training images at most, if these are not fewer than ``FEWEST_IMAGES``."""

FORWARD_S = 6.0
VALIDATION_SHARE = 5
"""Training images of a trial for one validation image."""

SHARDS = 4
"""Work items in a trial: enough that their own seconds tell from those of the stage's start."""

COLUMNS_A_WORD = 4
"""Fitted columns that a word must have at least in a trial; else it has fewer words."""

SAMPLE = 24
"""Pictures that are decoded, and images that run through the network, for how long one takes."""


@dataclass(frozen=True)
class StageTrial:
    """What a stage took in the trial.

    Attributes:
        seconds: of the stage.
        items: seconds of its work items in their actors, by kind; none where it has no actors.
        size, files: bytes and number of its files.
        memory: bytes of its largest actor.
    """

    seconds: float
    items: Mapping[str, tuple[float, ...]]
    size: int
    files: int
    memory: int

    @property
    def item_seconds(self) -> float:
        """Of all items."""
        return sum(map(sum, self.items.values()))


@dataclass(frozen=True)
class Trial:
    """What a trial took.

    Attributes:
        settings, plan: of the trial.
        amounts: of work.
        stages: by name.
        actor: what its one actor had.
        wrong: share of its validation images that are misclassified.
        decode: seconds of one core for a picture.
        seconds: of all, the start included.
    """

    settings: Settings
    plan: Plan
    amounts: Amounts
    stages: Mapping[str, StageTrial]
    actor: ActorPlan
    wrong: float
    decode: float
    seconds: float


def run_trial(settings: Settings, drafted: Draft, beside: Path) -> Trial:
    """Run a preset on few of its images in this process, as one actor would, and measure.

    Args:
        settings: of the run.
        drafted: what it will do.
        beside: an existing folder on the disk of the run; what the trial writes is removed.

    Raises:
        RunError: whatever would stop the run as well.
    """
    started = time.perf_counter()
    few = trial_settings(settings, drafted, _images(settings, drafted.network, drafted.plan))
    quiet = Console(quiet=True)
    offered = this_process(few.runtime)
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=beside) as made:
        root = Path(made) / "trial"
        actor = plan_actors(few.runtime, offered)
        wrong = 0.0
        if drafted.plan.outputs:
            folder = run_pipeline(few, root, quiet, until="count", offered=offered)
            wrong, few = _with_graphs(few, settings, folder)
        folder = run_pipeline(few, root, quiet, offered=offered)
        plan = Plan.read(folder)
        stages = {stage.name: _stage(folder, stage) for stage in stages_until(None, few)}
        amounts = amounts_of(few, plan, _scopes(plan), *_drawn(folder, stages))
    decode = _decode_seconds(settings, drafted)
    return Trial(few, plan, amounts, stages, actor, wrong, decode, time.perf_counter() - started)


def trial_settings(settings: Settings, drafted: Draft, images: int) -> Settings:
    """Those of a trial on so many training images: one joint scope, no graphs yet, shards that all actors share."""
    plan, fit, extract = drafted.plan, settings.fit, settings.extract
    images = min(images, max(FEWEST_IMAGES, plan.train_images // LARGEST_SHARE), plan.train_images)
    validation = min(plan.images - plan.train_images, max(images // VALIDATION_SHARE, FEWEST_IMAGES // 2))
    fitted = images * (1 - fit.held_out)
    words = tuple(max(1, min(layer.words, int(fitted * layer.stored / COLUMNS_A_WORD))) for layer in plan.layers)
    data = settings.data.model_copy(update={"max_train": images, "max_validation": validation})
    step = int(np.lcm(extract.images_per_chunk, extract.largest_batch))
    shard = step * max(1, round((images + validation) / (step * SHARDS)))
    alike = {"scopes": ("joint",), "lists": (), "min_images": 1, "word_slices": 1}
    update: dict[str, Any] = {
        "data": data,
        "fit": fit.model_copy(update=alike | {"words": words}),
        "extract": extract.model_copy(
            update={"images_per_shard": min(shard, extract.images_per_shard), "batch": extract.largest_batch}
        ),
    }
    update["runtime"] = settings.runtime.model_copy(update={"actors": 1, "fit_actors": 1})
    update["count"] = settings.count.model_copy(update={"scheduler": "threads"})
    update["mine"] = settings.mine.model_copy(update={"classes": (), "images": ()})
    if settings.hmm is not None:
        update["hmm"] = settings.hmm.model_copy(update={"restarts": 1})
    if settings.training is not None and settings.network.weights == "train":
        update["training"] = settings.training.model_copy(update={"epochs": min(2, settings.training.epochs)})
    return settings.model_copy(update=update)


def _images(settings: Settings, network: nn.Module, plan: Plan) -> int:
    """Training images that take some seconds; for the discriminative loss one of every class at least."""
    device = choose_device(settings.runtime.device)
    shape = (4, settings.preprocessing.channels, plan.input_height, plan.input_width)
    images = torch.zeros(shape, device=device)
    network = network.to(device).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(settings.runtime.threads)
    try:
        with torch.inference_mode():
            network(images)
            started = time.perf_counter()
            for _ in range(SAMPLE // len(images)):
                network(images)
            float(images.sum())  # a GPU has finished
        rate = SAMPLE / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
        network.cpu()
    least = len(plan.class_names) if settings.fit.loss == "discriminative" else 0
    return max(least, min(MOST_IMAGES, max(FEWEST_IMAGES, int(rate * FORWARD_S))))


def _with_graphs(few: Settings, settings: Settings, folder: RunFolder) -> tuple[float, Settings]:
    """Share of misclassified images; and the settings with a graph of two classes and of two images, if asked for."""
    plan = Plan.read(folder)
    images = ImageColumns.read(folder, plan.train_images, plan.images)
    wrong = (images.predicted >= 0) & (images.label >= 0) & (images.predicted != images.label)
    seen = np.bincount(images.predicted[images.predicted >= 0], minlength=len(plan.class_names))
    often = np.argsort(-seen, kind="stable")[:2]
    classes = tuple(str(label) for label in often if seen[label]) if settings.mine.classes else ()
    readable = np.flatnonzero(images.predicted >= 0) + plan.train_images
    chosen = tuple(str(image) for image in readable[:2]) if settings.mine.images else ()
    mine = settings.mine.model_copy(update={"classes": classes, "images": chosen})
    return float(wrong.mean()), few.model_copy(update={"mine": mine})


def _stage(folder: RunFolder, stage: Stage) -> StageTrial:
    content = folder.ledger(stage.name).content()
    items: dict[str, list[float]] = defaultdict(list)
    for item, record in content.items.items():
        if "seconds" in record:
            items[split_item(str(item))[1].partition(":")[0] if stage.name == "draw" else ""].append(record["seconds"])
    memory = max((int(record.get("peak_memory", 0)) for record in content.items.values()), default=0)
    paths = [folder.root / name for name in stage.writes]
    files = sum(_files(path) for path in paths)
    return StageTrial(
        content.seconds, {kind: tuple(some) for kind, some in items.items()}, sum(map(size_of, paths)), files, memory
    )


def _files(path: Path) -> int:
    return sum(one.is_file() for one in path.rglob("*")) if path.is_dir() else int(path.exists())


def _scopes(plan: Plan) -> list[ScopeLoad]:
    return [ScopeLoad(plan.train_images, plan.images - plan.train_images, len(plan.class_names))]


def _drawn(folder: RunFolder, stages: Mapping[str, StageTrial]) -> tuple[int, dict[str, int]]:
    figures = {kind: len(some) for kind, some in stages["draw"].items.items()} if "draw" in stages else {}
    return (len(list(scoped_graphs(folder.root))) if "mine" in stages else 0), figures


def _decode_seconds(settings: Settings, drafted: Draft) -> float:
    """Of one core for a picture, read again, so that it lies in memory; 0 for pictures that need no decoding."""
    paths = [str(path) for path in drafted.index.path[:SAMPLE]]
    with PictureReader(settings.data, threads=1, geometry=Preprocessor(settings.preprocessing).crop) as reader:
        reader.read(paths)
        started = time.perf_counter()
        reader.read(paths)
        return (time.perf_counter() - started) / len(paths)
