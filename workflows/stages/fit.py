"""activations/<layer>.zarr -> mixtures/<scope>/, history.parquet: a dictionary a scope and layer, or one chain.

Dictionaries are fitted by online EM; with the discriminative loss they are trained on by gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from workflows.context import StageContext
from workflows.fits.chain_fit import ChainFit, restart_name
from workflows.fits.chain_input import refuse_too_few_images, silent_units, silent_warning
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.fits.fit_history import history_path
from workflows.fits.layer_fit import LayerFit
from workflows.fits.scope_checks import check_scopes
from workflows.fits.sliced_fit import SlicedFit
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope_sizes import scope_sizes
from workflows.plan.scopes import JOINT, Scope, item_name, plan_scopes, write_scopes
from workflows.runtime.fit_group import FitJob, run_fits, slots_now
from workflows.runtime.generation import GroupSettings
from workflows.settings import FitSettings
from workflows.storage.chains import chain_path, load_chain, save_chain
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import join_parts
from workflows.words.sliced_words import remove_slices


def run(context: StageContext) -> None:
    """The stage: groups of actors do the fits that are not done yet, as many at once as the cluster holds."""
    if context.settings.hmm is None:
        _fit_layers(context, context.plan())
    else:
        _fit_chain(context, context.plan(), context.settings.hmm.restarts, context.settings.hmm.clamp)


def _fit_layers(context: StageContext, plan: Plan) -> None:
    """A mixture for every scope and layer: one job each, so that they fill the cluster whatever their order."""
    settings, folder = context.settings, context.folder
    images = ImageColumns.read(folder, 0, plan.images)
    scopes = plan_scopes(settings, plan, images)
    fits = {item_name(scope.name, layer.name): (scope, layer) for scope in scopes for layer in plan.layers}
    if fits.keys() - context.ledger.items().keys():
        # Before anything is written: a request that is refused leaves the run as it was.
        for words in check_scopes(context, plan, scopes, images):
            context.warn(words)
    write_scopes(folder, scopes)
    done = context.begin(len(fits), fits)
    for name, (scope, layer) in fits.items():
        if name in done:
            _remove_checkpoint(folder.fit_state(scope.name, layer.name))
    sizes = scope_sizes(settings, plan, scopes, images.label[: plan.train_images])
    of_scope = {size.scope.name: size.all for size in sizes}
    left = [fit for name, fit in fits.items() if name not in done]
    left.sort(key=lambda fit: _cost(of_scope[fit[0].name], fit[1]), reverse=True)
    _run_jobs(context, [_job(context, plan, scope, layer) for scope, layer in left], "a column", context.finished)
    join_history(folder, sorted((scope.name, layer.name) for scope, layer in fits.values()))


def _worker(fit: FitSettings) -> Callable[..., Any]:
    if fit.word_slices > 1:
        return SlicedFit
    return LayerFit if fit.loss == "generative" else DiscriminativeFit


def _job(context: StageContext, plan: Plan, scope: Scope, layer: LayerPlan) -> FitJob:
    checkpoint = context.folder.fit_state(scope.name, layer.name)
    inputs = _inputs(context, plan, scope=scope, layer=layer)
    return FitJob(item_name(scope.name, layer.name), _worker(context.settings.fit), checkpoint, inputs)


def _cost(images: int, layer: LayerPlan) -> int:
    """Roughly how long a fit takes: the long ones go first, so that no actor waits for one at the end."""
    return images * layer.stored * layer.units * layer.words


def _fit_chain(context: StageContext, plan: Plan, restarts: int, clamp: float) -> None:
    """One hidden Markov model: all its starts, of which the one with the best held-out likelihood is kept."""
    folder, scope = context.folder, JOINT
    names = [restart_name(restart) for restart in range(restarts)]
    done = context.begin(restarts)
    for restart, name in enumerate(names):
        if f"restart {restart}" in done:
            _remove_checkpoint(folder.fit_state(scope, name))
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
    join_history(folder, [(scope, name) for name in names])
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
    group = _fit_group(context)
    checkpoints = {job.name: job.checkpoint for job in jobs}

    def finish(name: str, record: dict[str, Any]) -> None:
        finished(name, record)
        _remove_checkpoint(checkpoints[name])

    assert context.offered is not None
    run_fits(
        jobs,
        group,
        slots_now(group, context.offered, context.settings.runtime.actors),
        on_progress=partial(_show, context, {}, each),
        on_result=finish,
        on_restart=lambda name, reason: context.warn(f"fit {name} goes on from its checkpoint: {reason}"),
    )


def _show(context: StageContext, seen: dict[str, int], each: str, name: str, progress: dict[str, Any]) -> None:
    """Move the bar. seen: columns of every fit when it was last heard of; at first those of an earlier command."""
    columns = progress.get("columns", 0)
    share = progress["step"] / max(1, progress["steps"])
    if context.settings.fit.loss == "discriminative" and context.settings.hmm is None:
        share = (share + (progress.get("phase") == "discriminative")) / 2
    context.progress.at_work(name, 1.0 if progress["done"] else min(share, 0.99), columns - seen.get(name, columns))
    seen[name] = columns
    context.progress.note(_line(name, progress, each))


def _remove_checkpoint(checkpoint: Path) -> None:
    """Of a fit that is in the ledger. A driver may be killed in between, so the stage does it again when it begins."""
    checkpoint.unlink(missing_ok=True)
    remove_slices(checkpoint)


def _fit_group(context: StageContext) -> GroupSettings:
    fit, slices = context.settings.fit, context.settings.fit.word_slices
    segment = min(10, fit.checkpoint_steps)
    if slices > 1:
        # Sliced words are written at the end of every segment, and are of use only with a checkpoint.
        return group_settings(context, slices, segment, segment)
    return group_settings(context, context.settings.runtime.fit_actors, segment, fit.checkpoint_steps)


def group_settings(context: StageContext, actors: int, segment_steps: int, checkpoint_steps: int) -> GroupSettings:
    """Of fit groups of so many actors, with the cores, threads and attempts of the run's settings."""
    pool, runtime = context.pool(actors), context.settings.runtime
    return GroupSettings(
        n_actors=actors,
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        threads=runtime.threads,
        segment_steps=segment_steps,
        checkpoint_steps=checkpoint_steps,
        max_attempts=runtime.max_attempts,
        retry_wait_s=runtime.retry_wait_s,
        segment_timeout_s=runtime.hung_after_s,
        beat=context.beat,
        alone=pool.alone,
    )


def _line(name: str, progress: dict[str, Any], each: str) -> str:
    at = f"{name} step {progress['step']} of {progress['steps']}"
    if progress.get("phase") == "discriminative":
        return f"{at}, loss {progress['loss']:.3f} nats an image"
    return f"{at}, held-out {progress['held_out']:.3f} nats {each}"


def join_history(folder: RunFolder, fits: Iterable[tuple[str, str]]) -> None:
    """Write history.parquet from the parts of fits.

    fits: scope, and layer or file of the start, in the order of the table's sort key; a part is sorted in itself.
    """
    join_parts(folder.table("history"), [history_path(folder, *fit) for fit in fits], "history")
