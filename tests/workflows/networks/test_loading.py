"""Networks by name and import path, weights from files and downloads, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from workflows.errors import NetworkError
from workflows.networks.architectures import digits_resnet
from workflows.networks.loading import build_network, load_network
from workflows.settings import NetworkSettings

DIGITS = "workflows.networks.architectures:digits_resnet"


def settings(weights: object = "train", name: str = DIGITS, **arguments: Any) -> NetworkSettings:
    return NetworkSettings(name=name, arguments=arguments, weights=str(weights), layers=("add1",))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return digits_resnet().state_dict()


def save(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "parallel", "half", "no counters"])
def test_weights_of_every_usual_form_load(state: dict[str, torch.Tensor], wrap: str, tmp_path: Path) -> None:
    forms: dict[str, Any] = {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 7},
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "half": {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
        "no counters": {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    }
    network = load_network(settings(save(forms[wrap], tmp_path / "weights.pt")))
    tolerance = 1e-3 if wrap == "half" else 0
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=tolerance, atol=tolerance)
    assert not network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


def _lightning(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": {f"model.{key}": value for key, value in state.items()}, "lr": [0.1]}


def _averaged(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    network = digits_resnet()
    network.load_state_dict(state)
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


def _profiled(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    counted = {"total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    blocks = {f"layer1.0.{key}": value for key, value in counted.items()}
    return {"net": {**state, **counted, **blocks}, "acc": 91.5}


def _prefixed(*prefixes: str) -> Callable[[dict[str, torch.Tensor]], dict[str, Any]]:
    return lambda state: {"".join(prefixes) + key: value for key, value in state.items()}


DIALECTS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    **{
        name: lambda state, name=name: {name: state, "epoch": 7, "optimizer": {"state": {}}}
        for name in ("net", "model", "model_state_dict", "state_dict", "network", "ema", "state_dict_ema")
    },
    "nested": lambda state: {"checkpoint": 1, "state": 2, "model": {"state_dict": state, "args": [1]}},
    "both": lambda state: {
        "state_dict_ema": {key: torch.zeros_like(value) for key, value in state.items()},
        "state_dict": state,
    },
    "module.": _prefixed("module."),
    "model.": _prefixed("model."),
    "_orig_mod.": _prefixed("_orig_mod."),
    "module._orig_mod.": _prefixed("module.", "_orig_mod."),
    "_orig_mod.module.": _prefixed("_orig_mod.", "module."),
    "model._orig_mod.module.": _prefixed("model.", "_orig_mod.", "module."),
    "lightning": _lightning,
    "averaged": _averaged,
    "thop": _profiled,
    "thop and parallel": lambda state: {f"module.{key}": value for key, value in _profiled(state)["net"].items()},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_of_checkpoints_load(state: dict[str, torch.Tensor], dialect: str, tmp_path: Path) -> None:
    network = load_network(settings(save(DIALECTS[dialect](state), tmp_path / "weights.pt")))
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key


def own_module() -> nn.Module:
    network = nn.Module()
    network.module = nn.Linear(2, 2)  # its own name is a prefix of wrappers
    return network


def test_a_prefix_that_is_the_networks_own_stays(tmp_path: Path) -> None:
    weights = own_module().state_dict()
    name = f"{__name__}:own_module"
    for form in (weights, {f"module.{key}": value for key, value in weights.items()}):
        network = load_network(settings(save(form, tmp_path / "weights.pt"), name=name))
        assert torch.equal(network.module.weight, weights["module.weight"])


def test_what_is_missing_and_left_is_named_behind_a_prefix(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in state.items()}
    state["module.extra.weight"] = state.pop("module.conv1.weight")
    with pytest.raises(NetworkError, match=r"missing \(1\): conv1\.weight; unexpected \(1\): extra\.weight"):
        load_network(settings(save({"net": state}, tmp_path / "weights.pt")))


def test_a_torchscript_file_is_named_as_one(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "weights.pt")
    with pytest.raises(NetworkError, match=r"must be a state dict, it is a TorchScript archive.*torch\.jit\.load"):
        load_network(settings(tmp_path / "weights.pt"))


def test_weights_in_the_home_folder(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(state, tmp_path / "weights.pt")
    assert torch.equal(load_network(settings("~/weights.pt")).conv1.weight, state["conv1.weight"])
    with pytest.raises(NetworkError, match="does not exist"):
        load_network(settings("~/other.pt"))


def test_random_parameters_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first, before = build_network(settings(), seed=5), torch.get_rng_state()
    torch.manual_seed(2)
    second, other = build_network(settings(), seed=5), build_network(settings(), seed=6)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before), "the global random numbers must not move"
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_arguments_reach_the_callable() -> None:
    assert build_network(settings(n_classes=4)).linear.out_features == 4
    squeezenet = build_network(settings(name="torchvision:squeezenet1_1", num_classes=7))
    assert squeezenet.classifier[1].out_channels == 7


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision:resnet5", ["torchvision has no classifier 'resnet5'", "nearest", "resnet50"]),
        ("torchvision:fcn_resnet50", ["torchvision has no classifier 'fcn_resnet50'", "nearest"]),
        ("resnet50", ["'resnet50'", "torchvision:<model>", "timm:<model>", "package.module:callable"]),
        ("workflows.networks.architectures:", ["package.module:callable"]),
        ("no_such_package.models:net", ["'no_such_package.models' cannot be imported", "PYTHONPATH"]),
        ("workflows.networks.architectures:digit_resnet", ["no callable 'digit_resnet'", "nearest", "digits_resnet"]),
        ("builtins:dict", ["its code is foreign", "--allow-code builtins"]),
    ],
)
def test_names_that_cannot_be_used(name: str, words: list[str]) -> None:
    with pytest.raises(NetworkError) as refused:
        build_network(settings(name=name))
    assert "network.name" in str(refused.value)
    assert all(word in str(refused.value) for word in words), refused.value


def test_arguments_that_the_callable_refuses() -> None:
    with pytest.raises(NetworkError, match=r"network\.arguments.*'colour'.*TypeError.*unexpected keyword"):
        build_network(settings(colour=3))


def test_weights_of_another_network_name_the_keys(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["extra.weight"] = state.pop("conv1.weight")
    state["linear.bias"] = torch.zeros(12)
    with pytest.raises(NetworkError) as refused:
        load_network(settings(save(state, tmp_path / "weights.pt")))
    text = str(refused.value)
    assert "do not fit the network" in text
    assert "missing (1): conv1.weight" in text
    assert "unexpected (1): extra.weight" in text
    assert "linear.bias is (12,), the network has (10,)" in text


def test_many_wrong_keys_are_cut_short(tmp_path: Path) -> None:
    path = save({f"block{index}.weight": torch.zeros(1) for index in range(40)}, tmp_path / "weights.pt")
    with pytest.raises(NetworkError, match=r"unexpected \(40\): block0\.weight, .* and 34 more"):
        load_network(settings(path))


def test_weights_that_are_not_finite(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(NetworkError, match=r"hold NaN or infinity in layer2\.0\.conv1\.weight"):
        load_network(settings(save(state, tmp_path / "weights.pt")))


class Foreign:
    """Would leave a trace if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", ["network", "code", "plain pickle"])
def test_a_pickle_of_objects_is_not_loaded(kind: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pt", tmp_path / "trace"
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(Foreign(trace), protocol=2))
    else:
        save(nn.Linear(2, 2) if kind == "network" else {"a": Foreign(trace)}, path)
    with pytest.raises(
        NetworkError, match=r"is not a plain state dict: .*foreign code.*torch\.save\(network\.state_dict"
    ):
        load_network(settings(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.zeros(1)], "holds a list, not a plain state dict"),
        ({"epoch": 3}, "holds a dictionary with values of int, not a plain state dict"),
        ({}, "holds a empty dictionary, not a plain state dict"),
    ],
)
def test_other_contents_are_no_state_dict(value: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=words):
        load_network(settings(save(value, tmp_path / "weights.pt")))


@pytest.mark.parametrize("content", [b"", b"hello there", b"PK\x03\x04 cut off"])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(NetworkError, match=r"weights\.pt' cannot be read, it is damaged or no torch file"):
        load_network(settings(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("", r"network\.weights is empty: give the file"),
        ("train", "has to be trained first"),
        ("nowhere/weights.pt", r"'nowhere/weights\.pt' does not exist"),
        (".", "is a folder; give the file"),
        ("torchvision:ResNet50_Weights.IMAGENET1K_V9", "torchvision has no weights .* ResNet50_Weights.IMAGENET1K_V1"),
        ("torchvision:resnet50", "torchvision has no weights 'resnet50'"),
    ],
)
def test_weights_that_are_not_there(weights: str, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        load_network(settings(weights))


def test_a_download_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A proxy that refuses every connection, and a cache that holds nothing.
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = settings("torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1", name="torchvision:squeezenet1_1")
    with pytest.raises(NetworkError, match=r"the download of https://.*squeezenet1_1.* failed .*set network\.weights"):
        load_network(wanted)


def test_downloaded_weights_are_taken_from_torchs_own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from workflows.networks.compiled_ops import torchvision

    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None)
    name = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    save(network.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = settings("torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1", name="torchvision:squeezenet1_1")
    assert torch.equal(load_network(wanted).features[0].weight, network.features[0].weight)


def test_resnet50_of_the_shared_data_loads_from_float16(shared_data: Path) -> None:
    wanted = settings(shared_data / "weights" / "resnet50_imagenet_fp16.pt", name="torchvision:resnet50")
    network = load_network(wanted)
    assert network.fc.weight.dtype == torch.float32
    assert bool(network.layer4[2].conv3.weight.abs().sum() > 0)


def test_squeezenet_of_the_shared_data_loads(shared_data: Path) -> None:
    wanted = settings(shared_data / "weights" / "squeezenet1_0_imagenet.pt", name="torchvision:squeezenet1_0")
    assert not load_network(wanted).training
