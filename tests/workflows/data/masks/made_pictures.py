"""Photos in a folder, and masks of them in every format that the project reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workflows.data.masks.concept_masks import MaskSet, read_masks
from workflows.settings import DataSettings, PreprocessingSettings

SIZE = (30, 40)
"""Height and width of the photos."""


def write_photos(root: Path, names: Sequence[str] = ("a/one.png", "a/two.png", "b/one.png")) -> dict[int, str]:
    """Photos of noise; gives their paths by id."""
    random = np.random.default_rng(0)
    paths = {}
    for image, name in enumerate(names):
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(path)
        paths[image] = str(path)
    return paths


def masks_of(source: str, paths: Mapping[int, str], resize: int | None = None, crop: int | None = None) -> MaskSet:
    data = DataSettings(source="folders", folders=(str(Path(next(iter(paths.values()))).parents[1]),))
    size = SIZE if crop is None else (crop, crop)
    return read_masks(source, paths, data, PreprocessingSettings(resize=resize, crop=crop), size)


def write_coco(root: Path, annotations: Sequence[Mapping[str, Any]], images: Sequence[str] = ("a/one.png",)) -> str:
    """A file of annotations on categories 1 (wheel, part) and 2 (car, no supercategory)."""
    content = {
        "images": [{"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(images)],
        "categories": [{"id": 1, "name": "wheel", "supercategory": "part"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 70 + place, "image_id": 0, "category_id": 1, **one} for place, one in enumerate(annotations)
        ],
    }
    path = root / "coco.json"
    path.write_text(json.dumps(content))
    return f"coco:{path}"


def write_table(path: Path, header: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def write_picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def coded(labels: np.ndarray) -> np.ndarray:
    """Labels as Broden's pictures have them, R + 256 G."""
    return np.stack([labels % 256, labels // 256, np.zeros_like(labels)], axis=2).astype(np.uint8)


def write_broden(root: Path, cells: Mapping[str, str], rows: Sequence[str] = ("a/one.png",)) -> str:
    """Objects 7 and 300, part 5, texture 9, material without a label in any image; masks of 15 x 20."""
    folder = root / "broden"
    kinds = ("object", "part", "texture", "material")
    write_table(folder / "category.csv", "name,first,last,count,frequency", *(f"{kind},0,0,1,1" for kind in kinds))
    write_table(
        folder / "label.csv",
        "number,name,category,frequency,coverage,syns",
        *("5,wheel,part(1),1,1,", "7,car,object(1),1,1,", "9,dotted,texture(1),1,1,", "300,tree,object(1),1,1,"),
    )
    for kind, numbers in (
        ("object", ("1,7,car", "2,300,tree")),
        ("part", ("1,5,wheel",)),
        ("texture", ("1,9,dotted",)),
    ):
        write_table(folder / f"c_{kind}.csv", "code,number,name,frequency,coverage", *(f"{one},1,1" for one in numbers))
    write_table(folder / "c_material.csv", "code,number,name,frequency,coverage", "1,12,wood,0,0")
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "split", "ih", "iw", "sh", "sw", *kinds])
        writer.writeheader()
        for name in rows:
            sizes = {"image": name, "split": "train", "ih": SIZE[0], "iw": SIZE[1], "sh": 15, "sw": 20}
            writer.writerow({**sizes, **dict.fromkeys(kinds, ""), **cells})
    return f"broden:{folder}"
