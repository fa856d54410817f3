"""Words of the whole photos of a run at places on objects: whose words, of which layers, how often each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.pattern_places import PatternPlaces, valid_patterns
from gmm_ops.explanatory.pattern_words import WordTally, area_shares, nearest_grid, smoothed_ratios, words_at
from gmm_ops.explanatory.responses import PositionGrid
from workflows.asking.pattern_files import PatternedLayer, PatternFiles, Top, TurnedObjects, grid_of, shard_rows
from workflows.asking.study import StudyContext
from workflows.data.boxes import input_scaling
from workflows.errors import DataError, RunFolderError
from workflows.pipeline import stages_left, stages_until
from workflows.plan.run_plan import LayerPlan
from workflows.plan.scopes import read_scopes
from workflows.run import Run
from workflows.storage.log_unit import LOG_UNIT
from workflows.studies.patterns.measures import GROUPS
from workflows.studies.patterns.request import photo_sides
from workflows.words.scope_images import ranges_of
from workflows.words.word_maps import open_maps

SOURCES = ("patterns", "constant", "random")
"""Places that are asked for their words: where patterns sit, their mean places, any place, all on the same objects."""

_CELLS = 2**20
"""Of a tally that is held: groups times patterns times words."""

Blocks = Iterator[tuple[slice, PatternPlaces]]


def lacking_words(run: Run) -> str:
    """Why a run has no words at places on photos; empty where it has."""
    if not run.settings.network.has_outputs:
        return "its network has no outputs"
    if run.settings.hmm is not None or all(layer.positions == 1 for layer in run.plan.layers):
        return "its words are of dense layers, which have no places"
    left = stages_left(run.folder, run.settings, stages_until("mine", run.settings))
    return f"its stage {left[0].name!r} is not done; finish the run to have them" if left else ""


def check_scope(run: Run, scope: str | None) -> None:
    """Raises DataError: the run has no such scope. RunFolderError: a scope is asked for, and the run has no words."""
    if scope is None:
        return
    lack = lacking_words(run)
    if lack:
        raise RunFolderError(f"--scope: must be asked of a run with words on photos, got {scope!r}, but {lack}")
    known = [one.name for one in read_scopes(run.folder)]
    if scope not in known:
        raise DataError(f"--scope: must be one of {', '.join(known)}, got {scope!r}; take one of them")


def scope_of(run: Run, scope: str | None, label: int) -> str | None:
    """Whose words: the scope that is asked for, or the first that explains a class; None: none does."""
    explaining = (one.name for one in read_scopes(run.folder) if label in one.explains)
    return scope or next(explaining, None)


@dataclass(frozen=True)
class PlacedWords:
    """The word maps of a layer, and where objects lie in them.

    Attributes:
        study: at work.
        turned: the objects.
        scope: whose words.
        layer: the modelled layer.
        scaling: (2, n, 2) factor and shift, see ``input_scaling``.
    """

    study: StudyContext
    turned: TurnedObjects
    scope: str
    layer: LayerPlan
    scaling: Float[np.ndarray, "2 n 2"]

    @cached_property
    def grid(self) -> PositionGrid:
        """Its positions on the network's input."""
        return grid_of_words(self.study, self.layer)

    @cached_property
    def _held(self) -> dict[int, Tensor]:
        return {}

    def maps(self, rows: slice) -> Int[Tensor, "b H W"]:
        """Words of the photos of some objects; those of the last rows are kept."""
        if rows.start not in self._held:
            self._held.clear()
            images = self.turned.objects.images[rows]
            extract, grid = self.study.settings.extract, self.grid
            read = open_maps(self.study.folder, self.scope, self.layer.name)
            found = np.empty((len(images), grid.height, grid.width), np.int32)
            for first, stop in ranges_of(np.unique(images), extract.images_per_shard, extract.images_per_chunk):
                here = np.flatnonzero((images >= first) & (images < stop))
                found[here] = read(first, stop)[images[here] - first]
            self._held[rows.start] = torch.from_numpy(found)
        return self._held[rows.start]

    def at(self, rows: slice, places: Float[Tensor, "b V 2"]) -> Int[Tensor, "b V"]:
        """Words at places on some turned objects; -1: none, or outside the crop that the network sees."""
        count, patterns = places.shape[:2]
        numbers = np.repeat(np.arange(rows.start, rows.start + count), patterns)
        flat = places.double().reshape(-1, 2).numpy()
        photo = self.turned.objects.on_photo(numbers, flat, self.turned.signs).reshape(count, patterns, 2)
        factor, shift = self.scaling[:, rows, None]
        return words_at(self.maps(rows), self.grid, torch.from_numpy(photo * factor + shift))

    def shares(self, rows: slice, boxes: Float[np.ndarray, "n 4"]) -> Float[Tensor, "b K"]:
        """How likely each word is anywhere in boxes of the photos; boxes: x0, y0, x1, y1 by object, NaN: none."""
        factor, shift = self.scaling[:, rows]
        corners = boxes[rows].astype(np.float64).reshape(-1, 2, 2)[:, :, ::-1]
        inside = torch.from_numpy((corners * factor[:, None] + shift[:, None]).reshape(-1, 4))
        return area_shares(self.maps(rows), self.grid, inside, self.layer.words)


def grid_of_words(study: StudyContext, layer: LayerPlan) -> PositionGrid:
    """Where the positions of a modelled layer lie on the network's input."""
    size = study.plan.input_height, study.plan.input_width
    return grid_of((layer.pixels.rows, layer.pixels.columns), (layer.height, layer.width), size)


def matched_layers(study: StudyContext, layers: Sequence[PatternedLayer]) -> tuple[LayerPlan, ...]:
    """For each layer with patterns the modelled layer whose stride is nearest."""
    spatial = [layer for layer in study.plan.layers if layer.positions > 1]
    grids = [grid_of_words(study, layer) for layer in spatial]
    return tuple(spatial[nearest_grid(layer.grid, grids)] for layer in layers)


def scaling_of(study: StudyContext, images: Int[np.ndarray, " n"]) -> Float[np.ndarray, "2 n 2"]:
    """Factor and shift of the photo of every object."""
    sides = photo_sides(study, np.unique(images))
    found = [input_scaling(sides[image], study.settings.preprocessing) for image in images.tolist()]
    return np.stack([np.stack(pairs) for pairs in zip(*found, strict=True)])


@dataclass(frozen=True, eq=False)
class LayerPlaces:
    """The patterns of a layer whose words are asked for, and on which objects.

    Attributes:
        files, top, layer: whose places.
        means: (V, 2) mean places.
        words: of the matched layer.
        groups: (n,) of photos.
        judged: (n,) objects that count.
    """

    files: PatternFiles
    top: Top
    layer: PatternedLayer
    means: Float[Tensor, "V 2"]
    words: PlacedWords
    groups: Int[Tensor, " n"]
    judged: Tensor

    def tallies(self) -> Iterator[tuple[slice, Mapping[str, WordTally]]]:
        """By source the words at some patterns, block by block of patterns."""
        size = max(1, _CELLS // (GROUPS * self.words.layer.words))
        for first in range(0, len(self.means), size):
            some = slice(first, min(first + size, len(self.means)))
            yield some, self._tally(some)

    def _tally(self, some: slice) -> dict[str, WordTally]:
        words, objects = self.words, self.words.turned.objects
        found = dict.fromkeys(SOURCES, WordTally.zero(GROUPS, some.stop - some.start, words.layer.words))
        for first in range(0, len(objects), shard_rows()):
            rows = slice(first, min(first + shard_rows(), len(objects)))
            placed = self.files.places(self.top, self.layer.name, rows)
            valid = (valid_patterns(placed.scores) & self.judged[rows, None])[:, some, None]
            anywhere = torch.from_numpy(np.stack([self._drawn(row)[some] for row in range(first, rows.stop)]))
            kinds = placed.places[:, some].double(), self.means[some].expand(anywhere.shape), anywhere
            shares = words.shares(rows, objects.boxes)
            for source, places in zip(SOURCES, kinds, strict=True):
                here = words.at(rows, torch.where(valid, places, torch.nan))
                found[source] += WordTally.from_batch(here, shares, self.groups[rows], GROUPS)
        return found

    def _drawn(self, row: int) -> Float[np.ndarray, "V 2"]:
        return np.random.default_rng([self.words.study.settings.seed % 2**64, row]).random((len(self.means), 2))


def part_ratios(words: PlacedWords, groups: Int[Tensor, " n"], judged: Tensor) -> Float[Tensor, "P R K"]:
    """By part how much likelier each word is in its box than on the same objects; row 0, then without each group."""
    objects, count = words.turned.objects, words.layer.words
    inside = torch.zeros(len(objects.parts), GROUPS, count, dtype=torch.float64)
    anywhere = torch.zeros_like(inside)
    for first in range(0, len(objects), shard_rows()):
        rows = slice(first, min(first + shard_rows(), len(objects)))
        whole = words.shares(rows, objects.boxes)
        for place, boxes in enumerate(objects.parts.values()):
            own = words.shares(rows, boxes)
            known = judged[rows] & (own.sum(dim=1) > 0)
            inside[place].index_add_(0, groups[rows][known], own[known])
            anywhere[place].index_add_(0, groups[rows][known], whole[known])
    part, whole = (
        torch.cat([one.sum(1, keepdim=True), one.sum(1, keepdim=True) - one], 1) for one in (inside, anywhere)
    )
    prior = whole / whole.sum(dim=2, keepdim=True).clamp(min=1e-300)
    return smoothed_ratios(part, prior, words.study.settings.mine.pseudo_count, LOG_UNIT.base).nan_to_num(nan=0.0)
