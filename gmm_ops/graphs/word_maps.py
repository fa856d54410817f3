"""Word maps as the integer arrays the counting kernels read, and what counting refuses."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.axes import LowerWordMaps, WordMaps
from gmm_ops.errors import RefusedInput
from gmm_ops.inputs import as_count, as_tensor

# The kernels are compiled for this type alone: one compilation, whatever type the word maps are kept in.
WORD_TYPE = np.int32


def word_array(name: str, maps: WordMaps, n_words: int | None = None) -> np.ndarray:
    """The word maps (N, H, W) as a contiguous int32 array; negative words mark columns that take no part.

    Raises ``RefusedInput`` when ``maps`` has not three axes, holds no integers, or a word is ``n_words`` or more.
    """
    array = integer_array(name, maps, n_axes=3, axes="(images, rows, columns)")
    _refuse_beyond(name, int(array.max()) if array.size else -1, n_words)
    # Any negative word means the same, and a very negative int64 must not wrap round to a word.
    clipped = np.maximum(array, -1) if array.dtype.kind == "i" else array
    return np.ascontiguousarray(clipped, WORD_TYPE)


def word_tensors(
    upper: WordMaps, lower: LowerWordMaps, n_upper: int | None = None, n_lower: int | None = None
) -> tuple[Tensor, Tensor]:
    """What ``word_arrays`` gives of maps on a GPU, left there. Raises ``RefusedInput`` as it does."""
    upper_words, lower_words = _word_tensor("upper", upper, n_upper), _word_tensor("lower", lower, n_lower)
    _refuse_other_images(len(upper_words), len(lower_words))
    return upper_words, lower_words


def _word_tensor(name: str, maps: WordMaps, n_words: int | None) -> Tensor:
    if maps.ndim != 3 or maps.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        return torch.from_numpy(word_array(name, maps, n_words)).to(maps.device)  # refused, or a rare type
    _refuse_beyond(name, int(maps.max()) if maps.numel() else -1, n_words)
    return (maps if maps.dtype == torch.uint8 else maps.clamp(min=-1)).to(torch.int32)


def on_device(*maps: object) -> bool:
    """Whether these are tensors that lie on one GPU."""
    devices = {one.device if isinstance(one, Tensor) else torch.device("cpu") for one in maps}
    return len(devices) == 1 and devices.pop().type != "cpu"


def word_arrays(
    upper: WordMaps, lower: LowerWordMaps, n_upper: int | None = None, n_lower: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Both layers' word maps as arrays. Raises ``RefusedInput`` also when they hold different numbers of images."""
    upper_words, lower_words = word_array("upper", upper, n_upper), word_array("lower", lower, n_lower)
    _refuse_other_images(len(upper_words), len(lower_words))
    return upper_words, lower_words


def _refuse_beyond(name: str, highest: int, n_words: int | None) -> None:
    limit = np.iinfo(WORD_TYPE).max if n_words is None else n_words
    if highest >= limit:
        raise RefusedInput(
            f"{name}: every word must be below {limit} (the words of the dictionary), got word {highest}; "
            "pass the number of words of the layer these maps belong to"
        )


def _refuse_other_images(n_upper: int, n_lower: int) -> None:
    if n_upper != n_lower:
        raise RefusedInput(
            f"upper, lower: both must hold the same images, got {n_upper} and {n_lower} images; "
            "pass the two layers' word maps of one list of images"
        )


def group_array(groups: Int[Tensor, " N"], n_images: int) -> np.ndarray:
    """The group of every image as int64. Raises ``RefusedInput`` unless there is one group for each image."""
    array = integer_array("groups", groups, n_axes=1, axes="(images,)")
    if len(array) != n_images:
        raise RefusedInput(
            f"groups: must name one group for each of the {n_images} images, got {len(array)}; "
            "pass the predicted class (or the image number) of every image"
        )
    return array.astype(np.int64)


def integer_array(name: str, tensor: Tensor, n_axes: int, axes: str) -> np.ndarray:
    """The tensor in host memory. Raises ``RefusedInput`` for a wrong number of axes or a type without integers."""
    array = as_tensor(name, tensor).cpu().numpy()
    if array.ndim != n_axes:
        raise RefusedInput(f"{name}: must have the axes {axes}, got shape {array.shape}; reshape it first")
    if array.dtype.kind not in "iu":
        raise RefusedInput(f"{name}: must hold integers, got {array.dtype}; pass hard words, not posteriors")
    return array


def positive_count(name: str, value: int) -> int:
    """``value`` if it is a possible number of words. Raises ``RefusedInput`` below 1 or above the int32 range."""
    if not 1 <= as_count(name, value, -(2**63)) <= np.iinfo(WORD_TYPE).max:
        raise RefusedInput(
            f"{name}: must be at least 1 and fit in int32, got {value}; pass the number of words of the dictionary"
        )
    return int(value)
