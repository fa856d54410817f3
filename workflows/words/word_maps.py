"""Reading back what extract and words wrote: word maps, labels and predictions of consecutive images.

A scope that holds all images has an array for each field, one that holds few has ``FewMaps``; here alone it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from workflows.plan.run_plan import OUTPUT, Plan
from workflows.storage.arrays import array_exists, open_array, read_rows
from workflows.storage.run_folder import RunFolder
from workflows.words.few_maps import FIELDS, FewMaps, fill_value
from workflows.words.scope_images import MemberBlock

__all__ = ["FIELDS", "fill_value", "has_maps", "open_maps", "read_all_maps", "read_member_maps", "read_words"]

MapReader = Callable[[int, int], np.ndarray]
"""First image and the one behind the last -> their maps, (n, H, W)."""


def words_path(folder: RunFolder, scope: str, layer: str, field: str) -> Path:
    """The array of one field of a layer's word maps, of a scope that has arrays."""
    return folder.words(scope, layer, None if field == "word" else field)


def open_maps(folder: RunFolder, scope: str, layer: str, field: str = "word") -> MapReader:
    """Reads one field of a layer's word maps; of images that the scope does not assign it is ``fill_value``.

    Raises:
        LostFile: there are none, or, when they are read, a shard is missing.
    """
    few = FewMaps.read(folder, scope)
    if few is not None:
        return partial(few.read_rows, folder, scope, layer, field)
    return partial(read_rows, open_array(words_path(folder, scope, layer, field)))


def has_maps(folder: RunFolder, scope: str, layer: str) -> bool:
    """Whether the words stage has come to the scope."""
    return folder.words_index(scope).exists() or array_exists(words_path(folder, scope, layer, "word"))


def read_words(folder: RunFolder, scope: str, layer: str, first: int, stop: int) -> Int[Tensor, "N H W"]:
    """Word maps of images [first, stop)."""
    return torch.from_numpy(open_maps(folder, scope, layer)(first, stop))


def read_member_maps(
    folder: RunFolder, scope: str, layer: str, field: str, block: MemberBlock
) -> Shaped[Tensor, "n H W"]:
    """One field of the maps of the images that a block holds, in ascending order."""
    read = open_maps(folder, scope, layer, field)
    parts = [read(first, stop) for first, stop in block.ranges]
    maps = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return torch.from_numpy(maps if block.member.all() else maps[block.member])


def read_all_maps(
    folder: RunFolder, scope: str, plan: Plan, first: int, stop: int, predicted: np.ndarray
) -> dict[str, Int[Tensor, "N H W"]]:
    """Word maps of images [first, stop) in every layer; in the output the word is the predicted class."""
    maps = {layer.name: read_words(folder, scope, layer.name, first, stop) for layer in plan.layers}
    return maps | {OUTPUT: torch.from_numpy(predicted)[:, None, None]}
