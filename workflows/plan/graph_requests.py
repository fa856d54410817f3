"""Which graphs are mined with the dictionaries of which scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflows.errors import DataError
from workflows.networks.naming import shortened
from workflows.plan.requests import (
    ALL,
    MISCLASSIFIED,
    check_image_request,
    class_id,
    requested_classes,
    requested_images,
)
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import Confusions, Scope, class_scopes, split_item
from workflows.settings import Settings
from workflows.settings.graph_settings import ALL_FIGURES, ASKED_FIGURES
from workflows.storage.graphs import criterion_of
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId


@dataclass(frozen=True)
class ScopeGraphs:
    """The graphs of one scope.

    Attributes:
        scope: whose dictionaries explain them.
        classes: ids of classes that have a class graph, ascending.
        images: ids of images that have an image graph, ascending.
    """

    scope: Scope
    classes: tuple[int, ...]
    images: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.classes) + len(self.images)


@dataclass(frozen=True)
class GraphRequests:
    """Everything that ``[mine]`` asks for.

    Attributes:
        scopes: in the order of the run.
        silent: what ``all`` leaves out, as words: classes that no image of a scope is predicted as, and classes whose
            own scope cannot be fitted.
    """

    scopes: tuple[ScopeGraphs, ...]
    silent: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(graphs) for graphs in self.scopes)


def requested_graphs(settings: Settings, plan: Plan, images: ImageColumns, scopes: Sequence[Scope]) -> GraphRequests:
    """Class graphs of the requested classes and image graphs of the requested images, scope by scope.

    An image is explained by every scope that explains its prediction.

    Raises:
        DataError: a class or an image that was asked for cannot be explained by any scope.
    """
    classes, silent = requested_classes(settings.mine.classes, plan, images)
    explained = sorted({label for scope in scopes for label in scope.explains})
    chosen = np.array(requested_images(settings.mine.images, plan, images, explained=frozenset(explained)), np.int64)
    confusions, found = Confusions.of(plan, images), []
    words = [f"no validation image is predicted as {shortened(silent)}: no class graph"] if silent else []
    for lack, names in class_scopes(settings, plan, images)[1].items():
        words.append(f"scope class leaves out {shortened(names)}: {lack}")
    for scope in scopes:
        asked = sorted(set(classes) & set(scope.explains))
        kept = [label for label in asked if confusions.omega(scope, label)]
        members = chosen[np.isin(images.predicted[chosen], scope.explains)]
        found.append(ScopeGraphs(scope, tuple(kept), tuple(members.tolist())))
        if len(kept) < len(asked):
            empty = shortened([plan.class_names[label] for label in asked if label not in kept])
            words.append(f"no validation image of scope {scope.name} is predicted as {empty}: no class graph")
    if ALL not in settings.mine.classes:
        _refuse_unexplained(classes, found, plan)
    return GraphRequests(tuple(found), tuple(words))


def refuse_unexplained_names(settings: Settings, plan: Plan, known: Sequence[Scope], classes: Sequence[int]) -> None:
    """Before anything is computed: in a run of lists alone, classes that none of them names.

    Raises:
        DataError: see above.
    """
    if settings.fit.scopes == ("list",):
        every = ScopeGraphs(known[0], tuple(label for scope in known for label in scope.explains), ())
        _refuse_unexplained(classes, [every], plan)


def _refuse_unexplained(classes: Sequence[int], found: Sequence[ScopeGraphs], plan: Plan) -> None:
    explained = {label for graphs in found for label in graphs.classes}
    for label in classes:
        if label not in explained:
            raise DataError(
                f"mine.classes: no scope of the run explains {plan.class_names[label]!r}, or no validation image of "
                "its scope is predicted as it: name it in [[fit.lists]], add 'joint' or 'class' to fit.scopes, or ask "
                "for another class"
            )


@dataclass(frozen=True)
class AskedFigures:
    """Which figures of a run are drawn (``draw.figures``).

    Attributes:
        everything: all of them.
        named: those of scopes, paths and junctions that settings name: of all but the scopes of single classes.
        classes, images: ids whose figures are drawn; a class also has those of its own scope.
    """

    everything: bool
    named: bool
    classes: frozenset[int]
    images: frozenset[int]

    def has(self, item: str) -> bool:
        """Whether an item of the draw stage is asked for."""
        scope, name = split_item(item)
        _, name = criterion_of(name)
        kind, _, number = name.partition(":")
        if self.everything:
            return True
        if kind in ("class", "transitions"):
            return int(number) in self.classes
        if kind == "image":
            return int(number) in self.images
        _, of_class, label = scope.partition("class-")
        return int(label) in self.classes if of_class and label.isdecimal() else self.named


def asked_figures(settings: Settings, plan: Plan, images: ImageColumns, scopes: Sequence[Scope]) -> AskedFigures:
    """What ``draw.figures`` asks for, of a run with these scopes."""
    given = settings.draw.figures
    named = ASKED_FIGURES in given
    graphs = named_figures(given, plan)
    classes = {graph.number for graph in graphs if not graph.is_image}
    chosen = {graph.number for graph in graphs if graph.is_image}
    if named:
        explained = frozenset(label for scope in scopes for label in scope.explains)
        few = [request for request in settings.mine.images if request != MISCLASSIFIED]
        classes |= {class_id(request, plan.class_names) for request in settings.mine.classes if request != ALL}
        chosen |= set(requested_images(few, plan, images, explained=explained))
    return AskedFigures(ALL_FIGURES in given, named, frozenset(classes), frozenset(chosen))


def named_figures(given: Sequence[str], plan: Plan) -> list[GraphId]:
    """The graphs that ``draw.figures`` names, in their order.

    Raises:
        DataError: there is no such class or image.
    """
    found = []
    for request in given:
        kind, colon, of = request.partition(":")
        if colon and kind == "class":
            found.append(GraphId("class", class_id(of, plan.class_names, "draw.figures")))
        elif colon:
            check_image_request(of, plan.images, "draw.figures")
            found.append(GraphId("image", int(of)))
    return found
