"""First-order effects of all words of all scopes on a shard's images, from one backward pass; in an actor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gmm_ops.trust.column_changes import changed_columns
from gmm_ops.trust.word_effects import first_order_effects
from workflows.data.network_inputs import NetworkInputs
from workflows.networks.rewriting_choice import Rewriting
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.run_inputs import refuse_changed_inputs
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import Scope
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.atomic import sync_file_system
from workflows.storage.effect_parts import CHANGES, write_effect_part
from workflows.storage.images_table import ImageColumns
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder
from workflows.words.dictionaries import generative_path
from workflows.words.held_words import HELD_BYTES, HeldWords
from workflows.words.scope_effects import effect_images
from workflows.words.shard_names import ShardNames
from workflows.words.word_maps import read_words

MAP_BYTES = 2**30
"""Of the maps of one layer that an actor holds; whatever the machine, so that bits are alike."""

_HELD = 6
"""Maps of a layer that are in memory at once: as it is, its gradient, changed, and the pass's own."""


@dataclass(frozen=True)
class WordMeans:
    """What columns say with and without their words.

    Attributes:
        means: mu of every word.
        centre: mean column of the layer: the mean of the words by their shares, of the generative dictionary. EM makes
            it that of the training columns; training for the decision moves means, so its own is not taken.
    """

    means: Float[Tensor, "K D"]
    centre: Float[Tensor, " D"]

    @classmethod
    def load(cls, folder: RunFolder, scope: str, layer: str, device: torch.device) -> WordMeans:
        """Raises RunFolderError: a dictionary is missing or damaged."""
        mixture = load_mixture(folder.mixture(scope, layer))
        earlier = generative_path(folder, scope, layer)
        source = load_mixture(earlier) if earlier.exists() else mixture
        return cls(mixture.mean.to(device), (source.log_pi.exp() @ source.mean).to(device))


def refuse_without_effects(network: nn.Module, settings: Settings, plan: Plan) -> None:
    """Before anything long.

    Raises:
        NetworkError: its operations cannot be traced or rewritten, or a modelled layer gives no map.
    """
    _layer_names(UnitNetwork(network, *_traced_as(settings, plan)), plan)


def _traced_as(settings: Settings, plan: Plan) -> tuple[tuple[int, int, int], Rewriting]:
    # Folded normalisations would be in the columns of convolutions in front of them, and no word has seen that.
    return (settings.preprocessing.channels, plan.input_height, plan.input_width), replace(plan.rewriting, fused=False)


def _layer_names(network: UnitNetwork, plan: Plan) -> list[str]:
    return [network.layer(layer.name, "network.layers").name for layer in plan.layers]


class EffectsWorker:
    """One shard with validation images in, effects of words on each of them out, for every scope.

    The objective of an image is the logit of the class that it is predicted as, so that one pass serves all classes.
    All images of a shard pass in the same batches, whoever asks.

    Args:
        settings, plan, folder: of the run.
        scopes: all that may be asked for.

    Raises:
        NetworkError: a network that cannot be traced, whose weights are gone or others now, or a layer without a map.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, scopes: Sequence[Scope]) -> None:
        self._plan, self._folder = plan, folder
        self._scopes = {scope.name: scope for scope in scopes}
        self._device = choose_device(settings.runtime.device)
        refuse_changed_inputs(settings.network.name, plan, folder)
        network = UnitNetwork.load(settings.network, plan.weights, *_traced_as(settings, plan), self._device)
        self._body = network.tapped(_layer_names(network, plan))
        self._inputs = NetworkInputs(settings, folder, (plan.input_height, plan.input_width), self._device)
        largest = max(layer.units * layer.positions for layer in plan.layers)
        self._batch = max(1, min(plan.batch(settings.extract), MAP_BYTES // (4 * _HELD * largest)))
        self._words = HeldWords(self._load, lambda words: vars(words).values(), HELD_BYTES)

    def __call__(self, item: ShardNames) -> dict[str, Any]:
        """Differentiate and write; no number depends on who works on a shard, nor on the other scopes."""
        shard = item.shard
        images = ImageColumns.read(self._folder, shard.first, shard.stop)
        self._words.keep([(name, layer.name) for name in item.names for layer in self._plan.layers])
        rows = {name: effect_images(self._scopes[name], self._plan, images, shard.first) for name in item.names}
        found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in item.names}
        for ids, maps, gradients in self._passes(images, shard.first):
            for name in item.names:
                here = np.flatnonzero(np.isin(ids, rows[name]))
                if len(here):
                    found[name] += self._effects(name, ids[here], torch.from_numpy(here), maps, gradients)
        for name, parts in found.items():
            write_effect_part(self._folder.effect_part(name, shard.index), parts)
        sync_file_system(self._folder.root)  # before the ledger says that they are there
        return {"images": sum(map(len, rows.values()))}

    def _load(self, scope_and_layer: tuple[str, str]) -> WordMeans:
        return WordMeans.load(self._folder, *scope_and_layer, self._device)

    def _passes(
        self, images: ImageColumns, first: int
    ) -> Iterator[tuple[Int[np.ndarray, " N"], tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """Of the validation images that have a prediction: ids, and by layer its maps and their gradients."""
        ids = np.flatnonzero(images.predicted >= 0) + first
        for some, pixels in self._inputs(ids[ids >= self._plan.train_images].tolist(), self._batch):
            batch = np.asarray(some, np.int64)
            predicted = torch.from_numpy(images.predicted[batch - first].astype(np.int64)).to(self._device)
            with torch.enable_grad():
                # So that there is a graph; its gradient is not asked for, and never computed.
                logits, taps = self._body(pixels.requires_grad_())
                gradients = torch.autograd.grad(logits.gather(1, predicted[:, None]).sum(), taps)
            yield batch, tuple(tap.detach() for tap in taps), gradients

    def _effects(
        self, scope: str, ids: Int[np.ndarray, " n"], rows: Tensor, maps: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> list[dict[str, np.ndarray]]:
        """Columns of rows, one part a layer. rows: of the batch."""
        rows = rows.to(self._device)
        first, stop = int(ids[0]), int(ids[-1]) + 1
        parts = []
        for layer, values, gradient in zip(self._plan.layers, maps, gradients, strict=True):
            words = read_words(self._folder, scope, layer.name, first, stop)[torch.from_numpy(ids - first)]
            known = self._words((scope, layer.name))
            found = word_effects(values[rows], gradient[rows], words.long().to(self._device), known)
            parts.append({"layer": np.full(len(found["word"]), layer.name), **found, "image": ids[found["image"]]})
        return parts


def word_effects(
    maps: Float[Tensor, "N D H W"], gradients: Float[Tensor, "N D H W"], words: Int[Tensor, "N H W"], known: WordMeans
) -> dict[str, np.ndarray]:
    """First-order effects of the words that each image has, as columns of rows by image and word.

    Args:
        maps: of a layer. gradients: of the logit, at each column.
        words: of every column; -1 for none.
        known: of the layer's words.

    Returns:
        ``image``, its place; ``word``; ``columns`` of the image that are the word; and the effect under each change.
    """
    size = len(known.means)
    flat = torch.where(words < 0, size, words).flatten(1)
    columns = torch.zeros(len(words), size + 1, dtype=torch.int64, device=words.device)
    columns = columns.scatter_add_(1, flat, torch.ones_like(flat))[:, :size]
    image, word = columns.nonzero(as_tuple=True)
    found = {"image": image, "word": word, "columns": columns[image, word]}
    for change in CHANGES:
        changed = changed_columns(maps, words, known.means, known.centre, change)
        found[change] = first_order_effects(gradients, maps, changed, words, size)[image, word]
    return {name: values.cpu().numpy() for name, values in found.items()}
