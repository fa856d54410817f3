"""Weights that read the units of a layer: those of the convolutions and dense layers that it feeds.

Which channel of a reader is which unit is not derived rule by rule. Every unit's number travels through the network's
own operations, so concatenations, padding of channels, flattening and splits put it where they put the unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, fx, nn

from workflows.networks.taps import explained
from workflows.networks.tracing import NetworkGraph

_MOVING = frozenset(
    {"transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "roll", "flip", "getitem", "index_select"}
    | {"channel_shuffle", "ChannelShuffle"}
)
"""Operations that may put units elsewhere and keep the shape."""


@dataclass(frozen=True)
class ReadingWeights:
    """Weights that read each unit of a layer, of all its readers together.

    Attributes:
        total: (D,) their sum.
        variance: (D,) their variance; both are NaN for a unit that nothing reads.
        readers: names of the operations that read the layer; a join has several.
    """

    total: Float[Tensor, " D"]
    variance: Float[Tensor, " D"]
    readers: tuple[str, ...]


def reading_weights(graph: NetworkGraph, tap: str, input_shape: tuple[int, int, int]) -> ReadingWeights:
    """The weights w^{l+1} that read the units of a layer.

    Args:
        graph: the network, as its author wrote it.
        tap: canonical name of the operation whose result holds the units.
        input_shape: units, height and width of the images.

    Raises:
        NetworkError: the network cannot take such an image.
    """
    numbering = _Numbering(graph, graph.node(tap))
    parameter = next(graph.module.parameters(), torch.empty(0))
    image = torch.zeros((1, *input_shape), dtype=parameter.dtype, device=parameter.device)
    try:
        with torch.inference_mode():
            numbering.run(image)
    except Exception as error:  # foreign code may fail in any way
        raise explained(error, input_shape) from error
    count, total, square = numbering.sums
    mean = total / count
    return ReadingWeights(total.where(count > 0, torch.nan), square / count - mean.square(), tuple(numbering.readers))


class _Numbering(fx.Interpreter):
    """Runs a network, and beside it the numbers of a layer's units, from 1; 0 is everything else."""

    def __init__(self, graph: NetworkGraph, start: fx.Node) -> None:
        super().__init__(graph.module, garbage_collect_values=False)
        self.graph_of, self.start = graph, start
        self.numbers: dict[fx.Node, Any] = {}
        self.readers: list[str] = []
        self.sums = torch.zeros((3, 0), dtype=torch.float64)

    def run_node(self, n: fx.Node) -> Any:
        """The node's own value; the numbers are kept beside it."""
        value = super().run_node(n)
        if n is self.start:
            units = torch.arange(1.0, value.shape[1] + 1, device=value.device)
            self.numbers[n] = units.view(1, -1, *[1] * (value.ndim - 2)).expand(value.shape)
            self.sums = torch.zeros((3, value.shape[1]), dtype=torch.float64)
        elif any(source in self.numbers for source in n.all_input_nodes) and n.op.startswith("call_"):
            self._pass_on(n, value)
        return value

    def _pass_on(self, node: fx.Node, value: Any) -> None:
        weight = self._weight(node)
        if weight is not None:
            if node.all_input_nodes[0] in self.numbers:
                self._read(node, weight)
        elif isinstance(value, Tensor):
            self.numbers[node] = self._moved(node, value)
        elif isinstance(value, tuple | list):
            self.numbers[node] = self._executed(node)

    def _moved(self, node: fx.Node, value: Tensor) -> Tensor:
        """Where the units are in a result: as they were where its shape is kept, else where the operation puts them."""
        inputs = [self.numbers[source] for source in node.all_input_nodes if source in self.numbers]
        alike = [one for one in inputs if isinstance(one, Tensor) and one.shape == value.shape]
        if alike and _title(self.graph_of, node) not in _MOVING:
            return torch.stack(alike).amax(dim=0)
        moved = self._executed(node)
        # Averages over padding are less than the number: a channel is one unit, wherever its map shows it.
        return moved.amax(dim=(2, 3), keepdim=True).round().expand(value.shape) if value.ndim == 4 else moved.round()

    def _executed(self, node: fx.Node) -> Any:
        """The operation on numbers instead of values."""

        def replaced(source: fx.Node) -> Any:
            if source in self.numbers:
                return self.numbers[source]
            value = self.env[source]
            return torch.zeros_like(value, dtype=torch.float32) if isinstance(value, Tensor) else value

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), replaced)
        return getattr(self, node.op)(node.target, args, kwargs)

    def _weight(self, node: fx.Node) -> Tensor | None:
        module = self.graph_of.submodule(node)
        if module is not None:
            return module.weight if isinstance(module, (nn.Conv2d, nn.Linear)) else None
        if node.target not in (F.conv2d, F.linear):
            return None
        given = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
        found = self.env.get(given) if isinstance(given, fx.Node) else None
        return found if isinstance(found, Tensor) else None

    def _read(self, node: fx.Node, weight: Tensor) -> None:
        numbers = self.numbers[node.all_input_nodes[0]]
        channels: Int[Tensor, " C"] = (numbers.flatten(2).amax(dim=2) if numbers.ndim > 2 else numbers)[0].long().cpu()
        exact = weight.detach().double().cpu()
        # Inputs of a grouped convolution are read by the outputs of their own group only.
        groups = len(channels) // exact.shape[1]
        by_channel = exact.view(groups, len(exact) // groups, exact.shape[1], -1).permute(0, 2, 1, 3).flatten(2)
        by_channel = by_channel.reshape(len(channels), -1)
        read = channels > 0
        if not bool(read.any()):
            return
        self.readers.append(self.graph_of.names[node])
        rows = by_channel[read]
        sums = torch.stack([torch.full((len(rows),), float(rows.shape[1])), rows.sum(1), rows.square().sum(1)])
        self.sums.index_add_(1, channels[read] - 1, sums.double())


def _title(graph: NetworkGraph, node: fx.Node) -> str:
    module = graph.submodule(node)
    return str(getattr(node.target, "__name__", node.target)) if module is None else type(module).__name__
