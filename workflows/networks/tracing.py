"""The graph of a network's operations, with the node names torchvision's feature extraction gives them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from workflows.errors import NetworkError
from workflows.networks.compiled_ops import torchvision
from workflows.networks.naming import nearest_names

OUTPUT = "output"
"""The house name of the network's result (the logits), whatever node computes it."""

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_INPLACE_OPERATORS = {operator.iadd, operator.isub, operator.imul, operator.itruediv}
_JOINS = _ADDITIONS | {torch.cat, torch.concat}
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_POOL_FUNCTIONS = {nn.functional.max_pool2d, nn.functional.avg_pool2d, torch.max_pool2d}


class UntraceableNetwork(NetworkError):
    """The network's forward pass depends on its data, or a layer lies in a module whose does: there is no graph."""


@dataclass(frozen=True)
class NetworkGraph:
    """Operations of a network in execution order.

    Attributes:
        module: the network as a ``torch.fx`` module; it shares the parameters of the traced one.
        nodes: operations by canonical name (``layer1.2.add``), in execution order.
        input: the placeholder of the images.
        result: the operation that computes the logits.
        opaque: calls of modules whose forward pass depends on its data; each is one operation, with nothing known of
            what happens inside.
    """

    module: fx.GraphModule
    nodes: dict[str, fx.Node]
    input: fx.Node
    result: fx.Node
    opaque: frozenset[fx.Node] = frozenset()

    @cached_property
    def names(self) -> dict[fx.Node, str]:
        """Canonical name of every operation."""
        return {node: name for name, node in self.nodes.items()}

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Canonical names by alias: ``addN``, N-th addition; ``convB_I``, I-th convolution of pooling block B.

        Both count from 1 in execution order. The convolution aliases exist in networks without joins only: in a
        residual network "conv2_1" means something else. What an opaque module adds or convolves cannot be counted, so
        nothing behind one has an alias.
        """
        countable = dict(itertools.takewhile(lambda item: item[1] not in self.opaque, self.nodes.items()))
        additions = [name for name, node in countable.items() if _is_addition(node)]
        aliases = {f"add{number}": name for number, name in enumerate(additions, start=1)}
        if not any(node.target in _JOINS for node in self.nodes.values() if node.op != "call_module"):
            aliases |= self._block_aliases(countable)
        return aliases

    def node(self, name: str) -> fx.Node:
        """The operation of a canonical name, an alias or ``output``.

        Raises:
            UntraceableNetwork: the name may stand for a layer inside an opaque module.
            NetworkError: there is no such operation; with the nearest names.
        """
        if name == OUTPUT:
            return self.result
        canonical = name if name in self.nodes else self.aliases.get(name, name)
        if canonical not in self.nodes:
            for node in self.opaque:
                if name.startswith(f"{node.target}."):
                    raise UntraceableNetwork(f"network.layers: {name!r} lies in {node.target!r}, which is not traced")
            known = [*self.nodes, *self.aliases, OUTPUT]
            raise NetworkError(f"network.layers: the network has no layer {name!r}; {nearest_names(name, known)}")
        return self.nodes[canonical]

    def submodule(self, node: fx.Node) -> nn.Module | None:
        """The module that an operation calls, or None for a function."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def upstream_of(self, upper: fx.Node) -> set[fx.Node]:
        """Every operation that ``upper`` depends on, itself included."""
        seen: set[fx.Node] = set()
        waiting = [upper]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting.extend(node.all_input_nodes)
        return seen

    def _block_aliases(self, nodes: dict[str, fx.Node]) -> dict[str, str]:
        aliases: dict[str, str] = {}
        block, within = 1, 0
        for name, node in nodes.items():
            module = self.submodule(node)
            if isinstance(module, nn.Conv2d) or node.target is nn.functional.conv2d:
                within += 1
                aliases[f"conv{block}_{within}"] = name
            elif within and (isinstance(module, _POOLS) or node.target in _POOL_FUNCTIONS):
                block, within = block + 1, 0
        return aliases


def trace_network(network: nn.Module) -> NetworkGraph:
    """Record the operations of a network in evaluation mode.

    A module whose forward pass branches on values, or cannot run on symbols, becomes one opaque operation.

    Raises:
        UntraceableNetwork: the network's own forward pass is such a one.
        NetworkError: the network takes several inputs, or gives something else than one tensor.
    """
    training = network.training
    network.eval()
    try:
        tracer, graph = _trace_around(network)
    finally:
        network.train(training)
    for node in graph.nodes:
        node.type = None  # a shape annotation that was evaluated cannot be pickled with the graph
    module = fx.GraphModule(network, graph)
    opaque = frozenset(node for node in graph.nodes if tracer.made_opaque(network, node))
    _reroute_overwritten(module, opaque)
    names = {name: node for node, name in tracer.node_to_qualname.items() if node.op.startswith("call_")}
    return NetworkGraph(module, names, _single_input(graph, network), _single_result(graph, network), opaque)


class _Tracer(torchvision.models.feature_extraction.NodePathTracer):
    """Knows which module could not be traced.

    Args:
        opaque: classes of modules that are one operation each; a pickled graph makes its tracer without any.
    """

    def __init__(self, opaque: Collection[type[nn.Module]] = ()) -> None:
        super().__init__(leaf_modules=opaque)
        self.failed: nn.Module | None = None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Remember the innermost module in which something is raised."""
        self.failed = None
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or m
            raise

    def made_opaque(self, network: nn.Module, node: fx.Node) -> bool:
        """Whether an operation is a call of an opaque module."""
        return node.op == "call_module" and isinstance(
            network.get_submodule(str(node.target)), tuple(self.leaf_modules)
        )


def _trace_around(network: nn.Module) -> tuple[_Tracer, fx.Graph]:
    """Trace again with every class of modules left out in which tracing failed, until it succeeds."""
    opaque: set[type[nn.Module]] = set()
    while True:
        tracer = _Tracer(opaque)
        try:
            return tracer, tracer.trace(network)
        except Exception as error:
            if tracer.failed is None or type(tracer.failed) in opaque:
                raise UntraceableNetwork(
                    f"network {type(network).__name__}: its operations cannot be traced "
                    f"({type(error).__name__}: {error})"
                ) from error
            opaque.add(type(tracer.failed))


def _reroute_overwritten(module: fx.GraphModule, opaque: frozenset[fx.Node]) -> None:
    """Let later operations read an in-place result where the network's code names the overwritten input."""
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        if node in opaque or not node.all_input_nodes or not _overwrites(module, node):
            continue
        source = node.all_input_nodes[0]
        for user in list(source.users):
            if order[user] > order[node]:
                user.replace_input_with(source, node)
    module.recompile()


def _overwrites(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return getattr(module.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    name = getattr(node.target, "__name__", "")
    return node.kwargs.get("inplace", False) is True or name.endswith("_") or node.target in _INPLACE_OPERATORS


def _single_input(graph: fx.Graph, network: nn.Module) -> fx.Node:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if not inputs or any(not node.args for node in inputs[1:]):
        raise NetworkError(
            f"network {type(network).__name__}: must take one tensor of images, takes "
            f"{', '.join(str(node.target) for node in inputs) or 'nothing'}; wrap it in a module of one argument"
        )
    return inputs[0]


def _single_result(graph: fx.Graph, network: nn.Module) -> fx.Node:
    result = next(node for node in reversed(graph.nodes) if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise NetworkError(
            f"network {type(network).__name__}: must give one tensor of logits (N, classes), gives "
            f"{_title(result)}; wrap it in a module that gives the logits"
        )
    return result


def _title(result: object) -> str:
    kinds = ((dict, "a dictionary"), (list, "a list"), (tuple, "a tuple"))
    return next((title for kind, title in kinds if isinstance(result, kind)), repr(result))


def _is_addition(node: fx.Node) -> bool:
    return node.op != "call_module" and node.target in _ADDITIONS and len(list(_operands(node))) > 1


def _operands(node: fx.Node) -> Iterator[fx.Node]:
    yield from (argument for argument in node.args if isinstance(argument, fx.Node))
