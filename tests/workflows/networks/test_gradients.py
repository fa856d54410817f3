"""Conductance of all layers in one pass: captum's, and what cuts must sum to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gmm_ops.errors import RefusedInput
from tests.benchmarks.conductance import captum_conductance, relative_difference
from tests.workflows.networks.sample_networks import with_random_statistics
from workflows.networks.architectures import resnet20_cifar
from workflows.networks.attribution.gradients import Conductance
from workflows.networks.compiled_ops import torchvision
from workflows.networks.loading import fit_weights, read_state_dict
from workflows.networks.unit_layers import UnitNetwork

PARITY = 1e-6
"""Relative to the largest value of a layer."""


def trained(network: nn.Module, weights: Path) -> nn.Module:
    fit_weights(network, read_state_dict(str(weights)), str(weights))
    return network.eval().requires_grad_(False)


def images(count: int, side: int) -> torch.Tensor:
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "weights", "side"),
    [
        (resnet20_cifar, "resnet20_cifar10.pt", 32),
        (torchvision.models.squeezenet1_0, "squeezenet1_0_imagenet.pt", 48),
    ],
)
def test_every_layer_has_captums_conductance(shared_data: Path, make: type[nn.Module], weights: str, side: int) -> None:
    pytest.importorskip("captum", reason="needs captum, of the test extra")
    network = trained(make(), shared_data / "weights" / weights).double()
    batch, targets, black = images(2, side), torch.tensor([3, 5]), torch.full((1, 3, side, side), -0.5).double()
    traced = UnitNetwork(network, (3, side, side))
    found = Conductance(traced, steps=3, rule="left")(batch, targets, black)
    expected = captum_conductance(network, list(found.maps), batch, targets, black, steps=3)
    assert len(expected) in (19, 26)
    for layer, conductance in expected.items():
        assert relative_difference(found.maps[layer], conductance) < PARITY, layer


def test_cuts_sum_to_the_change_of_the_output(shared_data: Path) -> None:
    network = trained(resnet20_cifar(), shared_data / "weights" / "resnet20_cifar10.pt")
    traced = UnitNetwork(network, (3, 32, 32))
    batch, targets, black = images(3, 32).float(), torch.tensor([3, 5, 0]), torch.full((1, 3, 32, 32), -2.0)
    with torch.inference_mode():
        difference = (network(batch) - network(black)).gather(1, targets[:, None])[:, 0]
    errors = []
    for steps in (16, 128):
        asked = Conductance(traced, steps=steps)
        found = asked(batch, targets, black)
        assert found.difference.tolist() == pytest.approx(difference.tolist(), rel=1e-4)
        off = (found.totals - found.difference[:, None]).abs()
        cuts = torch.tensor([layer.is_cut for layer in asked.every])
        errors.append(float(off[:, cuts].max()))
        layer, first = asked.every[0], found.maps["conv1"]
        assert layer.name == "conv1"
        assert found.totals[:, 0].tolist() == pytest.approx(first.sum(dim=(1, 2, 3)).tolist(), rel=1e-4)
    assert errors[1] < errors[0] / 3
    assert float(off[:, ~cuts].max()) > 10 * errors[1], "no cut, no completeness"


def test_images_of_a_batch_do_not_meet() -> None:
    traced = UnitNetwork(with_random_statistics(resnet20_cifar()).double(), (3, 32, 32))
    asked = Conductance(traced, [traced.convolution("layer2.0.conv1")], steps=2)
    batch, targets, black = images(3, 32), torch.tensor([1, 0, 1]), torch.zeros(1, 3, 32, 32).double()
    whole = asked(batch, targets, black)
    for row in range(3):
        alone = asked(batch[row : row + 1], targets[row : row + 1], black)
        assert relative_difference(alone.maps["layer2.0.conv1"][0], whole.maps["layer2.0.conv1"][row]) < 1e-12
    assert [layer.name for layer in asked.every] == ["layer2.0.conv1"]


def test_probabilities_are_explained_where_asked() -> None:
    network = with_random_statistics(resnet20_cifar()).double()
    traced = UnitNetwork(network, (3, 32, 32))
    found = Conductance(traced, [traced.convolution("conv1")], steps=40, output="probability")(
        images(1, 32), torch.tensor([4]), torch.zeros(1, 3, 32, 32).double()
    )
    with torch.inference_mode():
        here, there = (network(one).softmax(dim=1)[0, 4] for one in (images(1, 32), torch.zeros(1, 3, 32, 32).double()))
    assert float(found.difference[0]) == pytest.approx(float(here - there))


def test_bad_input_is_refused_by_its_words() -> None:
    traced = UnitNetwork(resnet20_cifar().requires_grad_(False), (3, 32, 32))
    with pytest.raises(RefusedInput, match="steps: must be at least 1, got 0"):
        Conductance(traced, steps=0)
    with pytest.raises(RefusedInput, match="output: must be 'logit' or 'probability', got 'loss'"):
        Conductance(traced, output="loss")  # type: ignore[arg-type]
    with pytest.raises(RefusedInput, match="rule: must be 'trapezoid' or 'left'"):
        Conductance(traced, rule="middle")  # type: ignore[arg-type]
    assert Conductance(traced).images_at_once(1) == 1
    assert Conductance(traced).images_at_once(2**30) > 50
