"""images -> activations/<layer>.zarr: the frozen network once over every image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflows.context import StageContext
from workflows.data.class_names import order_warning
from workflows.data.device_decoding import refuse_device_decoding
from workflows.data.shards import Shard, plan_shards
from workflows.errors import DataError
from workflows.fits.columns import sampled_positions
from workflows.fits.scope_checks import check_scopes
from workflows.plan.requests import requested_images
from workflows.plan.run_plan import ForwardChoice, ForwardTrial, LayerPlan, Plan
from workflows.plan.scopes import plan_scopes
from workflows.runtime.cluster import plan_actors
from workflows.runtime.devices import STORAGE_DTYPES
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.host_copies import HostCopies
from workflows.runtime.patience import patiently
from workflows.runtime.pool_settings import PoolSettings
from workflows.settings import Settings
from workflows.storage.arrays import array_exists, choose_codec, create_array, open_array, write_shard
from workflows.storage.atomic import sync_file_system
from workflows.storage.images_table import PREDICTIONS, ImageColumns, merge_predictions
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table
from workflows.words.forward import BatchTrials, ForwardBatch, FrozenForward

WORTH_MEASURING_S = 120.0
"""A shorter stage does not look for its best batch, which takes some ten seconds."""
UNREAD = "cannot be read: "
"""Begins the reason that an earlier version wrote of pictures that storage did not give."""
CLEARLY_FASTER = 1.05
"""Below this two batches are as fast, and noise decides between them."""


def predictions_path(folder: RunFolder, shard: Shard) -> Path:
    """Predictions of one shard, before they join images.parquet."""
    return folder.predictions_dir / f"{shard.index:06d}.parquet"


class ExtractWorker:
    """Runs in an actor: one shard of images in, one whole Zarr shard of every layer out."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.forward = FrozenForward(settings, plan, folder)
        self.arrays = {layer.name: open_array(folder.activations(layer.name)) for layer in plan.layers}
        # One buffer for all shards: fresh memory costs more than filling it.
        dtype, rows = STORAGE_DTYPES[settings.extract.dtype], min(settings.extract.images_per_shard, plan.stored_images)
        self.copies = HostCopies(self.forward.device)
        self.buffers = {
            layer.name: self.copies.zeros((rows, layer.stored, layer.units), dtype) for layer in plan.layers
        }

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Write the shard's columns and predictions; return what the driver must know of it."""
        stored = max(0, min(shard.stop, self.plan.stored_images) - shard.first)
        predictions: list[dict[str, Any]] = []
        for batch in self.forward(shard):
            predictions.extend(_predictions(batch, self.plan))
            self._keep(batch, batch.first - shard.first, stored)
        self.copies.wait()
        if stored:
            for name, buffer in self.buffers.items():
                write_shard(self.arrays[name], shard.first, buffer[:stored].numpy())
        write_table(predictions_path(self.folder, shard), predictions, PREDICTIONS)
        sync_file_system(self.folder.root)  # before the ledger says that they are there
        broken = [row for row in predictions if row["status"] == "broken"]
        columns = stored * sum(layer.stored for layer in self.plan.layers)
        return {
            "images": shard.stop - shard.first,
            "columns": columns,
            "broken": [[row["image"], row["reason"]] for row in broken],
        }

    def _keep(self, batch: ForwardBatch, row: int, stored: int) -> None:
        kept = min(len(batch.logits), stored - row)
        if kept <= 0:
            return
        for layer in self.plan.layers:
            columns = batch.columns[layer.name][:kept]
            if not layer.all_stored:
                columns = _sample(columns, layer, self.settings.seed, batch.first)
            self.copies.copy(columns, self.buffers[layer.name][row : row + kept])


def _sample(columns: torch.Tensor, layer: LayerPlan, seed: int, first: int) -> torch.Tensor:
    positions = np.stack([sampled_positions(seed, layer, first + row) for row in range(len(columns))])
    index = torch.from_numpy(positions).to(columns.device)
    return torch.gather(columns, 1, index[:, :, None].expand(-1, -1, columns.shape[2]))


def _predictions(batch: ForwardBatch, plan: Plan) -> list[dict[str, Any]]:
    nothing: list[Any] = [None] * len(batch.logits)
    predicted, probability = nothing, nothing
    if plan.outputs:
        outputs = batch.logits.double()
        chances, words = (outputs if plan.probabilities else torch.softmax(outputs, 1)).max(1)
        predicted, probability = words.tolist(), chances.tolist()
    rows = []
    for row, (chance, word) in enumerate(zip(probability, predicted, strict=True)):
        reason = batch.broken.get(row)
        ok = {"predicted": word, "probability": chance, "status": "ok", "reason": None}
        bad = {"predicted": None, "probability": None, "status": "broken", "reason": reason}
        rows.append({"image": batch.first + row, **(ok if reason is None else bad)})
    return rows


class _BrokenTally:
    """Stops the run once too many pictures are unreadable (``data.max_broken``)."""

    def __init__(self, allowed: float, images: int) -> None:
        self.allowed, self.images = allowed, images
        self.found: list[list[Any]] = []

    def add(self, broken: list[list[Any]]) -> None:
        self.found.extend(broken)
        if len(self.found) > self.allowed * self.images:
            shown = "; ".join(f"image {image}: {reason}" for image, reason in self.found[:5])
            raise DataError(
                f"{len(self.found)} of {self.images} images are broken, more than data.max_broken = "
                f"{self.allowed:g} allows: {shown}. Repair or remove them for a new --out, or raise data.max_broken"
            )


def run(context: StageContext) -> None:
    """The stage: shards not yet in the ledger go to actors; then predictions join images.parquet."""
    settings, folder, plan = context.settings, context.folder, context.plan()
    refuse_device_decoding(settings.extract.decode, context.worker_settings().runtime.device)
    first = _FirstBatch(settings, plan, folder)
    _create_arrays(settings, plan, folder, first)
    plan = _with_batch(context, plan, first)
    _void_unread(context)
    tally = _BrokenTally(settings.data.max_broken, plan.images)
    for record in context.ledger.items().values():
        tally.add(record["broken"])

    context.map_shards_left(ExtractWorker, plan, check=lambda record: tally.add(record["broken"]))
    shards = plan_shards(plan.images, settings.extract.images_per_shard)
    merge_predictions(folder.images_table, [predictions_path(folder, shard) for shard in shards], plan.class_names)
    # What mine would refuse is known now: before the fits, the longest stage.
    images = ImageColumns.read(folder, 0, plan.images)
    check_scopes(context, plan, plan_scopes(settings, plan, images), images)  # the fit stage tells its warnings
    if settings.hmm is not None:
        requested_images(settings.draw.paths, plan, images, asked_by="draw.paths")
    given = settings.data.labels != "none" and plan.outputs
    permuted = order_warning(images.label, images.predicted, plan.class_names) if given else None
    if permuted is not None:
        context.warn(permuted)
    if tally.found:
        context.warn(f"{len(tally.found)} broken images were skipped; images.parquet says which and why")


def _void_unread(context: StageContext) -> None:
    """Shards in which an earlier version took pictures for broken that could not be read, are not done."""
    items = context.ledger.items()
    unread = [
        index for index, record in items.items() if any(reason.startswith(UNREAD) for _, reason in record["broken"])
    ]
    if unread:
        context.ledger.void(unread)


class _FirstBatch:
    """The first images, run once anybody asks: their columns, and seconds of processor that an image took."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self._parts = settings, plan, folder

    @cached_property
    def _made(self) -> tuple[dict[str, torch.Tensor], float]:
        settings, plan, folder = self._parts
        # In the driver, which Ray gives no GPU.
        runtime = settings.runtime.model_copy(update={"device": "cpu"})
        extract = settings.extract.model_copy(update={"decode": "cpu"})
        forward = FrozenForward(settings.model_copy(update={"runtime": runtime, "extract": extract}), plan, folder)
        started = time.process_time()
        first = Shard(0, 0, min(plan.batch(settings.extract), plan.images))
        batch = patiently(lambda: next(iter(forward(first))), *settings.runtime.patience)
        return batch.columns, (time.process_time() - started) / len(batch.logits)

    @property
    def columns(self) -> dict[str, torch.Tensor]:
        return self._made[0]

    @property
    def seconds(self) -> float:
        return self._made[1]


def _with_batch(context: StageContext, plan: Plan, first: _FirstBatch) -> Plan:
    """The plan with a batch that was measured, unless it is given, chosen already, or the stage is too short for it."""
    settings, offered = context.settings, context.offered
    if len(settings.extract.batches) == 1 or plan.forward is not None or context.ledger.items():
        return plan
    assert offered is not None, "stages with actors run connected"
    if first.seconds * plan.images / offered.cpus < WORTH_MEASURING_S:
        return plan
    context.progress.note("finding the best batch")
    node = replace(offered, cpus=offered.node_cpus, gpus=min(offered.gpus, 1))
    actors = plan_actors(settings.runtime, node, plan.images)
    alone = PoolSettings(1, actors.n_actors * actors.num_cpus, actors.num_gpus, actors.threads, name="trial of batches")
    inputs = {"settings": context.worker_settings(), "plan": plan, "folder": context.folder}
    item = (actors.n_actors, actors.threads)
    trials = map_shards(BatchTrials, inputs, [item], alone).records[item]["trials"]
    chosen = replace(plan, forward=choose_batch(trials, *item))
    chosen.write(context.folder)
    return chosen


def choose_batch(trials: Sequence[ForwardTrial], actors: int, threads: int) -> ForwardChoice:
    """The fastest batch that gives the bits of the largest; the largest itself unless another is clearly faster."""
    usual = trials[-1]
    best = max((trial for trial in trials if trial.same), key=lambda trial: trial.images_per_second)
    if best.images_per_second < CLEARLY_FASTER * usual.images_per_second:
        best = usual
    return ForwardChoice(best.batch, actors, threads, tuple(trials))


def _create_arrays(settings: Settings, plan: Plan, folder: RunFolder, first: _FirstBatch) -> None:
    """Preallocate every layer's array; the codec is decided on the first batch of columns."""
    extract = settings.extract
    for layer in plan.layers:
        if array_exists(folder.activations(layer.name)):
            continue
        codec = extract.codec
        if codec == "auto":
            sample = first.columns[layer.name].to("cpu", STORAGE_DTYPES[extract.dtype]).numpy()
            codec = choose_codec(sample, extract.zstd_level)
        create_array(
            folder.activations(layer.name),
            (plan.stored_images, layer.stored, layer.units),
            extract.dtype,
            chunk_rows=extract.images_per_chunk,
            shard_rows=extract.images_per_shard,
            codec=codec,
            zstd_level=extract.zstd_level,
            attributes={"layer": layer.name, "height": layer.height, "width": layer.width, "codec": codec},
        )
