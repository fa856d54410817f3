"""cooccurrence -> nodes, edges, heatmaps, pairs.parquet: Algorithm 1 for every requested class and image.

A graph is mined with the counted of every scope that explains it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from workflows.context import StageContext
from workflows.plan.graph_requests import ScopeGraphs, requested_graphs
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import joint_scope, read_scopes
from workflows.storage.images_table import ImageColumns
from workflows.storage.log_unit import LOG_UNIT
from workflows.storage.tables import to_table, write_parts, write_table
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
from workflows.words.scope_images import ScopeImages
from workflows.words.sureness import scope_intervals, scope_stability

GRAPHS_AT_ONCE = 256
"""Graphs whose rows are in memory as Python objects; of the others there are Arrow tables, a quarter the size."""


def run(context: StageContext) -> None:
    """The stage: for every scope, mine its graphs and pass over their images' word maps for the offset histograms."""
    plan, settings, folder = context.plan(), context.settings, context.folder
    images = ImageColumns.read(folder, 0, plan.images)
    scopes = (joint_scope(plan),) if settings.hmm is not None else read_scopes(folder)
    asked = requested_graphs(settings, plan, images, scopes)
    for words in asked.silent:
        context.warn(words)
    context.begin(len(asked))
    members = ScopeImages(images)
    tables: dict[str, list[pa.Table]] = {name: [to_table([], name)] for name in ("nodes", "edges", "heatmaps")}
    for graphs in asked.scopes:
        for found in _mine_scope(context, plan, images, members, graphs):
            for name, rows in found.items():
                tables[name].append(to_table(rows, name))
    metadata = {"log_base": f"{LOG_UNIT.base:g}"}
    for name, parts in tables.items():
        rows = pa.concat_tables(parts).drop_columns("network")
        write_table(folder.table(name), rows, name, network=settings.name, metadata=metadata)
    if settings.count.pairs == "none":
        folder.table("pairs").unlink(missing_ok=True)
        return
    names = sorted(scope.name for scope in scopes)
    every = (ScopeCounts.load(folder, settings, plan, name) for name in names)
    per_class = settings.count.pairs == "per_class"
    of_scopes = (pair_tables(one, per_class, scope_intervals(one, settings)) for one in every)
    pairs = itertools.chain.from_iterable(of_scopes)
    write_parts(folder.table("pairs"), pairs, "pairs", network=settings.name, metadata=metadata)


def _mine_scope(
    context: StageContext, plan: Plan, images: ImageColumns, members: ScopeImages, graphs: ScopeGraphs
) -> Iterator[dict[str, Iterator[dict[str, Any]]]]:
    """Rows of the tables, of one scope, some graphs at a time: histograms and rows of a graph take half a megabyte."""
    if not len(graphs):
        return
    scope = graphs.scope
    counted = ScopeCounts.load(context.folder, context.settings, plan, scope.name)
    dominant = dominant_classes(context.folder, scope.name)
    intervals, stability = scope_intervals(counted, context.settings), scope_stability(counted, context.settings)
    mined = mined_graphs(counted, context.settings, images, members.members(scope), graphs, stability)
    while found := list(itertools.islice(mined, GRAPHS_AT_ONCE)):
        histograms = count_offsets(context, plan, images, scope.name, found)
        yield {
            "nodes": (row for one in found for row in node_rows(one, counted, dominant)),
            "edges": (row for one in found for row in edge_rows(one, counted, intervals)),
            "heatmaps": (row for one in found for row in heatmap_rows(one, counted, histograms)),
        }
        context.progress.advance(len(found))
