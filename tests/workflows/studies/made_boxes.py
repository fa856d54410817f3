"""A finished run on photos that scikit-learn ships, with drawn word maps and boxes: what ``parts`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from gmm_ops.graphs.windows import AxisWindow, Window
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.plan.scopes import write_scopes
from workflows.settings import Settings, parse_settings
from workflows.storage.arrays import create_array, write_shard
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table
from workflows.words.word_maps import words_path

CLASSES = ("china", "flower", "other")
TRAIN, IMAGES, WORDS, RESIZE, CROP = 12, 24, 4, 64, 56
SCOPE = "list-pair"
BROKEN = 13
LABELS = [0] * 5 + [1] * 5 + [2] * 2 + [0] * 5 + [1] * 5 + [2] * 2
PREDICTED = [*LABELS[:14], 1, *LABELS[15:22], 0, 2]
"""Image 14 is taken for a flower; 22, which is predicted china, is outside the scope."""

Line = tuple[str, str, tuple[float, ...], tuple[float, ...] | None]


def layers() -> tuple[LayerPlan, ...]:
    """Of 7 x 7 positions, of 4 x 4 whose fields reach far over the edge, of 7 x 7 that see all, and dense."""
    low, high = AxisWindow(8, -2, 12), AxisWindow(16, -46, 60)
    return (
        LayerPlan("low", "add1", 8, 7, 7, WORDS, 49, None, Window(low, low)),
        LayerPlan("high", "add2", 8, 4, 4, WORDS, 16, Window.square(2, -1, 3), Window(high, high)),
        LayerPlan("squeezed", "add3", 8, 7, 7, WORDS, 49, Window.whole(), Window.whole()),
        LayerPlan("dense", "dense1", 8, 1, 1, WORDS, 1, Window.whole(), Window.whole()),
    )


def photo_path(root: Path, image: int) -> Path:
    return root / "photos" / CLASSES[LABELS[image]] / f"{image:02}.png"


def write_photos(root: Path) -> list[tuple[int, int]]:
    """Cuts of two photos of different shapes; their (height, width)."""
    chance, sizes = np.random.default_rng(3), []
    photos = {name: load_sample_image(f"{name}.jpg") for name in ("flower", "china")}
    for image in range(IMAGES):
        photo = photos["flower" if LABELS[image] == 1 else "china"]
        height, width = (int(side) for side in chance.integers(70, 300, 2))
        path = photo_path(root, image)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[image : image + height, 2 * image : 2 * image + width]).save(path)
        sizes.append((height, width))
    return sizes


def boxes_of(sizes: list[tuple[int, int]]) -> list[Line]:
    """One or two objects on most photos, with a head on some: (image name, part, object, head)."""
    chance, lines = np.random.default_rng(4), list[Line]()
    for image, (height, width) in enumerate(sizes):
        for _ in range((image % 4 != 0) + (image % 5 == 1)):
            x, y = np.sort(chance.uniform(0, width, 4)), np.sort(chance.uniform(0, height, 4))
            name, whole = f"{CLASSES[LABELS[image]]}/{image:02}.png", (x[0], y[0], x[3], y[3])
            head = (x[0], y[1], x[2], y[2]) if image % 3 else None
            lines.append((name, "part01" if head else "", whole, head))
    return [*lines, ("china/77.png", "", (1, 1, 5, 5), None)]


def write_boxes(path: Path, lines: list[Line]) -> Path:
    edges = [f"{what}_{edge}" for what in ("obj", "part") for edge in ("x0", "y0", "x1", "y1")]
    text = [",".join(["image", "part", *edges])]
    for name, part, whole, head in lines:
        text.append(",".join([name, part, *(repr(float(e)) for e in whole), *map(str, head or ("",) * 4)]))
    path.write_text("\n".join(text) + "\n")
    return path


def settings_of(root: Path) -> Settings:
    return parse_settings(
        {
            "name": "made-boxes",
            "data": {"source": "folders", "folders": [str(root / "photos")]},
            "preprocessing": {"resize": RESIZE, "crop": CROP},
            "network": {"name": "made:photos", "weights": "train", "layers": ["add1", "add2", "add3", "dense1"]},
            "training": {},
            "extract": {"images_per_shard": 8, "images_per_chunk": 4, "batch": 4},
            "fit": {"words": [WORDS], "scopes": ["list"], "lists": [{"name": "pair", "classes": ["china", "flower"]}]},
        }
    )


def make(root: Path) -> RunFolder:
    """Write the photos and the artefacts of every stage that ``parts`` reads."""
    write_photos(root)
    settings = settings_of(root)
    folder = RunFolder.create_or_open(root / "run", settings)
    plan = Plan(layers(), CLASSES, IMAGES, TRAIN, CROP, CROP, "train")
    plan.write(folder)
    write_scopes(folder, [Scope(SCOPE, (0, 1), False, (0, 1))])
    write_table(folder.images_table, [_image(root, image) for image in range(IMAGES)], "images")
    chance = np.random.default_rng(5)
    for layer in plan.layers:
        path = words_path(folder, SCOPE, layer.name, "word")
        create_array(path, (IMAGES, layer.height, layer.width), "int32", chunk_rows=4, shard_rows=8)
        for first in range(0, IMAGES, 8):
            write_shard(path, first, chance.integers(0, WORDS, (8, layer.height, layer.width), np.int32))
    write_table(folder.table("nodes"), nodes(), "nodes")
    write_table(folder.table("exemplars"), exemplars(), "exemplars")
    return folder


def nodes() -> list[dict[str, Any]]:
    rows = []
    for graph, first in (("class:0", 0), ("class:1", 1), ("image:14", 2)):
        key = {"graph": graph, "scope": SCOPE, "criterion": "likelihood"}
        for layer in ("dense", "squeezed", "high", "low"):
            for rank, word in enumerate((first, first + 1)):
                rows.append({**key, "layer": layer, "word": word, "rank": rank, "positions": 1, "share": 0.1})
        rows.append({**key, "layer": "output", "word": 0, "rank": 0, "positions": 1, "share": 1.0})
    return [row | {"score": 0.0 if row["layer"] == "output" else 1.0} for row in rows]


def exemplars() -> list[dict[str, Any]]:
    """Four columns for every word, on training photos."""
    chance, rows = np.random.default_rng(6), []
    for layer in layers():
        for word in range(WORDS):
            for rank, image in enumerate(chance.permutation(TRAIN)[:4].tolist()):
                y, x = (int(chance.integers(0, side)) for side in (layer.height, layer.width))
                key = {"scope": SCOPE, "layer": layer.name, "word": word, "rank": rank, "image": image, "y": y, "x": x}
                seen = {"posterior": 1.0, "log_joint": 0.0, "x0": 0, "y0": 0, "x1": 9, "y1": 9, "label": LABELS[image]}
                rows.append(key | seen)
    return rows


def _image(root: Path, image: int) -> dict[str, Any]:
    broken = image == BROKEN
    return {
        "image": image,
        "path": str(photo_path(root, image)),
        "split": "train" if image < TRAIN else "validation",
        "label": LABELS[image],
        "label_name": CLASSES[LABELS[image]],
        "predicted": None if broken else PREDICTED[image],
        "probability": None if broken else 0.9,
        "status": "broken" if broken else "ok",
        "reason": "made so" if broken else None,
    }
