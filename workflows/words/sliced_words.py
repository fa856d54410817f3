"""Which words of a dictionary are a rank's own, and the files in which the ranks of one fit keep them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.fitting.collective import Collective, Lone
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice, slice_bounds
from workflows.storage.atomic import replacing
from workflows.storage.states import load_state, save_state

SWEEP_COLUMNS = 16_384
"""Columns that a rank sweeps at a time: fewer pay more for building the score weights than for the columns."""

RESULT = "result"
"""Mark of the files that hold what a fit has come to."""

OF_WORDS = ("log_pi", "mean", "variance", "reseeded")
"""Arrays of a mixture's file with a row for every word."""


def columns_parts(columns: int) -> int:
    """Parts of a global minibatch of so many columns."""
    return max(1, columns // SWEEP_COLUMNS)


@dataclass
class Place:
    """A rank's place in a sliced dictionary.

    rank, world: of the fit group. n_words: K of the whole dictionary.
    reduce: how the ranks meet; known once they have.
    """

    rank: int
    world: int
    n_words: int
    reduce: Collective = field(default_factory=Lone)

    @property
    def sliced(self) -> bool:
        """Whether other ranks hold words of the dictionary."""
        return self.world > 1

    def slice(self, own: Mixture) -> WordSlice:
        """The dictionary's slice with these words, which are the rank's own."""
        return WordSlice(own, self.first, self.n_words)

    @property
    def first(self) -> int:
        """Number of the first own word."""
        return slice_bounds(self.n_words, self.rank, self.world)[0]


@dataclass(frozen=True)
class SliceFiles:
    """What every rank of a fit keeps of its own words, beside the fit's checkpoint and on the same disk.

    checkpoint: of the fit. rank, world: as in Place.
    """

    checkpoint: Path
    rank: int
    world: int

    def path(self, mark: str, rank: int) -> Path:
        """Of one rank. mark: what of its words."""
        return self.checkpoint.with_name(f"{self.checkpoint.stem}.{mark}.slice-{rank}-of-{self.world}.npz")

    def write(self, mark: str, arrays: Mapping[str, np.ndarray]) -> None:
        """The own words, whole or not at all."""
        save_state(self.path(mark, self.rank), arrays)

    def read(self, mark: str) -> dict[str, np.ndarray]:
        """The own words. Raises RunFolderError."""
        return load_state(self.path(mark, self.rank))

    def write_step(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """The own words after a step; those of the step that the checkpoint names stay until it names another."""
        committed = self.path(f"step-{self.committed()}", self.rank)
        for path in self.checkpoint.parent.glob(self.path("step-*", self.rank).name):
            if path != committed:
                path.unlink()
        self.write(f"step-{step}", arrays)

    def committed(self) -> int:
        """The step that the checkpoint names; -1 without one."""
        return int(load_state(self.checkpoint)["at"]) if self.checkpoint.exists() else -1

    def join_mixture(self, loss: str, n_words: int, path: Path) -> None:
        """A file as ``workflows.storage.mixtures`` reads it, slice after slice: only one is in memory at a time."""
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name in OF_WORDS:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as target:
                    for rank in range(self.world):
                        own = np.ascontiguousarray(self.result(rank, f"{loss}.{name}"))
                        if rank == 0:
                            _write_header(target, own, n_words)
                        target.write(own.data)
            with archive.open("center.npy", "w") as target:
                np.lib.format.write_array(target, self.result(0, f"{loss}.center"), allow_pickle=False)

    def result(self, rank: int, name: str) -> np.ndarray:
        """One array of what a rank's words have come to."""
        with np.load(self.path(RESULT, rank), allow_pickle=False) as archive:
            found: np.ndarray = archive[name]
            return found

    def write_result(
        self, models: Mapping[str, tuple[Mixture, LinearClassifier | None]], reseeded: Int[Tensor, " K_own"]
    ) -> None:
        """What the own words have come to. models: by loss, with the own part of their linear layer."""
        arrays: dict[str, np.ndarray] = {}
        for loss, (own, layer) in models.items():
            found = own.to_arrays() | {"reseeded": reseeded.cpu().numpy()} | (layer.to_arrays() if layer else {})
            arrays |= {f"{loss}.{name}": values for name, values in found.items()}
        self.write(RESULT, arrays)

    def layer_arrays(self, losses: Iterable[str]) -> dict[str, np.ndarray]:
        """The whole linear layers, which are small: weight (M, K) and bias (M,) of every loss."""
        found: dict[str, np.ndarray] = {}
        for loss in losses:
            weights = [self.result(rank, f"{loss}.weight") for rank in range(self.world)]
            found |= {f"{loss}_weight": np.concatenate(weights, axis=1), f"{loss}_bias": self.result(0, f"{loss}.bias")}
        return found


def remove_slices(checkpoint: Path) -> None:
    """Delete every slice of a fit that is done."""
    for path in checkpoint.parent.glob(f"{checkpoint.stem}.*.slice-*-of-*.npz"):
        path.unlink(missing_ok=True)


def _write_header(target: IO[bytes], first: np.ndarray, rows: int) -> None:
    shape = (rows, *first.shape[1:])
    described = {"descr": first.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(target, described)
