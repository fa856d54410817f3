"""Changes to a network's graph that keep its results: no overwritten taps, fused normalisation.

Every function changes the graph in place and keeps ``taps`` (tapped nodes by layer name) pointing at the nodes that
hold the tapped results.
"""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from workflows.networks.tracing import NetworkGraph

Taps = dict[str, fx.Node]

_RELUS = {F.relu, torch.relu, "relu"}
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    F.relu_: torch.relu,
}
_FRESH_MODULES = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
_FRESH_FUNCTIONS = {operator.add, torch.add, torch.cat}


def disable_inplace(graph: NetworkGraph) -> None:
    """Make every operation leave its input alone, as tracing already recorded them.

    Modules lose their ``inplace`` flag, so the graph must own them. Opaque modules keep it: what they overwrite is read
    as their own code has it.
    """
    kept = {id(part) for node in graph.opaque for part in graph.module.get_submodule(str(node.target)).modules()}
    for module in graph.module.modules():
        if getattr(module, "inplace", False) is True and id(module) not in kept:
            module.inplace = False  # type: ignore[assignment]
    for node in graph.module.graph.nodes:
        if node.op == "call_method" and _is_inplace_method(node.target):
            node.target = node.target.rstrip("_")
        elif node.op == "call_function":
            node.target = _OUT_OF_PLACE.get(node.target, node.target)
            _clear_inplace_argument(node)


def fuse_batch_norms(graph: NetworkGraph, taps: Taps) -> None:
    """Fold a batch normalisation into the convolution before it, unless something else reads the convolution.

    A tapped convolution is left alone, and so is a module that is called twice, or whose parameters are computed anew
    in every call (pruned, weight-normed, spectral-normed, parametrised).
    """
    calls = Counter(node.target for node in graph.module.graph.nodes if node.op == "call_module")
    for norm in list(graph.module.graph.nodes):
        bn = graph.submodule(norm)
        if not (type(bn) is nn.BatchNorm2d and _is_plain(bn)) or bn.running_mean is None or calls[norm.target] > 1:
            continue
        source = norm.all_input_nodes[0]
        if not graph.opaque.isdisjoint((norm, source)):
            continue
        conv = graph.submodule(source)
        if not (type(conv) is nn.Conv2d and _is_plain(conv)) or calls[source.target] > 1 or len(source.users) > 1:
            continue
        if source in taps.values():
            continue
        _replace_module(graph.module, str(source.target), fuse_conv_bn_eval(conv, bn))
        _replace(graph, taps, norm, source)


def copy_taps(graph: NetworkGraph, taps: Taps) -> None:
    """Tap copies, made before a later operation can overwrite what was tapped."""
    for name, node in taps.items():
        with graph.module.graph.inserting_after(node):
            taps[name] = graph.module.graph.call_function(torch.clone, (node,))


def overwrite_untapped(graph: NetworkGraph, taps: Taps) -> None:
    """Let a ReLU overwrite its input where nothing else reads it: saves an allocation, changes no number."""
    for node in list(graph.module.graph.nodes):
        module = graph.submodule(node)
        if not (type(module) is nn.ReLU if module is not None else node.target in _RELUS):
            continue
        source = node.all_input_nodes[0]
        alone = len(source.users) == 1 and source not in taps.values() and _is_fresh(graph, source)
        with graph.module.graph.inserting_after(node):
            relu = graph.module.graph.call_function(torch.relu_ if alone else torch.relu, (source,))
        _replace(graph, taps, node, relu)


def _replace(graph: NetworkGraph, taps: Taps, old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    graph.module.graph.erase_node(old)
    taps.update({name: new for name, node in taps.items() if node is old})


def _replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module does what its class says with the parameters it shows."""
    hooks = (module._forward_pre_hooks, module._forward_hooks)
    return not any(hooks) and "forward" not in vars(module) and "weight" not in vars(module)


def _is_fresh(graph: NetworkGraph, node: fx.Node) -> bool:
    """Whether the result is new memory; dropout, flatten and slices may hand on their input's."""
    module = graph.submodule(node)
    if module is not None:
        return type(module) in _FRESH_MODULES and node not in graph.opaque
    return node.target in _FRESH_FUNCTIONS


def _is_inplace_method(name: Any) -> bool:
    # requires_grad_ and its like have no twin that computes.
    return name.endswith("_") and not name.endswith("__") and hasattr(torch, name.rstrip("_"))


def _clear_inplace_argument(node: fx.Node) -> None:
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return  # built-in functions show no signature and have no such argument
    if bound.arguments.get("inplace", False) is True:
        bound.arguments["inplace"] = False
        node.args, node.kwargs = bound.args, bound.kwargs
