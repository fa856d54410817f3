"""Masks of concepts on the digits of a run: ink and its parts, as a COCO file of run lengths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.end_to_end.small_digits import command
from workflows.data.packaged import load_digits
from workflows.run import open_run

CONCEPTS = {1: ("ink", "part"), 2: ("upper half", "part"), 3: ("lower half", "part"), 4: ("picture", "object")}


SIDE = 32
"""Of the pictures."""


def digit_masks(path: str) -> dict[int, np.ndarray]:
    """By concept: where it lies on the picture ``digits#i``."""
    ink = load_digits().pixels[int(path.rpartition("#")[2])][..., 0] > 128
    upper = np.arange(SIDE)[:, None] < np.full((SIDE, SIDE), SIDE // 2)
    return {1: ink, 2: ink & upper, 3: ink & ~upper, 4: np.ones((SIDE, SIDE), bool)}


def run_lengths_of(mask: np.ndarray) -> list[int]:
    """Uncompressed counts, column by column, beginning with 0s."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def digits_coco(root: Path, path: Path, every: int = 1, more: Mapping[str, Any] | None = None) -> Path:
    """Write masks of every n-th image of a run on digits; the annotations of ``more`` beside them."""
    images, annotations = [], []
    table = open_run(root).table("images", ["image", "path"]).to_pylist()
    for row in table[::every]:
        images.append({"id": row["image"], "file_name": row["path"], "height": SIDE, "width": SIDE})
        for concept, mask in digit_masks(row["path"]).items():
            coded = {"size": [SIDE, SIDE], "counts": run_lengths_of(mask)}
            annotations.append(
                {"id": len(annotations), "image_id": row["image"], "category_id": concept, "segmentation": coded}
            )
    categories = [{"id": key, "name": name, "supercategory": kind} for key, (name, kind) in CONCEPTS.items()]
    content = {"images": images, "categories": categories, "annotations": annotations}
    for name, rows in (more or {}).items():
        content[name] += rows
    path.write_text(json.dumps(content))
    return path


IMAGES = 60
"""Asked of the study: few enough for slow twins, in several shards."""


def masks_option(root: Path) -> list[str]:
    """Of a run that ``dissecting`` made."""
    return ["--masks", f"coco:{root.parent / 'masks.json'}", "--images", str(IMAGES)]


def copy_with_one_graph(finished: Path, root: Path) -> Path:
    """A copy of a run with the figure of class 3 alone: a study draws every class graph again whose figure is there."""
    shutil.copytree(finished, root)
    run = open_run(root)
    for label in range(len(run.plan.class_names)):
        if label != 3:
            run.folder.figure(f"class:{label}", "png", "joint").unlink()
    return root


def dissecting(finished: Path) -> Callable[[Path], None]:
    """Makes a copy of a run and dissects it: masks on every second image, and on a photo that the run does not have."""

    def build(root: Path) -> None:
        copy_with_one_graph(finished, root)
        coded = {"size": [SIDE, SIDE], "counts": [SIDE * SIDE]}
        gone = {
            "images": [{"id": 9999, "file_name": "digits#99999", "height": SIDE, "width": SIDE}],
            "annotations": [{"id": 9999, "image_id": 9999, "category_id": 1, "segmentation": coded}],
        }
        digits_coco(root, root.parent / "masks.json", every=2, more=gone)
        assert command(["dissect", str(root), *masks_option(root)]) == 0

    return build
