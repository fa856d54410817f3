"""cooccurrence, effects -> nodes, edges, heatmaps, pairs.parquet: Algorithm 1 for every requested class and image.

A graph is mined with the counts of every scope that explains it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack

import pyarrow as pa

from workflows.context import StageContext
from workflows.networks.naming import shortened
from workflows.plan.graph_requests import GraphRequests, ScopeGraphs, requested_graphs
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import joint_scope, read_scopes
from workflows.storage.fields import EFFECT, LIKELIHOOD
from workflows.storage.images_table import ImageColumns
from workflows.storage.keyed_rows import KeyedRows, keyed_rows
from workflows.storage.log_unit import LOG_UNIT
from workflows.storage.tables import write_parts
from workflows.words.mining import (
    ScopeCounts,
    count_offsets,
    dominant_classes,
    edge_rows,
    heatmap_rows,
    mined_graphs,
    node_rows,
)
from workflows.words.pair_table import pair_tables
from workflows.words.scope_effects import ScopeEffects
from workflows.words.scope_images import ScopeImages
from workflows.words.sureness import scope_intervals, scope_stability

GRAPHS_AT_ONCE = 256
"""Graphs whose images are passed over at once for their histograms, which are in memory."""

_TABLES = ("nodes", "edges", "heatmaps")


def run(context: StageContext) -> None:
    """The stage: for every scope, mine its graphs and pass over their images' word maps for the offset histograms."""
    plan, settings, folder = context.plan(), context.settings, context.folder
    images = ImageColumns.read(folder, 0, plan.images)
    scopes = (joint_scope(plan),) if settings.hmm is not None else read_scopes(folder)
    asked = requested_graphs(settings, plan, images, scopes)
    for words in asked.silent:
        context.warn(words)
    context.begin(len(asked) * len(settings.mine.criteria))
    metadata = {"log_base": f"{LOG_UNIT.base:g}"}
    with ExitStack() as stack:
        rows = {name: stack.enter_context(keyed_rows(folder.table(name), name)) for name in _TABLES}
        pairs = _mine_scopes(context, plan, images, asked, rows)
        if settings.count.pairs == "none":
            deque(pairs, maxlen=0)
            folder.table("pairs").unlink(missing_ok=True)
        else:
            write_parts(folder.table("pairs"), pairs, "pairs", network=settings.name, metadata=metadata)
        for name, found in rows.items():
            write_parts(folder.table(name), found.in_order(), name, network=settings.name, metadata=metadata)


def _mine_scopes(
    context: StageContext, plan: Plan, images: ImageColumns, asked: GraphRequests, rows: dict[str, KeyedRows]
) -> Iterator[pa.Table]:
    """Mine scope after scope, by name, and give the parts of `pairs` of each: its counts are read once."""
    members, pairs = ScopeImages(images), context.settings.count.pairs
    places = {graphs.scope.name: place for place, graphs in enumerate(asked.scopes)}
    for graphs in sorted(asked.scopes, key=lambda graphs: graphs.scope.name):
        if not len(graphs) and pairs == "none":
            continue
        counted = ScopeCounts.load(context.folder, context.settings, plan, graphs.scope.name)
        if len(graphs):
            _mine_scope(context, counted, images, members, graphs, places[graphs.scope.name], rows)
        if pairs != "none":
            yield from pair_tables(counted, pairs == "per_class", scope_intervals(counted, context.settings))


def _mine_scope(
    context: StageContext,
    counted: ScopeCounts,
    images: ImageColumns,
    members: ScopeImages,
    graphs: ScopeGraphs,
    place: int,
    rows: dict[str, KeyedRows],
) -> None:
    """Add the rows of one scope's graphs, by graph and the place of the scope: tables are sorted by graph.

    Some graphs at a time, since histograms and rows of a graph take half a megabyte.
    """
    dominant = dominant_classes(context.folder, counted.scope)
    intervals, stability = scope_intervals(counted, context.settings), scope_stability(counted, context.settings)
    effects = _effects(context, counted.plan, images, graphs)
    mined = mined_graphs(counted, context.settings, images, members.members(graphs.scope), graphs, stability, effects)
    while found := list(itertools.islice(mined, GRAPHS_AT_ONCE)):
        histograms = count_offsets(context, counted.plan, images, counted.scope, found)
        for one in found:
            key = (one.name, place, one.criterion != LIKELIHOOD)
            rows["nodes"].add(key, node_rows(one, counted, dominant))
            rows["edges"].add(key, edge_rows(one, counted, intervals))
            rows["heatmaps"].add(key, heatmap_rows(one, counted, histograms))
        context.progress.advance(len(found))


def _effects(context: StageContext, plan: Plan, images: ImageColumns, graphs: ScopeGraphs) -> ScopeEffects | None:
    if EFFECT not in context.settings.mine.criteria:
        return None
    effects = ScopeEffects.of(context.folder, context.settings, plan, graphs.scope, images)
    without = sorted(set(graphs.images) - set(effects.images.tolist()))
    if without:
        told = shortened([str(image) for image in without])
        context.warn(f"scope {graphs.scope.name} has no effects on images {told}, of training: no graph by effect")
    return effects
