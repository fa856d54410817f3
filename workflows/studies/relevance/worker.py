"""Conductance of the images of a shard, in an actor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.records import Sums
from gmm_ops.units.relevance import Completeness, RelevanceSums, Rule
from workflows.asking.image_parts import ImageShard
from workflows.data.network_inputs import NetworkInputs
from workflows.networks.attribution.gradients import Conductance, Output
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from workflows.data.masks.concept_masks import MaskSet

MAP_BYTES = 2**30
"""Of the maps that an actor holds at once; whatever the machine, so that batches and bits are the same everywhere."""


@dataclass(frozen=True)
class RelevancePart(Sums):
    """What one shard gives."""

    units: RelevanceSums
    completeness: Completeness


@dataclass(frozen=True)
class ClassMasks:
    """Which concept of a source shows which class.

    Attributes:
        source: of the masks.
        concepts: number of the concept by class.
        by_area: divide by the area of the mask.
    """

    source: MaskSet
    concepts: dict[int, int]
    by_area: bool

    def read(self, images: Sequence[int], labels: Sequence[int]) -> tuple[Float[Tensor, "N H W"], Int[Tensor, " N"]]:
        """The masks of images of some classes, and which of them have one."""
        pairs = zip(self.source.read(images), labels, strict=True)
        found = [masks.mask(self.concepts[label]) for masks, label in pairs]
        return torch.from_numpy(np.stack(found)).double(), torch.tensor([int(mask.any()) for mask in found])


class RelevanceWorker:
    """Walks the paths of images; built once an actor.

    Args:
        settings, plan, folder: of the run.
        steps, rule, output: of the path, see ``Conductance``.
        masks: of the classes; None: no masks.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        steps: int,
        rule: Rule,
        output: Output,
        masks: ClassMasks | None,
    ) -> None:
        self._device = choose_device(settings.runtime.device)
        size = plan.input_height, plan.input_width
        shape = settings.preprocessing.channels, *size
        network = UnitNetwork.load(settings.network, plan.weights, shape, plan.rewriting, self._device)
        self._conductance = Conductance(network, steps=steps, rule=rule, output=output)
        self._inputs = NetworkInputs(settings, folder, size, self._device)
        self._batch = min(plan.batch(settings.extract), self._conductance.images_at_once(MAP_BYTES))
        self._folder, self._masks = folder, masks

    def __call__(self, shard: ImageShard) -> RelevancePart:
        """Sums over the shard's images."""
        units = RelevanceSums.zero(sum(layer.units for layer in self._conductance.layers))
        completeness = Completeness.zero(len(self._conductance.every))
        first = shard.images[0]
        classes = ImageColumns.read(self._folder, first, shard.images[-1] + 1).classes
        for images, batch in self._inputs(shard.images, self._batch):
            part = self._walk(images, batch, [int(classes[image - first]) for image in images])
            units, completeness = units + part.units, completeness + part.completeness
        return RelevancePart(units, completeness)

    def _walk(self, images: Sequence[int], batch: Tensor, labels: Sequence[int]) -> RelevancePart:
        found = self._conductance(batch, torch.tensor(labels, device=self._device), self._inputs.black())
        masks, has_mask = (None, None) if self._masks is None else self._masks.read(images, labels)
        units = RelevanceSums.from_batch(
            torch.tensor(labels),
            [one.cpu() for one in found.maps.values()],
            [one.cpu() for one in found.activations.values()],
            masks,
            has_mask,
            by_area=self._masks is not None and self._masks.by_area,
        )
        totals = Completeness.from_batch(torch.tensor(images), found.difference.cpu(), found.totals.cpu())
        return RelevancePart(units, totals)
