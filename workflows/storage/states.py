"""Named arrays as npz files, such as fit checkpoints: never pickles, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from workflows.errors import LostFile, RunFolderError, StorageFault, system_words
from workflows.storage.atomic import replacing


def save_state(path: Path, state: Mapping[str, np.ndarray], synced: bool = True) -> None:
    """Write named arrays atomically: a killed writer leaves the earlier file. synced: see ``replacing``."""
    for name, values in state.items():
        if np.asarray(values).dtype == object:
            raise ValueError(f"state {name!r} is no plain array")
    with replacing(path, synced=synced) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(values) for name, values in state.items()})


def load_state(path: Path, stage: str = "fit") -> dict[str, np.ndarray]:
    """Read named arrays that ``save_state`` wrote. stage: that does it.

    Raises:
        LostFile: the file is missing. StorageFault: it cannot be read just now. RunFolderError: it is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise LostFile(f"{str(path)!r} is missing: run the {stage} stage") from None
    except (BadZipFile, ValueError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, which says nothing of the content
            raise StorageFault(system_words(error)) from None
        raise RunFolderError(f"{str(path)!r} is damaged ({error}): delete it and run again") from error


@contextmanager
def open_states(paths: Iterable[Path]) -> Iterator[Callable[[str], list[np.ndarray]]]:
    """Files that ``save_state`` wrote, opened for their single arrays.

    Gives a function: the arrays of a name, of those files that have it, in their order; read when it is called.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    listed = list(paths)
    try:
        with ExitStack() as opened:
            archives = [opened.enter_context(np.load(path, allow_pickle=False)) for path in listed]
            names = [frozenset(archive.files) for archive in archives]
            yield lambda name: [archive[name] for archive, known in zip(archives, names, strict=True) if name in known]
    except FileNotFoundError as error:
        raise RunFolderError(f"{error.filename!r} is missing: give the command again") from None
    except (BadZipFile, EOFError) as error:
        told = ", ".join(sorted({str(path.parent) for path in listed}))
        raise RunFolderError(f"a file in {told!r} is damaged ({error}): delete them and run again") from error


def with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays of one part of a state, whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
