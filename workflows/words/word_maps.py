"""Reading back what extract and words wrote: word maps, labels and predictions of consecutive images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from workflows.plan.run_plan import OUTPUT, Plan
from workflows.storage.arrays import open_array, read_rows
from workflows.storage.run_folder import RunFolder
from workflows.words.scope_images import MemberBlock

FIELDS = {"word": "int32", "posterior": "float32", "log_joint": "float32"}
"""Arrays of a word map: hard word (-1: the picture was broken, or the scope does not assign the image),
P(word | column), log P(word, column)."""


def words_path(folder: RunFolder, scope: str, layer: str, field: str) -> Path:
    """The array of one field of a layer's word maps."""
    return folder.words(scope, layer, None if field == "word" else field)


def read_words(folder: RunFolder, scope: str, layer: str, first: int, stop: int) -> Int[Tensor, "N H W"]:
    """Word maps of images [first, stop)."""
    return torch.from_numpy(read_rows(words_path(folder, scope, layer, "word"), first, stop))


def read_member_maps(path: Path, block: MemberBlock) -> Shaped[Tensor, "n H W"]:
    """Maps of the images that a block holds, in ascending order, from one array."""
    array = open_array(path)
    parts = [read_rows(array, first, stop) for first, stop in block.ranges]
    maps = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return torch.from_numpy(maps if block.member.all() else maps[block.member])


def read_all_maps(
    folder: RunFolder, scope: str, plan: Plan, first: int, stop: int, predicted: np.ndarray
) -> dict[str, Int[Tensor, "N H W"]]:
    """Word maps of images [first, stop) in every layer; in the output the word is the predicted class."""
    maps = {layer.name: read_words(folder, scope, layer.name, first, stop) for layer in plan.layers}
    return maps | {OUTPUT: torch.from_numpy(predicted)[:, None, None]}
