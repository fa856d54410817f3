"""What the slices of a dictionary ask of each other."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@runtime_checkable
class Collective(Protocol):
    """Reductions over the slices of one dictionary.

    Every slice makes the same calls in the same order, with tensors of one shape and dtype, and all get the same
    bits; the argument stays as it is. float32 and float64 tensors on the device of the words.
    """

    rank: int
    """Of this slice, from 0, in the order of the words."""
    world: int
    """Number of slices."""

    def all_reduce_sum(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Sum over slices."""

    def all_reduce_max(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Maximum over slices."""


class Lone:
    """The reductions of a dictionary in one slice."""

    rank = 0
    world = 1

    def all_reduce_sum(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """A copy."""
        return tensor.clone()

    def all_reduce_max(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """A copy."""
        return tensor.clone()


LONE = Lone()
"""Of a dictionary that one actor holds whole."""


def gathered(own: Float[Tensor, "..."], reduce: Collective) -> Float[Tensor, "world ..."]:
    """The tensors of all slices in rank order; for small ones. Adding zeros keeps every bit."""
    table = own.new_zeros((reduce.world, *own.shape))
    table[reduce.rank] = own
    return reduce.all_reduce_sum(table)


def log_sum_exp(own: Float[Tensor, " n"], reduce: Collective) -> Float[Tensor, " n"]:
    """Log-sum-exp over all words from each slice's own, natural logarithm, in the dtype given.

    own: may be -inf where a slice has nothing but empty words, not on every slice.
    """
    best = reduce.all_reduce_max(own)
    return best + reduce.all_reduce_sum(torch.exp(own - best)).log()
