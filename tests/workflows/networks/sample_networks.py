"""Networks of the tests: small, with every trap of a tap, and geometry twins of the large ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workflows.networks.compiled_ops import torchvision

_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def with_random_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """Batch normalisations that do something, so that fusing them wrongly shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
                tensor.data = low + torch.rand(tensor.shape, generator=generator)
            module.bias.data = torch.rand(module.bias.shape, generator=generator) - 0.5
    return network.eval().requires_grad_(False)


def thin_vgg16(divisor: int = 16) -> nn.Module:
    """VGG-16's layers with fewer units: the same windows at a fraction of the cost."""
    units = [size if size == "M" else size // divisor for size in _VGG16]
    with torch.device("meta"):  # its own head of 120 million weights is thrown away
        network = torchvision.models.VGG(nn.Identity(), num_classes=5, init_weights=False)
    network.features = torchvision.models.vgg.make_layers(units)
    network.classifier = nn.Linear(units[-2] * 49, 5)
    return network.eval().requires_grad_(False)


def with_head(units: tuple[int, int], divisor: int = 16) -> nn.Module:
    """VGG-16 with thin convolutions and its own head of three dense layers, with fewer units."""
    network = thin_vgg16(divisor)
    with torch.device("meta"):
        head = torchvision.models.vgg16(weights=None, init_weights=False).classifier
    sizes = (network.classifier.in_features, *units, network.classifier.out_features)
    for place, below, above in zip((0, 3, 6), sizes, sizes[1:], strict=False):
        head[place] = nn.Linear(below, above)
    network.classifier = head
    return network.eval().requires_grad_(False)


def thin_resnet50() -> nn.Module:
    """torchvision's ResNet-50 with narrow bottlenecks."""
    return torchvision.models.resnet50(weights=None, width_per_group=8).eval().requires_grad_(False)


class Overwriting(nn.Module):
    """Every way to overwrite an activation: modules, functions, methods and operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5, inplace=True)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        F.relu(maps, inplace=True)  # the result is unnamed: what follows reads the overwritten maps
        inner = self.second(maps)
        inner.add_(maps)
        inner += 0.25
        summed = self.third(inner) + inner
        overwritten = self.drop(self.act(summed))
        return self.linear((overwritten + summed).relu_().mean(dim=(2, 3)))


class Twice(nn.Module):
    """A convolution and its normalisation called twice, and a convolution read by two operations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.fork = nn.Conv2d(3, 3, 1)
        self.fork_bn = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.bn(self.conv(self.bn(self.conv(images))))
        raw = self.fork(maps)
        return (self.fork_bn(raw) + raw).mean(dim=(2, 3))


class Branching(nn.Module):
    """Its forward pass looks at values, so that nothing can trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.conv1(images))
        if bool(images.mean() < -1e6):
            maps = -maps
        maps = self.relu(self.conv2(maps))
        return self.linear(maps.mean(dim=(2, 3)))


class Pooled(nn.Module):
    """Looks at the size of what comes, which no tracer can follow, and overwrites it."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.relu(maps)
        if maps.shape[-1] > 4:
            maps = F.avg_pool2d(maps, 2)
        return self.conv(maps) + 1


class PartlyTraceable(nn.Module):
    """Two modules that cannot be traced between operations that can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.linear = nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.pooled, self.head = Pooled(), Pooled()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv1(images))
        maps = maps + maps.tanh()
        early = self.pooled(maps)
        maps = F.avg_pool2d(maps, 2) + early  # reads what the module has overwritten
        return self.linear(self.head(self.conv2(maps)).mean(dim=(2, 3)))


class OneOperation(nn.Module):
    """A convolution, one operation under test, and another convolution."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.lower = nn.Conv2d(3, 4, 1)
        self.operation = operation
        self.upper = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.upper(self.operation(self.lower(images))).mean(dim=(2, 3))


class Call(nn.Module):
    """A plain function as a module, traced through."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor) -> Tensor:
        return self.function(maps)  # type: ignore[operator]
