"""IR's secondary classifier: do patches alone tell the class? Trained on some images, tested on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.units.selections import bootstrap_means
from workflows.data.image_index import balanced_rows, validation_mask
from workflows.networks.architectures import patch_classifier
from workflows.networks.training import train_classifier
from workflows.plan.run_plan import Plan
from workflows.settings import Settings, TrainingSettings
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.studies.resample.copies import ShownPictures
from workflows.studies.resample.selections import known

SIDE = 32
"""Pixels of the side to which patches are resized."""

MOST_PATCHES = 6_000
"""Of the images of one classifier: those of so many images are taken, evenly over as many classes as have two."""

_SEEN = 40_000
"""Patches that a classifier sees while it is trained, one many times."""


@dataclass(frozen=True)
class PatchSet:
    """What one classifier is trained on: the patches that a metric selects."""

    checkpoint: str | None
    metric: str
    top: int

    def __str__(self) -> str:
        return f"secondary {self.checkpoint or 'run'} {self.metric} {self.top}"


class PatchClassifierWorker:
    """Runs in an actor: a set of patches in, how well its classes are told apart out.

    Args:
        settings, plan, folder: of the run, whose table selections is written.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        self.pictures = ShownPictures(settings, folder)

    def __call__(self, asked: PatchSet) -> dict[str, Any]:
        """A row of secondary.parquet, of classes with two images at least; accuracy is null for fewer than two such."""
        images, labels, patches = self._patches(asked)
        row: dict[str, Any] = {"metric": asked.metric, "top": asked.top, "checkpoint": asked.checkpoint}
        row |= {"images": len(np.unique(images)), "patches": len(images), "accuracy": None}
        row |= {"majority": float(np.bincount(labels).max() / len(labels)) if len(labels) else None}
        of_images, first = np.unique(images, return_index=True)
        if len(np.unique(labels)) < 2:
            return row
        right = self._right(of_images, labels[first], images, labels, patches)
        means = np.array([right[images == image].mean() for image in of_images])
        values = bootstrap_means(torch.from_numpy(means)[:, None], self.settings.seed)[:, 0].tolist()
        return row | dict(zip(("accuracy", "accuracy_low", "accuracy_high"), map(known, values), strict=True))

    def _right(
        self, of_images: np.ndarray, classes: np.ndarray, images: np.ndarray, labels: np.ndarray, patches: Tensor
    ) -> np.ndarray:
        """Which patches are given their class by the classifier of the other half of the images."""
        half = validation_mask(classes, 0.5, self.settings.seed)
        held_out = np.isin(images, of_images[half])
        targets = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
        right = np.zeros(len(images), bool)
        for tested in (held_out, ~held_out):
            seen = torch.from_numpy(~tested)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.settings.seed)
                network = patch_classifier(int(targets.max()) + 1, SIDE)
            epochs = int(np.clip(_SEEN // max(int(seen.sum()), 1), 1, 30))
            how = TrainingSettings(epochs=epochs, batch=64, learning_rate=0.02, flip=True)
            train_classifier(network, patches[seen], targets[seen], how, self.settings.seed)
            with torch.inference_mode():
                found = torch.cat([network(some).argmax(dim=1) for some in patches[~seen].split(256)])
            right[tested] = (found == targets[~seen]).numpy()
        return right

    def _patches(
        self, asked: PatchSet
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[Tensor, "n 3 side side"]]:
        """Images, classes and pixels, -1..1, of the patches of a set; see ``rows_for_halves``."""
        wanted = [("metric", "=", asked.metric), ("top", "=", asked.top)]
        columns = ["image", "class", "x0", "y0", "x1", "y1", "checkpoint"]
        table = read_table(self.folder.table("selections"), columns, wanted).to_pylist()
        rows = [row for row in table if row["checkpoint"] == asked.checkpoint and row["x0"] is not None]
        by_image: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            by_image.setdefault(row["image"], []).append(row)
        images = np.array(sorted(by_image), np.int64)
        labels = np.array([by_image[image][0]["class"] for image in images.tolist()], np.int64)
        limit = max(4, MOST_PATCHES * len(images) // max(len(rows), 1))
        kept = rows_for_halves(labels, limit, self.settings.seed).tolist()
        pixels, owners = [], []
        for place in kept:
            image = int(images[place])
            (picture,) = self.pictures.of([image], 1)
            owners += [place] * len(by_image[image])
            pixels += [_resized(picture[row["y0"] : row["y1"], row["x0"] : row["x1"]]) for row in by_image[image]]
        stacked = torch.cat(pixels) if pixels else torch.zeros((0, 3, SIDE, SIDE))
        rows_of = np.array(owners, np.int64)
        return images[rows_of], labels[rows_of], stacked / 127.5 - 1


def rows_for_halves(labels: Int[np.ndarray, " N"], limit: int, seed: int) -> Int[np.ndarray, " n"]:
    """At most ``limit`` rows, as equal in number for every class as there are, of classes with two rows at least.

    Where the limit leaves no two rows for every class, it is a draw of classes: one of a single image could be in one
    half alone, and its image would always be wrong.

    Args:
        labels: of all rows.
        limit: 2 at least.
        seed: of the draws.
    """
    kinds, counts = np.unique(labels, return_counts=True)
    drawn = np.random.default_rng([seed % 2**64, len(kinds)]).permutation(kinds[counts > 1])[: limit // 2]
    rows = np.flatnonzero(np.isin(labels, drawn))
    return rows[balanced_rows(labels[rows], limit, seed)]


def _resized(patch: np.ndarray) -> Tensor:
    values = torch.from_numpy(np.ascontiguousarray(patch)).permute(2, 0, 1)[None].float()
    return F.interpolate(values, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
