"""Tables and images -> figures/ and pictures/: graphs, similarity matrices, paths and fits, each as PNG and SVG."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workflows.context import StageContext
from workflows.errors import DataError
from workflows.figures.draw_graphs import FIT, SIMILARITY, FitDrawWorker, GraphDrawWorker, SimilarityDrawWorker
from workflows.plan.graph_requests import asked_figures, named_figures
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import item_name, joint_scope, read_scopes, split_item
from workflows.runtime.dispatcher import map_shards
from workflows.settings import Settings
from workflows.storage.fields import EFFECT
from workflows.storage.graphs import criterion_of, graph_item, scoped_graphs
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import JOINT, slug
from workflows.storage.run_folder import RunFolder

BOXES = ("boxes", "parts")
"""What the study ``boxes`` writes, now and when its command was called parts."""

FigureWorker = Callable[[str], dict[str, Any]]


def _path_worker(settings: Settings, plan: Plan, folder: RunFolder) -> FigureWorker:
    # Late, as in figure_items: these figures take scikit-learn, which costs a process a second.
    from workflows.figures.draw_paths import PathDrawWorker

    return PathDrawWorker(settings, plan, folder)


def _transition_worker(settings: Settings, plan: Plan, folder: RunFolder) -> FigureWorker:
    from workflows.figures.draw_paths import TransitionDrawWorker

    return TransitionDrawWorker(settings, plan, folder)


WORKERS: dict[str, Callable[[Settings, Plan, RunFolder], FigureWorker]] = {
    "class": GraphDrawWorker,
    "image": GraphDrawWorker,
    EFFECT: GraphDrawWorker,
    "path": _path_worker,
    "junction": _path_worker,
    "transitions": _transition_worker,
    SIMILARITY: SimilarityDrawWorker,
    FIT: FitDrawWorker,
}
"""Who draws an item, by what stands behind its scope and before its colon."""


class DrawWorker:
    """Runs in an actor: one figure in, its pictures and both its files out."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self._inputs = (settings, plan, folder)
        self._built: dict[Callable[..., FigureWorker], FigureWorker] = {}

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save; what a kind of figure needs is read when the first of them comes."""
        kind = WORKERS[split_item(item)[1].partition(":")[0]]
        if kind not in self._built:
            self._built[kind] = kind(*self._inputs)
        return self._built[kind](item)


def figure_items(folder: RunFolder, settings: Settings, plan: Plan) -> list[str]:
    """Every figure that the run can have, scope by scope: graphs, matrices, curves of fits; of a chain also paths."""
    scopes = [JOINT] if settings.hmm is not None else [scope.name for scope in read_scopes(folder)]
    graphs: dict[str, list[str]] = {scope: [] for scope in scopes}
    for criterion in settings.mine.criteria:
        for scope, graph in scoped_graphs(folder.root, criterion):
            graphs[scope].append(graph_item(graph, criterion))
    items = [item_name(scope, name) for scope in scopes for name in (*graphs[scope], SIMILARITY, FIT)]
    if settings.hmm is not None:
        from workflows.figures.draw_paths import path_items, transition_items

        items += [*path_items(folder, settings, plan), *transition_items(folder, settings, plan)]
    return items


def asked_items(folder: RunFolder, settings: Settings, plan: Plan) -> list[str]:
    """Those of ``figure_items`` that ``draw.figures`` asks for.

    Raises:
        DataError: a class or an image that it names has no graph.
    """
    scopes = (joint_scope(plan),) if settings.hmm is not None else read_scopes(folder)
    asked = asked_figures(settings, plan, ImageColumns.read(folder, 0, plan.images), scopes)
    items = [item for item in figure_items(folder, settings, plan) if asked.has(item)]
    found = {criterion_of(split_item(item)[1])[1] for item in items}
    for graph in named_figures(settings.draw.figures, plan):
        if str(graph) not in found:
            raise DataError(
                f"draw.figures: must name graphs of the run, got {graph}, which is not mined; ask for it with "
                f"mine.{'images' if graph.is_image else 'classes'}"
            )
    return items


def run(context: StageContext) -> None:
    """The stage: what is asked for and has no figure goes to actors."""
    folder, plan, settings = context.folder, context.plan(), context.settings
    items = asked_items(folder, settings, plan)
    if context.ledger.content().fingerprint != context.stage.fingerprint(settings) and _remove_boxes(folder):
        context.warn("boxes.parquet and its figures are of the graphs before, and are removed: run boxes again")
    done = context.begin(len(items), items)
    # What an earlier command drew of the same graphs stays, asked for or not.
    _remove_other_figures(folder, [*items, *map(str, context.ledger.items())])
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


def _remove_boxes(folder: RunFolder) -> bool:
    """What the study ``boxes`` made of the graphs and exemplars before; whether there was anything."""
    stale = [
        path
        for name in BOXES
        for path in (
            folder.table(name),
            *(place / f"{name}.{ending}" for place in _figure_folders(folder) for ending in ("png", "svg")),
        )
        if path.exists()
    ]
    for path in stale:
        path.unlink()
    shutil.rmtree(folder.root / BOXES[0], ignore_errors=True)
    return bool(stale)


def _remove_other_figures(folder: RunFolder, items: Sequence[str]) -> None:
    """Figures that an earlier [mine], [draw] or [triage] asked for and this one does not."""
    kept: dict[Path, set[str]] = {folder.figures: set()}
    for item in items:
        path = folder.figure(*_figure_key(item))
        kept.setdefault(path.parent, set()).add(path.stem)
    for place in _figure_folders(folder):
        for kind in WORKERS:
            for path in (*place.glob(f"{kind}-*.*"), *place.glob(f"{kind}.*")):
                if path.is_file() and path.stem not in kept.get(place, set()):
                    path.unlink()
        if place not in kept and not any(place.iterdir()):
            place.rmdir()


def _figure_key(item: str) -> tuple[str, str, str]:
    scope, name = split_item(item)
    return name, "png", scope


def _figure_folders(folder: RunFolder) -> list[Path]:
    """``figures`` and those in it that belong to scopes."""
    of_scopes = (slug("class-"), slug("list-"))
    inside = [path for path in folder.figures.glob("*") if path.is_dir() and path.name.startswith(of_scopes)]
    return [folder.figures, *inside]
