"""What the doors take: tensors, numpy arrays, lists and numpy numbers, converted once; and what they refuse."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_ops.errors import RefusedInput


def as_tensor(name: str, value: Any) -> Tensor:
    """``value`` as a tensor: a tensor as it is, an array or a nested list by its numbers. No copy of a large array.

    Lists of Python numbers become float64 or int64. Raises RefusedInput for text, objects and ragged lists.
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise RefusedInput(f"{name}: must be a tensor, an array or a list of numbers, got rows that differ") from error
    if array.dtype.kind not in "fiub":
        raise RefusedInput(
            f"{name}: must be a tensor, an array or a list of numbers, got {type(value).__name__} of {array.dtype}; "
            "convert it first"
        )
    # Torch can neither hold another byte order nor share memory that runs backwards or may not be written.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    return torch.from_numpy(np.ascontiguousarray(native) if native.ndim else native)


def as_columns(name: str, value: Any) -> Tensor:
    """Activation columns (n, D): floating as they came, whole numbers as float32."""
    columns = as_tensor(name, value)
    if columns.ndim != 2:
        raise RefusedInput(
            f"{name}: must have shape (n, D), one activation column per row, got {tuple(columns.shape)}; reshape it: "
            "activations (N, D, H, W) by permute(0, 2, 3, 1).reshape(-1, D)"
        )
    return columns if columns.is_floating_point() else columns.float()


def as_float64(name: str, value: Any, shape: tuple[int | None, ...]) -> Tensor:
    """``value`` in float64, of a shape in which None is any length of at least 1. Raises RefusedInput, also on NaN."""
    numbers = as_tensor(name, value)
    fits = numbers.ndim == len(shape) and all(
        have == want or (want is None and have > 0) for have, want in zip(numbers.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise RefusedInput(f"{name}: must have shape ({wanted}), got {tuple(numbers.shape)}; see the record's fields")
    if numbers.is_complex() or numbers.dtype == torch.bool:
        raise RefusedInput(f"{name}: must hold real numbers, got {numbers.dtype}; convert it first")
    if bool(numbers.isnan().any()):
        place = tuple(numbers.isnan().nonzero()[0].tolist())
        raise RefusedInput(f"{name}: must not hold NaN, got one at {place}; look at the columns that were fitted")
    return numbers.double()


def as_count(name: str, value: Any, lowest: int = 1) -> int:
    """A whole number, also a numpy one, of at least ``lowest``. Raises RefusedInput."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise RefusedInput(
            f"{name}: must be a whole number of at least {lowest}, got {value!r} of {type(value).__name__}; "
            "convert it to int first"
        ) from error
    if isinstance(value, bool) or number < lowest:
        raise RefusedInput(f"{name}: must be a whole number of at least {lowest}, got {value!r}; give a larger one")
    return number
