"""Is a graph what the network does: asks the run, writes the tables, draws a page a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.trust.word_choices import judging_half
from gmm_ops.trust.word_effects import FirstOrderSums
from workflows.asking.image_parts import Phase
from workflows.asking.study import Asked, StudyContext, open_study, refuse_without_outputs
from workflows.data.image_index import balanced_rows
from workflows.errors import DataError, SettingsError
from workflows.networks.naming import shortened
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.requests import ALL, chosen_classes
from workflows.plan.scope import Scope
from workflows.plan.scopes import read_scopes
from workflows.storage.fields import EFFECT
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.studies.trust.answers import draw_and_print
from workflows.studies.trust.edges import EdgeProbes
from workflows.studies.trust.first_order import FirstOrderWorker
from workflows.studies.trust.probes import ClassProbes, plan_probes
from workflows.studies.trust.probing import ProbedImages, ProbingWorker, Tasks
from workflows.studies.trust.request import LEAST_PREDICTED, TrustRequest
from workflows.studies.trust.rows import (
    ClassFindings,
    completeness_rows,
    curve_rows,
    edge_rows,
    effect_rows,
    overall_edge_rows,
    overall_effect_rows,
)
from workflows.studies.trust.shortcuts import find_shortcuts
from workflows.studies.trust.subjects import ClassSubject, ScopeSubjects
from workflows.studies.trust.word_rows import word_effect_rows
from workflows.words.mining import ScopeCounts
from workflows.words.scope_effects import ScopeEffects
from workflows.words.scope_images import ScopeImages

TRUST = "trust"

_PASSES = 3.0
"""Forward and backward, in forward passes."""

_SELECTIONS, _SINGLE, _STEPS = 8, 50, 50
"""Of a layer, as a guess before effects are known: sets of words beside random columns, words by themselves with their
random columns, steps of curves (on half of the images); each runs the rest of the network."""

Rows = dict[str, list[dict[str, Any]]]
Effects = dict[int, list[Float[Tensor, "2 I K"]]]
"""By class, and by layer: first-order means of the choosing and the judging half."""


def run_trust(asked: Asked, request: TrustRequest) -> dict[str, Any]:
    """Write effects, effect_curves, edge_effects, completeness, word_effects, and a figure for each class.

    And shortcuts with a figure of its own, where they are asked for.

    Returns:
        The summary.

    Raises:
        RunError: as ``open_study``; a run of dense layers or without outputs, a class that too few images are predicted
            as.
    """
    settings = asked.run().settings
    refuse_without_outputs(settings, TRUST, "tells what the network's logits lose without words")
    if settings.hmm is not None:
        raise SettingsError(
            f"{TRUST}: must be asked of a run with a dictionary of columns a layer, got one with a hidden Markov model "
            "([hmm]), whose words lie in dense layers; ask a run of convolutional layers"
        )
    with open_study(TRUST, asked, request.plain(), after="mine", reads=("nodes", "edges")) as study:
        subjects = _subjects(study, request)
        phases = {scope: _phases(study, request, scope, some) for scope, some in subjects.items()}
        if study.begin(*(phase for pair in phases.values() for phase in pair)):
            found = [one for scope, some in subjects.items() for one in _ask(study, request, some, *phases[scope])]
            _write(study, request, found)
        draw_and_print(study)
        if request.shortcuts:
            find_shortcuts(study, request.interventions[0])
    return study.summary()


def _subjects(study: StudyContext, request: TrustRequest) -> dict[str, list[ClassSubject]]:
    """The classes that are asked, by the scope that explains them."""
    images = ImageColumns.read(study.folder, 0, study.plan.images)
    scopes, by_scope = {scope.name: scope for scope in read_scopes(study.folder)}, dict[str, list[tuple[int, Any]]]()
    members, few = ScopeImages(images), list[str]()
    for label in _classes(study, request, images):
        scope = study.run.scope_of(str(GraphId("class", label)))
        omega = _omega(study, members, scopes[scope], label)
        if len(omega) < LEAST_PREDICTED:
            few.append(f"{study.plan.class_names[label]} ({len(omega)})")
        else:
            by_scope.setdefault(scope, []).append((label, omega))
    _tell_few(study, request, few, bool(by_scope))
    return {scope: _of_scope(study, request, scope, images, classes) for scope, classes in by_scope.items()}


def _classes(study: StudyContext, request: TrustRequest, images: ImageColumns) -> list[int]:
    """Those that are named; of all, those that have a graph in some scope."""
    plan = study.plan
    validation = np.arange(plan.images) >= plan.train_images
    labels = np.where(validation, images.predicted, -1)
    chosen, _ = chosen_classes(request.classes, plan.class_names, labels)
    graphs = set(study.run.graphs())
    return [label for label in chosen if ALL not in request.classes or str(GraphId("class", label)) in graphs]


def _omega(study: StudyContext, images: ScopeImages, scope: Scope, label: int) -> np.ndarray:
    """Validation images of the scope that are predicted as the class, as the graph has them (IG section 3.2)."""
    if label not in scope.explains:
        raise DataError(
            f"--class: must be a class that scope {scope.name!r} explains, got {study.plan.class_names[label]!r}; ask "
            f"for another: {shortened([study.plan.class_names[one] for one in scope.explains])}"
        )
    members = images.members(scope)
    return members[(members >= study.plan.train_images) & (images.predicted(members) == label)]


def _tell_few(study: StudyContext, request: TrustRequest, few: Sequence[str], others: bool) -> None:
    """Classes of all that have too few images are left out; such a class by its name is refused."""
    if not few and others:
        return
    if not few:
        raise SettingsError("--class: must be a class that has a graph, got a run without one; name it in mine.classes")
    told = f"{LEAST_PREDICTED} validation images predicted as it, got {', '.join(few[:10])}"
    if ALL not in request.classes or not others:
        raise SettingsError(f"--class: must have at least {told}; ask for another class, or validate on more images")
    study.say(f"{TRUST}: a class must have at least {told}: left out")


def _of_scope(
    study: StudyContext, request: TrustRequest, scope: str, images: ImageColumns, classes: Sequence[tuple[int, Any]]
) -> list[ClassSubject]:
    settings = study.settings
    chosen = _limited(study, images, np.sort(np.concatenate([omega for _, omega in classes])))
    counted = ScopeCounts.load(study.folder, settings, study.plan, scope)
    known = ScopeSubjects(counted, settings, request.tops, _effects(study, scope, images))
    own = {label: omega[np.isin(omega, chosen)] for label, omega in classes}
    halves = {label: judging_half(omega, settings.seed) for label, omega in own.items()}
    _refuse_empty_half(study, halves)
    return [known.subject(label, omega, halves[label]) for label, omega in own.items()]


def _refuse_empty_half(study: StudyContext, halves: Mapping[int, np.ndarray]) -> None:
    """Halves are dealt by a hash of the image: of very few images one may be empty."""
    for label, judged in halves.items():
        if judged.all() or not judged.any():
            raise SettingsError(
                f"--images: must leave images on both halves of every class, one that chooses and one that judges, got "
                f"{int((~judged).sum())} and {int(judged.sum())} of class {study.plan.class_names[label]!r}; ask for "
                "more images, or leave it out"
            )


def _effects(study: StudyContext, scope: str, images: ImageColumns) -> ScopeEffects | None:
    if EFFECT not in study.settings.mine.criteria:
        return None
    (own,) = (one for one in read_scopes(study.folder) if one.name == scope)
    return ScopeEffects.of(study.folder, study.settings, study.plan, own, images)


def _limited(study: StudyContext, images: ImageColumns, omega: np.ndarray) -> np.ndarray:
    """At most ``--images`` of them, as many of each predicted class as there are."""
    rows = balanced_rows(images.predicted[omega], study.asked.images, study.settings.seed)
    if len(rows) < len(omega):
        study.say(f"{len(rows):,} of {len(omega):,} images, spread evenly over the classes that they are predicted as")
    return omega[rows]


def _phases(
    study: StudyContext, request: TrustRequest, scope: str, subjects: Sequence[ClassSubject]
) -> tuple[Phase, Phase]:
    """One backward pass, and everything that is taken out."""
    images = np.sort(np.concatenate([one.images for one in subjects]))
    words = sum(layer.words for layer in study.plan.layers)
    network = _network(study)
    behind = sum(network.share_behind(layer.name) for layer in study.plan.layers)
    choices = len(request.tops) * len(study.settings.mine.criteria)
    probes = len(request.interventions) * ((_SELECTIONS + request.draws) * choices + _SINGLE) + _STEPS
    each = study.settings.extract.images_per_shard
    first = Phase(f"first-order {scope}", images, _PASSES, 16 * len(request.interventions) * words * len(subjects))
    return first, Phase(
        f"probes {scope}", images, 1.0 + probes * behind, int(4 * each * probes * len(study.plan.layers))
    )


def _network(study: StudyContext) -> UnitNetwork:
    """In the driver it tells the layers; it looks at no image."""
    plan, settings = study.plan, study.settings
    shape = settings.preprocessing.channels, plan.input_height, plan.input_width
    return UnitNetwork.load(settings.network, plan.weights, shape, plan.rewriting)


def _ask(
    study: StudyContext, request: TrustRequest, subjects: Sequence[ClassSubject], first: Phase, second: Phase
) -> Iterator[ClassFindings]:
    """What the images of a scope say."""
    effects, seed = _first_order(study, request, subjects, first), study.settings.seed
    probes = {one.label: plan_probes(one, effects[one.label], request, seed) for one in subjects}
    found = _probed(study, request, probes, second)
    network = _network(study)
    layers = [network.layer(layer.name) for layer in study.plan.layers]
    for one in subjects:
        rows = np.isin(found.images.numpy(), one.images)
        own = _rows_of(found, rows)
        yield ClassFindings(
            one,
            study.plan.class_names[one.label],
            [layer.name for layer in study.plan.layers],
            [layer.is_cut for layer in layers],
            effects[one.label],
            probes[one.label].drops(own.drops.double().numpy()),
            own,
            seed,
        )


def _first_order(study: StudyContext, request: TrustRequest, subjects: Sequence[ClassSubject], phase: Phase) -> Effects:
    groups = {
        int(image): 2 * place + int(judges)
        for place, one in enumerate(subjects)
        for image, judges in zip(one.images, one.judged, strict=True)
    }
    how = {"scope": subjects[0].scope, "interventions": request.interventions, "groups": groups}
    images, total = study.map_parts(phase, FirstOrderWorker, **how).sum(FirstOrderSums).by_group(2 * len(subjects))
    means = total / images.clamp(min=1)[:, None, None]
    sizes = [layer.words for layer in study.plan.layers]
    return {one.label: list(means[2 * place : 2 * place + 2].split(sizes, dim=2)) for place, one in enumerate(subjects)}


def _probed(
    study: StudyContext, request: TrustRequest, probes: Mapping[int, ClassProbes], phase: Phase
) -> ProbedImages:
    layers = study.plan.layers
    tasks = {
        label: Tasks(
            [one.of_layer(place, layer.words, request.interventions) for place, layer in enumerate(layers)],
            EdgeProbes(one.subject.tested_edges),
        )
        for label, one in probes.items()
    }
    subjects = [one.subject for one in probes.values()]
    judged = frozenset(int(image) for one in subjects for image in one.images[one.judged])
    how = {"scope": subjects[0].scope, "interventions": request.interventions, "tasks": tasks}
    return study.map_parts(phase, ProbingWorker, **how, judged=judged, draws=request.draws).sum(ProbedImages)


def _rows_of(found: ProbedImages, rows: np.ndarray) -> ProbedImages:
    return ProbedImages(**{name: getattr(found, name)[torch.from_numpy(rows)] for name in found.__dataclass_fields__})


def _write(study: StudyContext, request: TrustRequest, found: Sequence[ClassFindings]) -> None:
    scopes = {
        one.subject.scope: [other for other in found if other.subject.scope == one.subject.scope] for one in found
    }
    effects, edges, complete = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for some in scopes.values():
        effects += [row for one in some for row in effect_rows(one, request)] + list(overall_effect_rows(some, request))
        edges += [row for one in some for row in edge_rows(one, request)] + list(overall_edge_rows(some, request))
        complete += _completeness(some)
    study.write_table("effects", effects)
    study.write_table("effect_curves", [row for one in found for row in curve_rows(one, request)])
    study.write_table("edge_effects", edges)
    study.write_table("completeness", complete)
    study.write_table("word_effects", word_effect_rows(found, request))
    for path in (study.folder.table("shortcuts"), *study.own.figures()):
        path.unlink(missing_ok=True)  # of an earlier answer
    study.tell(probes={one.name: len(one.drops) for one in found})
    study.tell(classes=len(found), images_looked_at=sum(len(one.subject.images) for one in found))


def _completeness(found: Sequence[ClassFindings]) -> Iterator[dict[str, Any]]:
    """Of every class of a scope, and of all together."""
    for one in found:
        yield from completeness_rows(one.key(), one.images, one.layers, one.cuts, one.seed)
    first, every = found[0], found[0].images
    for one in found[1:]:
        every = every.merge(one.images)
    yield from completeness_rows({"scope": first.subject.scope}, every, first.layers, first.cuts, first.seed)
