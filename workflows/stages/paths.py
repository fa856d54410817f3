"""path_parts -> paths.parquet, transitions.parquet, triage.parquet, junctions.parquet, where the run has an HMM."""

from __future__ import annotations

import torch

from workflows.context import StageContext
from workflows.data.shards import plan_shards
from workflows.plan.run_plan import Plan
from workflows.storage.chains import chain_path, load_chain
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import JOINT
from workflows.storage.tables import join_parts, write_table
from workflows.words.chain_words import path_part
from workflows.words.path_tables import junction_rows, transition_table, triage_table
from workflows.words.triage import PathCounts, TriageBlock, Triaged, branches_path


def run(context: StageContext) -> None:
    """The stage: nothing without an [hmm] section; else two passes over the words, and a table from each."""
    if context.settings.hmm is None:
        context.begin(0)
        return
    plan = context.plan()
    steps = {"paths": _join_paths, "branches": _count_branches, "transitions": _write_transitions, "triage": _triage}
    done = context.begin(len(steps))
    for name, step in steps.items():
        if name not in done:
            context.finished(name, step(context, plan))


def _join_paths(context: StageContext, plan: Plan) -> dict[str, int]:
    shards = plan_shards(plan.images, context.settings.extract.images_per_shard)
    parts = [path_part(context.folder, shard) for shard in shards]
    return {"rows": join_parts(context.folder.table("paths"), parts, "paths")}


def _count_branches(context: StageContext, plan: Plan) -> dict[str, int]:
    """First pass. The counts wait on disk: every task of the second pass reads them."""
    counts = context.reduce(_blocks(context, plan), TriageBlock.count, PathCounts.merge)
    counts.save(branches_path(context.folder))
    return {"correct": int(counts.own.levels[0].count.sum())}


def _write_transitions(context: StageContext, plan: Plan) -> dict[str, int]:
    scope = JOINT
    counts = PathCounts.load(branches_path(context.folder))
    table = transition_table(plan, scope, load_chain(chain_path(context.folder, scope)).chain, counts)
    write_table(context.folder.table("transitions"), table, "transitions", network=context.settings.name)
    return {"rows": len(table)}


def _triage(context: StageContext, plan: Plan) -> dict[str, int]:
    """Second pass, which needs all counts of the first."""
    settings, folder = context.settings, context.folder
    threads = torch.get_num_threads()
    try:
        found = context.reduce(_blocks(context, plan), TriageBlock.judge, Triaged.merge)
    finally:
        torch.set_num_threads(threads)
    images = ImageColumns.read(folder, 0, plan.images)
    validation = PathCounts.load(branches_path(folder)).validation
    triage = triage_table(plan, JOINT, found, images)
    junctions = junction_rows(plan, JOINT, found, images, validation)
    write_table(folder.table("triage"), triage, "triage", network=settings.name)
    write_table(folder.table("junctions"), junctions, "junctions", network=settings.name)
    return {"errors": len(triage), "junctions": len(junctions)}


def _blocks(context: StageContext, plan: Plan) -> list[TriageBlock]:
    shards = plan_shards(plan.images, context.settings.extract.images_per_shard)
    return [TriageBlock(context.settings, context.folder, plan, shard) for shard in shards]
