"""Windows R(p) by experiment: put NaN into lower positions and see which upper positions become NaN.

It runs in float64 on the processor: the float32 convolutions may use Winograd or Fourier kernels, which spread NaN
beyond the window. One axis at a time: NaN fills a whole row (or column) of the lower map.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, fx, nn

from gmm_ops.graphs.windows import AxisWindow, Window
from workflows.errors import NetworkError
from workflows.networks.hooking import call_of, watch_call
from workflows.networks.tracing import OUTPUT, NetworkGraph, UntraceableNetwork, trace_network

_IMAGES_AT_ONCE = 8

Relation = Bool[Tensor, "lower upper"]
"""Whether a lower position of an axis feeds an upper position of it."""

_Continue = Callable[[Float[Tensor, "N D_lower H_lower W_lower"]], Float[Tensor, "N D H W"]]


def measure_window(network: nn.Module, lower: str | None, upper: str, input_shape: tuple[int, int, int]) -> Window:
    """The smallest window that covers what feeds ``upper`` from ``lower``; see ``trace_window``.

    Raises:
        NetworkError: a layer does not exist, or ``lower`` feeds no position of ``upper``.
    """
    rows, columns = measure_relations(network, lower, upper, input_shape)
    return Window(fit_axis(rows), fit_axis(columns))


def measure_relations(
    network: nn.Module, lower: str | None, upper: str, input_shape: tuple[int, int, int]
) -> tuple[Relation, Relation]:
    """Which lower rows feed which upper rows, and the same for columns.

    Args:
        network: any network of one image tensor.
        lower: a layer name (not an alias), or None for the network's input.
        upper: a layer name, or ``output``.
        input_shape: units, height and width of the images.

    Raises:
        NetworkError: a layer does not exist, or ``lower`` feeds no position of ``upper``.
    """
    network = copy.deepcopy(network).to("cpu", torch.float64).eval().requires_grad_(False)
    # NaN lives in the lower maps only; the picture itself must be ordinary.
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, *input_shape), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        try:
            maps, resume = _split_graph(network, lower, upper, image)
        except UntraceableNetwork:
            maps, resume = _split_hooks(network, lower, upper, image)
        rows = _relation(_as_maps(maps), resume, maps.ndim, axis=2)
        columns = _relation(_as_maps(maps), resume, maps.ndim, axis=3)
    if not bool(rows.any()):
        raise NetworkError(f"network.layers: {lower!r} is not upstream of {upper!r}; list the layers lowest first")
    return rows, columns


def fit_axis(relation: Relation) -> AxisWindow:
    """The window with the smallest size that covers a measured relation (positions cropped at the map's ends)."""
    if bool(relation.all()):
        return AxisWindow.whole()
    extent, fed = relation.shape[0], relation.any(dim=0)
    positions = torch.nonzero(fed).flatten()
    first = relation.int().argmax(dim=0)[positions]
    last = extent - 1 - relation.flip(0).int().argmax(dim=0)[positions]
    steps = range(1, max(2, 2 * -(-extent // relation.shape[1]) + 1))
    fits = [_fit(positions, first, last, extent, stride) for stride in steps]
    return min(fits, key=lambda fit: (fit[0], fit[1].size))[1]


def _fit(
    positions: Int[Tensor, " y"], first: Int[Tensor, " y"], last: Int[Tensor, " y"], extent: int, stride: int
) -> tuple[int, AxisWindow]:
    """The covering window of a stride, and at how many positions it is larger than measured."""
    # A position cut at the low end bounds the offset from above only; one that is not cut fixes it.
    starts = first - stride * positions
    stops = last + 1 - stride * positions
    free_start, free_stop = first > 0, last < extent - 1
    offset = int(starts[free_start].min() if bool(free_start.any()) else starts.min())
    stop = int(stops[free_stop].max() if bool(free_stop.any()) else stops.max())
    offset, stop = min(offset, int(starts.min())), max(stop, int(stops.max()))
    window = AxisWindow(stride=stride, offset=offset, size=stop - offset)
    ranges = [window.range(int(position), extent) for position in positions]
    misses = sum(
        found != (low, high + 1) for found, low, high in zip(ranges, first.tolist(), last.tolist(), strict=True)
    )
    return misses, window


def _relation(maps: Float[Tensor, "1 D H W"], resume: _Continue, ndim: int, axis: int) -> Relation:
    extent = maps.shape[axis]
    found = []
    for start in range(0, extent, _IMAGES_AT_ONCE):
        positions = range(start, min(start + _IMAGES_AT_ONCE, extent))
        poisoned = maps.repeat(len(positions), 1, 1, 1)
        for image, position in enumerate(positions):
            poisoned[image].select(axis - 1, position).fill_(float("nan"))
        upper = _as_maps(resume(poisoned if ndim == 4 else poisoned.flatten(1)))
        found.append(upper.isnan().any(dim=1).any(dim=4 - axis))
    return torch.cat(found)


def _split_graph(
    network: nn.Module, lower: str | None, upper: str, image: Float[Tensor, "1 C H W"]
) -> tuple[Tensor, _Continue]:
    """The lower maps of one image, and the part of the network from there to ``upper``, run alone."""
    graph = trace_network(network)
    start = graph.input if lower is None else graph.node(lower)
    stop = graph.node(upper)
    between = _between(graph, start, stop)
    if not between:
        raise NetworkError(f"network.layers: {lower!r} is not upstream of {upper!r}; list the layers lowest first")
    needed = [start, *_outside_inputs(between, start)]
    prefix = _subgraph(graph.module, [], set().union(*map(graph.upstream_of, needed)), needed)
    suffix = _subgraph(graph.module, needed, set(between), [stop])
    values = prefix(image)

    def resume(maps: Tensor) -> Tensor:
        aside = [value.expand(len(maps), *value.shape[1:]) if _per_image(value) else value for value in values[1:]]
        return suffix(maps, *aside)[0]

    return values[0], resume


def _subgraph(module: fx.GraphModule, inputs: list[fx.Node], kept: set[fx.Node], results: list[fx.Node]) -> Any:
    part = fx.Graph()
    copies = {node: part.placeholder(f"given_{index}") for index, node in enumerate(inputs)}
    for node in module.graph.nodes:
        if node in kept and node not in copies:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(tuple(copies[node] for node in results))
    return fx.GraphModule(module, part)


def _split_hooks(
    network: nn.Module, lower: str | None, upper: str, image: Float[Tensor, "1 C H W"]
) -> tuple[Tensor, _Continue]:
    """As ``_split_graph`` for a network without a graph: the whole network runs, hooks exchange the lower maps."""

    def run(maps: Tensor | None) -> tuple[Tensor, Tensor]:
        count = 1 if maps is None else len(maps)
        seen: dict[str, Tensor] = {}
        if lower is None:
            seen["lower"] = images = image if maps is None else maps
            handles = []
        else:
            images = image.expand(count, -1, -1, -1)
            handles = [watch_call(*call_of(network, lower), lambda value: seen.setdefault("lower", value), maps)]
        if upper != OUTPUT:
            handles.append(watch_call(*call_of(network, upper), lambda value: seen.setdefault("upper", value)))
        try:
            seen.setdefault("result", network(images))
        finally:
            for handle in handles:
                handle.remove()
        return seen["lower"], seen["upper" if upper != OUTPUT else "result"]

    return run(None)[0].clone(), lambda maps: run(maps)[1]


def _between(graph: NetworkGraph, start: fx.Node, stop: fx.Node) -> list[fx.Node]:
    """The operations on the paths from ``start`` (left out) to ``stop``, in execution order."""
    reached, needed = {start}, graph.upstream_of(stop)
    for node in graph.module.graph.nodes:
        if node in needed and not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return [node for node in graph.module.graph.nodes if node in reached and node is not start]


def _outside_inputs(between: list[fx.Node], start: fx.Node) -> list[fx.Node]:
    inside = {start, *between}
    return list(dict.fromkeys(source for node in between for source in node.all_input_nodes if source not in inside))


def _per_image(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.ndim > 1 and len(value) == 1


def _as_maps(values: Tensor) -> Float[Tensor, "N D H W"]:
    if values.ndim not in (2, 4):
        raise NetworkError(f"network.layers: a layer must be (N, D, H, W) or (N, D), one gives {tuple(values.shape)}")
    return values if values.ndim == 4 else values[:, :, None, None]
