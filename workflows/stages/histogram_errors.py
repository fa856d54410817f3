"""How often the words' histograms decide wrongly, on all positions of every validation image of a scope."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier, PairedDifference, paired_difference
from gmm_ops.discriminative.histogram import hard_histograms, soft_histograms
from gmm_ops.mixture import Mixture
from workflows.plan import Plan
from workflows.runtime.collective import Collective
from workflows.scope import Scope
from workflows.settings import Settings
from workflows.stages.labelled_images import ImageReader
from workflows.stages.minibatches import PARTS
from workflows.stages.training_images import readable_images
from workflows.stages.word_maps import ImageColumns
from workflows.storage.run_folder import RunFolder

Models = Mapping[str, tuple[Mixture, LinearClassifier]]

WAYS = tuple((loss, histogram) for loss in ("discriminative", "generative") for histogram in ("soft", "hard"))
"""What is measured: whose words, and the mean posterior or the share of hard words."""

NETWORK = "network"


def errors_path(folder: RunFolder, scope: str, layer: str) -> Path:
    """The rows of errors.parquet of one fit."""
    return folder.mixture(scope, layer).with_suffix(".errors.parquet")


class ValidationErrors:
    """The last phase of a fit with the discriminative loss: the labels that every way gives to the scope's S_V.

    It goes in rounds of a fixed number of chunks, which the ranks share; a chunk's images are taken by themselves,
    so an image's label does not depend on who looks at it.

    Args:
        rank, world: place in the fit group.
        settings, plan, folder, scope: of the fit.
        read: columns of the validation images, all positions.
        dtype: of the products.

    Attributes:
        image: (N,) ids of the readable images of S_V.
        label: (N,) their labels in the scope.
        network: (N,) the network's prediction as a label of the scope, -1 for a class outside.
        given: way -> (N,) label from the histogram, -1 until it is known.
        round: how many rounds are done.
    """

    def __init__(
        self,
        *,
        rank: int,
        world: int,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        scope: Scope,
        read: ImageReader,
        dtype: torch.dtype,
    ) -> None:
        self.rank, self.world, self._read, self._dtype = rank, world, read, dtype
        images = ImageColumns.read(folder, plan.train_images, plan.images)
        label = scope.scope_label(images.label)
        taking_part = np.flatnonzero((label >= 0) & readable_images(folder, plan.train_images, plan.images))
        self.image: Int[np.ndarray, " N"] = taking_part + plan.train_images
        self.label: Int[np.ndarray, " N"] = label[taking_part]
        self.network: Int[np.ndarray, " N"] = scope.scope_label(images.predicted[taking_part])
        self.given = {way: np.full(len(self.image), -1, np.int64) for way in WAYS}
        step = settings.extract.images_per_chunk
        starts = plan.train_images + step * np.unique(taking_part // step)
        self._chunks = [(first, min(first + step, plan.images)) for first in starts.tolist()]
        self.round, self.rounds = 0, -(-len(self._chunks) // PARTS)

    @property
    def done(self) -> bool:
        """Whether every image has its labels."""
        return self.round >= self.rounds

    def take_round(self, models: Models, collective: Collective) -> None:
        """The next chunks of all ranks."""
        found = np.zeros((len(WAYS), len(self.image)), np.float64)
        for first, stop in self._chunks[PARTS * self.round : PARTS * (self.round + 1)][self.rank :: self.world]:
            here = np.flatnonzero((self.image >= first) & (self.image < stop))
            if len(here):
                found[:, here] = 1 + self._labels(models, self._read(self.image[here]))
        total = collective.all_reduce_sum(torch.from_numpy(found)).numpy().astype(np.int64)
        for way, labels in zip(WAYS, total, strict=True):
            self.given[way] = np.where(labels > 0, labels - 1, self.given[way])
        self.round += 1

    def _labels(self, models: Models, columns: Float[Tensor, "N positions D"]) -> Int[np.ndarray, "ways N"]:
        rows = []
        for loss, histogram in WAYS:
            mixture, layer = models[loss]
            soft = histogram == "soft"
            shares = soft_histograms(mixture, columns, self._dtype) if soft else hard_histograms(mixture, columns)
            rows.append(layer.labels(shares).cpu().numpy())
        return np.stack(rows)

    def wrong(self, way: tuple[str, str]) -> Bool[Tensor, " N"]:
        """Which images a way gets wrong."""
        return torch.from_numpy(self.given[way] != self.label)

    def records(self, n_words: int, **keys: Any) -> list[dict[str, Any]]:
        """Rows of errors.parquet. keys: scope, layer. None where the scope has no validation image."""
        if not len(self.image):
            return []
        network = int((self.network != self.label).sum())
        found = []
        for loss, histogram in WAYS:
            wrong = self.wrong((loss, histogram))
            other = self.wrong(("generative", histogram))
            row = {"words": n_words, "loss": loss, "histogram": histogram, **_counts(wrong), **keys}
            row |= {"network_errors": network, "network_error": network / len(wrong)}
            found.append(row if loss == "generative" else row | _difference(paired_difference(wrong, other)))
        return found

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The labels so far: for a checkpoint, and for the file that later comparisons pair images with."""
        known = {"image": self.image, "label": self.label, NETWORK: self.network, "round": np.array(self.round)}
        return known | {f"{loss}_{histogram}": labels for (loss, histogram), labels in self.given.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the labels that ``to_arrays`` gave."""
        self.round = int(arrays["round"])
        self.given = {(loss, histogram): arrays[f"{loss}_{histogram}"] for loss, histogram in WAYS}


def _counts(wrong: Bool[Tensor, " N"]) -> dict[str, Any]:
    count = int(wrong.sum())
    return {"images": len(wrong), "errors": count, "error": count / len(wrong)}


def _difference(found: PairedDifference) -> dict[str, Any]:
    return {
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "tie": found.is_tie,
    }
