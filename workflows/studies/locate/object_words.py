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
from workflows.asking.image_parts import ImageShard, Parts, Phase
from workflows.asking.pattern_files import TurnedObjects
from workflows.asking.study import StudyContext
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import STORAGE_DTYPES
from workflows.runtime.dispatcher import map_shards
from workflows.settings import Settings
from workflows.storage.mixtures import save_mixture
from workflows.storage.run_folder import RunFolder
from workflows.studies.locate.crop_words import AskedDictionary, TurnedColumns

_BYTES = 2**28
"""Of columns that a dictionary is learned from, at most."""


def columns_phase(turned: TurnedObjects, dictionaries: Sequence[AskedDictionary], settings: Settings) -> Phase:
    """The pass that gathers columns."""
    each = sum(_columns(one, len(turned.objects), settings) * one.layer.units for one in dictionaries)
    size = len(turned.objects) * each * STORAGE_DTYPES[settings.extract.dtype].itemsize
    return Phase("columns", np.unique(turned.objects.images), 1.0, size)


def _columns(dictionary: AskedDictionary, objects: int, settings: Settings) -> int:
    """Columns of an object that are kept: all, or as many as the bytes allow, spread at random."""
    size = objects * dictionary.layer.units * STORAGE_DTYPES[settings.extract.dtype].itemsize
    return max(1, min(dictionary.layer.positions, _BYTES // size))


class ObjectColumnsWorker:
    """Runs in an actor: the objects of a shard of photos in, some of their columns out, (b c, D) a dictionary.

    Args:
        settings, plan, folder: of the run.
        turned: the objects; columns are of those that are learned from.
        dictionaries: that will be learned.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        turned: TurnedObjects,
        dictionaries: Sequence[AskedDictionary],
    ) -> None:
        self._turned, self._dictionaries, self._settings = turned, dictionaries, settings
        self._read = TurnedColumns(settings, plan, folder, turned, [one.layer for one in dictionaries])

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """By number of the dictionary; which columns of an object are kept depends on the seed and the object alone."""
        chosen = np.isin(self._turned.objects.images, shard.images) & self._turned.learned
        rows = np.flatnonzero(chosen)
        found: list[list[np.ndarray]] = [
            [np.zeros((0, one.layer.units), np.dtype(self._settings.extract.dtype))] for one in self._dictionaries
        ]
        for some, maps in self._read(rows):
            for one, kept in zip(self._dictionaries, found, strict=True):
                count = _columns(one, len(self._turned.objects), self._settings)
                for row, columns in zip(some.tolist(), maps[one.layer.name], strict=True):
                    draw = np.random.default_rng([self._settings.seed % 2**64, row])
                    places = np.sort(draw.permutation(one.layer.positions)[:count])
                    kept.append(columns[torch.from_numpy(places)].cpu().numpy())
        return {str(place): np.concatenate(some) for place, some in enumerate(found)}


@dataclass(frozen=True)
class DictionaryJob:
    """What the actor that learns a dictionary is given: the columns of all shards, and which it is."""

    parts: Parts
    place: int
    dictionary: AskedDictionary
    seed: int


class DictionaryWorker:
    """Learns a dictionary by likelihood (online EM) and writes it."""

    def __init__(self, jobs: Sequence[DictionaryJob]) -> None:
        self._jobs = {job.dictionary.item: job for job in jobs}

    def __call__(self, item: str) -> dict[str, Any]:
        """One dictionary."""
        job = self._jobs[item]
        columns: Float[np.ndarray, "n D"] = np.concatenate([part[str(job.place)] for part in job.parts])
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
    jobs = [DictionaryJob(found, place, one, study.settings.seed) for place, one in enumerate(dictionaries)]
    map_shards(
        DictionaryWorker,
        {"jobs": jobs},
        left,
        study.pool(len(left), "dictionary"),
        on_done=study.finished,
        on_failure=study.failed,
    )
