"""Modelled layers: from the names of the settings to activations of a forward pass."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from workflows.errors import NetworkError
from workflows.networks.hooking import HookedNetwork, call_of
from workflows.networks.rewriting import copy_taps, disable_inplace, fuse_batch_norms, overwrite_untapped
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
    try:
        graph = trace_network(network)
        layers = [_resolve_node(graph, name, tap) for name in names]
    except UntraceableNetwork:
        return [_resolve_module(network, name, tap) for name in names]
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

    No tapped activation is copied or overwritten. The copy runs channels-last with batch normalisation folded into
    the convolutions, which changes the logits by rounding only.

    Args:
        network: the network, left as it is.
        layers: layer names lowest first, or what ``resolve_layers`` gave.
        tap: see ``resolve_layers``.
        channels_last: lay activations out with the units of a position side by side (a column is contiguous).
        fuse: fold batch normalisations where no tap lies between.

    Raises:
        NetworkError: as ``resolve_layers``.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str | ResolvedLayer],
        tap: Tap = "pre",
        channels_last: bool = True,
        fuse: bool = True,
    ) -> None:
        super().__init__()
        given = [layer.name if isinstance(layer, ResolvedLayer) else layer for layer in layers]
        network = copy.deepcopy(network).eval().requires_grad_(False)
        self.layers = tuple(resolve_layers(network, given, tap))
        self.channels_last = channels_last
        self.body = _body(network, [layer.name for layer in self.layers], fuse).eval()
        if channels_last:
            self.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, images: Float[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N M"], dict[str, Float[Tensor, "N D H_l W_l"]]]:
        """Logits, and activation maps by canonical layer name; a dense layer has H = W = 1.

        Raises:
            NetworkError: the logits are not (N, M), or a tapped layer is neither (N, D, H, W) nor (N, D).
        """
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits, tapped = self.body(images)
        if logits.ndim != 2:
            raise NetworkError(f"network: the logits must be (N, classes), the network gives {tuple(logits.shape)}")
        maps = {layer.name: _as_maps(layer, value) for layer, value in zip(self.layers, tapped, strict=True)}
        return logits, maps


def layer_shapes(tapped: TappedNetwork, input_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    """Units, height and width (D, H, W) of every modelled layer for images of ``input_shape`` (C, H, W).

    Raises:
        NetworkError: the network cannot take such images, or a layer has no columns.
    """
    _, maps = _run_once(tapped, input_shape)
    return {name: (value.shape[1], value.shape[2], value.shape[3]) for name, value in maps.items()}


def count_outputs(tapped: TappedNetwork, input_shape: tuple[int, int, int]) -> int:
    """M, the number of classes the network tells apart; raises as ``layer_shapes``."""
    return _run_once(tapped, input_shape)[0].shape[1]


@torch.inference_mode()
def _run_once(tapped: TappedNetwork, input_shape: tuple[int, int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    parameter = next(tapped.parameters(), torch.empty(0))
    image = torch.zeros((1, *input_shape), dtype=parameter.dtype, device=parameter.device)
    try:
        return tapped(image)
    except NetworkError:
        raise
    except Exception as error:  # foreign code may fail in any way
        raise NetworkError(
            f"network: it cannot take images of (channels, height, width) {input_shape}: {error}; "
            "change preprocessing.resize and preprocessing.crop"
        ) from error


def _body(network: nn.Module, names: Sequence[str], fuse: bool) -> nn.Module:
    try:
        graph = trace_network(network)
        taps = {name: graph.node(name) for name in names}
    except UntraceableNetwork:
        return HookedNetwork(network, names)
    logits = "logits of the network"  # no layer can be called so
    taps[logits] = graph.result
    disable_inplace(graph)
    if fuse:
        fuse_batch_norms(graph, taps)
    copy_taps(graph, taps)
    overwrite_untapped(graph, taps)
    end = next(node for node in reversed(graph.module.graph.nodes) if node.op == "output")
    end.args = ((taps[logits], tuple(taps[name] for name in names)),)
    graph.module.graph.lint()
    graph.module.recompile()
    graph.module.delete_all_unused_submodules()
    return graph.module


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
