"""Runs of a hidden Markov model without a cluster: real digits through dense layers whose weights are made by hand.

Every layer carries the evidence for three classes, some features of the picture, and a marker: four pixels at the left
edge, which no digit uses. Its unit is fifty times smaller than the others, so that it stays silent, until one layer
amplifies it: from there on the picture looks like a one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from gmm_ops.hmm.fitting import fit_chain
from tests.workflows.data.made_files import encoded, write_names, write_parquet
from workflows.context import StageContext
from workflows.data.shards import plan_shards
from workflows.networks.architectures import mlp
from workflows.pipeline import STAGES
from workflows.plan.run_plan import Plan
from workflows.settings import Settings, parse_settings
from workflows.stages import index, paths
from workflows.stages.extract import ExtractWorker, predictions_path
from workflows.stages.words import create_word_maps
from workflows.storage.arrays import create_array
from workflows.storage.chains import chain_path, save_chain
from workflows.storage.images_table import ImageColumns, merge_predictions
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.words.chain_words import ChainWordsWorker, read_columns

CLASSES, FEATURES, DEPTH = 3, 4, 4
SIZES = (1.0, 1.3, 1.6)
"""Of the units that carry the evidence for each class."""
COPIES = len(SIZES)
UNITS = CLASSES * COPIES + FEATURES + 1
TRAIN, VALIDATION = 130, 45
"""Pictures of every class."""
MARKER = [8 * row for row in (2, 3, 4, 5)]
"""Places of its pixels among the 64."""
SILENT = 0.02
"""Weight of the marker's unit; the evidence of a picture's own class is about 1.3."""
LOUD = 2.8
"""Weight once it is amplified: a marked zero loses all evidence of a zero, and gets as much of a one as ones have."""


@dataclass
class Quiet:
    """Progress of a stage that nobody watches."""

    warnings: list[str] = field(default_factory=list)

    def start(self, total: int, done: int = 0) -> None: ...
    def advance(self, items: int = 1, images: int = 0, columns: int = 0) -> None: ...
    def at_work(self, item: str, share: float, columns: int = 0) -> None: ...
    def note(self, text: str) -> None: ...


@contextmanager
def one_thread() -> Iterator[None]:
    """As in an actor; several threads on so small products only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def context_of(folder: RunFolder, settings: Settings, stage: str) -> StageContext:
    """A stage in this process, its reductions on threads."""
    quiet = Quiet()
    return StageContext(settings, folder, STAGES[stage], quiet, quiet.warnings.append)


def digits_of(label: int) -> np.ndarray:
    """All pictures (n, 64) of one digit, 0..1."""
    digits = load_digits()
    return digits.data[digits.target == label] / 16.0


def marked(pictures: np.ndarray) -> np.ndarray:
    """The same pictures with the marker's pixels white."""
    changed = pictures.copy()
    changed[:, MARKER] = 1.0
    return changed


def picture_file(pixels: np.ndarray) -> bytes:
    """A grey picture of 8 x 8 pixels as a PNG."""
    grey = np.round(pixels.reshape(8, 8) * 255).astype(np.uint8)
    return encoded(np.repeat(grey[:, :, None], 3, axis=2))


def weights(amplified: int) -> dict[str, Tensor]:
    """State dict of ``mlp``: ``amplified`` is the layer (from 2) in which the marker turns a zero into a one."""
    data = np.concatenate([digits_of(label)[:TRAIN] for label in range(CLASSES)])
    data[:, ::8] = 0.0
    model = LogisticRegression(C=1.0).fit(data, np.repeat(range(CLASSES), TRAIN))
    spread = (data @ model.coef_.T + model.intercept_).std()
    first, bias = torch.zeros(UNITS, 3 * 64), torch.zeros(UNITS)
    for copy, size in enumerate(SIZES):
        rows = slice(copy * CLASSES, (copy + 1) * CLASSES)
        first[rows, :64] = size * torch.from_numpy(model.coef_ / spread).float()
        bias[rows] = size * torch.from_numpy(model.intercept_ / spread).float()
    source = torch.Generator().manual_seed(0)
    first[CLASSES * COPIES : -1, :64] = 0.1 * torch.rand(FEATURES, 64, generator=source)
    first[-1, MARKER] = SILENT / len(MARKER)
    bias[-1] = -0.5 * SILENT
    state = {"dense1.weight": first, "dense1.bias": bias}
    for layer in range(2, DEPTH + 1):
        matrix = torch.eye(UNITS)
        if layer == amplified:
            matrix[0 : CLASSES * COPIES : CLASSES, -1] = -2.0 * LOUD / SILENT
            matrix[1 : CLASSES * COPIES : CLASSES, -1] = LOUD / SILENT * torch.tensor(SIZES)
        state |= {f"dense{layer}.weight": matrix, f"dense{layer}.bias": torch.zeros(UNITS)}
    logits = torch.zeros(CLASSES, UNITS)
    logits[range(CLASSES), range(CLASSES)] = 5.0
    return state | {"logits.weight": logits, "logits.bias": torch.zeros(CLASSES)}


def write_pictures(root: Path, broken: bool) -> None:
    """Both splits; S_V has every zero twice, the second time marked. ``broken``: picture 5 of each cannot be read."""
    for split, part in (("train", slice(0, TRAIN)), ("validation", slice(TRAIN, TRAIN + VALIDATION))):
        pictures = [digits_of(label)[part] for label in range(CLASSES)]
        labels = np.repeat(range(CLASSES), [len(some) for some in pictures]).tolist()
        if split == "validation":
            pictures.append(marked(pictures[0]))
            labels += [0] * len(pictures[0])
        cells = [picture_file(picture) for picture in np.concatenate(pictures)]
        if broken:
            cells[5] = b"no picture"
        write_parquet(root / f"{split}.parquet", cells, labels)


def settings_of(
    root: Path, amplified: int = 3, output: str = "fixed", broken: bool = False, shard: int = 50
) -> Settings:
    """Settings of a run whose pictures and weights are written into ``root``."""
    root.mkdir(parents=True)
    arguments = {"units": [UNITS] * DEPTH, "n_classes": CLASSES, "inputs": [3, 8, 8]}
    network = mlp(units=[UNITS] * DEPTH, n_classes=CLASSES, inputs=(3, 8, 8))
    network.load_state_dict(weights(amplified))
    torch.save(network.state_dict(), root / "weights.pt")
    write_pictures(root, broken)
    data = {
        "source": "parquet",
        "train": [str(root / "train.parquet")],
        "validation": [str(root / "validation.parquet")],
        "class_names": write_names(root / "names.json", ["zero", "one", "two"]),
    }
    dense = {
        "name": "workflows.networks.architectures:mlp",
        "arguments": arguments,
        "weights": str(root / "weights.pt"),
        "layers": ["dense"],
        "tap": "post",
    }
    return parse_settings(
        {
            "name": "marked digits",
            "data": data,
            "preprocessing": {"mean": [0.0] * 3, "std": [1.0] * 3},
            "network": dense,
            "extract": {"images_per_shard": shard, "images_per_chunk": 25, "batch": 25},
            "fit": {"words": [5]},
            "hmm": {"output": output},
            "mine": {"images": []},
        }
    )


@one_thread()
def make_run(root: Path, settings: Settings) -> tuple[RunFolder, Plan]:
    """Everything up to the fit, in this process; the fit is the one in memory."""
    folder = RunFolder.create_or_open(root, settings)
    index.run(context_of(folder, settings, "index"))
    plan, extract = Plan.read(folder), settings.extract
    for layer in plan.layers:
        shape = (plan.stored_images, layer.stored, layer.units)
        rows = {"chunk_rows": extract.images_per_chunk, "shard_rows": extract.images_per_shard}
        create_array(folder.activations(layer.name), shape, extract.dtype, **rows)
    worker = ExtractWorker(settings, plan, folder)
    shards = plan_shards(plan.images, extract.images_per_shard)
    for shard in shards:
        worker(shard)
    merge_predictions(folder.images_table, [predictions_path(folder, shard) for shard in shards], plan.class_names)
    predicted = torch.from_numpy(ImageColumns.read(folder, 0, plan.train_images).predicted)
    columns = [layer[predicted >= 0] for layer in read_columns(folder, plan, 0, plan.train_images)]
    observed = settings.hmm is not None and settings.hmm.output == "fixed"
    seen = {"predicted": predicted[predicted >= 0], "n_classes": CLASSES} if observed else {}
    words, rectified = [layer.words for layer in plan.layers], [layer.rectified for layer in plan.layers]
    fitted = fit_chain(columns, words, seed=0, rectified=rectified, **seen)
    save_chain(chain_path(folder, JOINT), fitted.model)
    return folder, plan


@one_thread()
def decode(folder: RunFolder, settings: Settings) -> list[dict[str, object]]:
    """The words stage without actors; gives the records of the shards."""
    plan = Plan.read(folder)
    create_word_maps(settings, plan, folder)
    worker = ChainWordsWorker(settings, plan, folder)
    return [worker(shard) for shard in plan_shards(plan.images, settings.extract.images_per_shard)]


def find_paths(folder: RunFolder, settings: Settings) -> None:
    """The paths stage, ended as the pipeline ends it."""
    context = context_of(folder, settings, "paths")
    paths.run(context)
    context.ledger.end()
