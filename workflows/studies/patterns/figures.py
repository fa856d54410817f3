"""What the figures of a class are drawn from: crops of some objects, and the patterns that say most about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gmm_ops.explanatory.pattern_places import PatternPlaces, pattern_energies, shifts_of, valid_patterns
from workflows.asking.pattern_files import PatternedLayer, Top
from workflows.data.network_inputs import ObjectInputs
from workflows.report.lettering import short_name
from workflows.report.pattern_figures import (
    GraphLayer,
    PatchLine,
    PlacedGraph,
    SplitMap,
    draw_layered_graph,
    draw_pattern_patches,
    draw_placed_graphs,
    draw_split,
    draw_turned,
)
from workflows.report.selection_figures import Paths
from workflows.runtime.patience import patiently
from workflows.studies.patterns.answers import Learned
from workflows.studies.patterns.subject import Subject

_SHOWN = 240
"""Objects that figures choose from, evenly over all."""

_PATCH = 70 / 224
"""Side of a patch over that of an object (EG: 70 pixels of 224)."""

_LINES, _PATCHES = 8, 8
"""Patterns of a layer, and patches of each."""

_SPLIT, _COLUMNS = 6, 5
"""Patterns of a unit that have a colour, and objects of a figure."""

_DOTS = 24
"""Patterns of a layer on one object."""

_TURNED = 70

_NODES = 0.01
"""Share of a layer's patterns that the layered graph shows (EG Fig. 4)."""


@dataclass(frozen=True)
class Shown:
    """Objects that figures choose from.

    Attributes:
        subject: the class.
        learned: what has been learned of it.
        rows: (m,) of all objects.
    """

    subject: Subject
    learned: Learned
    rows: np.ndarray

    @cached_property
    def turned(self) -> np.ndarray:
        """(m, H, W, 3) their pixels, all facing one way."""
        mirrored = self.learned.turned.signs[self.rows] < 0
        return np.stack([one[:, ::-1] if turn else one for one, turn in zip(self.plain, mirrored, strict=True)])

    @cached_property
    def plain(self) -> list[np.ndarray]:
        """As they are."""
        study = self.subject.study
        size = study.plan.input_height, study.plan.input_width
        inputs, objects = ObjectInputs(study.settings, study.folder, size), self.subject.objects.only(self.rows)
        return patiently(lambda: list(inputs.crops(objects)), *study.settings.runtime.patience)

    def places(self, top: Top, layer: PatternedLayer) -> PatternPlaces:
        """Of all patterns of a layer on them."""
        if len(self.rows) == len(self.subject.objects):
            return self.subject.files.places(top, layer.name)
        found = [self.subject.files.places(top, layer.name, slice(row, row + 1)) for row in self.rows.tolist()]
        places, scores = (torch.cat([getattr(one, name) for one in found]) for name in ("places", "scores"))
        return PatternPlaces(places, scores)


def draw_figures(subject: Subject, learned: Learned) -> None:
    """All figures of a class, by kind of top."""
    count = len(subject.objects)
    rows = np.unique(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(np.int64))
    shown = Shown(subject, learned, rows)
    if subject.mirrored:
        _draw_turned(shown)
    for top in subject.request.tops:
        places = {layer.name: shown.places(top, layer) for layer in subject.layers}
        _draw_patches(shown, top, places)
        _draw_split(shown, top, places)
        _draw_placed(shown, top, places)
        _draw_layers(shown, top, places)


def _paths(shown: Shown, name: str) -> Paths:
    study = shown.subject.study
    full = f"{name}-{shown.subject.label}"
    return study.figure("png", full), study.figure("svg", full)


def _heading(shown: Shown, what: str) -> str:
    return f"{shown.subject.study.settings.name}, {short_name(shown.subject.class_name)}: {what}"


def _draw_turned(shown: Shown) -> None:
    signs, pixels = shown.learned.turned.signs[shown.rows], shown.turned
    before, after = (np.mean(list(one), axis=0).round().astype(np.uint8) for one in (shown.plain, pixels))
    few = np.unique(np.linspace(0, len(pixels) - 1, min(len(pixels), _TURNED)).round().astype(int))
    tiles = [(pixels[place], bool(signs[place] < 0)) for place in few.tolist()]
    below = (
        f"{int((shown.learned.turned.signs < 0).sum())} of {len(shown.subject.objects)} objects are mirrored: framed"
    )
    draw_turned(before, after, tiles, _heading(shown, "objects turned one way"), below, _paths(shown, "turned"))


def _draw_patches(shown: Shown, top: Top, places: dict[str, PatternPlaces]) -> None:
    lines = []
    for layer in shown.subject.layers:
        found, count = places[layer.name], _count(shown, top, layer)
        for number in _best_of_units(found, count, _LINES):
            best = found.scores[:, number].sort(descending=True, stable=True).indices[:_PATCHES].tolist()
            patches = [
                _patch(shown.turned[row], found.places[row, number].numpy())
                for row in best
                if float(found.scores[row, number]) > 0
            ]
            lines.append(PatchLine(layer.name, f"{number // count}.{number % count}", patches))
    below = (
        f"{top} top; the patterns of highest score, one a unit, on the objects where each scores highest: unit.pattern"
    )
    draw_pattern_patches(lines, _heading(shown, "patterns"), below, _paths(shown, f"patches-{top}"))


def _count(shown: Shown, top: Top, layer: PatternedLayer) -> int:
    return shown.subject.files.patterns(top, layer.name).deviations.shape[1]


def _best_of_units(found: PatternPlaces, count: int, most: int) -> list[int]:
    """The patterns of largest total score, one a unit."""
    order = found.scores.double().sum(dim=0).sort(descending=True, stable=True).indices.tolist()
    first: dict[int, int] = {}
    for number in order:
        first.setdefault(number // count, number)
        if len(first) == most:
            break
    return list(first.values())


def _patch(pixels: np.ndarray, place: np.ndarray) -> np.ndarray:
    side = max(2, round(_PATCH * pixels.shape[0]))
    padded = np.pad(pixels, ((side, side), (side, side), (0, 0)), constant_values=128)
    top, left = (round(float(one) * extent - side / 2) + side for one, extent in zip(place, pixels.shape, strict=False))
    top, left = (min(max(one, 0), extent - side) for one, extent in zip((top, left), padded.shape, strict=False))
    return padded[top : top + side, left : left + side]


def _draw_split(shown: Shown, top: Top, places: dict[str, PatternPlaces]) -> None:
    """Of the unit of a middle layer that has the pattern of highest score, on the objects where it scores highest."""
    level, subject = len(shown.subject.layers) // 2 if len(shown.subject.layers) > 2 else 0, shown.subject
    layer = subject.layers[level]
    patterns, found = subject.files.patterns(top, layer.name), places[layer.name]
    unit = _best_of_units(found, patterns.deviations.shape[1], 1)[0] // patterns.deviations.shape[1]
    own = found.scores.reshape(len(found.scores), *patterns.deviations.shape)[:, unit].double()
    best = own.sum(dim=0).sort(descending=True, stable=True).indices[:_SPLIT]
    maps = []
    for row in own.sum(dim=1).sort(descending=True, stable=True).indices[:_COLUMNS].sort().values.tolist():
        response, energies = _energies(shown, top, level, unit, int(shown.rows[row]))
        maps.append(SplitMap(shown.turned[row], response, energies[best].numpy(), _extent(shown, layer)))
    labels = [f"pattern {one}" for one in best.tolist()]
    below = f"{top} top; each object, the map of unit {unit} of {layer.name}, and its {len(labels)} best patterns"
    draw_split(maps, labels, _heading(shown, "a map split"), below, _paths(shown, f"split-{top}"))


def _energies(shown: Shown, top: Top, level: int, unit: int, row: int) -> tuple[np.ndarray, torch.Tensor]:
    subject, learned = shown.subject, shown.learned
    layer = subject.layers[level]
    patterns, above = subject.files.patterns(top, layer.name), learned.seen[top][level]
    response = learned.maps(subject, level)[row : row + 1][:, unit]
    shifts = None if above is None else shifts_of(patterns, unit, above.rows(np.array([row])))
    return response[0].numpy(), pattern_energies(response, layer.grid, patterns, unit, shifts)[0]


def _extent(shown: Shown, layer: PatternedLayer) -> tuple[float, float, float, float]:
    height, width = shown.turned.shape[1:3]
    grid = layer.grid
    left, top = grid.first[1] - grid.stride[1] / 2, grid.first[0] - grid.stride[0] / 2
    right, bottom = left + grid.stride[1] * grid.width, top + grid.stride[0] * grid.height
    return left * width - 0.5, right * width - 0.5, bottom * height - 0.5, top * height - 0.5


def _draw_placed(shown: Shown, top: Top, places: dict[str, PatternPlaces]) -> None:
    """On the objects whose facing is plainest, or the first ones."""
    margins = np.nan_to_num(shown.learned.turned.margins[shown.rows])
    graphs = []
    for row in np.sort(np.argsort(-margins, kind="stable")[: _COLUMNS - 1]).tolist():
        own, means = {}, {}
        for layer in shown.subject.layers:
            found, patterns = places[layer.name], shown.subject.files.patterns(top, layer.name)
            few = PatternPlaces(found.places[[row]], found.scores[[row]])
            best = _best_of_units(few, patterns.deviations.shape[1], _DOTS)
            own[layer.name] = found.places[row, best].double().numpy()
            means[layer.name] = patterns.means.reshape(-1, 2)[best].numpy()
        label = f"object {shown.rows[row]}, image {shown.subject.objects.images[shown.rows[row]]}"
        graphs.append(PlacedGraph(shown.turned[row], label, own, means))
    below = f"{top} top; the {_DOTS} patterns of highest score, one a unit; arrows come from their mean places"
    draw_placed_graphs(graphs, _heading(shown, "patterns on objects"), below, _paths(shown, f"objects-{top}"))


def _draw_layers(shown: Shown, top: Top, places: dict[str, PatternPlaces]) -> None:
    layers, chosen = shown.subject.layers, list[list[int]]()
    for level, layer in enumerate(layers):
        found = places[layer.name].scores.double()
        totals = torch.where(valid_patterns(found.float()), found, 0.0).sum(dim=0)
        parents = shown.subject.files.patterns(top, layer.name).parents.flatten(0, 1)
        if level + 1 < len(layers) and bool((parents >= 0).any()):
            totals = totals * (parents >= 0).any(dim=1)
        if level:
            # Parents of what is shown below come first: a hundredth of two layers would hardly ever be linked.
            linked = shown.subject.files.patterns(top, layers[level - 1].name).parents.flatten(0, 1)[chosen[-1]]
            children = torch.bincount(linked[linked >= 0], minlength=len(totals))
            totals = totals / totals.max().clamp(min=1e-12) + children
        most = max(3, round(_NODES * len(totals)))
        chosen.append(totals.sort(descending=True, stable=True).indices[:most].tolist())
    drawn = [_graph_layer(shown, top, level, chosen, places) for level in range(len(layers))]
    below = f"{top} top; a hundredth of the patterns of each layer at their mean places, with links to parents"
    draw_layered_graph(drawn, _heading(shown, "explanatory graph"), below, _paths(shown, f"graph-{top}"))


def _graph_layer(
    shown: Shown, top: Top, level: int, chosen: Sequence[Sequence[int]], places: dict[str, PatternPlaces]
) -> GraphLayer:
    layer, own = shown.subject.layers[level], list(chosen[level])
    patterns = shown.subject.files.patterns(top, layer.name)
    scores = places[layer.name].scores[:, own].double().mean(dim=0)
    pairs = []
    if level + 1 < len(chosen):
        above = {number: place for place, number in enumerate(chosen[level + 1])}
        parents = patterns.parents.flatten(0, 1)[own].tolist()
        pairs = [(node, above[one]) for node, some in enumerate(parents) for one in some if one in above]
    means = patterns.means.reshape(-1, 2)[own].numpy()
    return GraphLayer(layer.name, means, (scores / scores.max().clamp(min=1e-12)).numpy(), pairs)
