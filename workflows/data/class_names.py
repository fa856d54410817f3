"""The names of the classes in the order of the network's output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from workflows.errors import DataError

_PREFIX = "torchvision:"


def named_classes(setting: str) -> tuple[str, ...] | None:
    """The names that ``data.class_names`` gives; None when the setting is empty.

    Raises:
        DataError: the file is missing, no JSON list of names, or torchvision has no such weights.
    """
    if not setting:
        return None
    return _from_torchvision(setting) if setting.startswith(_PREFIX) else _from_json(Path(setting))


def names_for_labels(
    names: tuple[str, ...] | None, labels: Int[np.ndarray, "N"], paths: Sequence[str]
) -> tuple[str, ...]:
    """Names for a source that carries its labels as numbers; without names the numbers 0 to the largest label.

    Raises:
        DataError: a label has no name.
    """
    if names is None:
        return tuple(str(label) for label in range(int(labels.max()) + 1))
    outside = np.flatnonzero(labels >= len(names))
    if len(outside):
        first = outside[0]
        raise DataError(
            f"image {paths[first]!r} has label {labels[first]}, outside data.class_names, whose {len(names)} names are "
            f"labels 0 to {len(names) - 1}; give a name for every label ({len(outside)} images are outside)"
        )
    return names


def names_for_classes(names: tuple[str, ...] | None, own_names: Sequence[str]) -> tuple[str, ...]:
    """Names for a source that has its own; those of the setting come first.

    Raises:
        DataError: the setting has another number of names.
    """
    if names is not None and len(names) != len(own_names):
        raise DataError(
            f"data.class_names has {len(names)} names, but the source has {len(own_names)} classes; "
            "give one name per class, or leave data.class_names empty"
        )
    return tuple(own_names) if names is None else names


def labels_of_folders(names: tuple[str, ...] | None, folders: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """The label of every class folder, and the names in output order.

    Folders that are all called like a name are matched by name; otherwise the sorted folders stand for the
    names in order (``n01440764`` for ``tench``) and must be as many.

    Raises:
        DataError: the folders are neither.
    """
    if names is None:
        return list(range(len(folders))), tuple(folders)
    if len(set(names)) == len(names) and set(folders) <= set(names):
        return [names.index(folder) for folder in folders], names
    if len(folders) != len(names):
        raise DataError(
            f"data.class_names has {len(names)} names for {len(folders)} class folders ({folders[0]}, ...): "
            "the folders must be called like the names, or be as many, in the order of the names"
        )
    return list(range(len(folders))), names


def _from_json(path: Path) -> tuple[str, ...]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"data.class_names {str(path)!r} does not exist; give a JSON list of names or {_PREFIX}<WEIGHTS>"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"data.class_names {str(path)!r} is not a JSON list of names: {error}") from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(
            f'data.class_names {str(path)!r} must hold a JSON list of names, such as ["cat", "dog"], in output order'
        )
    return tuple(names)


def _from_torchvision(setting: str) -> tuple[str, ...]:
    # Late, because torchvision costs seconds and most presets name their classes in a file.
    from workflows.networks.compiled_ops import torchvision

    try:
        names = torchvision.models.get_weight(setting.removeprefix(_PREFIX)).meta["categories"]
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"data.class_names {setting!r}: torchvision has no such weights with class names ({error}); "
            "write it like torchvision:ResNet50_Weights.IMAGENET1K_V2"
        ) from None
    return tuple(str(name) for name in names)
