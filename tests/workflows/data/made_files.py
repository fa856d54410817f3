"""Small pictures and Parquet files that the tests write."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random RGB pixels: every value counts, none repeats by chance."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_parquet(
    path: Path, cells: Sequence[bytes | None], labels: Sequence[int] | None = None, **options: Any
) -> Path:
    """A Parquet file of encoded pictures; None becomes an empty cell."""
    labels = [0] * len(cells) if labels is None else labels
    images = [None if cell is None else {"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(cells)]
    table = pa.table({"image": pa.array(images, IMAGE_TYPE), "label": pa.array(labels, pa.int64())})
    pq.write_table(table, path, **{"compression": "none", **options})
    return path


def write_folders(root: Path, classes: dict[str, int], side: int = 8) -> Path:
    """One folder a class with so many PNG pictures, no two alike."""
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"image{i}.png").write_bytes(encoded(noise(side, side, 1000 * number + i)))
    return root


def write_names(path: Path, names: object) -> str:
    """A JSON file, as data.class_names wants it."""
    path.write_text(json.dumps(names), encoding="utf-8")
    return str(path)
