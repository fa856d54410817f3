"""The two matrix products of an EM pass, each on the fastest full-precision kernel there is.

On a CPU, `torch.mm` asks MKL, which runs at half the float32 rate on AMD processors; the 1x1 convolution of
oneDNN is the same product at the full rate everywhere. Both keep 24 bits of mantissa.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

ROW_MULTIPLE = 64
"""Products take a multiple of this many rows: under about 16 rows the libraries switch to kernels that round
differently, and a column's last bits would depend on how many neighbours it was scored with."""


def row_products(features: Float[Tensor, "n F"], weights: Float[Tensor, "K F"]) -> Float[Tensor, "n K"]:
    """features @ weights.T, a fresh contiguous tensor; n is a multiple of 64 for the fast kernel."""
    rows, width = features.shape
    if not _fast_kernel(features):
        return features @ weights.T
    maps = functional.conv2d(_as_maps(features), weights.view(weights.shape[0], width, 1, 1))
    return maps.permute(0, 2, 3, 1).reshape(rows, weights.shape[0])


def weighted_sums(posteriors: Float[Tensor, "n K"], features: Float[Tensor, "n F"]) -> Float[Tensor, "K F"]:
    """posteriors.T @ features: the weight gradient of a 1x1 convolution."""
    words, width = posteriors.shape[1], features.shape[1]
    if not _fast_kernel(features):
        return posteriors.T @ features
    shape = (words, width, 1, 1)
    sums: Tensor = conv2d_weight(_as_maps(features), shape, _as_maps(posteriors)).reshape(words, width)
    return sums


@contextmanager
def full_precision() -> Iterator[None]:
    """Full float32 products: TF32 keeps 10 bits of mantissa, too few for differences of large squares."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _fast_kernel(features: Tensor) -> bool:
    return (
        features.device.type == "cpu"
        and features.dtype == torch.float32
        and features.shape[0] % ROW_MULTIPLE == 0
        and torch.backends.mkldnn.is_available()
    )


def _as_maps(rows: Float[Tensor, "n F"]) -> Float[Tensor, "b F h 1"]:
    """Rows as channels-last maps without a copy.

    At least 16 maps: with fewer, a single-threaded torch does not hand the convolution to oneDNN.
    """
    height = max(4, min(64, rows.shape[0] // 16))
    return rows.view(-1, height, 1, rows.shape[1]).permute(0, 3, 1, 2)
