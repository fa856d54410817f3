"""Networks of the shipped presets: small residual ones, dense layers only, VGG's convolutions; a patch classifier."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class _Shortcut(nn.Module):
    """Option A of He et al. 2016: keep every second row and column, pad the new units with zeros."""

    def __init__(self, units_in: int, units_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (units_out - units_in) // 2, (units_out - units_in + 1) // 2

    def forward(self, maps: Float[Tensor, "N D H W"]) -> Float[Tensor, "N D_out H_out W_out"]:
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


class _BasicBlock(nn.Module):
    def __init__(self, units_in: int, units_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(units_in, units_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(units_out)
        self.conv2 = nn.Conv2d(units_out, units_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(units_out)
        self.relu = nn.ReLU()
        changes = stride != 1 or units_in != units_out
        self.shortcut = _Shortcut(units_in, units_out, stride) if changes else nn.Identity()

    def forward(self, maps: Float[Tensor, "N D H W"]) -> Float[Tensor, "N D_out H_out W_out"]:
        inner = self.relu(self.bn1(self.conv1(maps)))
        return self.relu(self.bn2(self.conv2(inner)) + self.shortcut(maps))


class ThreeStageResNet(nn.Module):
    """Residual network with three stages of basic blocks and no parameters in its shortcuts.

    Args:
        units: units of the three stages.
        blocks: residual blocks in each stage; the network has 3 * blocks additions.
        n_classes: outputs.
        stem_stride: stride of the first convolution.
    """

    def __init__(self, units: Sequence[int], blocks: int, n_classes: int, stem_stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, units[0], 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(units[0])
        self.relu = nn.ReLU()
        self.layer1 = self._stage(units[0], units[0], blocks, 1)
        self.layer2 = self._stage(units[0], units[1], blocks, 2)
        self.layer3 = self._stage(units[1], units[2], blocks, 2)
        self.linear = nn.Linear(units[2], n_classes)

    @staticmethod
    def _stage(units_in: int, units_out: int, blocks: int, stride: int) -> nn.Sequential:
        first = _BasicBlock(units_in, units_out, stride)
        return nn.Sequential(first, *(_BasicBlock(units_out, units_out, 1) for _ in range(blocks - 1)))

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N M"]:
        """Logits of normalised images."""
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.linear(maps.mean(dim=(2, 3)))


def resnet20_cifar(n_classes: int = 10) -> ThreeStageResNet:
    """ResNet-20 for 32x32 images (He et al. 2016, section 4.2) with option-A shortcuts; 9 additions."""
    return ThreeStageResNet((16, 32, 64), 3, n_classes)


def digits_resnet(n_classes: int = 10, blocks: int = 1) -> ThreeStageResNet:
    """Small residual network for 32x32 images of 3 channels that trains in seconds on a processor.

    Its first convolution has stride 2, so the maps are 16x16, 8x8 and 4x4: digits that were 8x8 and upsampled to
    32x32 hold no finer detail. Three additions per block of a stage.
    """
    return ThreeStageResNet((16, 32, 64), blocks, n_classes, stem_stride=2)


def mlp(
    units: Sequence[int] = (1000,) * 5,
    n_classes: int = 10,
    inputs: Sequence[int] = (3, 32, 32),
    dropout: float = 0.0,
) -> nn.Sequential:
    """Dense layers with ReLU on the pixels, the network of IG section 4.1 by default.

    The operations are called ``dense1``, ``relu1``, ``drop1``, ``dense2``, ..., ``logits``; there is no ``drop`` where
    ``dropout`` is 0.

    Args:
        units: units of the hidden dense layers, lowest first.
        n_classes: outputs.
        inputs: channels, height and width of an image.
        dropout: share of the units of a hidden layer that a training step leaves out; none once it is trained.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    sizes = [math.prod(inputs), *units]
    for number, (below, size) in enumerate(pairwise(sizes), start=1):
        layers[f"dense{number}"] = _he_started(nn.Linear(below, size))
        layers[f"relu{number}"] = nn.ReLU()
        if dropout:
            layers[f"drop{number}"] = nn.Dropout(dropout)
    layers["logits"] = nn.Linear(sizes[-1], n_classes)
    return nn.Sequential(layers)


_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Units and convolutions of the blocks, each of which ends in a pooling."""


class VGGConvolutions(nn.Module):
    """VGG's 3x3 convolutions with ReLU, in blocks that halve the map, under torchvision's names ``features.N``.

    Args:
        blocks: units and number of convolutions of each.
        n_classes: outputs of one dense layer on the means of the last maps, ``classifier``; 0: there is none, and the
            last maps are the result.
    """

    def __init__(self, blocks: Sequence[tuple[int, int]], n_classes: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        below = 3
        for units, convolutions in blocks:
            for _ in range(convolutions):
                layers += [nn.Conv2d(below, units, 3, padding=1), nn.ReLU()]
                below = units
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(below, n_classes) if n_classes else None

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N ..."]:
        """Logits (N, M), or maps (N, D, H / 2^blocks, W / 2^blocks), of normalised images."""
        maps = self.features(images)
        return maps if self.classifier is None else self.classifier(maps.mean(dim=(2, 3)))


def vgg16_convolutions(n_classes: int = 0) -> VGGConvolutions:
    """The 13 convolutions of VGG-16 (configuration D), alone or with a dense layer for so many classes."""
    return VGGConvolutions(_VGG16, n_classes)


def small_vgg(units: Sequence[int] = (8, 16, 24), n_classes: int = 0) -> VGGConvolutions:
    """The same with one convolution a block, for tests and first tries."""
    return VGGConvolutions([(one, 1) for one in units], n_classes)


class PictureEncoder(nn.Module):
    """Encoder of a VAE-GAN: convolutions of stride 2 with normalisation and ReLU, then mean and log variance of a code.

    The convolutions are called ``conv1``, ``conv2``, ...; the last maps are read by one layer, ``dense``.

    Args:
        latent: numbers of a code; the network gives twice as many.
        units: of the convolutions.
        side: pixels of a picture's side, divisible by 2 ** len(units).
    """

    def __init__(self, latent: int = 128, units: Sequence[int] = (32, 64, 128), side: int = 64) -> None:
        super().__init__()
        if side % 2 ** len(units):
            raise ValueError(f"side must be divisible by {2 ** len(units)}, got {side}; choose another, or fewer units")
        below = 3
        for number, one in enumerate(units, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(below, one, 5, 2, padding=2, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(one))
            below = one
        self.layers, self.side = len(units), side
        self.dense = nn.Linear(below * (side >> len(units)) ** 2, 2 * latent)

    def forward(self, images: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N two_latent"]:
        """Mean, then log variance, of the code of normalised images."""
        maps = images
        for number in range(1, self.layers + 1):
            maps = F.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(maps)))
        return self.dense(maps.flatten(1))


def patch_classifier(n_classes: int, side: int = 32, units: int = 64) -> nn.Sequential:
    """IR's secondary classifier: three convolutions with max pooling between, on patches resized to one size.

    Args:
        n_classes: outputs.
        side: pixels of a patch's side; divisible by 4.
        units: of each convolution.
    """
    layers: list[nn.Module] = []
    for number, below in enumerate((3, units, units)):
        layers += [nn.MaxPool2d(2)] if number else []
        layers += [nn.Conv2d(below, units, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(units * (side // 4) ** 2, n_classes))


def _he_started(dense: nn.Linear) -> nn.Linear:
    """He et al. 2015: torch's own start shrinks activations to a sixth of their variance at every ReLU."""
    nn.init.kaiming_normal_(dense.weight, nonlinearity="relu")
    nn.init.zeros_(dense.bias)
    return dense
