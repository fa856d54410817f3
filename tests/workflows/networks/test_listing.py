"""The list of layers: what it holds is what ``network.layers`` takes, with the sizes of a real forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.workflows.networks.sample_networks import Branching, Twice, thin_vgg16
from workflows.errors import NetworkError
from workflows.networks.architectures import digits_resnet, mlp
from workflows.networks.listing import ListedLayer, list_layers
from workflows.networks.taps import TappedNetwork


@pytest.mark.parametrize(("network", "side"), [(digits_resnet(), 32), (thin_vgg16(), 64), (mlp([6, 5], 10), 32)])
def test_every_listed_layer_can_be_tapped_by_name_and_alias(network: nn.Module, side: int) -> None:
    listed = list_layers(network.eval(), (3, side, side))
    assert len(listed) >= 4
    for one in listed:
        for name in [one.name, *filter(None, one.alias.split(", "))]:
            with torch.inference_mode():
                _, maps = TappedNetwork(network, [name])(torch.zeros(1, 3, side, side))
            assert tuple(maps[one.name].shape) == (1, one.units, one.height, one.width)


def test_aliases_stand_at_their_layers() -> None:
    residual = {one.name: one for one in list_layers(digits_resnet().eval(), (3, 32, 32))}
    assert residual["layer2.0.add"].alias == "add2"
    assert residual["layer2.0.add"].kind == "add"
    assert residual["layer2.0.conv1"].alias == ""
    plain = {one.alias: one for one in list_layers(thin_vgg16(), (3, 64, 64)) if one.alias}
    assert plain["conv2_1"] == ListedLayer("features.5", "conv2_1", "Conv2d", 8, 32, 32)


@pytest.mark.parametrize("network", [Branching(), Twice()])
def test_calls_of_modules_are_listed_where_tracing_fails(network: nn.Module) -> None:
    network = network.eval()
    listed = list_layers(network, (3, 32, 32))
    assert listed
    with torch.inference_mode():
        _, maps = TappedNetwork(network, [one.name for one in listed[:1]])(torch.zeros(1, 3, 32, 32))
    assert tuple(maps[listed[0].name].shape[1:]) == (listed[0].units, listed[0].height, listed[0].width)
    assert len({one.name for one in listed}) == len(listed)


class Weighted(nn.Module):
    """A convolution whose weights are computed: they have four axes too, and are no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 3, 3, 3))
        self.head = nn.Linear(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight * 2
        return self.head(nn.functional.conv2d(images, weight).mean((2, 3)))


def test_what_the_images_do_not_feed_is_no_layer() -> None:
    assert [one.name for one in list_layers(Weighted().eval(), (3, 8, 8))] == ["conv2d", "mean", "head"]


class Indexing(Branching):
    """Fails as foreign code may, with an exception that says nothing about images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[[0, 1]]


def test_whatever_an_untraceable_network_raises_is_one_error() -> None:
    message = r"cannot take images of \(channels, height, width\) \(3, 32, 32\): IndexError: .*; give another size"
    with pytest.raises(NetworkError, match=message):
        list_layers(Indexing().eval(), (3, 32, 32))


def test_images_that_the_network_cannot_take() -> None:
    with pytest.raises(NetworkError, match=r"cannot take images of \(channels, height, width\) \(4, 32, 32\)"):
        list_layers(digits_resnet().eval(), (4, 32, 32))
    with pytest.raises(NetworkError, match=r"cannot take images of \(channels, height, width\) \(4, 32, 32\)"):
        list_layers(Branching().eval(), (4, 32, 32))
