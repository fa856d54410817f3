"""Classifiers of torchvision and timm by name: they load, their layers are found, taps and windows are theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gmm_ops.graphs.windows import Window
from workflows.errors import NetworkError
from workflows.networks.listing import list_layers
from workflows.networks.loading import build_network, is_downloaded, load_network
from workflows.networks.perturbation import measure_window
from workflows.networks.receptive_fields import trace_window
from workflows.networks.taps import TappedNetwork
from workflows.networks.tracing import trace_network
from workflows.settings import NetworkSettings

PROJECT = Path(__file__).resolve().parents[3]


def named(name: str, weights: object = "train") -> NetworkSettings:
    return NetworkSettings(name=name, weights=str(weights), layers=("output",))


def taps_by_hooks(network: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Results of modules, by torch's own hooks."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, result: Tensor) -> None:
            found[name] = result.clone()  # before an operation that overwrites it

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    network(images)
    for handle in handles:
        handle.remove()
    return found


def assert_planned(name: str, layers: list[str], side: int, tmp_path: Path) -> list[Window]:
    """Load a state dict of random weights, tap the layers, trace the windows between them; gives the windows."""
    torch.save(build_network(named(name), seed=2).state_dict(), tmp_path / "weights.pt")
    network = load_network(named(name, tmp_path / "weights.pt"))
    listed = {one.name: one for one in list_layers(network, (3, side, side))}
    assert set(layers) <= set(listed), list(listed)
    images = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, maps = TappedNetwork(network, layers)(images)
        torch.testing.assert_close(logits, network(images), rtol=1e-3, atol=1e-4)
        for layer, expected in taps_by_hooks(network, layers, images).items():
            scale = float(expected.abs().max())
            torch.testing.assert_close(maps[layer], expected, rtol=1e-3, atol=1e-4 * scale)
            assert tuple(expected.shape[1:]) == (listed[layer].units, listed[layer].height, listed[layer].width)
    below = [None, *layers[:-1]]
    return [trace_window(network, lower, upper, (3, side, side)) for lower, upper in zip(below, layers, strict=True)]


@pytest.mark.parametrize(
    ("name", "layers", "windows"),
    [
        ("resnet18", ["layer1.1.conv2", "layer2.0.conv1"], [Window.square(4, -21, 43), Window.square(2, -1, 3)]),
        ("mobilenet_v3_small", ["features.0.0", "features.1.block.0.0"], [Window.square(2, -1, 3)] * 2),
        ("squeezenet1_1", ["features.3.squeeze", "features.4.squeeze"], None),
        ("densenet121", ["features.denseblock1.denselayer2.conv2", "features.denseblock2.denselayer1.conv1"], None),
    ],
)
def test_torchvision_classifiers(name: str, layers: list[str], windows: list[Window] | None, tmp_path: Path) -> None:
    found = assert_planned(f"torchvision:{name}", layers, 64, tmp_path)
    if windows is not None:
        assert found == windows


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["vgg11", "alexnet", "efficientnet_b0", "mnasnet0_5", "mobilenet_v2", "regnet_y_400mf", "shufflenet_v2_x0_5"],
)
def test_any_other_torchvision_classifier_is_planned(name: str, tmp_path: Path) -> None:
    network = build_network(named(f"torchvision:{name}"))
    convolutions = [one.name for one in list_layers(network, (3, 64, 64)) if one.kind == "Conv2d" and one.height > 1]
    assert_planned(f"torchvision:{name}", convolutions[:1], 64, tmp_path)


@pytest.mark.parametrize(
    ("name", "layers", "windows"),
    [
        ("resnet10t", ["conv1.0", "layer2.0.conv1"], None),
        ("mobilenetv3_small_050.lamb_in1k", ["conv_stem", "blocks.0.0.conv_dw"], [Window.square(2, -1, 3)] * 2),
    ],
)
def test_timm_classifiers(name: str, layers: list[str], windows: list[Window] | None, tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs the extra timm: pip install 'inference-graphs[timm]'")
    found = assert_planned(f"timm:{name}", layers, 64, tmp_path)
    if windows is not None:
        assert found == windows


def test_windows_of_timm_are_those_of_perturbation() -> None:
    pytest.importorskip("timm", reason="needs the extra timm: pip install 'inference-graphs[timm]'")
    network = build_network(named("timm:test_resnet"), seed=1)
    asked = ("conv1.3", "layer2.0.conv1", (3, 96, 96))
    assert trace_window(network, *asked) == measure_window(network, *asked) == Window.square(4, -8, 17)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("nfnet_l0", "stem.conv2.conv2d", (1, -1, 3)),
        ("nfnet_l0", "stem.conv4.conv2d", (2, -1, 3)),
        ("resnetv2_50x1_bit", "stages.0.blocks.1.conv2.conv2d", (1, -1, 3)),
        ("resnetv2_50x1_bit", "stem.conv.conv2d", (2, -3, 7)),
    ],
)
def test_weight_standardised_convolutions_of_timm(name: str, layer: str, expected: tuple[int, int, int]) -> None:
    """Behind a convolution of the second one a group normalisation sees every position."""
    pytest.importorskip("timm", reason="needs the extra timm: pip install 'inference-graphs[timm]'")
    network = build_network(named(f"timm:{name}"), seed=1)
    graph = trace_network(network)
    source = graph.nodes[layer].all_input_nodes[0]
    below = None if source is graph.input else graph.names[source]
    assert trace_window(network, below, layer, (3, 64, 64)) == Window.square(*expected)


def test_timm_modules_that_cannot_be_traced_are_one_each() -> None:
    pytest.importorskip("timm", reason="needs the extra timm: pip install 'inference-graphs[timm]'")
    network = build_network(named("timm:tf_efficientnet_lite0"))  # pads by the size of what comes
    listed = list_layers(network, (3, 64, 64))
    assert (listed[0].name, listed[0].units, listed[0].height) == ("conv_stem", 32, 32)
    assert "blocks.1.1.add" in {one.name for one in listed}, "operations around them are found"
    images = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, maps = TappedNetwork(network, ["conv_stem"])(images)
        torch.testing.assert_close(logits, network(images), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(maps["conv_stem"], network.conv_stem(images), rtol=1e-3, atol=1e-4)
    asked = ("conv_stem", "blocks.1.0.conv_dw", (3, 64, 64))
    assert trace_window(network, *asked) == Window.square(2, -1, 5), "same padding of an even map is on the high side"
    with pytest.raises(NetworkError, match="no layer 'conv_sten'; the nearest are conv_stem"):
        TappedNetwork(network, ["conv_sten"])


def test_windows_of_timms_vgg16_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head looks at the size of the map; measuring such a network takes minutes."""
    pytest.importorskip("timm", reason="needs the extra timm: pip install 'inference-graphs[timm]'")

    def never(*_arguments: object) -> Window:
        raise AssertionError("must be traced")

    monkeypatch.setattr("workflows.networks.receptive_fields.measure_window", never)
    with torch.device("meta"):  # windows need no weights, and these are 138 million
        network = build_network(named("timm:vgg16"))
    for lower, upper, size in (("conv2_1", "conv3_1", 8), ("conv3_1", "conv4_1", 10), ("conv4_1", "conv5_1", 10)):
        assert trace_window(network, lower, upper, (3, 224, 224)).rows.size == size
    assert trace_window(network, "conv5_1", "output", (3, 224, 224)) == Window.whole()


def test_what_timm_does_not_have() -> None:
    pytest.importorskip("timm", reason="needs the extra timm: pip install 'inference-graphs[timm]'")
    with pytest.raises(NetworkError, match=r"network\.name 'timm:resnet81': timm has no model 'resnet81'; the nearest"):
        build_network(named("timm:resnet81"))
    with pytest.raises(NetworkError, match=r"could not be built .*Invalid pretrained tag \(nope\)"):
        build_network(named("timm:resnet18.nope"))
    with pytest.raises(NetworkError, match=r"network\.weights 'timm:resnet18.a9': timm has no weights 'resnet18.a9'"):
        load_network(named("timm:resnet18", "timm:resnet18.a9"))


@pytest.mark.parametrize("weights", ["train", "timm:resnet18.a1_in1k"])
def test_the_error_without_timm_names_the_extra(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # what an import then does is what it does where it is missing
    name = "timm:resnet18" if weights == "train" else "torchvision:resnet18"
    field = "network.name" if weights == "train" else "network.weights"
    words = rf"{field} 'timm:resnet18.*' needs timm, an optional extra, .* pip install 'inference-graphs\[timm\]'"
    with pytest.raises(NetworkError, match=words):
        (build_network if weights == "train" else load_network)(named(name, weights))


CACHED = """
import sys, torch
from safetensors.torch import save_file
from workflows.errors import NetworkError
from workflows.networks.loading import build_network, load_network
from workflows.settings import NetworkSettings
from pathlib import Path

def named(name, weights):
    return NetworkSettings(name="timm:" + name, weights=weights, layers=("output",))

trained = build_network(named("mobilenetv3_small_050", "train"), seed=7)
hub = Path(sys.argv[1], "hub", "models--timm--mobilenetv3_small_050.lamb_in1k")
(hub / "snapshots" / "abc").mkdir(parents=True)
(hub / "refs").mkdir()
(hub / "refs" / "main").write_text("abc")
save_file(trained.state_dict(), hub / "snapshots" / "abc" / "model.safetensors")
loaded = load_network(named("mobilenetv3_small_050", "timm:mobilenetv3_small_050.lamb_in1k"))
print("equal", torch.equal(loaded.classifier.weight, trained.classifier.weight))
try:
    load_network(named("resnet18", "timm:resnet18.a1_in1k"))
except NetworkError as error:
    print(error)
"""


@pytest.mark.slow
def test_timm_weights_come_from_the_hub_and_its_cache(tmp_path: Path) -> None:
    """In a process that is told to stay offline: one model lies in the hub's cache, another one does not."""
    pytest.importorskip("timm", reason="needs the extra timm: pip install 'inference-graphs[timm]'")
    ended = subprocess.run(
        [sys.executable, "-c", CACHED, str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "equal True" in ended.stdout, ended.stderr
    assert "network.weights 'timm:resnet18.a1_in1k': the download failed" in ended.stdout, ended.stdout
    assert "save the state dict elsewhere and set network.weights to the file" in ended.stdout


def test_names_of_weights_are_no_files() -> None:
    assert is_downloaded("torchvision:ResNet18_Weights.IMAGENET1K_V1")
    assert is_downloaded("timm:resnet18.a1_in1k")
    assert not is_downloaded("weights/timm.pt")
