"""The rest of a network from changed layers: exact, shared, and equal to the network changed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.workflows.networks.sample_networks import Overwriting, Twice, thin_resnet50, with_random_statistics
from workflows.errors import NetworkError
from workflows.networks.architectures import resnet20_cifar
from workflows.networks.compiled_ops import torchvision
from workflows.networks.interventions import Interventions, Pause, replaced, replaced_columns, silenced
from workflows.networks.rewriting_choice import Rewriting
from workflows.networks.unit_layers import UnitNetwork

PLAIN = Rewriting(fused=False)


def images(count: int = 3, side: int = 32) -> Tensor:
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(0))


def opened(network: nn.Module, side: int = 32, rewriting: Rewriting = PLAIN) -> tuple[UnitNetwork, Interventions]:
    traced = UnitNetwork(with_random_statistics(network), (3, side, side), rewriting)
    return traced, Interventions(traced)


def pause_at(network: Interventions, layers: Sequence[str], batch: Tensor) -> Pause:
    (pause,) = network.pauses(batch, [layers])
    return pause


@pytest.mark.parametrize(
    ("make", "side"),
    [(resnet20_cifar, 32), (thin_resnet50, 32), (Overwriting, 8), (Twice, 8),
     (lambda: torchvision.models.squeezenet1_0(weights=None), 48)],
)  # fmt: skip
def test_with_no_change_the_logits_are_the_networks_bits(make: type[nn.Module], side: int) -> None:
    network = make()
    traced, interventions = opened(network, side)
    with torch.inference_mode():
        expected = with_random_statistics(network)(images(side=side))
    assert torch.equal(interventions(images(side=side)), expected)
    names = [layer for layer in traced.layers if layer != "output"][::5]
    seen = 0
    for pause in interventions.pauses(images(side=side), [(name,) for name in names]):
        (name,) = pause.layers
        assert torch.equal(pause.rest({}), expected)
        assert torch.equal(pause.rest({name: lambda maps: maps}), expected)
        value = pause.value(name)
        assert value is not None
        assert torch.equal(pause.rest({name: replaced(value.clone())}), expected)
        seen += 1
    assert seen == len(names)


def test_silenced_units_are_those_of_a_changed_network() -> None:
    network = with_random_statistics(resnet20_cifar())
    _, interventions = opened(network)
    block, means = network.layer2[0], torch.linspace(-1, 1, 32)
    units = torch.tensor([3, 17])

    def hook(_module: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
        maps = maps.clone()
        maps[:, units] = means[units][:, None, None]
        return maps

    handle = block.bn1.register_forward_hook(hook)
    with torch.inference_mode():
        expected = network(images())
    handle.remove()
    pause = pause_at(interventions, ("layer2.0.bn1",), images())
    assert torch.equal(pause.rest({"layer2.0.bn1": silenced(units, means)}), expected)
    assert not torch.equal(pause.rest({"layer2.0.bn1": silenced(units)}), expected)
    assert torch.equal(pause.rest({}), interventions(images())), "changes leave the pause as it is"


def test_layers_are_changed_together_wherever_they_lie() -> None:
    """A branch beside the first layer, and layers behind each other."""
    network = with_random_statistics(thin_resnet50())
    _, interventions = opened(network)
    names = ("layer2.0.conv2", "layer2.0.downsample.0", "layer3.1.conv1")
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _module, _inputs, maps: maps * 0.5) for name in names
    ]
    with torch.inference_mode():
        expected = network(images())
    for handle in handles:
        handle.remove()
    pause = pause_at(interventions, names, images())
    assert torch.equal(pause.rest({name: lambda maps: maps * 0.5 for name in names}), expected)
    assert torch.equal(pause.rest({}), interventions(images()))


def test_some_columns_are_replaced_and_no_others() -> None:
    network = with_random_statistics(resnet20_cifar())
    _, interventions = opened(network)
    where = torch.zeros(3, 16, 16, dtype=torch.bool)
    where[1, 4:6] = True
    pause = pause_at(interventions, ("add5",), images())
    found = pause.rest({"add5": replaced_columns(where, torch.zeros(1, 32, 1, 1))})
    plain = interventions(images())
    # Other images of a batch may differ in the last bits.
    assert float((found - plain)[[0, 2]].abs().max()) < 1e-5
    assert float((found - plain)[1].abs().max()) > 1e-3
    value = pause.value("add5")
    assert value is not None
    own = torch.where(where[:, None], value.flip(0), value)
    changed = pause.rest({"add5": replaced_columns(where, value.flip(0))})
    assert torch.equal(changed, pause.rest({"add5": replaced(own)}))


def test_images_are_taken_in_any_order_and_repeated() -> None:
    """Also where a branch goes around the layer, which is no cut."""
    _, interventions = opened(resnet20_cifar())
    pause = pause_at(interventions, ("layer2.1.conv1",), images())
    rows = torch.tensor([2, 0, 2])
    plain = pause.rest({})
    torch.testing.assert_close(pause.rest({}, rows), plain[rows], rtol=1e-4, atol=1e-5)
    scale = torch.tensor([1.0, 1.0, 0.5])[:, None, None, None]
    found = pause.rest({"layer2.1.conv1": lambda maps: maps * scale}, rows)
    torch.testing.assert_close(found[:2], plain[rows][:2], rtol=1e-4, atol=1e-5)
    assert float((found - plain[rows])[2].abs().max()) > 1e-3


def test_the_rest_may_end_at_a_layer() -> None:
    _, interventions = opened(resnet20_cifar())
    lower, upper = interventions.pauses(images(), [("add4",), ("add6",)])
    found = lower.upto("add6", {"add4": lambda maps: maps})
    assert torch.equal(found, upper.value("add6"))
    rows = torch.tensor([1, 1, 0])
    torch.testing.assert_close(lower.upto("add6", {}, rows), found[rows], rtol=1e-4, atol=1e-5)
    with pytest.raises(NetworkError, match="layer: must be a layer behind add6, got 'add4'; ask for its value"):
        upper.upto("add4", {})


def test_a_pause_holds_what_the_rest_needs() -> None:
    _, interventions = opened(resnet20_cifar())
    first, last = interventions.pauses(images(), [("layer3.2.conv1",), ("layer1.0.conv1",)])
    assert (first.layers, last.layers) == (("layer1.0.conv1",), ("layer3.2.conv1",)), "in execution order"
    assert len(first.values) == len(last.values) == 2, "the layer and the way around it"
    assert len(last.behind) < len(first.behind) / 5


def test_bad_input_is_refused_by_its_words() -> None:
    _, interventions = opened(resnet20_cifar())
    with pytest.raises(NetworkError, match="layers: must be a layer of the network that gives a map, got 'conv7'"):
        list(interventions.pauses(images(), [("conv7",)]))
    pause = pause_at(interventions, ("layer2.0.conv1",), images())
    with pytest.raises(NetworkError, match=r"changes: must be of layer2\.0\.conv1 or a layer behind, got 'conv1'"):
        pause.rest({"conv1": lambda maps: maps})
