"""EM of a layer, block of units by block of units: each a work item, nothing reduced, only places gathered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from gmm_ops.explanatory.parents import UpperPlaces, best_candidates, displacements
from gmm_ops.explanatory.pattern_fitting import PatternFit, fit_patterns
from gmm_ops.explanatory.pattern_layer import PatternLayer, PatternSettings, joined_layer
from gmm_ops.explanatory.pattern_places import PatternPlaces, infer_places
from gmm_ops.explanatory.responses import PositionGrid
from workflows.asking.pattern_files import PatternFiles, Top, shard_rows
from workflows.asking.study import StudyContext
from workflows.runtime.dispatcher import map_shards
from workflows.storage.atomic import replacing
from workflows.storage.states import load_state, save_state
from workflows.studies.patterns.object_maps import ObjectResponses, write_plain

BLOCK_UNITS = 16
"""Units of a work item, at most."""

BLOCK_BYTES = 2**28
"""Of what EM holds for each object of a block of units, at most, but one unit at least."""

_OBJECT_BYTES = 24
"""For each pattern: its mass and mean place."""


@dataclass(frozen=True)
class UnitBlock:
    """Some units of a layer in a row: one work item."""

    first: int
    stop: int

    def __str__(self) -> str:
        return f"{self.first}-{self.stop}"


@dataclass(frozen=True)
class StoredUpper:
    """Candidates of the layer above, with a file of how far each lies from its mean place on every object."""

    candidates: Int[np.ndarray, " C"]
    precisions: Float[np.ndarray, " C"]
    path: Path

    def rows(self, rows: Int[np.ndarray, " m"]) -> UpperPlaces:
        """On some objects."""
        stored = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return UpperPlaces(
            torch.from_numpy(self.candidates), torch.from_numpy(self.precisions), _SomeRows(stored, rows)
        )


@dataclass(frozen=True)
class _SomeRows:
    stored: np.ndarray
    rows: Int[np.ndarray, " m"]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.stored.shape[1:]

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        found: np.ndarray = self.stored[self.rows[rows]]
        return found


@dataclass(frozen=True)
class LayerJob:
    """What the blocks of one layer share.

    Attributes:
        root: folder of what they give.
        responses: of all units on all objects.
        learned: rows that patterns are learned from.
        grid, settings, seeds: as ``fit_patterns``.
        upper: None at the top.
    """

    root: Path
    responses: ObjectResponses
    learned: Int[np.ndarray, " m"]
    grid: PositionGrid
    settings: PatternSettings
    seeds: tuple[int, ...]
    upper: StoredUpper | None

    def blocks(self) -> list[UnitBlock]:
        """In order; how they are cut changes no bit of what they give."""
        each = _OBJECT_BYTES * self.settings.patterns * max(len(self.learned), 1)
        size = int(np.clip(BLOCK_BYTES // each, 1, BLOCK_UNITS))
        units = len(self.seeds)
        return [UnitBlock(first, min(first + size, units)) for first in range(0, units, size)]

    def fitted(self, block: UnitBlock) -> Path:
        """Where what was learned of a block lies."""
        return self.root / f"{block}.npz"

    def placed(self, block: UnitBlock, what: str) -> Path:
        """Where the places, or scores, of a block lie."""
        return self.root / f"{block}-{what}.npy"

    def is_done(self, block: UnitBlock) -> bool:
        """Whether all its files are there; the last one is written last."""
        return all(path.exists() for path in (self.fitted(block), *(self.placed(block, what) for what in _PLACED)))


_PLACED = ("places", "scores")


class BlockWorker:
    """Learns the patterns of a block of units and places them on all objects; built once an actor."""

    def __init__(self, job: LayerJob) -> None:
        self._job = job
        every = np.arange(len(job.responses.rows))
        self._every, self._learned = (
            None if job.upper is None else job.upper.rows(rows) for rows in (every, job.learned)
        )

    def __call__(self, block: UnitBlock) -> dict[str, Any]:
        """Write what it gives; the record tells seconds of processor time and the largest relative fall."""
        job, units = self._job, (block.first, block.stop)
        own = replace(job.responses, units=units)
        begun = time.process_time()
        learned = replace(own, rows=job.learned)
        fit = fit_patterns(learned, job.grid, job.settings, job.seeds[slice(*units)], self._learned)
        fitted = time.process_time()
        found = infer_places(own, job.grid, fit.layer, self._every)
        placed = time.process_time()
        save_state(job.fitted(block), fit.to_arrays())
        for what, values in (("places", found.places), ("scores", found.scores)):
            write_plain(job.placed(block, what), values.numpy())
        return {"em_seconds": fitted - begun, "inference_seconds": placed - fitted, "fall": largest_fall(fit)}


def largest_fall(fit: PatternFit) -> float:
    """By how much, relatively, a log likelihood falls from one iteration to the next; 0: never."""
    known = fit.likelihood
    step = known[:, 1:] - known[:, :-1]
    fall = (-step).clamp(min=0) / known[:, :-1].abs().clamp(min=torch.finfo(torch.float64).tiny)
    return float(fall.max()) if fall.numel() else 0.0


def unit_seeds(seed: int, layer: str, units: int) -> tuple[int, ...]:
    """One a unit, from the run's own; of a unit the same whatever else is learned."""
    name = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:8], "little")
    found = [np.random.SeedSequence([seed, name, unit]).generate_state(1, np.uint64)[0] for unit in range(units)]
    return tuple(int(one) for one in found)


def learn_layer(study: StudyContext, job: LayerJob, name: str) -> None:
    """Give the blocks of a layer that are not done to actors.

    Args:
        study: at work.
        job: of the layer.
        name: of its items in the ledger.

    Raises:
        ShardError: a block kept failing; what is done stays done.
    """
    left = [block for block in job.blocks() if not is_learned(study, job, name, block)]
    if left:
        map_shards(
            BlockWorker,
            {"job": job},
            left,
            study.pool(len(left), "block of units"),
            on_done=lambda block, record: study.finished(f"{name} {block}", record),
            on_failure=lambda block, reason, last: study.failed(f"{name} {block}", reason, last),
        )


def is_learned(study: StudyContext, job: LayerJob, name: str, block: UnitBlock) -> bool:
    """Whether a block is never fitted again."""
    return f"{name} {block}" in study.ledger.items() and job.is_done(block)


def gather_layer(job: LayerJob, files: PatternFiles, top: Top, layer: str, candidates: int) -> StoredUpper:
    """Keep patterns and places of a layer whose blocks are done, and write what the layer below needs of them.

    Args:
        job: of the layer.
        files: where they are kept.
        top, layer: of which.
        candidates: how many may become parents.
    """
    blocks = job.blocks()
    fits = [PatternFit.from_arrays(load_state(job.fitted(block))) for block in blocks]
    fit = PatternFit(joined_layer([one.layer for one in fits]), torch.cat([one.likelihood for one in fits]))
    files.write_patterns(top, layer, fit)
    stored = {what: [np.load(job.placed(block, what), mmap_mode="r") for block in blocks] for what in _PLACED}
    objects = len(job.responses.rows)
    files.create_places(top, layer, objects, fit.layer.count)
    totals = torch.zeros(fit.layer.count, dtype=torch.float64)
    learned = np.zeros(objects, bool)
    learned[job.learned] = True
    for first in range(0, objects, shard_rows()):
        found = _rows_of(stored, slice(first, first + shard_rows()))
        files.write_places(top, layer, first, found)
        totals += found.scores[torch.from_numpy(learned[first : first + shard_rows()])].double().sum(dim=0)
    best = best_candidates(totals, candidates)
    return _write_displacements(job, fit.layer, best, files, top, layer, objects)


def _write_displacements(
    job: LayerJob, layer: PatternLayer, best: torch.Tensor, files: PatternFiles, top: Top, name: str, objects: int
) -> StoredUpper:
    path = job.root / "displacements.npy"
    with replacing(path, synced=False) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (objects, 2, len(best))}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, objects, shard_rows()):
            places = files.places(top, name, slice(first, first + shard_rows())).places
            file.write(displacements(places, layer, best).numpy().astype("<f4").tobytes())
    precisions = UpperPlaces.of(layer, best, torch.zeros((0, 2, 0))).precisions
    return StoredUpper(best.numpy(), precisions.numpy(), path)


def _rows_of(stored: Mapping[str, Sequence[np.ndarray]], rows: slice) -> PatternPlaces:
    places, scores = (np.concatenate([one[rows] for one in stored[what]], axis=1) for what in _PLACED)
    return PatternPlaces(torch.from_numpy(places), torch.from_numpy(scores))
