"""What one operation of a network does to the window R(p), walking from its result to its inputs.

An operation that is not listed here raises ``UnknownWindow``; the caller then measures the window instead.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.windows import AxisWindow, Window
from workflows.networks.compiled_ops import torchvision
from workflows.networks.tracing import NetworkGraph
from workflows.networks.unit_axis import is_columnwise, moves_units

Pair = tuple[int, int]
Arguments = Mapping[str, Any]


class UnknownWindow(Exception):
    """The window through an operation cannot be read from its arguments."""


_PASSING_MODULES = (nn.Identity, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
_TORCHVISION_MODULES = (torchvision.ops.StochasticDepth, torchvision.ops.FrozenBatchNorm2d)
_RECTIFYING_MODULES = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.Hardtanh, nn.Softplus)
_SMOOTH_MODULES = (nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid)
_ELEMENTWISE_MODULES = _PASSING_MODULES + _TORCHVISION_MODULES + _RECTIFYING_MODULES + _SMOOTH_MODULES

_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "truediv", "neg", "abs", "exp", "sqrt", "square", "pow", "clamp"}
_COMPARING = {"maximum", "minimum", "iadd", "isub", "imul", "itruediv"}
_PASSING = {"contiguous", "clone", "detach", "float", "double", "to", "batch_norm", "dropout", "dropout2d"}
_RECTIFYING = {"relu", "relu6", "leaky_relu", "elu", "selu", "softplus", "hardtanh"}
_SMOOTH = {"gelu", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "stochastic_depth"}
_ELEMENTWISE_NAMES = _ARITHMETIC | _COMPARING | _PASSING | _RECTIFYING | _SMOOTH
_CONCATENATIONS = {torch.cat, torch.concat}
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d": ("input", "output_size", "return_indices"),
    "pad": ("input", "pad", "mode", "value"),
    "mean": ("input", "dim", "keepdim"),
    "amax": ("input", "dim", "keepdim"),
}
"""Of the functions with a rule, in the order of their positions."""
_MODULE_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "return_indices", "output_size")


def input_windows(
    graph: NetworkGraph,
    node: fx.Node,
    shapes: Mapping[fx.Node, torch.Size],
    last: frozenset[fx.Node],
    window: Window,
) -> dict[fx.Node, Window]:
    """Windows on the inputs of an operation, given the window on its result.

    Args:
        graph: the network.
        node: the operation.
        shapes: shape of every tensor for one image.
        last: operations whose units lie on the last axis.
        window: what an upper column sees of the operation's result.

    Returns:
        A window for every tensor input; parameters and sizes have none.

    Raises:
        UnknownWindow: the operation is not known, or steps unevenly over its input.
    """
    try:
        return _windows(graph, node, shapes, last, window)
    except UnknownWindow:
        raise
    except Exception as error:  # a form of calling that no rule foresaw
        name = graph.names.get(node, str(node))
        raise UnknownWindow(f"{name}: its arguments cannot be read ({type(error).__name__}: {error})") from error


def _windows(
    graph: NetworkGraph,
    node: fx.Node,
    shapes: Mapping[fx.Node, torch.Size],
    last: frozenset[fx.Node],
    window: Window,
) -> dict[fx.Node, Window]:
    inputs = [source for source in node.all_input_nodes if source in shapes and source.op != "get_attr"]
    axes = len(shapes.get(node, ()))  # none: several tensors at once
    if axes == 2 or (axes > 2 and window == Window.whole()):
        # One vector an image (flatten, global mean, dense layer) sees every position of what it reads, and whatever
        # lies below is seen whole too.
        return dict.fromkeys(inputs, Window.whole())
    if node in graph.opaque:
        raise UnknownWindow(f"{graph.names[node]}: the operations of {_title(graph, node)} cannot be traced")
    if axes != 4:
        raise UnknownWindow(f"{graph.names[node]} gives no map of shape (N, D, H, W)")
    if moves_units(node, last):
        return {inputs[0]: window}
    if node in last or not last.isdisjoint(inputs):
        return _units_last_windows(graph, node, shapes, last, window)
    rule = _rule(graph, node)
    if rule is not None:
        arguments = _arguments(graph, node, shapes)
        source = arguments["input"]
        if len(shapes.get(source, ())) != 4:
            raise UnknownWindow(f"{graph.names[node]} reads no map of shape (N, D, H, W)")
        through = rule(arguments, shapes[source], shapes[node], window)
        # A kernel that is computed from lower maps reads all of them.
        return {**dict.fromkeys(inputs, Window.whole()), source: through}
    if not is_elementwise(graph, node):
        raise UnknownWindow(f"{graph.names[node]}: no window rule for {_title(graph, node)}")
    return {source: _broadcast(shapes[source], shapes[node], window) for source in inputs}


def _units_last_windows(
    graph: NetworkGraph,
    node: fx.Node,
    shapes: Mapping[fx.Node, torch.Size],
    last: frozenset[fx.Node],
    window: Window,
) -> dict[fx.Node, Window]:
    """As ``input_windows`` for an operation on maps (N, H, W, D)."""
    inputs = [source for source in node.all_input_nodes if source in shapes and source.op != "get_attr"]
    if node in last and is_columnwise(graph, node):
        return {inputs[0]: window}
    mixed = any(shapes[source] == shapes[node] and source not in last for source in inputs)
    if node not in last or mixed or not is_elementwise(graph, node, units_axis=3):
        raise UnknownWindow(f"{graph.names[node]}: no rule for {_title(graph, node)} where units lie on the last axis")
    return {source: _broadcast(shapes[source], shapes[node], window, rows_axis=1) for source in inputs}


def join(windows: Window, other: Window) -> Window:
    """Smallest window over both; UnknownWindow when the branches step differently."""
    try:
        return windows.join(other)
    except RefusedInput as error:
        raise UnknownWindow(str(error)) from error


_Rule = Callable[[Arguments, torch.Size, torch.Size, Window], Window]


def _rule(graph: NetworkGraph, node: fx.Node) -> _Rule | None:
    module = graph.submodule(node)
    if module is not None:
        kinds = ((nn.Conv2d, _convolution), ((nn.MaxPool2d, nn.AvgPool2d), _pooling))
        adaptive = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
        return next((rule for kind, rule in (*kinds, (adaptive, _adaptive_pooling)) if isinstance(module, kind)), None)
    return _RULES_OF_FUNCTIONS.get(_title(graph, node))


def _convolution(arguments: Arguments, before: torch.Size, after: torch.Size, window: Window) -> Window:
    if arguments.get("padding_mode", "zeros") != "zeros":
        raise UnknownWindow(f"padding {arguments['padding_mode']!r} reads other positions than zeros")
    kernel = _pair(arguments["kernel_size"])
    dilation, padding = _pair(arguments.get("dilation", 1)), arguments.get("padding", 0)
    if padding == "same":
        padding = tuple(e * (k - 1) // 2 for e, k in zip(dilation, kernel, strict=True))
    elif padding == "valid":
        padding = 0
    return window.through(kernel, _pair(arguments.get("stride", 1)), dilation, _pair(padding))


def _pooling(arguments: Arguments, before: torch.Size, after: torch.Size, window: Window) -> Window:
    # ceil_mode only lets the last window hang over the edge, where the cropping of the window cuts it.
    if arguments.get("return_indices", False):
        raise UnknownWindow("pooling that returns indices")
    kernel = _pair(arguments["kernel_size"])
    stride = _pair(arguments.get("stride") or kernel)
    return window.through(kernel, stride, _pair(arguments.get("dilation", 1)), _pair(arguments.get("padding", 0)))


def _adaptive_pooling(arguments: Arguments, before: torch.Size, after: torch.Size, window: Window) -> Window:
    axes = []
    for axis, extent, bins in zip((window.rows, window.columns), before[2:], after[2:], strict=True):
        if bins == 1:
            axes.append(AxisWindow.whole())
        elif extent % bins == 0:
            axes.append(axis.through(extent // bins, extent // bins))
        else:
            raise UnknownWindow(f"adaptive pooling of {extent} positions into {bins} uneven bins")
    return Window(*axes)


def _padding(arguments: Arguments, before: torch.Size, after: torch.Size, window: Window) -> Window:
    if arguments.get("mode", "constant") != "constant":
        raise UnknownWindow(f"padding {arguments['mode']!r} reads other positions than a constant")
    left, _, top, _ = (*arguments["pad"], 0, 0, 0, 0)[:4]
    return window.through((1, 1), padding=(top, left))


def _slicing(arguments: Arguments, before: torch.Size, after: torch.Size, window: Window) -> Window:
    steps = arguments["index"] if isinstance(arguments["index"], tuple) else (arguments["index"],)
    if Ellipsis in steps:
        where = steps.index(Ellipsis)
        steps = steps[:where] + (slice(None),) * (5 - len(steps)) + steps[where + 1 :]
    steps = (*steps, *(slice(None),) * (4 - len(steps)))
    if len(steps) != 4 or not all(isinstance(step, slice) and _is_constant(step) for step in steps):
        raise UnknownWindow("indexing by something else than constant slices")
    rows, columns = (step.indices(extent) for step, extent in zip(steps[2:], before[2:], strict=True))
    return window.through((1, 1), (rows[2], columns[2]), padding=(-rows[0], -columns[0]))


def _mean(arguments: Arguments, before: torch.Size, after: torch.Size, window: Window) -> Window:
    axes = {axis % 4 for axis in _axes(arguments.get("dim"))}
    if not axes >= {2, 3}:
        raise UnknownWindow(f"a mean over the axes {sorted(axes)}")
    return Window.whole()


_RULES_OF_FUNCTIONS: dict[str, _Rule] = {
    "conv2d": _convolution,
    "max_pool2d": _pooling,
    "avg_pool2d": _pooling,
    "adaptive_avg_pool2d": _adaptive_pooling,
    "adaptive_max_pool2d": _adaptive_pooling,
    "pad": _padding,
    "getitem": _slicing,
    "mean": _mean,
    "amax": _mean,
}


def _title(graph: NetworkGraph, node: fx.Node) -> str:
    """The bare name of what a node calls: ``conv2d``, ``add``, ``relu``."""
    module = graph.submodule(node)
    if module is not None:
        return type(module).__name__
    if node.target is F.max_pool2d:
        return "max_pool2d"  # a dispatcher without a name of its own
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return name.rstrip("_")


def _arguments(graph: NetworkGraph, node: fx.Node, shapes: Mapping[fx.Node, torch.Size]) -> Arguments:
    """The operation's arguments by name, with ``input`` as a node; ``kernel_size`` where only a kernel was given."""
    module = graph.submodule(node)
    if module is not None:
        given = {name: getattr(module, name) for name in _MODULE_ARGUMENTS if hasattr(module, name)}
        return {"input": node.all_input_nodes[0], **given}
    if node.target is operator.getitem:
        return {"input": node.args[0], "index": node.args[1]}
    named = dict(zip(_PARAMETERS[_title(graph, node)], node.args, strict=False)) | dict(node.kwargs)
    tensors = {name: named.pop(name) for name in ("input", "weight", "bias") if name in named}
    if _holds_traced(named):
        raise UnknownWindow(f"{graph.names[node]}: an argument is computed from what comes: {named}")
    if "weight" in tensors:
        weight = tensors["weight"]
        assert isinstance(weight, fx.Node)
        named["kernel_size"] = tuple(shapes[weight][2:])
    return {"input": tensors["input"], **named}


def _holds_traced(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return bool(found)


def is_elementwise(graph: NetworkGraph, node: fx.Node, units_axis: int = 1) -> bool:
    """Whether every position of an operation's result comes from the same position of its inputs.

    ``units_axis``: of the maps; along it they may be joined.
    """
    module = graph.submodule(node)
    if module is not None:
        return isinstance(module, _ELEMENTWISE_MODULES)
    if node.target in _CONCATENATIONS:
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        return dim in (units_axis, units_axis - 4)
    return _title(graph, node) in _ELEMENTWISE_NAMES


def _broadcast(before: torch.Size, after: torch.Size, window: Window, rows_axis: int = 2) -> Window:
    """The window on an input that may be stretched over the result (squeeze-and-excitation gates)."""
    if len(before) < 2:
        return Window.whole()
    padded = (1,) * (4 - len(before)) + tuple(before)
    axes = slice(rows_axis, rows_axis + 2)
    extents = zip((window.rows, window.columns), padded[axes], after[axes], strict=True)
    return Window(*(axis if extent == full else AxisWindow.whole() for axis, extent, full in extents))


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    if not values or not all(isinstance(entry, int) for entry in values):
        raise UnknownWindow(f"an argument that is no constant: {value!r}")
    return values[0], values[-1]


def _axes(dim: Any) -> tuple[int, ...]:
    if dim is None:
        return (0, 1, 2, 3)
    return (dim,) if isinstance(dim, int) else tuple(dim)


def _is_constant(step: slice) -> bool:
    return all(value is None or isinstance(value, int) for value in (step.start, step.stop, step.step))
