"""Data sets that a library brings along as arrays: torchvision's CIFAR-10 and scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from workflows.errors import DataError
from workflows.storage.object_store import absolute

DIGITS_SIDE = 32


@dataclass(frozen=True)
class PackagedImages:
    """A whole data set in memory.

    Attributes:
        pixels: uint8 (N, H, W, 3), RGB.
        labels: int64 (N,).
        class_names: in label order.
    """

    pixels: UInt8[np.ndarray, "N H W 3"]
    labels: Int[np.ndarray, "N"]
    class_names: tuple[str, ...]


@lru_cache(maxsize=1)
def load_digits() -> PackagedImages:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 of 0..16, as RGB 0..255 of 32 x 32 pixels (bilinear)."""
    # Late, because scikit-learn costs a second and only this source needs it.
    from sklearn import datasets

    digits = datasets.load_digits()
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)
    side = (DIGITS_SIDE, DIGITS_SIDE)
    large = np.stack([np.asarray(Image.fromarray(g).resize(side, Image.Resampling.BILINEAR)) for g in gray])
    pixels = np.repeat(large[:, :, :, None], 3, axis=3)
    return PackagedImages(pixels, digits.target.astype(np.int64), tuple(str(name) for name in digits.target_names))


@lru_cache(maxsize=2)
def load_cifar10(root: str, train: bool, download: bool) -> PackagedImages:
    """CIFAR-10 as torchvision stores it: 50,000 training or 10,000 test images of 32 x 32 pixels.

    Raises:
        DataError: the files are missing, damaged, or cannot be downloaded.
    """
    if not root:
        raise DataError("data.root is empty; name the folder where torchvision keeps CIFAR-10")
    # Late, because torchvision costs seconds and only this source needs it.
    from workflows.networks.compiled_ops import torchvision

    try:
        images = torchvision.datasets.CIFAR10(absolute(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        remedy = "see whether the network is up" if download else "name its folder, or set data.download = true"
        raise DataError(f"data.root {root!r}: CIFAR-10 cannot be loaded ({error}); {remedy}") from None
    return PackagedImages(
        np.ascontiguousarray(images.data), np.asarray(images.targets, dtype=np.int64), tuple(images.classes)
    )
