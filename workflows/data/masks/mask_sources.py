"""What every source of masks has, and boxes as the simplest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, UInt16

from workflows.data.boxes import BoxRow, inside, read_boxes, refuse_outside

MOST_CONCEPTS = 65_535
"""Labels are 16 bits wide, and 0 is none."""

OBJECT, PART, COLOUR = "object", "part", "colour"

Labels = UInt16[np.ndarray, "L H W"]
"""Layers of labels: 0 none, c + 1 concept c. A pixel of several concepts has them in different layers."""


@dataclass(frozen=True)
class Concept:
    """What a mask shows, such as wheel, and of which kind it is: object, part, material, colour, scene, texture ..."""

    name: str
    category: str


class MaskSource(Protocol):
    """A file or folder of masks.

    Attributes:
        concepts: by number.
        names: of the photos it knows, each the end of a path, whole folders; without ending where it has none.
        notes: for people, of what it holds and does not use.
        tables: files that say what is where; pictures are not among them.
    """

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """By number."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the photos."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """For people."""
        ...

    @property
    def tables(self) -> tuple[Path, ...]:
        """Files that say what is where; pictures are not among them."""
        ...

    def labels(self, name: str, size: tuple[int, int]) -> Labels:
        """Labels of a photo of ``size`` (height, width), in its pixels or in a grid of their own over all of it.

        Raises:
            DataError: they are damaged, or of another size.
        """
        ...


_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".jp2")
_CITYSCAPES = "_leftImg8bit"


def bare_name(path: str) -> str:
    """A photo's path without the ending of its format, nor that of Cityscapes' photos."""
    stem, dot, ending = path.rpartition(".")
    bare = stem if dot and f".{ending.lower()}" in _ENDINGS else path
    return bare.removesuffix(_CITYSCAPES)


def layered(numbers: Sequence[int], stack: Bool[np.ndarray, "m H W"]) -> Labels:
    """As few layers of labels as needed for masks that may overlap.

    Args:
        numbers: of their concepts.
        stack: where each lies.
    """
    layers: list[np.ndarray] = []
    for number, mask in zip(numbers, stack, strict=True):
        if not mask.any():
            continue
        home = next((layer for layer in layers if not layer[mask].any()), None)
        if home is None:
            home = np.zeros(stack.shape[1:], np.uint16)
            layers.append(home)
        home[mask] = number + 1
    return np.stack(layers) if layers else np.zeros((0, *stack.shape[1:]), np.uint16)


@dataclass(frozen=True)
class BoxMasks:
    """Boxes of a CSV file as masks: pixels whose centre lies in a box. The object's own box is a concept too."""

    concepts: tuple[Concept, ...]
    rows: Mapping[str, tuple[BoxRow, ...]]
    tables: tuple[Path, ...]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, path: Path, category: str | None) -> BoxMasks:
        """Raises DataError: see ``read_boxes``."""
        by_photo: dict[str, list[BoxRow]] = {}
        for row in read_boxes(path, {}):
            by_photo.setdefault(row.image, []).append(row)
        names = dict.fromkeys(name for rows in by_photo.values() for row in rows for name in row.boxes)
        ordered = sorted(names, key=lambda name: (name != OBJECT, name))
        concepts = tuple(Concept(name, category or (OBJECT if name == OBJECT else PART)) for name in ordered)
        return cls(concepts, {name: tuple(rows) for name, rows in by_photo.items()}, (path,))

    @property
    def names(self) -> tuple[str, ...]:
        """As the file has them."""
        return tuple(self.rows)

    def labels(self, name: str, size: tuple[int, int]) -> Labels:
        """See ``MaskSource``."""
        y, x = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
        boxes: dict[str, list[tuple[float, float, float, float]]] = {}
        for row in self.rows[name]:
            for part, box in row.boxes.items():
                refuse_outside(row, part, box, size)
                boxes.setdefault(part, []).append(box)
        numbers = [number for number, concept in enumerate(self.concepts) if concept.name in boxes]
        found = [inside(y, x, np.array(boxes[self.concepts[number].name])) for number in numbers]
        return layered(numbers, np.stack(found) if found else np.zeros((0, *size), bool))
