"""Which layers of a network can be modelled: the names, aliases and sizes that ``network.layers`` chooses from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workflows.errors import NetworkError
from workflows.networks.receptive_fields import downstream_of, maps_with_units_last, operation_shapes
from workflows.networks.tracing import NetworkGraph, UntraceableNetwork, trace_network


@dataclass(frozen=True)
class ListedLayer:
    """A layer that can be named.

    Attributes:
        name: canonical name.
        alias: shorter names for the same layer, ``add3`` or ``conv2_1``; empty if there is none.
        kind: the module's class or the function, ``Conv2d`` or ``add``.
        units, height, width: D, H, W of its map; 1 x 1 for a dense layer.
    """

    name: str
    alias: str
    kind: str
    units: int
    height: int
    width: int


def list_layers(network: nn.Module, input_shape: tuple[int, int, int]) -> list[ListedLayer]:
    """Every operation of a network that gives columns, in execution order.

    Where operations cannot be traced these are calls of modules: of the whole network, or those inside its opaque
    modules, which come last.

    Args:
        network: the network, in evaluation mode.
        input_shape: units, height and width of the images.

    Raises:
        NetworkError: the network cannot take such images.
    """
    try:
        graph = trace_network(network)
    except UntraceableNetwork:
        return _called_modules(network, input_shape)
    shapes = operation_shapes(graph, input_shape)
    fed = downstream_of(graph.input) - maps_with_units_last(graph, shapes)
    aliases: dict[str, str] = {}
    for alias, name in graph.aliases.items():
        aliases[name] = f"{aliases[name]}, {alias}" if name in aliases else alias
    traced = [
        ListedLayer(name, aliases.get(name, ""), _kind(graph, name), *size)
        for name, node in graph.nodes.items()
        if node in fed and (size := _map_size(shapes.get(node, torch.Size())))
    ]
    inside = tuple(f"{node.target}." for node in graph.opaque)
    return traced + [one for one in _called_modules(network, input_shape) if one.name.startswith(inside)]


def _kind(graph: NetworkGraph, name: str) -> str:
    node = graph.nodes[name]
    module = graph.submodule(node)
    if module is not None:
        return type(module).__name__
    return node.target if isinstance(node.target, str) else node.target.__name__


def _map_size(shape: torch.Size) -> tuple[int, int, int] | None:
    """D, H, W of the result for one image, (1, D, H, W) or (1, D); None for anything else."""
    if len(shape) not in (2, 4) or shape[0] != 1:
        return None
    return (shape[1], shape[2], shape[3]) if len(shape) == 4 else (shape[1], 1, 1)


@torch.inference_mode()
def _called_modules(network: nn.Module, input_shape: tuple[int, int, int]) -> list[ListedLayer]:
    found: list[ListedLayer] = []
    calls: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, result: object) -> None:
            number = calls.get(name, 0)
            calls[name] = number + 1
            size = _map_size(result.shape) if isinstance(result, Tensor) else None
            if size:
                found.append(ListedLayer(f"{name}_{number}" if number else name, "", type(module).__name__, *size))

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in network.named_modules() if name]
    try:
        network(torch.zeros(1, *input_shape))
    except Exception as error:  # foreign code may fail in any way
        raise NetworkError(
            f"network: it cannot take images of (channels, height, width) {input_shape}: "
            f"{type(error).__name__}: {error}; give another size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found
