"""Layers of units: folded normalisations, cuts, joins, the layer of the logits; what cannot be asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.workflows.networks.sample_networks import (
    Branching,
    Overwriting,
    PartlyTraceable,
    Twice,
    thin_resnet50,
    with_random_statistics,
)
from workflows.errors import NetworkError
from workflows.networks.architectures import resnet20_cifar
from workflows.networks.compiled_ops import torchvision
from workflows.networks.rewriting_choice import Rewriting
from workflows.networks.unit_layers import UnitNetwork, split_units


@pytest.fixture(scope="module")
def resnet() -> UnitNetwork:
    return UnitNetwork(with_random_statistics(resnet20_cifar()), (3, 32, 32))


@pytest.fixture(scope="module")
def squeezenet() -> UnitNetwork:
    return UnitNetwork(torchvision.models.squeezenet1_0(weights=None).eval(), (3, 64, 64))


@pytest.mark.parametrize("make", [resnet20_cifar, thin_resnet50, Overwriting, Twice])
@pytest.mark.parametrize("fused", [True, False])
def test_the_operations_give_the_logits_of_the_network(make: type[nn.Module], fused: bool) -> None:
    network = with_random_statistics(make()).double()
    network.requires_grad_(False)
    images = torch.randn((2, 3, 32, 32), dtype=torch.float64)
    traced = UnitNetwork(network, (3, 32, 32), Rewriting(fused=fused))
    with torch.inference_mode():
        expected, found = network(images.clone()), traced.module(images)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-12


def test_units_are_those_of_folded_convolutions() -> None:
    network = with_random_statistics(resnet20_cifar())
    resnet = UnitNetwork(network, (3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        _, (units,) = resnet.tapped(["layer1.0.conv1"])(images)
        expected = network.layer1[0].bn1(network.layer1[0].conv1(network.relu(network.bn1(network.conv1(images)))))
    assert float((units - expected).abs().max()) < 1e-5
    assert resnet.layer("layer1.0.bn1") == resnet.convolution("layer1.0.conv1")
    assert resnet.layer("add3").name == "layer1.2.add"


def test_cuts_are_what_every_path_crosses(resnet: UnitNetwork, squeezenet: UnitNetwork) -> None:
    assert [layer.name for layer in resnet.convolutions() if layer.is_cut] == ["conv1"]
    assert resnet.cut_joins()[0].name == "layer1.0.add"
    assert len(resnet.cut_joins()) == 9
    squeezing = [layer.name for layer in squeezenet.convolutions() if layer.is_cut]
    assert squeezing[0] == "features.0"
    assert squeezing[-1] == "classifier.1"
    assert all(name.endswith("squeeze") for name in squeezing[1:-1])
    assert len(squeezing) == 10


def test_the_first_the_last_and_the_logits_are_left_alone(resnet: UnitNetwork, squeezenet: UnitNetwork) -> None:
    inner = [layer.name for layer in resnet.inner_convolutions()]
    assert (len(inner), inner[0], inner[-1]) == (17, "layer1.0.conv1", "layer3.2.conv1")
    assert [layer.name for layer in squeezenet.convolutions() if layer.yields_logits] == ["classifier.1"]
    assert not any(layer.yields_logits for layer in resnet.convolutions())
    assert "classifier.1" not in [layer.name for layer in squeezenet.inner_convolutions()]


def test_a_layer_shows_the_units_of_its_convolution(resnet: UnitNetwork, squeezenet: UnitNetwork) -> None:
    shown = {"layer1.0.bn1": "layer1.0.conv1", "layer1.0.relu": "layer1.0.conv1", "bn1": "conv1", "conv1": "conv1"}
    for name, convolution in shown.items():
        layer = resnet.convolution_seen_at(name)
        assert layer is not None
        assert layer.name == convolution
    assert resnet.convolution_seen_at("layer1.0.add") is None
    assert resnet.convolution_seen_at("nowhere") is None
    pooled = squeezenet.convolution_seen_at("features.2")
    assert pooled is not None
    assert pooled.name == "features.0"
    assert squeezenet.convolution_seen_at("features.3.cat") is None


def test_the_rest_costs_less_the_higher_it_begins(resnet: UnitNetwork) -> None:
    shares = [resnet.share_behind(layer.name) for layer in resnet.convolutions()]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    assert 0.9 < shares[0] < 1


def test_units_of_layers_lie_in_a_row(resnet: UnitNetwork) -> None:
    places = list(split_units(resnet.convolutions()[:3]))
    assert [(place.start, place.stop) for _, place in places] == [(0, 16), (16, 32), (32, 48)]


def test_bad_input_is_refused_by_its_words(resnet: UnitNetwork) -> None:
    with pytest.raises(NetworkError, match=r"--layers: must be a layer of the network that gives a map, got 'layer9'"):
        resnet.layer("layer9")
    with pytest.raises(NetworkError, match=r"must be a layer .* that gives a map, got 'linear'"):
        resnet.layer("linear")
    with pytest.raises(
        NetworkError, match="--layers: must be a convolution, got 'add3', which is none; there are conv1"
    ):
        resnet.convolution("add3")
    with pytest.raises(NetworkError, match="its operations cannot be traced"):
        UnitNetwork(Branching(), (3, 8, 8))
    with pytest.raises(
        NetworkError, match="must have operations that can be traced to ask its units, got head, pooled"
    ):
        UnitNetwork(PartlyTraceable(), (3, 8, 8))
    with pytest.raises(NetworkError, match="must have operations that can be rewritten for its units, got one that"):
        UnitNetwork(resnet20_cifar(), (3, 32, 32), Rewriting("recorded"))
    with pytest.raises(NetworkError, match="must have a convolution to ask units, it has none"):
        UnitNetwork(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2))
