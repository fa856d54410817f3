"""Dictionaries as npz files: plain arrays, never pickles, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.mixtures.mixture import Mixture
from workflows.errors import RunFolderError
from workflows.storage.states import load_state, save_state

__all__ = ["load_mixture", "load_reseeded", "load_state", "save_mixture", "save_state"]

_FIELDS = ("log_pi", "mean", "variance", "center")
_RESEEDED = "reseeded"


def save_mixture(path: Path, mixture: Mixture, reseeded: Int[Tensor, "K"] | None = None) -> None:
    """Write a mixture: log_pi (K,), mean and variance (K, D), center (D,), float64.

    Args:
        path: the file; replaced if it is there.
        mixture: a layer's dictionary.
        reseeded: how often the fit re-seeded each word (K,); None: never.
    """
    arrays = {name: getattr(mixture, name).detach().cpu().numpy() for name in _FIELDS}
    counts = torch.zeros(len(mixture.log_pi), dtype=torch.int64) if reseeded is None else reseeded
    save_state(path, {**arrays, _RESEEDED: counts.detach().cpu().numpy().astype(np.int64)})


def load_mixture(path: Path) -> Mixture:
    """Read a mixture that ``save_mixture`` wrote, bit for bit.

    Raises:
        RunFolderError: the file is missing, damaged or no mixture.
    """
    arrays = _load(path)
    return Mixture(**{name: torch.from_numpy(arrays[name]) for name in _FIELDS})


def load_reseeded(path: Path) -> Int[np.ndarray, "K"]:
    """How often the fit re-seeded each word of the mixture at ``path``, int64.

    Raises:
        RunFolderError: see ``load_mixture``.
    """
    return _load(path)[_RESEEDED]


def _load(path: Path) -> dict[str, np.ndarray]:
    arrays = load_state(path)
    missing = [name for name in (*_FIELDS, _RESEEDED) if name not in arrays]
    if missing:
        raise RunFolderError(f"{str(path)!r} is no mixture: it has no {', '.join(missing)}")
    return arrays
