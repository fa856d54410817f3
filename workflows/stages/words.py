"""activations + mixtures -> words/<scope>/<layer>.zarr: the hard word of every column of every image.

With a hidden Markov model the word is that of the image's most probable path, see ``chain_words``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gmm_ops.mixture import Mixture, assign
from workflows.images.shards import Shard
from workflows.plan import LayerPlan, Plan
from workflows.settings import Settings
from workflows.stages.chain_words import ChainWordsWorker
from workflows.stages.context import StageContext
from workflows.stages.devices import STORAGE_DTYPES, choose_device
from workflows.stages.word_maps import FIELDS, words_path
from workflows.storage.arrays import array_exists, create_array, read_rows, write_shard
from workflows.storage.images_table import read_image_rows
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from workflows.stages.forward import FrozenForward


class WordsWorker:
    """Runs in an actor: one shard of images in, one whole Zarr shard of every layer's word maps out.

    Columns are read back when all of them were stored, else the network runs again; both give the columns in
    the storage dtype, so the words are the same.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.device = choose_device(settings.runtime.device)
        self.forward = None if plan.stores_everything else _forward(settings, plan, folder)
        self.mixtures: dict[str, Mixture] = {
            layer.name: load_mixture(folder.mixture(settings.fit.scope, layer.name)).to(self.device)
            for layer in plan.layers
        }

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Assign and write; the tiles of a shard never depend on who works on it."""
        status = read_image_rows(self.folder.images_table, shard.first, shard.stop, ["status"])["status"]
        broken = np.array([value != "ok" for value in status.to_pylist()])
        maps = {
            layer.name: {
                field: np.zeros((shard.stop - shard.first, layer.height, layer.width), dtype)
                for field, dtype in FIELDS.items()
            }
            for layer in self.plan.layers
        }
        for first, layer, columns in self._columns(shard):
            self._assign(layer, columns, maps[layer.name], first - shard.first)
        for layer in self.plan.layers:
            maps[layer.name]["word"][broken] = -1
            for field, block in maps[layer.name].items():
                write_shard(words_path(self.folder, self.settings.fit.scope, layer.name, field), shard.first, block)
        return {"images": shard.stop - shard.first}

    def _columns(self, shard: Shard) -> Iterator[tuple[int, LayerPlan, Tensor]]:
        if self.forward is not None:
            for batch in self.forward(shard):
                for layer in self.plan.layers:
                    yield batch.first, layer, batch.columns[layer.name]
            return
        step = self.settings.extract.batch
        for layer in self.plan.layers:
            block = read_rows(self.folder.activations(layer.name), shard.first, shard.stop)
            for start in range(0, len(block), step):
                yield shard.first + start, layer, torch.from_numpy(block[start : start + step]).to(self.device)

    def _assign(self, layer: LayerPlan, columns: Tensor, maps: dict[str, np.ndarray], row: int) -> None:
        # Through the storage dtype, so that recomputed columns give the words that stored ones do.
        stored = columns.to(STORAGE_DTYPES[self.settings.extract.dtype])
        found = assign(self.mixtures[layer.name], stored.reshape(-1, layer.units).float())
        for field in FIELDS:
            values = getattr(found, field).cpu().numpy().reshape(len(columns), layer.height, layer.width)
            maps[field][row : row + len(columns)] = values


def _forward(settings: Settings, plan: Plan, folder: RunFolder) -> FrozenForward:
    # Late, because torchvision costs an actor a second and stored columns need no network.
    from workflows.stages.forward import FrozenForward

    return FrozenForward(settings, plan, folder)


def create_word_maps(settings: Settings, plan: Plan, folder: RunFolder) -> None:
    """Preallocate the arrays of every layer that are not there yet."""
    for layer in plan.layers:
        for field, dtype in FIELDS.items():
            path = words_path(folder, settings.fit.scope, layer.name, field)
            if not array_exists(path):
                create_array(
                    path,
                    (plan.images, layer.height, layer.width),
                    dtype,
                    chunk_rows=settings.extract.images_per_chunk,
                    shard_rows=settings.extract.images_per_shard,
                    codec="zstd",
                    zstd_level=1,
                    attributes={"layer": layer.name, "scope": settings.fit.scope, "words": layer.words},
                )


def run(context: StageContext) -> None:
    """The stage: preallocate the word maps, then shards not yet in the ledger go to actors."""
    plan = context.plan()
    create_word_maps(context.settings, plan, context.folder)
    context.map_shards_left(WordsWorker if context.settings.hmm is None else ChainWordsWorker, plan)
    impossible = sum(record.get("impossible", 0) for record in context.ledger.items().values())
    if impossible:
        context.warn(
            f"{impossible} images are impossible under the model, whose transitions never lead to their prediction: "
            "their paths were found without it and have path_log_probability -inf; a positive hmm.transition_prior "
            "keeps every transition possible"
        )
