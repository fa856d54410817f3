"""A file of annotated places: where a part is on some objects, in pixels of their photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workflows.asking.pattern_files import TurnedObjects
from workflows.data.boxes import BoxRow, match_images
from workflows.data.csv_records import Record, csv_records
from workflows.errors import DataError
from workflows.run import Run
from workflows.storage.tables import read_table

COLUMNS = ("image", "y", "x")
"""What the file must have; ``object``, the number of ``pattern_objects``, only where boxes overlap."""


@dataclass(frozen=True)
class _Line:
    number: int
    image: str
    point: tuple[float, float]
    row: int | None


def read_annotations(run: Run, turned: TurnedObjects, path: Path, class_name: str) -> Mapping[int, tuple[float, float]]:
    """Row and column of the photo, in pixels, by object.

    Raises:
        DataError: the file is missing or no CSV, names no photo of the run, a point lies in no object of the class or
            in several, or an object is annotated twice.
    """
    lines = _read(path)
    paths = read_table(run.folder.images_table, ["path"])["path"].to_pylist()
    rows = [BoxRow(line.number, line.image, {}) for line in lines]
    photos = {row.line: image for image, some in match_images(rows, paths).items() for row in some}
    found: dict[int, tuple[float, float]] = {}
    for line in lines:
        own = np.flatnonzero(turned.objects.images == photos.get(line.number, -1))
        if not len(own):
            raise _wrong(path, line, f"image must be a photo with an object of {class_name!r}, got {line.image!r}")
        row = _object(path, line, turned, own)
        if row in found:
            raise _wrong(path, line, f"each object must be annotated once, got object {row} again")
        found[row] = line.point
    return found


def _object(path: Path, line: _Line, turned: TurnedObjects, own: np.ndarray) -> int:
    """The object of a photo that a point lies in."""
    y, x = line.point
    boxes = turned.objects.boxes[own]
    inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
    if line.row is not None:
        inside &= own == line.row
    told = "; ".join(f"object {row}: x {box[0]} to {box[2]}, y {box[1]} to {box[3]}"
                     for row, box in zip(own.tolist(), boxes.tolist(), strict=True))  # fmt: skip
    if not inside.any():
        what = "its object" if line.row is None else f"object {line.row}"
        raise _wrong(path, line, f"the place must lie on {what}, got y {y:g}, x {x:g}; the photo has {told}")
    if inside.sum() > 1:
        raise _wrong(path, line, f"the place must lie on one object, got several; add a column object: {told}")
    return int(own[inside][0])


def _wrong(path: Path, line: _Line, told: str) -> DataError:
    return DataError(f"annotations {str(path)!r}, line {line.number}: {told}")


def _read(path: Path) -> list[_Line]:
    remedy = f"give a CSV with {', '.join(COLUMNS)}, and object where boxes overlap, or --annotations boxes"
    return [_line(path, number, record) for number, record in csv_records(path, "annotations", COLUMNS, remedy)]


def _line(path: Path, number: int, record: Record) -> _Line:
    texts = {name: record.get(name, "") for name in (*COLUMNS, "object")}
    try:
        point = float(texts["y"]), float(texts["x"])
        row = int(texts["object"]) if texts["object"] else None
    except ValueError:
        told = f"y, x and object must be numbers, got {texts['y']!r}, {texts['x']!r}, {texts['object']!r}"
        raise DataError(f"annotations {str(path)!r}, line {number}: {told}") from None
    return _Line(number, texts["image"], point, row)
