"""Networks with every way that a signal may take back to the pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.references import deconvnet as slow
from tests.workflows.networks.sample_networks import with_random_statistics


class Joined(nn.Module):
    """Stride, folded norms, pooling with overlap and ceil_mode, a concatenation, an addition, in-place ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.left = nn.Conv2d(4, 3, 1)
        self.right, self.right_norm = nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.inner, self.inner_norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.top = nn.Conv2d(6, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.relu(self.stem_norm(self.stem(images))))
        both = torch.cat([F.relu(self.left(maps)), self.relu(self.right_norm(self.right(maps)))], 1)
        both = self.relu(self.inner_norm(self.inner(both)) + both)
        return self.linear(F.relu(self.top(both)).mean(dim=(2, 3)))


def joined(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return with_random_statistics(Joined(), seed).double()


def joined_by_hand(network: nn.Module, image: slow.Maps, unit: int) -> slow.Maps:
    """Signal of a unit of ``top`` at the pixels."""
    n: Joined = network  # type: ignore[assignment]
    stem, left = slow.folded(n.stem, n.stem_norm), slow.folded(n.left, None)
    right, inner, top = (
        slow.folded(conv, norm) for conv, norm in ((n.right, n.right_norm), (n.inner, n.inner_norm), (n.top, None))
    )
    first = slow.rectified(slow.convolved(image, *stem, 2, 1))
    maps, switches = slow.pooled(first, 3, 2, ceil=True)
    both = slow.rectified(np_cat(slow.convolved(maps, *left), slow.convolved(maps, *right, 1, 1)))
    summed = slow.rectified(slow.convolved(both, *inner, 1, 1) + both)
    signal = slow.strongest_alone(slow.rectified(slow.convolved(summed, *top)), unit)
    signal = slow.rectified(slow.transposed(slow.rectified(signal), top[0], summed.shape))
    signal = slow.rectified(slow.transposed(signal, inner[0], both.shape, 1, 1) + signal)
    back = slow.transposed(signal[:3], left[0], maps.shape)
    back += slow.transposed(signal[3:], right[0], maps.shape, 1, 1)
    back = slow.rectified(slow.unpooled(back, switches, first.shape))
    return slow.transposed(back, stem[0], image.shape, 2, 1)


def np_cat(first: slow.Maps, second: slow.Maps) -> slow.Maps:
    import numpy as np

    return np.concatenate([first, second])
