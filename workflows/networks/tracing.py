"""The graph of a network's operations, with the node names torchvision's feature extraction gives them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

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
    """The network's forward pass depends on its data, so its operations form no fixed graph."""


@dataclass(frozen=True)
class NetworkGraph:
    """Operations of a network in execution order.

    Attributes:
        module: the network as a ``torch.fx`` module; it shares the parameters of the traced one.
        nodes: operations by canonical name (``layer1.2.add``), in execution order.
        input: the placeholder of the images.
        result: the operation that computes the logits.
    """

    module: fx.GraphModule
    nodes: dict[str, fx.Node]
    input: fx.Node
    result: fx.Node

    @cached_property
    def names(self) -> dict[fx.Node, str]:
        """Canonical name of every operation."""
        return {node: name for name, node in self.nodes.items()}

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Canonical names by alias: ``addN``, N-th addition; ``convB_I``, I-th convolution of pooling block B.

        Both count from 1 in execution order. The convolution aliases exist in networks without joins only: in a
        residual network "conv2_1" means something else.
        """
        additions = [name for name, node in self.nodes.items() if _is_addition(node)]
        aliases = {f"add{number}": name for number, name in enumerate(additions, start=1)}
        if not any(node.target in _JOINS for node in self.nodes.values() if node.op != "call_module"):
            aliases |= self._block_aliases()
        return aliases

    def node(self, name: str) -> fx.Node:
        """The operation of a canonical name, an alias or ``output``; NetworkError with the nearest names otherwise."""
        if name == OUTPUT:
            return self.result
        canonical = name if name in self.nodes else self.aliases.get(name, name)
        if canonical not in self.nodes:
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

    def _block_aliases(self) -> dict[str, str]:
        aliases: dict[str, str] = {}
        block, within = 1, 0
        for name, node in self.nodes.items():
            module = self.submodule(node)
            if isinstance(module, nn.Conv2d) or node.target is nn.functional.conv2d:
                within += 1
                aliases[f"conv{block}_{within}"] = name
            elif within and (isinstance(module, _POOLS) or node.target in _POOL_FUNCTIONS):
                block, within = block + 1, 0
        return aliases


def trace_network(network: nn.Module) -> NetworkGraph:
    """Record the operations of a network in evaluation mode.

    Raises:
        UntraceableNetwork: the forward pass branches on values, or cannot run on symbols.
        NetworkError: the network takes several inputs, or gives something else than one tensor.
    """
    tracer = torchvision.models.feature_extraction.NodePathTracer()
    training = network.training
    network.eval()
    try:
        graph = tracer.trace(network)
    except Exception as error:
        raise UntraceableNetwork(
            f"network {type(network).__name__}: its operations cannot be traced ({type(error).__name__}: {error})"
        ) from error
    finally:
        network.train(training)
    for node in graph.nodes:
        node.type = None  # a shape annotation that was evaluated cannot be pickled with the graph
    module = fx.GraphModule(network, graph)
    _reroute_overwritten(module)
    names = {name: node for node, name in tracer.node_to_qualname.items() if node.op.startswith("call_")}
    return NetworkGraph(module, names, _single_input(graph, network), _single_result(graph, network))


def _reroute_overwritten(module: fx.GraphModule) -> None:
    """Let later operations read an in-place result where the network's code names the overwritten input."""
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        if not node.all_input_nodes or not _overwrites(module, node):
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
