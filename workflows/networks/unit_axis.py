"""Maps whose units lie on the last axis, (N, H, W, D): between two permutations, as in the blocks of ConvNeXt.

There a dense layer and a layer normalisation work on single columns, so they change no window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from workflows.networks.tracing import NetworkGraph

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_PERMUTATIONS: set[Any] = {torch.permute, "permute"}


def units_last(
    graph: NetworkGraph, shapes: Mapping[fx.Node, torch.Size], is_elementwise: Callable[[fx.Node], bool]
) -> frozenset[fx.Node]:
    """The operations whose result is (N, H, W, D).

    Args:
        graph: the network.
        shapes: shape of every tensor for one image.
        is_elementwise: whether an operation keeps the axes of what it reads.
    """
    found: set[fx.Node] = set()
    for node in graph.module.graph.nodes:
        if len(shapes.get(node, ())) != 4:
            continue
        from_last, order = not found.isdisjoint(node.all_input_nodes), permutation(node)
        keeps = order is None and (is_elementwise(node) or is_columnwise(graph, node))
        if keeps if from_last else order == _TO_LAST:
            found.add(node)
    return frozenset(found)


def moves_units(node: fx.Node, last: frozenset[fx.Node]) -> bool:
    """Whether an operation only moves the units to the last axis or back."""
    order = permutation(node)
    return order is not None and order == (_TO_FIRST if node.all_input_nodes[0] in last else _TO_LAST)


def permutation(node: fx.Node) -> tuple[int, ...] | None:
    """The order of the axes that an operation gives to a tensor of four; None if it is no permutation."""
    if node.target not in _PERMUTATIONS:
        return None
    order = node.kwargs.get("dims", node.args[1:])
    flat = order[0] if isinstance(order, tuple) and len(order) == 1 else order
    if not isinstance(flat, tuple | list) or not all(isinstance(axis, int) for axis in flat):
        return None
    return tuple(int(axis) % 4 for axis in flat)


def is_columnwise(graph: NetworkGraph, node: fx.Node) -> bool:
    """Whether an operation works on the last axis alone: a dense layer, or normalisation over that axis."""
    module = graph.submodule(node)
    if module is not None:
        return isinstance(module, nn.Linear) or (
            isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1
        )
    if node.target is F.linear:
        return True
    shape = node.kwargs.get("normalized_shape", node.args[1] if len(node.args) > 1 else ())
    return node.target in (F.layer_norm, F.rms_norm) and isinstance(shape, tuple | list) and len(shape) == 1
