"""activations/<layer>.zarr -> sweep/words-<K>/, sweep.parquet: every modelled layer with several numbers of words."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from workflows.context import LAYOUT, StageContext
from workflows.errors import DataError, RunFolderError, SettingsError
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.fits.layer_fit import LayerFit
from workflows.fits.needs import memory_needs, planned_actors
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope_sizes import refuse_small_scopes, scope_sizes
from workflows.plan.scopes import Scope, joint_scope
from workflows.runtime.budget import check_memory
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.fit_group import FitJob, run_fits, slots_now
from workflows.settings import Settings
from workflows.stages.fit import group_settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table
from workflows.studies.sweep.likelihood import SweepLikelihoodWorker
from workflows.studies.sweep.rows import (
    Cell,
    Items,
    cell_folder,
    fitted_cells,
    item_of_decisions,
    sweep_folder,
    sweep_records,
)
from workflows.words.decisions import decide, decisions_part, shards_to_decide
from workflows.words.shard_names import names_left

SWEEP = "sweep"
"""Name of the ledger, the folder and the table."""

Losses = Literal["both", "generative"]

SEGMENT_STEPS = 50
"""Steps between two messages of a fit: those of small layers take milliseconds."""


@dataclass(frozen=True)
class SweepRequest:
    """What to compare.

    Attributes:
        words: numbers of words, ascending; every modelled layer is fitted with each.
        losses: ``both`` fits words by likelihood and by the labels, and measures errors; ``generative`` needs no
            labels, and measures likelihood alone.
    """

    words: tuple[int, ...]
    losses: Losses = "both"


def run(context: StageContext, request: SweepRequest) -> None:
    """Fit every cell that is not done, as many at once as the cluster holds; then likelihoods, errors, the table.

    A cell is a layer and a number of words. What an earlier call fitted with the same [fit] and [discriminative]
    settings is kept, and stands in the table beside the cells that are asked for now.

    Raises:
        DataError, SettingsError: a class has too few images for the discriminative loss; more words than columns.
    """
    plan = context.plan()
    scope = joint_scope(plan)
    refuse_impossible(context.folder, context.settings, request)
    cells = _cells(plan, request, context.ledger.items())
    fits = [cell.fitted(context.folder, plan, scope) for cell in cells] if request.losses == "both" else []
    of_shards = shards_to_decide(context.settings, plan, context.folder, fits)
    wanted = [item for cell in cells for item in (cell.name, cell.likelihood_name)]
    total = len(wanted) + len(of_shards)
    _begin(context, request, total)
    done = context.ledger.items()
    left = sum(item not in done for item in wanted) + len(names_left(of_shards, done, item_of_decisions))
    context.progress.start(total, total - left)
    longest_first = sorted(cells, key=lambda cell: _cost(cell, plan.layer(cell.layer)), reverse=True)
    _fit(context, request, plan, scope, [cell for cell in longest_first if cell.name not in done])
    _score(context, plan, [cell for cell in longest_first if cell.likelihood_name not in done])
    decisions = sweep_folder(context.folder).decisions
    decide(context, plan, fits, of_shards, decisions, item_of_decisions)
    parts = [decisions_part(decisions, index) for index in sorted(of_shards)]
    ledger, variance_of = context.ledger.items(), context.settings.fit.variance_of
    records = sweep_records(context.folder, plan, cells, ledger, scope.name, parts, variance_of)
    write_table(context.folder.table(SWEEP), records, SWEEP, network=context.settings.name)
    context.ledger.end()


def _cells(plan: Plan, request: SweepRequest, done: Items) -> list[Cell]:
    """What is asked for and what is fitted: layers from the lowest up, each with ascending numbers of words."""
    layers = [layer.name for layer in plan.layers]
    asked = {Cell(layer, words) for layer in layers for words in request.words}
    return sorted(asked.union(fitted_cells(done)), key=lambda cell: (layers.index(cell.layer), cell.words))


def sweep_fingerprint(settings: Settings, request: SweepRequest) -> str:
    """Of all settings that a cell depends on, beyond those that the run folder guards itself."""
    fit = settings.fit.model_dump(mode="json", exclude={"words", "scopes", "lists", "loss", "checkpoint_steps"})
    read = {"fit": fit, "discriminative": settings.discriminative.model_dump(mode="json"), "losses": request.losses}
    return f"{LAYOUT}:{hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]}"


def _begin(context: StageContext, request: SweepRequest, total: int) -> None:
    """Start, or return to, the sweep. Raises RunFolderError: it was made with other settings."""
    present = sweep_fingerprint(context.settings, request)
    earlier = context.ledger.content().fingerprint
    if earlier not in (None, present):
        raise RunFolderError(
            f"{str(context.folder.root)!r} holds a sweep with other [fit] or [discriminative] settings, or other "
            "--losses: give another --out, or the settings it was made with"
        )
    if earlier is None:
        shutil.rmtree(context.folder.root / SWEEP, ignore_errors=True)
    context.ledger.begin(present, total)


def refuse_impossible(folder: RunFolder, settings: Settings, request: SweepRequest) -> None:
    """What a run cannot give, by its index alone: before anything is extracted, and again when broken images are known.

    Raises:
        DataError, SettingsError: a class has too few images for the discriminative loss; more words than columns; no
            readable validation image.
        BudgetError: so many words do not fit into memory.
    """
    plan, most = Plan.read(folder), max(request.words)
    loss = "discriminative" if request.losses == "both" else "generative"
    asked = settings.model_copy(update={"fit": settings.fit.model_copy(update={"loss": loss})})
    largest = replace(plan, layers=tuple(replace(layer, words=most) for layer in plan.layers))
    images = ImageColumns.read(folder, 0, plan.train_images)
    readable = images.label[images.predicted >= 0]
    labels = readable if len(readable) else images.label
    if loss == "discriminative" and len(readable) and not _decidable(folder, plan):
        raise DataError(
            "sweep --losses both needs validation images for its errors, and none can be read: repair some, or take "
            "--losses generative"
        )
    try:
        refuse_small_scopes(asked, largest, scope_sizes(asked, largest, [joint_scope(plan)], labels))
    except (DataError, SettingsError) as error:
        told = f"sweep --words {','.join(map(str, request.words))} --losses {request.losses}: {error}"
        raise type(error)(told) from error
    needed = memory_needs(asked, largest, planned_actors(settings.runtime), len(request.words))
    check_memory(needed, limit_gb=settings.runtime.memory_gb, change="take fewer --words")


def _decidable(folder: RunFolder, plan: Plan) -> bool:
    return bool((ImageColumns.read(folder, plan.train_images, plan.images).predicted >= 0).any())


def _cost(cell: Cell, layer: LayerPlan) -> int:
    """Roughly how long a fit takes: the long ones go first, so that no actor waits for one at the end."""
    return layer.stored * layer.units * cell.words


def _fit(context: StageContext, request: SweepRequest, plan: Plan, scope: Scope, left: Sequence[Cell]) -> None:
    jobs = [_job(context, request, plan, scope, cell) for cell in left]
    checkpoints = {job.name: job.checkpoint for job in jobs}

    def show(name: str, progress: dict[str, Any]) -> None:
        context.progress.note(f"{name} {progress['phase']} step {progress['step']} of {progress['steps']}")

    def finish(name: str, record: dict[str, Any]) -> None:
        context.finished(name, record)
        checkpoints[name].unlink(missing_ok=True)

    assert context.offered is not None
    runtime, every = context.settings.runtime, context.settings.fit.checkpoint_steps
    group = group_settings(context, runtime.fit_actors, min(SEGMENT_STEPS, every), every)
    run_fits(
        jobs,
        group,
        slots_now(group, context.offered, context.settings.runtime.actors),
        on_progress=show,
        on_result=finish,
        on_restart=lambda name, reason: context.warn(f"fit {name} goes on from its checkpoint: {reason}"),
    )


def _job(context: StageContext, request: SweepRequest, plan: Plan, scope: Scope, cell: Cell) -> FitJob:
    out = cell_folder(context.folder, cell.words)
    inputs = {
        "settings": context.worker_settings(),
        "plan": plan,
        "folder": context.folder,
        "layer": replace(plan.layer(cell.layer), words=cell.words),
        "scope": scope,
        "out": out,
    }
    worker = DiscriminativeFit if request.losses == "both" else LayerFit
    return FitJob(cell.name, worker, _checkpoint(out, scope, cell), inputs)


def _checkpoint(out: RunFolder, scope: Scope, cell: Cell) -> Path:
    return out.fit_state(scope.name, cell.layer)


def _score(context: StageContext, plan: Plan, left: Sequence[Cell]) -> None:
    """Likelihood of every cell's dictionaries on all fitted and all held-out columns."""
    inputs = {"settings": context.worker_settings(), "plan": plan, "folder": context.folder}
    map_shards(
        SweepLikelihoodWorker,
        inputs,
        left,
        context.pool(len(left), "cell"),
        on_done=lambda cell, record: context.finished(cell.likelihood_name, record),
        on_failure=lambda cell, reason, last: context.failed(cell.likelihood_name, reason, last),
    )
