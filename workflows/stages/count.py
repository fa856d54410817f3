"""words/<scope>/<layer>.zarr -> cooccurrence/<scope>/<lower>__<upper>.zarr, words.parquet, exemplars.parquet
and layers.parquet."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gmm_ops.cooccurrence import SparseCounts
from workflows.images.shards import plan_shards
from workflows.plan import OUTPUT, LayerPair, LayerPlan, Plan
from workflows.stages.context import StageContext
from workflows.stages.summaries import LayerBlock, WordSummary, summary_path, write_word_tables
from workflows.stages.word_maps import ImageColumns, read_words
from workflows.storage.arrays import write_arrays
from workflows.storage.run_folder import RunFolder


@dataclass(frozen=True)
class PairBlock:
    """One block of validation images of one pair of layers: what a counting task needs, and how it counts."""

    folder: RunFolder
    scope: str
    pair: LayerPair
    first: int
    stop: int

    def count(self) -> SparseCounts:
        """Co-occurrences by predicted class (IG Eq. 5, 6 count them)."""
        predicted = torch.from_numpy(ImageColumns.read(self.folder, self.first, self.stop).predicted)
        pair = self.pair
        lower = read_words(self.folder, self.scope, pair.lower, self.first, self.stop)
        upper = (
            predicted[:, None, None]
            if pair.upper == OUTPUT
            else read_words(self.folder, self.scope, pair.upper, self.first, self.stop)
        )
        return SparseCounts.from_batch(upper, lower, pair.window, pair.upper_words, pair.lower_words, predicted)


def run(context: StageContext) -> None:
    """The stage: one Dask reduction a pair of layers, one a layer, then the tables of words, exemplars and layers."""
    plan = context.plan()
    done = context.begin(len(plan.pairs()) + len(plan.layers))
    for pair in plan.pairs():
        if pair.name not in done:
            context.finished(pair.name, {"pairs": _count_pair(context, plan, pair)})
    for layer in plan.layers:
        if layer.name not in done:
            context.finished(layer.name, {"columns": _summarise_layer(context, plan, layer)})
    write_word_tables(context.folder, context.settings, plan)


def _count_pair(context: StageContext, plan: Plan, pair: LayerPair) -> int:
    scope = context.settings.fit.scope
    blocks = [
        PairBlock(context.folder, scope, pair, max(shard.first, plan.train_images), shard.stop)
        for shard in plan_shards(plan.images, context.settings.extract.images_per_shard)
        if shard.stop > plan.train_images
    ]
    counts = context.reduce(blocks, PairBlock.count, SparseCounts.merge)
    total = counts.total(pair.upper_words, pair.lower_words)
    arrays = {name: getattr(counts, name).numpy() for name in ("group", "upper", "lower", "count")}
    attributes = {"scope": scope, "lower": pair.lower, "upper": pair.upper, "window": pair.window.to_dict()}
    path = context.folder.cooccurrence(scope, pair.lower, pair.upper)
    write_arrays(path, {"total": total.numpy(), **arrays}, attributes={**attributes, "group": "predicted class"})
    return int(total.sum())


def _summarise_layer(context: StageContext, plan: Plan, layer: LayerPlan) -> int:
    settings = context.settings
    blocks = [
        LayerBlock(
            context.folder,
            settings.fit.scope,
            layer,
            plan.train_images,
            settings.draw.exemplars,
            shard.first,
            shard.stop,
        )
        for shard in plan_shards(plan.images, settings.extract.images_per_shard)
    ]
    summary = context.reduce(blocks, LayerBlock.summarise, WordSummary.merge)
    write_arrays(summary_path(context.folder, settings.fit.scope, layer.name), summary.to_arrays())
    return int(summary.by_label.count.sum())
