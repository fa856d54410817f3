"""Which training images a fit sees and which judge it, chunk by chunk; the same for every layer."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from gmm_ops.seeding import fit_seed
from workflows.plan import Plan
from workflows.settings import Settings
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder


class TrainingImages:
    """S_T in chunks of ``extract.images_per_chunk`` images, the unit of reading.

    Broken images never take part. Held-out images (a seeded share of S_T) are kept from the fit and read apart.

    Attributes:
        chunks: their number; the last one may be shorter.
        fitted, held_out: masks over S_T.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self._step, self._images = settings.extract.images_per_chunk, plan.train_images
        readable = readable_images(folder, 0, plan.train_images)
        apart = held_out_images(settings, plan)
        self.fitted: Bool[np.ndarray, " N"] = readable & ~apart
        self.held_out: Bool[np.ndarray, " N"] = readable & apart
        self.chunks = -(-plan.train_images // self._step)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """First image of a chunk and the one behind its last."""
        return chunk * self._step, min((chunk + 1) * self._step, self._images)

    def count(self, mask: Bool[np.ndarray, " N"], chunk: int) -> int:
        """Images of a chunk that are in ``mask``."""
        first, stop = self.bounds(chunk)
        return int(mask[first:stop].sum())

    def kept(self, mask: Bool[np.ndarray, " N"], chunk: int) -> Int[np.ndarray, " n"]:
        """Rows of a chunk, from 0, that are in ``mask``."""
        first, stop = self.bounds(chunk)
        return np.flatnonzero(mask[first:stop])


def readable_images(folder: RunFolder, first: int, stop: int) -> Bool[np.ndarray, " n"]:
    """Which of the images [first, stop) are not broken."""
    status = read_image_rows(folder.images_table, first, stop, ["status"])["status"].to_pylist()
    return np.array([value == "ok" for value in status], bool)


def held_out_images(settings: Settings, plan: Plan) -> Bool[np.ndarray, " N"]:
    """The seeded share of the training images that no fit sees, at least one image."""
    chosen = np.zeros(plan.train_images, bool)
    order = np.random.default_rng(fit_seed(settings.seed, "held-out", "images")).permutation(plan.train_images)
    chosen[order[: max(1, round(settings.fit.held_out * plan.train_images))]] = True
    return chosen
