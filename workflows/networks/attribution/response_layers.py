"""Layers whose units a study asks about: convolutions by name or number, with what is folded into them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import fx, nn

from workflows.errors import NetworkError
from workflows.networks.taps import Tap
from workflows.networks.tracing import NetworkGraph

SPREAD = 7
"""So many convolutions are asked about where none is named (IR: VGG-16's third to ninth)."""

_RECTIFIERS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.Hardtanh, nn.Softplus),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
)
_RECTIFYING = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "hardtanh", "softplus"}
    | {"gelu", "silu", "mish", "hardswish"}
)


@dataclass(frozen=True)
class ResponseLayer:
    """A layer whose units are asked about.

    Attributes:
        name: canonical name of the operation that was named.
        number: of the convolution in execution order, from 1; None for another operation.
        tap: the operation whose result is the response: batch normalisation and, after them, the rectifier.
    """

    name: str
    number: int | None
    tap: str


def is_rectifier(graph: NetworkGraph, node: fx.Node) -> bool:
    """Whether an operation keeps what is positive and holds back the rest, unit by unit: ReLU and its kin."""
    module = graph.submodule(node)
    if module is not None:
        return isinstance(module, _RECTIFIERS) and node not in graph.opaque
    return node.op.startswith("call_") and getattr(node.target, "__name__", node.target) in _RECTIFYING


def convolutions(graph: NetworkGraph) -> list[str]:
    """Canonical names in execution order."""
    return [
        name
        for name, node in graph.nodes.items()
        if isinstance(graph.submodule(node), nn.Conv2d) or node.target is F.conv2d
    ]


def response_layers(graph: NetworkGraph, requests: Sequence[str], tap: Tap) -> list[ResponseLayer]:
    """The layers of names, aliases and numbers of convolutions (``3``, ``3-9``), in execution order.

    Args:
        graph: the network.
        requests: none: ``SPREAD`` convolutions between the first and the last, evenly.
        tap: ``post``, the rectifier right behind the operation, where there is one; ``pre``, before it.

    Raises:
        NetworkError: a layer that does not exist, or a number that no convolution has.
    """
    known = convolutions(graph)
    names = [name for request in requests for name in _named(graph, known, request)] or _spread(known)
    order = {name: place for place, name in enumerate(graph.nodes)}
    numbers = {name: number for number, name in enumerate(known, start=1)}
    return [
        ResponseLayer(name, numbers.get(name), graph.names[_tapped(graph, graph.nodes[name], tap)])
        for name in sorted(set(names), key=lambda name: order[name])
    ]


def _named(graph: NetworkGraph, known: Sequence[str], request: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", request)
    if numbers is None:
        return [graph.names[graph.node(request)]]
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    if not 1 <= first <= last <= len(known):
        raise NetworkError(
            f"--layers: must be convolutions 1 to {len(known)}, lower first, got {request!r}; give other numbers, or "
            "names of layers"
        )
    return list(known[first - 1 : last])


def _spread(known: Sequence[str]) -> list[str]:
    if not known:
        raise NetworkError("--layers: must be named, for the network has no convolution; name operations with maps")
    between = list(known[1:-1]) or list(known)
    count = min(SPREAD, len(between))
    return [between[round(place * (len(between) - 1) / max(count - 1, 1))] for place in range(count)]


def _tapped(graph: NetworkGraph, node: fx.Node, tap: Tap) -> fx.Node:
    behind = _only_user(node)
    if behind is not None and isinstance(graph.submodule(behind), nn.BatchNorm2d):
        node, behind = behind, _only_user(behind)
    return behind if tap == "post" and behind is not None and is_rectifier(graph, behind) else node


def _only_user(node: fx.Node) -> fx.Node | None:
    users = [user for user in node.users if user.op != "output"]
    return users[0] if len(users) == 1 else None
