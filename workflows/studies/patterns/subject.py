"""A class at work: its objects through the network, turned one way, and its patterns learned from the top down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from gmm_ops.explanatory.facing import face_objects
from gmm_ops.explanatory.pattern_layer import PatternSettings
from gmm_ops.explanatory.pattern_places import PatternPlaces, raw_peaks
from workflows.asking.pattern_files import PatternedLayer, PatternFiles, Top, TurnedObjects
from workflows.asking.study import StudyContext
from workflows.data.objects import BoxedObjects
from workflows.storage.tables import write_table
from workflows.studies.patterns.learning import LayerJob, StoredUpper, gather_layer, learn_layer, unit_seeds
from workflows.studies.patterns.object_maps import Crops, ObjectResponses
from workflows.studies.patterns.request import PatternsRequest, learned_objects

CANDIDATES = 600
"""Patterns of the layer above that may become parents (METHOD 10)."""

_AT_ONCE = 64
"""Objects whose maps the driver holds."""

_PLACE_BYTES = 12
"""Of a pattern on an object: place and score."""


@dataclass(frozen=True)
class Subject:
    """A class whose objects are looked at.

    Attributes:
        study: at work.
        request: as the command was told.
        layers: lowest first.
        label: id of the class.
        objects: its objects.
    """

    study: StudyContext
    request: PatternsRequest
    layers: tuple[PatternedLayer, ...]
    label: int
    objects: BoxedObjects

    @property
    def class_name(self) -> str:
        """Of the class."""
        return self.study.plan.class_names[self.label]

    @property
    def files(self) -> PatternFiles:
        """What stays."""
        return PatternFiles.of(self.study.folder, self.label)

    @property
    def mirrored(self) -> bool:
        """Whether mirror images are run."""
        return self.request.mirror == "latent"

    @cached_property
    def crops(self) -> Crops:
        """Its objects through the network; beside their maps places are written twice until they are gathered."""
        patterns = sum(layer.units * layer.patterns for layer in self.layers) * len(self.request.tops)
        places = len(self.objects) * 2 * _PLACE_BYTES * patterns
        root = self._own / "responses"
        return Crops(self.study, f"class {self.label}", root, self.objects, self.layers, self.mirrored, places)

    def work(self) -> int:
        """Products of a pattern and a position over all objects and iterations: what EM takes its time for."""
        each = sum(one.units * one.patterns * one.grid.height * one.grid.width for one in self.layers)
        return each * len(self.objects) * self.request.iterations * len(self.request.tops)

    def jobs(self) -> int:
        """Work items that are no shards of photos."""
        none = np.zeros(len(self.objects), np.int64)
        return sum(
            len(self._job(top, place, none, np.ones(layer.units), None).blocks())
            for top in self.request.tops
            for place, layer in enumerate(self.layers)
        )

    @property
    def _own(self) -> Path:
        return self.study.own.parts / f"class-{self.label}"

    def turn(self, deviations: tuple[Float[np.ndarray, " D"], ...]) -> TurnedObjects:
        """Turn all objects one way, by a middle layer, and keep them."""
        count, place = len(self.objects), len(self.layers) // 2
        signs, margins = np.ones(count, np.int64), np.full(count, np.nan)
        if self.mirrored:
            sides = (np.zeros(count, np.int64), np.ones(count, np.int64))
            plain, mirrored = (self.crops.maps(place, deviations[place], side) for side in sides)
            facing = face_objects(plain, mirrored, _AT_ONCE)
            signs, margins = facing.signs.numpy(), facing.margins.double().numpy()
        turned = TurnedObjects(self.objects, signs, margins, learned_objects(self.objects, self.request.learn))
        request = self.request
        told: dict[str, Any] = {"class_name": self.class_name, "boxes": str(request.boxes.resolve())}
        told |= {"names": dict(request.names), "mirror": request.mirror, "tops": list(request.tops)}
        self.files.write_objects(turned, self.layers, **told)
        return turned

    def learn(
        self, top: Top, turned: TurnedObjects, deviations: tuple[Float[np.ndarray, " D"], ...]
    ) -> list[StoredUpper | None]:
        """Learn and place the patterns of all layers; gives what each layer sees above itself, lowest first."""
        seen: list[StoredUpper | None] = [None]
        for place in reversed(range(len(self.layers))):
            layer = self.layers[place]
            job = self._job(top, place, turned.signs, deviations[place], seen[0], turned.learned)
            learn_layer(self.study, job, f"class {self.label} {top} {layer.name}")
            seen.insert(0, gather_layer(job, self.files, top, layer.name, CANDIDATES))
        return seen[1:]

    def _job(
        self,
        top: Top,
        place: int,
        signs: Int[np.ndarray, " n"],
        deviations: Float[np.ndarray, " D"],
        upper: StoredUpper | None,
        learned: np.ndarray | None = None,
    ) -> LayerJob:
        layer = self.layers[place]
        rows = np.arange(len(self.objects)) if learned is None else np.flatnonzero(learned)
        maps = self.crops.maps(place, deviations, (signs < 0).astype(np.int64))
        seeds = unit_seeds(self.study.settings.seed, layer.name, layer.units)
        root = self._own / top / f"{place}"
        return LayerJob(root, maps, rows, layer.grid, self.pattern_settings(top, place), seeds, upper)

    def pattern_settings(self, top: Top, place: int) -> PatternSettings:
        """Of a layer: below a free top every pattern moves with one parent."""
        iterations, free = self.request.iterations, top == "free"
        if free and place == len(self.layers) - 1:
            return PatternSettings.free_top(iterations)
        parents = 1 if free else self.request.parents
        return PatternSettings(self.layers[place].patterns, parents, iterations, candidates=CANDIDATES, rigid=free)

    def write_places(self, top: Top, number: int, rows: pa.Table) -> None:
        """Write a part of pattern_places.parquet; parts are in the order of the table's key."""
        path = self._place_parts / f"{top}-{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, rows, "pattern_places", network=self.study.settings.name)

    def place_parts(self) -> list[Path]:
        """The parts, in the order of the table."""
        return sorted(self._place_parts.glob("*.parquet"))

    @property
    def _place_parts(self) -> Path:
        return self._own / "places"

    def peaks(self, place: int, maps: ObjectResponses) -> PatternPlaces:
        """The strongest position of every unit, kept too."""
        grid = self.layers[place].grid
        blocks = [raw_peaks(block, grid) for block in blocks_of(maps)]
        found = PatternPlaces(torch.cat([one.places for one in blocks]), torch.cat([one.scores for one in blocks]))
        self.files.write_peaks(self.layers[place].name, found)
        return found


def blocks_of(maps: ObjectResponses) -> Iterator[torch.Tensor]:
    """F of some objects after the other."""
    for first in range(0, len(maps.rows), _AT_ONCE):
        yield maps[first : first + _AT_ONCE]
