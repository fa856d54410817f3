"""activations + mixtures -> words/<scope>/<layer>.zarr: the hard word of every column of every image of every scope.

With a hidden Markov model the word is that of the image's most probable path, see ``chain_words``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gmm_ops.mixture import Mixture, assign
from workflows.images.shards import Shard, plan_shards
from workflows.plan import LayerPlan, Plan
from workflows.runtime.dispatcher import map_shards
from workflows.scopes import JOINT, Scope, read_scopes
from workflows.settings import Settings
from workflows.stages.chain_words import ChainWordsWorker
from workflows.stages.context import StageContext
from workflows.stages.devices import STORAGE_DTYPES, choose_device
from workflows.stages.scope_images import ScopeImages, scopes_by_shard, shards_of
from workflows.stages.word_maps import FIELDS, ImageColumns, words_path
from workflows.storage.arrays import array_exists, create_array, read_rows, write_shard
from workflows.storage.images_table import read_image_rows
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from workflows.stages.forward import FrozenForward

Maps = dict[tuple[str, str, str], np.ndarray]
"""(scope, layer, field) -> (n, H, W), the images that the scope assigns."""


@dataclass(frozen=True)
class ShardScopes:
    """One work item: a shard of images, and the scopes that have yet to assign some of them."""

    shard: Shard
    scopes: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.shard)


class WordsWorker:
    """Runs in an actor: one shard of images in, one whole Zarr shard of word maps out for every scope and layer.

    Columns are read once for all scopes: back from the disk when all of them were stored, else from the network,
    which runs again; both give the columns in the storage dtype, so the words are the same.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, scopes: Sequence[Scope]) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.scopes = {scope.name: scope for scope in scopes}
        self.device = choose_device(settings.runtime.device)
        self.forward = None if plan.stores_everything else _forward(settings, plan, folder)
        self.mixtures: dict[tuple[str, str], Mixture] = {}

    def __call__(self, item: ShardScopes) -> dict[str, Any]:
        """Assign and write; the tiles of a shard never depend on who works on it, nor on the other scopes."""
        shard = item.shard
        images = ImageColumns.read(self.folder, shard.first, shard.stop)
        assigned = {name: np.flatnonzero(self.scopes[name].assigns(images)) for name in item.scopes}
        self._load(item.scopes)
        broken = self._broken(shard)
        for layers, batches in self._columns(shard):
            maps = _empty_maps(layers, {name: len(rows) for name, rows in assigned.items()})
            for first, layer, columns in batches:
                for name, rows in assigned.items():
                    self._assign(name, layer, columns, rows, first - shard.first, maps)
            for (name, layer_name, field), values in maps.items():
                block = _whole_shard(len(shard), assigned[name], values, field)
                if field == "word":
                    block[broken] = -1
                write_shard(words_path(self.folder, name, layer_name, field), shard.first, block)
        return {"images": len(shard), "scopes": list(item.scopes)}

    def _load(self, scopes: Sequence[str]) -> None:
        """Hold the dictionaries of these scopes and no others: a thousand of them may not fit."""
        wanted = [(name, layer.name) for name in scopes for layer in self.plan.layers]
        self.mixtures = {
            key: self.mixtures.get(key) or load_mixture(self.folder.mixture(*key)).to(self.device) for key in wanted
        }

    def _broken(self, shard: Shard) -> Bool[np.ndarray, " N"]:
        status = read_image_rows(self.folder.images_table, shard.first, shard.stop, ["status"])["status"]
        return np.array([value != "ok" for value in status.to_pylist()])

    def _columns(self, shard: Shard) -> Iterator[tuple[Sequence[LayerPlan], Iterator[tuple[int, LayerPlan, Tensor]]]]:
        """Groups of layers whose maps are held at once, each with its batches (first image, layer, columns)."""
        if self.forward is not None:
            yield self.plan.layers, self._recomputed(self.forward, shard)
            return
        for layer in self.plan.layers:
            yield [layer], self._stored(shard, layer)

    def _recomputed(self, forward: FrozenForward, shard: Shard) -> Iterator[tuple[int, LayerPlan, Tensor]]:
        for batch in forward(shard):
            for layer in self.plan.layers:
                yield batch.first, layer, batch.columns[layer.name]

    def _stored(self, shard: Shard, layer: LayerPlan) -> Iterator[tuple[int, LayerPlan, Tensor]]:
        step = self.settings.extract.batch
        block = read_rows(self.folder.activations(layer.name), shard.first, shard.stop)
        for start in range(0, len(block), step):
            yield shard.first + start, layer, torch.from_numpy(block[start : start + step]).to(self.device)

    def _assign(
        self, scope: str, layer: LayerPlan, columns: Tensor, rows: Int[np.ndarray, " n"], row: int, maps: Maps
    ) -> None:
        """Words of the images of a batch that the scope assigns; the batch begins at ``row`` of the shard."""
        start, stop = np.searchsorted(rows, [row, row + len(columns)])
        if stop == start:
            return
        if stop - start < len(columns):
            columns = columns[torch.from_numpy(rows[start:stop] - row).to(columns.device)]
        # Through the storage dtype, so that recomputed columns give the words that stored ones do.
        stored = columns.to(STORAGE_DTYPES[self.settings.extract.dtype])
        found = assign(self.mixtures[scope, layer.name], stored.reshape(-1, layer.units).float())
        for field in FIELDS:
            values = getattr(found, field).cpu().numpy().reshape(len(columns), layer.height, layer.width)
            maps[scope, layer.name, field][start:stop] = values


def _empty_maps(layers: Sequence[LayerPlan], images: dict[str, int]) -> Maps:
    return {
        (scope, layer.name, field): np.zeros((count, layer.height, layer.width), dtype)
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


def fill_value(field: str) -> int:
    """Of images that a scope does not assign."""
    return -1 if field == "word" else 0


def _forward(settings: Settings, plan: Plan, folder: RunFolder) -> FrozenForward:
    # Late, because torchvision costs an actor a second and stored columns need no network.
    from workflows.stages.forward import FrozenForward

    return FrozenForward(settings, plan, folder)


def create_word_maps(
    settings: Settings, plan: Plan, folder: RunFolder, scope: str = JOINT, filled_shards: Sequence[int] | None = None
) -> None:
    """Preallocate the arrays of every layer that are not there yet; ``filled_shards``: see ``create_array``."""
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
    wanted = scopes_by_shard(shards.items())
    done = context.begin(len(wanted))
    left = []
    for shard in plan_shards(plan.images, size):
        earlier = done.get(shard.index, {}).get("scopes", [])
        missing = tuple(name for name in wanted.get(shard.index, []) if name not in earlier)
        if missing:
            left.append(ShardScopes(shard, missing))
    context.progress.start(len(wanted), len(wanted) - len(left))
    inputs = {"settings": context.worker_settings(), "plan": plan, "folder": folder, "scopes": scopes}

    def finish(item: ShardScopes, record: dict[str, Any]) -> None:
        before = done.get(item.shard.index, {}).get("scopes", [])
        context.finished(item.shard.index, record | {"scopes": [*before, *record["scopes"]]})

    map_shards(
        WordsWorker,
        inputs,
        left,
        context.pool(len(left)),
        on_done=finish,
        on_failure=lambda item, reason, last: context.failed(item.shard.index, reason, last),
    )
