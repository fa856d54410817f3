"""Objects against background: crops of photos by boxes, which the index names by photo and box.

EG fine-tunes its network so before it looks for patterns. An object is its box; background are boxes of the same photos
that hardly touch an object, and whole photos of classes without boxes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from workflows.data.boxes import OBJECT, BoxRow, match_images, read_boxes, refuse_outside, whole_pixels
from workflows.data.decoding import FORMATS, Pixels, decode_picture
from workflows.data.file_states import fault
from workflows.data.preprocessing import resized_to
from workflows.errors import DataError
from workflows.runtime.patience import Patience, patiently
from workflows.storage.names import file_path

BACKGROUND = "background"
"""Name of the label beside the classes of the objects."""

TOUCH = 0.1
"""Share of a crop of background that lies on an object, at most; its IoU with the object is then below that too.

IoU alone, as EG has it, would take a small piece of a large object for background.
"""

_SIDES = (0.3, 0.8)
"""Least and most side of a crop of background, a share of the photo's short side."""
_TRIES = 50
_PATH = re.compile(r"(?s)(.*)#(\d+),(\d+),(\d+),(\d+)$")

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the photo, x1 and y1 exclusive."""


@dataclass(frozen=True)
class Crop:
    """A part of a photo, made square without keeping its aspect (EG)."""

    photo: Path
    box: Box

    def cut(self, encoded: bytes) -> Pixels:
        """Its pixels out of the photo's bytes, uint8 (S, S, 3), S being its longer side. Raises PictureError."""
        x0, y0, x1, y1 = self.box
        pixels = np.ascontiguousarray(decode_picture(encoded)[y0:y1, x0:x1])
        side = max(pixels.shape[:2])
        return pixels if pixels.shape[0] == pixels.shape[1] else resized_to(pixels, (side, side))


def crop_path(photo: str, box: Box) -> str:
    """``photo.jpg#10,20,110,220``, as the index names a crop."""
    return f"{photo}#{','.join(map(str, box))}"


def parse_crop(path: str) -> Crop | Path:
    """The crop of a path in the index, or the whole photo."""
    found = _PATH.match(path)
    if found is None:
        return Path(file_path(path))
    x0, y0, x1, y1 = (int(number) for number in found.groups()[1:])
    return Crop(Path(file_path(found[1])), (x0, y0, x1, y1))


@dataclass(frozen=True)
class PhotoCrops:
    """What one photo gives.

    Attributes:
        photo: its path.
        label: of its objects.
        objects, background: boxes; of a photo without objects none of either: it is background as a whole.
    """

    photo: str
    label: int
    objects: tuple[Box, ...] = ()
    background: tuple[Box, ...] = ()

    def paths(self) -> list[str]:
        """Of its crops, objects first."""
        return [crop_path(self.photo, box) for box in (*self.objects, *self.background)] or [self.photo]

    def labels(self, background: int) -> list[int]:
        """Of its crops; ``background``: the label of what is no object."""
        return [self.label] * len(self.objects) + [background] * len(self.background) or [background]


def photo_crops(
    classes: Mapping[str, Sequence[str]], boxes: Path, seed: int, patience: Patience = (1, 0.0)
) -> tuple[list[PhotoCrops], list[str]]:
    """Crops of every photo, and the names of the classes that have boxes, whose places are the labels of objects.

    A photo gives as much background as it has objects, where it has room; a photo without a box gives none if others
    of its class have some, for it may show an object that nobody has boxed, and is background as a whole else.

    Args:
        classes: paths of photos by class folder.
        boxes: a CSV file, see ``read_boxes``; boxes of parts are not read.
        seed: of the places of background.
        patience: with storage that does not give a photo, see ``patiently``.

    Raises:
        StorageFault: a photo cannot be read just now.
        DataError: the file is no such table, none of its lines names a photo, or a box reaches out of its photo.
    """
    photos = [(name, path) for name, paths in classes.items() for path in paths]
    rows = match_images(read_boxes(boxes, {}), [path for _, path in photos])
    names = sorted({photos[place][0] for place in rows})
    found = []
    for place, (name, path) in enumerate(photos):
        if place in rows:
            size = patiently(partial(_photo_size, path), *patience)
            objects = _objects(rows[place], size)
            rng = np.random.default_rng([seed % 2**64, place])
            found.append(PhotoCrops(path, names.index(name), objects, _background(objects, size, rng)))
        elif name not in names:
            found.append(PhotoCrops(path, len(names)))
    return found, names


def shares_on(box: Box, others: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """How much of a box lies on each of the others."""
    corners = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    shared = np.clip(corners[1] - corners[0], 0, None).prod(1)
    return np.asarray(shared / ((box[2] - box[0]) * (box[3] - box[1])))


def _photo_size(path: str) -> tuple[int, int]:
    """Height and width, from the head of the file."""
    try:
        with Image.open(file_path(path), formats=FORMATS) as image:
            return image.height, image.width
    except Exception as error:  # decoders raise anything on hostile bytes
        if isinstance(error, OSError) and error.errno is not None:  # of the system; a decoder's own have none
            raise fault(path, error) from None
        raise DataError(f"data.boxes: photo {path!r} has boxes, but cannot be read ({error}); repair it, or remove its "
                        "lines") from None  # fmt: skip


def _objects(rows: Sequence[BoxRow], size: tuple[int, int]) -> tuple[Box, ...]:
    """The objects of a photo, each once, in whole pixels inside it."""
    for row in rows:
        refuse_outside(row, OBJECT, row.boxes[OBJECT], size)
    return tuple(dict.fromkeys(whole_pixels(row.boxes[OBJECT], size) for row in rows))


def _background(objects: Sequence[Box], size: tuple[int, int], rng: np.random.Generator) -> tuple[Box, ...]:
    """As many squares as there are objects, anywhere, that hardly touch one; fewer where there is no room."""
    others = np.array(objects, np.float64).reshape(-1, 4)
    height, width = size
    found: list[Box] = []
    for _ in range(_TRIES * len(objects)):
        if len(found) == len(objects):
            break
        side = max(1, int(min(size) * rng.uniform(*_SIDES)))
        x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        box = (x, y, x + side, y + side)
        if (shares_on(box, others) < TOUCH).all():
            found.append(box)
    return tuple(found)
