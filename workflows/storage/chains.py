"""The hidden Markov model of a run as an npz file: plain arrays, never pickles, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gmm_ops.errors import RefusedInput
from gmm_ops.hmm.model import HiddenMarkovModel
from workflows.errors import RunFolderError
from workflows.storage.names import CHAIN
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, save_state


def chain_path(folder: RunFolder, scope: str) -> Path:
    """``mixtures/<scope>/chain.npz``."""
    return folder.mixture(scope, CHAIN)


def save_chain(path: Path, model: HiddenMarkovModel) -> None:
    """Write a model.

    initial (K,), transition_i (K_upper, K_lower), mean_i and variance_i (K, D) float64 per layer, lowest first,
    rectified (L,) bool.
    """
    save_state(path, model.to_arrays())


def load_chain(path: Path) -> HiddenMarkovModel:
    """Read a model that ``save_chain`` wrote, bit for bit.

    Raises:
        RunFolderError: the file is missing, damaged or no hidden Markov model.
    """
    arrays = load_state(path)
    missing = [name for name in _names(arrays) if name not in arrays]
    if missing:
        raise RunFolderError(f"{str(path)!r} is no hidden Markov model: it has no {', '.join(missing)}")
    try:
        return HiddenMarkovModel.from_arrays(arrays)
    except (RefusedInput, ValueError, IndexError) as error:
        raise RunFolderError(
            f"{str(path)!r} holds no hidden Markov model ({error}): delete it and the fit stage's ledger, and run again"
        ) from error


def _names(arrays: dict[str, np.ndarray]) -> list[str]:
    layers = arrays["rectified"].size if "rectified" in arrays else 0
    tables = [f"transition_{i}" for i in range(layers - 1)]
    return ["initial", "rectified", *tables, *(f"{kind}_{i}" for i in range(layers) for kind in ("mean", "variance"))]
