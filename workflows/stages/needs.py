"""What a run will write and hold, in bytes, before it starts."""

from __future__ import annotations

import numpy as np

from workflows.plan import LayerPlan, Plan
from workflows.settings import Settings
from workflows.stages.chain_fit import (
    START_IMAGES,
    START_IMAGES_A_WORD,
    chain_buffer_minibatches,
    chain_settings,
)
from workflows.stages.minibatches import mixed_minibatches
from workflows.stages.word_maps import FIELDS

ID_BYTES = 12
"""Of a buffered column: image, position and place in the row order, int32 each."""

PATH_ROW_BYTES = 100
"""Of a row of paths.parquet in memory, and in path_parts at most."""

PROCESS_BYTES = 400 * 2**20
"""Of an actor with torch loaded and nothing to do."""


def disk_needs(settings: Settings, plan: Plan) -> dict[str, int]:
    """Bytes of the large artefacts, uncompressed: the plan must fit whatever the codec reaches."""
    width = np.dtype(settings.extract.dtype).itemsize
    activations = sum(plan.stored_images * layer.stored * layer.units * width for layer in plan.layers)
    per_column = sum(np.dtype(dtype).itemsize for dtype in FIELDS.values())
    words = sum(plan.images * layer.positions * per_column for layer in plan.layers)
    needs = {"activations": activations, "words": words}
    if settings.hmm is not None:
        # Every level has a row, the prediction one more; the rows stand in the parts and again in the joined table.
        needs["path_parts"] = 2 * plan.images * (len(plan.layers) + 1) * PATH_ROW_BYTES
    return needs


def memory_needs(settings: Settings, plan: Plan, actors: int) -> dict[str, int]:
    """Bytes that the actors of the widest stage hold at once on one machine of ``actors`` cores (or GPUs).

    Nothing here grows with the number of images, but the predictions and labels that the driver reads.
    """
    extract = settings.extract
    width = np.dtype(extract.dtype).itemsize
    stored = sum(layer.stored * layer.units for layer in plan.layers)
    all_columns = sum(layer.positions * layer.units for layer in plan.layers)
    shard = extract.images_per_shard * stored * width + 3 * extract.batch * all_columns * 4
    wide = min(actors, -(-plan.images // extract.images_per_shard))
    fits = _fits(settings, plan)
    at_once = max(1, actors // settings.runtime.fit_actors)
    widest = max(
        (wide * shard, f"{wide} shards of activations (extract.images_per_shard, runtime.actors)"),
        (sum(fits[:at_once]), f"{min(at_once, len(fits))} fits (fit.minibatch, fit.words)"),
    )
    processes = max(wide, min(actors, len(fits) * settings.runtime.fit_actors)) * PROCESS_BYTES
    return {widest[1]: widest[0], "the worker processes themselves": processes}


def _fits(settings: Settings, plan: Plan) -> list[int]:
    """Bytes of every fit, the largest first: one a layer, or one a restart of the chain."""
    if settings.hmm is not None:
        return [_chain_bytes(settings, plan)] * settings.hmm.restarts
    return sorted((_fit_bytes(settings, plan, layer) for layer in plan.layers), reverse=True)


def _fit_bytes(settings: Settings, plan: Plan, layer: LayerPlan) -> int:
    """Buffered columns with their ids and row orders, a minibatch as float32, and copies of the float64 statistics."""
    each = layer.units * np.dtype(settings.extract.dtype).itemsize
    columns = min(settings.fit.minibatch, plan.train_images * layer.stored)
    mixed = mixed_minibatches(columns, each, settings.extract.images_per_chunk * layer.stored) * columns
    held = min(mixed, plan.train_images * layer.stored)
    return held * (each + ID_BYTES) + columns * layer.units * 4 + 8 * 8 * 2 * layer.words * layer.units


def _chain_bytes(settings: Settings, plan: Plan) -> int:
    """The same for a chain: buffered images, the larger of two minibatches with messages and twice the start sample."""
    units, words = sum(layer.units for layer in plan.layers), sum(layer.words for layer in plan.layers)
    images = chain_settings(settings, plan, plan.train_images).minibatch
    mixed = chain_buffer_minibatches(images, plan, settings) * images
    each = units * np.dtype(settings.extract.dtype).itemsize
    cells = sum(layer.words * layer.units for layer in plan.layers)
    held = min(mixed, plan.train_images) * (each + ID_BYTES)
    most = max(layer.words for layer in plan.layers)
    start = min(plan.train_images, max(START_IMAGES, START_IMAGES_A_WORD * most)) * units * 4
    return max(held + images * (2 * units * 4 + 3 * words * 8), 2 * start) + 8 * 8 * 2 * cells
