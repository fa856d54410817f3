"""A dictionary of the objects themselves: some columns of every object, turned, and words learned from them.

The dictionaries of a run know whole photos of several classes. Words of the objects of one class alone tell its parts
apart with fewer words, and few words that are on most objects are what votes want.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from gmm_ops.mixtures.online_em import fit_online
from workflows.asking.image_parts import ImageShard, Parts
from workflows.asking.study import StudyContext
from workflows.plan.run_plan import LayerPlan
from workflows.runtime.devices import STORAGE_DTYPES
from workflows.runtime.dispatcher import map_shards
from workflows.settings import Settings
from workflows.storage.mixtures import save_mixture
from workflows.studies.locate.crop_words import AskedDictionary, DictionaryWorker

_BYTES = 2**28
"""Of columns that a dictionary is learned from, at most."""


def columns_bytes(layers: Sequence[LayerPlan], objects: int, settings: Settings) -> int:
    """Of the columns of an object."""
    size = STORAGE_DTYPES[settings.extract.dtype].itemsize
    return sum(_columns(layer, objects, settings) * layer.units * size for layer in layers)


def _columns(layer: LayerPlan, objects: int, settings: Settings) -> int:
    """Columns of an object that are kept: all, or as many as the bytes allow, spread at random."""
    size = objects * layer.units * STORAGE_DTYPES[settings.extract.dtype].itemsize
    return max(1, min(layer.positions, _BYTES // size))


class ObjectColumnsWorker(DictionaryWorker):
    """Runs in an actor: the objects of a shard of photos in, some of their columns out, (b c, D) by layer.

    Columns are of the objects that are learned from.
    """

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """Which columns of an object are kept depends on the seed and the object alone."""
        chosen = np.isin(self.turned.objects.images, shard.images) & self.turned.learned
        empty = {layer.name: np.zeros((0, layer.units), self.settings.extract.dtype) for layer in self.layers}
        found = {name: [none] for name, none in empty.items()}
        for some, maps in self.read(np.flatnonzero(chosen)):
            for layer in self.layers:
                count = _columns(layer, len(self.turned.objects), self.settings)
                for row, columns in zip(some.tolist(), maps[layer.name], strict=True):
                    draw = np.random.default_rng([self.settings.seed % 2**64, row])
                    places = np.sort(draw.permutation(layer.positions)[:count])
                    found[layer.name].append(columns[torch.from_numpy(places)].cpu().numpy())
        return {name: np.concatenate(some) for name, some in found.items()}


@dataclass(frozen=True)
class DictionaryJob:
    """What the actor that learns a dictionary is given."""

    parts: Parts
    dictionary: AskedDictionary
    seed: int


class LearningWorker:
    """Learns a dictionary by likelihood (online EM) and writes it."""

    def __init__(self, jobs: Sequence[DictionaryJob]) -> None:
        self._jobs = {job.dictionary.item: job for job in jobs}

    def __call__(self, item: str) -> dict[str, Any]:
        """One dictionary."""
        job = self._jobs[item]
        columns: Float[np.ndarray, "n D"] = np.concatenate([part[job.dictionary.layer.name] for part in job.parts])
        fit = fit_online(torch.from_numpy(columns).float(), job.dictionary.words, job.seed)
        save_mixture(job.dictionary.path, fit.mixture)
        return {"columns": len(columns)}


def learn_dictionaries(
    study: StudyContext, parts: Callable[[], Parts], dictionaries: Sequence[AskedDictionary]
) -> None:
    """Learn those that are not there yet; ``parts`` gathers their columns."""
    done = study.ledger.items()
    left = [one.item for one in dictionaries if one.item not in done or not one.path.exists()]
    if not left:
        return
    found = parts()
    jobs = [DictionaryJob(found, one, study.settings.seed) for one in dictionaries]
    map_shards(
        LearningWorker,
        {"jobs": jobs},
        left,
        study.pool(len(left), "dictionary"),
        on_done=study.finished,
        on_failure=study.failed,
    )
