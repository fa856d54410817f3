"""Which units matter to a class: asks the run, writes the tables, draws the heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from gmm_ops.units.relevance import Rule
from workflows.asking.image_parts import Phase
from workflows.asking.run_masks import masks_of_run, masks_place
from workflows.asking.study import Asked, StudyContext, open_study, refuse_without_outputs
from workflows.asking.unit_tables import DetectedUnits, detected_units, why_old
from workflows.data.masks.concept_masks import MaskSet
from workflows.data.masks.mask_sources import OBJECT
from workflows.errors import DataError, SettingsError
from workflows.networks.attribution.gradients import STEPS, Output
from workflows.networks.unit_layers import UnitLayer, UnitNetwork
from workflows.plan.requests import chosen_classes, class_id
from workflows.report.lettering import short_name
from workflows.report.numbers import percent
from workflows.report.relevance_figure import draw_relevance_figure
from workflows.storage.images_table import ImageColumns
from workflows.storage.tables import read_table
from workflows.studies.relevance.rows import (
    StoredRelevance,
    agreement_rows,
    completeness_rows,
    layer_sums,
    relevance_columns,
)
from workflows.studies.relevance.worker import ClassMasks, RelevancePart, RelevanceWorker

RELEVANCE = "relevance"

Split = Literal["train", "validation", "all"]
Normalise = Literal["none", "mask_area"]

_NUMBER = 8
"""Bytes of a sum."""

_PASSES = 3.0
"""Of a step, in forward passes: forward and backward."""


@dataclass(frozen=True)
class RelevanceRequest:
    """What is asked.

    Attributes:
        classes: names or ids, or ``all``.
        split: whose images are looked at.
        steps: of the path from black.
        rule, output: see ``Conductance``.
        masks: ``kind:path``; empty: none.
        mask_of: by class name or id, the concept that shows it.
        normalise: ``mask_area`` divides an image's masked relevance by the area of its mask.
    """

    classes: tuple[str, ...]
    split: Split = "train"
    steps: int = STEPS
    rule: Rule = "trapezoid"
    output: Output = "logit"
    masks: str = ""
    mask_of: Mapping[str, str] | None = None
    normalise: Normalise = "none"

    def __post_init__(self) -> None:
        """Raises SettingsError: a value that is none of those."""
        if not self.classes:
            raise SettingsError("--class: must name a class, or all; got none")
        if self.steps < 1:
            raise SettingsError(f"--steps: must be at least 1, got {self.steps}; 32 leave an error of a few percent")
        choices = {"split": Split, "rule": Rule, "output": Output, "normalise": Normalise}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                wanted = " or ".join(get_args(kind))
                raise SettingsError(f"--{name}: must be {wanted}, got {getattr(self, name)!r}")


def concept_pairs(given: Sequence[str]) -> dict[str, str]:
    """From the command line: ``zebra=object``. Raises SettingsError: not of that form."""
    pairs = [text.rpartition("=") for text in given]
    for text, (name, _, concept) in zip(given, pairs, strict=True):
        if not name.strip() or not concept.strip():
            raise SettingsError(f"--mask-of: must be CLASS=CONCEPT, such as zebra=object, got {text!r}")
    return {name.strip(): concept.strip() for name, _, concept in pairs}


def run_relevance(asked: Asked, request: RelevanceRequest) -> dict[str, Any]:
    """Write the tables relevance, relevance_completeness and relevance_agreement, and figures/relevance.png.

    Returns:
        The summary.

    Raises:
        RunError: as ``open_study``; a class that no image carries, a mask source or a concept that is not there.
    """
    run = asked.run()
    refuse_without_outputs(run.settings, RELEVANCE, "traces what units give to a class")
    source = request.masks or run.settings.data.masks
    masks = masks_of_run(run, source, lambda text: asked.console.print(Text(text), soft_wrap=True)) if source else None
    plain = {
        "classes": sorted(request.classes),
        "split": request.split,
        "steps": request.steps,
        "rule": request.rule,
        "output": request.output,
        "masks": masks_place(run, source) if source else source,
        "mask_of": dict(request.mask_of or {}),
        "normalise": request.normalise,
    }
    reads = () if masks is None else masks.tables
    with open_study(RELEVANCE, asked, plain, after="extract", reads=reads) as study:
        classes, among = _classes(study, request)
        shown = None if masks is None else _class_masks(masks, request, classes, study.plan.class_names)
        images = study.choose_images(_part(request.split), among=among, classes=classes)
        network = _network(study)
        units, layers = sum(layer.units for layer in network.convolutions()), network.convolutions()
        every = [*layers, *network.cut_joins()]
        passes = _PASSES * (request.steps + 1)
        phase = Phase("paths", images, passes=passes, part_bytes=_part_bytes(study, units, len(every), len(classes)))
        if study.begin(phase):
            how = {"steps": request.steps, "rule": request.rule, "output": request.output, "masks": shown}
            part = study.map_parts(phase, RelevanceWorker, **how).sum(RelevancePart)
            means = part.units.by_class(classes)
            study.write_table(
                RELEVANCE, relevance_columns(means, classes, study.plan.class_names, layers, request.split)
            )
            study.write_table("relevance_completeness", completeness_rows(part.completeness, every))
            study.tell(passes_an_image=passes, images_looked_at=len(images), units=units, layers=len(layers))
        names = study.plan.class_names
        _answer(study, network, classes, shown_by(shown, _given(request, names), classes, names))
    return study.summary()


def _part_bytes(study: StudyContext, units: int, layers: int, classes: int) -> int:
    """Of one shard: four sums of every unit for each of its classes, a total of every layer for each of its images."""
    images = study.settings.extract.images_per_shard
    return _NUMBER * (min(classes, images) * (4 * units + 3) + images * (layers + 2))


def _part(split: Split) -> Literal["train", "validation"] | None:
    return None if split == "all" else split


def _classes(study: StudyContext, request: RelevanceRequest) -> tuple[list[int], np.ndarray]:
    """Ids of the classes, and of their images."""
    plan = study.plan
    images = ImageColumns.read(study.folder, 0, plan.images)
    in_split = np.arange(plan.images) >= plan.train_images
    wanted = images.predicted >= 0
    if request.split != "all":
        wanted &= in_split == (request.split == "validation")
    labels = np.where(wanted, images.classes, -1)
    classes, _ = chosen_classes(request.classes, plan.class_names, labels)
    return classes, np.flatnonzero(np.isin(labels, classes))


def _network(study: StudyContext) -> UnitNetwork:
    """In the driver it tells the layers; it looks at no image."""
    plan, settings = study.plan, study.settings
    shape = settings.preprocessing.channels, plan.input_height, plan.input_width
    return UnitNetwork.load(settings.network, plan.weights, shape, plan.rewriting)


def _given(request: RelevanceRequest, names: Sequence[str]) -> dict[int, str]:
    """By class, the concept that is said to show it."""
    return {class_id(name, names, "--mask-of"): concept for name, concept in (request.mask_of or {}).items()}


def _class_masks(masks: MaskSet, request: RelevanceRequest, classes: Sequence[int], names: Sequence[str]) -> ClassMasks:
    """The concept of each class: the one it is given, the one of its name, or the object."""
    given = _given(request, names)
    concepts = {label: _concept(masks, names[label], given.get(label)) for label in classes}
    return ClassMasks(masks, concepts, request.normalise == "mask_area")


def shown_by(
    masks: ClassMasks | None, given: Mapping[int, str], classes: Sequence[int], names: Sequence[str]
) -> dict[int, list[str]]:
    """By class, the concepts that may show it, the best first: with masks only the one whose mask was taken."""
    if masks is not None:
        return {label: [masks.source.concepts[masks.concepts[label]].name] for label in classes}
    return {label: [given[label]] if label in given else _names_of(names[label]) for label in classes}


def _names_of(name: str) -> list[str]:
    """Names of a concept that shows the class of that name."""
    return [name, short_name(name), OBJECT]


def _concept(masks: MaskSet, name: str, given: str | None) -> int:
    if given is not None:
        return masks.number(given)
    for known in _names_of(name):
        if any(concept.name == known for concept in masks.concepts):
            return masks.number(known)
    raise DataError(
        f"--masks: must have a concept called {name!r} or {OBJECT!r}, got neither in {masks.source}; say which "
        f"shows it, such as --mask-of {short_name(name)!r}={masks.concepts[0].name!r}"
    )


def _answer(
    study: StudyContext, network: UnitNetwork, classes: Sequence[int], shown_by: Mapping[int, list[str]]
) -> None:
    """What is made of the tables alone: agreement with dissect, the figure, the terminal."""
    relevance = StoredRelevance.read(study.folder.table(RELEVANCE))
    names = study.plan.class_names
    old = why_old(study.folder, "unit_concepts")
    if old is not None:
        study.say(f"relevance: agreement with dissect is left out, for {old}; ask dissect again, then relevance")
    known = () if old is not None else classes
    detected = {label: _detected(study, network, shown_by[label]) for label in known}
    study.write_table("relevance_agreement", list(agreement_rows(relevance, detected, names)))
    layers = network.convolutions()
    sums = layer_sums(relevance, layers, classes)
    draw_relevance_figure(
        sums,
        [layer.name for layer in layers],
        [names[label] for label in classes],
        study.figure("png"),
        study.figure("svg"),
        network=study.settings.name,
        measure=relevance.measure,
    )
    study.asked.console.print(_table(study, layers, relevance, classes))


def _detected(study: StudyContext, network: UnitNetwork, concepts: Sequence[str]) -> list[DetectedUnits]:
    """What dissect says of the first of the concepts that it knows."""
    found = (detected_units(study.folder, network, concept, None) for concept in concepts)
    return next((units for units in found if units), [])


def _table(
    study: StudyContext, layers: Sequence[UnitLayer], relevance: StoredRelevance, classes: Sequence[int]
) -> Table:
    """Cuts with their completeness, and the best units of the first classes."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("layer", "units", "cut", "error"):
        shown.add_column(name, justify="left" if name == "layer" else "right")
    few = list(classes[:3])
    for label in few:
        shown.add_column(Text(short_name(study.plan.class_names[label])), justify="right")
    errors = {row["layer"]: row for row in read_table(study.folder.table("relevance_completeness")).to_pylist()}
    for layer in layers:
        best = []
        for label in few:
            rows = relevance.rows(label, layer)
            order = rows[np.argsort(-relevance.values[rows], kind="stable")[:3]]
            best.append(" ".join(str(relevance.unit[row]) for row in order))
        error = percent(errors[layer.name]["error_median"]) if layer.is_cut else ""
        shown.add_row(Text(layer.name), str(layer.units), "cut" if layer.is_cut else "", error, *best)
    return shown
