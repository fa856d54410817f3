"""Dictionaries and fit checkpoints as npz files: plain arrays, never pickles, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from gmm_ops.mixture import Mixture
from workflows.errors import RunFolderError
from workflows.storage.atomic import replacing

_FIELDS = ("log_pi", "mean", "variance", "center")


def save_mixture(path: Path, mixture: Mixture) -> None:
    """Write a mixture: log_pi (K,), mean and variance (K, D), center (D,), float64."""
    save_state(path, {name: getattr(mixture, name).detach().cpu().numpy() for name in _FIELDS})


def load_mixture(path: Path) -> Mixture:
    """Read a mixture that ``save_mixture`` wrote, bit for bit.

    Raises:
        RunFolderError: the file is missing, damaged or no mixture.
    """
    arrays = load_state(path)
    missing = [name for name in _FIELDS if name not in arrays]
    if missing:
        raise RunFolderError(f"{str(path)!r} is no mixture: it has no {', '.join(missing)}")
    return Mixture(**{name: torch.from_numpy(arrays[name]) for name in _FIELDS})


def save_state(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write named arrays atomically: a killed writer leaves the earlier file."""
    for name, values in state.items():
        if np.asarray(values).dtype == object:
            raise ValueError(f"state {name!r} is no plain array")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(values) for name, values in state.items()})


def load_state(path: Path) -> dict[str, np.ndarray]:
    """Read named arrays that ``save_state`` wrote.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise RunFolderError(f"{str(path)!r} is missing: run the fit stage") from None
    except (BadZipFile, ValueError, OSError, EOFError) as error:
        raise RunFolderError(f"{str(path)!r} is damaged ({error}): delete it and run again") from error
