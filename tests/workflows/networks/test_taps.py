"""Taps give what the plain network computes, whatever overwrites or fuses; wrong names are refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.workflows.networks.sample_networks import (
    Branching,
    Overwriting,
    PartlyTraceable,
    Twice,
    thin_vgg16,
    with_random_statistics,
)
from workflows.errors import NetworkError
from workflows.networks.architectures import digits_resnet, resnet20_cifar
from workflows.networks.compiled_ops import torchvision
from workflows.networks.equivalence import check_network
from workflows.networks.listing import list_layers
from workflows.networks.receptive_fields import operation_shapes
from workflows.networks.rewriting_choice import Rewriting
from workflows.networks.taps import ResolvedLayer, TappedNetwork, resolve_layers
from workflows.networks.tracing import trace_network

IMAGES = torch.randn((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet20() -> nn.Module:
    torch.manual_seed(0)
    return with_random_statistics(resnet20_cifar())


@pytest.fixture(scope="module")
def overwriting_resnet() -> nn.Module:
    """Every ReLU of this one overwrites its input."""
    torch.manual_seed(0)
    return with_random_statistics(torchvision.models.resnet18(weights=None, num_classes=10))


def plain_taps(network: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """torchvision's own extractor on a network whose modules overwrite nothing."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    extract = torchvision.models.feature_extraction.create_feature_extractor
    return extract(network, names, suppress_diff_warning=True)(IMAGES)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("tap", ["pre", "post"])
@pytest.mark.parametrize("which", ["resnet20", "overwriting_resnet"])
def test_logits_and_taps_are_the_plain_networks(
    which: str, tap: str, channels_last: bool, fuse: bool, request: pytest.FixtureRequest
) -> None:
    network = request.getfixturevalue(which)
    tapped = TappedNetwork(network, ["add1", "add4", "add8"], tap, Rewriting(fused=fuse, channels_last=channels_last))
    logits, maps = tapped(IMAGES)
    torch.testing.assert_close(logits, network(IMAGES), rtol=1e-4, atol=1e-4)
    expected = plain_taps(network, list(maps))
    assert len(maps) == 3
    for name, values in maps.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-4)
        assert bool((values < 0).any()) == (tap == "pre")
        assert not channels_last or values.is_contiguous(memory_format=torch.channels_last)


def test_fusing_leaves_no_normalisation_but_behind_a_tap(resnet20: nn.Module) -> None:
    def norms(tapped: TappedNetwork) -> int:
        return sum(isinstance(module, nn.BatchNorm2d) for module in tapped.modules())

    assert norms(TappedNetwork(resnet20, ["add1"])) == 0
    tapped = TappedNetwork(resnet20, ["layer1.0.conv1", "layer1.0.bn2"])
    assert norms(tapped) == 1
    logits, maps = tapped(IMAGES)
    expected = plain_taps(resnet20, ["layer1.0.conv1", "layer1.0.bn2"])
    torch.testing.assert_close(logits, resnet20(IMAGES), rtol=1e-4, atol=1e-4)
    for name, values in maps.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-4)


def test_modules_that_are_called_twice_are_not_fused() -> None:
    torch.manual_seed(0)
    network = with_random_statistics(Twice())
    logits, maps = TappedNetwork(network, ["bn", "bn_1", "add"])(IMAGES)
    torch.testing.assert_close(logits, network(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps["bn"], network.bn(network.conv(IMAGES)), rtol=1e-4, atol=1e-5)


def test_no_way_of_overwriting_reaches_a_tap() -> None:
    torch.manual_seed(0)
    network = Overwriting().eval().requires_grad_(False)
    names = ["first", "second", "third"]
    kept: dict[str, Tensor] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, value, name=name: kept.update({name: value.clone()})
        )
    expected = network(IMAGES)
    logits, maps = TappedNetwork(network, names)(IMAGES)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    for name in names:
        torch.testing.assert_close(maps[name], kept[name], rtol=1e-5, atol=1e-6)


def test_the_plain_network_stays_as_it_was(overwriting_resnet: nn.Module) -> None:
    before = {key: value.clone() for key, value in overwriting_resnet.state_dict().items()}
    expected = overwriting_resnet(IMAGES)
    TappedNetwork(overwriting_resnet, ["add2"]).to(torch.bfloat16)
    assert all(torch.equal(value, before[key]) for key, value in overwriting_resnet.state_dict().items())
    assert all(module.inplace for module in overwriting_resnet.modules() if isinstance(module, nn.ReLU))
    assert torch.equal(overwriting_resnet(IMAGES), expected)


def test_a_tapped_network_travels_by_pickle(resnet20: nn.Module) -> None:
    tapped = TappedNetwork(resnet20, ["add2", "add8"], "post")
    arrived = pickle.loads(pickle.dumps(tapped))
    assert torch.equal(arrived(IMAGES)[0], tapped(IMAGES)[0])
    assert arrived.layers == tapped.layers


def test_bfloat16_gives_bfloat16_taps_near_the_others(resnet20: nn.Module) -> None:
    tapped = TappedNetwork(resnet20, ["add2"])
    expected = tapped(IMAGES)[1]["layer1.1.add"]
    values = tapped.to(torch.bfloat16)(IMAGES.bfloat16())[1]["layer1.1.add"]
    assert values.dtype == torch.bfloat16
    assert float((values.float() - expected).square().mean() / expected.square().mean()) < 1e-3


class _Recorded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(func).split(".")[1])
        return func(*args, **(kwargs or {}))


def test_no_activation_is_copied(resnet20: nn.Module) -> None:
    tapped = TappedNetwork(resnet20, ["add2", "add4", "add6", "add8"])
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), _Recorded() as recorded:
        tapped(images)
    copies = {"clone", "copy_", "_to_copy", "contiguous", "native_batch_norm", "cudnn_batch_norm"}
    assert copies.isdisjoint(recorded.names)
    assert recorded.names.count("relu") == 4, "only the tapped additions may not be overwritten"
    assert recorded.names.count("relu_") == 15


def test_dense_layers_and_the_output_are_maps_of_one_position() -> None:
    network = thin_vgg16()
    network.classifier = nn.Sequential(nn.Linear(32 * 49, 6), nn.ReLU(inplace=True), nn.Linear(6, 5))
    tapped = TappedNetwork(network, ["conv5_1", "classifier.0", "output"])
    logits, maps = tapped(IMAGES)
    assert [tuple(values.shape) for values in maps.values()] == [(3, 32, 2, 2), (3, 6, 1, 1), (3, 5, 1, 1)]
    assert torch.equal(maps["output"][:, :, 0, 0], logits)
    assert bool((maps["classifier.0"] < 0).any())
    post = TappedNetwork(network, ["classifier.0", "output"], "post")
    assert [layer.name for layer in post.layers] == ["classifier.1", "output"]


def test_shapes_and_outputs(resnet20: nn.Module) -> None:
    checked = check_network(resnet20, ["add2", "add4", "add8"], IMAGES[:2])
    shapes = {"layer1.1.add": (16, 32, 32), "layer2.0.add": (32, 16, 16), "layer3.1.add": (64, 8, 8)}
    assert checked.shapes == shapes
    assert torch.equal(checked.logits, resnet20(IMAGES[:2]))


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((1, 32, 32), r"set preprocessing\.channels = 3"),
        ((3, 16, 16), r"change preprocessing\.resize and preprocessing\.crop"),
    ],
)
def test_images_that_the_network_cannot_take(shape: tuple[int, int, int], remedy: str) -> None:
    network = torchvision.models.alexnet(weights=None, num_classes=2).eval()
    with pytest.raises(NetworkError, match=rf"cannot take images of .*{remedy}"):
        check_network(network, ["conv1_1"], torch.zeros(2, *shape))


def test_whatever_a_network_raises_is_one_error() -> None:
    class Clumsy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, 50]  # an IndexError

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Clumsy())
    words = r"(?s)cannot take images of .* \(3, 8, 8\): index 50 is out of bounds .*; change preprocessing"
    with pytest.raises(NetworkError, match=words):
        check_network(network, ["0"], torch.zeros(2, 3, 8, 8))
    with pytest.raises(NetworkError, match=words):
        operation_shapes(trace_network(network), (3, 8, 8))


def test_aliases_count_additions_and_convolutions() -> None:
    resnet = trace_network(resnet20_cifar()).aliases
    assert {alias: resnet[alias] for alias in ("add1", "add3", "add4", "add9")} == {
        "add1": "layer1.0.add",
        "add3": "layer1.2.add",
        "add4": "layer2.0.add",
        "add9": "layer3.2.add",
    }
    assert len(resnet) == 9
    vgg = trace_network(thin_vgg16()).aliases
    wanted = {"conv2_1": "features.5", "conv3_1": "features.10", "conv4_1": "features.17", "conv5_1": "features.24"}
    assert {alias: vgg[alias] for alias in wanted} == wanted
    assert len(vgg) == 13
    assert trace_network(torchvision.models.squeezenet1_1(weights=None)).aliases == {}


def test_resolving_an_alias_and_its_canonical_name_is_the_same(resnet20: nn.Module) -> None:
    assert resolve_layers(resnet20, ["add4"], "pre") == [ResolvedLayer("layer2.0.add", "add4", "layer2.0.add")]
    [post] = resolve_layers(resnet20, ["add4"], "post")
    assert post == ResolvedLayer("layer2.0.relu_1", "add4", "layer2.0.add")
    assert resolve_layers(resnet20, [post.name], "post")[0].name == post.name
    [behind_norm] = resolve_layers(resnet20, ["layer2.0.conv1"], "post")
    assert behind_norm.name == "layer2.0.relu"


@pytest.mark.parametrize(
    ("names", "tap", "words"),
    [
        (["add10"], "pre", r"no layer 'add10'; the nearest are .*add1"),
        (["layer2.1.ad"], "pre", r"no layer 'layer2\.1\.ad'; the nearest are layer2\.1\.add"),
        (["layer3"], "pre", r"no layer 'layer3'; the nearest are .*layer3\.2\.relu_1"),
        (["conv2_1"], "pre", r"no layer 'conv2_1'"),
        (["add4", "add2"], "pre", r"'add4' \(layer2\.0\.add\) is not upstream of 'add2' .*lowest first"),
        (["output", "add2"], "pre", r"'output' \(output\) is not upstream of 'add2'"),
        (["add2", "layer1.1.add"], "pre", r"'add2' and 'layer1\.1\.add' are the same layer"),
        (["mean"], "post", r"no ReLU behind 'mean' .*use tap = 'pre'"),
    ],
)
def test_names_that_are_refused(resnet20: nn.Module, names: list[str], tap: str, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        TappedNetwork(resnet20, names, tap)


def test_side_branches_are_not_upstream_of_each_other() -> None:
    squeezenet = torchvision.models.squeezenet1_1(weights=None)
    with pytest.raises(NetworkError, match=r"expand1x1.* is not upstream of .*expand3x3"):
        resolve_layers(squeezenet, ["features.3.expand1x1", "features.3.expand3x3"], "pre")


def test_networks_of_other_form_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor, masks: Tensor) -> Tensor:
            return images + masks

    class Named(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": images.mean(dim=(2, 3))}

    with pytest.raises(NetworkError, match="must take one tensor of images, takes images, masks"):
        resolve_layers(Two(), ["add1"], "pre")
    with pytest.raises(NetworkError, match=r"must give one tensor of logits .* gives a dictionary"):
        resolve_layers(Named(), ["mean"], "pre")
    with pytest.raises(NetworkError, match=r"the logits must be \(N, classes\), the network gives \(3, 3, 32, 32\)"):
        TappedNetwork(nn.Sequential(nn.Conv2d(3, 3, 1)), ["0"])(IMAGES)
    flat = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(1))
    with pytest.raises(NetworkError, match=r"'1' must give \(N, D, H, W\) or \(N, D\), gives \(3, 4, 256\)"):
        TappedNetwork(flat, ["1"])(IMAGES)


def test_a_network_that_is_not_traced_is_tapped_by_its_modules() -> None:
    torch.manual_seed(0)
    network = Branching().eval().requires_grad_(False)
    logits, maps = TappedNetwork(network, ["conv1", "relu", "relu_1"])(IMAGES)
    lower = network.conv1(IMAGES)
    torch.testing.assert_close(logits, network(IMAGES), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps["conv1"], lower, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps["relu"], lower.relu(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps["relu_1"], network.conv2(lower.relu()).relu(), rtol=1e-5, atol=1e-6)
    with pytest.raises(NetworkError, match=r"no module 'conv3' .*nearest are conv2|conv1"):
        TappedNetwork(network, ["conv3"])
    with pytest.raises(NetworkError, match="the ReLU behind 'conv1' is unknown; name the ReLU's own module"):
        TappedNetwork(network, ["conv1"], "post")
    with pytest.raises(NetworkError, match="the forward pass never calls relu_7"):
        TappedNetwork(network, ["relu_7"])(IMAGES)


def test_modules_that_cannot_be_traced_are_opaque_operations() -> None:
    torch.manual_seed(0)
    network = with_random_statistics(PartlyTraceable())
    graph = trace_network(network)
    assert {graph.names[node] for node in graph.opaque} == {"pooled", "head"}
    assert graph.aliases == {"add1": "add"}, "the addition behind an opaque module may not be the second"
    expected: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, result, name=name: expected.update({name: result.clone()})
        )
        for name in ("norm", "pooled", "conv2")
    ]
    logits = network(IMAGES)
    for handle in handles:
        handle.remove()
    for fuse in (True, False):
        found, maps = TappedNetwork(network, ["add1", "pooled", "conv2"], rewriting=Rewriting(fused=fuse))(IMAGES)
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps["add"], expected["norm"] + expected["norm"].tanh(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps["pooled"], expected["pooled"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps["conv2"], expected["conv2"], rtol=1e-4, atol=1e-5)


def test_a_layer_in_an_opaque_module_is_tapped_by_its_modules() -> None:
    torch.manual_seed(0)
    network = with_random_statistics(PartlyTraceable())
    names = ["conv1", "pooled.conv", "head.relu"]
    assert [layer.name for layer in resolve_layers(network, names, "pre")] == names
    found, maps = TappedNetwork(network, names)(IMAGES)
    torch.testing.assert_close(found, network(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps["pooled.conv"] + 1, TappedNetwork(network, ["pooled"])(IMAGES)[1]["pooled"])
    listed = {layer.name: layer for layer in list_layers(network, (3, 32, 32))}
    assert (listed["pooled.conv"].kind, listed["pooled.conv"].height) == ("Conv2d", 16)
    with pytest.raises(NetworkError, match=r"no module 'pooled\.cont' .*the nearest are pooled\.conv"):
        TappedNetwork(network, ["pooled.cont"])


def test_gradients_reach_a_tapped_layer() -> None:
    torch.manual_seed(0)
    network = with_random_statistics(digits_resnet())
    images = IMAGES.clone().requires_grad_(True)
    logits, maps = TappedNetwork(network, ["add2"])(images)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), maps["layer2.0.add"])
    assert bool(gradient.abs().sum() > 0)
