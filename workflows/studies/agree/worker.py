"""What actors do for agree: word maps of all runs, read for the images of a shard, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.records import Sums, joined
from gmm_ops.trust.agreement import GraphChoices, LayerOverlaps, nearest_maps
from gmm_ops.trust.word_choices import draw_keys
from workflows.asking.image_parts import ImageShard
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import ExtractSettings, Settings
from workflows.storage.run_folder import RunFolder
from workflows.studies.agree.compared_runs import Chosen, SharedImages
from workflows.words.word_maps import read_image_maps

DRAWS = 20
"""Of as many words as a graph has, at random."""

_AT_ONCE = 2**18
"""Columns of a run that are looked at together."""


@dataclass(frozen=True, eq=False)
class ComparedLayer:
    """A layer as every run has it.

    Attributes:
        layers: of every run.
        choices: words of the graphs.
    """

    layers: tuple[LayerPlan, ...]
    choices: GraphChoices

    @property
    def size(self) -> tuple[int, int]:
        """The grid that columns are compared on: the finest of the runs' maps."""
        return max(layer.height for layer in self.layers), max(layer.width for layer in self.layers)

    @property
    def positions(self) -> int:
        """Of the grid."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is compared.

    Attributes:
        scope: whose words.
        names: of the runs.
        classes: whose graphs, ascending ids.
        layers: lowest first.
        shared: images.
    """

    scope: str
    names: tuple[str, ...]
    classes: tuple[int, ...]
    layers: tuple[ComparedLayer, ...]
    shared: SharedImages

    @property
    def groups(self) -> Int[np.ndarray, " n"]:
        """Of every image the place of its class in ``classes``; -1: of none."""
        places = {label: place for place, label in enumerate(self.classes)}
        return np.array([places.get(label, -1) for label in self.shared.predicted.tolist()], np.int64)


def compared_layer(
    layers: tuple[LayerPlan, ...],
    known: Sequence[Chosen],
    present: Sequence[Mapping[str, Sequence[int]]],
    classes: Sequence[int],
    seed: int,
) -> ComparedLayer:
    """A layer with the words of all graphs, and random ones.

    Args:
        layers: of every run.
        known: words of the graphs of every run.
        present: by layer, words of every run that occur; random ones are drawn among them.
        classes: ids.
        seed: of the draws.
    """
    words = [[one[label].get(layer.name, []) for one, layer in zip(known, layers, strict=True)] for label in classes]
    top = max(len(own) for of_class in words for own in of_class)
    chosen = torch.full((len(classes), len(layers), 1 + DRAWS, max(top, 1)), -1)
    for place, run in np.ndindex(len(classes), len(layers)):
        own, among = words[place][run], present[run][layers[run].name]
        chosen[place, run, 0, : len(own)] = torch.tensor(own)
        noise = np.random.default_rng([seed % 2**63, run, classes[place], *layers[run].name.encode()])
        for draw in range(1, 1 + DRAWS):
            some = noise.permutation(among)[: len(own)]
            chosen[place, run, draw, : len(some)] = torch.from_numpy(some)
    return ComparedLayer(layers, GraphChoices(chosen, tuple(layer.words for layer in layers)))


@dataclass(frozen=True)
class AgreementPart(Sums):
    """What some images add.

    Attributes:
        images: (n,) ids in the first run, as ``LayerOverlaps.covered`` has them.
        layers: of every compared layer.
    """

    images: Annotated[Int[Tensor, " n"], joined]
    layers: tuple[LayerOverlaps, ...]


class AgreementWorker:
    """Compares word maps; built once an actor.

    Args:
        settings, plan, folder: of the first run.
        folders, extracts: of all runs: where their word maps lie, and in what chunks.
        subject: what is compared.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        folders: Sequence[RunFolder],
        extracts: Sequence[ExtractSettings],
        subject: Subject,
    ) -> None:
        self._places, self._subject, self._seed = list(zip(folders, extracts, strict=True)), subject, settings.seed
        self._groups = torch.from_numpy(subject.groups)

    def __call__(self, shard: ImageShard) -> AgreementPart:
        """Of a shard."""
        rows = np.searchsorted(self._subject.shared.ids[:, 0], shard.images)
        found = tuple(self._of_layer(layer, rows) for layer in self._subject.layers)
        return AgreementPart(torch.tensor(shard.images, dtype=torch.int64), found)

    def _of_layer(self, layer: ComparedLayer, rows: Int[np.ndarray, " n"]) -> LayerOverlaps:
        total, size = LayerOverlaps.zero(layer.choices), max(1, _AT_ONCE // layer.positions)
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            maps = [self._maps(run, layer, some) for run in range(len(self._places))]
            keys = draw_keys(self._subject.shared.ids[some, 0], layer.positions, 0, self._seed)
            total += LayerOverlaps.from_batch(maps, self._groups[some], layer.choices, keys)
        return total

    def _maps(self, run: int, layer: ComparedLayer, rows: Int[np.ndarray, " n"]) -> Int[Tensor, "n H W"]:
        folder, extract = self._places[run]
        images = self._subject.shared.ids[rows, run]
        maps = read_image_maps(folder, self._subject.scope, layer.layers[run].name, images, extract)
        return nearest_maps(maps, *layer.size)
