"""From ``[network]`` settings to a frozen network in evaluation mode."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from workflows.errors import NetworkError
from workflows.networks.compiled_ops import torchvision
from workflows.networks.foreign_code import imported_factory
from workflows.networks.naming import nearest_names, shortened
from workflows.networks.timm_models import TIMM, timm_builder, timm_weights
from workflows.settings import NetworkSettings

_SAFETENSORS = ".safetensors"
_TORCHVISION = "torchvision:"
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"),
    *("net_state_dict", "network_state_dict", "backbone", "state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
"""Keys under which checkpoints keep weights; trained ones before their moving averages."""
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "network.",
    "backbone.",
    "ema.",
    "ema_model.",
    "averaged_model.",
)
"""Of parallel, compiled, Lightning and averaged networks."""
_COUNTERS = ("n_averaged", "total_ops", "total_params", "initted", "step")


def load_network(settings: NetworkSettings) -> nn.Module:
    """Build the network and give it its weights.

    Returns:
        The network in evaluation mode, float32, without gradients of its parameters.

    Raises:
        NetworkError: the name, the arguments or the weights cannot be used.
    """
    if settings.weights == "train":
        raise NetworkError(
            "network.weights is 'train': the network has to be trained first; build_network and train_classifier "
            "do that, afterwards network.weights is the file of the trained state dict"
        )
    network = build_network(settings)
    fit_weights(network, read_state_dict(settings.weights), source=settings.weights)
    return network


def build_network(settings: NetworkSettings, seed: int = 0) -> nn.Module:
    """Build the network with random parameters that depend on ``seed`` alone; frozen as by ``load_network``.

    Raises:
        NetworkError: the name or the arguments cannot be used.
    """
    factory = _factory(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = factory(**settings.arguments)
        except Exception as error:
            raise NetworkError(
                f"network.name {settings.name!r} could not be built with network.arguments {settings.arguments}: "
                f"{type(error).__name__}: {error}"
            ) from error
    if not isinstance(network, nn.Module):
        raise NetworkError(
            f"network.name {settings.name!r} must give a torch.nn.Module, gave a {type(network).__name__}; "
            "name a class or a function that builds the network"
        )
    return network.float().eval().requires_grad_(False)


def is_downloaded(weights: str) -> bool:
    """Whether ``network.weights`` names weights of a library, not a file."""
    return weights.startswith((_TORCHVISION, TIMM))


def read_state_dict(source: str, field: str = "network.weights") -> dict[str, Tensor]:
    """Read weights from a file or, by ``torchvision:<WEIGHTS>`` or ``timm:<model>.<tag>``, download them.

    Files are those of torch or, with the ending .safetensors, of safetensors; of one at a URI a run has its own copy,
    see ``with_fetched_weights``. Only tensors are read, never code. Dictionaries that a checkpoint wraps around its
    weights are unpacked.

    Args:
        source: of the weights.
        field: the setting that names it.

    Raises:
        NetworkError: the file is missing, no plain state dict, or the download failed.
    """
    if not source:
        raise NetworkError(
            "network.weights is empty: give the file or URI of a state dict, torchvision:<WEIGHTS> or "
            "timm:<model>.<tag> to download, or train"
        )
    if source.startswith(_TORCHVISION):
        return _downloaded(source.removeprefix(_TORCHVISION))
    if source.startswith(TIMM):
        return timm_weights(source.removeprefix(TIMM))
    path = Path(source).expanduser()
    state = _unwrapped((_read_safetensors if path.suffix == _SAFETENSORS else _unpickle)(path, field))
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise NetworkError(
            f"{field} {source!r} holds a {_describe(state)}, not a plain state dict (parameter names to "
            "tensors); save it with torch.save(network.state_dict(), file)"
        )
    return dict(state)


def fit_weights(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a state dict into a network, in the network's precision.

    Prefixes that wrappers of training put before every key are removed, unless they are the network's own. The counters
    of batch normalisation may be missing, and those of an averaged or a profiled network are left out: they take no
    part in evaluation.

    Raises:
        NetworkError: keys are missing, unexpected or of another shape, or values are not finite.
    """
    expected = network.state_dict()
    state = own_names(state, expected)
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the network has {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{title} ({len(keys)}): {shortened(keys)}"
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise NetworkError(
            f"network.weights {source!r} do not fit the network: keys {'; '.join(problems)}; "
            "give weights of this network, or change network.name or network.arguments"
        )
    refuse_no_numbers(state, source)
    network.load_state_dict(state, strict=False)


def refuse_no_numbers(state: Mapping[str, Tensor], source: str, field: str = "network.weights") -> None:
    """Raises NetworkError: some weights are NaN or infinite."""
    broken = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise NetworkError(f"{field} {source!r} hold NaN or infinity in {shortened(broken)}; use other weights")


def _unwrapped(raw: Any) -> Any:
    """The weights inside a checkpoint: what stands under the usual keys, averaged weights last."""
    while isinstance(raw, dict) and not _is_state_dict(raw):
        inside = [raw[key] for key in _WRAPPERS if isinstance(raw.get(key), dict) and raw[key]]
        if not inside:
            break
        raw = inside[0]
    return raw


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def own_names(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the network's own names, where prefixes and counters of wrappers are all that is different."""
    state = {key: value for key, value in state.items() if key in expected or not _is_counter(key, value)}
    while not any(key in expected for key in state):
        prefix = next((one for one in _PREFIXES if state and all(key.startswith(one) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        state = {key: value for key, value in state.items() if key in expected or not _is_counter(key, value)}
    return state


def _is_counter(key: str, value: Tensor) -> bool:
    """Numbers that AveragedModel and thop put beside the weights."""
    return value.numel() == 1 and key.rpartition(".")[2] in _COUNTERS


def _factory(network: NetworkSettings) -> Callable[..., Any]:
    name = network.name
    if name.startswith(_TORCHVISION):
        model = name.removeprefix(_TORCHVISION)
        known = torchvision.models.list_models(module=torchvision.models)  # without detection, video and the like
        if model not in known:
            raise NetworkError(
                f"network.name {name!r}: torchvision has no classifier {model!r}; {nearest_names(model, known)}"
            )
        return torchvision.models.get_model_builder(model)
    if name.startswith(TIMM):
        return timm_builder(name.removeprefix(TIMM))
    return imported_factory(network)


def _unpickle(path: Path, field: str) -> Any:
    try:
        with warnings.catch_warnings():
            # About the pickle protocol of foreign files; what matters is raised.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NetworkError(f"{field} {str(path)!r} does not exist; give the file of a state dict") from None
    except IsADirectoryError:
        raise NetworkError(f"{field} {str(path)!r} is a folder; give the file of a state dict") from None
    except Exception as error:  # a damaged file fails in any way: KeyError, EOFError, RuntimeError, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise  # storage or rights: that says nothing of the content
        if "TorchScript" in str(error):
            raise NetworkError(
                f"{field} {str(path)!r} must be a state dict, it is a TorchScript archive, which holds code; "
                "save its weights with torch.save(torch.jit.load(file).state_dict(), other_file)"
            ) from None
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None and not isinstance(error, UnpicklingError):
            raise NetworkError(
                f"{field} {str(path)!r} cannot be read, it is damaged or no torch file "
                f"({type(error).__name__}: {_first_line(error)}); save it with torch.save(network.state_dict(), file)"
            ) from error
        # Torch's own words would advise to load it all the same.
        held = f"the pickle holds {foreign[1]}" if foreign else "it is a pickle that torch.save did not write"
        raise NetworkError(
            f"{field} {str(path)!r} is not a plain state dict: {held}, which could run "
            "foreign code and is not loaded; save it with torch.save(network.state_dict(), file)"
        ) from error


def _read_safetensors(path: Path, field: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb"):  # the library says of whatever the system says that there is no such file
            pass
        with safe_open(path, framework="pt") as held:
            return {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise NetworkError(f"{field} {str(path)!r} does not exist; give the file of a state dict") from None
    except IsADirectoryError:
        raise NetworkError(f"{field} {str(path)!r} is a folder; give the file of a state dict") from None
    except SafetensorError as error:
        raise NetworkError(
            f"{field} {str(path)!r} cannot be read, it is damaged or no file of safetensors ({error}); save it with "
            "safetensors.torch.save_file(network.state_dict(), file)"
        ) from None


def _downloaded(name: str) -> dict[str, Tensor]:
    try:
        weights = torchvision.models.get_weight(name)
    except (ValueError, KeyError, AttributeError):
        known = [
            str(entry)
            for model in torchvision.models.list_models()
            for entry in torchvision.models.get_model_weights(model)
        ]
        raise NetworkError(
            f"network.weights: torchvision has no weights {name!r}; {nearest_names(name, known)}"
        ) from None
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise NetworkError(
            f"network.weights {_TORCHVISION + name!r}: the download of {weights.url} failed ({error}); it needs a "
            "network, or fetch the file elsewhere and set network.weights to it"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        foreign = {type(entry).__name__ for entry in value.values() if not isinstance(entry, Tensor)}
        return f"dictionary with values of {', '.join(sorted(foreign))}" if foreign else "empty dictionary"
    return type(value).__name__
