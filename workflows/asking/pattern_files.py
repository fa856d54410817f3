"""What the study ``patterns`` keeps of a class beside its tables: objects, how they are turned, every place.

``<run>/patterns/class-<id>/``: ``objects.zarr`` with the layers in its attributes; for every kind of top and layer the
patterns as they were learned, and places and scores of all of them on all objects; for every layer the strongest
position of each unit. Objects lie in the same order everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from gmm_ops.explanatory.pattern_fitting import PatternFit
from gmm_ops.explanatory.pattern_layer import PatternLayer
from gmm_ops.explanatory.pattern_places import PatternPlaces
from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.graphs.windows import AxisWindow
from workflows.data.objects import BoxedObjects
from workflows.storage.arrays import (
    create_array,
    open_array,
    read_arrays,
    read_attributes,
    read_rows,
    write_arrays,
    write_shard,
)
from workflows.storage.names import slug
from workflows.storage.run_folder import RunFolder

Top = Literal["anchored", "free"]

_CHUNK, _SHARD = 32, 256
"""Objects that are read at once, and of one file."""


@dataclass(frozen=True)
class PatternedLayer:
    """A layer whose units have patterns.

    Attributes:
        name: canonical name of the convolution.
        units: D.
        patterns: N of each unit; a free top has one.
        grid: where its positions lie on an object.
    """

    name: str
    units: int
    patterns: int
    grid: PositionGrid


@dataclass(frozen=True, eq=False)
class TurnedObjects:
    """Objects of a class, and how each is turned.

    Attributes:
        objects: on their photos.
        signs: (n,) 1: as it is, -1: its mirror image is taken.
        margins: (n,) see ``gmm_ops.explanatory.facing.Facing``; NaN: mirror images were not asked for.
        learned: (n,) whether patterns were learned from it.
    """

    objects: BoxedObjects
    signs: Int[np.ndarray, " n"]
    margins: Float[np.ndarray, " n"]
    learned: Bool[np.ndarray, " n"]

    def judged(self) -> Int[np.ndarray, " m"]:
        """The objects that patterns are judged on: those that they were not learned from, or all."""
        return np.flatnonzero(self.learned if self.learned.all() else ~self.learned)


@dataclass(frozen=True)
class PatternFiles:
    """The folder of a class.

    Attributes:
        root: ``<run>/patterns/class-<id>``.
    """

    root: Path

    @classmethod
    def of(cls, folder: RunFolder, label: int) -> PatternFiles:
        """Of a class, by its id."""
        return cls(folder.root / "patterns" / f"class-{label}")

    def write_objects(self, turned: TurnedObjects, layers: Sequence[PatternedLayer], **attributes: Any) -> None:
        """Keep the objects, and of what layers their patterns are, lowest first."""
        objects = turned.objects
        arrays = {"images": objects.images, "boxes": objects.boxes, "signs": turned.signs}
        arrays |= {"margins": turned.margins, "learned": turned.learned}
        arrays |= {f"part {name}": boxes for name, boxes in objects.parts.items()}
        write_arrays(self.root / "objects.zarr", arrays, {**attributes, "layers": [asdict(layer) for layer in layers]})

    def objects(self) -> TurnedObjects:
        """Raises RunFolderError: ``patterns`` was not asked for this class."""
        found = read_arrays(self.root / "objects.zarr")
        parts = {name.removeprefix("part "): boxes for name, boxes in found.items() if name.startswith("part ")}
        objects = BoxedObjects(found["images"], found["boxes"], parts)
        return TurnedObjects(objects, found["signs"], found["margins"], found["learned"])

    def layers(self) -> tuple[PatternedLayer, ...]:
        """Lowest first."""
        return tuple(
            PatternedLayer(one["name"], one["units"], one["patterns"], _grid(one["grid"]))
            for one in self.attributes()["layers"]
        )

    def attributes(self) -> dict[str, Any]:
        """What else is known: ``mirror``, ``boxes`` (the file), ``class_name``, ``tops``."""
        return read_attributes(self.root / "objects.zarr")

    def write_patterns(self, top: Top, layer: str, fit: PatternFit) -> None:
        """Keep the patterns of a layer as they were learned, with the log likelihoods."""
        write_arrays(self._of(top, layer) / "patterns.zarr", fit.to_arrays())

    def patterns(self, top: Top, layer: str) -> PatternLayer:
        """The patterns of a layer."""
        return self.fit(top, layer).layer

    def fit(self, top: Top, layer: str) -> PatternFit:
        """With the log likelihoods."""
        return PatternFit.from_arrays(read_arrays(self._of(top, layer) / "patterns.zarr"))

    def create_places(self, top: Top, layer: str, objects: int, patterns: int) -> None:
        """Room for the places of all patterns of a layer on all objects."""
        for name, shape in (("places", (objects, patterns, 2)), ("scores", (objects, patterns))):
            path = self._of(top, layer) / f"{name}.zarr"
            create_array(path, shape, "float32", chunk_rows=_CHUNK, shard_rows=_SHARD, zstd_level=1)

    def write_places(self, top: Top, layer: str, first: int, found: PatternPlaces) -> None:
        """Those of ``shard_rows`` objects from ``first`` on."""
        for name, values in (("places", found.places), ("scores", found.scores)):
            write_shard(self._of(top, layer) / f"{name}.zarr", first, values.numpy())

    def places(self, top: Top, layer: str, rows: slice = slice(None)) -> PatternPlaces:
        """Where the patterns of a layer sit on objects, on the turned object; pattern n of unit d is number d N + n."""
        names = ("places", "scores")
        places, scores = (stored_rows(self._of(top, layer) / f"{name}.zarr", rows) for name in names)
        return PatternPlaces(torch.from_numpy(places), torch.from_numpy(scores))

    def write_peaks(self, layer: str, peaks: PatternPlaces) -> None:
        """Keep the strongest position of every unit of a layer on every object."""
        write_arrays(self.root / "peaks" / f"{slug(layer)}.zarr", peaks.to_arrays())

    def peaks(self, layer: str) -> PatternPlaces:
        """The same on the turned object: what patterns are compared with."""
        return PatternPlaces.from_arrays(read_arrays(self.root / "peaks" / f"{slug(layer)}.zarr"))

    def _of(self, top: Top, layer: str) -> Path:
        return self.root / top / slug(layer)


def grid_of(windows: tuple[AxisWindow, AxisWindow], shape: tuple[int, int], size: tuple[int, int]) -> PositionGrid:
    """Where the positions of a layer lie on an object that fills the network's input.

    Args:
        windows: receptive fields along rows and columns.
        shape: positions, rows and columns.
        size: height and width of the input, pixels.
    """
    rows, columns = (_axis(*axis) for axis in zip(windows, shape, size, strict=True))
    return PositionGrid(*shape, (rows[0], columns[0]), (rows[1], columns[1]))


def _axis(window: AxisWindow, positions: int, extent: int) -> tuple[float, float]:
    """Middle of the first receptive field and the stride, over the extent; evenly where each field is everything."""
    if window.is_whole:
        return 0.5 / positions, 1 / positions
    return (window.offset + window.length(extent) / 2) / extent, window.stride / extent


def shard_rows() -> int:
    """Objects of one file of places."""
    return _SHARD


def stored_rows(path: Path, rows: slice) -> np.ndarray:
    """Some rows of a stored array."""
    array = open_array(path)
    start, stop, _ = rows.indices(array.shape[0])
    return read_rows(array, start, stop)


def _grid(stored: dict[str, Any]) -> PositionGrid:
    first, stride = (tuple(map(float, stored[name])) for name in ("first", "stride"))
    return PositionGrid(stored["height"], stored["width"], (first[0], first[1]), (stride[0], stride[1]))
