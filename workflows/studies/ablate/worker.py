"""The images of a shard under all interventions, and the mean activations that silenced units say; in an actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.units.ablation import AblationTally, UnitMeans
from workflows.asking.image_parts import ImageShard
from workflows.data.network_inputs import NetworkInputs
from workflows.networks.interventions import Change, Interventions, silenced
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder

Means = Mapping[str, Float[np.ndarray, " D"]]
"""By layer: what its units say when they are silenced by their mean."""


@dataclass(frozen=True, eq=False)
class Silencing:
    """One intervention.

    Attributes:
        units: by layer, which are silenced.
        by_mean: they say their mean over images; else zero.
    """

    units: Mapping[str, Int[np.ndarray, " k"]]
    by_mean: bool

    @property
    def layers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.units)

    def changes(self, means: Means) -> dict[str, Change]:
        """For ``Pause.rest``."""
        instead = {layer: torch.from_numpy(means[layer]) if self.by_mean else 0.0 for layer in self.units}
        return {layer: silenced(torch.from_numpy(units), instead[layer]) for layer, units in self.units.items()}


class _Images:
    """A run's network and its images, in an actor."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.device = choose_device(settings.runtime.device)
        size = plan.input_height, plan.input_width
        shape = settings.preprocessing.channels, *size
        self.network = UnitNetwork.load(settings.network, plan.weights, shape, plan.rewriting, self.device)
        self.inputs = NetworkInputs(settings, folder, size, self.device)
        self.batch = plan.batch(settings.extract)


class MeansWorker:
    """Means of the units of some layers; built once an actor. layers: names; their units follow in this order."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, layers: Sequence[str]) -> None:
        self._images = _Images(settings, plan, folder)
        self._body = self._images.network.tapped(layers)

    @torch.inference_mode()
    def __call__(self, shard: ImageShard) -> UnitMeans:
        """Sums over the shard's images."""
        parts = [
            UnitMeans.from_batch(self._body(batch)[1])
            for _, batch in self._images.inputs(shard.images, self._images.batch)
        ]
        return sum(parts[1:], parts[0])


class AblateWorker:
    """Tallies of all interventions; built once an actor.

    Args:
        settings, plan, folder: of the run.
        silencings: the interventions.
        means: of the layers that are silenced by their mean.
    """

    def __init__(
        self, settings: Settings, plan: Plan, folder: RunFolder, silencings: Sequence[Silencing], means: Means
    ) -> None:
        self._images = _Images(settings, plan, folder)
        self._network = Interventions(self._images.network)
        self._folder, self._classes = folder, len(plan.class_names)
        self._changes = [one.changes(means) for one in silencings]
        self._groups: dict[tuple[str, ...], list[int]] = {}
        for place, one in enumerate(silencings):
            self._groups.setdefault(one.layers, []).append(place)

    def __call__(self, shard: ImageShard) -> AblationTally:
        """Counts over the shard's images."""
        tally = AblationTally.zero(len(self._changes), self._classes)
        first = shard.images[0]
        classes = ImageColumns.read(self._folder, first, shard.images[-1] + 1).classes
        for images, batch in self._images.inputs(shard.images, self._images.batch):
            labels = torch.from_numpy(classes[[image - first for image in images]])
            right, under = self._classify(batch, labels.to(self._images.device))
            tally += AblationTally.from_batch(labels, right.cpu(), under.cpu(), self._classes)
        return tally

    def _classify(self, batch: Tensor, labels: Tensor) -> tuple[Bool[Tensor, " N"], Bool[Tensor, "J N"]]:
        """Which images are classified right by the network as it is, and under each intervention."""
        right = self._network(batch).argmax(dim=1) == labels
        under = torch.zeros((len(self._changes), len(labels)), dtype=torch.bool, device=labels.device)
        for pause in self._network.pauses(batch, list(self._groups)):
            for place in self._groups[pause.layers]:
                under[place] = pause.rest(self._changes[place]).argmax(dim=1) == labels
        return right, under
