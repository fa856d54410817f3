"""The layers of a network whose units can be asked and changed: traced, nothing overwritten, normalisations folded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from workflows.errors import NetworkError
from workflows.networks.copying import own_copy
from workflows.networks.loading import load_network
from workflows.networks.naming import nearest_names, shortened
from workflows.networks.receptive_fields import downstream_of, operation_shapes
from workflows.networks.rewriting import disable_inplace, fuse_batch_norms
from workflows.networks.rewriting_choice import EVERY_CHANGE, Rewriting
from workflows.networks.tracing import OUTPUT, NetworkGraph, trace_network
from workflows.networks.window_rules import is_elementwise
from workflows.settings import NetworkSettings

_CONVOLUTIONS = {F.conv2d, torch.conv2d}
_DENSE: frozenset[Any] = frozenset((F.linear, torch.matmul))
_POOLING = (nn.MaxPool2d, nn.AvgPool2d)
_POOLING_FUNCTIONS = {F.max_pool2d, F.avg_pool2d, torch.max_pool2d}


@dataclass(frozen=True)
class UnitLayer:
    """A layer of units.

    Attributes:
        name: canonical name; of a convolution its own, also where a batch normalisation is folded into it.
        depth: its place among the operations of the network, in execution order.
        units, height, width: D, H, W of its map.
        is_convolution: else it is a join, or another operation that gives a map.
        is_cut: every path from the images to the logits crosses it.
        yields_logits: its units are the classes.
    """

    name: str
    depth: int
    units: int
    height: int
    width: int
    is_convolution: bool
    is_cut: bool
    yields_logits: bool = False

    @property
    def positions(self) -> int:
        """H times W."""
        return self.height * self.width


class UnitNetwork:
    """A frozen copy of a network, as operations that leave their inputs alone.

    The units of a convolution are its outputs with the batch normalisation behind it folded in, so what is silenced
    or replaced there is what the next operation reads.

    Args:
        network: in evaluation mode; left as it is.
        input_shape: units, height and width of the images.
        rewriting: what the run has found that the network bears; ``fused`` folds normalisations.

    Raises:
        NetworkError: its operations cannot be traced or rewritten, it cannot take such images, or has no convolution.
    """

    def __init__(
        self, network: nn.Module, input_shape: tuple[int, int, int], rewriting: Rewriting = EVERY_CHANGE
    ) -> None:
        if rewriting.operations != "rewritten":
            raise NetworkError(
                f"network {type(network).__name__}: must have operations that can be rewritten for its units, got one "
                f"that runs {rewriting.operations}, for rewriting changes its logits; take in-place tricks out"
            )
        traced = trace_network(own_copy(network).eval().requires_grad_(False))
        if traced.opaque:
            inside = shortened(sorted(str(node.target) for node in traced.opaque))
            raise NetworkError(
                f"network {type(network).__name__}: must have operations that can be traced to ask its units, got "
                f"{inside}, of which nothing is known; take what depends on values out of the forward pass"
            )
        self._aliases = traced.aliases  # before normalisations go
        disable_inplace(traced)
        nodes = {name: node for name, node in traced.nodes.items() if not _is_convolution(traced, node)}
        nodes[OUTPUT] = traced.result
        if rewriting.fused:
            fuse_batch_norms(traced, nodes)
        self.result = nodes.pop(OUTPUT)
        kept = set(traced.module.graph.nodes)
        own = {name: node for name, node in traced.nodes.items() if node in kept}
        traced.module.graph.lint()
        traced.module.recompile()
        self.module = traced.module
        self.input = traced.input
        self.nodes: dict[str, fx.Node] = own | {name: node for name, node in nodes.items() if node in kept}
        self.names = {node: name for name, node in own.items()}
        self._graph = NetworkGraph(self.module, own, self.input, self.result)
        self._shapes = operation_shapes(self._graph, input_shape)
        if not self.convolutions():
            raise NetworkError(f"network {type(network).__name__}: must have a convolution to ask units, it has none")

    @classmethod
    def load(
        cls,
        settings: NetworkSettings,
        weights: str,
        input_shape: tuple[int, int, int],
        rewriting: Rewriting,
        device: torch.device | str = "cpu",
    ) -> UnitNetwork:
        """The network of a run, as its plan says, on a device. Raises NetworkError."""
        network = cls(load_network(settings.model_copy(update={"weights": weights})), input_shape, rewriting)
        if torch.device(device).type == "cuda":
            # TF32 keeps 10 bits of mantissa.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        network.module.to(device)
        return network

    @cached_property
    def layers(self) -> dict[str, UnitLayer]:
        """Every operation that the logits depend on and that gives a map (N, D, H, W), in execution order."""
        fed = downstream_of(self.input) & self.needed
        maps = [
            (depth, node)
            for depth, node in enumerate(self.module.graph.nodes)
            if node in fed and node in self.names and len(self._shapes.get(node, ())) == 4
        ]
        return {self.names[node]: self._layer(depth, node) for depth, node in maps}

    @cached_property
    def needed(self) -> set[fx.Node]:
        """Every operation that the logits depend on."""
        return self._graph.upstream_of(self.result)

    def convolutions(self) -> list[UnitLayer]:
        """In execution order."""
        return [layer for layer in self.layers.values() if layer.is_convolution]

    def inner_convolutions(self) -> list[UnitLayer]:
        """Without the first and the last, and never one whose units are the classes: those that ablation may change."""
        return [layer for layer in self.convolutions()[1:-1] if not layer.yields_logits]

    def cut_joins(self) -> list[UnitLayer]:
        """Additions and concatenations that every path crosses."""
        return [layer for layer in self.layers.values() if layer.is_cut and len(self._maps_into(layer.name)) > 1]

    def layer(self, name: str, asked_by: str = "--layers") -> UnitLayer:
        """The layer of a canonical name or alias; a normalisation that is folded is its convolution.

        Raises:
            NetworkError: there is none, or it gives no map.
        """
        known = self._aliases.get(name, name)
        if known not in self.nodes or self.names[self.nodes[known]] not in self.layers:
            raise NetworkError(
                f"{asked_by}: must be a layer of the network that gives a map, got {name!r}; "
                f"{nearest_names(name, [*self.layers, *self._aliases])}"
            )
        return self.layers[self.names[self.nodes[known]]]

    def is_layer(self, name: str, layer: UnitLayer) -> bool:
        """Whether a canonical name or alias means a layer."""
        known = self._aliases.get(name, name)
        return known in self.nodes and self.names[self.nodes[known]] == layer.name

    def convolution(self, name: str, asked_by: str = "--layers") -> UnitLayer:
        """The convolution of a name. Raises NetworkError: the layer is none."""
        layer = self.layer(name, asked_by)
        if not layer.is_convolution:
            convolutions = [one.name for one in self.convolutions()]
            raise NetworkError(
                f"{asked_by}: must be a convolution, got {name!r}, which is none; {nearest_names(name, convolutions)}"
            )
        return layer

    def convolution_seen_at(self, name: str) -> UnitLayer | None:
        """The convolution whose units a layer shows: behind its normalisation, rectification or pooling.

        None where another operation mixes units, such as a join.
        """
        node = self.nodes.get(self._aliases.get(name, name))
        while node is not None and not _is_convolution(self._graph, node):
            tensors = [one for one in node.all_input_nodes if len(self._shapes.get(one, ())) == 4]
            node = tensors[0] if self._keeps_units(node) and len(tensors) == 1 else None
        return None if node is None else self.layers.get(self.names[node])

    def tapped(self, names: Sequence[str]) -> fx.GraphModule:
        """The same operations and parameters, giving logits and a tuple of the values of some layers."""
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        graph.graph_copy(self.module.graph, copies)
        graph.output((copies[self.result], tuple(copies[self.nodes[name]] for name in names)))
        return fx.GraphModule(self.module, graph)

    def downstream(self, name: str) -> set[fx.Node]:
        """Every operation that a layer feeds and that the logits depend on."""
        return downstream_of(self.nodes[name]) & self.needed

    def _layer(self, depth: int, node: fx.Node) -> UnitLayer:
        units, height, width = self._shapes[node][1:]
        convolution = _is_convolution(self._graph, node)
        return UnitLayer(
            self.names[node],
            depth,
            units,
            height,
            width,
            convolution,
            self._is_cut(node),
            convolution and units == self._shapes[self.result][1] and not self._is_weighed_behind(node),
        )

    def _is_cut(self, node: fx.Node) -> bool:
        """Whether no way leads around a node; sizes that are read on the way are none."""
        seen, waiting = {self.input}, [self.input]
        while waiting:
            for user in waiting.pop().users:
                if user is self.result and user is not node:
                    return False
                if user is not node and user in self._shapes and user not in seen:
                    seen.add(user)
                    waiting.append(user)
        return True

    def share_behind(self, name: str) -> float:
        """Of the products of all convolutions, those of the convolutions that a layer feeds: the cost of the rest."""
        behind = self.downstream(name)
        costs = {node: self._products(node) for node in self.needed if _is_convolution(self._graph, node)}
        return sum(cost for node, cost in costs.items() if node in behind) / sum(costs.values())

    def _products(self, node: fx.Node) -> int:
        module = self._graph.submodule(node)
        weights = module.weight.numel() if isinstance(module, nn.Conv2d) else self._shapes[node][1]
        return int(weights * self._shapes[node][2] * self._shapes[node][3])

    def _keeps_units(self, node: fx.Node) -> bool:
        pools = isinstance(self._graph.submodule(node), _POOLING) or node.target in _POOLING_FUNCTIONS
        return pools or is_elementwise(self._graph, node)

    def _is_weighed_behind(self, node: fx.Node) -> bool:
        behind = downstream_of(node) & self.needed
        return any(
            _is_convolution(self._graph, one)
            or isinstance(self._graph.submodule(one), nn.Linear)
            or one.target in _DENSE
            for one in behind
        )

    def _maps_into(self, name: str) -> list[fx.Node]:
        return [one for one in self.nodes[name].all_input_nodes if len(self._shapes.get(one, ())) == 4]


def _is_convolution(graph: NetworkGraph, node: fx.Node) -> bool:
    return isinstance(graph.submodule(node), nn.Conv2d) or node.target in _CONVOLUTIONS


def split_units(
    layers: Collection[UnitLayer],
) -> Iterator[tuple[UnitLayer, slice]]:
    """Which of the units of several layers in a row are those of each layer."""
    start = 0
    for layer in layers:
        yield layer, slice(start, start + layer.units)
        start += layer.units
