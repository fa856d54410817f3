"""Which concepts do units and words detect? Thresholds, overlaps with masks, unions, names of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmm_ops.units.code_histograms import CODES, CodeHistograms, Thresholds
from workflows.asking.image_parts import Parts, Phase
from workflows.asking.run_masks import masks_of_run, masks_place
from workflows.asking.study import Asked, StudyContext, open_study
from workflows.data.masks.concept_masks import MaskSet
from workflows.errors import DataError
from workflows.plan.run_plan import LayerPlan
from workflows.run import Run, open_run
from workflows.studies.dissect.figures import draw_compared, draw_figures, keep_strongest
from workflows.studies.dissect.image_maps import are_stored, asked_layers
from workflows.studies.dissect.joined_masks import candidates_of, split_images
from workflows.studies.dissect.rows import Overlaps, Row, member_columns, unit_rows, word_rows
from workflows.studies.dissect.union_rows import write_unions
from workflows.studies.dissect.workers import (
    Dictionary,
    DissectSums,
    HistogramWorker,
    Subject,
    TallyWorker,
    UnionWorker,
)
from workflows.words.dictionaries import read_dictionary

DISSECT = "dissect"

SHARES = (0.005, 0.01, 0.02, 0.04)
"""q: the paper's first."""

HISTOGRAM_BYTES = 2 * 2**30
"""Of all histograms in the driver, at most; beyond it, codes are counted in eights."""

_WHOLE_IMAGE = ("scene", "texture")
"""Categories of whole images, which say nothing about places."""

_COARSE = 3
_BIN_BYTES, _COUNT_BYTES = 10, 8


@dataclass(frozen=True)
class DissectRequest:
    """What dissect is asked.

    Attributes:
        masks: ``kind:path``; None: the run's ``data.masks``.
        colours: a table of colour names, see ``MaskSet.with_colours``; None: none.
        layers: names; none: the run's layers that have positions.
        compare: another run, dissected before, whose figures stand beside.
        sheets: concepts to draw a contact sheet of; none: those that are detected best.
    """

    masks: str | None = None
    colours: Path | None = None
    layers: tuple[str, ...] = ()
    compare: Path | None = None
    sheets: tuple[str, ...] = ()


def run_dissect(asked: Asked, request: DissectRequest) -> dict[str, Any]:
    """Write the tables and figures of dissect, and say what was found.

    Asked again it only draws, so that another sheet or run to compare costs little.

    Returns:
        The summary.

    Raises:
        DataError: the masks are missing, damaged, or fit no image of the run. RunFolderError: see ``open_study``.
        SettingsError: no masks are named, or no layer has positions. NetworkError: there is no such layer.
    """
    run = open_run(asked.root)
    masks = _masks(run, request, asked)
    layers = asked_layers(run, request.layers)
    for name in request.sheets:
        masks.number(name)
    told = {
        "masks": masks_place(run, masks.source),
        "colours": None if request.colours is None else str(request.colours.resolve()),
        "layers": [layer.name for layer in layers],
    }
    with open_study(DISSECT, asked, told, reads=masks.tables) as study:
        images = study.choose_images(among=masks.images)
        subject = _subject(study, masks, layers)
        shift = _shift(layers, len(images))
        phases = _phases(study, subject, images, shift)
        if study.begin(*phases):
            _answer(study, subject, phases, shift)
        draw_figures(study, subject, request.sheets)
        if request.compare is not None:
            draw_compared(study, open_run(request.compare))
    return study.summary()


def _masks(run: Run, request: DissectRequest, asked: Asked) -> MaskSet:
    masks = masks_of_run(run, request.masks, lambda text: asked.console.print(text, markup=False, highlight=False))
    masks = masks.without(_WHOLE_IMAGE)
    return masks if request.colours is None else masks.with_colours(request.colours)


def _subject(study: StudyContext, masks: MaskSet, layers: Sequence[LayerPlan]) -> Subject:
    categories = masks.categories
    category = np.array([categories.index(concept.category) for concept in masks.concepts], np.int64)
    dictionaries = _dictionaries(study, layers)
    return Subject(tuple(layers), dictionaries, masks, category)


def _answer(study: StudyContext, subject: Subject, phases: tuple[Phase, Phase, Phase], shift: int) -> None:
    histograms, tally, unions = phases
    parts = study.map_parts(histograms, HistogramWorker, subject=subject, shift=shift)
    thresholds, moments = _thresholds(parts, subject.layers)
    limits = [one.values for one in thresholds]
    found = study.map_parts(tally, TallyWorker, subject=subject, thresholds=limits).sum(DissectSums)
    _refuse_without_pixels(study, subject.masks, found)
    told = _write_tables(study, subject, found, thresholds, moments)
    candidates = [
        candidates_of(counts, found.labels, subject.category, values)
        for counts, values in zip(found.units, limits, strict=True)
    ]
    parts = study.map_parts(unions, UnionWorker, subject=subject, candidates=candidates)
    write_unions(study, subject, parts, candidates)
    absent = list(subject.masks.absent)
    study.tell(images=len(histograms.images), absent=absent, histogram_shift=shift, layers=told)
    keep_strongest(study, subject, found)


def _dictionaries(study: StudyContext, layers: Sequence[LayerPlan]) -> tuple[Dictionary, ...]:
    known = {layer.name for layer in study.plan.layers}
    return tuple(
        Dictionary(scope, layer.name, len(read_dictionary(study.folder, study.settings, study.plan, layer, scope).pi))
        for layer in layers
        if layer.name in known
        for scope in study.run.scopes()
    )


def _shift(layers: Sequence[LayerPlan], images: int) -> int:
    """0 where all codes can be counted singly."""
    needed = sum(layer.units * min(CODES, images * layer.positions) for layer in layers) * _BIN_BYTES
    return _COARSE if needed > HISTOGRAM_BYTES else 0


def _phases(study: StudyContext, subject: Subject, images: np.ndarray, shift: int) -> tuple[Phase, Phase, Phase]:
    concepts = len(subject.category) + 2 * subject.categories
    passes = 0.0 if are_stored(study.plan, study.folder, subject.layers) else 1.0
    per_shard = min(len(images), study.settings.extract.images_per_shard)
    bins = sum(layer.units * min(CODES >> shift, per_shard * layer.positions) for layer in subject.layers)
    masks = sum(layer.units * len(SHARES) for layer in subject.layers) + sum(one.words for one in subject.dictionaries)
    units = {layer.name: layer.units for layer in subject.layers}
    members = sum(one.words * units[one.layer] for one in subject.dictionaries)
    some = np.sort(np.concatenate(split_images(images, study.plan.train_images)))
    return (
        Phase("histograms", images, passes, bins * _BIN_BYTES),
        Phase("tally", images, passes, (masks * concepts + members) * _COUNT_BYTES),
        Phase("unions", some, passes, per_shard * len(subject.category) * 200 * 5 * _COUNT_BYTES),
    )


def _thresholds(
    parts: Parts, layers: Sequence[LayerPlan]
) -> tuple[list[Thresholds], list[tuple[np.ndarray, np.ndarray]]]:
    """Of every layer: thresholds, and mean and standard deviation."""
    totals: list[CodeHistograms | None] = [None] * len(layers)
    for part in parts:
        for number in range(len(layers)):
            one = CodeHistograms.from_arrays(part, f"{number}_")
            before = totals[number]
            totals[number] = one if before is None else before.merge(one)
    whole = [total for total in totals if total is not None]
    return [total.thresholds(SHARES) for total in whole], [total.moments() for total in whole]


def _refuse_without_pixels(study: StudyContext, masks: MaskSet, found: DissectSums) -> None:
    """Categories without an image are told; none at all is refused."""
    bare = [name for name, images in zip(masks.categories, found.labels.images, strict=True) if not images]
    if len(bare) == len(masks.categories):
        raise DataError(
            f"{masks.source}: must mark a pixel of an image of the run, got none in {study.request['images'] or 'all'} "
            "images; ask for more images, or look where the crop cuts"
        )
    if bare:
        study.say(f"categories without a pixel in these images: {', '.join(bare)}; their concepts have IoU 0")


def _write_tables(
    study: StudyContext,
    subject: Subject,
    found: DissectSums,
    thresholds: Sequence[Thresholds],
    moments: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, Any]]:
    concepts, told = subject.masks.concepts, []
    units: list[Row] = []
    unit_concepts: list[Row] = []
    for number, layer in enumerate(subject.layers):
        own = Overlaps(found.units[number], found.labels, concepts, subject.category)
        rows, best = unit_rows(layer.name, own, thresholds[number], moments[number])
        units += rows
        unit_concepts += best
        told.append(_told(layer, "units", [row for row in rows if row["quantile"] == SHARES[0]]))
    study.write_table("units", units)
    study.write_table("unit_concepts", unit_concepts)
    word_concepts: list[Row] = []
    members: dict[str, list[Any]] = {name: [] for name in ("scope", "layer", "word", "unit", "z", "rank")}
    places = {layer.name: number for number, layer in enumerate(subject.layers)}
    for number, one in enumerate(subject.dictionaries):
        own = Overlaps(found.words[number], found.labels, concepts, subject.category)
        rows = word_rows(one, own)
        word_concepts += rows
        told.append(
            _told(subject.layers[places[one.layer]], "words", [row for row in rows if row["rank"] == 0], one.scope)
        )
        for name, values in member_columns(one, found.members[number], moments[places[one.layer]]).items():
            members[name].extend(values)
    study.write_table("word_concepts", word_concepts)
    study.write_table("word_units", members)
    return told


def _told(layer: LayerPlan, masks: str, rows: Iterable[Row], scope: str | None = None) -> dict[str, Any]:
    listed = list(rows)
    best = max(listed, key=lambda row: row["iou"], default=None)
    return {
        "layer": layer.name,
        "masks": masks,
        "scope": scope,
        "detectors": sum(row["detector"] for row in listed),
        "concepts": len({row["concept"] for row in listed if row["detector"]}),
        "best": None if best is None or best["concept"] is None else {k: best[k] for k in ("concept", "iou")},
    }
