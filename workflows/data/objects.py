"""Objects on photos: boxes keyed by photo and box, what such an object is as the network's input, and its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from workflows.data.boxes import OBJECT, BoxRow, refuse_outside, whole_pixels
from workflows.data.decoding import Pixels


@dataclass(frozen=True, eq=False)
class BoxedObjects:
    """Objects of photos, ascending by photo, in the order of their file within one.

    Attributes:
        images: (n,) photo of each: its row in the images table.
        boxes: (n, 4) x0, y0, x1, y1: the pixels of the photo that the object is, x1 and y1 exclusive.
        parts: by name (n, 4) x0, y0, x1, y1 of the photo, NaN where an object has none; of several boxes what they
            span.
    """

    images: Int[np.ndarray, " n"]
    boxes: Int[np.ndarray, "n 4"]
    parts: Mapping[str, Float[np.ndarray, "n 4"]]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sizes(self) -> Float[np.ndarray, "n 2"]:
        """Height and width of every object, pixels of the photo."""
        return (self.boxes[:, [3, 2]] - self.boxes[:, [1, 0]]).astype(np.float64)

    def only(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> BoxedObjects:
        """Some of them, in their order."""
        parts = {name: boxes[rows] for name, boxes in self.parts.items()}
        return BoxedObjects(self.images[rows], self.boxes[rows], parts)

    def part_boxes(self, signs: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n P 4"]:
        """Top, left, bottom, right of the parts on their objects, over the sides of these; NaN without.

        Args:
            signs: 1: the object as it is, -1: its mirror image.
        """
        if not self.parts:
            return np.zeros((len(self), 0, 4))
        found = np.stack(list(self.parts.values()), axis=1)
        corner, size = self.boxes[:, None, :2], self.sizes[:, None, ::-1]
        x, y = np.moveaxis((found.reshape(*found.shape[:2], 2, 2) - corner[:, :, None]) / size[:, :, None], -1, 0)
        x = np.where(signs[:, None, None] < 0, 1 - x[..., ::-1], x)
        return np.stack([y[..., 0], x[..., 0], y[..., 1], x[..., 1]], axis=-1)

    def on_photo(
        self, rows: Int[np.ndarray, " m"], places: Float[np.ndarray, "m 2"], signs: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "m 2"]:
        """Rows and columns of the photo, in pixels, of places (row, column) on some objects."""
        across = np.where(signs[rows] < 0, 1 - places[:, 1], places[:, 1])
        away = np.stack([places[:, 0], across], axis=1) * self.sizes[rows]
        found: np.ndarray = self.boxes[rows][:, [1, 0]] + away
        return found

    def on_object(
        self, rows: Int[np.ndarray, " m"], points: Float[np.ndarray, "m 2"], signs: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "m 2"]:
        """Places (row, column) on some objects of pixels of their photos: the inverse of ``on_photo``."""
        places = (points - self.boxes[rows][:, [1, 0]]) / self.sizes[rows]
        across = np.where(signs[rows] < 0, 1 - places[:, 1], places[:, 1])
        return np.stack([places[:, 0], across], axis=1)


def object_pixels(photo: Pixels, box: Int[np.ndarray, " 4"]) -> Pixels:
    """The pixels of an object, as they are in its photo."""
    x0, y0, x1, y1 = box.tolist()
    return photo[y0:y1, x0:x1]


def boxed_objects(rows: Mapping[int, Sequence[BoxRow]], sizes: Mapping[int, tuple[int, int]]) -> BoxedObjects:
    """The objects of some photos; lines with the same box of an object are parts of the same one.

    Args:
        rows: lines of a file of boxes by photo.
        sizes: height and width of these photos, pixels.

    Raises:
        DataError: a box reaches out of its photo.
    """
    images, boxes, parts = [], [], list[dict[str, np.ndarray]]()
    for image in sorted(rows):
        found: dict[tuple[float, ...], dict[str, np.ndarray]] = {}
        for row in rows[image]:
            for name, box in row.boxes.items():
                refuse_outside(row, name, box, sizes[image])
            own = found.setdefault(row.boxes[OBJECT], {})
            for name, box in row.boxes.items():
                if name != OBJECT:
                    own[name] = _spanned(own.get(name), np.array(box))
        images += [image] * len(found)
        boxes += [whole_pixels(box, sizes[image]) for box in found]
        parts += found.values()
    names = dict.fromkeys(name for own in parts for name in own)
    absent = np.full(4, np.nan)
    return BoxedObjects(
        np.array(images, np.int64),
        np.array(boxes, np.int64).reshape(-1, 4),
        {name: np.array([own.get(name, absent) for own in parts]).reshape(-1, 4) for name in names},
    )


def _spanned(one: np.ndarray | None, other: np.ndarray) -> np.ndarray:
    if one is None:
        return other
    return np.concatenate([np.minimum(one[:2], other[:2]), np.maximum(one[2:], other[2:])])
