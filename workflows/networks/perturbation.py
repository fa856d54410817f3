"""Windows R(p) by experiment: change lower positions and see which upper positions change.

One axis at a time: a whole row (or column) of the lower map is changed. It is filled with NaN first, which passes
through every ReLU and every maximum; but comparisons, signs, casts and sorting lose NaN. So it is exchanged for large
random numbers as well, several times where these reach positions that NaN did not: nothing then says which operation
lost what, and a gate that is shut for one draw is open for another.

It runs in float64 on the processor with torch's own kernels, where a position's result is bit by bit the same whatever
other positions hold. The float32 convolutions may use Winograd or Fourier kernels, which spread any change beyond the
window; a network that cannot run in float64 is measured with those switched off.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, fx, nn

from gmm_ops.graphs.windows import AxisWindow, Window
from workflows.errors import NetworkError
from workflows.networks.copying import own_copy
from workflows.networks.hooking import call_of, watch_call
from workflows.networks.tracing import OUTPUT, NetworkGraph, UntraceableNetwork, trace_network

_IMAGES_AT_ONCE = 8
_SPREADS = (1.0, 10.0, 0.1, 100.0, 1.0, 3.0, 1000.0, 0.3)
"""Of the random numbers that take the place of lower positions, in standard deviations of the lower map."""

Relation = Bool[Tensor, "lower upper"]
"""Whether a lower position of an axis feeds an upper position of it."""

_Relations = tuple[Relation, Relation]
_log = logging.getLogger(__name__)
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
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, *input_shape), generator=generator, dtype=torch.float64)
    twin = _twin(network)
    if twin is not None:
        try:
            return _measure(twin, lower, upper, image)
        except NetworkError:
            raise
        except Exception as error:  # float32 tensors of its own, or whatever else
            _log.info("the window of %s is measured in the network's own precision: %s", upper, error)
    try:
        with _own_kernels():
            return _measure(own_copy(network, shared=True).eval(), lower, upper, image.to(_precision(network)))
    except NetworkError:
        raise
    except Exception as error:  # foreign code may fail in any way
        raise NetworkError(
            f"network.layers: what feeds {upper!r} from {lower or 'the input'!r} cannot be measured "
            f"({type(error).__name__}: {error}); choose other layers"
        ) from error


def _twin(network: nn.Module) -> nn.Module | None:
    try:
        return own_copy(network).to("cpu", torch.float64).eval().requires_grad_(False)
    except NetworkError:
        return None


@contextlib.contextmanager
def _own_kernels() -> Iterator[None]:
    """torch without Winograd and its like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch warns of devices that are not there
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
            yield


def _precision(network: nn.Module) -> torch.dtype:
    return next((value.dtype for value in network.parameters() if value.is_floating_point()), torch.float32)


@torch.no_grad()
def _measure(network: nn.Module, lower: str | None, upper: str, image: Float[Tensor, "1 C H W"]) -> _Relations:
    names = f"{lower or 'the input'!r} {{}} {upper!r}"
    refused = names.format("feeds") + " by the network's operations, yet no change was seen there; choose other layers"
    try:
        maps, resume = _split_graph(network, lower, upper, image)
    except UntraceableNetwork:
        maps, resume = _split_hooks(network, lower, upper, image)
        refused = names.format("is not upstream of") + "; list the layers lowest first"
    rows, columns = (_relation(_as_maps(maps), resume, maps.ndim, axis) for axis in (2, 3))
    if not bool(rows.any()):
        raise NetworkError(f"network.layers: {refused}")
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
    """Upper positions that any change of a row (axis 2) or column (axis 3) of the lower map changes."""
    generator = torch.Generator().manual_seed(axis)
    scale = float(maps.std()) if maps.numel() > 1 else 0.0
    usual: dict[int, Tensor] = {}

    def changed(draw: Callable[[Tensor], Tensor]) -> Relation:
        found = []
        for first in range(0, maps.shape[axis], _IMAGES_AT_ONCE):
            count = min(_IMAGES_AT_ONCE, maps.shape[axis] - first)
            given = maps.repeat(count, 1, 1, 1)
            if count not in usual:  # a batch of another size may be computed in another order
                usual[count] = _resumed(given, resume, ndim)
            for image in range(count):
                row = given[image].select(axis - 1, first + image)
                row.copy_(draw(row))
            found.append(_differs(_resumed(given, resume, ndim), usual[count], 5 - axis))
        return torch.cat(found)

    def random(spread: float, row: Tensor) -> Tensor:
        return torch.randn(row.shape, generator=generator, dtype=row.dtype) * spread * (scale or 1.0) + row.mean()

    found = changed(lambda row: torch.full_like(row, float("nan")))
    for spread in _SPREADS:
        seen = changed(partial(random, spread))
        if bool((seen <= found).all()) and bool(found.any()):
            break  # nothing loses NaN
        found |= seen
    return found


def _differs(upper: Float[Tensor, "N D H W"], usual: Float[Tensor, "N D H W"], across: int) -> Bool[Tensor, "N upper"]:
    """Which positions differ in any bit, whatever the unit and the place along the other axis."""
    differs = (upper != usual) & ~(upper.isnan() & usual.isnan())
    return differs.any(dim=across).any(dim=1)


def _resumed(
    maps: Float[Tensor, "N D H W"], resume: _Continue, ndim: int
) -> Float[Tensor, "N D_upper H_upper W_upper"]:
    return _as_maps(resume(maps.clone() if ndim == 4 else maps.flatten(1)))


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
        # Copies: an operation may overwrite them.
        aside = [value.expand(len(maps), *value.shape[1:]) if _per_image(value) else value for value in values[1:]]
        aside = [value.clone() if isinstance(value, Tensor) else value for value in aside]
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
