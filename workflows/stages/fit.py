"""activations/<layer>.zarr -> mixtures/<scope>/, history.parquet: a dictionary a layer, or one chain, by online EM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from workflows.plan import Plan
from workflows.runtime.fit_group import FitJob, fit_slots, run_fits
from workflows.runtime.generation import GroupSettings
from workflows.stages.chain_fit import ChainFit, restart_name
from workflows.stages.chain_input import refuse_too_few_images, silent_units, silent_warning
from workflows.stages.context import StageContext
from workflows.stages.fit_history import history_path
from workflows.stages.layer_fit import LayerFit
from workflows.storage.chains import chain_path, load_chain, save_chain
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table, write_table


def run(context: StageContext) -> None:
    """The stage: groups of actors do the fits that are not done yet, as many at once as the cluster holds."""
    if context.settings.hmm is None:
        _fit_layers(context, context.plan())
    else:
        _fit_chain(context, context.plan(), context.settings.hmm.restarts, context.settings.hmm.clamp)


def _fit_layers(context: StageContext, plan: Plan) -> None:
    """A mixture for every layer."""
    folder, scope = context.folder, context.settings.fit.scope
    done = context.begin(len(plan.layers))
    names = [layer.name for layer in plan.layers]
    jobs = [
        FitJob(layer.name, LayerFit, folder.fit_state(scope, layer.name), _inputs(context, plan, layer=layer))
        for layer in plan.layers
        if layer.name not in done
    ]
    _run_jobs(context, jobs, "a column", context.finished)
    _join_history(folder, scope, names, context.settings.name)


def _fit_chain(context: StageContext, plan: Plan, restarts: int, clamp: float) -> None:
    """One hidden Markov model: all its starts, of which the one with the best held-out likelihood is kept."""
    folder, scope = context.folder, context.settings.fit.scope
    names = [restart_name(restart) for restart in range(restarts)]
    done = context.begin(restarts)
    jobs = [
        FitJob(f"restart {restart}", ChainFit, folder.fit_state(scope, name), _inputs(context, plan, restart=restart))
        for restart, name in enumerate(names)
        if f"restart {restart}" not in done
    ]
    if jobs:
        refuse_too_few_images(context, plan)
        silent = silent_units(context, plan)
        warning = silent_warning(silent, plan, clamp)
        if warning is not None:
            context.warn(warning)
        _run_jobs(context, jobs, "an image", lambda name, record: context.finished(name, record | {"silent": silent}))
    _join_history(folder, scope, names, context.settings.name)
    reached = [context.ledger.items()[f"restart {restart}"]["held_out"] for restart in range(restarts)]
    kept = best_restart(reached)
    save_chain(chain_path(folder, scope), load_chain(folder.mixture(scope, names[kept])))
    context.progress.note(f"restart {kept} of {restarts} kept, held-out {reached[kept]:.3f} nats an image")


def best_restart(held_out: Sequence[float]) -> int:
    """The start with the highest held-out log-likelihood, the first of equals."""
    return max(range(len(held_out)), key=lambda restart: held_out[restart])


def _inputs(context: StageContext, plan: Plan, **special: Any) -> dict[str, Any]:
    return {"settings": context.worker_settings(), "plan": plan, "folder": context.folder, **special}


def _run_jobs(
    context: StageContext, jobs: Sequence[FitJob], each: str, finished: Callable[[str, dict[str, Any]], None]
) -> None:
    """Run fits; a checkpoint goes once its fit is in the ledger. each: what a log-likelihood is the mean over."""
    group = _group_settings(context)
    checkpoints = {job.name: job.checkpoint for job in jobs}

    def finish(name: str, record: dict[str, Any]) -> None:
        finished(name, record)
        checkpoints[name].unlink(missing_ok=True)

    assert context.offered is not None
    run_fits(
        jobs,
        group,
        fit_slots(group, context.offered),
        on_progress=lambda name, progress: context.progress.note(_line(name, progress, each)),
        on_result=finish,
        on_restart=lambda name, reason: context.warn(f"fit {name} goes on from its checkpoint: {reason}"),
    )


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


def _line(name: str, progress: dict[str, Any], each: str) -> str:
    held_out = progress["held_out"]
    return f"{name} step {progress['step']} of {progress['steps']}, held-out {held_out:.3f} nats {each}"


def _join_history(folder: RunFolder, scope: str, names: Sequence[str], network: str) -> None:
    """history.parquet of all fits, from their own parts."""
    parts = [read_table(history_path(folder, scope, name)) for name in names]
    write_table(folder.table("history"), pa.concat_tables(parts), "history", network=network)
