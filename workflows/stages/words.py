"""activations + mixtures -> words/<scope>/<layer>.zarr: the hard word of every column of every image of every scope.

With a hidden Markov model the word is that of the image's most probable path, see ``chain_words``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.mixture import Mixture
from workflows.context import StageContext
from workflows.data.shards import Shard
from workflows.fits.training_images import readable_images
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scopes import JOINT, Scope, read_scopes
from workflows.runtime.devices import choose_device
from workflows.runtime.host_copies import HostCopies
from workflows.settings import Settings
from workflows.storage.arrays import array_exists, create_array, write_shard
from workflows.storage.atomic import sync_file_system
from workflows.storage.images_table import ImageColumns
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder
from workflows.words.chain_words import ChainWordsWorker
from workflows.words.few_maps import FIELDS, FewMaps, fill_value
from workflows.words.held_words import HELD_BYTES, HeldWords
from workflows.words.scope_images import ScopeImages, names_by_shard, shards_of
from workflows.words.shard_names import ShardNames, map_names_left, names_left
from workflows.words.whole_maps import Batch, WholeMaps, columns_of_rows
from workflows.words.word_maps import words_path

Maps = dict[tuple[str, str, str], Tensor]
"""(scope, layer, field) -> (n, H, W), the images that the scope assigns."""


class WordsWorker:
    """Runs in an actor: one shard of images in, one whole Zarr shard of word maps out for every scope and layer.

    Columns are read once for all scopes. A shard may have images of hundreds of scopes, whose dictionaries are kept as
    far as they fit, see ``HeldWords``.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, scopes: Sequence[Scope]) -> None:
        self.plan, self.folder = plan, folder
        self.scopes = {scope.name: scope for scope in scopes}
        self.device = choose_device(settings.runtime.device)
        self._copies = HostCopies(self.device)
        self._maps = WholeMaps(settings, plan, folder, self.device)
        self._mixtures = HeldWords(self._load, lambda mixture: vars(mixture).values(), HELD_BYTES)

    def __call__(self, item: ShardNames) -> dict[str, Any]:
        """Assign and write; the tiles of a shard never depend on who works on it, nor on the other scopes."""
        shard = item.shard
        images = ImageColumns.read(self.folder, shard.first, shard.stop)
        assigned = {name: np.flatnonzero(self.scopes[name].assigns(images)) for name in item.names}
        self._mixtures.keep([(name, layer.name) for name in item.names for layer in self.plan.layers])
        broken = ~readable_images(self.folder, shard.first, shard.stop)
        for layers, batches in self._maps(shard):
            if self.plan.stores_everything:
                # The columns of the shard are in memory, so scopes take turns: only the maps of one are held.
                columns = list(batches)
                for name, rows in assigned.items():
                    self._write(shard, layers, columns, {name: rows}, broken)
            else:
                self._write(shard, layers, batches, assigned, broken)
        sync_file_system(self.folder.root)  # before the ledger says that they are there
        given = sum(map(len, assigned.values())) * sum(layer.positions for layer in self.plan.layers)
        return {"images": len(shard), "columns": given}

    def _write(
        self,
        shard: Shard,
        layers: Sequence[LayerPlan],
        batches: Iterable[Batch],
        assigned: Mapping[str, Int[np.ndarray, " n"]],
        broken: Bool[np.ndarray, " N"],
    ) -> None:
        """The shard of some scopes in some layers. assigned: by scope, rows of the shard that get words."""
        maps = self._empty_maps(layers, {name: len(rows) for name, rows in assigned.items()})
        for first, layer, columns in batches:
            for name, rows in assigned.items():
                self._assign(name, layer, columns, rows, first, maps)
        self._copies.wait()
        for name, rows in assigned.items():
            few = FewMaps.read(self.folder, name)
            for layer in layers:
                found = {field: maps[name, layer.name, field].numpy() for field in FIELDS}
                found["word"][broken[rows]] = -1
                if few is not None:
                    path = self.folder.words_shard(name, layer.name, shard.index)
                    few.write_shard(path, rows + shard.first, found)
                    continue
                for field, values in found.items():
                    block = _whole_shard(len(shard), rows, values, field)
                    write_shard(words_path(self.folder, name, layer.name, field), shard.first, block)

    def _load(self, scope_and_layer: tuple[str, str]) -> Mixture:
        return load_mixture(self.folder.mixture(*scope_and_layer)).to(self.device)

    def _assign(
        self,
        scope: str,
        layer: LayerPlan,
        columns: Float[Tensor, "N positions D"],
        rows: Int[np.ndarray, " n"],
        first: int,
        maps: Maps,
    ) -> None:
        """Words of the images of a batch that the scope assigns; the batch begins at row ``first`` of the shard."""
        here, columns = columns_of_rows(rows, first, columns)
        if not len(columns):
            return
        found = assign(self._mixtures((scope, layer.name)), columns.reshape(-1, layer.units).float())
        for field in FIELDS:
            values = getattr(found, field).reshape(len(columns), layer.height, layer.width)
            self._copies.copy(values, maps[scope, layer.name, field][here])

    def _empty_maps(self, layers: Sequence[LayerPlan], images: dict[str, int]) -> Maps:
        return {
            (scope, layer.name, field): self._copies.zeros((count, layer.height, layer.width), getattr(torch, dtype))
            for scope, count in images.items()
            for layer in layers
            for field, dtype in FIELDS.items()
        }


def _whole_shard(images: int, rows: Int[np.ndarray, " n"], values: np.ndarray, field: str) -> np.ndarray:
    if len(rows) == images:
        return values
    block = np.full((images, *values.shape[1:]), fill_value(field), values.dtype)
    block[rows] = values
    return block


def create_word_maps(
    settings: Settings, plan: Plan, folder: RunFolder, scope: str = JOINT, filled_shards: Sequence[int] | None = None
) -> None:
    """Prepare the word maps of every layer that are not there yet.

    filled_shards: indices of the shards that hold images of the scope, which then has ``FewMaps``, or arrays if an
    earlier version began them; None: it holds all, and has arrays.
    """
    begun = array_exists(words_path(folder, scope, plan.layers[0].name, "word"))
    if filled_shards is not None and not begun:
        if not folder.words_index(scope).exists():
            extract, shapes = settings.extract, {layer.name: (layer.height, layer.width) for layer in plan.layers}
            shards = tuple(map(int, filled_shards))
            few = FewMaps(plan.images, extract.images_per_shard, extract.images_per_chunk, shards, shapes)
            few.write(folder, scope)
        return
    for layer in plan.layers:
        for field, dtype in FIELDS.items():
            path = words_path(folder, scope, layer.name, field)
            if not array_exists(path):
                create_array(
                    path,
                    (plan.images, layer.height, layer.width),
                    dtype,
                    chunk_rows=settings.extract.images_per_chunk,
                    shard_rows=settings.extract.images_per_shard,
                    codec="zstd",
                    zstd_level=1,
                    attributes={"layer": layer.name, "scope": scope, "words": layer.words},
                    fill_value=0 if filled_shards is None else fill_value(field),
                    filled_shards=filled_shards,
                )


def run(context: StageContext) -> None:
    """The stage: preallocate the word maps, then shards with a scope that is not yet in the ledger go to actors."""
    plan = context.plan()
    if context.settings.hmm is None:
        _assign_scopes(context, plan, read_scopes(context.folder))
        return
    create_word_maps(context.settings, plan, context.folder)
    context.map_shards_left(ChainWordsWorker, plan)
    impossible = sum(record.get("impossible", 0) for record in context.ledger.items().values())
    if impossible:
        context.warn(
            f"{impossible} images are impossible under the model, whose transitions never lead to their prediction: "
            "their paths were found without it and have path_log_probability -inf; a positive hmm.transition_prior "
            "keeps every transition possible"
        )


def _assign_scopes(context: StageContext, plan: Plan, scopes: Sequence[Scope]) -> None:
    settings, folder = context.settings, context.folder
    size = settings.extract.images_per_shard
    members = ScopeImages(ImageColumns.read(folder, 0, plan.images))
    shards = {scope.name: shards_of(members.assigned(scope), size) for scope in scopes}
    for scope in scopes:
        create_word_maps(settings, plan, folder, scope.name, None if scope.holds_all else shards[scope.name])
    wanted = names_by_shard(shards.items())
    done = context.begin(len(wanted))
    context.progress.start(len(wanted), len(wanted) - len(names_left(wanted, done)))
    inputs = {"settings": context.worker_settings(), "plan": plan, "folder": folder, "scopes": scopes}
    map_names_left(context, plan, WordsWorker, inputs, wanted)
