"""A plan before the work: refuse what cannot fit, try a little, tell what the whole takes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from workflows.data.datasets import index_images
from workflows.data.indexed_pictures import find_states
from workflows.errors import BudgetError, SettingsError
from workflows.forecast.amounts import amounts_of, graphs_of, scope_loads
from workflows.forecast.forecasts import Forecast
from workflows.forecast.scaling import Machines, forecast
from workflows.forecast.trial import Trial, run_trial
from workflows.plan.run_inputs import with_fetched_weights
from workflows.plan.run_plan import Plan
from workflows.report.numbers import size
from workflows.settings import Settings
from workflows.stages.index import Draft, Labels, draft, refuse_too_large
from workflows.storage.fields import EFFECT
from workflows.storage.run_folder import RunFolder

GRAPHS = ("class", "image", EFFECT)
"""Kinds of figures that show a graph."""


@dataclass(frozen=True)
class Meant:
    """Images that a run shall have, where those that are there are only some like them.

    Attributes:
        images: of both splits, evenly spread over the classes; None: those that are there.
        classes: that have images; None: those that have some.
    """

    images: int | None = None
    classes: int | None = None

    def __call__(self, settings: Settings, plan: Plan, labels: Labels) -> tuple[Plan, Labels]:
        """A plan with these images and the class of each, the training images first.

        Raises:
            SettingsError: more classes than the network has outputs, or than images.
        """
        there = np.unique(labels[labels >= 0])
        classes = self.classes or len(there)
        if classes > len(plan.class_names):
            raise SettingsError(
                f"--classes: must be at most {len(plan.class_names)}, the outputs of the network, got {classes}"
            )
        images = self.images or plan.images
        drawn = settings.data.source in ("folders", "crops", "digits", "scenes") and not settings.data.validation
        share = settings.data.validation_fraction if drawn else 1 - plan.train_images / plan.images
        validation = max(1, round(images * share))
        if images - validation < classes:
            raise SettingsError(f"--images: must leave each of {classes} classes an image to train with, got {images}")
        ids = there if classes == len(there) else np.arange(classes)
        spread = [np.sort(np.resize(ids, count)) for count in (images - validation, validation)]
        every = np.concatenate(spread).astype(labels.dtype) if len(there) else np.full(images, -1, labels.dtype)
        return replace(plan, images=images, train_images=images - validation), every


_LISTINGS = 3
"""Of them the fastest: what the first of few images takes is not taken again a million times."""


def foresee(settings: Settings, root: Path, machines: Machines, meant: Meant | None = None) -> Forecast:
    """What a run will take, from a trial of it on this machine.

    Args:
        settings: of the run.
        root: its folder, which need not exist; the trial runs beside it, on the same disk.
        machines: that the run shall have.
        meant: images that it shall have instead of those that are there.

    Raises:
        RunError: whatever the run would refuse. BudgetError: it does not fit the disk or the memory.
    """
    with tempfile.TemporaryDirectory(prefix="weights-") as place:
        there = with_fetched_weights(settings, RunFolder(Path(place)))
        return _foresee(there, RunFolder.claimed(root), machines, meant)


def _foresee(settings: Settings, folder: RunFolder, machines: Machines, meant: Meant | None) -> Forecast:
    started = time.perf_counter(), time.process_time()
    drafted = draft(settings, folder, None if meant is None else partial(meant, settings))
    plan, labels = drafted.plan, drafted.labels
    # Threads may take more of the processor's time than of the clock's, other work on the machine less.
    indexing = min(time.perf_counter() - started[0], time.process_time() - started[1])
    indexing += _listing_seconds(settings, drafted) * (plan.images - len(drafted.index))
    actors = machines.node_actors(settings)
    room = refuse_too_large(settings, plan, drafted.known, labels, folder, actors, machines.free_disk)
    trial = run_trial(settings, drafted, _existing(folder.root))
    graphs = graphs_of(settings, plan, drafted.known, trial.wrong) if plan.outputs else {}
    loads = scope_loads(settings, plan, drafted.known, labels)
    amounts = amounts_of(settings, plan, loads, sum(graphs.values()), _figures(graphs, trial, len(loads)))
    found = forecast(settings, plan, amounts, trial, machines, room, indexing)
    if meant is not None:
        told = f"{plan.images:,} images of {len(np.unique(labels)):,} classes"
        told = f"{told}, like the {len(drafted.index):,} of {settings.data.source} that are there"
        found = replace(found, assumptions=(told, *found.assumptions))
    _refuse_overfull(found, settings)
    return found


def _listing_seconds(settings: Settings, drafted: Draft) -> float:
    """For an image more in the index: to find it, and to look at its file."""
    if drafted.plan.images == len(drafted.index):
        return 0.0
    found = []
    for _ in range(_LISTINGS):
        started = time.process_time()
        find_states(settings.data, index_images(settings.data, settings.seed).path.tolist())
        found.append(time.process_time() - started)
    return min(found) / len(drafted.index)


def _figures(graphs: dict[str, int], trial: Trial, scopes: int) -> dict[str, int]:
    """Figures by kind: one a graph, and the others of the trial for every scope."""
    others = {kind: count * scopes for kind, count in trial.amounts.figures.items() if kind not in GRAPHS}
    return {kind: count for kind, count in (graphs | others).items() if count}


def _refuse_overfull(found: Forecast, settings: Settings) -> None:
    """The check before a run knows the large artefacts only; figures of many graphs can be more."""
    needed = int(found.size * settings.runtime.disk_margin)
    if needed > found.disk_there:
        raise BudgetError(
            f"the run will write {size(found.size)}, with runtime.disk_margin {size(needed)}, and "
            f"{size(found.disk_there)} are free: ask for fewer graphs (mine.classes, mine.images) or scopes "
            "(fit.scopes), lower data.max_train or extract.columns_per_image, or give an --out on a larger disk"
        )


def _existing(folder: Path) -> Path:
    place = folder.parent
    while not place.exists():
        place = place.parent
    return place
