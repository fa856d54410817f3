"""R(p): which columns of a lower layer feed a column of an upper one, read from the network's own graph.

Source: IG section 3.2, the region R(p) of Eq. 6; the arithmetic is in ``gmm_ops.graphs.windows``.
"""

from __future__ import annotations

import logging
from functools import cached_property, partial

import torch
from torch import Tensor, fx, nn

from gmm_ops.graphs.windows import Window
from workflows.errors import NetworkError
from workflows.networks.perturbation import measure_window
from workflows.networks.taps import explained
from workflows.networks.tracing import OUTPUT, NetworkGraph, UntraceableNetwork, trace_network
from workflows.networks.unit_axis import units_last
from workflows.networks.window_rules import UnknownWindow, input_windows, is_elementwise, join

_log = logging.getLogger(__name__)


def trace_window(network: nn.Module, lower: str | None, upper: str, input_shape: tuple[int, int, int]) -> Window:
    """One window of a network; see ``WindowTracer``, which does not trace it again for the next.

    Args:
        network, input_shape: as of ``WindowTracer``.
        lower, upper: as of a call of it.

    Raises:
        NetworkError: a layer does not exist, or ``lower`` is not upstream of ``upper``.
    """
    return WindowTracer(network, input_shape)(lower, upper)


class WindowTracer:
    """The windows between the layers of one network, which is traced once.

    Args:
        network: the network.
        input_shape: units, height and width of the images.
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, int, int]) -> None:
        self._network, self._input_shape = network, input_shape

    def __call__(self, lower: str | None, upper: str) -> Window:
        """The window on the lower map that a column of the upper map sees.

        The graph is walked back from ``upper`` to ``lower``. Where it cannot be traced, or holds an operation without a
        rule, the window is measured by perturbation instead.

        Args:
            lower: a layer (canonical name or alias), or None for the network's input: the receptive field in pixels.
            upper: a layer, or ``output``, which sees the whole lower map behind global pooling or dense layers.

        Raises:
            NetworkError: a layer does not exist, or ``lower`` is not upstream of ``upper``.
        """
        try:
            graph = self._graph
            start, stop = graph.input if lower is None else graph.node(lower), graph.node(upper)
            return _walk(graph, start, stop, self._shapes)
        except (UntraceableNetwork, UnknownWindow) as error:
            _log.info("the window of %s in %s is measured: %s", upper, lower or "the input", error)
            return measure_window(self._network, lower, upper, self._input_shape)

    @cached_property
    def _graph(self) -> NetworkGraph:
        return trace_network(self._network)

    @cached_property
    def _shapes(self) -> dict[fx.Node, torch.Size]:
        return operation_shapes(self._graph, self._input_shape)


def _walk(graph: NetworkGraph, start: fx.Node, stop: fx.Node, shapes: dict[fx.Node, torch.Size]) -> Window:
    if start not in graph.upstream_of(stop):
        raise NetworkError(
            f"network.layers: {_name(graph, start)} is not upstream of {_name(graph, stop)}; "
            "list the layers lowest first"
        )
    last = maps_with_units_last(graph, shapes)
    for node in (start, stop):
        if node in last:
            raise NetworkError(
                f"network.layers: {_name(graph, node)} gives (N, H, W, D), its units lie on the last axis; name the "
                "permutation that moves them back, or a layer before or behind the block"
            )
    between = downstream_of(start)
    windows = {stop: Window.identity()}
    for node in reversed(graph.module.graph.nodes):
        if node is start or node not in windows:
            continue
        for source, window in input_windows(graph, node, shapes, last, windows[node]).items():
            if source is start or source in between:
                windows[source] = join(windows[source], window) if source in windows else window
    if start not in windows:
        raise UnknownWindow(f"{_name(graph, start)} reaches {_name(graph, stop)} through sizes only")
    return windows[start]


def maps_with_units_last(graph: NetworkGraph, shapes: dict[fx.Node, torch.Size]) -> frozenset[fx.Node]:
    """Operations that give (N, H, W, D), which is no map of columns."""
    return units_last(graph, shapes, partial(is_elementwise, graph, units_axis=3))


def downstream_of(start: fx.Node) -> set[fx.Node]:
    """Every operation that a node feeds: branches around it are none of its window's business."""
    seen: set[fx.Node] = set()
    waiting = [start]
    while waiting:
        for user in waiting.pop().users:
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return seen


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = value.shape
        elif isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value):
            self.shapes[n] = torch.Size(())  # several tensors: no window can be told
        return value


def operation_shapes(graph: NetworkGraph, input_shape: tuple[int, int, int]) -> dict[fx.Node, torch.Size]:
    """Shape of every tensor of the network for one image of (units, height, width); () for several tensors at once.

    Raises:
        NetworkError: the network cannot take such an image.
    """
    recorder = _ShapeRecorder(graph.module)
    parameter = next(graph.module.parameters(), torch.empty(0))
    image = torch.zeros((1, *input_shape), dtype=parameter.dtype, device=parameter.device)
    try:
        with torch.inference_mode():
            recorder.run(image)
    except Exception as error:  # foreign code may fail in any way
        raise explained(error, input_shape) from error
    return recorder.shapes


def _name(graph: NetworkGraph, node: fx.Node) -> str:
    return "the input" if node is graph.input else graph.names.get(node, OUTPUT)
