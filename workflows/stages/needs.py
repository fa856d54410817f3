"""What a run will write and hold, in bytes, before it starts."""

from __future__ import annotations

import numpy as np

from workflows.plan import LayerPlan, Plan
from workflows.settings import Settings
from workflows.stages.layer_fit import buffer_minibatches
from workflows.stages.word_maps import FIELDS


def disk_needs(settings: Settings, plan: Plan) -> dict[str, int]:
    """Bytes of the large artefacts, uncompressed: the plan must fit whatever the codec reaches."""
    width = np.dtype(settings.extract.dtype).itemsize
    activations = sum(plan.stored_images * layer.stored * layer.units * width for layer in plan.layers)
    per_column = sum(np.dtype(dtype).itemsize for dtype in FIELDS.values())
    words = sum(plan.images * layer.positions * per_column for layer in plan.layers)
    return {"activations": activations, "words": words}


def memory_needs(settings: Settings, plan: Plan) -> dict[str, int]:
    """Bytes that the widest actor of each stage holds at once; no part grows with the number of images."""
    extract = settings.extract
    width = np.dtype(extract.dtype).itemsize
    stored = sum(layer.stored * layer.units for layer in plan.layers)
    all_columns = sum(layer.positions * layer.units for layer in plan.layers)
    shard = extract.images_per_shard * stored * width + 3 * extract.batch * all_columns * 4
    fits = [_fit_bytes(settings, plan, layer) for layer in plan.layers]
    return {"a shard of activations (extract.images_per_shard)": shard, "a fit (fit.minibatch, fit.words)": max(fits)}


def _fit_bytes(settings: Settings, plan: Plan, layer: LayerPlan) -> int:
    """Buffer of columns, one minibatch of them as float32, and some copies of the float64 statistics."""
    width = np.dtype(settings.extract.dtype).itemsize
    columns = min(settings.fit.minibatch, plan.train_images * layer.stored)
    buffer = buffer_minibatches(columns, layer, settings) * columns * layer.units * width
    whole_layer = plan.train_images * layer.stored * layer.units * width
    return min(buffer, whole_layer) + columns * layer.units * 4 + 8 * 8 * 2 * layer.words * layer.units
