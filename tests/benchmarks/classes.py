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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from workflows.pipeline import run_pipeline
from workflows.run import open_run
from workflows.settings import Settings, load_settings
from workflows.storage.run_folder import RunFolder

PRESET = Path(__file__).parents[2] / "infra" / "presets" / "digits.toml"
PHOTOS = Path("../shared/data/imagenet_one_per_class")
SIDE = 32
SHARE = 0.2
"""Side of a crop over the shorter side of its photo: small enough that classes are confused, as scopes need."""
COLUMNS = 5
"""Of every image and layer, where the loss needs no whole maps: a minibatch has 10 columns a word, however many there
are, so that all columns of many images are very many steps."""
STAGES = ("train", "extract", "fit", "errors", "words", "count", "mine")


@dataclass(frozen=True)
class Case:
    """A run. scopes: of single classes, beside the joint one, as many as this. crops: of every class."""

    classes: int
    crops: int
    scopes: int
    loss: Literal["generative", "discriminative"]

    def __str__(self) -> str:
        """In the table."""
        beside = f" and {self.scopes} of classes" if self.scopes else ""
        return f"{self.classes} classes x {self.crops}, {self.loss}, joint{beside}"


TINY = (Case(10, 20, 0, "generative"), Case(10, 20, 10, "discriminative"))
JOINT = tuple(Case(classes, crops, 0, "generative") for classes, crops in ((200, 65), (1000, 65), (1000, 130)))
CLASSES = (Case(200, 65, 50, "discriminative"), Case(200, 65, 100, "discriminative"))


def measure(tiny: bool = False, cases: tuple[Case, ...] = (*JOINT, *CLASSES)) -> list[dict[str, Any]]:
    """One row a case."""
    with tempfile.TemporaryDirectory() as place:
        return [_row(Path(place), case, tiny) for case in (TINY if tiny else cases)]


def cut_crops(folder: Path, classes: int, crops: int) -> None:
    """Parquet files of training and validation images, in class order; every fourth crop is for validation."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for label, path in enumerate(sorted(PHOTOS.glob("*/*.JPEG"))[:classes]):
        photo = Image.open(path).convert("RGB")
        side = int(SHARE * min(photo.size))
        for crop in range(crops):
            x, y = int(chance.integers(photo.width - side + 1)), int(chance.integers(photo.height - side + 1))
            small, file = photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE)), io.BytesIO()
            small.save(file, format="JPEG", quality=95)
            kind = "validation" if crop % 4 == 3 else "train"
            rows[kind].append({"image": {"bytes": file.getvalue(), "path": f"{label}-{crop}.jpg"}, "label": label})
    for kind, found in rows.items():
        pq.write_table(pa.Table.from_pylist(found), folder / f"{kind}.parquet", row_group_size=1000)


def _row(place: Path, case: Case, tiny: bool) -> dict[str, Any]:
    pictures, root = place / f"{case.classes}-{case.crops}", place / str(case)
    if not pictures.exists():
        cut_crops(pictures, case.classes, case.crops)
    started = time.perf_counter()
    explained: list[str | int] = ["all"]
    if case.scopes:  # one that is never confused has no scope
        run_pipeline(_settings(pictures, case, tiny, explained), root, Console(quiet=True), until="extract")
        explained = _confused(root)[: case.scopes]
    settings = _settings(pictures, case, tiny, explained)
    folder = run_pipeline(settings, root, Console(quiet=True), until="mine")
    seconds = time.perf_counter() - started
    n_scopes = len(folder.scope_names())
    images = open_run(root).table("images")
    validation = images.filter(pc.field("split") == "validation")
    hits = pc.equal(validation["predicted"], validation["label"])
    return {
        "run": str(case),
        "scopes": n_scopes,
        "accuracy": float(pc.mean(hits.cast("float64")).as_py()),
        **{f"{stage} s": stage_seconds(folder, stage) for stage in STAGES},
        **{f"{stage} core s": processor_seconds(folder, stage) for stage in STAGES},
        "seconds": seconds,
        "peak GB of the driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "files a scope": sum(len(files) for _, _, files in os.walk(root)) / n_scopes,
        "MB": sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) / 1e6,
    }


def _settings(pictures: Path, case: Case, tiny: bool, explained: list[str | int]) -> Settings:
    wanted = "['joint','class']" if case.scopes else "['joint']"
    columns = COLUMNS if case.loss == "generative" else "'all'"
    return load_settings(
        PRESET,
        [
            "data.source=parquet",
            f"data.train=['{pictures}/train.parquet']",
            f"data.validation=['{pictures}/validation.parquet']",
            f"network.arguments={{n_classes={case.classes}}}",
            f"training.epochs={4 if case.scopes else 1}",
            f"fit.loss={case.loss}",
            f"mine.classes={explained}",
            "network.layers=['add2','add3']",
            f"extract.columns_per_image={columns}",
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


def _confused(root: Path) -> list[str | int]:
    """Classes that are taken for others, and others for them, ascending."""
    images = open_run(root).table("images")
    wrong = images.filter((pc.field("split") == "validation") & (pc.field("predicted") != pc.field("label")))
    return sorted(set(wrong["predicted"].to_pylist()) & set(wrong["label"].to_pylist()))


def stage_seconds(folder: RunFolder, stage: str) -> float:
    """Of the clock, from the first to the last line of its ledger."""
    times = [line["time"] for line in _lines(folder, stage)] or [0.0]
    return float(times[-1] - times[0])


def processor_seconds(folder: RunFolder, stage: str) -> float:
    """Of the driver and the actors: other work on the machine does not lengthen them."""
    found = [line.get("fields", {}) for line in _lines(folder, stage)]
    return float(sum(one.get("driver_cpu", 0.0) + one.get("profile", {}).get("cpu", 0.0) for one in found))


def _lines(folder: RunFolder, stage: str) -> list[dict[str, Any]]:
    path = folder.ledger(stage).path
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
