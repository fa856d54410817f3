"""words/<scope>/<layer>.zarr -> cooccurrence/<scope>/<lower>__<upper>.parquet, words, exemplars and layers.parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.graphs.cooccurrence import SparseCounts
from workflows.context import StageContext
from workflows.plan.run_plan import OUTPUT, LayerPair, Plan
from workflows.plan.scopes import Scope, item_name, joint_scope, read_scopes
from workflows.settings import Settings
from workflows.storage.atomic import sync_file_system
from workflows.storage.images_table import ImageColumns
from workflows.storage.pair_counts import write_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import save_state
from workflows.words.scope_images import MemberBlock, ScopeImages, ranges_of
from workflows.words.summaries import LayerBlock, WordSummary, write_word_tables
from workflows.words.word_maps import read_member_maps

SMALL_SHARDS = 4
"""A count of no more images than so many shards hold is one block, read at once; many of them run side by side. Images,
not places: those of a class and its neighbours lie in many, and opening an array takes longer than counting a few."""

SIDE_BY_SIDE = 64
"""Small counts between two entries of the ledger."""

Record = dict[str, Any]


@dataclass(frozen=True)
class PairBlock:
    """Some validation images of one pair of layers of a scope: what a counting task needs, and how it counts."""

    folder: RunFolder
    scope: str
    pair: LayerPair
    images: MemberBlock

    def __len__(self) -> int:
        return len(self.images)

    def count(self) -> SparseCounts:
        """Co-occurrences by predicted class (IG Eq. 5, 6 count them)."""
        pair, predicted = self.pair, torch.from_numpy(self.images.predicted)
        lower, upper = self._maps(pair.lower), predicted[:, None, None]
        if pair.upper != OUTPUT:
            upper = self._maps(pair.upper)
        return SparseCounts.from_batch(upper, lower, pair.window, pair.upper_words, pair.lower_words, predicted)

    def _maps(self, layer: str) -> Int[Tensor, "n H W"]:
        return read_member_maps(self.folder, self.scope, layer, "word", self.images)


@dataclass(frozen=True)
class Count:
    """Something counted over the images of one scope, block by block, and stored.

    Attributes:
        name: its item in the ledger.
        blocks: blocks of images, at least one.
        part: what one block has. merge: what two parts have together.
        store: writes the whole; gives what the ledger keeps.
    """

    name: str
    blocks: tuple[Any, ...]
    part: Callable[[Any], Any]
    merge: Callable[[Any, Any], Any]
    store: Callable[[Any], Record]

    @property
    def images(self) -> int:
        """Images of all blocks."""
        return sum(map(len, self.blocks))


def run(context: StageContext) -> None:
    """The stage: one Dask reduction a pair of layers, one a layer, then the tables of words, exemplars and layers.

    Small reductions, those of single classes, are tasks of one reduction instead.
    """
    plan, settings, folder = context.plan(), context.settings, context.folder
    scopes = (joint_scope(plan),) if settings.hmm is not None else read_scopes(folder)
    images = ScopeImages(ImageColumns.read(folder, 0, plan.images))
    counts = {count.name: count for scope in scopes for count in counts_of(folder, settings, plan, scope, images)}
    done = context.begin(len(counts), counts)
    waiting: list[Count] = []
    for name, count in counts.items():
        if name in done:
            continue
        if len(count.blocks) > 1:
            record = count.store(context.reduce(count.blocks, count.part, count.merge))
            sync_file_system(folder.root)  # before the ledger says that they are there
            context.finished(name, record)
        else:
            waiting.append(count)
    for start in range(0, len(waiting), SIDE_BY_SIDE):
        records = context.reduce(waiting[start : start + SIDE_BY_SIDE], _whole, _joined)
        sync_file_system(folder.root)
        for name, record in records.items():
            context.finished(name, record)
    write_word_tables(folder, settings, plan, scopes)


def counts_of(folder: RunFolder, settings: Settings, plan: Plan, scope: Scope, images: ScopeImages) -> Iterator[Count]:
    """Everything that is counted for a scope."""
    sizes = settings.extract.images_per_shard, settings.extract.images_per_chunk
    members, small = images.members(scope), SMALL_SHARDS * settings.extract.images_per_shard
    validation = members[members >= plan.train_images]
    ranges = [(max(first, plan.train_images), min(stop, plan.images)) for first, stop in ranges_of(validation, *sizes)]
    counted = images.blocks(scope, ranges, small)
    for pair in plan.pairs():
        blocks = tuple(PairBlock(folder, scope.name, pair, block) for block in counted)
        store = partial(_store_pair, folder, scope.name, pair)
        yield Count(item_name(scope.name, pair.name), blocks, PairBlock.count, SparseCounts.merge, store)
    ranges = [(first, min(stop, plan.images)) for first, stop in ranges_of(members, *sizes)]
    summarised = images.blocks(scope, ranges, small)
    for layer in plan.layers:
        inputs = folder, scope.name, layer, plan.train_images, settings.draw.exemplars
        parts = tuple(LayerBlock(*inputs, block) for block in summarised)
        store = partial(_store_layer, folder, scope.name, layer.name)
        yield Count(item_name(scope.name, layer.name), parts, LayerBlock.summarise, WordSummary.merge, store)


def _store_pair(folder: RunFolder, scope: str, pair: LayerPair, whole: SparseCounts) -> Record:
    """N of a pair of layers, over S_V."""
    attributes = {"scope": scope, "lower": pair.lower, "upper": pair.upper, "window": pair.window.to_dict()}
    write_pair_counts(folder.cooccurrence(scope, pair.lower, pair.upper), whole, attributes)
    return {"pairs": int(whole.count.sum())}


def _store_layer(folder: RunFolder, scope: str, layer: str, whole: WordSummary) -> Record:
    """Words and exemplars of a layer, over S_T and S_V."""
    save_state(folder.word_summary(scope, layer), whole.to_arrays(), synced=False)
    return {"columns": int(whole.label.count.sum())}


def _whole(count: Count) -> dict[str, Record]:
    """A small count from its images to its file."""
    (block,) = count.blocks
    return {count.name: count.store(count.part(block))}


def _joined(left: dict[str, Record], right: dict[str, Record]) -> dict[str, Record]:
    return left | right
