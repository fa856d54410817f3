"""Boxes of objects and their parts on the photos of a run, in pixels of the network's input."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from workflows.data.csv_records import csv_records
from workflows.errors import DataError, SettingsError
from workflows.settings import PreprocessingSettings

OBJECT = "object"
"""Name of the object's own box beside those of its parts."""

COLUMNS = ("image", "part", *(f"{what}_{edge}" for what in ("obj", "part") for edge in ("x0", "y0", "x1", "y1")))
"""What a file of boxes must have; edges in pixels of the photo, x1 and y1 exclusive."""

SLACK = 0.1
"""Of a side of the photo: so far hand-drawn boxes may reach outside; further out they belong to another picture."""

Boxes = Float[np.ndarray, "n 4"]
"""x0, y0, x1, y1 of n boxes."""


@dataclass(frozen=True)
class BoxRow:
    """One line of a file of boxes: an object, and one part of it (None: the object alone)."""

    line: int
    image: str
    boxes: Mapping[str, tuple[float, float, float, float]]


def part_names(given: Sequence[str]) -> dict[str, str]:
    """From the command line: ``part01=head``.

    Raises:
        SettingsError: no equals sign, or nothing on one side of it; or the name is that of the whole object.
    """
    pairs = [text.partition("=") for text in given]
    for text, (part, _, name) in zip(given, pairs, strict=True):
        if not part.strip() or not name.strip():
            raise SettingsError(f"--name {text!r}: write PART=NAME, such as part01=head")
        if name.strip() == OBJECT:
            raise SettingsError(f"--name {text!r}: the whole object is called so: give the part another name")
    return {part.strip(): name.strip() for part, _, name in pairs}


def read_boxes(path: Path, names: Mapping[str, str]) -> list[BoxRow]:
    """The lines of a CSV file with the columns ``COLUMNS``; others are not read.

    Args:
        path: of the file.
        names: what its parts are called, by what they are called there; those it leaves out keep their names.

    Raises:
        DataError: the file is missing, empty or no CSV, lacks a column or a part in ``names``, or a line has no boxes.
    """
    records = csv_records(path, "boxes", COLUMNS)
    rows = [_row(path, line, record, names) for line, record in records]
    _refuse_unknown_parts(path, names, {record["part"] for _, record in records} - {""})
    return rows


def _refuse_unknown_parts(path: Path, names: Mapping[str, str], parts: Collection[str]) -> None:
    for part, name in names.items():
        if part not in parts:
            near = difflib.get_close_matches(part, parts, n=3)
            known = ", ".join(sorted(parts)[:10]) or "none"
            offer = f"did you mean {' or '.join(near)}?" if near else f"its parts are {known}"
            raise DataError(f"--name {part}={name}: the file {str(path)!r} has no part {part!r}; {offer}")


def _row(path: Path, line: int, record: Mapping[str, str], names: Mapping[str, str]) -> BoxRow:
    part = names.get(record["part"], record["part"])  # empty for the object alone
    if part == OBJECT:
        told = f"no part may be called {OBJECT!r}: rename it with --name {OBJECT}=NAME"
        raise DataError(f"boxes {str(path)!r}, line {line}: {told}")
    wanted = {OBJECT: "obj"} | ({part: "part"} if part else {})
    boxes = {}
    for name, what in wanted.items():
        texts = [record[f"{what}_{edge}"] for edge in ("x0", "y0", "x1", "y1")]
        try:
            x0, y0, x1, y1 = (float(text) for text in texts)
        except ValueError:
            raise DataError(
                f"boxes {str(path)!r}, line {line}: {what}_x0 to {what}_y1 are no numbers: {texts}"
            ) from None
        if not (x0 < x1 and y0 < y1):
            raise DataError(
                f"boxes {str(path)!r}, line {line}: the box of {name} must have {what}_x0 < {what}_x1 and "
                f"{what}_y0 < {what}_y1, came {x0:g}, {y0:g}, {x1:g}, {y1:g}"
            )
        boxes[name] = (x0, y0, x1, y1)
    if not record["image"]:
        raise DataError(f"boxes {str(path)!r}, line {line}: no image: give the end of the photo's path")
    return BoxRow(line, record["image"], boxes)


def match_images(rows: Sequence[BoxRow], paths: Sequence[str]) -> dict[int, list[BoxRow]]:
    """Lines by the place in ``paths`` of their photo: the path that ends with the name in the file, whole folders.

    Raises:
        DataError: no line belongs to any of the paths, or a name fits two of them.
    """
    ends: dict[int, dict[str, int]] = {}
    found: dict[int, list[BoxRow]] = {}
    for row in rows:
        name = posixpath.normpath(row.image).strip("/")
        depth = name.count("/") + 1
        place = ends.setdefault(depth, by_ending(paths, depth)).get(name)
        if place == TWICE:
            raise DataError(f"boxes, line {row.line}: {name!r} fits several images of the run: name their folders too")
        if place is not None:
            found.setdefault(place, []).append(row)
    if not found:
        raise DataError(
            f"boxes: none of the {len(rows)} lines names a photo of the run: its paths end as in {paths[0]!r}, "
            f"the file's names are like {rows[0].image!r}"
        )
    return found


TWICE = -1
"""The place of a name that several paths end with."""


def by_ending(paths: Sequence[str], depth: int) -> dict[str, int]:
    """The place of every path by its last ``depth`` names."""
    places: dict[str, int] = {}
    for place, path in enumerate(paths):
        ending = "/".join(path.split("/")[-depth:])
        places[ending] = TWICE if ending in places else place
    return places


def input_boxes(
    rows: Iterable[BoxRow], size: tuple[int, int], preprocessing: PreprocessingSettings
) -> dict[str, Boxes]:
    """Boxes of one photo in pixels of the network's input, cropped to it as the photo was; by part, the object too.

    A part that the crop has cut off keeps a box without area. Edges are real numbers: pixel i covers [i, i + 1).

    Args:
        rows: lines of the photo.
        size: its height and width in pixels.
        preprocessing: how it was resized and cropped.

    Raises:
        DataError: a box reaches out of the photo.
    """
    height, width = size
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        for name, box in row.boxes.items():
            refuse_outside(row, name, box, size)
            found.setdefault(name, []).append(box)
    resized, (top, left), shown = centre_crop(size, preprocessing)
    scale = np.array([resized[1] / width, resized[0] / height] * 2)
    offset, limit = np.array([left, top] * 2), np.array([shown[1], shown[0]] * 2)
    return {name: np.clip(np.array(boxes) * scale - offset, 0, limit) for name, boxes in found.items()}


def centre_crop(
    size: tuple[int, int], preprocessing: PreprocessingSettings
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Height and width of a photo once resized, the corner (top, left) of its crop, and the crop's size."""
    resized = resized_size(size, preprocessing.resize)
    shown = resized if preprocessing.crop is None else (preprocessing.crop, preprocessing.crop)
    top, left = (round((whole - kept) / 2) for whole, kept in zip(resized, shown, strict=True))
    return resized, (top, left), shown


def input_scaling(
    size: tuple[int, int], preprocessing: PreprocessingSettings
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """Factor and shift, of rows and columns, from pixels of a photo to shares of the sides of the network's input.

    Args:
        size: height and width of the photo in pixels.
        preprocessing: how it was resized and cropped.
    """
    resized, corner, shown = (np.array(pair, np.float64) for pair in centre_crop(size, preprocessing))
    return resized / np.array(size) / shown, -corner / shown


def resized_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Height and width of a photo after resizing its short side, rounded as the preprocessing does."""
    height, width = size
    if short_side is None:
        return size
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def whole_pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of a photo that an object is: x0, y0, x1, y1, the nearest edges, one pixel at least.

    Args:
        box: as in the file.
        size: height and width of the photo.
    """
    found = []
    for low, high, limit in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        first = min(max(round(low), 0), limit - 1)
        found.append((first, min(max(round(high), first + 1), limit)))
    (x0, x1), (y0, y1) = found
    return x0, y0, x1, y1


def refuse_outside(row: BoxRow, name: str, box: tuple[float, float, float, float], size: tuple[int, int]) -> None:
    """Raises DataError: a box reaches further out of a photo of (height, width) pixels than ``SLACK``."""
    x0, y0, x1, y1 = box
    height, width = size
    out = max(-x0 / width, x1 / width - 1, -y0 / height, y1 / height - 1)
    if out > SLACK:
        raise DataError(
            f"boxes, line {row.line}: the box of {name} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) reaches out of the photo "
            f"{row.image!r}, which has {width} x {height} pixels (width x height): give boxes in pixels of this file"
        )


def area(boxes: Boxes) -> float:
    """What the boxes cover together, in square pixels; where they overlap it counts once."""
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    covered = inside((ys[:-1] + ys[1:]) / 2, (xs[:-1] + xs[1:]) / 2, boxes)
    return float((covered * np.diff(ys)[:, None] * np.diff(xs)).sum())


def inside(y: Float[np.ndarray, " h"], x: Float[np.ndarray, " w"], boxes: Boxes) -> Bool[np.ndarray, "h w"]:
    """Which points (y, x) of a grid lie in any of the boxes."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    rows, columns = (y0 <= y) & (y < y1), (x0 <= x) & (x < x1)
    return np.asarray((rows[:, :, None] & columns[:, None, :]).any(axis=0))
