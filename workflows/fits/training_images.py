"""Which training images a fit sees and which judge it, chunk by chunk; the same for every layer."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from gmm_ops.mixtures.seeding import fit_seed
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder


class TrainingImages:
    """S_T in chunks of ``extract.images_per_chunk`` images, the unit of reading.

    Broken images never take part. Held-out images (a seeded share of S_T) are kept from the fit and read apart.
    Only chunks with an image that takes part are counted, so that a scope costs what its own images cost.

    Args:
        settings, plan, folder: of the run.
        members: mask over all training images, those of the scope's classes; None: all.

    Attributes:
        chunks: their number; the last one may be shorter.
        fitted, held_out: masks over all training images.
    """

    def __init__(
        self, settings: Settings, plan: Plan, folder: RunFolder, members: Bool[np.ndarray, " N"] | None = None
    ) -> None:
        self._step, self._images = settings.extract.images_per_chunk, plan.train_images
        readable = readable_images(folder, 0, plan.train_images)
        readable &= True if members is None else members
        apart = held_out_images(settings, plan, members, readable)
        self.fitted: Bool[np.ndarray, " N"] = readable & ~apart
        self.held_out: Bool[np.ndarray, " N"] = readable & apart
        self._numbers = np.unique(np.flatnonzero(readable) // self._step).tolist()
        self.chunks = len(self._numbers)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """First image of a chunk and the one behind its last."""
        first = self._numbers[chunk] * self._step
        return first, min(first + self._step, self._images)

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
    status = read_image_rows(folder.images_table, first, stop, ["status"])["status"]
    return np.array(pc.equal(status, "ok").to_numpy(), bool)


def held_out_images(
    settings: Settings,
    plan: Plan,
    members: Bool[np.ndarray, " N"] | None = None,
    readable: Bool[np.ndarray, " N"] | None = None,
) -> Bool[np.ndarray, " N"]:
    """The seeded share of the scope's training images that no fit sees: at least one, and never all.

    Two scopes hold out the same images as far as one order of all images allows.

    Args:
        settings, plan: of the run.
        members: as in ``TrainingImages``.
        readable: members that are not broken; where the share has none of them, the next one in the order joins it.
            None: all are.
    """
    chosen = np.zeros(plan.train_images, bool)
    order = np.random.default_rng(fit_seed(settings.seed, "held-out", "images")).permutation(plan.train_images)
    order = order if members is None else order[members[order]]
    count = max(1, round(settings.fit.held_out * len(order)))
    chosen[order[: min(count, max(0, len(order) - 1))]] = True
    usable = order if readable is None else order[readable[order]]
    if len(usable) > 1 and not chosen[usable].any():
        chosen[usable[0]] = True
    return chosen
