"""Conductance of all layers in one pass a step, over captum's LayerConductance layer by layer; one thread each.

Both take the left rule on the same points, and must agree. captum asks one layer a call, so it walks the path as often
as there are layers.
"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass

import torch
from captum.attr import LayerConductance
from torch import Tensor, nn

from workflows.networks.attribution.gradients import Conductance
from workflows.networks.loading import load_network
from workflows.networks.unit_layers import UnitNetwork
from workflows.settings import NetworkSettings

RATIO = 8.0
"""At least so many times as fast on ResNet-20."""

NETWORKS = {
    "ResNet-20": ("workflows.networks.architectures:resnet20_cifar", "resnet20_cifar10.pt", 32),
    "SqueezeNet": ("torchvision:squeezenet1_0", "squeezenet1_0_imagenet.pt", 227),
}


@dataclass(frozen=True)
class ConductanceRow:
    """Medians of one network; ``ratio`` is captum's time over ours."""

    network: str
    layers: int
    images: int
    steps: int
    seconds: float
    captum_seconds: float
    ratio: float
    largest_relative_difference: float


def measure(repeats: int = 3, tiny: bool = False) -> list[ConductanceRow]:
    """A row for each network. tiny: one small image, two steps, each side once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_measure(name, 1 if tiny else repeats, tiny) for name in NETWORKS]
    finally:
        torch.set_num_threads(threads)


def _measure(name: str, repeats: int, tiny: bool) -> ConductanceRow:
    module, weights, side = NETWORKS[name]
    side = min(side, 64) if tiny else side
    network = load_network(NetworkSettings(name=module, weights=f"../shared/data/weights/{weights}", layers=["output"]))
    count, steps = (1, 2) if tiny else (10 if side == 32 else 1, 32)
    images = torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(0))
    targets, black = torch.arange(count) % 10, torch.zeros(1, 3, side, side)
    traced = UnitNetwork(network, (3, side, side))
    ours: list[float] = []
    theirs: list[float] = []
    asked = Conductance(traced, steps=steps, rule="left")
    for _ in range(repeats):  # in turns, so that a busy machine slows both
        begun = time.perf_counter()
        found = asked(images, targets, black)
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        expected = captum_conductance(network, list(found.maps), images, targets, black, steps)
        theirs.append(time.perf_counter() - begun)
    worst = max(relative_difference(found.maps[layer], expected[layer]) for layer in expected)
    seconds, captum_seconds = statistics.median(ours), statistics.median(theirs)
    ratio = captum_seconds / seconds
    return ConductanceRow(name, len(expected), count, steps, seconds, captum_seconds, ratio, worst)


def captum_conductance(
    network: nn.Module, layers: list[str], images: Tensor, targets: Tensor, baseline: Tensor, steps: int
) -> dict[str, Tensor]:
    """captum's, layer by layer, on the points 0, 1/steps, ..., 1; a normalisation scales both factors away."""
    found = {}
    for layer in layers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = LayerConductance(network, network.get_submodule(layer))
            found[layer] = asked.attribute(
                images, baseline.expand_as(images), targets, n_steps=steps, method="riemann_trapezoid"
            ).detach()
    return found


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())
