"""Boxes on cropped photos, written down slowly: every point goes back to the photo file and is asked there."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]


def point_in_photo(
    y: float, x: float, size: tuple[int, int], resize: int | None, crop: int | None
) -> tuple[float, float]:
    """Where a point of the network's input lies in the photo file of size (height, width)."""
    height, width = size
    if resize is None:
        tall, wide = height, width
    elif height <= width:
        tall, wide = resize, int(resize * width / height)
    else:
        tall, wide = int(resize * height / width), resize
    if crop is not None:
        y, x = y + round((tall - crop) / 2), x + round((wide - crop) / 2)
    return y * height / tall, x * width / wide


def in_any(y: float, x: float, boxes: Sequence[Box]) -> bool:
    """Whether a point of the photo lies in one of the boxes x0, y0, x1, y1."""
    return any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes)


def covered_share(
    boxes: Sequence[Box], size: tuple[int, int], resize: int | None, crop: int | None, shown: tuple[int, int], fine: int
) -> float:
    """Share of the shown picture that the boxes cover, by asking ``fine`` x ``fine`` points of every pixel."""
    hits = 0
    for row in range(shown[0] * fine):
        for column in range(shown[1] * fine):
            point = point_in_photo((row + 0.5) / fine, (column + 0.5) / fine, size, resize, crop)
            hits += in_any(*point, boxes)
    return hits / (shown[0] * shown[1] * fine * fine)
