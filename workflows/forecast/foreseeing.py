"""A plan before the work: refuse what cannot fit, try a little, tell what the whole takes."""

from __future__ import annotations

from pathlib import Path

from workflows.errors import BudgetError
from workflows.forecast.amounts import amounts_of, graphs_of, scope_loads
from workflows.forecast.forecasts import Forecast
from workflows.forecast.scaling import Machines, forecast
from workflows.forecast.trial import Trial, run_trial
from workflows.report.numbers import size
from workflows.settings import Settings
from workflows.stages.index import draft, refuse_too_large
from workflows.storage.run_folder import RunFolder

GRAPHS = ("class", "image")
"""Kinds of figures that show a graph."""


def foresee(settings: Settings, root: Path, machines: Machines) -> Forecast:
    """What a run will take, from a trial of it on this machine.

    Args:
        settings: of the run.
        root: its folder, which need not exist; the trial runs beside it, on the same disk.
        machines: that the run shall have.

    Raises:
        RunError: whatever the run would refuse. BudgetError: it does not fit the disk or the memory.
    """
    folder = RunFolder.claimed(root)
    drafted = draft(settings, folder)
    plan, labels = drafted.plan, drafted.index.label
    room = refuse_too_large(settings, plan, drafted.known, labels, folder, machines.node_actors(settings))
    trial = run_trial(settings, drafted, _existing(folder.root))
    graphs = graphs_of(settings, plan, drafted.known, trial.wrong) if plan.outputs else {}
    loads = scope_loads(settings, plan, drafted.known, labels)
    amounts = amounts_of(settings, plan, loads, sum(graphs.values()), _figures(graphs, trial, len(loads)))
    found = forecast(settings, plan, amounts, trial, machines, room)
    _refuse_overfull(found, settings)
    return found


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
