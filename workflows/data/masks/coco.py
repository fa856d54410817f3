"""COCO masks: polygons and run lengths, as numbers or compressed to text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from workflows.data.masks.mask_sources import OBJECT, Concept, Labels, layered
from workflows.errors import DataError

Segmentation = Sequence[Sequence[float]] | Mapping[str, Any]
"""Polygons (x0, y0, x1, y1, ...) of one object, or run lengths ``{"size": [height, width], "counts": ...}``."""

_MOST_SHOWN = 60
"""Characters of what was given, in an error."""

_MOST_BITS = 50
"""Of a run length; the pixels of every picture fit."""


@dataclass(frozen=True)
class CocoMasks:
    """Masks of a COCO file: ``images``, ``categories``, ``annotations``.

    Attributes:
        path: of the file.
        concepts: its categories that some annotation has; of the category ``supercategory``, else ``object``.
        sizes: height and width of the photos, by file name.
        annotations: (concept, id of the annotation, segmentation), by file name.
        notes: what it does not use.
    """

    path: Path
    concepts: tuple[Concept, ...]
    sizes: Mapping[str, tuple[int, int]]
    annotations: Mapping[str, tuple[tuple[int, int, Segmentation], ...]]
    notes: tuple[str, ...]

    @classmethod
    def open(cls, path: Path, category: str | None) -> CocoMasks:
        """Raises DataError: the file is missing, no COCO file, or contradicts itself."""
        content = _load(path)
        try:
            photos = {
                one["id"]: (str(one["file_name"]), int(one["height"]), int(one["width"])) for one in content["images"]
            }
            known = {one["id"]: one for one in content["categories"]}
            used = {one["category_id"] for one in content["annotations"]}
            numbers = {key: number for number, key in enumerate(key for key in known if key in used)}
            concepts = [
                Concept(str(known[key]["name"]), category or str(known[key].get("supercategory") or OBJECT))
                for key in numbers
            ]
            found: dict[str, list[tuple[int, int, Segmentation]]] = {}
            empty: Counter[str] = Counter()
            for one in content["annotations"]:
                photo, _, _ = photos[one["image_id"]]
                number = numbers[one["category_id"]]
                if not one.get("segmentation"):
                    empty[concepts[number].name] += 1
                    continue
                found.setdefault(photo, []).append((number, one["id"], one["segmentation"]))
        except KeyError as error:
            raise DataError(
                f"coco {str(path)!r}: must name every image and category that an annotation refers to, with id, "
                f"file_name, height, width and name; got nothing for {error}"
            ) from None
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"coco {str(path)!r}: must be a COCO file of masks, got {error}") from None
        notes = [f"{count:,} annotations of {name} are empty and mark nothing" for name, count in empty.items()]
        sizes = {name: (height, width) for name, height, width in photos.values()}
        annotations = {photo: tuple(some) for photo, some in found.items()}
        return cls(path, tuple(concepts), {name: sizes[name] for name in annotations}, annotations, tuple(notes))

    @property
    def tables(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def names(self) -> tuple[str, ...]:
        """Photos with an annotation."""
        return tuple(self.annotations)

    def labels(self, name: str, size: tuple[int, int]) -> Labels:
        """See ``MaskSource``."""
        if self.sizes[name] != size:
            raise DataError(
                f"coco {str(self.path)!r}: the masks of {name!r} must have the size of their photo, {size[1]} x "
                f"{size[0]} pixels (width x height), got {self.sizes[name][1]} x {self.sizes[name][0]}: give the "
                "photos that were annotated"
            )
        masks: dict[int, Bool[np.ndarray, "H W"]] = {}
        for number, key, segmentation in self.annotations[name]:
            try:
                mask = decoded(segmentation, size)
            except ValueError as error:
                raise DataError(
                    f"coco {str(self.path)!r}, annotation {key} of {name!r}: the segmentation {error}"
                ) from None
            masks[number] = masks[number] | mask if number in masks else mask
        numbers = sorted(masks)
        return layered(numbers, np.stack([masks[number] for number in numbers]))


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"coco {str(path)!r}: there is no such file; give the JSON file of the annotations") from None
    except (OSError, ValueError) as error:
        raise DataError(f"coco {str(path)!r} cannot be read as JSON: {error}") from None


def decoded(segmentation: Segmentation, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of one object.

    Raises:
        ValueError: what it must be and is not.
    """
    if isinstance(segmentation, Mapping):
        given = segmentation.get("size")
        if not isinstance(given, Sequence) or tuple(given) != size:
            raise ValueError(f"must have the size {list(size)} (height, width), got {_shown(given)}")
        return from_run_lengths(_lengths(segmentation.get("counts")), size)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise ValueError(f"must be a list of polygons, or run lengths with size and counts, got {_shown(segmentation)}")
    inside = np.zeros(size, bool)
    for polygon in segmentation:
        inside |= filled(_corners(polygon), size)
    return inside


def _lengths(counts: Any) -> Int[np.ndarray, " n"]:
    if isinstance(counts, str | bytes):
        return run_lengths(counts)
    if not isinstance(counts, Sequence) or not all(_is_whole(one) for one in counts):
        raise ValueError(f"must have counts that are a text or a list of whole numbers, got {_shown(counts)}")
    return np.array(counts, np.int64)


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number that an array holds."""
    return isinstance(value, int | float) and abs(value) < 2**53 and value == int(value)


def _corners(polygon: Any) -> Float[np.ndarray, "n 2"]:
    """x and y of the corners of a polygon."""
    rule = "must be polygons of at least 3 corners x, y"
    if not isinstance(polygon, Sequence) or isinstance(polygon, str):
        raise ValueError(f"{rule}, each a list of its own, got {_shown(polygon)}")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"{rule}, got {len(polygon)} numbers")
    strange = [one for one in polygon if not isinstance(one, int | float) or not abs(one) < 2**53]
    if strange:
        raise ValueError(f"{rule}, all of them numbers, got {_shown(strange[0])}")
    return np.array(polygon, np.float64).reshape(-1, 2)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def run_lengths(text: str | bytes) -> Int[np.ndarray, " n"]:
    """Run lengths of COCO's compressed counts.

    Each number is 5 bits a character, lowest first, 48 added, 32 where more follow; from the third on they are
    differences to the one before the last (cocodataset/cocoapi, ``maskApi.c``, ``rleFrString``).

    Raises:
        ValueError: it is no such text.
    """
    found: list[int] = []
    value = shift = 0
    for character in text.encode("ascii", "replace") if isinstance(text, str) else text:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"must have counts of the characters '0' to 'o', got {chr(character)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32 and shift < _MOST_BITS:
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(value + found[-2] if len(found) > 2 else value)
        if bits & 32 or abs(found[-1]) >> _MOST_BITS:
            raise ValueError(f"must have counts below 2^{_MOST_BITS}, got a larger one")
        value = shift = 0
    if shift:
        raise ValueError("has compressed counts that end within a number")
    return np.array(found, np.int64)


def from_run_lengths(lengths: Int[np.ndarray, " n"], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """A mask from the lengths of its runs of 0 and 1 in turn, column by column from the left.

    Raises:
        ValueError: they do not add up to the size.
    """
    height, width = size
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        total = int(lengths.sum()) if lengths.size else 0
        raise ValueError(
            f"must have run lengths from 0 that add up to {height} x {width} = {height * width}, got {total}"
        )
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(values.reshape(width, height).T)


def filled(corners: np.ndarray, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose centres lie in a polygon, by the even-odd rule; pixel i covers [i, i + 1).

    Args:
        corners: (n, 2) x and y.
        size: height and width.
    """
    height, width = size
    x0, y0 = corners.T
    x1, y1 = np.roll(corners, -1, axis=0).T
    centres = np.arange(height)[:, None] + 0.5
    # An edge holds its upper end and not its lower one, so that a corner counts once.
    rows, edges = np.nonzero((y0 <= centres) != (y1 <= centres))
    crossing = x0[edges] + (centres[rows, 0] - y0[edges]) / (y1 - y0)[edges] * (x1 - x0)[edges]
    first = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    flips = np.zeros((height, width + 1), np.int64)
    np.add.at(flips, (rows, first), 1)
    return np.cumsum(flips, axis=1)[:, :width] % 2 == 1
