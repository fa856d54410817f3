"""Tables and images -> figures/ and pictures/: graphs, similarity matrices, paths and fits, each as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workflows.plan import Plan
from workflows.report.fit_figure import draw_fit_figure
from workflows.runtime.dispatcher import map_shards
from workflows.settings import Settings
from workflows.stages.context import StageContext
from workflows.stages.draw_graphs import GraphDrawWorker
from workflows.stages.draw_layers import SIMILARITY, SimilarityDrawWorker
from workflows.stages.draw_transitions import TransitionDrawWorker, transition_items
from workflows.storage.graphs import graph_names
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

FigureWorker = Callable[[str], dict[str, Any]]


def _path_worker(settings: Settings, plan: Plan, folder: RunFolder) -> FigureWorker:
    # Late, as in figure_items: these figures take scikit-learn, which costs a process a second.
    from workflows.stages.draw_paths import PathDrawWorker

    return PathDrawWorker(settings, plan, folder)


WORKERS: dict[str, Callable[[Settings, Plan, RunFolder], FigureWorker]] = {
    "class": GraphDrawWorker,
    "image": GraphDrawWorker,
    "path": _path_worker,
    "junction": _path_worker,
    "transitions": TransitionDrawWorker,
    SIMILARITY: SimilarityDrawWorker,
}
"""Who draws an item, by what stands before its colon."""


class DrawWorker:
    """Runs in an actor: one figure in, its pictures and both its files out."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self._inputs = (settings, plan, folder)
        self._built: dict[Callable[..., FigureWorker], FigureWorker] = {}

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save; what a kind of figure needs is read when the first of them comes."""
        kind = WORKERS[item.partition(":")[0]]
        if kind not in self._built:
            self._built[kind] = kind(*self._inputs)
        return self._built[kind](item)


def figure_items(folder: RunFolder, settings: Settings, plan: Plan) -> list[str]:
    """Every figure of the run but that of the fits: graphs, and with a hidden Markov model paths and their classes."""
    items = [*graph_names(folder.root, settings.fit.scope), SIMILARITY]
    if settings.hmm is not None:
        from workflows.stages.draw_paths import path_items

        items += [*path_items(folder, settings, plan), *transition_items(folder, settings, plan)]
    return items


def run(context: StageContext) -> None:
    """The stage: what has no figure goes to actors; then the curves of the fits."""
    folder, plan = context.folder, context.plan()
    items = figure_items(folder, context.settings, plan)
    done = context.begin(len(items))
    _remove_other_figures(folder, items)
    left = [item for item in items if item not in done]
    inputs = {"settings": context.worker_settings(), "plan": plan, "folder": folder}
    map_shards(
        DrawWorker,
        inputs,
        left,
        context.pool(len(left), "figure"),
        on_done=context.finished,
        on_failure=context.failed,
    )
    titles = {layer.name: f"{layer.given} ({layer.name})" for layer in plan.layers}
    curves = folder.figures / "fit.png", folder.figures / "fit.svg"
    draw_fit_figure(read_table(folder.table("history")), *curves, scope=context.settings.fit.scope, layer_titles=titles)


def _remove_other_figures(folder: RunFolder, items: Sequence[str]) -> None:
    """Figures that an earlier [mine], [draw] or [triage] asked for and this one does not."""
    kept = {folder.figure(item, "png").stem for item in items}
    for kind in WORKERS:
        for path in folder.figures.glob(f"{kind}-*.*"):
            if path.stem not in kept:
                path.unlink()
