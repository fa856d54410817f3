"""Chains of dense layers: found in modules and in functions, broken where something else stands, named in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.workflows.networks.sample_networks import Branching, with_head
from workflows.errors import NetworkError
from workflows.networks.architectures import mlp, resnet20_cifar
from workflows.networks.dense_chain import DenseLayer, chain_layers, dense_chain
from workflows.networks.taps import TappedNetwork

IMAGES = torch.randn((6, 3, 8, 8), generator=torch.Generator().manual_seed(0))
SMALL = {"units": (12, 10, 9), "n_classes": 4, "inputs": (3, 8, 8)}


@pytest.fixture(scope="module")
def vgg16_head() -> nn.Module:
    torch.manual_seed(0)
    return with_head(units=(24, 20))


class Skipping(nn.Module):
    """Five dense layers; a skip connection joins the second to the result of the third."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.join = join
        self.dense = nn.ModuleList([nn.Linear(192, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.logits = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        first = self.dense[0](images.flatten(1)).relu()
        second = self.dense[1](first).relu()
        joined = self.join(self.dense[2](second).relu(), second)
        return self.logits(self.dense[3](joined).relu())


class Functional(nn.Module):
    """Dense layers without modules; every ReLU overwrites its input, one in every way torch knows."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for number, (below, units) in enumerate(((192, 7), (7, 6), (6, 5), (5, 4)), start=1):
            setattr(self, f"w{number}", nn.Parameter(torch.randn((units, below), generator=generator) / below**0.5))

    def forward(self, images: Tensor) -> Tensor:
        first = F.linear(images.flatten(1), self.w1)
        F.relu(first, inplace=True)
        second = F.linear(first, self.w2).relu_()
        third = torch.tanh(F.dropout(F.linear(second, self.w3 * 2), training=self.training))
        return F.linear(third, self.w4)


class Weighing(nn.Module):
    """The weights of its last layer are computed from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(192, 6), nn.Linear(6, 6)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.second(self.first(images.flatten(1)).relu()).relu()
        return F.linear(hidden, hidden[:4])


def names(layers: tuple[DenseLayer, ...] | list[DenseLayer]) -> list[tuple[str, str, bool]]:
    return [(layer.name, layer.dense, layer.rectified) for layer in layers]


def chain_of(*between: nn.Module) -> tuple[DenseLayer, ...]:
    """Of two dense layers with some operations between them; the first tells what is modelled of the lower one."""
    return dense_chain(nn.Sequential(nn.Flatten(), nn.Linear(192, 6), *between, nn.Linear(6, 4)).eval())


def test_an_mlp_is_one_chain_from_the_pixels_to_the_logits() -> None:
    network = mlp(**SMALL, dropout=0.5)
    expected = [("relu1", "dense1", True), ("relu2", "dense2", True), ("relu3", "dense3", True)]
    assert names(dense_chain(network)) == [*expected, ("logits", "logits", False)]
    assert names(chain_layers(network, ["dense"])) == expected
    assert names(chain_layers(network, ["dense"], "gaussian")) == [*expected, ("logits", "logits", False)]
    assert [layer.given for layer in chain_layers(network, ["dense"])] == ["dense1", "dense2", "dense3"]


def test_the_default_mlp_is_the_papers() -> None:
    with torch.device("meta"):
        chain = dense_chain(network := mlp())
    assert len(chain) == 6
    assert [network.get_submodule(layer.dense).out_features for layer in chain] == [1000] * 5 + [10]
    assert network.get_submodule("dense1").in_features == 3 * 32 * 32


def test_a_tapped_chain_has_one_position_and_no_dropout() -> None:
    torch.manual_seed(0)
    network = mlp(**SMALL, dropout=0.5)
    assert network.training
    layers = chain_layers(network, ["dense"], "gaussian")
    tapped = TappedNetwork(network, [layer.name for layer in layers])
    logits, maps = tapped(IMAGES)
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        "relu1": (12, 1, 1),
        "relu2": (10, 1, 1),
        "relu3": (9, 1, 1),
        "logits": (4, 1, 1),
    }
    values = IMAGES.flatten(1)
    for number in (1, 2, 3):
        values = network.get_submodule(f"dense{number}")(values).clamp(min=0)
        torch.testing.assert_close(maps[f"relu{number}"][:, :, 0, 0], values, rtol=1e-5, atol=1e-6)
        assert bool((maps[f"relu{number}"] == 0).any())
    torch.testing.assert_close(logits, network.get_submodule("logits")(values), rtol=1e-5, atol=1e-6)
    assert torch.equal(maps["logits"][:, :, 0, 0], logits)


def test_the_head_of_vgg16_is_a_chain_behind_its_convolutions(vgg16_head: nn.Module) -> None:
    network = vgg16_head
    layers = chain_layers(network, ["dense"])
    assert names(layers) == [("classifier.1", "classifier.0", True), ("classifier.4", "classifier.3", True)]
    assert dense_chain(network)[-1] == DenseLayer("classifier.6", "classifier.6", False, "classifier.6")
    tapped = TappedNetwork(network, [layer.name for layer in layers])
    images = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    logits, maps = tapped(images)
    torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    assert [tuple(values.shape) for values in maps.values()] == [(2, 24, 1, 1), (2, 20, 1, 1)]
    columns = torch.flatten(network.avgpool(network.features(images)), 1)
    lowest = network.classifier[0](columns).clamp(min=0)
    torch.testing.assert_close(maps["classifier.1"][:, :, 0, 0], lowest, rtol=1e-4, atol=1e-5)


def test_a_skip_connection_ends_the_chain() -> None:
    below = [("relu_3", "dense.3", True), ("logits", "logits", False)]
    assert names(dense_chain(Skipping(torch.add))) == below
    assert names(dense_chain(Skipping(lambda upper, _skipped: upper))) == [
        ("relu", "dense.0", True),
        ("relu_1", "dense.1", True),
        ("relu_2", "dense.2", True),
        *below,
    ]
    with pytest.raises(NetworkError, match=r"'dense\.1' is no layer of the chain .*the chain is dense\.3, logits"):
        chain_layers(Skipping(torch.add), ["dense.1", "dense.3"])


def test_functions_make_a_chain_as_modules_do() -> None:
    network = Functional().eval()
    chain = dense_chain(network)
    assert names(chain) == [
        ("relu", "linear", True),
        ("relu_", "linear_1", True),
        ("linear_2", "linear_2", False),
        ("linear_3", "linear_3", False),
    ]
    logits, maps = TappedNetwork(network, [layer.name for layer in chain])(IMAGES)
    torch.testing.assert_close(logits, network(IMAGES), rtol=1e-5, atol=1e-6)
    lowest = (IMAGES.flatten(1) @ network.w1.T).clamp(min=0)
    torch.testing.assert_close(maps["relu"][:, :, 0, 0], lowest, rtol=1e-5, atol=1e-6)
    assert bool((maps["linear_2"] < 0).any())


@pytest.mark.parametrize(
    ("between", "modelled"),
    [
        ([], ("1", False)),
        ([nn.ReLU()], ("2", True)),
        ([nn.ReLU(inplace=True), nn.Dropout()], ("2", True)),
        ([nn.BatchNorm1d(6), nn.ReLU()], ("3", True)),
        ([nn.LayerNorm(6), nn.Identity(), nn.ReLU()], ("4", True)),
        ([nn.ReLU(), nn.BatchNorm1d(6)], ("2", True)),
        ([nn.ReLU(), nn.Tanh()], ("2", True)),
        ([nn.Tanh(), nn.ReLU()], ("1", False)),
        ([nn.BatchNorm1d(6)], ("1", False)),
        ([nn.Tanh()], ("1", False)),
        ([nn.GELU()], ("1", False)),
        ([nn.Sigmoid(), nn.Dropout()], ("1", False)),
        ([nn.LeakyReLU()], ("1", False)),
        ([nn.ReLU6()], ("1", False)),
    ],
)
def test_only_a_relu_on_the_dense_layer_itself_rectifies(between: list[nn.Module], modelled: tuple[str, bool]) -> None:
    lower, logits = chain_of(*between)
    assert (lower.name, lower.rectified) == modelled
    assert (lower.dense, logits.rectified) == ("1", False)


def test_a_result_behind_softmax_or_relu_has_its_logits_on_top() -> None:
    for end in (nn.LogSoftmax(dim=1), nn.ReLU()):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4), end)
        assert names(dense_chain(network)) == [("2", "1", True), ("3", "3", False)]


def test_networks_without_a_chain_are_refused() -> None:
    rule = "an \\[hmm\\] section needs a chain of at least 1 hidden dense layer before that of the logits"
    with pytest.raises(NetworkError, match=rf"{rule}, only 'linear', .* found above 'mean', which ends a chain; use a"):
        dense_chain(resnet20_cifar())
    with pytest.raises(NetworkError, match=rf"{rule}, only '1', the layer of the logits, was found above '0'"):
        dense_chain(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    with pytest.raises(NetworkError, match=rf"{rule}, only '0', .* found above the images"):
        dense_chain(nn.Sequential(nn.Linear(192, 4)))
    with pytest.raises(NetworkError, match=rf"{rule}, none was found above '1'"):
        dense_chain(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()))
    with pytest.raises(NetworkError, match=rf"{rule}, none was found above 'linear'"):
        dense_chain(Weighing())
    with pytest.raises(NetworkError, match=r"cannot be traced .*without branches on values, or leave the section out"):
        dense_chain(Branching())


def test_layers_are_named_by_node_by_relu_or_by_place(vgg16_head: nn.Module) -> None:
    for name in ("classifier.3", "classifier.4", "dense2"):
        assert chain_layers(vgg16_head, [name]) == [DenseLayer("classifier.4", "classifier.3", True, name)]
    network = mlp(**SMALL)
    assert [layer.name for layer in chain_layers(network, ["dense1", "relu3"])] == ["relu1", "relu3"]
    with_logits = ["relu1", "logits"]
    assert [layer.name for layer in chain_layers(network, ["dense1"], "gaussian")] == with_logits
    assert [layer.name for layer in chain_layers(network, ["dense1", "logits"], "gaussian")] == with_logits


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["dense3", "dense1"], "dense3, dense1 is not the order of the chain; .*lowest first: dense1, dense3"),
        (["dense2", "relu2"], "name every layer once, lowest first: dense2"),
        (["dense1", "dens2"], r"the network has no layer 'dens2'; the nearest are dense2"),
        (["dense9"], r"the network has no layer 'dense9'; the nearest are dense"),
        (["flatten"], r"'flatten' is no layer of the chain .*the chain is dense1, dense2, dense3, logits"),
        (["dense1", "logits"], r"'logits' is the layer of the logits.*leave it out, or set hmm\.output = 'gaussian'"),
    ],
)
def test_wrong_names_and_orders_are_refused(given: list[str], words: str) -> None:
    with pytest.raises(NetworkError, match=rf"network\.layers: .*{words}"):
        chain_layers(mlp(**SMALL), given)


def test_a_convolution_is_no_layer_of_a_chain(vgg16_head: nn.Module) -> None:
    for name in ("features.0", "conv1_1"):
        with pytest.raises(NetworkError, match=rf"'{name}' is no layer of the chain of dense layers"):
            chain_layers(vgg16_head, [name, "classifier.0"])
