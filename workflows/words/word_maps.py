"""Reading back what extract and words wrote: word maps, labels and predictions of consecutive images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workflows.plan.run_plan import OUTPUT, Plan
from workflows.storage.arrays import read_rows
from workflows.storage.run_folder import RunFolder

FIELDS = {"word": "int32", "posterior": "float32", "log_joint": "float32"}
"""Arrays of a word map: hard word (-1: the picture was broken, or the scope does not assign the image),
P(word | column), log P(word, column)."""


def words_path(folder: RunFolder, scope: str, layer: str, field: str) -> Path:
    """The array of one field of a layer's word maps."""
    return folder.words(scope, layer, None if field == "word" else field)


def read_words(folder: RunFolder, scope: str, layer: str, first: int, stop: int) -> Int[Tensor, "N H W"]:
    """Word maps of images [first, stop)."""
    return torch.from_numpy(read_rows(words_path(folder, scope, layer, "word"), first, stop))


def read_member_words(
    folder: RunFolder, scope: str, layer: str, first: int, member: Bool[np.ndarray, " N"]
) -> Int[Tensor, "N H W"]:
    """Word maps of the images from ``first``; -1 where ``member`` is False: a scope may assign images outside it."""
    words = read_words(folder, scope, layer, first, first + len(member))
    return words if member.all() else words.masked_fill(torch.from_numpy(~member)[:, None, None], -1)


def read_all_maps(
    folder: RunFolder, scope: str, plan: Plan, first: int, stop: int, predicted: np.ndarray
) -> dict[str, Int[Tensor, "N H W"]]:
    """Word maps of images [first, stop) in every layer; in the output the word is the predicted class."""
    maps = {layer.name: read_words(folder, scope, layer.name, first, stop) for layer in plan.layers}
    return maps | {OUTPUT: torch.from_numpy(predicted)[:, None, None]}
