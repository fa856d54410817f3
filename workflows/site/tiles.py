"""Pictures of the site: small ones side by side in one WebP image, as base64 text.

A page from disk may draw a picture into a saved figure only if it came as data.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "H W 3"]

QUALITY = 75
SMALL = 48
"""Pictures of at most so many pixels a side are stored without loss: a word of theirs is a few pixels."""

_ABSENT = 222


def tile(picture: Picture, side: int) -> Picture:
    """A picture whose longer side is ``side``; a smaller one stays as it is."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BOX))


def sheet(tiles: Sequence[Picture | None], columns: int) -> dict[str, Any] | None:
    """Tiles row by row in one image, with their width and height; grey where there is none, None without any."""
    known = next((one for one in tiles if one is not None), None)
    if known is None:
        return None
    height, width = known.shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    whole = np.full((rows * height, columns * width, 3), _ABSENT, np.uint8)
    for place, one in enumerate(tiles):
        if one is not None and one.shape == known.shape:
            row, column = divmod(place, columns)
            whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = one
    return {"size": [width, height], "columns": columns, "rows": rows, "webp": webp(whole)}


def webp(picture: Picture) -> str:
    """WebP as base64 text."""
    buffer = io.BytesIO()
    if min(picture.shape[:2]) <= SMALL:
        Image.fromarray(picture).save(buffer, "WEBP", lossless=True, quality=50, method=1)
    else:
        Image.fromarray(picture).save(buffer, "WEBP", quality=QUALITY, method=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
