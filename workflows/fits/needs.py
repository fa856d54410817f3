"""What a run will write and hold, in bytes, before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from gmm_ops.mixtures.memory import em_bytes
from gmm_ops.mixtures.memory import training_bytes as slice_training_bytes
from workflows.fits.chain_fit import (
    START_IMAGES,
    START_IMAGES_A_WORD,
    chain_buffer_minibatches,
    chain_settings,
)
from workflows.fits.discriminative_training import global_batch, training_bytes
from workflows.fits.minibatches import mixed_minibatches
from workflows.plan.requests import ALL, class_id
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.settings import RuntimeSettings, Settings
from workflows.words.held_words import HELD_BYTES
from workflows.words.word_maps import FIELDS

ID_BYTES = 12
"""Of a buffered column: image, position and place in the row order, int32 each."""

COLUMN_BYTES = sum(np.dtype(dtype).itemsize for dtype in FIELDS.values())
"""Of a column in word maps."""

PATH_ROW_BYTES = 100
"""Of a row of paths.parquet in memory, and in path_parts at most."""

PROCESS_BYTES = 400 * 2**20
"""Of an actor with torch loaded and nothing to do."""


def planned_actors(runtime: RuntimeSettings) -> int:
    """Actors of this machine, before Ray is asked: as set, or as many as the cores hold."""
    return runtime.actors or max(1, (os.cpu_count() or 1) // runtime.threads)


def least_assigned(settings: Settings, plan: Plan, known: Sequence[Scope], labels: Int[np.ndarray, " N"]) -> int:
    """Images that get words, summed over scopes, as far as that is known before the confusion matrix.

    The scope of a class has its own images; those of its neighbours are not known yet.

    Args:
        settings, plan: of the run.
        known: scopes that need no predictions.
        labels: true class of every image.
    """
    own = int(np.isin(labels, _own_classes(settings, plan)).sum())
    return sum(int(scope.contains(labels).sum()) for scope in known) + own


def least_labels(settings: Settings, plan: Plan, known: Sequence[Scope]) -> list[int]:
    """Labels of every scope, as far as that is known before the confusion matrix: the scope of a class has its own."""
    return [scope.n_labels for scope in known] + [1] * len(_own_classes(settings, plan))


def words_bytes(plan: Plan, assigned: int) -> int:
    """Of the word maps of so many images; what the maps hold of others is one value and packs to nothing."""
    return assigned * COLUMN_BYTES * sum(layer.positions for layer in plan.layers)


def mixtures_bytes(settings: Settings, plan: Plan, labels: Iterable[int]) -> int:
    """Of the dictionaries of scopes with so many labels each."""
    return sum(dictionary_bytes(settings, layer, count) for count in labels for layer in plan.layers)


def disk_needs(
    settings: Settings, plan: Plan, assigned: int | None = None, labels: Sequence[int] | None = None
) -> dict[str, int]:
    """Bytes of the large artefacts, uncompressed: the plan must fit whatever the codec reaches.

    Args:
        settings, plan: of the run.
        assigned: images that get words, summed over scopes; None: every image once.
        labels: of every scope; None: one scope of all classes.
    """
    width = np.dtype(settings.extract.dtype).itemsize
    activations = sum(plan.stored_images * layer.stored * layer.units * width for layer in plan.layers)
    needs = {"activations": activations, "words": words_bytes(plan, plan.images if assigned is None else assigned)}
    needs["mixtures"] = mixtures_bytes(settings, plan, [len(plan.class_names)] if labels is None else labels)
    if settings.hmm is not None:
        # Every level has a row, the prediction one more; the rows stand in the parts and again in the joined table.
        needs["path_parts"] = 2 * plan.images * (len(plan.layers) + 1) * PATH_ROW_BYTES
        needs["mixtures"] *= settings.hmm.restarts + 1  # of every start, and again of the kept one
    return needs


def memory_needs(
    settings: Settings, plan: Plan, actors: int, dictionaries: int | None = None, in_a_shard: int | None = None
) -> dict[str, int]:
    """Bytes that the actors of the widest stage hold at once on one machine of ``actors`` cores (or GPUs).

    Nothing here grows with the number of images, but the predictions and labels that the driver reads.

    Args:
        settings, plan: of the run.
        actors: of this machine.
        dictionaries: of a layer, that are read at once; None: one for every scope there may be.
        in_a_shard: images of one shard that get words, summed over scopes; None: those of scopes with all images, for
            what others assign is known with the predictions.
    """
    extract = settings.extract
    width = np.dtype(extract.dtype).itemsize
    stored = sum(layer.stored * layer.units for layer in plan.layers)
    all_columns = sum(layer.positions * layer.units for layer in plan.layers)
    shard = extract.images_per_shard * stored * width + 3 * extract.largest_batch * all_columns * 4
    wide = min(actors, -(-plan.images // extract.images_per_shard))
    fits = _fits(settings, plan)
    group = settings.fit.word_slices if settings.fit.word_slices > 1 else settings.runtime.fit_actors
    at_once = max(1, actors // group)
    widest = max(
        (wide * shard, f"{wide} shards of activations (extract.images_per_shard, runtime.actors)"),
        (sum(fits[:at_once]), f"{min(at_once, len(fits))} fits (fit.minibatch, fit.words)"),
        (
            wide * (_reader_bytes(settings, plan, dictionaries) + _maps_bytes(settings, plan, in_a_shard)),
            f"{wide} readers of whole maps (fit.words, extract.batch)",
        ),
    )
    processes = max(wide, min(actors, len(fits) * group)) * PROCESS_BYTES
    return {widest[1]: widest[0], "the worker processes themselves": processes}


def _fits(settings: Settings, plan: Plan) -> list[int]:
    """Bytes of every fit, the largest first: one a scope and layer, or one a restart of the chain."""
    if settings.hmm is not None:
        return [_chain_bytes(settings, plan)] * settings.hmm.restarts
    if settings.fit.word_slices > 1:
        each = [sliced_bytes(settings, plan, layer) for layer in plan.layers]
        return sorted(each * _most_scopes(settings, plan), reverse=True)
    each = [_fit_bytes(settings, plan, layer) for layer in plan.layers]
    if settings.fit.loss == "discriminative":
        pairs = zip(each, plan.layers, strict=True)
        each = [held + training_bytes(settings, plan, layer) for held, layer in pairs]
    return sorted(each * _most_scopes(settings, plan), reverse=True)


def _reader_bytes(settings: Settings, plan: Plan, dictionaries: int | None) -> int:
    """Of the words and errors stages: dictionaries that are kept, the one in use, columns of a shard or a batch."""
    each = [dictionary_bytes(settings, layer, len(plan.class_names)) for layer in plan.layers]
    kept = min(HELD_BYTES, sum(each) * (dictionaries or max(1, _most_scopes(settings, plan)))) + max(each)
    extract, width = settings.extract, np.dtype(settings.extract.dtype).itemsize
    batch = 3 * extract.largest_batch * max(layer.positions * layer.units for layer in plan.layers) * 4
    if plan.stores_everything:
        return (
            kept + batch + extract.images_per_shard * max(layer.stored * layer.units for layer in plan.layers) * width
        )
    return (
        kept + batch + extract.largest_batch * sum(layer.positions * layer.units for layer in plan.layers) * (4 + width)
    )


def _maps_bytes(settings: Settings, plan: Plan, in_a_shard: int | None) -> int:
    """Of the words stage: word maps of one scope and layer, or of all where the network runs again, see ``words``."""
    fit, shard = settings.fit, settings.extract.images_per_shard
    if plan.stores_everything:
        return shard * COLUMN_BYTES * max(layer.positions for layer in plan.layers)
    hold_all = max(1, ("joint" in fit.scopes) + sum(wanted.rest for wanted in fit.lists))
    return words_bytes(plan, hold_all * shard if in_a_shard is None else in_a_shard)


def dictionary_bytes(settings: Settings, layer: LayerPlan, labels: int) -> int:
    """Means and variances; with the discriminative loss of both losses, each with its linear layer."""
    means = 2 * 8 * layer.words * layer.units
    discriminative = settings.fit.loss == "discriminative"
    return 2 * (means + 8 * layer.words * labels) if discriminative else means


def _own_classes(settings: Settings, plan: Plan) -> list[int]:
    """Ids of the classes that a scope of their own is asked for."""
    if "class" not in settings.fit.scopes:
        return []
    if ALL in settings.mine.classes:
        return list(range(len(plan.class_names)))
    return sorted({class_id(request, plan.class_names) for request in settings.mine.classes})


def _most_scopes(settings: Settings, plan: Plan) -> int:
    """At most so many, before the confusion matrix is known."""
    return ("joint" in settings.fit.scopes) + len(settings.fit.lists) + len(_own_classes(settings, plan))


def _fit_bytes(settings: Settings, plan: Plan, layer: LayerPlan) -> int:
    """Buffered columns with their ids and row orders, a minibatch as float32, and copies of the float64 statistics."""
    each = layer.units * np.dtype(settings.extract.dtype).itemsize
    columns = min(settings.fit.minibatch, plan.train_images * layer.stored)
    mixed = mixed_minibatches(columns, each, settings.extract.images_per_chunk * layer.stored) * columns
    held = min(mixed, plan.train_images * layer.stored)
    return held * (each + ID_BYTES) + columns * layer.units * 4 + 8 * 8 * 2 * layer.words * layer.units


def sliced_bytes(settings: Settings, plan: Plan, layer: LayerPlan) -> int:
    """Of all actors of a sliced fit: each buffers the columns of all, and holds its own words."""
    fit, units, width = settings.fit, layer.units, np.dtype(settings.extract.dtype).itemsize
    slices, images, per_chunk = fit.word_slices, plan.train_images, settings.extract.images_per_chunk
    columns = min(fit.minibatch, images * layer.stored)
    mixed = mixed_minibatches(columns, units * width, per_chunk * layer.stored) * columns
    held = min(mixed, images * layer.stored) * (units * width + ID_BYTES) + columns * units * 4
    words = em_bytes(layer.words, slices, units, fit.polyak)
    if fit.loss == "discriminative":
        batch = global_batch(settings.discriminative.batch, images)
        mixed = mixed_minibatches(batch, layer.stored * units * width, per_chunk) * batch
        held = max(held, min(mixed, images) * layer.stored * units * width + batch * layer.stored * units * 4)
        # Beside what is trained, the generative words that it is compared with, and the state before the last step.
        trained = slice_training_bytes(layer.words, slices, units, len(plan.class_names), batch)
        words = max(words, trained + (2 + 6) * 8 * -(-layer.words // slices) * units)
    return slices * (held + words)


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
