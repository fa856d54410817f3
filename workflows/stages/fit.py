"""activations/<layer>.zarr -> mixtures/<scope>/<layer>.npz, history.parquet: a dictionary a layer, by online EM."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from workflows.plan import Plan
from workflows.runtime.fit_group import FitJob, fit_slots, run_fits
from workflows.runtime.generation import GroupSettings
from workflows.stages.context import StageContext
from workflows.stages.layer_fit import LayerFit, history_path
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table, write_table


def run(context: StageContext) -> None:
    """The stage: groups of actors fit the layers that have no dictionary yet, as many at once as the cluster holds."""
    settings, plan, folder = context.settings, context.plan(), context.folder
    done = context.begin(len(plan.layers))
    group = _group_settings(context)
    jobs = [
        FitJob(
            layer.name,
            LayerFit,
            folder.fit_state(settings.fit.scope, layer.name),
            {"settings": context.worker_settings(), "plan": plan, "folder": folder, "layer": layer},
        )
        for layer in plan.layers
        if layer.name not in done
    ]
    assert context.offered is not None
    run_fits(
        jobs,
        group,
        fit_slots(group, context.offered),
        on_progress=lambda name, progress: context.progress.note(_line(name, progress)),
        on_result=lambda name, result: _finish(context, name, result),
        on_restart=lambda name, reason: context.warn(f"fit {name} goes on from its checkpoint: {reason}"),
    )
    join_history(folder, settings.fit.scope, plan, settings.name)


def _group_settings(context: StageContext) -> GroupSettings:
    pool, settings = context.pool(context.settings.runtime.fit_actors), context.settings
    return GroupSettings(
        n_actors=settings.runtime.fit_actors,
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        threads=settings.runtime.threads,
        segment_steps=min(10, settings.fit.checkpoint_steps),
        checkpoint_steps=settings.fit.checkpoint_steps,
        max_attempts=settings.runtime.max_attempts,
    )


def _line(name: str, progress: dict[str, Any]) -> str:
    return f"{name} step {progress['step']} of {progress['steps']}, held-out {progress['held_out']:.3f} nats a column"


def _finish(context: StageContext, name: str, result: dict[str, Any]) -> None:
    context.finished(name, result)
    context.folder.fit_state(context.settings.fit.scope, name).unlink(missing_ok=True)


def join_history(folder: RunFolder, scope: str, plan: Plan, network: str) -> None:
    """history.parquet of all layers, from the layers' own parts."""
    parts = [read_table(history_path(folder, scope, layer.name)) for layer in plan.layers]
    write_table(folder.table("history"), pa.concat_tables(parts), "history", network=network)
