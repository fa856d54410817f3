"""Images/s of the extract stage over the bare forward pass on images already in memory, same threads, one run."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from tests.benchmarks.em_pass import SHARED
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.networks.loading import load_network
from workflows.networks.taps import TappedNetwork
from workflows.pipeline import run_pipeline
from workflows.settings import Settings, load_settings
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder

PRESETS = Path(__file__).parents[2] / "infra" / "presets"
THREADS = 2
REPEATS = 3


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    preset: str
    overrides: tuple[str, ...]
    batches: tuple[int, ...]
    bare_images: int
    target: float


CASES = (
    Case(
        "ResNet-20, pre, all columns, codec auto",
        "cifar10_resnet20",
        ("data.max_train=8000", "data.max_validation=500", "extract.columns_per_image=all"),
        (50, 100, 250),
        2000,
        0.85,
    ),
    Case(
        "ResNet-20, post, all columns, zstd",
        "cifar10_resnet20",
        (
            "data.max_train=8000",
            "data.max_validation=500",
            "extract.columns_per_image=all",
            "extract.codec=zstd",
            "network.tap=post",
        ),
        (50, 100, 250),
        2000,
        0.8,
    ),
    Case("ResNet-50, photos, decoding included", "animals_resnet50", (), (10, 25), 50, 0.9),
)
TINY = ("data.max_train=40", "data.max_validation=20", "fit.min_images=1", "runtime.actors=1")
TINY_PHOTOS = (
    "network.name=torchvision:squeezenet1_0",  # ResNet-50 takes half a minute to index
    "network.weights=../shared/data/weights/squeezenet1_0_imagenet.pt",
    'network.layers=["features.5.squeeze"]',
    "preprocessing.resize=96",
    "preprocessing.crop=96",
    "fit.words=[50]",
    'fit.lists=[{name="animals",classes=["zebra","tiger"]}]',
    "fit.min_images=1",
    "runtime.actors=1",
    "mine.images=[]",
    'mine.classes=["all"]',
    "data.max_train=12",
    "data.max_validation=4",
)
"""Overrides that make a case a matter of seconds; the photos' go with ``data.folders`` of ``animal_folders``."""
ANIMALS = {"tiger": "n02129604", "zebra": "n02391049"}


def measure(tiny: bool = False) -> list[dict[str, object]]:
    """One row a case: ratio of medians of alternating repeats. tiny: few images, each side once."""
    if not tiny:
        return [_measure(case, REPEATS, THREADS) for case in CASES]
    with tempfile.TemporaryDirectory() as place:
        photos = f'data.folders=["{animal_folders(Path(place))}"]'
        further = (_in_shards(10, *TINY), _in_shards(10, *TINY), _in_shards(4, *TINY_PHOTOS, photos))
        return [_measure(_tiny(case, fields), 1, 1) for case, fields in zip(CASES, further, strict=True)]


def animal_folders(place: Path) -> Path:
    """A folder a class, called like the network's output, with links to twenty photos of each animal."""
    for name, wnid in ANIMALS.items():
        (place / name).mkdir()
        for photo in sorted((SHARED / "imagenet_animals" / wnid).glob("*.jpg"))[:20]:
            (place / name / photo.name).symlink_to(photo)
    return place


def _in_shards(images: int, *fields: str) -> tuple[str, ...]:
    """Shards so small that there are three at least: the first two are not timed."""
    return (*fields, *(f"extract.{name}={images}" for name in ("images_per_shard", "images_per_chunk", "batch")))


def _tiny(case: Case, fields: tuple[str, ...]) -> Case:
    return replace(case, overrides=(*case.overrides, *fields), batches=(4,), bare_images=8)


def _measure(case: Case, repeats: int, threads: int) -> dict[str, object]:
    settings = load_settings(PRESETS / f"{case.preset}.toml", case.overrides)
    bare, staged = [], []
    with tempfile.TemporaryDirectory() as place:
        for repeat in range(repeats):
            folder = run_pipeline(settings, Path(place) / str(repeat), Console(quiet=True), until="extract")
            staged.append(_steady_rate(folder))
            bare.append(_bare_rate(settings, folder, case, threads))
    return {
        "case": case.name,
        "ratio": median(staged) / median(bare),
        "target": case.target,
        "stage images/s": median(staged),
        "bare images/s": median(bare),
    }


def _steady_rate(folder: RunFolder) -> float:
    """Images/s between the first and the last finished shard: the start of the actors is not the stage's speed."""
    lines = [json.loads(line) for line in folder.ledger("extract").path.read_text().splitlines()]
    finished = [(line["time"], line["fields"]["images"]) for line in lines if "item" in line]
    return sum(images for _, images in finished[THREADS:]) / (finished[-1][0] - finished[THREADS - 1][0])


@torch.inference_mode()
def _bare_rate(settings: Settings, folder: RunFolder, case: Case, threads: int) -> float:
    """Images/s of the fused channels-last network alone, at its best batch size."""
    torch.set_num_threads(threads)
    paths = read_image_rows(folder.images_table, 0, case.bare_images, ["path"])["path"].to_pylist()
    preprocessor = Preprocessor(settings.preprocessing)
    with PictureReader(settings.data, geometry=preprocessor.crop) as reader:
        images = preprocessor.normalise(preprocessor.stack([picture.pixels for picture in reader.read(paths)]))
    network = TappedNetwork(load_network(settings.network), []).body
    return max(_rate(network, images, batch) for batch in case.batches)


def _rate(network: torch.nn.Module, images: torch.Tensor, batch: int) -> float:
    parts = [part.contiguous(memory_format=torch.channels_last) for part in images.split(batch)]
    network(parts[0])
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        for part in parts:
            network(part)
        seconds.append(time.perf_counter() - started)
    return len(images) / median(seconds)
