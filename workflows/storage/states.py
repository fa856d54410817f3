"""Named arrays as npz files, such as fit checkpoints: never pickles, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from workflows.errors import RunFolderError
from workflows.storage.atomic import replacing


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
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise RunFolderError(f"{str(path)!r} is missing: run the fit stage") from None
    except (BadZipFile, ValueError, OSError, EOFError) as error:
        raise RunFolderError(f"{str(path)!r} is damaged ({error}): delete it and run again") from error


def with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays of one part of a state, whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
