"""A trial: the preset itself on few of its images, in a folder of its own beside the run's."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from workflows.context import Stage
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.fits.discriminative_training import global_batch
from workflows.fits.layer_fit import em_settings
from workflows.forecast.amounts import Amounts, ScopeLoad, amounts_of, layer_work
from workflows.forecast.counting import CountSeconds, count_seconds
from workflows.pipeline import run_pipeline, stages_until
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scopes import read_scopes, scopes_path
from workflows.runtime.alone import this_process
from workflows.runtime.cluster import ActorPlan, plan_actors
from workflows.runtime.devices import choose_device
from workflows.settings import ListScope, Settings
from workflows.stages.index import Draft
from workflows.storage.fields import EFFECT, LIKELIHOOD
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

MOST_WORK, FEWEST_WORDS = 4e11, 16
"""Operations of a fit of the trial, about ten seconds of a core; else it has half as many words, and again."""

COLUMNS_A_WORD = 4
"""Fitted columns that a word must have at least in a trial; else it has fewer words."""

SAMPLE = 24
"""Pictures that are decoded, and images that run through the network, for how long one takes."""


@dataclass(frozen=True)
class StageTrial:
    """What a stage took in the trial.

    Attributes:
        seconds: of the stage, if the machine had nothing else to do; clock: as it was.
        items: the same of its work items in their actors, by kind; none where it has no actors.
        size, files: bytes and number of its files.
        memory: bytes of its largest actor.
    """

    seconds: float
    clock: float
    items: Mapping[str, tuple[float, ...]]
    size: int
    files: int
    memory: int

    @property
    def share(self) -> float:
        """Of the clock that would have been enough."""
        return min(1.0, self.seconds / self.clock) if self.clock else 1.0

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
        counting: seconds of one core for an image that is counted.
        decode: seconds of one core for a picture.
        start: seconds until a new actor has imported what it needs.
        seconds: of all, the start included.
    """

    settings: Settings
    plan: Plan
    amounts: Amounts
    stages: Mapping[str, StageTrial]
    actor: ActorPlan
    wrong: float
    counting: CountSeconds
    decode: float
    start: float
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
    few = trial_settings(settings, drafted, _images(settings, drafted))
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
        stages = {stage.name: _stage(folder, stage, actor.device) for stage in stages_until(None, few)}
        amounts = amounts_of(few, plan, _scopes(folder, plan), *_drawn(folder, stages))
        amounts = replace(amounts, fits={**amounts.fits, **_fits_done(few, plan, folder)})
        counting = count_seconds(folder, few, plan) if plan.outputs else CountSeconds()
    decode, start = _decode_seconds(settings, drafted), _start_seconds()
    return Trial(few, plan, amounts, stages, actor, wrong, counting, decode, start, time.perf_counter() - started)


def trial_settings(settings: Settings, drafted: Draft, images: int) -> Settings:
    """Those of a trial on so many training images: one scope of all, no graphs yet, shards that all actors share."""
    plan, fit, extract = drafted.plan, settings.fit, settings.extract
    train, validation = len(drafted.index.rows("train")), len(drafted.index.rows("validation"))
    images = min(images, max(FEWEST_IMAGES, train // LARGEST_SHARE), train)
    validation = min(validation, max(images // VALIDATION_SHARE, FEWEST_IMAGES // 2))
    fitted = images * (1 - fit.held_out)
    words = tuple(_words(settings, layer, fitted) for layer in plan.layers)
    data = settings.data.model_copy(update={"max_train": images, "max_validation": validation})
    step = int(np.lcm(extract.images_per_chunk, extract.largest_batch))
    shard = step * max(1, round((images + validation) / (step * SHARDS)))
    alike = {**_scope(settings, drafted), "min_images": 1, "word_slices": 1}
    update: dict[str, Any] = {
        "data": data,
        "fit": fit.model_copy(update=alike | {"words": words}),
        "extract": extract.model_copy(
            update={"images_per_shard": min(shard, extract.images_per_shard), "batch": extract.largest_batch}
        ),
    }
    update["runtime"] = settings.runtime.model_copy(update={"actors": 1, "fit_actors": 1})
    # Pairs are planned by their number: beside them the tables of few graphs would not be seen.
    update["count"] = settings.count.model_copy(update={"scheduler": "threads", "pairs": "none"})
    update["mine"] = settings.mine.model_copy(update={"classes": (), "images": ()})
    if settings.hmm is not None:
        update["hmm"] = settings.hmm.model_copy(update={"restarts": 1})
    if settings.training is not None and settings.network.weights == "train":
        update["training"] = settings.training.model_copy(update={"epochs": min(2, settings.training.epochs)})
    return settings.model_copy(update=update)


def _words(settings: Settings, layer: LayerPlan, images: float) -> int:
    """Of a layer in the trial: so many that its columns can start them, and that its fit stays short."""
    words = max(1, min(layer.words, int(images * layer.stored / COLUMNS_A_WORD)))
    while words > FEWEST_WORDS and layer_work(settings, replace(layer, words=words), images) > MOST_WORK:
        words //= 2
    return words


def _scope(settings: Settings, drafted: Draft) -> dict[str, Any]:
    """All images in one scope; where some classes have no image, two of those that have some, and the rest."""
    classes, names = np.unique(drafted.index.label[drafted.index.rows("train")]), drafted.plan.class_names
    if settings.fit.loss == "generative" or settings.hmm is not None or len(classes) == len(names):
        return {"scopes": ("joint",), "lists": ()}
    listed = tuple(str(label) for label in classes[:2])
    return {"scopes": ("list",), "lists": (ListScope(name="trial", classes=listed, rest=len(classes) > 2),)}


def _images(settings: Settings, drafted: Draft) -> int:
    """Training images that take some seconds; for the discriminative loss one of every class at least."""
    network, plan = drafted.network, drafted.plan
    device = choose_device(settings.runtime.device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    shape = (4, settings.preprocessing.channels, plan.input_height, plan.input_width)
    images = torch.zeros(shape, device=device)
    network = network.to(device).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(settings.runtime.threads)
    try:
        with torch.inference_mode():
            network(images)
            started = clock()
            for _ in range(SAMPLE // len(images)):
                network(images)
            float(images.sum())  # a GPU has finished
        rate = SAMPLE / (clock() - started)
    finally:
        torch.set_num_threads(before)
        network.cpu()
    least = len(np.unique(drafted.index.label)) if settings.fit.loss == "discriminative" else 0
    return max(least, min(MOST_IMAGES, max(FEWEST_IMAGES, int(rate * FORWARD_S))))


def _with_graphs(few: Settings, settings: Settings, folder: RunFolder) -> tuple[float, Settings]:
    """Share of misclassified images; and the settings with a graph of two classes and of two images, if asked for."""
    plan = Plan.read(folder)
    images = ImageColumns.read(folder, plan.train_images, plan.images)
    wrong = (images.predicted >= 0) & (images.label >= 0) & (images.predicted != images.label)
    seen = np.bincount(images.predicted[images.predicted >= 0], minlength=len(plan.class_names))
    explained = {label for scope in read_scopes(folder) for label in scope.explains} if few.hmm is None else None
    often = [label for label in np.argsort(-seen, kind="stable") if explained is None or label in explained][:2]
    classes = tuple(str(label) for label in often if seen[label]) if settings.mine.classes else ()
    readable = np.flatnonzero(images.predicted >= 0) + plan.train_images
    chosen = tuple(str(image) for image in readable[:2]) if settings.mine.images else ()
    mine = settings.mine.model_copy(update={"classes": classes, "images": chosen})
    return float(wrong.mean()), few.model_copy(update={"mine": mine})


def _stage(folder: RunFolder, stage: Stage, device: str) -> StageTrial:
    content, idle = folder.ledger(stage.name).content(), device == "cpu"
    items: dict[str, list[float]] = defaultdict(list)
    written = 0.0
    for item, record in content.items.items():
        if "seconds" in record:
            items[_kind(stage.name, str(item))].append(_undisturbed(record) if idle else record["seconds"])
            written += record["profile"].get("write", 0.0)
    memory = max((int(record.get("peak_memory", 0)) for record in content.items.values()), default=0)
    paths = [folder.root / name for name in stage.writes]
    files = sum(_files(path) for path in paths)
    seconds = min(content.seconds, content.summary["driver_cpu"] + written) if idle else content.seconds
    return StageTrial(
        seconds,
        content.seconds,
        {kind: tuple(some) for kind, some in items.items()},
        sum(map(size_of, paths)),
        files,
        memory,
    )


def _undisturbed(record: Mapping[str, Any]) -> float:
    """Seconds of an item on a machine with nothing else to do: of the processor, and of writing, which waits."""
    return min(record["seconds"], record["profile"]["cpu"] + record["profile"].get("write", 0.0))


def _kind(stage: str, item: str) -> str:
    """Of figures, what they show; of fits, their layer, and of the starts of a chain nothing."""
    if stage == "draw":
        return split_item(item)[1].partition(":")[0]
    return split_item(item)[1] if stage == "fit" and not item.startswith("restart ") else ""


def _files(path: Path) -> int:
    return sum(one.is_file() for one in path.rglob("*")) if path.is_dir() else int(path.exists())


def _scopes(folder: RunFolder, plan: Plan) -> list[ScopeLoad]:
    scopes = read_scopes(folder) if scopes_path(folder).exists() else []
    labels = max((scope.n_labels for scope in scopes), default=1)
    holds_all = all(scope.holds_all for scope in scopes)
    return [ScopeLoad(plan.train_images, plan.images - plan.train_images, labels, holds_all)]


def _start_seconds() -> float:
    """Of the processor, in a process that imports what an actor does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = [sys.executable, "-c", "import ray, workflows.stages.extract"]
    subprocess.run(asked, check=False, capture_output=True)  # noqa: S603 - our own words
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _fits_done(few: Settings, plan: Plan, folder: RunFolder) -> dict[str, tuple[float, ...]]:
    """Work of the fits by layer, of as many passes as they took: some stop early."""
    images = plan.train_images * (1 - few.fit.held_out)
    done: dict[str, tuple[float, ...]] = {}
    for item, record in folder.ledger("fit").items().items():
        layer = next((layer for layer in plan.layers if layer.name == _kind("fit", str(item))), None)
        if layer is not None:
            columns = max(1, int(images * layer.stored))
            in_epoch = columns / em_settings(few.fit).for_columns(columns, layer.words).minibatch
            by_gradient = record.get("loss_steps", 0) * global_batch(few.discriminative.batch, int(images)) / images
            done[layer.name] = (layer_work(few, layer, images, (record["steps"] / max(1.0, in_epoch), by_gradient)),)
    return done


def _drawn(folder: RunFolder, stages: Mapping[str, StageTrial]) -> tuple[int, dict[str, int]]:
    figures = {kind: len(some) for kind, some in stages["draw"].items.items()} if "draw" in stages else {}
    mined = sum(len(scoped_graphs(folder.root, criterion)) for criterion in (LIKELIHOOD, EFFECT) if "mine" in stages)
    return mined, figures


def _decode_seconds(settings: Settings, drafted: Draft) -> float:
    """Of one core for a picture, read again, so that it lies in memory; 0 for pictures that need no decoding."""
    paths = [str(path) for path in drafted.index.path[:SAMPLE]]
    with PictureReader(settings.data, threads=1, geometry=Preprocessor(settings.preprocessing).crop) as reader:
        reader.read(paths)
        started = time.process_time()
        reader.read(paths)
        return (time.process_time() - started) / len(paths)
