"""Run folders as the extract stage leaves them, of a small chain on real digits: what the fit of a chain reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from gmm_ops.graphs.windows import Window
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import Settings, parse_settings
from workflows.storage.arrays import create_array, write_shard
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table

UNITS = (24, 16, 12)
CLASSES = 10
BROKEN = (3, 77, 78)
IMAGES, TRAIN = 480, 400


def dense_activations(images: int = IMAGES) -> tuple[list[np.ndarray], np.ndarray]:
    """(per layer (images, D) float16 behind its ReLU, predicted class (images,)) of digits through random layers.

    Every unit is normalised before its ReLU, so none is silent.
    """
    chance = np.random.default_rng(0)
    values = load_digits().data[:images] / 8.0 - 1.0
    layers = []
    for units in UNITS:
        weights = chance.standard_normal((values.shape[1], units)) * np.sqrt(2.0 / values.shape[1])
        values = values @ weights
        values = np.maximum((values - values.mean(axis=0)) / values.std(axis=0), 0.0)
        layers.append(values.astype(np.float16))
    logits = values @ chance.standard_normal((UNITS[-1], CLASSES))
    return layers, logits.argmax(axis=1)


def chain_settings_of(hmm: Mapping[str, Any] | None = None, **fit: Any) -> Settings:
    """Settings of the small chain. hmm, fit: fields of those sections."""
    return parse_settings(
        {
            "name": "made-chain",
            "data": {"source": "digits"},
            "network": {"name": "made:chain", "weights": "train", "layers": ["dense"], "tap": "post"},
            "training": {},
            "extract": {"images_per_shard": 40, "images_per_chunk": 20, "batch": 20},
            "fit": {"words": [6, 5, 4], "minibatch": 60, "epochs": 3, "tolerance": 0, "checkpoint_steps": 4, **fit},
            "hmm": {"restarts": 2, **(hmm or {})},
        }
    )


def made_run(
    root: Path, settings: Settings, layers: Sequence[np.ndarray], predicted: np.ndarray, broken: Sequence[int] = BROKEN
) -> tuple[RunFolder, Plan]:
    """Write plan, images and activations; broken images keep their columns, as those of a black picture are kept."""
    folder = RunFolder.create_or_open(root, settings)
    words = settings.words_of_layers(len(layers))
    images, train = len(predicted), round(len(predicted) * TRAIN / IMAGES)
    plan = Plan(
        tuple(_layer(i, values.shape[1], words[i]) for i, values in enumerate(layers)),
        tuple(str(label) for label in range(CLASSES)),
        images,
        train,
        8,
        8,
        "train",
    )
    plan.write(folder)
    labels = load_digits().target.tolist()
    rows = [_image(i, train, labels[i], int(predicted[i]), i in broken) for i in range(images)]
    write_table(folder.images_table, rows, "images", network=settings.name)
    extract = settings.extract
    for layer, values in zip(plan.layers, layers, strict=True):
        path, size = folder.activations(layer.name), extract.images_per_shard
        shape = (images, 1, layer.units)
        create_array(path, shape, values.dtype, chunk_rows=extract.images_per_chunk, shard_rows=size)
        for first in range(0, images, size):
            write_shard(path, first, values[first : first + size, None, :])
    return folder, plan


def _layer(index: int, units: int, words: int) -> LayerPlan:
    window = Window.whole() if index else None
    name = f"relu{index + 1}"
    return LayerPlan(name, f"dense{index + 1}", units, 1, 1, words, 1, window, Window.whole(), rectified=True)


def _image(image: int, train: int, label: int, predicted: int, broken: bool) -> dict[str, Any]:
    known = {"predicted": predicted, "predicted_name": str(predicted), "probability": 0.5, "status": "ok"}
    lost = {"status": "broken", "reason": "not a picture"}
    split = "train" if image < train else "validation"
    row = {"image": image, "path": f"digits#{image}", "split": split, "label": label, "label_name": str(label)}
    return row | (lost if broken else known)
