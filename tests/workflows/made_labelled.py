"""Run folders as the extract stage leaves them, of one made layer on real digits: what a labelled fit reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from gmm_ops.graphs.windows import Window
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings, parse_settings
from workflows.storage.arrays import create_array, write_shard
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import write_table
from workflows.words.dictionaries import classifier_path, generative_path

CLASSES, SIDE, UNITS = 10, 4, 6
IMAGES, TRAIN = 720, 600
BROKEN = (3, 77, 78, 650)
JOINT = Scope("joint", tuple(range(CLASSES)), False, tuple(range(CLASSES)))
Made = tuple[Settings, Plan, RunFolder]


def patch_activations(images: int = IMAGES) -> np.ndarray:
    """(images, 16, 6) float16: random units on the 2 x 2 patches of digits, before a ReLU."""
    digits = load_digits().images[:images] / 8.0 - 1.0
    patches = digits.reshape(images, SIDE, 2, SIDE, 2).transpose(0, 1, 3, 2, 4).reshape(images, SIDE * SIDE, 4)
    chance = np.random.default_rng(0)
    weights, shift = chance.standard_normal((4, UNITS)), 1.5 * chance.standard_normal((SIDE * SIDE, UNITS))
    return (patches @ weights + shift).astype(np.float16)


def settings_of(fit: Mapping[str, Any] | None = None, **discriminative: Any) -> Settings:
    """Settings of a small fit. fit, discriminative: fields of those sections."""
    small_fit = {"words": [24], "minibatch": 800, "epochs": 1, "warmup": 2, "tolerance": 0, "checkpoint_steps": 5}
    return parse_settings(
        {
            "name": "made-labels",
            "data": {"source": "digits"},
            "network": {"name": "made:patches", "weights": "train", "layers": ["made"], "tap": "pre"},
            "training": {},
            "extract": {"images_per_shard": 40, "images_per_chunk": 20, "batch": 20},
            "fit": {**small_fit, "loss": "discriminative", **(fit or {})},
            "discriminative": {"epochs": 3, "batch": 20, **discriminative},
            "runtime": {"device": "cpu"},
        }
    )


def make(root: Path, settings: Settings, activations: np.ndarray | None = None) -> Made:
    """Write plan, images and activations; broken images keep their columns. Every fifth prediction is wrong."""
    columns = patch_activations() if activations is None else activations
    folder = RunFolder.create_or_open(root, settings)
    words, positions = settings.words_of_layers(1)[0], columns.shape[1]
    layer = LayerPlan("made", "made", UNITS, SIDE, SIDE, words, positions, None, Window.identity())
    plan = Plan((layer,), tuple(str(label) for label in range(CLASSES)), IMAGES, TRAIN, 8, 8, "train")
    plan.write(folder)
    write_table(folder.images_table, [_image(image) for image in range(IMAGES)], "images", network=settings.name)
    extract = settings.extract
    path, size = folder.activations(layer.name), extract.images_per_shard
    create_array(path, columns.shape, columns.dtype, chunk_rows=extract.images_per_chunk, shard_rows=size)
    for first in range(0, IMAGES, size):
        write_shard(path, first, columns[first : first + size])
    return settings, plan, folder


@cache  # reading the digits takes a fiftieth of a second, and every image asks
def labels() -> np.ndarray:
    """True class of every image."""
    return load_digits().target[:IMAGES].astype(np.int64)


@cache
def predictions() -> np.ndarray:
    """What the made network predicts: every fifth image wrongly."""
    wrong = np.arange(IMAGES) % 5 == 0
    return np.where(wrong, (labels() + 1) % CLASSES, labels())


def readable(images: Sequence[int] | np.ndarray) -> np.ndarray:
    """Those of some images that are not broken."""
    return np.setdiff1d(images, BROKEN)


def results(made: Made) -> dict[str, np.ndarray]:
    """Every array that a fit has written: `words`, and after the discriminative loss `generative` and `layers`."""
    folder = made[2]
    paths = {
        "words": folder.mixture("joint", "made"),
        "generative": generative_path(folder, "joint", "made"),
        "layers": classifier_path(folder, "joint", "made"),
    }
    present = {kind: path for kind, path in paths.items() if path.exists()}
    return {f"{kind}.{name}": array for kind, path in present.items() for name, array in load_state(path).items()}


def _image(image: int) -> dict[str, Any]:
    label, predicted = int(labels_[image]), int(predictions_[image])
    split = "train" if image < TRAIN else "validation"
    row = {"image": image, "path": f"digits#{image}", "split": split, "label": label, "label_name": str(label)}
    if image in BROKEN:
        return row | {"status": "broken", "reason": "not a picture"}
    return row | {"predicted": predicted, "predicted_name": str(predicted), "probability": 0.5, "status": "ok"}


labels_, predictions_ = labels(), predictions()
