"""Signals back to the pixels: against a deconvnet written by hand, and the laws of patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.workflows.networks.attribution.made_networks import joined, joined_by_hand
from tests.workflows.networks.sample_networks import Branching, thin_resnet50, thin_vgg16, with_random_statistics
from workflows.errors import NetworkError
from workflows.networks.architectures import digits_resnet
from workflows.networks.attribution.deconvnet import Deconvnet, ResponseNetwork, bounding_box
from workflows.networks.attribution.response_layers import ResponseLayer, response_layers
from workflows.networks.compiled_ops import torchvision
from workflows.networks.receptive_fields import trace_window
from workflows.networks.rewriting_choice import Rewriting
from workflows.networks.tracing import trace_network


def image_of(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers_of(network: nn.Module, *names: str, tap: str = "post") -> list[ResponseLayer]:
    return response_layers(trace_network(network), names, tap)  # type: ignore[arg-type]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_as_written_by_hand(seed: int, fused: bool) -> None:
    network, image = joined(seed), image_of(seed, 3, 15, 18)
    deconvnet = Deconvnet(network, layers_of(network, "top"), Rewriting(fused=fused))
    found = deconvnet.reconstructions(image, "top", range(4))
    expected = np.stack([joined_by_hand(network, image.numpy(), unit) for unit in range(4)])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9 * np.abs(expected).max(), rtol=0)


def test_a_first_layer_unit_is_its_filter_and_zero_outside() -> None:
    torch.manual_seed(0)
    rest = (nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.Conv2d(4, 5, 5, padding=2), nn.ReLU(), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 4, 11, 4, padding=2), *rest).double().eval()  # as AlexNet begins
    image = image_of(0, 3, 64, 64)
    image[:, :9], image[:, -9:], image[:, :, :9], image[:, :, -9:] = 0, 0, 0, 0
    deconvnet = Deconvnet(network, layers_of(network, "1"), Rewriting(channels_last=False))
    for unit, patch in enumerate(deconvnet.patches(image, {"0": range(3)})["0"]):
        signal = deconvnet.reconstructions(image, "0", [unit])[0]
        top, left = patch.y * 4 - 2, patch.x * 4 - 2
        assert patch.activation > 0
        assert 0 <= top <= 64 - 11, "the whole filter lies in the image"
        kernel = network[0].weight[unit].detach()
        torch.testing.assert_close(signal[:, top : top + 11, left : left + 11], patch.activation * kernel)
        outside = signal.clone()
        outside[:, top : top + 11, left : left + 11] = 0
        assert not outside.any()


@pytest.mark.parametrize("which", ["resnet", "squeezenet"])
def test_patches_lie_inside_the_traced_receptive_field(which: str) -> None:
    torch.manual_seed(0)
    networks = {
        "resnet": lambda: with_random_statistics(thin_resnet50()),
        "squeezenet": lambda: torchvision.models.squeezenet1_1(weights=None).eval(),
    }
    network = networks[which]()
    size = 80
    image = image_of(1, 3, size, size).float()
    layers = layers_of(network)
    found = Deconvnet(network, layers).patches(image, {layer.name: range(6) for layer in layers})
    inner = 0
    for layer in layers:
        window = trace_window(network, None, layer.tap, (3, size, size))
        for patch in found[layer.name]:
            if patch.box is not None:
                x0, y0, x1, y1 = patch.box
                (top, bottom), (left, right) = window.rows.range(patch.y, size), window.columns.range(patch.x, size)
                assert top <= y0 < y1 <= bottom
                assert left <= x0 < x1 <= right
                inner += (bottom - top) < size
    assert inner > 5, "some fields are smaller than the image"


def test_a_unit_that_is_nowhere_positive_has_no_patch() -> None:
    network = joined()
    network.top.bias.data[2] = -1e6
    image = image_of(0, 3, 15, 18)
    deconvnet = Deconvnet(network, layers_of(network, "top"))
    patches = deconvnet.patches(image, {"top": [1, 2]})["top"]
    assert [patch.unit for patch in patches] == [1, 2]
    assert patches[0].box is not None
    assert patches[1].box is None
    assert not deconvnet.reconstructions(image, "top", [2]).any()


def test_signals_do_not_depend_on_who_goes_with_them() -> None:
    network = with_random_statistics(digits_resnet())
    image = image_of(2, 3, 32, 32).float()
    deconvnet = Deconvnet(network, layers_of(network, "layer2.0.conv1"))
    together = deconvnet.reconstructions(image, "layer2.0.conv1", range(32))
    alone = torch.cat([deconvnet.reconstructions(image, "layer2.0.conv1", [unit]) for unit in range(32)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tap", ["pre", "post"])
def test_responses_and_logits_are_those_of_the_network(tap: str) -> None:
    network = with_random_statistics(torchvision.models.resnet18(weights=None, num_classes=7))
    images = image_of(3, 2, 3, 64, 64).float()
    names = ("conv1", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0")
    layers = layers_of(network, *names, tap=tap)
    assert [layer.number for layer in layers] == [1, 6, 7, 8]
    behind = {"post": ["relu", "layer2.0.relu", "layer2.0.bn2", "layer2.0.downsample.1"],
              "pre": ["bn1", "layer2.0.bn1", "layer2.0.bn2", "layer2.0.downsample.1"]}  # fmt: skip
    assert [layer.tap for layer in layers] == behind[tap]
    with torch.inference_mode():
        for rectified in (False, True):
            logits, maps = ResponseNetwork(network, layers, rectified=rectified)(images)
            torch.testing.assert_close(logits, network(images), atol=1e-4, rtol=1e-4)
            assert maps["conv1"].min() >= 0 or tap == "pre"
        stem = network.bn1(network.conv1(images))
        torch.testing.assert_close(maps["conv1"], stem.relu() if tap == "post" else stem, atol=1e-5, rtol=1e-4)


def test_gradients_of_the_plain_network_are_its_own() -> None:
    network, image = joined(), image_of(4, 1, 3, 15, 18)
    expected, found = [], []
    for of, model in ((expected, network), (found, ResponseNetwork(network, layers_of(network, "top")))):
        x = image.clone().requires_grad_()
        logits = model(x)
        of += torch.autograd.grad((logits[0] if isinstance(logits, tuple) else logits)[0, 1], x)
    torch.testing.assert_close(found[0], expected[0])


def test_a_box_is_where_the_signal_is_above_a_tenth() -> None:
    signal = torch.zeros(2, 6, 8)
    signal[0, 2, 3], signal[1, 4, 5], signal[0, 5, 7] = -10.0, 1.5, 1.0
    assert bounding_box(signal) == (3, 2, 6, 5)
    assert bounding_box(signal, 0.05) == (3, 2, 8, 6)
    assert bounding_box(torch.zeros(1, 2, 2)) is None


def test_a_network_whose_operations_are_unknown_is_refused() -> None:
    network = joined()
    with pytest.raises(NetworkError, match="must be one whose every operation can be traced and changed"):
        ResponseNetwork(network, [], Rewriting("recorded", False, False))
    with pytest.raises(NetworkError, match="cannot be traced"):
        ResponseNetwork(Branching(), [])


def test_layers_by_number_name_and_by_default() -> None:
    network = thin_vgg16()
    graph = trace_network(network)
    assert [layer.number for layer in response_layers(graph, ["3-9"], "pre")] == list(range(3, 10))
    assert [layer.name for layer in response_layers(graph, ["conv2_1", "2", "features.0"], "pre")] == [
        "features.0", "features.2", "features.5",
    ]  # fmt: skip
    assert [layer.number for layer in response_layers(graph, [], "post")] == [2, 4, 5, 7, 9, 10, 12]
    with pytest.raises(NetworkError, match=r"--layers: must be convolutions 1 to 13, lower first, got '12-14'; give"):
        response_layers(graph, ["12-14"], "post")
    with pytest.raises(NetworkError, match=r"the network has no layer 'features\.99'; "):
        response_layers(graph, ["features.99"], "post")
    dense = trace_network(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(NetworkError, match="--layers: must be named, for the network has no convolution"):
        response_layers(dense, [], "post")
