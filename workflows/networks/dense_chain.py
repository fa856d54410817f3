"""Chains of dense layers: which layers of a network a hidden Markov model may be put over."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

from workflows.errors import NetworkError
from workflows.networks.naming import nearest_names
from workflows.networks.tracing import NetworkGraph, UntraceableNetwork, trace_network
from workflows.settings import DENSE

# ReLU6 is none of them: it censors at both ends, which the rectified density does not know.
_RELU_FUNCTIONS: set[object] = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
_BEFORE_RELU_MODULES = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm),
)
_BEFORE_RELU_FUNCTIONS: set[object] = {
    F.dropout,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    F.batch_norm,
    F.layer_norm,
    F.rms_norm,
}
_UNITWISE_MODULES = (
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign),
    *(nn.ReLU6, nn.GELU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish),
    *(nn.Softmax, nn.LogSoftmax),  # of the result; between two layers they mix units, but still read one layer
)
_UNITWISE_FUNCTIONS: set[object] = {
    *(torch.tanh, torch.tanh_, torch.sigmoid, torch.sigmoid_, torch.softmax, torch.log_softmax),
    *("tanh", "tanh_", "sigmoid", "sigmoid_", "softmax", "log_softmax"),
    *(F.tanh, F.sigmoid, F.logsigmoid, F.hardtanh, F.hardtanh_, F.relu6, F.hardswish, F.hardsigmoid, F.softplus),
    *(F.softsign, F.gelu, F.leaky_relu, F.leaky_relu_, F.prelu, F.rrelu, F.rrelu_, F.elu, F.elu_, F.selu, F.selu_),
    *(F.celu, F.celu_, F.silu, F.mish, F.softmax, F.log_softmax),
}


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer of a chain.

    Attributes:
        name: canonical name of the operation whose result is modelled: the ReLU, or the dense layer itself.
        dense: canonical name of the dense layer.
        rectified: the result went through a ReLU, so its zeros are censored; otherwise it is a plain Gaussian.
        given: the name in the settings; that of the dense layer where it was found.
    """

    name: str
    dense: str
    rectified: bool
    given: str


def dense_chain(network: nn.Module) -> tuple[DenseLayer, ...]:
    """The dense layers that feed one another up to the network's result, lowest first; the last are the logits.

    Between two of them there are only normalisation, dropout and functions of single units. Whatever else stands
    there ends the chain: flattening, convolutions, pooling, and the join of a skip connection.

    Raises:
        NetworkError: no dense layer comes before the logits, or the operations cannot be traced.
    """
    return _chain(_traced(network))


def chain_layers(
    network: nn.Module, names: Sequence[str], output: Literal["fixed", "gaussian"] = "fixed"
) -> list[DenseLayer]:
    """The layers that a hidden Markov model has words for, lowest first (IG section 3.1).

    Args:
        network: the network.
        names: ``["dense"]`` for the whole chain, or some of its layers, lowest first: a dense layer or its ReLU by
            node name, or ``dense1`` for the lowest of the chain, ``dense2`` for the next.
        output: ``fixed``, the logits are left to the observed prediction; ``gaussian``, they are the highest layer.

    Raises:
        NetworkError: there is no chain, a name is no layer of it, or the names are out of order.
    """
    graph = _traced(network)
    chain = _chain(graph)
    with_words = chain if output == "gaussian" else chain[:-1]
    if tuple(names) == (DENSE,):
        return list(with_words)
    places = [_place(graph, chain, name) for name in names]
    if output == "fixed" and len(chain) - 1 in places:
        raise NetworkError(
            f"network.layers: {names[places.index(len(chain) - 1)]!r} is the layer of the logits, which hmm.output = "
            "'fixed' models by the prediction; leave it out, or set hmm.output = 'gaussian'"
        )
    for lower, upper in itertools.pairwise(places):
        if lower >= upper:
            ordered = ", ".join(chain[place].dense for place in sorted(set(places)))
            raise NetworkError(
                f"network.layers: {', '.join(names)} is not the order of the chain; name every layer once, "
                f"lowest first: {ordered}"
            )
    layers = [replace(chain[place], given=name) for place, name in zip(places, names, strict=True)]
    return layers if output == "fixed" or places[-1] == len(chain) - 1 else [*layers, chain[-1]]


def _traced(network: nn.Module) -> NetworkGraph:
    try:
        return trace_network(network)
    except UntraceableNetwork as error:
        raise NetworkError(
            f"{error}; an [hmm] section needs the traced chain of dense layers: write the forward pass without "
            "branches on values, or leave the section out"
        ) from error


def _chain(graph: NetworkGraph) -> tuple[DenseLayer, ...]:
    """Every dense layer from the result down to the first operation that ends a chain."""
    found: list[DenseLayer] = []
    node, rectified_by = graph.result, None
    while True:
        if _is_dense(graph, node):
            dense = graph.names[node]
            name = dense if rectified_by is None else graph.names[rectified_by]
            found.append(DenseLayer(name, dense, rectified_by is not None, dense))
            rectified_by = None
        elif _is_relu(graph, node):
            rectified_by = node
        elif _is_unitwise(graph, node):
            rectified_by = None  # the modelled result must be a ReLU's that reads the dense layer itself
        elif not _is_before_relu(graph, node):
            break
        node = node.all_input_nodes[0]
    if len(found) < 2:
        _refuse(graph, found, node)
    if found[0].rectified:
        found[0] = DenseLayer(found[0].dense, found[0].dense, False, found[0].dense)
    return tuple(reversed(found))


def _refuse(graph: NetworkGraph, found: Sequence[DenseLayer], stop: fx.Node) -> None:
    below = "the images" if stop is graph.input else f"{graph.names.get(stop, str(stop))!r}"
    came = f"only {found[0].dense!r}, the layer of the logits," if found else "none"
    raise NetworkError(
        f"network: an [hmm] section needs a chain of at least 1 hidden dense layer before that of the logits, {came} "
        f"was found above {below}, which ends a chain; use a network that ends in several dense layers, or leave the "
        "section out and name any layers: each then gets a mixture"
    )


def _place(graph: NetworkGraph, chain: Sequence[DenseLayer], name: str) -> int:
    """Place of a named layer in the chain, from 0."""
    aliases = {f"{DENSE}{number}": layer.dense for number, layer in enumerate(chain, start=1)}
    canonical = name if name in graph.nodes else aliases.get(name, name)
    for place, layer in enumerate(chain):
        if canonical in (layer.name, layer.dense):
            return place
    there = ", ".join(layer.dense for layer in chain)
    if canonical in graph.nodes or canonical in graph.aliases:
        raise NetworkError(
            f"network.layers: {name!r} is no layer of the chain of dense layers that ends in the logits, which "
            f"[hmm] needs; the chain is {there}"
        )
    known = dict.fromkeys([*(layer.dense for layer in chain), *(layer.name for layer in chain), *aliases])
    raise NetworkError(f"network.layers: the network has no layer {name!r}; {nearest_names(name, known)}")


def _is_dense(graph: NetworkGraph, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.submodule(node), nn.Linear)
    return node.op == "call_function" and node.target is F.linear and _reads_one_activation(graph, node)


def _is_relu(graph: NetworkGraph, node: fx.Node) -> bool:
    return _is_one_of(graph, node, (nn.ReLU,), _RELU_FUNCTIONS)


def _is_unitwise(graph: NetworkGraph, node: fx.Node) -> bool:
    return _is_one_of(graph, node, _UNITWISE_MODULES, _UNITWISE_FUNCTIONS)


def _is_before_relu(graph: NetworkGraph, node: fx.Node) -> bool:
    return _is_one_of(graph, node, _BEFORE_RELU_MODULES, _BEFORE_RELU_FUNCTIONS)


def _is_one_of(graph: NetworkGraph, node: fx.Node, modules: tuple[type, ...], functions: set[object]) -> bool:
    if node.op == "call_module":
        return isinstance(graph.submodule(node), modules)
    return node.op.startswith("call_") and node.target in functions and _reads_one_activation(graph, node)


def _reads_one_activation(graph: NetworkGraph, node: fx.Node) -> bool:
    """Weights that are computed from the images would make more than one layer feed this one."""
    others = node.all_input_nodes[1:]
    return bool(node.all_input_nodes) and all(graph.input not in graph.upstream_of(other) for other in others)
