"""Which weights read a unit: against what a change of the unit alone changes, and known offsets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.workflows.networks.attribution.made_networks import joined
from workflows.networks.architectures import resnet20_cifar
from workflows.networks.attribution.readers import reading_weights
from workflows.networks.compiled_ops import torchvision
from workflows.networks.tracing import trace_network


def read(network: nn.Module, tap: str, size: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    found = reading_weights(trace_network(network.eval()), tap, (3, size, size))
    return found.total, found.variance, found.readers


def sums(*weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of weights (outputs, units, ...), by unit."""
    rows = torch.cat([weight.detach().double().transpose(0, 1).flatten(1) for weight in weights], 1)
    return rows.sum(1), rows.var(1, correction=0)


def test_offsets_of_concatenations() -> None:
    network = torchvision.models.squeezenet1_0(weights=None)
    total, variance, readers = read(network, "features.3.expand3x3_activation", 64)
    assert readers == ("features.4.squeeze",)
    expected = sums(network.features[4].squeeze.weight[:, 64:])
    torch.testing.assert_close(total, expected[0])
    torch.testing.assert_close(variance, expected[1])
    total, _, readers = read(network, "features.3.squeeze_activation", 64)
    assert readers == ("features.3.expand1x1", "features.3.expand3x3"), "two branches read it"
    fire = network.features[3]
    torch.testing.assert_close(total, sums(fire.expand1x1.weight, fire.expand3x3.weight)[0])


def test_a_join_has_several_readers() -> None:
    network = joined().float()
    total, _, readers = read(network, "left", 32)
    assert readers == ("inner", "top")
    torch.testing.assert_close(total, sums(network.inner.weight[:, :3], network.top.weight[:, :3])[0])


def test_padding_of_channels_and_steps_over_positions() -> None:
    """Option-A shortcuts put units behind 8 zeros."""
    torch.manual_seed(0)
    network = resnet20_cifar()
    total, _, readers = read(network, "layer1.2.bn2", 32)
    assert readers[:2] == ("layer2.0.conv1", "layer2.1.conv1")
    block = [network.layer2[0].conv1.weight, *(network.layer2[n].conv1.weight[:, 8:24] for n in (1, 2))]
    block += [network.layer3[0].conv1.weight[:, 8:24], *(network.layer3[n].conv1.weight[:, 24:40] for n in (1, 2))]
    block += [network.linear.weight[:, 24:40]]
    torch.testing.assert_close(total, sums(*block)[0])


class Grouped(nn.Module):
    """Groups, a shuffle of channels, padded averages, and a dense layer on the flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 1, groups=2)
        self.linear = nn.Linear(4 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.first(images))
        shuffled = maps.view(maps.shape[0], 2, 2, 8, 8).transpose(1, 2).flatten(1, 2)
        dense = self.linear(F.avg_pool2d(maps, 3, stride=2, padding=1).flatten(1))
        return dense + self.grouped(shuffled).mean(dim=(2, 3))[:, :5]


def test_groups_shuffles_and_flattened_maps() -> None:
    torch.manual_seed(0)
    network = Grouped()
    total, variance, readers = read(network, "relu", 8)
    assert set(readers) == {"linear", "grouped"}
    grouped, dense = network.grouped.weight.detach().double(), network.linear.weight.detach().double()
    for unit in range(4):
        place = [0, 2, 1, 3][unit]  # behind the shuffle
        own = grouped[3 * (place // 2) : 3 * (place // 2) + 3, place % 2].flatten()
        every = torch.cat([dense[:, 16 * unit : 16 * unit + 16].flatten(), own])
        assert total[unit].item() == pytest.approx(every.sum().item())
        assert variance[unit].item() == pytest.approx(every.var(correction=0).item())


def test_what_nothing_reads_has_no_weights() -> None:
    network = resnet20_cifar()
    total, variance, readers = read(network, "linear", 32)
    assert readers == ()
    assert total.isnan().all()
    assert variance.isnan().all()
