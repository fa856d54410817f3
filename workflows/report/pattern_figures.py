"""Patterns of an explanatory graph as people see them: patches, a map split, the graph on an object and in layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Polygon

from workflows.report.lettering import fit_text, font, printable
from workflows.report.selection_figures import (
    Paths,
    depth_colours,
    legend_below,
    save_figure,
    show_picture,
    titled_figure,
)

_WIDTH = 8.27  # inches: the width of A4
_FEW = ("#3b6fb6", "#e98a1d", "#2f8f57", "#d1261f", "#8f4bab", "#35b0c4", "#caa41a", "#e07bb5")
"""Of the patterns of one unit."""

_SHORT = 2.0
"""Pixels: a shorter arrow would be a blot."""

Picture = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True, eq=False)
class PatchLine:
    """One pattern: what it is called, its layer, and what lies around it on the objects where it scores highest."""

    layer: str
    label: str
    patches: Sequence[Picture]


def draw_pattern_patches(lines: Sequence[PatchLine], heading: str, below: str, paths: Paths) -> None:
    """A row a pattern, in two columns, lowest layer first (EG Fig. 5)."""
    most = max((len(line.patches) for line in lines), default=0)
    if not most:
        return
    rows = -(-len(lines) // 2)
    half = (_WIDTH - 0.3) / 2
    cell = (half - 0.75) / most
    height = 0.62 + rows * (cell + 0.05)
    figure = titled_figure(_WIDTH, height, heading, below)
    colours = depth_colours(list(dict.fromkeys(line.layer for line in lines)))
    for place, line in enumerate(lines):
        left, top = 0.15 + (place // rows) * half, height - 0.56 - (place % rows) * (cell + 0.05)
        for text, lift, colour in ((line.layer, 0.03, colours[line.layer]), (line.label, -0.08, "#2b2b2b")):
            shown = fit_text(printable(text), 48, 5, middle=True)
            at = (left / _WIDTH, (top - cell / 2 + lift) / height)
            figure.text(*at, shown, fontproperties=font(), size=5, color=colour)
        for column, patch in enumerate(line.patches):
            box = ((left + 0.7 + column * cell) / _WIDTH, (top - cell) / height)
            show_picture(figure.add_axes((*box, (cell - 0.03) / _WIDTH, (cell - 0.03) / height)), patch)
    save_figure(figure, paths)


@dataclass(frozen=True, eq=False)
class SplitMap:
    """A unit's map on an object.

    Attributes:
        picture: the object.
        response: F of the unit.
        energies: F of each of some patterns; what is left belongs to others, or to none.
        extent: left, right, bottom, top of the map on the picture, pixels.
    """

    picture: Picture
    response: Float[np.ndarray, "h w"]
    energies: Float[np.ndarray, "N h w"]
    extent: tuple[float, float, float, float]


def draw_split(maps: Sequence[SplitMap], labels: Sequence[str], heading: str, below: str, paths: Paths) -> None:
    """A column an object: the object, the unit's map on it, the same map coloured by its patterns."""
    if not maps:
        return
    side = (_WIDTH - 0.3) / len(maps)
    height = 0.6 + 3 * side + 0.3
    figure = titled_figure(_WIDTH, height, heading, below)
    colours = np.array([to_rgb(_FEW[place % len(_FEW)]) for place in range(len(labels))])
    for column, one in enumerate(maps):
        whole = max(float(one.response.max()), 1e-9)
        plain = np.ones((*one.response.shape, 4)) * (*to_rgb("#ffdf3f"), 1.0)
        plain[..., 3] = 0.9 * one.response / whole
        split = np.zeros_like(plain)
        total = one.energies.sum(axis=0)
        split[..., :3] = colours[one.energies.argmax(axis=0)]  # a mixture of six colours would be grey
        split[..., 3] = 0.95 * total / max(float(total.max()), 1e-9)
        for row, over in enumerate((None, plain, split)):
            box = ((0.15 + column * side) / _WIDTH, (height - 0.56 - (row + 1) * side) / height)
            panel = figure.add_axes((*box, (side - 0.04) / _WIDTH, (side - 0.04) / height))
            dimmed = one.picture if over is None else (one.picture * 0.45).astype(np.uint8)
            show_picture(panel, dimmed)
            if over is not None:
                panel.imshow(over.clip(0, 1), extent=one.extent, interpolation="nearest")
                panel.set_xlim(-0.5, one.picture.shape[1] - 0.5)
                panel.set_ylim(one.picture.shape[0] - 0.5, -0.5)
    marks = [_dot(_FEW[place % len(_FEW)], label) for place, label in enumerate(labels)]
    legend_below(figure, marks)
    save_figure(figure, paths)


@dataclass(frozen=True, eq=False)
class PlacedGraph:
    """Patterns on one object, and how far each lies from its mean place.

    Attributes:
        picture: the object, turned.
        label: below it.
        places: by layer, lowest first, (n, 2) row and column in sides of the object.
        means: by layer (n, 2) where they sit on average.
    """

    picture: Picture
    label: str
    places: Mapping[str, Float[np.ndarray, "n 2"]]
    means: Mapping[str, Float[np.ndarray, "n 2"]]


def draw_placed_graphs(graphs: Sequence[PlacedGraph], heading: str, below: str, paths: Paths) -> None:
    """A column an object and a row a layer, the top one first: patterns, and arrows from their mean places."""
    if not graphs:
        return
    layers = list(graphs[0].places)
    side = (_WIDTH - 0.3) / len(graphs)
    height = 0.6 + len(layers) * (side + 0.03) + 0.34
    figure = titled_figure(_WIDTH, height, heading, below)
    colours = depth_colours(layers)
    for column, graph in enumerate(graphs):
        for row, layer in enumerate(reversed(layers)):
            box = ((0.15 + column * side) / _WIDTH, (height - 0.56 - (row + 1) * (side + 0.03)) / height)
            panel = figure.add_axes((*box, (side - 0.04) / _WIDTH, (side - 0.04) / height))
            show_picture(panel, (graph.picture * 0.6 + 90).clip(0, 255).astype(np.uint8))
            _arrows(panel, graph, layer, colours[layer])
            if not row:
                title = fit_text(printable(graph.label), 72 * side - 4, 6)
                panel.set_title(title, fontproperties=font(), fontsize=6, pad=2)
    legend_below(figure, [_dot(colours[layer], layer) for layer in reversed(layers)])
    save_figure(figure, paths)


def _arrows(panel: Axes, graph: PlacedGraph, layer: str, colour: str) -> None:
    size = np.array(graph.picture.shape[:2])
    places, means = graph.places[layer] * size - 0.5, graph.means[layer] * size - 0.5
    for place, mean in zip(places, means, strict=True):
        if np.linalg.norm(place - mean) > _SHORT:
            arrow = FancyArrowPatch(
                mean[::-1], place[::-1], arrowstyle="-|>", mutation_scale=3.5, linewidth=0.45, color="#2b2b2b",
                shrinkA=0, shrinkB=0.6, alpha=0.75,
            )  # fmt: skip
            panel.add_patch(arrow)
    panel.scatter(places[:, 1], places[:, 0], s=4.5, color=colour, linewidths=0.25, edgecolors="white", zorder=3)
    panel.set_xlim(-0.5, size[1] - 0.5)
    panel.set_ylim(size[0] - 0.5, -0.5)


@dataclass(frozen=True, eq=False)
class GraphLayer:
    """Nodes of one layer in the graph of a class.

    Attributes:
        name: of the layer.
        means: (n, 2) row and column in sides of the object.
        weights: (n,) 0 to 1, for the size of the dots.
        parents: pairs of a node and a node of the layer above.
    """

    name: str
    means: Float[np.ndarray, "n 2"]
    weights: Float[np.ndarray, " n"]
    parents: Sequence[tuple[int, int]]


def draw_layered_graph(layers: Sequence[GraphLayer], heading: str, below: str, paths: Paths) -> None:
    """Layers as planes above each other, the lowest at the bottom; nodes at their mean places (EG Fig. 4)."""
    gap, tall = 1.0, 0.72
    height = 0.7 + 1.9 * len(layers)
    figure = titled_figure(_WIDTH, height, heading, below)
    panel = figure.add_axes((0.02, 0.01, 0.96, 1 - 0.6 / height))
    colours = depth_colours([layer.name for layer in layers])

    def flat(points: np.ndarray, level: int) -> np.ndarray:
        y, x = points[:, 0], points[:, 1]
        return np.stack([2.2 * x - 0.9 * y, gap * level - tall * y], axis=1)

    for level, layer in enumerate(layers):
        corners = flat(np.array([[0, 0], [0, 1], [1, 1], [1, 0]], float), level)
        plane = Polygon(
            corners, facecolor=colours[layer.name], alpha=0.08, edgecolor=colours[layer.name], linewidth=0.6
        )
        panel.add_patch(plane)
        dots = flat(layer.means, level)
        if level + 1 < len(layers) and layer.parents:
            above = flat(layers[level + 1].means, level + 1)
            ends = [(dots[node], above[parent]) for node, parent in layer.parents]
            panel.add_collection(LineCollection(ends, colors="#2b2b2b", linewidths=0.3, alpha=0.35, zorder=2))
        sizes = 6 + 34 * layer.weights
        panel.scatter(dots[:, 0], dots[:, 1], sizes, colours[layer.name], edgecolors="white", linewidths=0.4, zorder=3)
        label = fit_text(printable(layer.name), 110, 7)
        at = (corners[1, 0] + 0.05, corners[1, 1] - 0.06)
        panel.text(*at, label, fontproperties=font(), size=7, color=colours[layer.name], va="top")
    panel.set_xlim(-1.0, 2.95)
    panel.set_ylim(-tall - 0.05, gap * (len(layers) - 1) + 0.06)
    panel.set_axis_off()
    save_figure(figure, paths)


def draw_turned(
    before: Picture, after: Picture, shown: Sequence[tuple[Picture, bool]], heading: str, below: str, paths: Paths
) -> None:
    """The mean object as they are and turned, large; beside it some turned objects, mirrored ones framed."""
    columns, lines = 10, -(-len(shown) // 10)
    side = (_WIDTH - 0.3) / (columns + 4)
    height = 0.7 + max(lines * 1.16 * side, 2 * (2 * side + 0.2))
    figure = titled_figure(_WIDTH, height, heading, below)
    for place, (picture, title) in enumerate(((before, "mean, as they are"), (after, "mean, turned"))):
        bottom = height - 0.62 - (place + 1) * (2 * side + 0.2) + 0.1
        _tile(figure, picture, (0.15, bottom, 3.6 * side * 0.55), title, height, False)
    for place, (picture, mirrored) in enumerate(shown):
        row, column = divmod(place, columns)
        box = (0.15 + (2.3 + column * 1.16) * side, height - 0.62 - (row + 1) * side * 1.16, side * 1.1)
        _tile(figure, picture, box, "", height, mirrored)
    save_figure(figure, paths)


def _tile(
    figure: Figure, picture: Picture, box: tuple[float, float, float], title: str, height: float, framed: bool
) -> None:
    left, bottom, side = box
    panel = figure.add_axes((left / _WIDTH, bottom / height, side / _WIDTH, side / height))
    show_picture(panel, picture)
    if framed:
        panel.spines[:].set(visible=True, color=_FEW[1], linewidth=1.0)
    if title:
        panel.set_title(title, fontproperties=font(), fontsize=6, pad=2)


def _dot(colour: str, label: str) -> Line2D:
    return Line2D(
        [], [], color=colour, marker="o", markersize=4, linestyle="", label=fit_text(printable(label), 120, 6.5)
    )


@dataclass(frozen=True, eq=False)
class Synthesis:
    """An object, its synthesis from a whole map, and from valid patterns alone."""

    label: str
    picture: Picture
    whole: Picture
    patterns: Picture


def draw_synthesis(shown: Sequence[Synthesis], heading: str, below: str, paths: Paths) -> None:
    """A column an object: as it is, from its whole map, from its patterns alone (EG Fig. 7)."""
    if not shown:
        return
    margin = 0.75
    side = (_WIDTH - margin - 0.15) / len(shown)
    height = 0.75 + 3 * side
    figure = titled_figure(_WIDTH, height, heading, below)
    for row, name in enumerate(("object", "whole map", "patterns")):
        middle = (height - 0.56 - (row + 0.5) * side) / height
        figure.text(0.018, middle, name, fontproperties=font(), size=6.5, va="center")
    for column, one in enumerate(shown):
        for row, picture in enumerate((one.picture, one.whole, one.patterns)):
            box = ((margin + column * side) / _WIDTH, (height - 0.56 - (row + 1) * side) / height)
            show_picture(figure.add_axes((*box, (side - 0.04) / _WIDTH, (side - 0.04) / height)), picture)
        at = ((margin + column * side) / _WIDTH, 0.06 / height)
        figure.text(*at, fit_text(printable(one.label), 72 * side, 5), fontproperties=font(), size=5)
    save_figure(figure, paths)
