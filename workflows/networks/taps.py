"""Modelled layers: from the names of the settings to activations of a forward pass."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from workflows.errors import NetworkError
from workflows.networks.copying import own_copy
from workflows.networks.hooking import HookedNetwork, call_of
from workflows.networks.rewriting import Taps, copy_taps, disable_inplace, fuse_batch_norms, overwrite_untapped
from workflows.networks.rewriting_choice import EVERY_CHANGE, Rewriting
from workflows.networks.tracing import OUTPUT, NetworkGraph, UntraceableNetwork, trace_network

Tap = Literal["pre", "post"]

_RELU_MODULES = (nn.ReLU, nn.ReLU6)
_RELU_FUNCTIONS = {nn.functional.relu, nn.functional.relu6, torch.relu, torch.relu_, "relu", "relu_"}
_BETWEEN_MODULES = (nn.BatchNorm2d, nn.BatchNorm1d, nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class ResolvedLayer:
    """A modelled layer.

    Attributes:
        name: canonical name, the same whatever alias named it: the tapped operation.
        given: the name in the settings.
        node: the operation that was named; with ``tap = post`` the ReLU ``name`` lies behind it.
    """

    name: str
    given: str
    node: str


def resolve_layers(network: nn.Module, names: Sequence[str], tap: Tap) -> list[ResolvedLayer]:
    """Find the operations that layer names, aliases (``add3``, ``conv2_1``) and ``output`` stand for.

    Args:
        network: the network.
        names: layer names, lowest first.
        tap: ``pre``, the named operation; ``post``, the ReLU behind it (itself, if it is a ReLU or ``output``).

    Raises:
        NetworkError: a name does not exist, is named twice, has no ReLU behind it, or is not upstream of the next.
    """
    return _resolved(network, _graph(network), names, tap)


def _graph(network: nn.Module) -> NetworkGraph | None:
    try:
        return trace_network(network)
    except UntraceableNetwork:
        return None


def _resolved(network: nn.Module, graph: NetworkGraph | None, names: Sequence[str], tap: Tap) -> list[ResolvedLayer]:
    if graph is None:
        return [_resolve_module(network, name, tap) for name in names]
    try:
        layers = [_resolve_node(graph, name, tap) for name in names]
    except UntraceableNetwork:
        return _resolved(network, None, names, tap)
    for lower, upper in itertools.pairwise(layers):
        if graph.node(lower.name) is graph.node(upper.name):
            raise NetworkError(f"network.layers: {lower.given!r} and {upper.given!r} are the same layer {lower.name!r}")
        if graph.node(lower.name) not in graph.upstream_of(graph.node(upper.name)):
            raise NetworkError(
                f"network.layers: {lower.given!r} ({lower.name}) is not upstream of {upper.given!r} ({upper.name}); "
                "list the layers lowest first, each feeding the next"
            )
    return layers


class TappedNetwork(nn.Module):
    """A frozen copy of a network whose forward pass also gives the activations of the modelled layers.

    No tapped activation is overwritten, and none is copied where the operations are rewritten. That the copy gives what
    the network gives is for ``choose_rewriting`` to say: what it finds is the ``rewriting`` to ask for.

    Args:
        network: the network, left as it is; one that cannot be copied is shared, and takes ``recorded`` or ``own``.
        layers: layer names lowest first, or what ``resolve_layers`` gave.
        tap: see ``resolve_layers``.
        rewriting: what is changed in the copy.
        outputs: the network decides between classes; see ``network_result``.

    Raises:
        NetworkError: as ``resolve_layers``; the network would be changed and cannot be copied.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str | ResolvedLayer],
        tap: Tap = "pre",
        rewriting: Rewriting = EVERY_CHANGE,
        outputs: bool = True,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        given = [layer.name if isinstance(layer, ResolvedLayer) else layer for layer in layers]
        network = own_copy(network, shared=rewriting.operations != "rewritten").eval().requires_grad_(False)
        graph = _graph(network)
        self.layers = tuple(_resolved(network, graph, given, tap))
        self.rewriting = rewriting
        self.body = _body(network, graph, [layer.name for layer in self.layers], rewriting).eval()
        if rewriting.channels_last:
            self.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, images: Float[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N M"], dict[str, Float[Tensor, "N D H_l W_l"]]]:
        """Logits, and activation maps by canonical layer name; a dense layer has H = W = 1.

        Raises:
            NetworkError: the result is not as ``network_result`` says, or a tapped layer is neither (N, D, H, W) nor
                (N, D).
        """
        layout = torch.channels_last if self.rewriting.channels_last else torch.contiguous_format
        images = images.contiguous(memory_format=layout)
        result, tapped = self.body(images)
        logits = network_result(result, self.outputs)
        maps = {layer.name: _as_maps(layer, value) for layer, value in zip(self.layers, tapped, strict=True)}
        return logits, maps


def network_result(logits: object, outputs: bool = True) -> Float[Tensor, "N M"]:
    """The logits themselves; of a network without outputs, the values of its last layer in a row.

    Args:
        logits: what the network gave.
        outputs: whether it decides between classes.

    Raises:
        NetworkError: they are no tensor (N, classes); without outputs, no map (N, D, H, W) and no dense layer (N, D).
    """
    if not outputs and isinstance(logits, Tensor) and logits.ndim in (2, 4):
        return logits.flatten(1)
    if not outputs:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise NetworkError(
            f"network: must give (N, D, H, W) or (N, D) with network.outputs = 'none', gives {came}; wrap it in a "
            "module that gives the last layer alone"
        )
    if not isinstance(logits, Tensor):
        raise NetworkError(
            f"network: must give one tensor of logits (N, classes), gives a {type(logits).__name__}; "
            "wrap it in a module that gives the logits"
        )
    if logits.ndim != 2:
        raise NetworkError(
            f"network: the logits must be (N, classes), the network gives {tuple(logits.shape)}; wrap it in a module "
            "that gives two axes, or set network.outputs = 'none' if it decides nothing"
        )
    if logits.shape[1] == 1:
        raise NetworkError(
            "network: the logits must be (N, classes) with one output for each class, the network has one output; wrap "
            "it in a module that gives torch.cat([torch.zeros_like(z), z], 1) for its output z"
        )
    return logits


def explained(error: Exception, input_shape: tuple[int, ...]) -> NetworkError:
    """What a network raised over images of (channels, height, width), with the setting that would help."""
    return NetworkError(
        f"network: it cannot take images of (channels, height, width) {input_shape}: {error}; {_remedy(str(error))}"
    )


def _remedy(error: str) -> str:
    channels = re.search(r"to have (\d+) channels, but got (\d+) channels", error)
    if channels and channels[1] in ("1", "3") and channels[1] != channels[2]:
        return f"set preprocessing.channels = {channels[1]}, with as many numbers in preprocessing.mean and std"
    if channels:
        return f"it reads {channels[1]} channels: wrap it in a module that makes them from {channels[2]}"
    if re.search(r"CUDA|cuda|HIP|NVIDIA", error):
        return "its code asks for a GPU: take .cuda() and .to('cuda') out of it, the run moves it to its device"
    if re.search(r"same device|dtype|type .*Half|BFloat16", error):
        return "its code fixes a device or a precision: create tensors like those that come in"
    return "change preprocessing.resize and preprocessing.crop"


def _body(network: nn.Module, graph: NetworkGraph | None, names: Sequence[str], rewriting: Rewriting) -> nn.Module:
    if graph is None or rewriting.operations == "own":
        return HookedNetwork(network, names)
    try:
        taps = {name: graph.node(name) for name in names}
    except UntraceableNetwork:
        return HookedNetwork(network, names)
    logits = "logits of the network"  # no layer can be called so
    taps[logits] = graph.result
    if rewriting.operations == "rewritten":
        _rewrite(graph, taps, rewriting.fused)
    else:
        copy_taps(graph, taps)
    end = next(node for node in reversed(graph.module.graph.nodes) if node.op == "output")
    end.args = ((taps[logits], tuple(taps[name] for name in names)),)
    graph.module.graph.lint()
    graph.module.recompile()
    graph.module.delete_all_unused_submodules()
    return graph.module


def _rewrite(graph: NetworkGraph, taps: Taps, fused: bool) -> None:
    disable_inplace(graph)
    if fused:
        fuse_batch_norms(graph, taps)
    if graph.opaque:
        copy_taps(graph, taps)  # nobody knows what opaque modules overwrite
    overwrite_untapped(graph, taps)


def _resolve_node(graph: NetworkGraph, given: str, tap: Tap) -> ResolvedLayer:
    node = graph.node(given)
    if given == OUTPUT:
        return ResolvedLayer(OUTPUT, given, OUTPUT)
    name = graph.names[node]
    if tap == "pre":
        return ResolvedLayer(name, given, name)
    relu = _relu_behind(graph, node)
    if relu is None:
        raise NetworkError(
            f"network.layers: there is no ReLU behind {given!r} ({name}), which network.tap = 'post' asks for; "
            "use tap = 'pre' or another layer"
        )
    return ResolvedLayer(graph.names[relu], given, name)


def _relu_behind(graph: NetworkGraph, node: fx.Node) -> fx.Node | None:
    """The ReLU that reads a node, directly or through normalisation and dropout; the node itself if it is one."""
    waiting = [node]
    while waiting:
        candidate = waiting.pop(0)
        module = graph.submodule(candidate)
        if isinstance(module, _RELU_MODULES) or (module is None and candidate.target in _RELU_FUNCTIONS):
            return candidate
        if candidate is node or isinstance(module, _BETWEEN_MODULES):
            waiting.extend(candidate.users)
    return None


def _resolve_module(network: nn.Module, given: str, tap: Tap) -> ResolvedLayer:
    if given == OUTPUT:
        raise NetworkError(
            "network.layers: 'output' needs a network whose operations can be traced; name its last module instead"
        )
    module, _ = call_of(network, given)
    if tap == "post" and not isinstance(module, _RELU_MODULES):
        raise NetworkError(
            "network.layers: the operations of this network cannot be traced, so the ReLU behind "
            f"{given!r} is unknown; name the ReLU's own module"
        )
    return ResolvedLayer(given, given, given)


def _as_maps(layer: ResolvedLayer, value: object) -> Float[Tensor, "N D H W"]:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value
    if isinstance(value, Tensor) and value.ndim == 2:
        return value[:, :, None, None]
    came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise NetworkError(
        f"network.layers: {layer.given!r} must give (N, D, H, W) or (N, D), gives {came}; choose another layer"
    )
