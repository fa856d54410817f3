"""A run's network with the dictionaries and word maps of a scope, in an actor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.trust.column_changes import principal_axes
from workflows.asking.image_parts import ImageShard
from workflows.data.network_inputs import NetworkInputs
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder
from workflows.words.effects_worker import WordMeans
from workflows.words.word_maps import read_words

MAP_BYTES = 2**30
"""Of the maps of one layer, as it is and changed, that an actor holds; whatever the machine, so that bits are alike."""

COMPONENTS = 4
"""Principal components of a layer that its columns keep beside their words, or alone."""

_HELD = 6
"""Maps of a layer that are in memory at once."""


@dataclass(frozen=True, eq=False)
class LayerWords:
    """What is known of the words of a layer.

    Attributes:
        name: canonical.
        mixture: the dictionary.
        centre: (D,) mean column of the layer: mean of the word means by their shares, of the generative dictionary. EM
            makes it the mean of the training columns; training for the decision moves means, so its own is not taken.
        axes: (q, D) first principal axes of the layer, as its words tell them: no column need be read again.
    """

    name: str
    mixture: Mixture
    centre: Float[Tensor, " D"]
    axes: Float[Tensor, "q D"]

    @classmethod
    def load(cls, folder: RunFolder, scope: str, name: str, device: torch.device) -> LayerWords:
        """Raises RunFolderError: a dictionary is missing or damaged."""
        centre = WordMeans.load(folder, scope, name, device).centre
        mixture = load_mixture(folder.mixture(scope, name))
        axes = principal_axes(mixture.mean, mixture.log_pi.exp(), COMPONENTS)
        return cls(name, mixture.to(device), centre, axes.to(device))


@dataclass(frozen=True, eq=False)
class WordedBatch:
    """Images with their words.

    Attributes:
        images: (N,) ids.
        pixels: what the network is given.
        predicted, labels: (N,) classes; -1 without a label.
        words: by layer, lowest first.
    """

    images: Int[np.ndarray, " N"]
    pixels: Float[Tensor, "N C H W"]
    predicted: Int[Tensor, " N"]
    labels: Int[Tensor, " N"]
    words: tuple[Int[Tensor, "N H W"], ...]


class ScopedNetwork:
    """Built once an actor.

    Args:
        settings, plan, folder: of the run.
        scope: whose words.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, scope: str) -> None:
        self.device = choose_device(settings.runtime.device)
        size = plan.input_height, plan.input_width
        shape = settings.preprocessing.channels, *size
        # Folded normalisations would be in the columns of convolutions in front of them, and no word has seen that.
        rewriting = replace(plan.rewriting, fused=False)
        self.network = UnitNetwork.load(settings.network, plan.weights, shape, rewriting, self.device)
        self.names = [self.network.layer(layer.name).name for layer in plan.layers]
        self.layers = [LayerWords.load(folder, scope, layer.name, self.device) for layer in plan.layers]
        self._inputs = NetworkInputs(settings, folder, size, self.device)
        largest = max(layer.units * layer.positions for layer in plan.layers)
        self._batch = max(1, min(plan.batch(settings.extract), MAP_BYTES // (4 * _HELD * largest)))
        self._folder, self._scope = folder, scope

    def batches(self, shard: ImageShard) -> Iterator[WordedBatch]:
        """The shard's images, in order."""
        first, stop = shard.images[0], shard.images[-1] + 1
        known = ImageColumns.read(self._folder, first, stop)
        maps = [read_words(self._folder, self._scope, layer.name, first, stop) for layer in self.layers]
        for images, pixels in self._inputs(shard.images, self._batch):
            rows = np.asarray(images) - first
            yield WordedBatch(
                np.asarray(images),
                pixels,
                self._classes(known.predicted[rows]),
                self._classes(known.label[rows]),
                tuple(one[torch.from_numpy(rows)].long().to(self.device) for one in maps),
            )

    def _classes(self, values: Sequence[int]) -> Int[Tensor, " N"]:
        return torch.from_numpy(np.asarray(values, np.int64)).to(self.device)
