"""What words cost their classes: effects on single images, summed over the images of a class or of any groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workflows.plan.run_plan import Plan
from workflows.plan.scopes import Scope
from workflows.settings import Settings
from workflows.storage.effect_parts import EffectChange, read_effect_part
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.storage.run_folder import RunFolder
from workflows.words.scope_images import shards_of


def effect_images(scope: Scope, plan: Plan, images: ImageColumns, first: int = 0) -> Int[np.ndarray, " n"]:
    """Ids of the images whose effects a scope keeps: validation images whose prediction it explains, with its words.

    Args:
        scope: whose.
        plan: of the run.
        images: consecutive ones, from the id ``first`` on.
    """
    ids = np.arange(first, first + len(images.predicted))
    kept = (images.predicted >= 0) & np.isin(images.predicted, scope.explains) & scope.assigns(images)
    return ids[kept & (ids >= plan.train_images)]


@dataclass(frozen=True)
class ScopeEffects:
    """Effects of the words of a scope; numbers come from its files when they are asked for.

    Attributes:
        folder, plan: of the run.
        scope: its name.
        change: what columns would say without their words.
        per_shard: images of a shard.
        images: ids of the images that have effects, ascending.
        omegas: by image of the run, the class whose Omega it is in; -1: none.
    """

    folder: RunFolder
    plan: Plan
    scope: str
    change: EffectChange
    per_shard: int
    images: Int[np.ndarray, " n"]
    omegas: Int[np.ndarray, " images"]

    @classmethod
    def of(cls, folder: RunFolder, settings: Settings, plan: Plan, scope: Scope, images: ImageColumns) -> ScopeEffects:
        """As ``[mine]`` asks. images: all of the run."""
        known = effect_images(scope, plan, images)
        # Omega of a class are images of the scope; others that it explains have graphs of their own alone.
        omegas = np.where(scope.contains(images.label), images.predicted, -1)
        size = settings.extract.images_per_shard
        return cls(folder, plan, scope.name, settings.mine.intervention, size, known, omegas)

    def scores(self, graph: GraphId) -> list[Float[Tensor, " K"]] | None:
        """What ``mine`` chooses by, from the highest layer down: sums over Omega; None of an image without effects."""
        if graph.is_image and graph.number not in self.images:
            return None
        if graph.is_image:
            groups = np.full(len(self.omegas), -1)
            groups[graph.number] = 0
            return [sums[0] for sums in reversed(self.sums(groups, 1))]
        return [sums[graph.number] for sums in reversed(self.by_class)]

    @cached_property
    def by_class(self) -> list[Float[Tensor, "M K"]]:
        """``sums`` over the Omega of every class."""
        return self.sums(self.omegas, len(self.plan.class_names))

    def sums(self, groups: Int[np.ndarray, " images"], n_groups: int) -> list[Float[Tensor, "G K"]]:
        """By layer, lowest first: sums over the images of each group, in logits; NaN of a word that the group has not.

        Args:
            groups: of every image of the run, from 0, such as its predicted class; -1: of none.
            n_groups: G.

        Raises:
            RunFolderError: a file of effects is missing or damaged.
        """
        sizes = [layer.words for layer in self.plan.layers]
        total = [np.zeros((n_groups, size)) for size in sizes]
        columns = [np.zeros((n_groups, size), np.int64) for size in sizes]
        for shard in shards_of(self.images[groups[self.images] >= 0], self.per_shard):
            part = read_effect_part(self.folder.effect_part(self.scope, shard))
            group = groups[part["image"]]
            for place, layer in enumerate(self.plan.layers):
                rows = (part["layer"] == layer.name) & (group >= 0)
                at = group[rows], part["word"][rows]
                np.add.at(total[place], at, part[self.change][rows].astype(np.float64))
                np.add.at(columns[place], at, part["columns"][rows])
        return [
            torch.from_numpy(np.where(counted > 0, summed, np.nan))
            for summed, counted in zip(total, columns, strict=True)
        ]
