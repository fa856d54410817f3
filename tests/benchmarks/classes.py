"""Many classes: the joint model and one of every class and its neighbours, by the number of classes and of images.

Real images: crops of the photos of ImageNet's classes, as many of every photo, on a small network that the run trains.
"""

from __future__ import annotations

import io
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from workflows.pipeline import run_pipeline
from workflows.run import open_run
from workflows.settings import load_settings
from workflows.storage.run_folder import RunFolder

PRESET = Path(__file__).parents[2] / "infra" / "presets" / "digits.toml"
PHOTOS = Path("../shared/data/imagenet_one_per_class")
SIDE = 32
SHARE = 0.2
"""Side of a crop over the shorter side of its photo: small enough that classes are confused, as scopes need."""
STAGES = ("train", "extract", "fit", "errors", "words", "count", "mine")
MODELS = ("joint", "joint and class")


def measure(tiny: bool = False, sizes: tuple[tuple[int, int], ...] = ((200, 65), (1000, 65))) -> list[dict[str, Any]]:
    """One row a number of classes and kind of scopes. sizes: classes, and crops of every one."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for classes, crops in ((10, 20),) if tiny else sizes:
            pictures = Path(place) / f"{classes}-{crops}"
            cut_crops(pictures, classes, crops)
            for scopes in MODELS:
                root = Path(place) / f"{scopes}-{classes}-{crops}"
                rows.append(_row(pictures, root, classes, crops, scopes, tiny))
    return rows


def cut_crops(folder: Path, classes: int, crops: int) -> None:
    """Parquet files of training and validation images, in class order; every fourth crop is for validation."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for label, path in enumerate(sorted(PHOTOS.glob("*/*.JPEG"))[:classes]):
        photo = Image.open(path).convert("RGB")
        side = int(SHARE * min(photo.size))
        for crop in range(crops):
            x, y = chance.integers(photo.width - side + 1), chance.integers(photo.height - side + 1)
            small, file = photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE)), io.BytesIO()
            small.save(file, format="JPEG", quality=95)
            kind = "validation" if crop % 4 == 3 else "train"
            rows[kind].append({"image": {"bytes": file.getvalue(), "path": f"{label}-{crop}.jpg"}, "label": label})
    for kind, found in rows.items():
        pq.write_table(pa.Table.from_pylist(found), folder / f"{kind}.parquet", row_group_size=1000)


def _row(pictures: Path, root: Path, classes: int, crops: int, scopes: str, tiny: bool) -> dict[str, Any]:
    wanted = "['joint']" if scopes == "joint" else "['joint','class']"
    settings = load_settings(
        PRESET,
        [
            "data.source=parquet",
            f"data.train=['{pictures}/train.parquet']",
            f"data.validation=['{pictures}/validation.parquet']",
            f"network.arguments={{n_classes={classes}}}",
            f"training.epochs={2 if tiny else 4}",
            "network.layers=['add2','add3']",
            "extract.images_per_shard=500",
            "extract.images_per_chunk=50",
            "fit.words=[20,30]",
            "fit.min_images=1",
            f"fit.scopes={wanted}",
            f"discriminative.epochs={1 if tiny else 2}",
            "mine.images=[]",
            "draw.figures=none",
        ],
    )
    started = time.perf_counter()
    folder = run_pipeline(settings, root, Console(quiet=True), until="mine")
    seconds = time.perf_counter() - started
    n_scopes = len(folder.scope_names())
    images = open_run(root).table("images")
    validation = images.filter(pc.field("split") == "validation")
    hits = pc.equal(validation["predicted"], validation["label"])
    return {
        "run": f"{classes} classes x {crops}, {scopes}",
        "scopes": n_scopes,
        "accuracy": float(pc.mean(hits.cast("float64")).as_py()),
        **{f"{stage} s": stage_seconds(folder, stage) for stage in STAGES},
        "seconds": seconds,
        "peak GB of the driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "files a scope": sum(len(files) for _, _, files in os.walk(root)) / n_scopes,
        "MB": sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) / 1e6,
    }


def stage_seconds(folder: RunFolder, stage: str) -> float:
    """From the first to the last line of its ledger."""
    path = folder.ledger(stage).path
    times = [json.loads(line)["time"] for line in path.read_text().splitlines()] if path.exists() else [0.0]
    return float(times[-1] - times[0])
